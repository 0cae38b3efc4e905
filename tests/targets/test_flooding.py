"""Seeds that one wrong voxel does not join, and a flood like that of others."""

import heapq
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import ndimage
from skimage.segmentation import watershed

from autoseg.targets.decode_watershed import WatershedOptions, decode_boundary, decode_components
from autoseg.targets.flooding import LEVELS, find_seeds, flood
from autoseg.targets.instance_encoding import BOUNDARY, INNER, encode_boundary


def two_rooms(slanted: bool) -> np.ndarray:
    """Two rooms with a wall one voxel thick between them, straight or slanted."""
    y, x = np.mgrid[:16, :24]
    wall = x - y == 4 if slanted else x == 11
    room = (y > 0) & (y < 15) & (x > 0) & (x < 23)
    return room & ~wall


@pytest.mark.parametrize("slanted", [False, True])
def test_deleting_one_voxel_of_a_boundary_joins_components_and_not_seeds(slanted: bool) -> None:
    rooms = two_rooms(slanted)
    y, x = (8, 12) if slanted else (8, 11)
    assert not rooms[y, x]
    assert find_seeds(rooms)[1] == ndimage.label(rooms)[1] == 2
    rooms[y, x] = True
    assert ndimage.label(rooms)[1] == find_seeds(rooms, 0)[1] == 1
    assert find_seeds(rooms)[1] == 2
    inner, boundary = rooms.astype(np.float32), np.zeros(rooms.shape, dtype=np.float32)
    boundary[1:15, 1:23] = ~rooms[1:15, 1:23]
    found = decode_boundary(inner, boundary)
    assert found.max() == 2
    assert found[8, 5] != found[8, 18]
    assert decode_components(inner).max() == 1


def test_a_wide_opening_joins() -> None:
    rooms = two_rooms(slanted=False)
    rooms[8:11, 11] = True
    assert find_seeds(rooms)[1] == 1
    assert find_seeds(rooms, 3)[1] == 2


def test_what_erosion_leaves_nothing_of_is_a_seed() -> None:
    core = np.zeros((8, 8), dtype=bool)
    core[1, 1:7], core[4, 5], core[5:7, 1:3] = True, True, True
    seeds, count = find_seeds(core)
    assert count == 3
    np.testing.assert_array_equal(seeds > 0, core)


def test_along_coarse_axes_nothing_is_taken_away() -> None:
    core = np.zeros((2, 9, 9), dtype=bool)
    core[:, 1:8, 1:8], core[:, :, 4] = True, False
    core[0, 4, 4] = True
    assert find_seeds(core, 1, (4.0, 1.0, 1.0))[1] == 2
    assert find_seeds(np.zeros((3, 3), dtype=bool))[1] == 0


def lowest_passes(height: np.ndarray, sources: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Give the height one must climb to, to reach each voxel from a source through faces within a mask."""
    result = np.full(height.shape, np.inf)
    queue = [(0.0, tuple(place)) for place in np.argwhere(sources & mask)]
    while queue:
        level, place = heapq.heappop(queue)
        if level >= result[place]:
            continue
        result[place] = level
        for axis, step in itertools.product(range(height.ndim), (-1, 1)):
            other = tuple(np.add(place, [step * (axis == k) for k in range(height.ndim)]).tolist())
            if all(0 <= a < b for a, b in zip(other, height.shape, strict=True)) and mask[other]:
                heapq.heappush(queue, (max(level, height[other]), other))
    return result


@pytest.mark.parametrize("shape", [(26, 30), (8, 9, 10)])
def test_a_flood_is_a_watershed(shape: tuple[int, ...]) -> None:
    """No voxel could be reached from another seed by a lower pass; every object is in one piece."""
    generator = np.random.default_rng(0)
    height = generator.integers(0, LEVELS, shape) / LEVELS
    mask = generator.random(shape) > 0.15
    seeds = np.where(generator.random(shape) > 0.98, np.arange(height.size).reshape(shape), 0)
    seeds[(3,) * len(shape)] = 1
    found = np.where(np.isfinite(best := lowest_passes(height, seeds > 0, mask)), flood(height, seeds, mask), 0)
    assert len(np.unique(found)) > 8
    for number in np.unique(found[found > 0]):
        own = found == number
        np.testing.assert_array_equal(lowest_passes(height, seeds == number, own)[own], best[own])


@pytest.mark.parametrize(("shape", "radius"), [((120, 130), 9), ((24, 40, 40), 8)])
def test_objects_are_those_of_scikit_images_watershed(
    shape: tuple[int, ...],
    radius: float,
    ellipses: Callable[..., Any],
    precision: Callable[..., Any],
) -> None:
    ids = ellipses(shape, 60, radius, seed=8)
    core = encode_boundary(ids) == INNER
    height = 1 - ndimage.gaussian_filter(core.astype(np.float32), 0.7)
    seeds, _ = find_seeds(core)
    found, expected = flood(height, seeds, ids > 0), watershed(height, seeds, mask=ids > 0)
    assert precision(expected, found, 0.9)[0] == 1
    assert (found == expected).mean() > 0.97
    np.testing.assert_array_equal(found > 0, ids > 0)


def test_a_flood_goes_by_height_before_distance() -> None:
    height = np.array([[0.0, 0.9, 0.9, 0.1, 0.1, 0.1, 0.0]])
    seeds = np.array([[1, 0, 0, 0, 0, 0, 2]])
    assert flood(height, seeds, np.ones(height.shape, dtype=bool)).tolist() == [[1, 1, 2, 2, 2, 2, 2]]
    assert flood(height, seeds * 0, np.ones(height.shape, dtype=bool)).max() == 0


@pytest.mark.parametrize(
    ("shape", "count", "radius", "spacing"),
    [((120, 130), 60, 8, None), ((24, 40, 44), 40, 7, None), ((10, 50, 52), 30, 9, (4.0, 1.0, 1.0))],
)
def test_boundary_round_trip(
    shape: tuple[int, ...],
    count: int,
    radius: float,
    spacing: tuple[float, ...] | None,
    ellipses: Callable[..., Any],
    precision: Callable[..., Any],
) -> None:
    ids = ellipses(shape, count, radius, seed=5, anisotropy=1 if spacing is None else 4)
    ids[ids == 7] = 2**31 - 2
    large = np.isin(ids, [n for n in np.unique(ids) if (ids == n).sum() >= 12])
    ids = np.where(large, ids, 0)
    maps = encode_boundary(ids, 1.0, spacing)
    found = decode_boundary((maps == INNER) * 1.0, (maps == BOUNDARY) * 1.0, spacing=spacing)
    np.testing.assert_array_equal(found > 0, ids > 0)
    assert precision(ids, found, 0.5)[1] > 0.97
    assert decode_components((ids > 0) * 1.0).max() < found.max(), "components join what touches"


def test_tissue_without_background_is_filled(same_objects: Callable[..., Any]) -> None:
    y, x = np.mgrid[:48, :48]
    ids = 1 + (y // 12) * 4 + x // 12
    core = (encode_boundary(ids, 1.0) == INNER) * 1.0
    found = decode_boundary(core, 1 - core, WatershedOptions(foreground=0))
    assert same_objects(found, ids)


def test_nothing_is_found_in_nothing() -> None:
    empty = np.zeros((5, 6), dtype=np.float32)
    assert not decode_boundary(empty, empty).any()
    assert not decode_components(empty).any()
