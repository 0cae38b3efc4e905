"""Maps of objects: their boxes and neighbours, what is too small, what has holes.

A map of objects is (z, y, x) or (y, x), integers, 0 for background; ``planners.object_numbers`` numbers them.
Everything works on whole arrays.
"""

from collections.abc import Sequence

import numpy as np
import scipy

from planners.object_numbers import number_objects

__all__ = [
    "Offset",
    "OpenSides",
    "drop_small",
    "fill_holes",
    "fine_axes",
    "keep_objects",
    "number_objects",
    "object_boxes",
    "reaches",
    "shifted",
]

Offset = tuple[int, ...]

OpenSides = Sequence[tuple[bool, bool]]
"""Per axis, whether the image goes on before the first and behind the last voxel, as that of a block does."""


def keep_objects(ids: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """Keep some objects of a numbered map and number them anew; ``keep`` is bool per number, background first."""
    table = np.cumsum(keep[1:], dtype=np.int32) * keep[1:]
    return np.concatenate(([0], table)).astype(np.int32)[ids]


def object_boxes(ids: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the boxes of the objects 1 … ``count``: first voxel and shape, both objects × axes, int64."""
    low = np.full((ids.ndim, count + 1), np.iinfo(np.int64).max)
    high = np.full((ids.ndim, count + 1), -1)
    places = np.nonzero(ids)
    numbers = ids[places]
    for axis, place in enumerate(places):
        np.minimum.at(low[axis], numbers, place)
        np.maximum.at(high[axis], numbers, place)
    return low[:, 1:].T.copy(), (high - low + 1)[:, 1:].T.copy()


def shifted(offset: Offset) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Give the places of all voxels whose neighbour at an offset exists, and those of the neighbours."""
    here = tuple(slice(max(-step, 0), -step if step > 0 else None) for step in offset)
    there = tuple(slice(max(step, 0), step if step < 0 else None) for step in offset)
    return here, there


def fine_axes(num_axes: int, spacing: Sequence[float] | None) -> tuple[int, ...]:
    """Tell the axes whose spacing is less than twice the finest; along the others one voxel is a long way."""
    spacing = spacing or (1.0,) * num_axes
    return tuple(axis for axis in range(num_axes) if spacing[axis] < 2 * min(spacing))


def drop_small(ids: np.ndarray, smallest: int, open_sides: OpenSides | None = None) -> np.ndarray:
    """Drop objects of fewer voxels, unless they reach a side behind which the image goes on; number the others anew."""
    sizes = np.bincount(ids.ravel())
    keep = (sizes >= smallest) & (sizes > 0)
    keep |= reaches(ids, len(sizes) - 1, open_sides)
    return keep_objects(ids, keep)


def reaches(ids: np.ndarray, count: int, open_sides: OpenSides | None) -> np.ndarray:
    """Tell which objects reach a side behind which the image goes on; bool per number, background first."""
    result = np.zeros(count + 1, dtype=bool)
    for axis, (before, behind) in enumerate(open_sides or ()):
        for is_open, place in ((before, 0), (behind, -1)):
            if is_open:
                result[np.take(ids, place, axis).ravel()] = True
    result[0] = False
    return result


def fill_holes(ids: np.ndarray) -> np.ndarray:
    """Give each hole to the object around it: background that one object alone encloses, away from the frame."""
    holes, count = scipy.ndimage.label(ids == 0)
    outside = reaches(holes, count, [(True, True)] * ids.ndim)
    least = np.full(count + 1, np.iinfo(np.int32).max, dtype=np.int32)
    most = np.zeros(count + 1, dtype=np.int32)
    for axis in range(ids.ndim):
        before = tuple(slice(None, -1) if other == axis else slice(None) for other in range(ids.ndim))
        behind = tuple(slice(1, None) if other == axis else slice(None) for other in range(ids.ndim))
        for here, there in ((before, behind), (behind, before)):
            beside = (holes[here] > 0) & (ids[there] > 0)
            np.minimum.at(least, holes[here][beside], ids[there][beside])
            np.maximum.at(most, holes[here][beside], ids[there][beside])
    filler = np.where((least == most) & ~outside, most, 0)
    filler[0] = 0
    return np.where(ids > 0, ids, filler[holes]).astype(np.int32, copy=False)
