"""The affinity target: whether a voxel and another at an offset belong to one object, decoded by joining fragments."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from autoseg.extensions import find
from autoseg.targets.base import Strides, mirror, sum_over_outputs
from autoseg.targets.decode_affinity import AffinityOptions, decode_affinity
from autoseg.targets.instance_encoding import encode_affinity
from autoseg.targets.instance_target import (
    FOREGROUNDS,
    SMALLEST,
    at_strides,
    decode_options,
    dimensions_of,
    sigmoid,
)
from autoseg.targets.object_maps import Offset, OpenSides, shifted
from autoseg.targets.region_losses import REGION_LOSSES
from autoseg.targets.vector_target import VectorTarget
from planners.labels import Labels
from planners.plan import Target as TargetRecord
from planners.plan import Training
from planners.records import PlanError

FAR = 4  # voxels of the long-range offsets where the plan names none; assumption


class AffinityTarget(VectorTarget):
    """One logit per offset, then one per foreground class.

    The plan's options beside those of ``InstanceTarget``:
        offsets: lists of voxels per axis; the nearest neighbour along every axis is among them. Where an offset runs
            along several axes its mirror images must be there too, since patches are mirrored.
    """

    name = "affinity"
    options: AffinityOptions
    known_options = ("offsets",)

    def __init__(self, record: TargetRecord, labels: Labels, training: Training) -> None:
        """Bind to a plan's record; ``PlanError`` where an option is unknown or impossible."""
        super().__init__(record, labels, training)
        self.offsets = offsets_of(record.options)
        self.options = decode_options(AffinityOptions, record)
        for axis in range(self.dimensions):
            if not {_unit(self.dimensions, axis, 1), _unit(self.dimensions, axis, -1)} & set(self.offsets):
                raise PlanError(f"option offsets of target affinity lacks the nearest neighbour along axis {axis}")
        self.sources = {axes: self._mirrored(axes) for axes in _subsets(training.mirror_axes)}

    @staticmethod
    def num_outputs(labels: Labels, options: Mapping[str, Any]) -> int:
        """Count the offsets and the foreground classes."""
        return len(offsets_of(options)) + labels.num_classes - 1

    @property
    def num_geometry(self) -> int:
        """Count the offsets."""
        return len(self.offsets)

    def encode(self, label_BLZYX: Tensor, strides: Strides) -> tuple[list[Tensor], list[Tensor | None]]:
        """Make maps of 0 and 1, float32, and weights, bool: per offset where both ends are known, then per voxel.

        A pair counts where both ends lie in patch and image, neither is ignored, and not both are background.
        """
        layers, device = self.layers(label_BLZYX), label_BLZYX.device
        pairs = [encode_affinity(ids, self.offsets) for ids in layers.ids]
        same, known = (np.stack(items) for items in zip(*pairs, strict=True))
        voxels = np.ones_like(layers.classes, dtype=bool) if layers.annotated is None else layers.annotated
        maps = np.concatenate([same.astype(np.float32), self.class_maps(layers.classes)], axis=1)
        weights = np.concatenate([known, voxels[:, None]], axis=1)
        return at_strides(maps, strides, device), list(at_strides(weights, strides, device))

    def loss(
        self,
        outputs: Sequence[Tensor],
        maps: Sequence[Tensor],
        weights: Sequence[Tensor | None],
        output_weights: Sequence[float],
        annotated: Tensor | None = None,
    ) -> Tensor:
        """Add up the plan's loss, in its binary form, on affinities and on classes, over the outputs."""
        function = find(REGION_LOSSES, "loss", self.training.loss)

        def of_output(output: Tensor, wanted: Tensor, weight: Tensor | None) -> Tensor:
            assert weight is not None
            count = self.num_geometry
            # Each offset is a sample of its own, since each has its own mask.
            logits, same = (item[:, :count].flatten(0, 1).unsqueeze(1) for item in (output, wanted))
            known = weight[:, :count].flatten(0, 1)
            counted = known.flatten(1).any(1, keepdim=True)  # the Dice of no pair at all would be perfect
            pairs = function(logits, same > 0.5, known, counted, self.training.batch_dice)
            voxels = weight[:, count] if self.labels.ignore_index is not None else None
            return pairs + self.class_loss(output, wanted, voxels, annotated)

        return sum_over_outputs(of_output, outputs, maps, weights, output_weights)

    def flip(self, maps: Tensor, axes: tuple[int, ...]) -> Tensor:
        """Mirror along spatial axes: each offset takes the map of its mirror image, moved to the pair's other end.

        At the frame, where the other end lies outside, it is 0.
        """
        if not axes:
            return maps
        turned = maps.clone()
        for index, (source, move) in enumerate(self.sources.get(tuple(sorted(axes))) or self._mirrored(axes)):
            turned[index] = maps[source]
            if move is not None:
                here, there = shifted(move)
                turned[index] = 0
                turned[index][here] = maps[source][there]
        return mirror(turned, axes, self.swaps(), self.training.mirror_swap_axis)

    def probabilities(self, logits_KZYX: np.ndarray) -> np.ndarray:
        """Sigmoid of every output."""
        return sigmoid(logits_KZYX)

    def decode_choices(self) -> dict[str, tuple[Any, ...]]:
        """Offer when fragments are joined, where they begin, how far objects reach, and how small they may be."""
        middle = (0.3, 0.5, 0.7)
        offered = {"join": (0.3, 0.4, 0.5, 0.6, 0.7), "seed": middle, "foreground": FOREGROUNDS, "smallest": SMALLEST}
        return self.other_values(self.options, offered)

    def decode_objects(self, probabilities: np.ndarray, open_sides: OpenSides | None) -> np.ndarray:
        """Join fragments that belong together."""
        foreground = self.class_probabilities(probabilities).max(axis=0)
        return decode_affinity(probabilities[: self.num_geometry], foreground, self.offsets, self.options, open_sides)

    def _mirrored(self, axes: Sequence[int]) -> list[tuple[int, Offset | None]]:
        """Tell for each offset the map that a mirrored patch's comes from, and how far it moves."""
        result: list[tuple[int, Offset | None]] = []
        for offset in self.offsets:
            image = tuple(-step if axis in axes else step for axis, step in enumerate(offset))
            back = tuple(-step for step in image)
            if image in self.offsets:
                result.append((self.offsets.index(image), None))
            elif back in self.offsets:
                result.append((self.offsets.index(back), image))
            else:
                raise PlanError(
                    f"option offsets of target affinity holds {list(offset)}, and not {list(image)}, which it becomes "
                    "in a mirrored patch; add it"
                )
        return result


