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
from autoseg.data.io import image_stem, write_segmentation
from autoseg.data.io_write import check_ids_fit, ids_fit
from autoseg.evaluation.labelled_objects import classes_file
from autoseg.inference.logits_part import LogitsPart, average
from autoseg.preprocessing.label_resampling import resample_label
from autoseg.preprocessing.preprocess import uncrop_and_untranspose
from autoseg.targets.instance_target import Instances, InstanceTarget
from autoseg.targets.object_maps import keep_objects
from planners.labels import Labels
from planners.plan import Plan

ROOMY_ENDING = ".tif"
"""Of maps that a run keeps for itself where the image's own format (PNG) cannot number as many objects."""

PART_VOXELS = 1 << 20
"""Voxels looked at in one go: some tens of MB of temporary arrays."""


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


def segment_objects(
    parts: Sequence[LogitsPart], target: InstanceTarget, plan: Plan, *, consume: bool = False
) -> SegmentedObjects:
    """Find the objects of one case on the grid of its image.

    A target of two dimensions finds them in every slice of a volume alone.

    Args:
        parts: one per configuration, of equal targets; several are averaged by their weights.
        target: decodes.
        plan: gives the order of axes.
        consume: nobody needs the logits any more: those of a single part become its maps, and no second array of their
            size is held.
    """
    maps, part = mean_maps(parts, target, consume=consume), parts[0]
    found = target.instances(maps)
    ids = _as_read(found.ids, part, plan)
    there = _which_are_there(ids, len(found.classes))
    return SegmentedObjects(
        ids=ids if there.all() else keep_objects(ids, there),
        classes=found.classes[there],
        probabilities=_mean_probabilities(maps, found, target)[there],
        others=_as_read(target.other_classes(maps), part, plan) if target.has_others else None,
    )


def mean_maps(parts: Sequence[LogitsPart], target: InstanceTarget, *, consume: bool = False) -> np.ndarray:
    """Average the probabilities (vectors, affinities) of some parts on the preprocessed grid of the first; float32.

    Args:
        parts, target, consume: as of ``segment_objects``.
    """
    grid, weights, first = parts[0].grid, [part.weight for part in parts], parts[0].logits_KZYX
    resamplers = [part.onto(grid.shape, grid.spacing_mm) for part in parts]
    maps = first if consume and len(parts) == 1 else None
    if not isinstance(maps, np.ndarray) or maps.dtype != np.float32 or not maps.flags.writeable:
        maps = np.empty((len(first), *grid.shape), dtype=np.float32)
    for z in range(grid.shape[0]):
        maps[:, z : z + 1] = average((target.probabilities(item.slab(z, z + 1)) for item in resamplers), weights)
    return maps


def ids_of_maps(maps_KZYX: np.ndarray, part: LogitsPart, target: InstanceTarget, plan: Plan) -> Instances:
    """Find the objects in averaged maps as ``segment_objects`` does: what scoring them needs, and no more.

    Args:
        maps_KZYX: as of ``mean_maps``, on the grid of ``part``.
        part: the first of those averaged.
        target, plan: as of ``segment_objects``.

    Returns:
        Ids on the image's grid, and their classes; the ids of objects that have vanished there are missing.
    """
    found = target.instances(maps_KZYX)
    return Instances(_as_read(found.ids, part, plan), found.classes)


def components_of_maps(maps_KZYX: np.ndarray, part: LogitsPart, target: InstanceTarget, plan: Plan) -> Instances:
    """Find the connected components of the foreground of averaged maps: for comparison.

    Args:
        maps_KZYX, part, target, plan: as of ``ids_of_maps``.

    Returns:
        As ``ids_of_maps``.
    """
    found = target.components(maps_KZYX)
    return Instances(_as_read(found.ids, part, plan), found.classes)


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


def keep_object_maps(path: Path, objects: SegmentedObjects, labels: Labels, geometry: Geometry) -> None:
    """Write maps that a run keeps for itself, as ``write_object_maps``; as TIFF where the format holds too few ids.

    What an earlier one of the two has left goes: of a case there is one map.

    Raises:
        ImageError: the disk fails.
    """
    written = path if ids_fit(path, len(objects)) else _roomy(path)
    for other in {path, _roomy(path)} - {written}:
        other.unlink(missing_ok=True)
        classes_file(other).unlink(missing_ok=True)
    write_object_maps(written, objects, labels, geometry)


def find_kept_map(path: Path) -> Path:
    """Give the place at which ``keep_object_maps`` has left a map of ids; ``path`` itself where there is none."""
    return path if path.exists() or not _roomy(path).exists() else _roomy(path)


def _roomy(path: Path) -> Path:
    return path.with_name(image_stem(path) + ROOMY_ENDING)


def _as_read(map_ZYX: np.ndarray, part: LogitsPart, plan: Plan) -> np.ndarray:
    """Bring a map of integers from the preprocessed grid to that of the image as read; 0 outside the crop."""
    grid = part.grid
    inside = resample_label(map_ZYX, grid.shape_after_crop, grid.spacing_mm, grid.spacing_before_mm, part.resampling)
    return uncrop_and_untranspose(inside, grid, plan.axis_order)


def _which_are_there(ids_ZYX: np.ndarray, count: int) -> np.ndarray:
    """Tell which ids below ``count`` occur in a map; 0 does, always."""
    there, flat = np.zeros(count, dtype=bool), ids_ZYX.reshape(-1)
    there[0] = True
    for start in range(0, flat.size, PART_VOXELS):
        there[flat[start : start + PART_VOXELS]] = True
    return there


def _mean_probabilities(maps_KZYX: np.ndarray, found: Instances, target: InstanceTarget) -> np.ndarray:
    """Average the probability of the foreground over the voxels of each object, a part at a time; 0 for background."""
    sums, sizes = np.zeros((2, len(found.classes)))
    ids, maps = found.ids.reshape(-1), maps_KZYX.reshape(len(maps_KZYX), -1)
    for start in range(0, ids.size, PART_VOXELS):
        some = slice(start, start + PART_VOXELS)
        sums += np.bincount(ids[some], target.foreground_probability(maps[:, some]), len(sums))
        sizes += np.bincount(ids[some], minlength=len(sizes))
    means = sums / np.maximum(sizes, 1)
    means[0] = 0
    return means.astype(np.float32)
