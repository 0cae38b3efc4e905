"""From a map of instance ids to the dense maps a network can learn: foreground, boundary, affinity; and numbering.

A map of ids is (z, y, x) or (y, x), integers of any type and any numbering up to 2^31; 0 is background, and what is
negative is unknown: beyond the image, or not annotated. Everything works on whole arrays: no loop runs over objects or
voxels. The flow's encoding has a file of its own, ``flow_encoding.py``.

Where an object meets the frame of the image, or what is unknown, it has no boundary there: another may go on behind.
"""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import scipy

from autoseg.targets.flooding import find_seeds, flood
from autoseg.targets.object_maps import Offset, number_objects, shifted

WIDTH_SHARE = 0.06  # of the median diameter is boundary, on each side; proposal of our notes, to be settled by training
LEAST_CORE = 0.5  # of an object that has no boundary but towards others; else it is a rim, such as of another's label
MOST_NEIGHBOURS = 400
"""A box of more voxels around a boundary's width is gone through axis by axis. Both ways took equally long at a width
of 9 of 256 × 256 pixels (box of 361) and of 4 of 64³ voxels (729), 0.03 and 0.15 s of one core (2026-11)."""

BACKGROUND, INNER, BOUNDARY = 0, 1, 2
"""Values of the boundary map."""


def boundary_width(median_diameter: float, small_diameter: float) -> int:
    """Choose how wide a boundary is, in voxels of the finest axis.

    Args:
        median_diameter: of the objects, in those voxels.
        small_diameter: the diameter below which 5 % of the objects lie; the boundary leaves them an inner part.

    Returns:
        0.06 of the median diameter, rounded, at least 1.
    """
    return max(min(round(WIDTH_SHARE * median_diameter), math.ceil(small_diameter / 2) - 1), 1)


def encode_foreground(ids: np.ndarray) -> np.ndarray:
    """Tell where there is any object; bool."""
    return ids > 0


def encode_boundary(ids: np.ndarray, width: float = 1.0, spacing: Sequence[float] | None = None) -> np.ndarray:
    """Mark the inner part and the boundary of every object.

    Boundary is what lies within ``width`` of another object or of background; voxels whose faces touch another object
    always are. An object whose inner part would vanish or fall apart takes a narrower boundary, by whole voxels of the
    finest axis; then one towards other objects alone; then none, where the other's boundary suffices. If all that does
    not help, the largest piece is inner. So every object has one inner part that no other's touches, as long as the
    grid can show it: two objects of one voxel each, side by side, have none.

    Args:
        ids: of the objects.
        width: in voxels of the finest axis.
        spacing: of the voxels per axis, in any unit; None: equal.

    Returns:
        uint8: 0 background, 1 inner, 2 boundary.
    """
    numbers, count = number_objects(ids)
    result = np.where(numbers > 0, np.uint8(BOUNDARY), np.uint8(BACKGROUND))
    if not count:
        return result
    to_object, to_background = _distances(numbers, width, spacing, ids < 0)
    waiting = np.ones(count + 1, dtype=bool)
    waiting[0] = False
    for step in range(math.ceil(width), -1, -1):
        core = waiting[numbers] & (to_object > max(min(step, width), 1)) & (to_background > min(step, width))
        waiting = _accept(result, numbers, core, waiting, spacing, 0.0 if step else LEAST_CORE)
        if not waiting.any():
            return result
    core = _apart_from_others(result, numbers, waiting)
    waiting = _accept(result, numbers, core, waiting, spacing)
    result[core & waiting[numbers]] = INNER
    _keep_largest(result, numbers, spacing)
    return result


def encode_affinity(ids: np.ndarray, offsets: Sequence[Offset]) -> tuple[np.ndarray, np.ndarray]:
    """Tell for every voxel and offset whether the voxel and the one at that offset belong to one object.

    Returns:
        Affinities, offsets × space, bool; and where they are known, equally: neither end is beyond the image or
        unknown, and at least one lies in an object.
    """
    numbers, _ = number_objects(ids)
    same = np.zeros((len(offsets), *ids.shape), dtype=bool)
    known = np.zeros_like(same)
    for index, offset in enumerate(offsets):
        here, there = shifted(offset)
        first, second = numbers[here], numbers[there]
        same[index][here] = (first == second) & (first > 0)
        known[index][here] = ((first > 0) | (second > 0)) & (ids[here] >= 0) & (ids[there] >= 0)
    return same, known


