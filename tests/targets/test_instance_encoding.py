"""Maps of ids to dense maps: numbering, boundary, affinity, flow; the fast flow equals the slow one."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from autoseg.targets import flow_encoding, instance_encoding
from autoseg.targets.flooding import find_seeds
from autoseg.targets.flow_encoding import encode_flow, encode_flow_slowly, encode_flows, flow_errors
from autoseg.targets.instance_encoding import (
    BOUNDARY,
    INNER,
    boundary_width,
    encode_affinity,
    encode_boundary,
    encode_foreground,
)
from autoseg.targets.object_maps import drop_small, fill_holes, number_objects, object_boxes, shifted

HIGH = 2**31 - 1


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.int64])
def test_objects_are_numbered_in_the_order_of_their_ids(dtype: type) -> None:
    ids = np.array([[0, 7, 7], [3, 0, 90]], dtype=dtype)
    numbers, count = number_objects(ids)
    assert count == 3
    assert numbers.dtype == np.int32
    assert numbers.tolist() == [[0, 2, 2], [1, 0, 3]]


def test_ids_of_any_size_and_background_of_any_sign() -> None:
    ids = np.array([[-1, HIGH, 5], [HIGH - 1, 0, HIGH]], dtype=np.int64)
    numbers, count = number_objects(ids)
    assert (numbers.tolist(), count) == ([[0, 3, 1], [2, 0, 3]], 3)
    small, few = number_objects(np.array([[-3, 2, 2]]))
    assert (small.tolist(), few) == ([[0, 1, 1]], 1)


def test_tens_of_thousands_of_objects() -> None:
    ids = np.arange(200 * 200).reshape(200, 200)
    numbers, count = number_objects(ids)
    assert count == 39_999
    first, shape = object_boxes(numbers, count)
    assert (shape == 1).all()
    assert first[-1].tolist() == [199, 199]
    assert (encode_flow(ids) == 0).all(), "an object of one voxel has no direction"


@pytest.mark.parametrize("shape", [(5, 6), (3, 5, 6)])
def test_an_empty_image_has_empty_maps(shape: tuple[int, ...]) -> None:
    ids = np.zeros(shape, dtype=np.int32)
    assert not encode_foreground(ids).any()
    assert not encode_boundary(ids).any()
    assert not encode_flow(ids).any()
    assert not encode_flow_slowly(ids).any()
    offset = (1,) + (0,) * (len(shape) - 1)
    assert not any(item.any() for item in encode_affinity(ids, [offset]))


def test_boundary_of_two_squares_that_touch() -> None:
    ids = np.zeros((7, 12), dtype=int)
    ids[1:6, 1:6], ids[1:6, 6:11] = 4, 9
    expected = np.where(ids > 0, BOUNDARY, 0)
    expected[2:5, 2:5] = expected[2:5, 7:10] = INNER
    np.testing.assert_array_equal(encode_boundary(ids), expected)


def test_there_is_no_boundary_along_the_frame() -> None:
    ids = np.zeros((6, 6), dtype=int)
    ids[:, :3] = 1
    assert (encode_boundary(ids)[:, :2] == INNER).all()
    assert (encode_boundary(ids)[:, 2] == BOUNDARY).all()
    assert (encode_boundary(np.ones((4, 4), dtype=int)) == INNER).all()


def test_there_is_no_boundary_towards_what_is_unknown() -> None:
    ids = np.zeros((6, 8), dtype=int)
    ids[:, 1:4], ids[:, 4:6], ids[:, 6:] = 1, -1, 3
    found = encode_boundary(ids)
    assert (found[:, 1] == BOUNDARY).all(), "background is known"
    assert (found[:, 2:4] == INNER).all()
    assert (found[:, 6:] == INNER).all()
    same, known = encode_affinity(ids, [(0, 1), (0, 3)])
    np.testing.assert_array_equal(
        known[:, 0], [[True, True, True, False, False, False, True, False], [True, False, False, True] + 4 * [False]]
    )
    assert not same[0][:, 3:6].any()


def test_boundary_equals_its_definition(ellipses: Callable[..., Any]) -> None:
    """Where every object's core stays in one piece: Euclidean distances, object by object."""
    ids = ellipses((90, 100), 30, 11, seed=3)
    found = encode_boundary(ids, 2.0)
    for number in np.unique(ids[ids > 0]):
        mask = ids == number
        depth = ndimage.distance_transform_edt(np.pad(mask, 1, mode="edge"))[1:-1, 1:-1]
        core = depth > 2
        if find_seeds(core)[1] == 1:
            np.testing.assert_array_equal(found[mask] == INNER, core[mask])
    assert (found == INNER).sum() > 0.3 * (ids > 0).sum()


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [((70, 80), None), ((60, 90), (2.0, 1.0)), ((12, 30, 34), (3.0, 1.0, 1.0)), ((14, 20, 22), None)],
)
@pytest.mark.parametrize("width", [1.0, 2.5, 4.0, 9.0])
def test_both_ways_to_wide_boundaries_are_equal(
    shape: tuple[int, ...],
    spacing: tuple[float, ...] | None,
    width: float,
    ellipses: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ids = ellipses(shape, 40, 7)
    ids[-4:] = np.where(ids[-4:] > 0, ids[-4:], -1)
    found = []
    for most in (0, 10**6):
        monkeypatch.setattr(instance_encoding, "MOST_NEIGHBOURS", most)
        found.append(instance_encoding._distances(number_objects(ids)[0], width, spacing, ids < 0))
    for fast, slow in zip(*found, strict=True):
        assert np.isfinite(slow[ids > 0]).any()
        np.testing.assert_allclose(fast[ids > 0], slow[ids > 0], rtol=1e-6)


def test_a_face_of_another_object_is_the_nearest_whatever_else_is_near() -> None:
    """Along thick slices too, beside a third object in the plane."""
    ids = np.zeros((2, 9, 9), dtype=int)
    ids[0, :, :5], ids[1, :, :5], ids[0, :, 5:] = 1, 2, 3
    to_object, _ = instance_encoding._distances(ids, 3.0, (4.0, 1.0, 1.0), ids < 0)
    assert (to_object[:, :, :5] == 1).all()


def test_boundary_follows_the_spacing() -> None:
    ids = np.zeros((9, 21, 21), dtype=int)
    ids[1:8, 3:18, 3:18] = 1
    inner = encode_boundary(ids, 4.0, (2.0, 1.0, 1.0)) == INNER
    assert np.argwhere(inner).min(0).tolist() == [3, 7, 7]
    thick = encode_boundary(ids, 2.0, (5.0, 1.0, 1.0)) == INNER
    assert np.argwhere(thick).min(0).tolist() == [1, 5, 5], "a slice is thicker than the boundary is wide"
    ids[4:8] *= 2
    above = encode_boundary(ids, 2.0, (5.0, 1.0, 1.0))
    assert (above[3:5, 3:18, 3:18] == BOUNDARY).all(), "objects above each other stay apart however thick a slice is"


def test_small_objects_keep_an_inner_part() -> None:
    ids = np.zeros((12, 12), dtype=int)
    ids[0, 0], ids[3:5, 3:5], ids[7:10, 7:10], ids[11, 2:9] = 1, 2, 3, 4
    found = encode_boundary(ids, 3.0)
    assert all((found[ids == number] == INNER).any() for number in range(1, 5))
    assert found[8, 8] == INNER
    assert (found[7:10, 7:10] == BOUNDARY).sum() == 8


def test_the_boundary_leaves_small_objects_a_core() -> None:
    assert [boundary_width(*item) for item in ((20, 10), (100, 50), (100, 7), (100, 2), (8, 1))] == [1, 6, 3, 1, 1]


@pytest.mark.parametrize("ndim", [2, 3])
def test_affinity_equals_its_definition(ndim: int) -> None:
    ids = np.random.default_rng(ndim).integers(0, 3, (4, 5, 6)[:ndim]) * 7
    offsets = [offset for offset in itertools.product((-2, 0, 1), repeat=ndim) if any(offset)]
    same, known = encode_affinity(ids, offsets)
    for index, offset in enumerate(offsets):
        for place in np.ndindex(ids.shape):
            other = tuple(np.add(place, offset))
            inside = all(0 <= step < side for step, side in zip(other, ids.shape, strict=True))
            assert known[(index, *place)] == (inside and bool(ids[place] or ids[other]))
            assert same[(index, *place)] == (inside and ids[place] == ids[other] > 0)


def test_places_and_their_neighbours() -> None:
    here, there = shifted((1, -2))
    grid = np.arange(20).reshape(4, 5)
    np.testing.assert_array_equal(grid[there] - grid[here], 3)


@pytest.mark.parametrize(
    ("shape", "count", "radius"), [((60, 70), 25, 8), ((80, 80), 3, 35), ((14, 20, 22), 12, 6), ((8, 9), 9, 1.5)]
)
def test_the_fast_flow_has_the_effect_of_the_slow_one(
    shape: tuple[int, ...], count: int, radius: float, ellipses: Callable[..., Any]
) -> None:
    """Boxes diffuse as long as their own size asks, the slow one as long as the largest object's: some degrees."""
    ids = ellipses(shape, count, radius, seed=1)
    fast, slow = encode_flow(ids), encode_flow_slowly(ids)
    length = np.linalg.norm(slow, axis=0)
    np.testing.assert_allclose(np.linalg.norm(fast, axis=0), length, atol=1e-5)
    cosine = (fast * slow).sum(0)[length > 0.5]
    assert np.median(cosine) > 0.9999
    assert np.mean(cosine > np.cos(np.radians(10))) > 0.98


@pytest.mark.parametrize("ndim", [2, 3])
def test_the_fast_flow_is_the_slow_one_where_one_box_holds_the_image(ndim: int) -> None:
    ids = np.zeros((11, 14, 14)[-ndim:], dtype=int)
    ids[(slice(2, 8),) * ndim] = 3
    fast, slow = encode_flow(ids), encode_flow_slowly(ids)
    np.testing.assert_allclose(fast, slow, atol=1e-6)


@pytest.mark.parametrize("shape", [(60, 50), (14, 20, 18)])
def test_flow_depends_neither_on_its_batch_nor_on_how_boxes_are_laid(
    shape: tuple[int, ...], ellipses: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = np.stack(
        [number_objects(ellipses(shape, 12, 5.0, seed))[0] for seed in range(3)] + [np.zeros(shape, np.int32)]
    )
    together = encode_flows(ids)
    assert together.shape == (4, len(shape), *shape)
    np.testing.assert_array_equal(together, np.stack([encode_flow(item) for item in ids]))
    for factor in (1.01, 4.0):
        monkeypatch.setitem(flow_encoding.BOX_LADDER, len(shape), factor)
        np.testing.assert_array_equal(encode_flows(ids), together)


def test_flow_points_to_the_centre_of_a_disc() -> None:
    y, x = np.mgrid[-12:13, -12:13]
    ids = (y**2 + x**2 <= 110).astype(int)
    flow = encode_flow(ids)
    far = (ids > 0) & (y**2 + x**2 > 9)
    towards = -np.stack([y, x])[:, far] / np.hypot(y, x)[far]
    assert (flow[:, far] * towards).sum(0).min() > 0.97


def test_flow_follows_a_line_of_one_voxel_to_its_end() -> None:
    ids = np.zeros((3, 140), dtype=int)
    ids[1, 1:139] = 1
    flow = encode_flow(ids)
    np.testing.assert_allclose(flow[1, 1, 1:60], 1)
    np.testing.assert_allclose(flow[1, 1, 80:139], -1)


def test_flow_errors_tell_the_object_whose_flow_is_wrong(ellipses: Callable[..., Any]) -> None:
    ids = ellipses((50, 50), 6, 9, seed=4)
    numbers, count = number_objects(ids)
    flow = encode_flow(ids)
    flow[:, numbers == 2] *= -1
    errors = flow_errors(numbers, count, flow)
    assert errors[1] > 3.5
    assert np.delete(errors, 1).max() < 1e-10


def test_small_objects_are_dropped_unless_the_image_goes_on_there() -> None:
    ids = np.zeros((6, 6), dtype=np.int32)
    ids[0, 0], ids[2, 2], ids[3:5, 3:5] = 1, 2, 3
    assert drop_small(ids, 2).max() == 1
    kept = drop_small(ids, 2, [(True, False), (False, False)])
    assert (kept[0, 0], kept[2, 2], kept[3, 3]) == (1, 0, 2)


def test_holes_go_to_the_one_object_around_them() -> None:
    ids = np.zeros((9, 12), dtype=np.int32)
    ids[1:6, 1:6], ids[3, 3] = 1, 0
    ids[1:8, 7:9], ids[1:8, 9:11], ids[4, 8:10] = 2, 3, 0
    ids[6:9, 1:4], ids[8, 2] = 4, 0
    filled = fill_holes(ids)
    assert filled[3, 3] == 1
    assert not filled[4, 8:10].any(), "two objects enclose it"
    assert filled[8, 2] == 0, "it opens to the frame"
    np.testing.assert_array_equal(filled[ids > 0], ids[ids > 0])
