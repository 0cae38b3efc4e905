"""Measure the annotated objects of a case: how large, how compact, how long, whether they touch.

A map is looked at as runs: voxels of one object side by side along x. Sizes, second moments and convex hulls follow
from the runs, of which there are far fewer than voxels; no loop runs over objects, but for the hulls of a sample. Maps
are read a few slices (of a plane: rows) at a time, so little is held beside them.

What the words mean here, in 2D and 3D alike:

* *diameter*: of the circle of equal area where the map is a single slice, else of the ball of equal volume; mm.
* *solidity*: voxels of the object / voxels whose centres lie in the convex hull of its voxels' centres. It does not
  depend on the spacing, and a disk or ball on the grid has 1 whatever its size.
* *elongation*: the longest / the second longest principal axis of the second moments (mm), each voxel counted as the
  box that it is. A disk has 1, an ellipse the ratio of its axes.
* *touching*: has a voxel that shares a face, an edge or a corner with a voxel of another object.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autoseg.data.object_runs import Runs, runs_of
from planners.fingerprint import CaseObjects, InstanceStats

PART_VOXELS = 1 << 20
"""Voxels looked at in one go: some tens of MB of temporary arrays."""

HULLS = 1000
"""Objects whose convex hull is looked for, over all cases: enough for a median."""

LEAST_HULLS = 5
"""The least per case, however many cases there are."""

MOST_ROWS = 64
"""Rows along z and y of an object in which its hull is looked for: of larger objects every second row counts, every
third …"""

SEED = 1234  # which objects' hulls are looked for

ROUNDING = 1e-6  # voxels so little outside a hull lie on it

PERCENTILES = (5, 50, 95)  # of the diameters


@dataclass(frozen=True)
class MeasuredObjects:
    """The objects of one case, in the order of their numbers.

    Attributes:
        diameters_mm: float32.
        elongation: float32, at least 1.
        solidity: float32; nan where the hull was not looked for.
        touching: bool.
    """

    diameters_mm: np.ndarray
    elongation: np.ndarray
    solidity: np.ndarray
    touching: np.ndarray

    def __len__(self) -> int:
        """Count the objects."""
        return len(self.diameters_mm)

    def to_array(self) -> np.ndarray:
        """Give all as float32, 4 × objects, to be kept in one file."""
        return np.stack([self.diameters_mm, self.elongation, self.solidity, self.touching.astype(np.float32)])

    @classmethod
    def from_array(cls, values: np.ndarray) -> "MeasuredObjects":
        """Read what ``to_array`` gave."""
        return cls(values[0], values[1], values[2], values[3] > 0)


def measure_objects(ids_ZYX: np.ndarray, spacing_mm: Sequence[float], max_hulls: int = HULLS) -> MeasuredObjects:
    """Measure all objects of a case.

    Args:
        ids_ZYX: numbers 1, 2, … without gaps, 0 where there is no object.
        spacing_mm: z, y, x.
        max_hulls: objects whose convex hull is looked for, drawn evenly; always the same for as many objects.
    """
    count = int(ids_ZYX.max(initial=0))
    chosen = np.zeros(count + 1, dtype=bool)
    chosen[1 + np.random.default_rng(SEED).permutation(count)[:max_hulls]] = True
    sums, kept = np.zeros((10, count + 1)), []
    for runs in runs_of(ids_ZYX):
        _add_moments(sums, runs, ids_ZYX.shape)
        kept.append(runs[chosen[runs.number]])
    axes = [axis for axis in range(3) if axis or ids_ZYX.shape[0] > 1]
    return MeasuredObjects(
        diameters_mm=diameters_of(sums[0, 1:], [spacing_mm[axis] for axis in axes]).astype(np.float32),
        elongation=_elongation(sums[:, 1:], axes, spacing_mm).astype(np.float32),
        solidity=_solidities(kept, count),
        touching=find_touching(ids_ZYX, count),
    )


def object_diameters(ids_ZYX: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Give the diameters of the objects alone, float32 in mm; arguments as of ``measure_objects``."""
    count = int(ids_ZYX.max(initial=0))
    voxels = np.zeros(count + 1)
    for runs in runs_of(ids_ZYX):
        voxels += np.bincount(runs.number, weights=runs.last - runs.first + 1, minlength=count + 1)
    first = 0 if ids_ZYX.shape[0] > 1 else 1
    return diameters_of(voxels[1:], spacing_mm[first:]).astype(np.float32)


