"""Pieces of objects counted by runs equal those that scipy finds object by object."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage

from autoseg.data import object_pieces
from autoseg.data.object_pieces import count_pieces


def slowly(numbers: np.ndarray, count: int) -> list[int]:
    return [0] + [ndimage.label(numbers == number, np.ones((3, 3, 3)))[1] for number in range(1, count + 1)]


@settings(max_examples=60, deadline=None)
@given(arrays.arrays(np.int32, arrays.array_shapes(min_dims=3, max_dims=3, max_side=6), elements=st.integers(0, 3)))
def test_random_maps(numbers: np.ndarray) -> None:
    assert count_pieces(numbers, 3).tolist() == slowly(numbers, 3)


@pytest.mark.parametrize("at_once", [1, 3, 1 << 20])
def test_portions_change_nothing(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_pieces, "RUNS_AT_ONCE", at_once)
    numbers = np.random.default_rng(3).integers(0, 5, (3, 9, 14)).astype(np.int32)
    assert count_pieces(numbers, 4).tolist() == slowly(numbers, 4)


def test_touching_objects_are_one_piece_each_and_corners_connect() -> None:
    numbers = np.array([[[1, 1, 2, 2], [1, 1, 2, 2], [3, 0, 0, 4], [0, 3, 4, 0], [5, 0, 0, 5]]], dtype=np.int32)
    assert count_pieces(numbers, 6).tolist() == [0, 1, 1, 1, 1, 2, 0]


def test_a_map_without_objects() -> None:
    assert count_pieces(np.zeros((2, 3, 4), dtype=np.int32), 0).tolist() == [0]
