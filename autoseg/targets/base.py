"""What every target must say: how labels become training maps, what the loss is, and how outputs become labels."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from planners.labels import Labels
from planners.plan import Target as TargetRecord
from planners.plan import Training

LEAST_PROBABILITY = 1e-30  # p · ln p is 0 below, and float32 still holds it
Strides = Sequence[tuple[int, ...]]
"""Per output of the network: its stride against the patch, per axis."""


def sum_over_outputs(
    loss: Callable[[Tensor, Tensor, Tensor | None], Tensor],
    outputs: Sequence[Tensor],
    maps: Sequence[Tensor],
    weights: Sequence[Tensor | None],
    output_weights: Sequence[float],
) -> Tensor:
    """Add up a loss of (logits, map, weight) over the outputs by their shares; those of share 0 are not computed."""
    total = torch.zeros((), device=outputs[0].device)
    for output, wanted, weight, share in zip(outputs, maps, weights, output_weights, strict=False):
        if share:
            total = total + share * loss(output, wanted, weight)
    return total


class Target(ABC):
    """What the network is asked for. A target is data plus functions; it has no state that training changes.

    Class attributes:
        name: as in ``TARGETS`` and in the plan.
        criterion: the number that ``Choice`` maximises.
        margin: voxels of context that encoding and decoding need around a voxel; a plan's options may set it.
        pointwise: whether each voxel decodes alone, so that decoding may go slab by slab on any grid.
        relative: whether adding one number to all logits of a voxel changes nothing.
        finds_objects: whether decoding gives ids of objects instead of classes (then it is an ``InstanceTarget``).
        takes_largest: whether ``decode`` gives the number of the largest map, of equals the first.

    Tensors of a 2D configuration have no z.
    """

    name: ClassVar[str]
    criterion: ClassVar[str]
    margin: int = 0
    pointwise: ClassVar[bool] = True
    relative: ClassVar[bool] = False
    finds_objects: ClassVar[bool] = False
    takes_largest: ClassVar[bool] = False

    def __init__(self, record: TargetRecord, labels: Labels, training: Training) -> None:
        """Bind the target to a plan's record, labels and training settings (loss, Dice over the batch or not)."""
        self.record, self.labels, self.training = record, labels, training

    @property
    def is_unanimous(self) -> bool:
        """Tell whether, where maps decode alike in a voxel, any weighted average of their probabilities does so too."""
        return False

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
        annotated: Tensor | None = None,
    ) -> Tensor:
        """Add up the losses of all outputs; a scalar in float32. Weight 0 gives no gradient.

        Args:
            outputs: logits per output, B × K × space, any floating type.
            maps, weights: as from ``encode``.
            output_weights: share of each output; those of 0 are not computed.
            annotated: bool, B × classes: False where a sample's case has not been annotated for that class, which may
                then hide in its background; None where all are. What is not annotated gets no gradient of its own.
        """

    @abstractmethod
    def counts(
        self, logits_BKZYX: Tensor, label_BLZYX: Tensor, annotated: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Count what the epoch's score needs, per foreground class or region: true positive, false positive, negative.

        ``annotated`` is as of ``loss``; a sample counts nothing for what its case has not been annotated for.
        """

    def counts_of_encoded(
        self,
        logits_BKZYX: Tensor,
        label_BLZYX: Tensor,
        wanted: Tensor,
        weight: Tensor | None,
        annotated: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Count as ``counts`` does, where the label is encoded already; most targets count from the label alone.

        Args:
            logits_BKZYX: of full resolution.
            label_BLZYX: as of ``encode``.
            wanted, weight: what ``encode`` has made of it at full resolution.
            annotated: as of ``loss``.
        """
        return self.counts(logits_BKZYX, label_BLZYX, annotated)

    def score(self, tp: Tensor, fp: Tensor, fn: Tensor) -> list[float | None]:
        """Turn summed counts into the Dice per foreground class or region, None where it is absent."""
        rows = zip(tp.tolist(), fp.tolist(), fn.tolist(), strict=True)
        return [2 * t / (2 * t + p + n) if t + p + n else None for t, p, n in rows]

    @abstractmethod
    def flip(self, maps: Tensor, axes: tuple[int, ...]) -> Tensor:
        """Mirror output maps of one sample (K, then space) along spatial axes, as encoding a mirrored label would.

        Along the plan's ``mirror_swap_axis`` left and right change places too: their channels are exchanged.
        """

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

    @abstractmethod
    def structure_outputs(self) -> tuple[tuple[int, ...], ...]:
        """Tell, per structure that is scored, the outputs whose probabilities add up to its probability."""

    @abstractmethod
    def entropy(self, probabilities_KZYX: np.ndarray) -> np.ndarray:
        """Give how undecided probabilities are, float32 (z, y, x): 0 where certain, 1 where all is equally likely."""


def pick_classes(label_BLZYX: Tensor, strides: Strides, ignore_index: int | None) -> list[tuple[Tensor, Tensor | None]]:
    """Pick the class in the middle of each stride's cell (nearest, as nnU-Net).

    Args:
        label_BLZYX: as of ``Target.encode``.
        strides: of the outputs.
        ignore_index: of the labels; None where there is no ignore label.

    Returns:
        Per stride: classes B × space, int64, 0 where a voxel is ignored; and which voxels are annotated (None: all).
    """
    classes = label_BLZYX[:, 0].to(torch.int64).clamp(min=0)
    picked: list[tuple[Tensor, Tensor | None]] = []
    for stride in strides:
        cells = (slice(None), *(slice(step // 2, None, step) for step in stride))
        small = classes[cells].contiguous()
        if ignore_index is None:
            picked.append((small, None))
            continue
        annotated = small != ignore_index
        picked.append((small * annotated, annotated))
    return picked


def mirror(maps: Tensor, axes: tuple[int, ...], pairs: Sequence[tuple[int, int]], swap_axis: int | None) -> Tensor:
    """Mirror maps (K, then space) along spatial axes and, where ``swap_axis`` is among them, exchange channels."""
    if not axes:
        return maps
    flipped = maps.flip([axis + 1 for axis in axes])
    if swap_axis not in axes or not pairs:
        return flipped
    return flipped[exchange(len(maps), pairs)]


def exchange(count: int, pairs: Sequence[tuple[int, int]]) -> list[int]:
    """Give the order of ``count`` things in which the two of each pair have changed places."""
    order = list(range(count))
    for first, second in pairs:
        order[first], order[second] = second, first
    return order


def softmax(values: np.ndarray) -> np.ndarray:
    """Turn logits along the first axis into probabilities, float32."""
    shifted = np.exp(values - values.max(axis=0), dtype=np.float32)
    result: np.ndarray = shifted / shifted.sum(axis=0)
    return result


def softmax_entropy(probabilities: np.ndarray) -> np.ndarray:
    """Give Shannon's entropy over the first axis, divided by its largest value."""
    total = np.zeros(probabilities.shape[1:], dtype=np.float32)
    for probability in probabilities:
        total -= probability * np.log(np.maximum(probability, np.float32(LEAST_PROBABILITY)))
    total /= np.float32(np.log(len(probabilities)))
    return np.clip(total, 0, 1, out=total)
