"""Before the first step: is the loss about what a network that knows nothing has?

Such a network gives all classes the same probability; its cross-entropy is ln K for K classes. A first loss far from
that is the sign of images that were not normalized, labels that do not fit, or broken initial weights, and shows in
seconds what would else be seen after hours.

Source: Karpathy 2019, "A Recipe for Training Neural Networks" (verify loss at init).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autoseg import compute as computing
from autoseg.compute import Compute
from autoseg.targets import Target
from autoseg.targets.base import Strides
from autoseg.training.sampling import Batch

FAR = 2.0
"""Natural-log units above an undecided network. Random weights scatter: 0.86 to 1.9 in total on hippocampus over seeds
(measured 2026-11), where an undecided network has 0.98; images in the thousands, not normalized, give tens."""


@dataclass(frozen=True, kw_only=True)
class FirstLoss:
    """The loss before the first step.

    Attributes:
        found: of the network as it starts.
        undecided: of one whose outputs are all 0, on the same patches: equal probabilities, no direction.
        num_outputs: K.
        alternatives: whether the outputs are the K alternatives of one question; the cross-entropy part of
            ``undecided`` is then ln K, else ln 2 per yes-or-no question.
    """

    found: float
    undecided: float
    num_outputs: int
    alternatives: bool = True

    @property
    def is_far(self) -> bool:
        """Whether something is likely wrong."""
        return not math.isfinite(self.found) or self.found > self.undecided + FAR

    def text(self) -> str:
        """Word it, with what to do where it is far."""
        between = f"undecided between {self.num_outputs}" if self.alternatives else "of a network without an opinion"
        numbers = f"loss before the first step {self.found:.3f}; {between}: {self.undecided:.3f}"
        if not self.is_far:
            return numbers
        return (
            f"{numbers}. That is far off: look at the intensities after normalization (channel names in dataset.json "
            "decide it), and whether labels and images belong together (autoseg check)"
        )


def first_loss(
    network: nn.Module,
    batch: Batch,
    target: Target,
    strides: Strides,
    output_weights: Sequence[float],
    compute: Compute,
) -> FirstLoss:
    """Compare the loss of a network with that of one that knows nothing; neither weights nor random numbers change.

    Args:
        network: as it starts.
        batch: the first.
        target: gives the loss.
        strides, output_weights: of the outputs.
        compute: device and precision.
    """
    maps, weights = batch.encoded or target.encode(batch.label, strides)
    network.train()
    with torch.inference_mode(), computing.autocast(compute):
        outputs: list[Tensor] = list(network(computing.place(batch.image, compute)))
    with torch.inference_mode():
        found = target.loss(outputs, maps, weights, output_weights, batch.annotated)
        nothing = [torch.zeros_like(output) for output in outputs]
        undecided = target.loss(nothing, maps, weights, output_weights, batch.annotated)
    return FirstLoss(
        found=float(found),
        undecided=float(undecided),
        num_outputs=outputs[0].shape[1],
        alternatives=target.relative or not target.finds_objects,
    )
