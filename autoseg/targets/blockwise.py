"""Large images in blocks: each is decoded with a margin around it, and what lies across a border is one object.

In the middle of the overlap of two neighbours both have seen enough around a voxel to agree. There the objects of one
are matched with those of the other: two are one object where they share at least half of the smaller, and each is the
other's largest partner or has been cut by the end of its block, so that it may be a part only. Memory holds one block,
the bands along borders that are still open, and the result.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import scipy

from autoseg.targets.object_maps import OpenSides, reaches

LEAST_SHARE = 0.5  # of the smaller of two pieces that both blocks must agree on; assumption


class Maps(Protocol):
    """Dense maps, channels × space: an array, a memory map, or anything that reads a part when it is sliced."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Channels, then space."""

    def __getitem__(self, part: Any, /) -> np.ndarray: ...


Decode = Callable[[np.ndarray, OpenSides], np.ndarray]
"""(maps of a block, its open sides) → ids of its objects 1, 2, …"""


@dataclass(frozen=True)
class Block:
    """A part of an image.

    Attributes:
        index: place in the grid of blocks.
        inner: first voxel and the one behind the last, per axis; inner parts tile the image.
        outer: the same with the margin, inside the image.
    """

    index: tuple[int, ...]
    inner: tuple[tuple[int, int], ...]
    outer: tuple[tuple[int, int], ...]


def cut_blocks(shape: Sequence[int], block: Sequence[int], margin: int) -> Iterator[Block]:
    """Cut an image into blocks of about equal size, none larger than asked; in C order."""
    cuts = []
    for side, most in zip(shape, block, strict=True):
        number = max(math.ceil(side / most), 1)
        cuts.append([(side * i // number, side * (i + 1) // number) for i in range(number)])
    for index in itertools.product(*(range(len(cut)) for cut in cuts)):
        inner = tuple(cut[i] for cut, i in zip(cuts, index, strict=True))
        outer = tuple((max(a - margin, 0), min(b + margin, side)) for (a, b), side in zip(inner, shape, strict=True))
        yield Block(index, inner, outer)


def decode_blocks(
    maps: Maps, decode: Decode, block: Sequence[int], margin: int, result: np.ndarray | None = None
) -> np.ndarray:
    """Decode an image block by block.

    Args:
        maps: see there.
        decode: makes ids of the maps of one block.
        block: the largest inner part, voxels per axis.
        margin: voxels around it that are decoded too: about the diameter of the larger objects, at least 2.
        result: where to put the ids, of the image's shape and an integer type that holds them; None: a new int32 map.

    Returns:
        Ids 1, 2, … without gaps; ``result`` where it was given.
    """
    shape = tuple(maps.shape[1:])
    margin = max(margin, 2)
    if result is None:
        result = np.zeros(shape, dtype=np.int32)
    bands: dict[tuple[tuple[int, ...], int], tuple[np.ndarray, np.ndarray]] = {}
    same: list[np.ndarray] = [np.zeros((2, 0), dtype=np.int64)]
    count = 0
    for item in cut_blocks(shape, block, margin):
        part = tuple(slice(*ends) for ends in item.outer)
        sides = [(a > 0, b < side) for (a, b), side in zip(item.outer, shape, strict=True)]
        ids = decode(np.asarray(maps[(slice(None), *part)]), sides).astype(np.int64)
        cut = np.flatnonzero(reaches(ids, int(ids.max(initial=0)), sides)) + count
        ids[ids > 0] += count
        count = max(count, int(ids.max(initial=0)))
        for axis in range(len(shape)):
            before = tuple(i - (other == axis) for other, i in enumerate(item.index))
            if (band := bands.pop((before, axis), None)) is not None:
                same.append(match_pieces(band[0], _band(item, ids, axis, 0, margin), np.append(band[1], cut)))
            if item.inner[axis][1] < shape[axis]:
                bands[(item.index, axis)] = (_band(item, ids, axis, 1, margin).copy(), cut)
        own = tuple(slice(a - o, b - o) for (a, b), (o, _) in zip(item.inner, item.outer, strict=True))
        result[tuple(slice(*ends) for ends in item.inner)] = ids[own]
    return _number(result, np.concatenate(same, axis=1), count)


def match_pieces(first: np.ndarray, second: np.ndarray, cut: np.ndarray) -> np.ndarray:
    """Find the pieces of two readings of the same place that are one object.

    Args:
        first, second: ids, none of them in both.
        cut: the ids of pieces that have not been seen whole.

    Returns:
        2 × pairs: ids of the first, ids of the second.
    """
    both = (first > 0) & (second > 0)
    a, first_of = np.unique(first[both], return_inverse=True)
    b, second_of = np.unique(second[both], return_inverse=True)
    if not len(a):
        return np.zeros((2, 0), dtype=np.int64)
    pairs, shared = np.unique(first_of * len(b) + second_of, return_counts=True)
    left, right = pairs // len(b), pairs % len(b)
    smaller = np.minimum(_sizes(first, a)[left], _sizes(second, b)[right])
    most_left, most_right = np.zeros(len(a), dtype=np.int64), np.zeros(len(b), dtype=np.int64)
    np.maximum.at(most_left, left, shared)
    np.maximum.at(most_right, right, shared)
    both_best = (shared == most_left[left]) & (shared == most_right[right])
    one = both_best | np.isin(a, cut)[left] | np.isin(b, cut)[right]
    one &= shared >= LEAST_SHARE * smaller
    return np.stack([a[left[one]], b[right[one]]])


def _sizes(ids: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    values, counts = np.unique(ids, return_counts=True)
    return counts[np.searchsorted(values, wanted)]


def _band(block: Block, ids: np.ndarray, axis: int, end: int, margin: int) -> np.ndarray:
    """Take the band half a margin to both sides of a border of a block, as long as the block with half its margins."""
    half = margin // 2
    part = []
    for other, ((inner_a, inner_b), (outer_a, outer_b)) in enumerate(zip(block.inner, block.outer, strict=True)):
        low, high = (inner_a, inner_b) if other != axis else (block.inner[axis][end],) * 2
        part.append(slice(max(low - half, outer_a) - outer_a, min(high + half, outer_b) - outer_a))
    return ids[tuple(part)]


def _number(result: np.ndarray, same: np.ndarray, count: int) -> np.ndarray:
    """Give the pieces of one object one number, and leave no gaps; along the first axis, so that memory stays small."""
    graph = scipy.sparse.coo_matrix(
        (np.ones(same.shape[1], dtype=bool), (same[0], same[1])), shape=(count + 1, count + 1)
    )
    _, group = scipy.sparse.csgraph.connected_components(graph, directed=False)
    there = np.zeros(count + 1, dtype=bool)
    for layer in result:
        there[group[layer]] = True
    there[group[0]] = False
    table = (np.cumsum(there) * there)[group].astype(result.dtype)
    for layer in result:
        layer[...] = table[layer]
    return result
