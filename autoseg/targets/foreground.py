"""The foreground target: the classes alone; objects are the components. It joins what touches: the baseline."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from autoseg.targets.base import Strides, mirror, softmax, softmax_entropy
from autoseg.targets.decode_watershed import WatershedOptions, decode_components
from autoseg.targets.instance_target import FOREGROUNDS, SMALLEST, InstanceTarget, decode_options
from autoseg.targets.object_maps import OpenSides
from autoseg.targets.semantic import SemanticTarget
from planners.labels import Labels
from planners.plan import Target as TargetRecord
from planners.plan import Training


class ForegroundTarget(InstanceTarget):
    """Softmax over the classes, as ``semantic``; what is connected and of one class is one object.

    It reads no ids.
    """

    name = "foreground"
    relative = True
    options: WatershedOptions

    def __init__(self, record: TargetRecord, labels: Labels, training: Training) -> None:
        """Bind to a plan's record; ``PlanError`` where an option is unknown or impossible."""
        super().__init__(record, labels, training)
        self.options = decode_options(WatershedOptions, record)
        self.semantic = SemanticTarget(record, labels, training)

    @staticmethod
    def num_outputs(labels: Labels, options: Mapping[str, Any]) -> int:
        """Count the classes, background included."""
        return SemanticTarget.num_outputs(labels, options)

    def encode(self, label_BLZYX: Tensor, strides: Strides) -> tuple[list[Tensor], list[Tensor | None]]:
        """Pick the class in the middle of each stride's cell; ignored voxels weigh nothing."""
        return self.semantic.encode(label_BLZYX, strides)

    def loss(
        self,
        outputs: Sequence[Tensor],
        maps: Sequence[Tensor],
        weights: Sequence[Tensor | None],
        output_weights: Sequence[float],
        annotated: Tensor | None = None,
    ) -> Tensor:
        """Add up the plan's loss over the outputs."""
        return self.semantic.loss(outputs, maps, weights, output_weights, annotated)

    def counts(
        self, logits_BKZYX: Tensor, label_BLZYX: Tensor, annotated: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Count voxels of hard predictions over the whole batch, float64 per foreground class."""
        return self.semantic.counts(logits_BKZYX, label_BLZYX, annotated)

    def flip(self, maps: Tensor, axes: tuple[int, ...]) -> Tensor:
        """Mirror along spatial axes; classes of a left and a right side change places."""
        return mirror(maps, axes, self.swaps(), self.training.mirror_swap_axis)

    def probabilities(self, logits_KZYX: np.ndarray) -> np.ndarray:
        """Softmax over the classes."""
        return softmax(logits_KZYX)

    def decode_objects(self, probabilities: np.ndarray, open_sides: OpenSides | None) -> np.ndarray:
        """Call every component of a class an object; of several classes the most probable counts."""
        values = self.class_probabilities(probabilities)
        if len(values) == 1:
            return decode_components(values[0], self.options, open_sides)
        best = values.argmax(axis=0)
        ids = np.zeros(best.shape, dtype=np.int32)
        for index, value in enumerate(values):
            some = decode_components(np.where(best == index, value, 0), self.options, open_sides)
            ids = np.where(some > 0, some + ids.max(initial=0), ids).astype(np.int32, copy=False)
        return ids

    def class_probabilities(self, probabilities: np.ndarray) -> np.ndarray:
        """Give the probability of each class."""
        return probabilities[list(self.instance_classes)]

    def decode_choices(self) -> dict[str, tuple[Any, ...]]:
        """Offer how sure a voxel must be, and how small objects may be."""
        return self.other_values(self.options, {"foreground": FOREGROUNDS, "smallest": SMALLEST})

    def foreground_probability(self, probabilities: np.ndarray) -> np.ndarray:
        """Add the classes of instances."""
        return np.minimum(self.class_probabilities(probabilities).sum(axis=0), 1)

    def background_probabilities(self, num_outputs: int) -> list[float]:
        """Background is certain."""
        return [1.0] + [0.0] * (num_outputs - 1)

    def entropy(self, probabilities_KZYX: np.ndarray) -> np.ndarray:
        """Shannon's entropy over the classes, divided by its largest value."""
        return softmax_entropy(probabilities_KZYX)