def hulls_per_case(num_cases: int) -> int:
    """Give the objects of each case whose hulls are looked for."""
    return max(LEAST_HULLS, HULLS // max(num_cases, 1))


def join_objects(cases: Sequence[MeasuredObjects], background_fraction: float) -> InstanceStats | None:
    """Describe the objects of all cases together; None where there is not one.

    Percentiles and medians are those over all objects. Of the solidity, each case's sample stands for all of its
    objects.
    """
    diameters = np.concatenate([case.diameters_mm for case in cases]) if cases else np.zeros(0)
    if not len(diameters):
        return None
    solidity = np.concatenate([case.solidity for case in cases])
    looked_at = [np.isfinite(case.solidity) for case in cases]
    weights = np.concatenate([np.full(len(some), len(some) / max(some.sum(), 1)) for some in looked_at])
    known = np.isfinite(solidity)
    low, middle, high = (float(value) for value in np.percentile(diameters, PERCENTILES))
    return InstanceStats(
        cases=tuple(
            CaseObjects(count=len(case), diameter_mm=float(np.median(case.diameters_mm)) if len(case) else None)
            for case in cases
        ),
        diameters_mm=(low, middle, high),
        solidity=_weighted_median(solidity[known], weights[known]),
        elongation=float(np.median(np.concatenate([case.elongation for case in cases]))),
        touching_fraction=float(np.mean(np.concatenate([case.touching for case in cases]))),
        background_fraction=background_fraction,
    )


def _weighted_median(values: np.ndarray, weights: np.ndarray) -> float:
    order = np.argsort(values, kind="stable")
    summed = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(summed, summed[-1] / 2)])


def _add_moments(sums: np.ndarray, runs: Runs, shape: Sequence[int]) -> None:
    """Add runs to the moments of their objects.

    ``sums`` holds per object the voxels, the sums of z, y, x and of zz, yy, xx, zy, zx, yx. Places are counted from the
    middle of the map, so that squares stay small.
    """
    length = (runs.last - runs.first + 1).astype(np.float64)
    z, y = runs.z - shape[0] / 2, runs.y - shape[1] / 2
    x = (runs.first + runs.last) / 2 - shape[2] / 2  # of the run's middle
    spread = (length * length - 1) / 12  # variance of as many whole numbers in a row
    terms = (1.0, z, y, x, z * z, y * y, x * x + spread, z * y, z * x, y * x)
    for row, term in zip(sums, terms, strict=True):
        row += np.bincount(runs.number, weights=length * term, minlength=len(row))


