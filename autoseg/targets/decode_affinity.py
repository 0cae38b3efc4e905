"""From affinities back to objects: fragments by a watershed, then neighbours that belong together are joined.

Fragments are the pieces in which every voxel agrees with all its neighbours; a flood grows them. Two fragments belong
together where the mean affinity of all pairs of voxels between them, near and far, is above a threshold. The most
similar are joined first: in each round every pair that are each other's best is, all rounds on whole arrays.

Sources: Funke et al. 2019 (affinities, mean agglomeration); Lee et al. 2017 (long-range affinities). Joining all pairs
of mutual best neighbours at once is the nearest-neighbour chain of average linkage (Benzécri 1982) taken in parallel.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy

from autoseg.targets.flooding import find_seeds, flood
from autoseg.targets.object_maps import Offset, OpenSides, drop_small, keep_objects, number_objects, shifted


@dataclass(frozen=True, kw_only=True)
class AffinityOptions:
    """How affinity maps are decoded; what a run tunes on out-of-fold predictions.

    Attributes:
        seed: the lowest affinity to a neighbour with which a voxel may belong to a seed.
        join: mean affinity above which two fragments are one object.
        foreground: probability above which a voxel belongs to some object.
        smallest: voxels of the smallest object that is kept.
    """

    seed: float = 0.5
    join: float = 0.5
    foreground: float = 0.5
    smallest: int = 1


def decode_affinity(
    affinity: np.ndarray,
    foreground: np.ndarray,
    offsets: Sequence[Offset],
    options: AffinityOptions | None = None,
    open_sides: OpenSides | None = None,
) -> np.ndarray:
    """Find the objects in affinities.

    Args:
        affinity: probability that a voxel and the one at an offset belong to one object, offsets × space.
        foreground: probability of any object, space.
        offsets: in the order of the maps; all nearest neighbours (one voxel along one axis) are among them.
        options: see there; None: its defaults.
        open_sides: of a block of an image; small objects that reach such a side are kept.

    Returns:
        int32 map of the objects 1, 2, …, 0 for background.
    """
    options = options or AffinityOptions()
    mask = foreground > options.foreground
    near = [index for index, offset in enumerate(offsets) if sum(map(abs, offset)) == 1]
    least, mean = _agreement([(offsets[index], affinity[index]) for index in near], mask)
    seeds, _ = find_seeds(mask & (least > options.seed))
    fragments = flood(1 - mean, seeds, mask)
    # What no seed reached, such as an object one voxel thick between others, falls into pieces of its own.
    lost = mask & (fragments == 0)
    fragments = _add_pieces(fragments, lost, [(offsets[index], affinity[index]) for index in near], options.seed)
    first, second, values = _pairs_between(fragments, affinity, offsets)
    groups = agglomerate(int(fragments.max(initial=0)), first, second, values, options.join)
    ids, _ = number_objects(groups[fragments])
    return drop_small(ids, options.smallest, open_sides)


def agglomerate(count: int, first: np.ndarray, second: np.ndarray, values: np.ndarray, threshold: float) -> np.ndarray:
    """Join fragments 1 … ``count`` whose mean affinity is above a threshold, the most similar first.

    Args:
        count: of fragments.
        first, second: the fragments of each pair of voxels, never equal.
        values: affinity of each pair.
        threshold: at which to stop.

    Returns:
        Per fragment (0 first, which stays 0) the number of its group.
    """
    group = np.arange(count + 1)
    low, high = np.minimum(first, second).astype(np.int64), np.maximum(first, second).astype(np.int64)
    total: np.ndarray = values.astype(np.float64)
    number: np.ndarray = np.ones(len(values))
    while True:
        edges, place = np.unique(low * (count + 1) + high, return_inverse=True)
        total, number = np.bincount(place, total, len(edges)), np.bincount(place, number, len(edges))
        low, high = edges // (count + 1), edges % (count + 1)
        joined = _mutual_best(count, low, high, total / np.maximum(number, 1), threshold)
        if not joined.any():
            return group
        target = np.arange(count + 1)
        target[high[joined]] = low[joined]
        group = target[group]
        low, high = target[low], target[high]
        apart = low != high
        low, high = np.minimum(low, high)[apart], np.maximum(low, high)[apart]
        total, number = total[apart], number[apart]


def _mutual_best(count: int, low: np.ndarray, high: np.ndarray, mean: np.ndarray, threshold: float) -> np.ndarray:
    """Tell which edges are above the threshold and the best of both their ends; of equal ones the first."""
    order = np.lexsort((np.arange(len(mean)), -mean))
    rank = np.empty(len(mean), dtype=np.int64)
    rank[order] = np.arange(len(mean))
    best = np.full(count + 1, len(mean))
    np.minimum.at(best, low, rank)
    np.minimum.at(best, high, rank)
    return (mean > threshold) & (best[low] == rank) & (best[high] == rank)


def _agreement(maps: Sequence[tuple[Offset, np.ndarray]], mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give the least and the mean affinity of each voxel to its nearest neighbours in the image."""
    least = np.ones(mask.shape, dtype=np.float32)
    total, number = np.zeros_like(least), np.zeros_like(least)
    for offset, values in maps:
        here, there = shifted(offset)
        for end in (here, there):
            least[end] = np.minimum(least[end], values[here])
            total[end] += values[here]
            number[end] += 1
    return least, total / np.maximum(number, 1)


def _add_pieces(
    fragments: np.ndarray, lost: np.ndarray, maps: Sequence[tuple[Offset, np.ndarray]], threshold: float
) -> np.ndarray:
    """Number the pieces of what is lost, joined by affinities above a threshold, after the fragments."""
    if not lost.any():
        return fragments
    count = int(lost.sum())
    index = np.zeros(lost.shape, dtype=np.int64)
    index[lost] = np.arange(count)
    starts, ends = [], []
    for offset, values in maps:
        here, there = shifted(offset)
        linked = lost[here] & lost[there] & (values[here] > threshold)
        starts.append(index[here][linked])
        ends.append(index[there][linked])
    start, end = np.concatenate(starts), np.concatenate(ends)
    graph = scipy.sparse.coo_matrix((np.ones(len(start), dtype=bool), (start, end)), shape=(count, count))
    _, piece = scipy.sparse.csgraph.connected_components(graph, directed=False)
    result = keep_objects(fragments, np.bincount(fragments.ravel()) > 0)
    result[lost] = piece + 1 + int(result.max(initial=0))
    return result


def _pairs_between(
    fragments: np.ndarray, affinity: np.ndarray, offsets: Sequence[Offset]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """List the pairs of voxels that lie in different fragments, and their affinities."""
    firsts, seconds, values = [], [], []
    for offset, value in zip(offsets, affinity, strict=True):
        here, there = shifted(offset)
        first, second = fragments[here], fragments[there]
        between = (first != second) & (first > 0) & (second > 0)
        firsts.append(first[between])
        seconds.append(second[between])
        values.append(value[here][between])
    return np.concatenate(firsts), np.concatenate(seconds), np.concatenate(values)
