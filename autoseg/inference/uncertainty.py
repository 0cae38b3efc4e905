"""Maps of uncertainty on the image's own grid: where the networks are undecided, and where they disagree.

*Entropy*: how undecided the probabilities are that the segmentation was decoded from. *Disagreement*: how much of that
comes from the networks (folds, configurations) saying different things, each sure of its own: the entropy of their mean
minus the mean of their entropies (mutual information). A border that every fold finds blurred has high entropy and low
disagreement; a structure that some folds see and others do not has both. Where the networks feed a cascade, they differ
in the last stage alone: all see the same previous segmentation.

Both are divided by their largest possible value and stored as one byte per voxel, 0 to 255: 255 means 1. So they take
any format that a segmentation takes, and compress to little. Outside the crop box of an image both are 0.

Source: Gal, Islam, Ghahramani 2017, "Deep Bayesian active learning with image data" (BALD); Lakshminarayanan, Pritzel,
Blundell 2017 (ensembles of networks).
"""

from collections.abc import Sequence

import numpy as np

from autoseg.errors import OptionError
from autoseg.inference.export import LogitsPart, Slab
from autoseg.preprocessing.preprocess import shape_as_read
from autoseg.preprocessing.resampling import LogitsResampler
from autoseg.targets import Target

SCALE = 255
"""What stands in a map for 1."""


def check_pointwise(target: Target) -> None:
    """Refuse a target that has no probability per voxel.

    Raises:
        OptionError: it has none.
    """
    if not target.pointwise:
        raise OptionError(
            f"target {target.name} has no probability per voxel, so no uncertainty. Leave --uncertainty out"
        )


class UncertaintyWatcher:
    """Fills the maps of one case, slab by slab; may be shown slabs from several threads.

    Attributes:
        entropy: uint8 z, y, x on the image's grid as read.
        disagreement: the same; None where a single network has segmented the image.
    """

    def __init__(self, parts: Sequence[LogitsPart], target: Target, axis_order: Sequence[int]) -> None:
        """Begin a case.

        Args:
            parts: what the segmentation is decoded from, with what every network says alone.
            target: decodes.
            axis_order: the plan's.

        Raises:
            OptionError: the target has no probability per voxel.
        """
        check_pointwise(target)
        grid = parts[0].grid
        self.target = target
        self.entropy = np.zeros(shape_as_read(grid, axis_order), dtype=np.uint8)
        total = sum(part.weight for part in parts)
        self._single = [
            (part.weight / total / len(part.alone_KZYX), _on_image(part, logits))
            for part in parts
            for logits in part.alone_KZYX
        ]
        self.disagreement = np.zeros_like(self.entropy) if len(self._single) > 1 else None

    def __call__(self, slab: Slab) -> None:
        """Fill a slab."""
        slab.look_at(self.entropy)[...] = _to_byte(self.target.entropy(slab.probabilities_KZYX))
        if self.disagreement is not None:
            slab.look_at(self.disagreement)[...] = _to_byte(self._disagree(slab.start, slab.stop))

    def _disagree(self, start: int, stop: int) -> np.ndarray:
        """Give the mutual information of voxel and network in some slices, 0 to 1."""
        mean_KZYX, entropy_ZYX = np.zeros(()), np.zeros(())
        for weight, logits in self._single:
            probabilities = self.target.probabilities(logits.slab(start, stop))
            entropy_ZYX = entropy_ZYX + np.float32(weight) * self.target.entropy(probabilities)
            probabilities *= np.float32(weight)
            mean_KZYX = mean_KZYX + probabilities
        return np.maximum(self.target.entropy(mean_KZYX) - entropy_ZYX, 0)


class _HalfLogits:
    """Logits kept as float16, given as float32 some slices at a time."""

    def __init__(self, logits_KZYX: np.ndarray) -> None:
        self.logits, self.shape = logits_KZYX, logits_KZYX.shape

    def __len__(self) -> int:
        return len(self.logits)

    def rows(self, start: int, stop: int) -> np.ndarray:
        return self.logits[:, start:stop].astype(np.float32)


def _on_image(part: LogitsPart, logits_KZYX: np.ndarray) -> LogitsResampler:
    grid = part.grid
    shape, spacing_mm = grid.shape_after_crop, grid.spacing_before_mm
    return LogitsResampler(_HalfLogits(logits_KZYX), shape, grid.spacing_mm, spacing_mm, part.resampling)


def _to_byte(values: np.ndarray) -> np.ndarray:
    return np.rint(values * np.float32(SCALE)).astype(np.uint8)
