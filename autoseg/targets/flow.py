"""The flow target: in every voxel the direction to its object's centre, decoded by following it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autoseg.targets.base import Strides, mirror, sum_over_outputs
from autoseg.targets.decode_flow import FlowOptions, decode_flow
from autoseg.targets.flow_encoding import encode_flows
from autoseg.targets.instance_target import (
    FOREGROUNDS,
    SMALLEST,
    at_strides,
    decode_options,
    dimensions_of,
    sigmoid,
)
from autoseg.targets.object_maps import OpenSides
from autoseg.targets.vector_target import VectorTarget
from planners.labels import Labels
from planners.plan import Target as TargetRecord
from planners.plan import Training

SCALE = 5.0  # the network's output for a vector of length 1; Stringer et al. 2021


class FlowTarget(VectorTarget):
    """One channel per axis, in the order of the axes: five times the unit vector; then one logit per foreground class.

    The loss is half the mean squared error of the vectors, plus the plan's loss in its binary form on the classes
    (Cellpose's own is ``cross-entropy``). In a sample where a class of instances was not annotated, vectors count in
    objects only: its background may hide others.
    """

    name = "flow"
    options: FlowOptions

    def __init__(self, record: TargetRecord, labels: Labels, training: Training) -> None:
        """Bind to a plan's record; ``PlanError`` where an option is unknown or impossible."""
        super().__init__(record, labels, training)
        self.options = decode_options(FlowOptions, record)

    @staticmethod
    def num_outputs(labels: Labels, options: Mapping[str, Any]) -> int:
        """Count the axes and the foreground classes."""
        return dimensions_of(options) + labels.num_classes - 1

    @property
    def num_geometry(self) -> int:
        """Count the axes."""
        return self.dimensions

    def encode(self, label_BLZYX: Tensor, strides: Strides) -> tuple[list[Tensor], list[Tensor | None]]:
        """Make float32 maps: five times the unit vectors, then 1 where a class is; weights are False where ignored."""
        layers, device = self.layers(label_BLZYX), label_BLZYX.device
        flow = SCALE * encode_flows(layers.ids, device)
        maps = at_strides(np.concatenate([flow, self.class_maps(layers.classes)], axis=1), strides, device)
        if layers.annotated is None:
            return maps, [None] * len(strides)
        return maps, list(at_strides(layers.annotated, strides, device))

    def loss(
        self,
        outputs: Sequence[Tensor],
        maps: Sequence[Tensor],
        weights: Sequence[Tensor | None],
        output_weights: Sequence[float],
        annotated: Tensor | None = None,
    ) -> Tensor:
        """Add up both parts over the outputs."""

        def of_output(output: Tensor, wanted: Tensor, voxels: Tensor | None) -> Tensor:
            vectors = self._vector_error(output, wanted, voxels, annotated)
            return 0.5 * vectors + self.class_loss(output, wanted, voxels, annotated)

        return sum_over_outputs(of_output, outputs, maps, weights, output_weights)

    def _vector_error(self, output: Tensor, wanted: Tensor, voxels: Tensor | None, annotated: Tensor | None) -> Tensor:
        axes = self.dimensions
        squares = (output[:, :axes].float() - wanted[:, :axes]).square()
        counts = None if voxels is None else voxels.unsqueeze(1)
        if annotated is not None:
            certain = annotated[:, list(self.instance_classes)].all(1).view(-1, *(1,) * (output.dim() - 1))
            certain = certain.to(output.device) | (wanted[:, axes:] > 0.5).any(1, keepdim=True)
            counts = certain if counts is None else counts & certain
        if counts is None:
            return squares.mean()
        return (squares * counts).sum() / (axes * counts.sum()).clamp(min=1)

    def flip(self, maps: Tensor, axes: tuple[int, ...]) -> Tensor:
        """Mirror along spatial axes: vectors turn round along them, sides change places."""
        flipped = mirror(maps, axes, self.swaps(), self.training.mirror_swap_axis)
        if not axes:
            return flipped
        signs = torch.ones(len(maps), dtype=maps.dtype, device=maps.device)
        signs[list(axes)] = -1
        return flipped * signs.view(-1, *(1,) * (maps.dim() - 1))

    def probabilities(self, logits_KZYX: np.ndarray) -> np.ndarray:
        """Give vectors of length 1 where the network is sure, and the probabilities of the classes."""
        vectors = logits_KZYX[: self.dimensions].astype(np.float32) / np.float32(SCALE)
        return np.concatenate([vectors, sigmoid(logits_KZYX[self.dimensions :])])

    def decode_choices(self) -> dict[str, tuple[Any, ...]]:
        """Offer how far objects reach, how well their flow must fit, and how small they may be."""
        errors = (0.2, 0.4, 0.8, 2.0)  # Cellpose's 0.4, and around it; two unit vectors differ by at most 4
        offered = {"foreground": FOREGROUNDS, "largest_error": errors, "smallest": SMALLEST}
        return self.other_values(self.options, offered)

    def decode_objects(self, probabilities: np.ndarray, open_sides: OpenSides | None) -> np.ndarray:
        """Follow the vectors."""
        foreground = self.class_probabilities(probabilities).max(axis=0)
        return decode_flow(probabilities[: self.dimensions], foreground, self.options, open_sides)
