"""The objects of an image as a table: ``CASE.objects.csv``, one row per object.

Sizes in mm are those of the pixels or voxels that an object has, whatever its shape; the diameter is that of the circle
(in volumes: the ball) of equal size. Where the file says nothing of the size of its pixels, these columns are empty.
Places are counted in voxels from 0, and mean a voxel's middle: the centroid of a single voxel is its own index.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from autoseg.data.io import Geometry
from autoseg.data.object_runs import runs_of
from autoseg.inference.instances import SegmentedObjects
from autoseg.preprocessing.instance_stats import diameters_of
from planners.labels import Labels

AXES = ("z", "y", "x")


@dataclass(frozen=True)
class ObjectPlaces:
    """How large the objects of a map are and where, in the order of their ids.

    Attributes:
        voxels: how many each has, int64.
        sums: of the voxels' z, y, x; objects × 3.
        first, last: of the voxels along z, y, x; objects × 3, int64.
    """

    voxels: np.ndarray
    sums: np.ndarray
    first: np.ndarray
    last: np.ndarray

    @cached_property
    def centroids(self) -> np.ndarray:
        """Give the mean z, y, x of each object's voxels; objects × 3."""
        return np.asarray(self.sums / self.voxels[:, None])


def find_places(ids_ZYX: np.ndarray, count: int) -> ObjectPlaces:
    """Measure objects; memory is bounded, for they are read as runs of voxels, some rows at a time.

    Args:
        ids_ZYX: 1 … ``count`` without gaps, 0 for none.
        count: of the objects.
    """
    voxels, sums = np.zeros(count + 1), np.zeros((3, count + 1))
    first, last = np.full((3, count + 1), np.iinfo(np.int64).max), np.full((3, count + 1), -1)
    for runs in runs_of(ids_ZYX):
        lengths = runs.last - runs.first + 1
        voxels += np.bincount(runs.number, lengths, count + 1)
        ends = ((runs.z, runs.z), (runs.y, runs.y), (runs.first, runs.last))
        for axis, (low, high) in enumerate(ends):
            sums[axis] += np.bincount(runs.number, lengths * ((low + high) / 2), count + 1)
            np.minimum.at(first[axis], runs.number, low)
            np.maximum.at(last[axis], runs.number, high)
    return ObjectPlaces(
        voxels=voxels[1:].astype(np.int64), sums=sums[:, 1:].T, first=first[:, 1:].T, last=last[:, 1:].T
    )


def is_flat(shape_ZYX: Sequence[int]) -> bool:
    """Tell whether a map is an image rather than a volume: then sizes are areas, and nothing is said of z."""
    return shape_ZYX[0] == 1


def table_text(objects: SegmentedObjects, places: ObjectPlaces, labels: Labels, geometry: Geometry) -> str:
    """Write the table of an image's objects as CSV, with a header and one row per object, ascending by id.

    Args:
        objects: of the image.
        places: of its objects.
        labels: give the names of the classes.
        geometry: of the image; sizes in mm stay empty where it is not known.
    """
    axes = (1, 2) if is_flat(objects.ids.shape) else (0, 1, 2)
    spacing_mm = [geometry.spacing_mm[axis] for axis in axes]
    columns: dict[str, Sequence[object]] = {
        "id": range(1, len(objects) + 1),
        "class": np.array(labels.names, dtype=object)[objects.classes[1:]].tolist(),
        "voxels": places.voxels.tolist(),
        "area_mm2" if len(axes) == 2 else "volume_mm3": _text(places.voxels * np.prod(spacing_mm), ".6g"),
        "diameter_mm": _text(diameters_of(places.voxels, spacing_mm), ".6g"),
    }
    if not geometry.known:
        columns |= dict.fromkeys((list(columns)[3], "diameter_mm"), [""] * len(objects))
    columns |= {f"centroid_{AXES[axis]}": _text(places.centroids[:, axis], ".3f") for axis in axes}
    for axis in axes:
        columns[f"first_{AXES[axis]}"] = places.first[:, axis].tolist()
        columns[f"last_{AXES[axis]}"] = places.last[:, axis].tolist()
    columns["mean_probability"] = _text(objects.probabilities[1:], ".4f")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return text.getvalue()


def _text(values: np.ndarray, pattern: str) -> list[str]:
    return [format(value, pattern) for value in values.tolist()]
