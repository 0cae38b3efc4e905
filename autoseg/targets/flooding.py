"""Seeds that one wrong voxel cannot join, and the flood that grows them.

Objects are never the components of a map alone: there one wrong voxel joins two of them. Everything works on whole
arrays; the flood visits each voxel a few times, wave by wave.
"""

import itertools
from collections.abc import Sequence

import numpy as np
import scipy

from autoseg.targets.object_maps import fine_axes, keep_objects, shifted

LEVELS = 32  # of height that the flood tells apart; assumption: a network's probability is no finer


def find_seeds(core: np.ndarray, bridge: int = 1, spacing: Sequence[float] | None = None) -> tuple[np.ndarray, int]:
    """Find the pieces that objects grow from, such that a narrow bridge joins no two of them.

    Layers of voxels are taken from the core until bridges are gone, and its components (joined by faces) are found; a
    component of which nothing is left is a piece as it is. Pieces that have been cut apart, yet touch in more voxels
    than a bridge has when they have grown back, are joined again. Layers are taken along the axes of fine spacing.

    Args:
        core: where seeds may be, bool.
        bridge: voxels across, up to which it joins nothing; 0: plain components.
        spacing: per axis, in any unit; None: equal.

    Returns:
        int32 map of the pieces 1, 2, … and their number.
    """
    whole, num_whole = _components(core)
    if not bridge:
        return whole, num_whole
    eroded = core.copy()
    for _ in range((bridge + 1) // 2):
        eroded = _without_surface(eroded, fine_axes(core.ndim, spacing))
    seeds, num_seeds = _components(eroded)
    owner = np.zeros(num_seeds + 1, dtype=np.int64)  # the component of each piece
    owner[seeds] = whole
    owner[0] = 0
    pieces = np.bincount(owner[1:], minlength=num_whole + 1)
    cut = pieces > 1
    cut[0] = False
    if cut.any():
        seeds, num_seeds = _join_wide(seeds, num_seeds, cut[whole], bridge)
    gone = pieces == 0
    gone[0] = False
    added = keep_objects(whole, gone)
    return np.where(added > 0, added + num_seeds, seeds).astype(np.int32, copy=False), num_seeds + int(gone.sum())


def _components(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Number the components of a mask, joined by faces; int32."""
    found, count = scipy.ndimage.label(mask)
    return np.asarray(found, dtype=np.int32), int(count)


def _join_wide(seeds: np.ndarray, num_seeds: int, mask: np.ndarray, bridge: int) -> tuple[np.ndarray, int]:
    """Join seeds that touch, grown within a mask, in more voxels on both sides than a bridge has."""
    flat = np.zeros(mask.shape, dtype=np.float32)
    grown = flood(flat, np.where(mask, seeds, 0), mask)
    tiny = np.bincount(grown[mask], minlength=num_seeds + 1) <= bridge
    middles = mask & (seeds > 0) & tiny[seeds]  # of bridges that are set in a wide opening
    if middles.any():
        seeds = np.where(middles, 0, seeds)
        grown = flood(flat, np.where(mask, seeds, 0), mask)
    ends = []
    index = np.arange(mask.size).reshape(mask.shape)
    for axis in range(mask.ndim):
        here, beyond = shifted(tuple(int(other == axis) for other in range(mask.ndim)))
        first, second = grown[here], grown[beyond]
        touch = (first != second) & (first > 0) & (second > 0)
        pair = first[touch], second[touch], index[here][touch], index[beyond][touch]
        ends += [np.stack(pair), np.stack([pair[1], pair[0], pair[3], pair[2]])]
    # Each row: a seed, another, and a voxel of the first that touches the second; counted once.
    first, second, place, _ = np.concatenate(ends, axis=1).astype(np.int64)
    edges = np.unique(np.stack([first * (num_seeds + 1) + second, place]), axis=1)[0]
    edge, voxels = np.unique(edges, return_counts=True)
    low, high = edge // (num_seeds + 1), edge % (num_seeds + 1)
    wide = voxels > bridge
    count = scipy.sparse.coo_matrix((wide.astype(np.int8), (low, high)), shape=(num_seeds + 1,) * 2).tocsr()
    _, group = scipy.sparse.csgraph.connected_components(count.multiply(count.T), directed=False)
    joined = np.where(seeds > 0, group[seeds] + 1, 0)
    joined = keep_objects(joined, np.bincount(joined.ravel()) > 0)
    return joined, int(joined.max(initial=0))


def flood(height: np.ndarray, seeds: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Grow seeds over a landscape: what lies low is taken first, what lies equally high by the nearest seed.

    Of equally near seeds the larger one takes it: the rim of a large object beside a thin one is the large one's.

    Objects grow through the faces of voxels, so that no two pass through each other at a corner; what is left over in
    the end is reached through edges and corners.

    Args:
        height: 0 … 1; told apart in 32 levels.
        seeds: map of ids, 0 where there is none; those outside the mask are left out.
        mask: what may be taken.

    Returns:
        int32 map of the seeds' ids; 0 where the mask is not reached.
    """
    grid = np.pad(np.where(mask, seeds, -1).astype(np.int32), 1, constant_values=-1)
    label = grid.ravel()
    level = np.pad((height * LEVELS).clip(0, LEVELS - 1).astype(np.uint8), 1).ravel()
    free = label == 0
    strides = [stride // grid.itemsize for stride in grid.strides]
    around = [move for move in itertools.product((-1, 0, 1), repeat=grid.ndim) if any(move)]
    for reach in (1, grid.ndim):
        moves = [int(np.dot(move, strides)) for move in around if sum(map(abs, move)) <= reach]
        _grow(label, free, level, moves)
    return np.maximum(grid[(slice(1, -1),) * grid.ndim], 0)


def _grow(label: np.ndarray, free: np.ndarray, level: np.ndarray, moves: Sequence[int]) -> None:
    """Let labels take free voxels (all flattened, with a rim that is not free): always the lowest, wave by wave."""
    place = np.flatnonzero(free)
    if not len(place):
        return
    beside = np.zeros_like(free)
    for move in moves:
        beside[place + move] = True
    sizes = np.bincount(label[label > 0])
    place = np.flatnonzero(beside & (label > 0))
    claim = np.empty(label.size, dtype=np.int32)
    waiting: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in range(LEVELS)]
    while True:
        place, owner = _free_neighbours(place, label, free, moves)
        levels = level[place]
        for height in np.flatnonzero(np.bincount(levels)):
            here = levels == height
            waiting[height].append((place[here], owner[here]))
        lowest = next((height for height in range(LEVELS) if waiting[height]), None)
        if lowest is None:
            return
        place, owner = (np.concatenate(items) for items in zip(*waiting[lowest], strict=True))
        waiting[lowest] = []
        new = free[place]
        place, owner = place[new], owner[new]
        order = np.argsort(sizes[owner], kind="stable")
        label[place[order]] = owner[order]  # of several the largest, which is written last
        turn = np.arange(len(place), dtype=np.int32)
        claim[place] = turn
        place = place[claim[place] == turn]  # each voxel once
        free[place] = False


def _free_neighbours(
    places: np.ndarray, label: np.ndarray, free: np.ndarray, moves: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """List the free neighbours of some voxels, and whose they would be."""
    found, owners = [], []
    for move in moves:
        beside = places + move
        is_free = free[beside]
        found.append(beside[is_free])
        owners.append(label[places[is_free]])
    return np.concatenate(found), np.concatenate(owners)


def _without_surface(core: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    """Take away the voxels that have a face towards the outside along some axes; the frame of the image is none."""
    result = core.copy()
    for axis in axes:
        for step in (1, -1):
            here, there = shifted(tuple(step if other == axis else 0 for other in range(core.ndim)))
            result[here] &= core[there]
    return result