def offsets_of(options: Mapping[str, Any]) -> list[Offset]:
    """Read the offsets from a target's options; without any: the nearest and one far neighbour along every axis.

    Raises:
        PlanError: an offset has not one whole number per axis, or is 0, or is there twice.
    """
    dimensions = dimensions_of(options)
    if "offsets" not in options:
        return [_unit(dimensions, axis, far) for far in (1, FAR) for axis in range(dimensions)]
    offsets: list[Offset] = []
    listed = options["offsets"]
    if not isinstance(listed, list | tuple) or not all(isinstance(given, list | tuple) for given in listed):
        raise PlanError(f"option offsets of target affinity is {listed!r}; give lists of {dimensions} whole numbers")
    for given in listed:
        offset = tuple(given)
        if len(offset) != dimensions or not all(isinstance(step, int) for step in offset) or not any(offset):
            raise PlanError(f"option offsets of target affinity holds {given}; give {dimensions} whole numbers, not 0")
        if offset in offsets:
            raise PlanError(f"option offsets of target affinity holds {given} twice; leave one out")
        offsets.append(offset)
    return offsets


def _unit(dimensions: int, axis: int, step: int) -> Offset:
    return tuple(step if other == axis else 0 for other in range(dimensions))


def _subsets(axes: Sequence[int]) -> list[tuple[int, ...]]:
    subsets: list[tuple[int, ...]] = [()]
    for axis in sorted(axes):
        subsets += [(*some, axis) for some in subsets]
    return subsets[1:]
