"""Count the connected pieces of each object of a map, touching objects apart, without a loop over objects.

Rows of a map are cut into runs of one id; runs of equal id that touch in neighbouring rows belong together. So the work
grows with the outlines of the objects, not with their number.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from autoseg.data.object_runs import runs_of

FACES = ((0, 1), (1, 0))
NEIGHBOURS = (*FACES, (1, -1), (1, 1))
"""Half of the rows (z, y) around a row; the other half sees the same pairs from the other side."""

RUNS_AT_ONCE = 1 << 20
"""Runs compared with a neighbouring row in one go: some tens of MB, a few pairs each."""


def count_pieces(numbers_ZYX: np.ndarray, count: int) -> np.ndarray:
    """Count the pieces of each object.

    Args:
        numbers_ZYX: objects numbered 1 … ``count``, 0 for background.
        count: how many there are.

    Returns:
        int64, one per number, background (0 pieces) first. Voxels that touch at a corner are connected.
    """
    runs, shape = _runs(numbers_ZYX), numbers_ZYX.shape
    pieces = _count(runs, count, shape, FACES, corner=0)
    torn = (pieces > 1)[runs.owners]  # few, as a rule: only these are looked at in all directions
    if not torn.any():
        return pieces
    some = _count(_Runs(*(part[torn] for part in runs)), count, shape, NEIGHBOURS, corner=1)
    return np.where(pieces > 1, some, pieces)


class _Runs(NamedTuple):
    """Runs of one id in the order of the map: start and end (exclusive), and whose they are.

    Voxels are counted along rows that have one empty voxel before and one behind.
    """

    starts: np.ndarray
    ends: np.ndarray
    owners: np.ndarray


def _runs(numbers_ZYX: np.ndarray) -> _Runs:
    _, height, length = numbers_ZYX.shape
    found = []
    for runs in runs_of(numbers_ZYX):
        row = (runs.z * height + runs.y) * (length + 2) + 1  # its first voxel, after the empty one
        found.append((row + runs.first, row + runs.last + 1, runs.number))
    starts, ends, owners = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return _Runs(starts, ends, owners)


def _count(
    runs: _Runs, count: int, shape: tuple[int, ...], rows: Sequence[tuple[int, int]], *, corner: int
) -> np.ndarray:
    """Count the pieces per number; runs of neighbouring rows touch that overlap, or come within ``corner`` voxels."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    (depth, height, length), size = shape, len(runs.starts)
    row = runs.starts // (length + 2)
    pairs = [np.zeros((2, 0), dtype=np.int64)]
    for dz, dy in rows:
        inside = (row // height + dz < depth) & (row % height + dy >= 0) & (row % height + dy < height)
        step = (dz * height + dy) * (length + 2)
        for some in _portions(np.flatnonzero(inside)):
            pairs.append(_touching(runs, some, step, corner))
    first, second = np.concatenate(pairs, axis=1)
    links = coo_array((np.ones(len(first), dtype=bool), (first, second)), shape=(size, size))
    num_pieces, piece = connected_components(links, directed=False)
    owner_of = np.zeros(num_pieces, dtype=np.int64)
    owner_of[piece] = runs.owners
    return np.bincount(owner_of, minlength=count + 1)


def _portions(places: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(places), RUNS_AT_ONCE):
        yield places[start : start + RUNS_AT_ONCE]


def _touching(runs: _Runs, some: np.ndarray, step: int, corner: int) -> np.ndarray:
    """Give the pairs (2 × n) of some runs and the runs of the same object that they touch ``step`` voxels further."""
    low = np.searchsorted(runs.ends, runs.starts[some] + (step + 1 - corner))
    high = np.searchsorted(runs.starts, runs.ends[some] + (step + corner))
    number = np.maximum(high - low, 0)
    first = np.repeat(some, number)
    second = np.arange(len(first)) + np.repeat(low - np.cumsum(number) + number, number)
    same = runs.owners[first] == runs.owners[second]
    return np.stack([first[same], second[same]])
