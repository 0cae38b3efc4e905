"""Outlines: the paths enclose exactly the voxels they should."""

import re

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.report.outlines import area, outline, runs


def random_map(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 3, rng.integers(1, 9, 2))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_outline_draws_every_edge_between_classes_once(seed: int) -> None:
    classes = random_map(seed)
    padded = np.pad(classes, 1)
    expected = {("h", x, y) for y, x in zip(*np.nonzero(padded[1:, 1:-1] != padded[:-1, 1:-1]), strict=True)}
    expected |= {("v", x, y) for y, x in zip(*np.nonzero(padded[1:-1, 1:] != padded[1:-1, :-1]), strict=True)}
    drawn = []
    for x, y, way, length in re.findall(r"M(\d+) (\d+)([hv])(\d+)", outline(classes)):
        for step in range(int(length)):
            drawn.append((way, int(x) + step * (way == "h"), int(y) + step * (way == "v")))
    assert len(drawn) == len(set(drawn))
    assert set(drawn) == {(way, int(x), int(y)) for way, x, y in expected}


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_area_covers_the_mask(seed: int) -> None:
    mask = random_map(seed) > 1
    covered = np.zeros(mask.shape, dtype=int)
    for x, y, length, back in re.findall(r"M(\d+) (\d+)h(\d+)v1h-(\d+)z", area(mask)):
        assert length == back
        covered[int(y), int(x) : int(x) + int(length)] += 1
    assert np.array_equal(covered, mask)


def test_runs_go_row_by_row() -> None:
    mask = np.array([[1, 1, 0, 1], [0, 0, 0, 0], [0, 1, 1, 1]], dtype=bool)
    assert runs(mask) == [(0, 0, 2), (0, 3, 1), (2, 1, 3)]
    assert outline(np.zeros((3, 4), dtype=int)) == ""
