"""What networks say of one case before it is decoded, and the average of several."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from autoseg.preprocessing.preprocess import CaseGrid
from autoseg.preprocessing.resampling import LogitsResampler, SlicesOnDemand
from planners.plan import Resampling


@dataclass(frozen=True, kw_only=True)
class LogitsPart:
    """What the networks of one configuration say of one case.

    Attributes:
        logits_KZYX: float32, on ``grid.shape``, in the plan's axis order; in memory, or slices on demand.
        grid: where they lie in the image.
        resampling: of the configuration.
        weight: of its probabilities in an average with others; only the ratio to theirs counts.
        alone_KZYX: float16, what each of the networks says alone; empty where nobody has asked.
    """

    logits_KZYX: np.ndarray | SlicesOnDemand
    grid: CaseGrid
    resampling: Resampling
    weight: float = 1.0
    alone_KZYX: tuple[np.ndarray, ...] = ()

    def onto(self, shape: Sequence[int], spacing_mm: Sequence[float]) -> LogitsResampler:
        """Look at the logits on another grid over the same extent."""
        return LogitsResampler(self.logits_KZYX, shape, self.grid.spacing_mm, spacing_mm, self.resampling)


def average(maps: Iterable[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """Average maps by weights, which need not add up to 1; the first map's memory becomes the result."""
    total: np.ndarray | None = None
    for item, weight in zip(maps, weights, strict=True):
        # Equal weights are left out of the sum: then it is the plain mean to the last bit.
        item = item if weight == weights[0] else np.multiply(item, np.float32(weight / weights[0]), out=item)
        total = item if total is None else np.add(total, item, out=total)
    assert total is not None
    total /= np.float32(sum(weights) / weights[0])
    return total
