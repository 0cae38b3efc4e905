"""From logits to objects on the image's grid: averaged, decoded once, brought back, numbered without gaps.

The dense maps of all configurations are averaged on the preprocessed grid of the first; objects are found there, and
their ids go back to the image by the same vote as labels come from it. Nothing is averaged after decoding: ids of two
decodings have nothing to do with each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autoseg.data.image import Geometry
from autoseg.data.io import write_segmentation
from autoseg.data.io_write import check_ids_fit
from autoseg.inference.logits_part import LogitsPart, average
from autoseg.preprocessing.label_resampling import resample_label
from autoseg.preprocessing.preprocess import uncrop_and_untranspose
from autoseg.targets.instance_target import Instances, InstanceTarget
from autoseg.targets.object_maps import keep_objects
from planners.labels import Labels
from planners.plan import Plan

CLASSES = "classes"
"""Folder beside maps of ids that holds the maps of their classes, where there is more than one."""


@dataclass(frozen=True, kw_only=True)
class SegmentedObjects:
    """The objects of one image, on its grid as read.

    Attributes:
        ids: int32 z, y, x: 1, 2, … without gaps, 0 for what belongs to no object, and outside the crop.
        classes: per id (0 first, which is 0) the inner class index.
        probabilities: per id (0 first, which is 0) the mean probability of its voxels to belong to any object, float32.
        others: z, y, x: inner class index of the classes without instances, 0 elsewhere; None where all have instances.
    """

    ids: np.ndarray
    classes: np.ndarray
    probabilities: np.ndarray
    others: np.ndarray | None = None

    def __len__(self) -> int:
        """Count the objects."""
        return len(self.classes) - 1


def segment_objects(parts: Sequence[LogitsPart], target: InstanceTarget, plan: Plan) -> SegmentedObjects:
    """Find the objects of one case on the grid of its image.

    A target of two dimensions finds them in every slice of a volume alone.

    Args:
        parts: one per configuration, of equal targets; several are averaged by their weights.
        target: decodes.
        plan: gives the order of axes.
    """
    return objects_of_maps(mean_maps(parts, target), parts[0], target, plan)


def mean_maps(parts: Sequence[LogitsPart], target: InstanceTarget) -> np.ndarray:
    """Average the probabilities (vectors, affinities) of some parts on the preprocessed grid of the first; float32."""
    grid, weights = parts[0].grid, [part.weight for part in parts]
    resamplers = [part.onto(grid.shape, grid.spacing_mm) for part in parts]
    maps = np.empty((len(parts[0].logits_KZYX), *grid.shape), dtype=np.float32)
    for z in range(grid.shape[0]):
        maps[:, z : z + 1] = average((target.probabilities(item.slab(z, z + 1)) for item in resamplers), weights)
    return maps


def objects_of_maps(maps_KZYX: np.ndarray, part: LogitsPart, target: InstanceTarget, plan: Plan) -> SegmentedObjects:
    """Find the objects in averaged maps, and bring them to the image's grid.

    Args:
        maps_KZYX: as of ``mean_maps``, on the grid of ``part``.
        part: the first of those averaged.
        target, plan: as of ``segment_objects``.
    """
    return _on_image(target.instances(maps_KZYX), maps_KZYX, part, target, plan)


def components_of_maps(maps_KZYX: np.ndarray, part: LogitsPart, target: InstanceTarget, plan: Plan) -> SegmentedObjects:
    """Find the connected components of the foreground of averaged maps, on the image's grid: for comparison.

    Args:
        maps_KZYX: as of ``mean_maps``, on the grid of ``part``.
        part: the first of those averaged.
        target, plan: as of ``segment_objects``.
    """
    return _on_image(target.components(maps_KZYX), maps_KZYX, part, target, plan)


def class_map(objects: SegmentedObjects, labels: Labels) -> np.ndarray:
    """Give each voxel its inner class index z, y, x, in the smallest type: objects first, then classes without any."""
    classes: np.ndarray = objects.classes.astype(np.min_scalar_type(labels.num_classes))[objects.ids]
    if objects.others is None:
        return classes
    return np.where(objects.ids > 0, classes, objects.others).astype(classes.dtype, copy=False)


def classes_on_grid(parts: Sequence[LogitsPart], target: InstanceTarget) -> np.ndarray:
    """Decode on the preprocessed grid of the first part: inner class index per voxel."""
    maps = mean_maps(parts, target)
    found = target.instances(maps)
    nothing = np.zeros(len(found.classes), dtype=np.float32)
    others = target.other_classes(maps) if target.has_others else None
    objects = SegmentedObjects(ids=found.ids, classes=found.classes, probabilities=nothing, others=others)
    return class_map(objects, target.labels)


def write_object_maps(path: Path, objects: SegmentedObjects, labels: Labels, geometry: Geometry) -> None:
    """Write ids to a file, last, and where there is more than one class the user's values to ``classes/`` beside it.

    Raises:
        ImageError: the format cannot hold as many ids, or the disk fails.
    """
    check_ids_fit(path, len(objects))
    if labels.num_classes > 2:
        write_segmentation(classes_file(path), labels.decode(class_map(objects, labels)), geometry)
    write_segmentation(path, objects.ids, geometry)


def classes_file(path: Path) -> Path:
    """Give the place of the map of classes that goes with a map of ids."""
    return path.parent / CLASSES / path.name


def _on_image(
    found: Instances, maps_KZYX: np.ndarray, part: LogitsPart, target: InstanceTarget, plan: Plan
) -> SegmentedObjects:
    """Bring found objects from the preprocessed grid to the image's; what vanishes there leaves no gap."""
    ids = _as_read(found.ids, part, plan)
    there = np.bincount(ids.ravel(), minlength=len(found.classes)) > 0
    there[0] = True
    chance = target.foreground_probability(maps_KZYX)
    return SegmentedObjects(
        ids=ids if there.all() else keep_objects(ids, there),
        classes=found.classes[there],
        probabilities=_mean_inside(chance, found.ids, len(found.classes))[there],
        others=_as_read(target.other_classes(maps_KZYX), part, plan) if target.has_others else None,
    )


def _as_read(map_ZYX: np.ndarray, part: LogitsPart, plan: Plan) -> np.ndarray:
    """Bring a map of integers from the preprocessed grid to that of the image as read; 0 outside the crop."""
    grid = part.grid
    inside = resample_label(map_ZYX, grid.shape_after_crop, grid.spacing_mm, grid.spacing_before_mm, part.resampling)
    return uncrop_and_untranspose(inside, grid, plan.axis_order)


def _mean_inside(values: np.ndarray, ids: np.ndarray, count: int) -> np.ndarray:
    """Average values over the voxels of each object; 0 for background."""
    flat = ids.ravel()
    means = np.bincount(flat, values.ravel(), count) / np.maximum(np.bincount(flat, minlength=count), 1)
    means[0] = 0
    return means.astype(np.float32)
