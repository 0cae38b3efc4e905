"""Two grids are compared in voxels, and their difference is put into words that are true."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.data.check_geometry import NOISE_VOXELS, SAME_VOXELS, misfit, orientation
from autoseg.data.image import Geometry, flat_geometry

SHAPE = (20, 50, 40)


def grid(direction: np.ndarray | None = None, **fields: object) -> Geometry:
    matrix = np.eye(3) if direction is None else direction
    given_fields = {"spacing_mm": (2.5, 0.8, 0.8), "origin": (10.0, -20.0, 30.0), **fields}
    return Geometry(direction=tuple(float(value) for value in matrix.ravel()), **given_fields)  # type: ignore[arg-type]


def turn(degrees: float) -> np.ndarray:
    angle = np.radians(degrees)
    return np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])


@pytest.mark.parametrize(
    ("other", "voxels", "how"),
    [
        (grid(), 0.0, "equal"),
        (grid(origin=(10.0 - 0.4, -20.0, 35.0)), 2.0, "shifted by +2 voxels along z, -0.5 voxels along x"),
        (grid(spacing_mm=(5.0, 0.8, 0.8)), 19.0, "scaled by 2 along z"),
        (grid(np.diag([-1.0, 1, 1]), origin=(10 + 39 * 0.8, -20.0, 30.0)), 39.0, "flipped along x"),
        (grid(np.diag([1.0, 1, -1])), 38.0, "flipped along z and shifted by -19 voxels along z"),
        (grid(np.eye(3)[[1, 0, 2]]), 49.0, "with axes exchanged (y for x, x for y)"),
        (grid(turn(5), origin=(10.0, -20.0, 30.0)), 4.413, "rotated by 5 degrees and shifted by"),
        (grid(turn(0.02)), 0.0171, "moved by rounding"),
        (flat_geometry((1.0, 1.0), known=False), 0.0, "equal"),
    ],
)
def test_words(other: Geometry, voxels: float, how: str) -> None:
    found = misfit(grid(), other, SHAPE)
    assert found.voxels == pytest.approx(voxels, rel=0.01)
    assert found.how.startswith(how)


def test_an_axis_of_one_voxel_does_not_count() -> None:
    flat, slab = flat_geometry((0.8, 0.8)), grid(origin=(0.0, 0.0, 70.0))
    assert misfit(flat, slab, (1, 50, 40)).how == "equal"
    assert misfit(slab, flat, (1, 50, 40)).how == "equal"


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.sampled_from([1e-6, 1e-4, 1e-2, 1.0]))
def test_distance_is_that_of_the_farthest_corner(seed: int, size: float) -> None:
    rng = np.random.default_rng(seed)
    base, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    tilted, _ = np.linalg.qr(base + size * rng.normal(size=(3, 3)) * 0.1)
    tilted *= np.sign(np.sum(tilted * base, axis=0))
    spacing = rng.uniform(0.3, 6, size=3)
    first = grid(base, spacing_mm=tuple(spacing), origin=tuple(rng.normal(size=3) * 100))
    second = grid(
        tilted,
        spacing_mm=tuple(spacing * (1 + size * rng.normal(size=3) * 0.1).clip(0.5)),
        origin=tuple(np.array(first.origin) + size * rng.normal(size=3)),
    )
    found = misfit(first, second, SHAPE)
    assert found.voxels == pytest.approx(first.displacement(second, SHAPE), rel=1e-6, abs=1e-9)
    assert (found.how == "equal") == (found.voxels < SAME_VOXELS)
    if found.voxels > 3 * NOISE_VOXELS:
        assert found.how != "moved by rounding"


@pytest.mark.parametrize(
    ("direction", "letters"),
    [
        (np.eye(3), "SPL"),
        (np.diag([-1.0, -1, 1]), "SAR"),
        (turn(20), "SPL"),
        (np.array([[0.0, 0, -1], [1, 0, 0], [0, 1, 0]]), "RSP"),
    ],
)
def test_orientation(direction: np.ndarray, letters: str) -> None:
    assert orientation(grid(direction)) == letters


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_orientation_names_each_body_axis_once(seed: int) -> None:
    direction, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    pairs = {"L": "x", "R": "x", "P": "y", "A": "y", "S": "z", "I": "z"}
    assert {pairs[letter] for letter in orientation(grid(direction))} == {"x", "y", "z"}
