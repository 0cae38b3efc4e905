"""Error place: the cube with most of a mask, found coarsely first, and the same as counting every cube."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoseg.report.error_place import box_sums, densest


def slow_sums(mask: np.ndarray, sides: list[int]) -> np.ndarray:
    found = np.zeros(mask.shape, dtype=np.int32)
    for place in np.ndindex(mask.shape):
        box = tuple(
            slice(max(at - side // 2, 0), at + (side - 1) // 2 + 1) for at, side in zip(place, sides, strict=True)
        )
        found[place] = mask[box].sum()
    return found


@given(st.integers(0, 2**20), st.tuples(*[st.integers(1, 6)] * 3), st.tuples(*[st.integers(1, 6)] * 3))
def test_box_sums_equal_counting_every_box(seed: int, shape: tuple[int, ...], sides: tuple[int, ...]) -> None:
    mask = np.random.default_rng(seed).random(shape) < 0.4
    fitting = [min(side, size) for side, size in zip(sides, shape, strict=True)]
    np.testing.assert_array_equal(box_sums(mask, fitting), slow_sums(mask, fitting))


@given(st.integers(0, 2**20), st.tuples(*[st.integers(1, 12)] * 3))
def test_the_place_lies_in_the_mask(seed: int, shape: tuple[int, ...]) -> None:
    mask = np.random.default_rng(seed).random(shape) < 0.2
    place = densest(mask, (3.0, 1.0, 0.8))
    if not mask.any():
        assert place is None
    else:
        assert place is not None
        assert mask[place]


def test_a_thick_error_wins_over_a_large_thin_one() -> None:
    mask = np.zeros((40, 40, 40), dtype=bool)
    mask[0] = True  # 1600 voxels, one thick
    z, y, x = np.ogrid[:40, :40, :40]
    ball = (z - 25) ** 2 + (y - 12) ** 2 + (x - 30) ** 2 <= 5**2  # 515 voxels
    mask |= ball
    place = densest(mask, (1.0, 1.0, 1.0))
    assert place is not None
    assert ball[place]
    assert np.abs(np.array(place) - (25, 12, 30)).max() <= 3


@pytest.mark.parametrize("spacing", [(5.0, 0.7, 0.7), (1.0, 1.0, 1.0)])
def test_one_wrong_voxel_is_found(spacing: tuple[float, float, float]) -> None:
    mask = np.zeros((7, 60, 50), dtype=bool)
    mask[6, 59, 0] = True
    assert densest(mask, spacing) == (6, 59, 0)
