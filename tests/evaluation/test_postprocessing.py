"""Postprocessing: the rules themselves, against the plain way."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.measure import label as find_components

from autoseg.errors import OptionError
from autoseg.evaluation.postprocessing import (
    ALL_FOREGROUND,
    FILL_HOLES,
    REMOVE_SMALL,
    RULES,
    Postprocessing,
    apply,
    describe,
    fill_holes,
    keep_largest_component,
    remove_small_components,
    voxel_mm3,
)


def blobs(seed: int, shape: tuple[int, ...], num_classes: int = 4) -> np.ndarray:
    """Blocks of classes with specks and holes."""
    rng = np.random.default_rng(seed)
    found = np.zeros(shape, dtype=np.uint8)
    for _ in range(4):
        corner = [int(rng.integers(0, max(size - 3, 1))) for size in shape]
        found[tuple(slice(start, start + int(rng.integers(2, 6))) for start in corner)] = rng.integers(1, num_classes)
    noise = rng.random(shape)
    found[noise < 0.06] = 0
    speckled = noise > 0.95
    found[speckled] = rng.integers(1, num_classes, shape)[speckled]
    return found


def slow_removal(segmentation: np.ndarray, classes: set[int], keep) -> np.ndarray:
    mask = np.isin(segmentation, list(classes))
    components = find_components(mask, connectivity=mask.ndim)
    sizes = {number: int((components == number).sum()) for number in range(1, components.max() + 1)}
    kept = [number for number, size in sizes.items() if keep(size, max(sizes.values()))]
    return np.where(mask & ~np.isin(components, kept), 0, segmentation)


def slow_filling(segmentation: np.ndarray, classes: set[int]) -> np.ndarray:
    """Every component of background on its own, its surroundings by dilation, in the whole image."""
    flat = segmentation.shape[0] == 1
    image = segmentation[0] if flat else segmentation
    result = image.copy()
    holes, count = ndimage.label(image == 0)
    inner = np.zeros(image.shape, dtype=bool)
    inner[(slice(1, -1),) * image.ndim] = True
    for number in range(1, count + 1):
        hole = holes == number
        if (hole & ~inner).any():
            continue
        contacts = np.zeros(256, dtype=int)
        for axis in range(image.ndim):
            for step in (-1, 1):
                beside = np.roll(hole, step, axis) & ~hole
                contacts += np.bincount(image[beside], minlength=256)
        if set(np.flatnonzero(contacts)) <= classes:
            result[hole] = contacts.argmax()
    return result[None] if flat else result


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), classes=st.sets(st.integers(1, 3), min_size=1), flat=st.booleans())
def test_rules_equal_the_plain_way(seed: int, classes: set[int], flat: bool) -> None:
    segmentation = blobs(seed, (1, 14, 13) if flat else (7, 8, 9))
    before = segmentation.copy()
    chosen = sorted(classes)
    pairs = [
        (
            keep_largest_component(segmentation, chosen),
            slow_removal(segmentation, classes, lambda one, most: one == most),
        ),
        (
            remove_small_components(segmentation, chosen, 1.6, 0.4),
            slow_removal(segmentation, classes, lambda one, most: one >= 4),
        ),
        (fill_holes(segmentation, chosen), slow_filling(segmentation, classes)),
    ]
    for result, expected in pairs:
        assert np.array_equal(result, expected)
        assert result.dtype == segmentation.dtype
    assert np.array_equal(segmentation, before)


def test_diagonal_neighbours_touch_and_ties_are_kept() -> None:
    segmentation = np.zeros((3, 3, 7), dtype=np.uint8)
    segmentation[0, 0, 0] = segmentation[1, 1, 1] = 1  # touch over a corner
    segmentation[2, 2, 5:7] = 1
    segmentation[0, 2, 4] = 1
    result = keep_largest_component(segmentation, [1])
    assert result.sum() == 4
    assert result[0, 2, 4] == 0


def ball() -> np.ndarray:
    """A hollow cube of class 1 in the middle of an image."""
    segmentation = np.zeros((7, 7, 7), dtype=np.uint8)
    segmentation[1:6, 1:6, 1:6] = 1
    segmentation[2:5, 2:5, 2:5] = 0
    return segmentation


def test_a_hole_is_filled_a_tube_and_a_cavity_that_holds_something_are_not() -> None:
    assert fill_holes(ball(), [1]).sum() == 125
    open_ball = ball()
    open_ball[1, 3, 3] = 0
    assert np.array_equal(fill_holes(open_ball, [1]), open_ball)
    leaking = ball()
    leaking[1, 1, 1:6] = 0  # an edge of the shell: the inside still touches the outside over corners alone
    assert (fill_holes(leaking, [1])[2:5, 2:5, 2:5] == 1).all()
    full = ball()
    full[3, 3, 3] = 2
    assert np.array_equal(fill_holes(full, [1]), full)
    assert (fill_holes(full, [1, 2])[2:5, 2:5, 2:5] == np.where(full[2:5, 2:5, 2:5] == 2, 2, 1)).all()


def test_in_a_2d_image_a_ring_has_a_hole_and_in_a_volume_of_two_slices_it_has_none() -> None:
    ring = np.zeros((1, 5, 5), dtype=np.uint8)
    ring[0, 1:4, 1:4], ring[0, 2, 2] = 3, 0
    assert fill_holes(ring, [3])[0, 2, 2] == 3
    tube = np.repeat(ring, 2, axis=0)
    assert np.array_equal(fill_holes(tube, [3]), tube)


def test_sizes_are_volumes_or_areas() -> None:
    segmentation = np.zeros((1, 3, 8), dtype=np.uint8)
    segmentation[0, 0, :2] = segmentation[0, 0, 4:8] = 1
    area = voxel_mm3(segmentation.shape, (999.0, 0.5, 2.0))
    assert area == 1.0
    assert voxel_mm3((3, 3, 8), (3.0, 0.5, 2.0)) == 3.0
    rule = Postprocessing(rule=REMOVE_SMALL, name="a", classes=(1,), size_mm3=2.5)
    assert apply(segmentation, [rule], area).sum() == 4
    assert apply(segmentation, [rule], 2 * area).sum() == 6
    assert "smaller than 2.5 mm³" in describe(rule)


@pytest.mark.parametrize("rule", RULES)
def test_empty_predictions_are_no_obstacle(rule: str) -> None:
    empty = np.zeros((2, 3, 4), dtype=np.uint8)
    assert not apply(empty, [Postprocessing(rule=rule, name="x", classes=(1, 2), size_mm3=5.0)], 1.0).any()


def test_rules_apply_in_order_and_unknown_ones_are_named() -> None:
    segmentation = np.array([[[1, 1, 0, 2, 2, 2, 0, 1]]], dtype=np.uint8)
    foreground = Postprocessing(name=ALL_FOREGROUND, classes=(1, 2))
    assert apply(segmentation, [foreground], 1.0).tolist() == [[[0, 0, 0, 2, 2, 2, 0, 0]]]
    assert apply(segmentation, [Postprocessing(name="one", classes=(1,)), foreground], 1.0).sum() == 6
    assert apply(segmentation, [], 1.0) is segmentation
    with pytest.raises(OptionError, match="did you mean 'largest-component'"):
        apply(segmentation, [dataclasses.replace(foreground, rule="largest-compnent")], 1.0)
    with pytest.raises(OptionError, match="all foreground has size_mm3 None; give a size"):
        apply(segmentation, [dataclasses.replace(foreground, rule=REMOVE_SMALL)], 1.0)
    assert describe(dataclasses.replace(foreground, rule=FILL_HOLES)) == "holes are filled"
