"""Connected components of a mask that is looked at slab by slab, so that no number per voxel is ever held whole.

Every slab is numbered by itself; numbers that touch across a border of slabs belong together. Numbering a slab again
gives the same numbers, so that what was learnt of the components can be written into the slabs afterwards.
"""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

SLAB_VOXELS = 2**24
"""Voxels numbered at a time: 64 MB of numbers. Assumption."""

MaskRows = Callable[[int, int], np.ndarray]
"""Gives the slices start to stop (exclusive) of a mask, bool (slices, y, x)."""


class SlabComponents:
    """Components of a mask, numbered 1, 2, …; 0 is what is not in the mask.

    Attributes:
        sizes: voxels per number, int64; of 0 none are counted.
        is_open: per number whether it reaches a border of the mask along an axis of more than one voxel; of 0 it does.
    """

    def __init__(self, rows: MaskRows, shape: Sequence[int], *, corners: bool) -> None:
        """Find the components.

        Args:
            rows: of the mask; asked twice for every slab if ``slabs`` is used, and the answers must be equal.
            shape: of the mask, z, y, x.
            corners: whether voxels that touch at a corner belong together (26 neighbours), or faces count alone (6).
        """
        self._rows, self._shape, self._corners = rows, tuple(shape), corners
        depth = max(SLAB_VOXELS // max(math.prod(self._shape[1:]), 1), 1)
        self._cuts = [(start, min(start + depth, shape[0])) for start in range(0, shape[0], depth)]
        self._firsts: list[int] = []  # numbers given before each slab
        sizes, borders, links = [np.zeros(1, np.int64)], [np.ones(1, bool)], []
        total, before = 0, None
        for start, stop in self._cuts:
            numbers, count = self._number(start, stop)
            self._firsts.append(total)
            sizes.append(_sizes(numbers, count)[1:])
            borders.append(self._open(numbers, count, start, stop)[1:])
            if before is not None:
                links.append(_touching(before, numbers[0], corners=corners) + np.array([[self._firsts[-2]], [total]]))
            before, total = numbers[-1].copy(), total + count
        self._of = _joined(total, links)
        count = int(self._of.max(initial=0)) + 1
        self.sizes = np.bincount(self._of, np.concatenate(sizes), count).astype(np.int64)
        self.is_open = np.bincount(self._of, np.concatenate(borders), count) > 0

    def slabs(self) -> Iterator[tuple[int, int, np.ndarray, np.ndarray]]:
        """Give every slab again: start, stop, numbers within the slab (int32), and the component of each number."""
        for (start, stop), first in zip(self._cuts, self._firsts, strict=True):
            numbers, count = self._number(start, stop)
            yield start, stop, numbers, np.concatenate([[0], self._of[first + 1 : first + 1 + count]])

    def _number(self, start: int, stop: int) -> tuple[np.ndarray, int]:
        from scipy import ndimage

        found: tuple[np.ndarray, int] = ndimage.label(
            self._rows(start, stop), structure=np.ones((3, 3, 3), bool) if self._corners else None
        )
        return found

    def _open(self, numbers: np.ndarray, count: int, start: int, stop: int) -> np.ndarray:
        found = np.zeros(count + 1, dtype=bool)
        depth, height, length = self._shape
        if depth > 1 and start == 0:
            found[np.unique(numbers[0])] = True
        if depth > 1 and stop == depth:
            found[np.unique(numbers[-1])] = True
        for axis, size in ((1, height), (2, length)):
            for side in (0, -1) if size > 1 else ():
                found[np.unique(np.take(numbers, side, axis=axis))] = True
        return found


def _sizes(numbers: np.ndarray, count: int) -> np.ndarray:
    """Count the voxels of each number, plane by plane: counting makes copies of eight bytes a voxel."""
    sizes = np.zeros(count + 1, dtype=np.int64)
    for plane in numbers:
        sizes += np.bincount(plane.reshape(-1), minlength=count + 1)
    return sizes


def _touching(upper: np.ndarray, lower: np.ndarray, *, corners: bool) -> np.ndarray:
    """Give the pairs of numbers that touch between two neighbouring planes, (2, pairs); each plane counts alone."""
    steps = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)] if corners else [(0, 0)]
    pairs = [np.zeros((2, 0), dtype=np.int64)]
    height, length = upper.shape
    for dy, dx in steps:
        above = upper[max(dy, 0) : height + min(dy, 0), max(dx, 0) : length + min(dx, 0)]
        below = lower[max(-dy, 0) : height + min(-dy, 0), max(-dx, 0) : length + min(-dx, 0)]
        both = (above > 0) & (below > 0)
        if both.any():
            pairs.append(np.unique(np.stack([above[both], below[both]]).astype(np.int64), axis=1))
    return np.concatenate(pairs, axis=1)


def _joined(total: int, links: Sequence[np.ndarray]) -> np.ndarray:
    """Give the component of every number, (total + 1,); the component of 0 is 0."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    first, second = np.concatenate([np.zeros((2, 0), np.int64), *links], axis=1)
    graph = coo_array((np.ones(len(first), bool), (first, second)), shape=(total + 1, total + 1))
    _, component = connected_components(graph, directed=False)
    assert component[0] == 0, "background touches nothing"
    found: np.ndarray = component
    return found