def _distances(
    numbers: np.ndarray, width: float, spacing: Sequence[float] | None, unknown: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Measure how far the next object and background are, up to ``width``; infinite beyond. In finest voxels."""
    is_background = (numbers == 0) & ~unknown
    spacing = spacing or (1.0,) * numbers.ndim
    unit = [value / min(spacing) for value in spacing]
    if math.prod(2 * int(width / size) + 1 for size in unit) > MOST_NEIGHBOURS:
        to_object, to_background = _to_others(numbers, width, unit), _to_background(is_background, width, unit)
    else:
        to_object, to_background = _near_distances(numbers, width, unit, is_background)
    for axis, step in itertools.product(range(numbers.ndim), (1, -1)):
        # Faces of two objects are near however thick a slice is: else objects above each other would grow together.
        here, there = shifted(tuple(step if other == axis else 0 for other in range(numbers.ndim)))
        to_object[here][(numbers[here] != numbers[there]) & (numbers[there] > 0)] = 1.0
    return to_object, to_background


def _near_distances(
    numbers: np.ndarray, width: float, unit: Sequence[float], is_background: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Measure both by looking at every neighbour within ``width``."""
    reach = [max(int(width / step), 1) for step in unit]
    near = []
    for offset in itertools.product(*(range(-most, most + 1) for most in reach)):
        distance = math.hypot(*(steps * step for steps, step in zip(offset, unit, strict=True)))
        if 0 < distance <= width:
            near.append((distance, offset))
    to_object = np.full(numbers.shape, np.inf, dtype=np.float32)
    to_background = to_object.copy()
    for distance, offset in sorted(near, reverse=True):
        here, there = shifted(offset)
        first, second = numbers[here], numbers[there]
        differs = first != second
        to_object[here][differs & (second > 0)] = distance
        to_background[here][differs & is_background[there]] = distance
    return to_object, to_background


def _to_background(is_background: np.ndarray, width: float, unit: Sequence[float]) -> np.ndarray:
    if not is_background.any():
        return np.full(is_background.shape, np.inf, dtype=np.float32)
    distance = scipy.ndimage.distance_transform_edt(~is_background, unit)
    return np.where(is_background | (distance > width), np.inf, distance).astype(np.float32)


def _to_others(numbers: np.ndarray, width: float, unit: Sequence[float]) -> np.ndarray:
    """Measure how far the next voxel of another object is, axis by axis: squares of distances add up.

    On the way each voxel knows the nearest object and the nearest other one, whichever will be asked for.
    """
    nearest = np.where(numbers > 0, np.float32(0), np.float32(np.inf))
    owner, other = numbers, np.zeros_like(numbers)
    next_nearest = np.full_like(nearest, np.inf)
    for axis, size in enumerate(unit):
        before = (nearest, owner), (next_nearest, other)
        nearest, owner, next_nearest, other = (item.copy() for item in (nearest, owner, next_nearest, other))
        for step in range(-int(width / size), int(width / size) + 1):
            here, there = shifted(tuple(step if index == axis else 0 for index in range(numbers.ndim)))
            for squares, owners in before if step else ():
                far, whose = squares[there] + np.float32((step * size) ** 2), owners[there]
                a, b, first, second = nearest[here], next_nearest[here], owner[here], other[here]
                same, closer = whose == first, far < a
                np.copyto(b, np.where(closer, a, np.minimum(b, far)), where=~same)
                np.copyto(second, np.where(closer, first, np.where(far <= b, whose, second)), where=~same)
                np.copyto(first, whose, where=closer)
                np.minimum(a, far, out=a)
    distance = np.sqrt(np.where(owner == numbers, next_nearest, nearest))
    return np.where(distance <= width, distance, np.float32(np.inf))


def _accept(
    result: np.ndarray,
    numbers: np.ndarray,
    core: np.ndarray,
    waiting: np.ndarray,
    spacing: Sequence[float] | None,
    least: float = 0.0,
) -> np.ndarray:
    """Make a core the inner part of the waiting objects to which it gives one seed; tell which still wait.

    ``least`` is the share of an object that its core must have.
    """
    seeds, num_seeds = find_seeds(core, spacing=spacing)
    fits = waiting & (np.bincount(_owners(seeds, num_seeds, numbers)[1:], minlength=len(waiting)) == 1)
    if least:
        core_sizes, sizes = (np.bincount(item, minlength=len(waiting)) for item in (numbers[core], numbers.ravel()))
        fits &= core_sizes >= least * sizes
    result[core & fits[numbers]] = INNER
    return waiting & ~fits


def _owners(seeds: np.ndarray, num_seeds: int, numbers: np.ndarray) -> np.ndarray:
    """Give the object of each seed, 0 first."""
    owner = np.zeros(num_seeds + 1, dtype=np.int64)
    owner[seeds] = numbers
    owner[0] = 0
    return owner


def _apart_from_others(result: np.ndarray, numbers: np.ndarray, waiting: np.ndarray) -> np.ndarray:
    """Take the voxels of waiting objects whose faces touch no other object's inner part, and no other waiting one."""
    core = waiting[numbers]
    taken = np.where((result == INNER) | core, numbers, 0)
    for axis in range(numbers.ndim):
        for step in (1, -1):
            here, there = shifted(tuple(step if other == axis else 0 for other in range(numbers.ndim)))
            core[here] &= (taken[there] == 0) | (taken[there] == numbers[here])
    return core


def _keep_largest(result: np.ndarray, numbers: np.ndarray, spacing: Sequence[float] | None) -> None:
    """Leave each object one inner part, the largest (of equal ones the first); the others become boundary."""
    seeds, num_seeds = find_seeds(result == INNER, spacing=spacing)
    owner = _owners(seeds, num_seeds, numbers)
    if np.bincount(owner[1:]).max(initial=0) < 2:
        return
    sizes = np.bincount(seeds.ravel(), minlength=len(owner))
    order = np.lexsort((-np.arange(len(owner)), sizes))
    best = np.zeros(int(numbers.max()) + 1, dtype=np.int64)
    best[owner[order]] = order  # the last one written is the largest
    several = np.bincount(owner[1:], minlength=len(best)) > 1
    inner = several[numbers] & (result == INNER)
    grown = flood(np.zeros(inner.shape, dtype=np.float32), np.where(inner, seeds, 0), inner)
    result[inner & (grown != best[numbers])] = BOUNDARY
