"""Outlines of objects as polygons that run along the edges of pixels.

The pixel in row y and column x is the square from (x, y) to (x + 1, y + 1), so a polygon's area is its number of pixels
to the last one. Pixels that share an edge belong to one piece of an object, and each piece is one polygon; the outer
ring goes round with a positive area in x and y (on a screen, where y points down, clockwise), the rings of its holes
the other way. No ring meets a corner twice: where two pixels touch at a corner only, there are two pieces, or a ring
that touches another. That is what RFC 7946 (GeoJSON) and the simple features of the OGC ask for.

All edges of all objects are found and put in order at once; what is done object by object is done for rings.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import scipy

SIDES = ((-1, 0), (0, 1), (1, 0), (0, -1))
"""The neighbours (row, column) across the upper, right, lower and left side of a pixel. Walking along a side, with the
pixel at the hand where it stays, one comes to the neighbour across the next side of this list."""

STARTS = ((0, 0), (1, 0), (1, 1), (0, 1))
"""Where the walk along each side starts, (x, y) from the pixel's own corner."""

Ring = np.ndarray
"""Corners × (x, y), int64; the first is not repeated at the end, and three in a row never lie on a line."""


@dataclass(frozen=True)
class Outline:
    """One object.

    Attributes:
        id: its number in the map.
        polygons: per piece its rings: the outer one, then those of its holes.
    """

    id: int
    polygons: tuple[tuple[Ring, ...], ...]


@dataclass(frozen=True)
class _Rings:
    """All rings: their corners one after another, and where each ring starts (one more: the end)."""

    corners: np.ndarray
    pixels: np.ndarray  # per corner (row, column): the object's pixel whose side starts there
    starts: np.ndarray

    def areas(self) -> np.ndarray:
        """Give the area that each ring goes round; negative for holes."""
        after = np.arange(1, len(self.corners) + 1)
        after[self.starts[1:] - 1] = self.starts[:-1]
        x, y = self.corners.T
        return np.add.reduceat(x * y[after] - x[after] * y, self.starts[:-1]) // 2

    def ring(self, place: int) -> Ring:
        return self.corners[self.starts[place] : self.starts[place + 1]]


def trace_outlines(ids_YX: np.ndarray) -> list[Outline]:
    """Give the outlines of all objects of a map.

    Args:
        ids_YX: integers; equal ids are one object, 0 is none; the world outside is background.

    Returns:
        One outline per object, ascending by id.
    """
    ids_YX = np.asarray(ids_YX)
    if not (ids_YX > 0).any():
        return []
    rings = _without_touching(_walk(ids_YX))
    first = rings.pixels[rings.starts[:-1]]
    owners, is_outer = ids_YX[tuple(first.T)], rings.areas() > 0
    order = np.lexsort((~is_outer, owners))  # of each object the outer rings first
    cuts = np.flatnonzero(np.diff(owners[order])) + 1
    return [
        Outline(int(owners[places[0]]), tuple(_polygons(rings, places, int(is_outer[places].sum()), ids_YX)))
        for places in np.split(order, cuts)
    ]


def _polygons(rings: _Rings, places: np.ndarray, num_outer: int, ids_YX: np.ndarray) -> Iterator[tuple[Ring, ...]]:
    """Put the rings of one object together: its outer ones come first in ``places``."""
    outer, holes = places[:num_outer].tolist(), places[num_outer:].tolist()
    polygons = {place: [rings.ring(place)] for place in outer}
    pieces = _find_pieces(rings, outer, holes, ids_YX) if len(outer) > 1 and holes else outer * len(holes)
    for hole, place in zip(holes, pieces, strict=True):
        polygons[place].append(rings.ring(hole))
    yield from map(tuple, polygons.values())


def _find_pieces(rings: _Rings, outer: Sequence[int], holes: Sequence[int], ids_YX: np.ndarray) -> list[int]:
    """Tell in which piece of an object each of its holes is, as the place of that piece's outer ring."""
    corners = np.concatenate([rings.ring(place) for place in outer])
    (left, top), (right, bottom) = corners.min(axis=0), corners.max(axis=0)
    pixels = rings.pixels[rings.starts[:-1]] - (top, left)
    part = ids_YX[top:bottom, left:right]
    pieces, _ = scipy.ndimage.label(part == part[tuple(pixels[outer[0]])])
    at = {int(pieces[tuple(pixels[place])]): place for place in outer}
    return [at[int(pieces[tuple(pixels[hole])])] for hole in holes]


