"""The crop box and its mask, against scipy's hole filling."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from autoseg.preprocessing.cropping import bounding_box, box_shape, box_slices, full_box, nonzero_box, nonzero_mask


def slow_mask(image: np.ndarray) -> np.ndarray:
    return ndimage.binary_fill_holes((image != 0).any(axis=0))


@given(st.tuples(st.integers(1, 2), *[st.integers(1, 9)] * 3), st.floats(0, 1), st.integers(0, 2**32 - 1))
@settings(max_examples=200, deadline=None)
def test_mask_and_box_equal_scipy(shape: tuple[int, ...], density: float, seed: int) -> None:
    image = (np.random.default_rng(seed).uniform(size=shape) < density).astype(np.float32)
    kept = image.copy()
    slow = slow_mask(image)
    np.testing.assert_array_equal(nonzero_mask(image), slow)
    box, mask = nonzero_box(image)
    np.testing.assert_array_equal(mask, slow[box_slices(box)])
    assert box_shape(box) == mask.shape
    assert (slow.sum() == 0 and box == full_box(slow.shape)) or mask.sum() == slow.sum()
    np.testing.assert_array_equal(image, kept)


def test_ball_with_a_hole_in_any_channel() -> None:
    distance = np.linalg.norm(np.indices((20, 24, 28)) - np.array([9, 12, 14])[:, None, None, None], axis=0)
    shell = (distance < 8) & (distance > 4)
    image = np.stack([shell & (distance < 6), shell & (distance >= 6)]).astype(np.int16) * -3
    box, mask = nonzero_box(image)
    assert box == ((2, 17), (5, 20), (7, 22))
    np.testing.assert_array_equal(mask, (distance < 8)[box_slices(box)])


@pytest.mark.parametrize("shape", [(1, 8, 8), (8, 1, 8), (8, 8, 2)])
def test_flat_images_have_no_holes(shape: tuple[int, int, int]) -> None:
    ring = np.ones(shape)
    ring[tuple(slice(3, 5) if size == 8 else slice(None) for size in shape)] = 0
    box, mask = nonzero_box(ring[None])
    assert box == full_box(shape)
    np.testing.assert_array_equal(mask, ring != 0)


def test_an_empty_mask_has_no_box() -> None:
    assert bounding_box(np.zeros((3, 4, 5), dtype=bool)) is None
    box, mask = nonzero_box(np.zeros((2, 3, 4, 5)))
    assert box == ((0, 3), (0, 4), (0, 5))
    assert not mask.any()
