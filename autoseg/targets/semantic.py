"""The semantic target: every voxel has one class."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autoseg.evaluation.overlap import structures_of
from autoseg.extensions import find
from autoseg.targets.base import Strides, Target, mirror, pick_classes, softmax, softmax_entropy, sum_over_outputs
from autoseg.targets.losses import LOSSES
from planners.labels import Labels


class SemanticTarget(Target):
    """One logit per class, background included; softmax; the largest wins."""

    name = "semantic"
    criterion = "dice"
    relative = True
    takes_largest = True

    @property
    def is_unanimous(self) -> bool:
        """Where a class is the most probable one in every map, it is so in their average."""
        return True

    @staticmethod
    def num_outputs(labels: Labels, options: Mapping[str, Any]) -> int:
        """Count the classes, background included, the ignore label not."""
        return labels.num_classes

    def encode(self, label_BLZYX: Tensor, strides: Strides) -> tuple[list[Tensor], list[Tensor | None]]:
        """Pick the class in the middle of each stride's cell; ignored voxels weigh nothing."""
        picked = pick_classes(label_BLZYX, strides, self.labels.ignore_index)
        return [classes for classes, _ in picked], [annotated for _, annotated in picked]

    def loss(
        self,
        outputs: Sequence[Tensor],
        maps: Sequence[Tensor],
        weights: Sequence[Tensor | None],
        output_weights: Sequence[float],
        annotated: Tensor | None = None,
    ) -> Tensor:
        """Add up the plan's loss over the outputs."""
        function = find(LOSSES, "loss", self.training.loss)

        def of_output(output: Tensor, classes: Tensor, voxels: Tensor | None) -> Tensor:
            return function(output, classes, voxels, annotated, self.training.batch_dice)

        return sum_over_outputs(of_output, outputs, maps, weights, output_weights)

    def counts(
        self, logits_BKZYX: Tensor, label_BLZYX: Tensor, annotated: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Count voxels of hard predictions over the whole batch, float64 per foreground class."""
        (classes,), (voxels,) = self.encode(label_BLZYX, [(1,) * (logits_BKZYX.dim() - 2)])
        num_samples, size = logits_BKZYX.shape[:2]
        pairs = classes * size + logits_BKZYX.argmax(1)
        if annotated is not None:  # a table per sample, since other classes count in each
            pairs += torch.arange(num_samples, device=pairs.device).view(-1, *(1,) * (pairs.dim() - 1)) * size * size
        if voxels is not None:
            pairs = pairs[voxels]
        tables = 1 if annotated is None else num_samples
        table = torch.bincount(pairs.flatten(), minlength=tables * size * size).view(tables, size, size).double()
        tp = table.diagonal(dim1=1, dim2=2)
        weight = 1 if annotated is None else annotated.to(tp)
        found = (tp * weight, (table.sum(1) - tp) * weight, (table.sum(2) - tp) * weight)
        return found[0].sum(0)[1:], found[1].sum(0)[1:], found[2].sum(0)[1:]

    def flip(self, maps: Tensor, axes: tuple[int, ...]) -> Tensor:
        """Mirror along spatial axes; classes of a left and a right side change places."""
        return mirror(maps, axes, self.training.mirror_swaps, self.training.mirror_swap_axis)

    def decode(self, logits_KZYX: np.ndarray) -> np.ndarray:
        """Take the class with the largest logit; of equals the first."""
        return _largest(logits_KZYX)

    def probabilities(self, logits_KZYX: np.ndarray) -> np.ndarray:
        """Softmax over the classes."""
        return softmax(logits_KZYX)

    def decode_probabilities(self, probabilities_KZYX: np.ndarray) -> np.ndarray:
        """Take the most probable class; of equals the first."""
        return _largest(probabilities_KZYX)

    def background_probabilities(self, num_outputs: int) -> list[float]:
        """Background is certain."""
        return [1.0] + [0.0] * (num_outputs - 1)

    def structure_outputs(self) -> tuple[tuple[int, ...], ...]:
        """A class has its own output; a region those of its classes."""
        return tuple(item.classes for item in structures_of(self.labels))

    def entropy(self, probabilities_KZYX: np.ndarray) -> np.ndarray:
        """Shannon's entropy over the classes, divided by its largest value ln K."""
        return softmax_entropy(probabilities_KZYX)


def _largest(values_KZYX: np.ndarray) -> np.ndarray:
    """Find the index of the largest along the first axis, one channel at a time: no int64 map, memory read once."""
    best = values_KZYX[0].copy()
    index = np.zeros(best.shape, dtype=np.min_scalar_type(len(values_KZYX)))
    for channel in range(1, len(values_KZYX)):
        larger = values_KZYX[channel] > best
        # Channels rise, so the largest index that ever won is the last; a product is 4 to 7 times faster than a mask.
        np.maximum(index, larger * index.dtype.type(channel), out=index)
        np.maximum(best, values_KZYX[channel], out=best)
    return index