def _walk(ids_YX: np.ndarray) -> _Rings:
    """Find all sides of pixels behind which another object or none is, and put them in order.

    Of two objects' pixels that touch at a corner each is walked round by itself, so rings keep to pieces of pixels that
    share edges; they may meet a corner twice.
    """
    padded = np.pad(ids_YX, 1)
    width, flat = padded.shape[1], padded.ravel()
    steps = np.array([row * width + column for row, column in SIDES])
    keys = np.concatenate([_pixels_with_side(padded, side) * 4 + side for side in range(4)])
    keys.sort(kind="stable")  # four sorted runs
    pixels, sides = keys >> 2, keys & 3
    ahead = pixels + steps[(sides + 1) & 3]
    beyond = ahead + steps[sides]
    is_convex, is_hollow = flat[ahead] != flat[pixels], flat[beyond] == flat[pixels]
    pixel_after = np.where(is_convex, pixels, np.where(is_hollow, beyond, ahead))
    side_after = (sides + np.where(is_convex, 1, np.where(is_hollow, -1, 0))) & 3
    order, starts = _order_cycles(np.searchsorted(keys, pixel_after * 4 + side_after))
    pixels, sides = pixels[order], sides[order]
    before = np.arange(-1, len(order) - 1)
    before[starts[:-1]] = starts[1:] - 1
    turns = sides != sides[before]  # where a side goes on straight there is no corner
    starts = np.concatenate(([0], np.cumsum(turns)))[starts]
    rows, columns = pixels[turns] // width - 1, pixels[turns] % width - 1
    corners = np.stack([columns, rows], axis=1) + np.array(STARTS)[sides[turns]]
    return _Rings(corners, np.stack([rows, columns], axis=1), starts)


def _pixels_with_side(padded: np.ndarray, side: int) -> np.ndarray:
    """List the pixels of objects that have an edge on a side, as flat places in a map with a margin of one pixel."""
    (height, width), (row, column) = padded.shape, SIDES[side]
    here = padded[1:-1, 1:-1]
    there = padded[1 + row : height - 1 + row, 1 + column : width - 1 + column]
    rows, columns = np.nonzero((here != there) & (here > 0))
    return (rows + 1) * width + columns + 1


def _order_cycles(following: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Put the cycles of a permutation one after another, in as many rounds as the longest one's length has bits.

    Returns:
        The elements cycle by cycle, each from its lowest on; and where cycles start (one more: the end).
    """
    places = np.arange(len(following))
    lowest, jump = places, following
    while True:  # each round looks twice as far ahead
        lower = np.minimum(lowest, lowest[jump])
        if np.array_equal(lower, lowest):
            break
        lowest, jump = lower, jump[jump]
    is_first = lowest == places
    left, to = (~is_first).astype(np.int64), np.where(is_first, places, following)
    while (more := left[to]).any():  # steps left to the lowest
        left, to = left + more, to[to]
    cycles = (np.cumsum(is_first) - 1)[lowest]
    lengths = np.bincount(cycles)
    starts = np.concatenate(([0], np.cumsum(lengths)))
    order = np.empty_like(places)
    order[starts[cycles] + (lengths[cycles] - left) % lengths[cycles]] = places
    return order, starts


def _without_touching(rings: _Rings) -> _Rings:
    """Split rings that meet a corner twice there, so that none does."""
    lengths = np.diff(rings.starts)
    numbers = np.repeat(np.arange(len(lengths)), lengths)
    width, height = (int(end) + 1 for end in rings.corners.max(axis=0))
    keys = np.sort((numbers * height + rings.corners[:, 1]) * width + rings.corners[:, 0])
    twice = np.unique(keys[1:][keys[1:] == keys[:-1]] // (width * height))
    if not len(twice):
        return rings
    touching = set(twice.tolist())
    parts: list[Sequence[int] | np.ndarray] = []
    for place, (start, stop) in enumerate(zip(rings.starts[:-1].tolist(), rings.starts[1:].tolist(), strict=True)):
        parts += _split(rings.corners, start, stop) if place in touching else [np.arange(start, stop)]
    order = np.concatenate([np.asarray(part) for part in parts])
    starts = np.concatenate(([0], np.cumsum([len(part) for part in parts])))
    return _Rings(rings.corners[order], rings.pixels[order], starts)


def _split(corners: np.ndarray, start: int, stop: int) -> list[list[int]]:
    """Split one ring at the corners that it meets again; gives places in ``corners``."""
    points = [(x, y) for x, y in corners[start:stop].tolist()]
    found: list[list[int]] = []
    path: list[int] = []
    met: dict[tuple[int, int], int] = {}
    for place, point in enumerate(points):
        since = met.setdefault(point, len(path))
        if since == len(path):
            path.append(place)
            continue
        found.append(path[since:])
        for passed in path[since + 1 :]:
            del met[points[passed]]
        del path[since + 1 :]
    return [[start + place for place in part] for part in (*found, path)]
