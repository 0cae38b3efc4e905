"""What every target must say: how labels become training maps, what the loss is, and how outputs become labels."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from planners.labels import Labels
from planners.plan import Target as TargetRecord
from planners.plan import Training

Strides = Sequence[tuple[int, ...]]
"""Per output of the network: its stride against the patch, per axis."""


class Target(ABC):
    """What the network is asked for. A target is data plus functions; it has no state that training changes.

    Class attributes:
        name: as in ``TARGETS`` and in the plan.
        criterion: the number that ``Choice`` maximises.
        margin: voxels of context that encoding and decoding need around a voxel.
        pointwise: whether each voxel decodes alone, so that decoding may go slab by slab on any grid.

    Tensors of a 2D configuration have no z.
    """

    name: ClassVar[str]
    criterion: ClassVar[str]
    margin: ClassVar[int] = 0
    pointwise: ClassVar[bool] = True

    def __init__(self, record: TargetRecord, labels: Labels, training: Training) -> None:
        """Bind the target to a plan's record, labels and training settings (loss, Dice over the batch or not)."""
        self.record, self.labels, self.training = record, labels, training

    @staticmethod
    @abstractmethod
    def num_outputs(labels: Labels, options: Mapping[str, Any]) -> int:
        """Count the channels K of the network's output."""

    @abstractmethod
    def encode(self, label_BLZYX: Tensor, strides: Strides) -> tuple[list[Tensor], list[Tensor | None]]:
        """Turn augmented label layers into a map and a weight for every output of the network.

        Args:
            label_BLZYX: integers; layer 0 holds class indices (−1 outside the nonzero mask counts as background).
            strides: of the outputs, full resolution first.

        Returns:
            Maps, and weights (None where every voxel counts).
        """

    @abstractmethod
    def loss(
        self,
        outputs: Sequence[Tensor],
        maps: Sequence[Tensor],
        weights: Sequence[Tensor | None],
        output_weights: Sequence[float],
    ) -> Tensor:
        """Add up the losses of all outputs; a scalar in float32. Weight 0 gives no gradient.

        Args:
            outputs: logits per output, B × K × space, any floating type.
            maps, weights: as from ``encode``.
            output_weights: share of each output; those of 0 are not computed.
        """

    @abstractmethod
    def counts(self, logits_BKZYX: Tensor, label_BLZYX: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Count what the epoch's score needs, per foreground class: true positive, false positive, false negative."""

    @abstractmethod
    def score(self, tp: Tensor, fp: Tensor, fn: Tensor) -> list[float | None]:
        """Turn summed counts into a number per foreground class, None where it is absent."""

    @abstractmethod
    def flip(self, maps: Tensor, axes: tuple[int, ...]) -> Tensor:
        """Mirror maps of one sample (K, then space) along spatial axes, as encoding a mirrored label would."""

    @abstractmethod
    def decode(self, logits_KZYX: np.ndarray) -> np.ndarray:
        """Turn logits into inner class indices z, y, x, in the smallest unsigned integer type."""

    @abstractmethod
    def probabilities(self, logits_KZYX: np.ndarray) -> np.ndarray:
        """Turn logits into probabilities of the same shape, float32."""

    @abstractmethod
    def decode_probabilities(self, probabilities_KZYX: np.ndarray) -> np.ndarray:
        """Turn (averaged) probabilities into inner class indices, as ``decode`` does."""

    @abstractmethod
    def background_probabilities(self, num_outputs: int) -> list[float]:
        """Give the probabilities outside the cropped part of an image, one per output channel."""
