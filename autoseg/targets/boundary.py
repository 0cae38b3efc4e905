"""The boundary target: inner part and boundary of every object, decoded by a watershed from seeds."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autoseg.extensions import find
from autoseg.targets.base import Strides, mirror, softmax, softmax_entropy, sum_over_outputs
from autoseg.targets.decode_watershed import WatershedOptions, decode_boundary
from autoseg.targets.instance_encoding import BOUNDARY, encode_boundary
from autoseg.targets.instance_target import (
    FOREGROUNDS,
    SMALLEST,
    InstanceTarget,
    at_strides,
    decode_options,
)
from autoseg.targets.losses import LOSSES
from autoseg.targets.object_maps import OpenSides
from planners.labels import Labels
from planners.plan import Target as TargetRecord
from planners.plan import Training

WEIGHT = 2.0  # of a boundary voxel in the loss, where the plan names none: they are few and decide; assumption


class BoundaryTarget(InstanceTarget):
    """Softmax over background, the inner part of each class, and the boundary of all objects together (last).

    The plan's options beside those of ``InstanceTarget``:
        width: of the boundary on each side, in voxels of the finest axis; see ``instance_encoding.boundary_width``.
        weight: of a boundary voxel in the loss.
        dense: the tissue has hardly any background: boundary counts as background, and decoding fills every voxel.
    """

    name = "boundary"
    relative = True
    options: WatershedOptions
    known_options = ("width", "weight", "dense")

    def __init__(self, record: TargetRecord, labels: Labels, training: Training) -> None:
        """Bind to a plan's record; ``PlanError`` where an option is unknown or impossible."""
        super().__init__(record, labels, training)
        self.dense = bool(record.options.get("dense", False))
        self.width = float(record.options.get("width", 1))
        self.weight = float(record.options.get("weight", WEIGHT))
        self.options = decode_options(WatershedOptions, record)
        if self.dense and "foreground" not in record.options.get("decode", {}):
            self.options = WatershedOptions(**{**record.options.get("decode", {}), "foreground": 0.0})

    @staticmethod
    def num_outputs(labels: Labels, options: Mapping[str, Any]) -> int:
        """Count the classes, background included, and the boundary, which the dense form has not."""
        return labels.num_classes + (not options.get("dense", False))

    def encode(self, label_BLZYX: Tensor, strides: Strides) -> tuple[list[Tensor], list[Tensor | None]]:
        """Make maps of indices, int64: background 0, inner parts by class, boundary last (dense: 0).

        Classes without instances have no boundary. Weights are float32: 0 where ignored, larger on boundary.
        """
        layers = self.layers(label_BLZYX)
        is_boundary = np.stack([encode_boundary(ids, self.width, self.spacing) == BOUNDARY for ids in layers.ids])
        maps = np.where(is_boundary, 0 if self.dense else self.labels.num_classes, layers.classes)
        device = label_BLZYX.device
        if self.weight == 1 and layers.annotated is None:
            return at_strides(maps, strides, device), [None] * len(strides)
        weights = np.where(is_boundary, np.float32(self.weight), np.float32(1))
        if layers.annotated is not None:
            weights *= layers.annotated
        return at_strides(maps, strides, device), list(at_strides(weights, strides, device))

    def loss(
        self,
        outputs: Sequence[Tensor],
        maps: Sequence[Tensor],
        weights: Sequence[Tensor | None],
        output_weights: Sequence[float],
        annotated: Tensor | None = None,
    ) -> Tensor:
        """Add up the plan's loss over the outputs, each voxel by its weight."""
        function = find(LOSSES, "loss", self.training.loss)
        known = annotated
        if annotated is not None and not self.dense:
            known = torch.cat([annotated, annotated[:, list(self.instance_classes)].all(1, keepdim=True)], dim=1)

        def of_output(output: Tensor, wanted: Tensor, weight: Tensor | None) -> Tensor:
            return function(output, wanted, weight, known, self.training.batch_dice)

        return sum_over_outputs(of_output, outputs, maps, weights, output_weights)

    def counts(
        self, logits_BKZYX: Tensor, label_BLZYX: Tensor, annotated: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Count voxels of inner parts over the whole batch, float64 per foreground class."""
        (wanted,), (weight,) = self.encode(label_BLZYX, [(1,) * (logits_BKZYX.dim() - 2)])
        return self.counts_of_encoded(logits_BKZYX, label_BLZYX, wanted, weight, annotated)

    def counts_of_encoded(
        self,
        logits_BKZYX: Tensor,
        label_BLZYX: Tensor,
        wanted: Tensor,
        weight: Tensor | None,
        annotated: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Count voxels of inner parts, which the encoded label tells."""
        guess = logits_BKZYX.argmax(1)
        counted = torch.ones(wanted.shape, dtype=torch.bool, device=wanted.device) if weight is None else weight > 0
        rows = []
        for index in range(1, self.labels.num_classes):
            here = counted if annotated is None else counted & annotated[:, index].view(-1, *(1,) * (counted.dim() - 1))
            truth, found = (wanted == index) & here, (guess == index) & here
            both = (truth & found).sum()
            rows.append(torch.stack([both, found.sum() - both, truth.sum() - both]).double())
        tp, fp, fn = torch.stack(rows, dim=1)
        return tp, fp, fn

    def flip(self, maps: Tensor, axes: tuple[int, ...]) -> Tensor:
        """Mirror along spatial axes; classes of a left and a right side change places."""
        return mirror(maps, axes, self.swaps(), self.training.mirror_swap_axis)

    def probabilities(self, logits_KZYX: np.ndarray) -> np.ndarray:
        """Softmax over the outputs."""
        return softmax(logits_KZYX)

    def decode_objects(self, probabilities: np.ndarray, open_sides: OpenSides | None) -> np.ndarray:
        """Grow the seeds of the inner parts over what is foreground."""
        inner = self.class_probabilities(probabilities).sum(axis=0)
        boundary = 1 - inner if self.dense else probabilities[-1]
        return decode_boundary(inner, boundary, self.options, self.spacing, open_sides)

    def class_probabilities(self, probabilities: np.ndarray) -> np.ndarray:
        """Give the probability of each class's inner part."""
        return probabilities[list(self.instance_classes)]

    def decode_choices(self) -> dict[str, tuple[Any, ...]]:
        """Offer where seeds begin, how far objects reach, and how small they may be; dense tissue is all object."""
        offered = {"seed": (-0.3, 0.0, 0.3, 0.6), "foreground": FOREGROUNDS, "smallest": SMALLEST}
        if self.options.foreground <= 0:
            del offered["foreground"]
        return self.other_values(self.options, offered)

    def foreground_probability(self, probabilities: np.ndarray) -> np.ndarray:
        """Add inner parts and boundary; the dense form cannot tell its boundary from background."""
        inner: np.ndarray = self.class_probabilities(probabilities).sum(axis=0)
        return inner if self.dense else np.minimum(inner + probabilities[-1], 1)

    def background_probabilities(self, num_outputs: int) -> list[float]:
        """Background is certain."""
        return [1.0] + [0.0] * (num_outputs - 1)

    def structure_outputs(self) -> tuple[tuple[int, ...], ...]:
        """A class has its inner part; where it is the only one with instances, the boundary too."""
        if self.dense or len(self.instance_classes) > 1:
            return super().structure_outputs()
        boundary = self.labels.num_classes
        return tuple(
            (*outputs, boundary) if self.instance_classes[0] in outputs else outputs
            for outputs in super().structure_outputs()
        )

    def entropy(self, probabilities_KZYX: np.ndarray) -> np.ndarray:
        """Shannon's entropy over the outputs, divided by its largest value."""
        return softmax_entropy(probabilities_KZYX)