def diameters_of(voxels: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Give the diameters of circles (two spacings) or balls (three) of as many voxels."""
    size = voxels * np.prod(spacing_mm)
    return np.asarray(np.sqrt(size * 4 / np.pi) if len(spacing_mm) == 2 else np.cbrt(size * 6 / np.pi))


def _elongation(sums: np.ndarray, axes: Sequence[int], spacing_mm: Sequence[float]) -> np.ndarray:
    """Give the longest / the second longest principal axis; moments as of ``_add_moments``."""
    mixed = {(0, 1): 7, (0, 2): 8, (1, 2): 9}
    means = sums[1:4] / sums[0]
    covariance = np.empty((sums.shape[1], len(axes), len(axes)))
    for i, first in enumerate(axes):
        for j, second in enumerate(axes):
            row = 4 + first if first == second else mixed[min(first, second), max(first, second)]
            moment = sums[row] / sums[0] - means[first] * means[second]
            moment = moment + (1 / 12 if first == second else 0)  # a voxel is a box, no point
            covariance[:, i, j] = moment * spacing_mm[first] * spacing_mm[second]
    lengths = np.linalg.eigvalsh(covariance)
    return np.asarray(np.sqrt(np.maximum(lengths[:, -1] / lengths[:, -2], 1)))


def find_touching(ids_ZYX: np.ndarray, count: int) -> np.ndarray:
    """Tell which of the objects 1 … ``count`` have a voxel next to another object's; bool.

    Around a voxel the largest and the smallest number are sought, one axis after the other.
    """
    touching = np.zeros(count + 1, dtype=bool)
    axis = 0 if ids_ZYX.shape[0] > 1 else 1
    length = ids_ZYX.shape[axis]
    step = max(1, PART_VOXELS * length // max(ids_ZYX.size, 1))
    for start in range(0, length, step):
        some = (slice(None),) * axis + (slice(max(start - 1, 0), start + step + 1),)
        part = ids_ZYX[some].astype(np.int32, copy=False)
        largest = _spread(part, np.maximum)
        smallest = _spread((part - 1).view(np.uint32), np.minimum)  # 0 becomes the largest of all: it is no object
        beside = (part > 0) & ((largest != part) | (smallest != (part - 1).view(np.uint32)))
        touching[part[beside]] = True
    return touching[1:]


def _spread(values: np.ndarray, combine: np.ufunc) -> np.ndarray:
    """Combine every value with all that share a face, an edge or a corner with it."""
    for axis in range(values.ndim):
        before, behind = ((slice(None),) * axis + (some,) for some in (slice(None, -1), slice(1, None)))
        result = values.copy()
        combine(result[behind], values[before], out=result[behind])
        combine(result[before], values[behind], out=result[before])
        values = result
    return values


def _solidities(parts: Sequence[Runs], count: int) -> np.ndarray:
    """Give the solidity of the objects of some runs; nan for all others."""
    result = np.full(count, np.nan, dtype=np.float32)
    if not any(len(part.number) for part in parts):
        return result
    joined = [np.concatenate([getattr(part, name) for part in parts]) for name in ("number", "z", "y", "first", "last")]
    runs = Runs(*joined)
    order = np.argsort(runs.number, kind="stable")
    numbers, starts = np.unique(runs.number[order], return_index=True)
    for number, some in zip(numbers, np.split(order, starts[1:]), strict=True):
        result[number - 1] = solidity_of(runs[some])
    return result


def solidity_of(runs: Runs) -> float:
    """Give the solidity of one object from its runs; 1 where its voxels lie in an oblique line or plane."""
    steps = [max(1, -(-int(np.ptp(place) + 1) // MOST_ROWS)) for place in (runs.z, runs.y)]
    origin = [int(place.min()) for place in (runs.z, runs.y)]
    runs = runs[((runs.z - origin[0]) % steps[0] == 0) & ((runs.y - origin[1]) % steps[1] == 0)]
    voxels = int((runs.last - runs.first + 1).sum())
    z, y = (runs.z - origin[0]) // steps[0], (runs.y - origin[1]) // steps[1]
    points = np.stack([np.tile(z, 2), np.tile(y, 2), np.concatenate([runs.first, runs.last])], axis=1)
    points = points[:, np.ptp(points, axis=0) > 0]
    if points.shape[1] < 2:
        return voxels / float(np.ptp(points) + 1) if points.size else 1.0
    within = _voxels_in_hull(points)
    return voxels / within if within else 1.0


def _voxels_in_hull(points: np.ndarray) -> int:
    """Count the whole places in the convex hull of points (n × 2 or 3 axes); 0 where it is flat.

    Each line along the last axis enters the hull once and leaves it once.
    """
    from scipy.spatial import ConvexHull, QhullError

    try:
        sides = ConvexHull(points).equations
    except QhullError:
        return 0
    low, high = points.min(axis=0), points.max(axis=0)
    lines = np.stack(np.meshgrid(*map(np.arange, low[:-1], high[:-1] + 1), indexing="ij"), axis=-1)
    slope = sides[:, -2]
    total = 0
    lines = lines.reshape(-1, points.shape[1] - 1)
    step = max(1, PART_VOXELS // len(sides))
    for start in range(0, len(lines), step):
        room = -(lines[start : start + step] @ sides[:, :-2].T + sides[:, -1]) + ROUNDING
        outside = (room[:, np.abs(slope) < ROUNDING] < 0).any(axis=1)
        ends = [room[:, side] / slope[side] for side in (slope >= ROUNDING, slope <= -ROUNDING)]
        leaves, enters = np.floor(ends[0].min(axis=1)), np.ceil(ends[1].max(axis=1))
        total += int(np.where(outside, 0, np.maximum(leaves - enters + 1, 0)).sum())
    return total
