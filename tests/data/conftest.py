"""Small volumes, files written by ITK, and one oblique geometry, for the tests of reading and writing."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from autoseg.data.image import Geometry

OBLIQUE = np.linalg.qr(np.array([[1.0, 0.2, -0.1], [-0.3, 1.0, 0.4], [0.1, -0.2, 1.0]]))[0]


@pytest.fixture
def spaced() -> Geometry:
    """An oblique volume with three different spacings."""
    direction = tuple(OBLIQUE.ravel().tolist())
    return Geometry(spacing_mm=(3.3000001, 0.7123, 0.41), origin=(-12.25, 7.5, 100.125), direction=direction)


@pytest.fixture
def volume() -> Callable[..., np.ndarray]:
    """Give an array of random numbers over the whole range of a type."""

    def make(dtype: str = "uint8", shape: tuple[int, ...] = (4, 6, 5)) -> np.ndarray:
        rng = np.random.default_rng(7)
        if np.dtype(dtype).kind == "f":
            return rng.normal(0, 100, shape).astype(dtype)
        limits = np.iinfo(dtype)
        return rng.integers(max(limits.min, -(2**40)), min(limits.max, 2**40), shape).astype(dtype)

    return make


@pytest.fixture
def write_itk() -> Callable[..., Path]:
    """Write an array as ITK does, compressed where the format allows it."""

    def write(path: Path, array: np.ndarray, geometry: Geometry | None = None, *, vector: bool = False) -> Path:
        image = sitk.GetImageFromArray(array, isVector=vector)
        if geometry is not None:
            size = image.GetDimension()
            image.SetSpacing(geometry.file_spacing[:size])
            image.SetOrigin(geometry.origin[:size])
            image.SetDirection(np.array(geometry.direction).reshape(3, 3)[:size, :size].ravel().tolist())
        sitk.WriteImage(image, str(path), True)
        return path

    return write


@pytest.fixture
def assert_same_place() -> Callable[[Geometry, Geometry, tuple[int, ...]], None]:
    """Compare two geometries as far as 32-bit headers go."""

    def compare(first: Geometry, second: Geometry, shape: tuple[int, ...]) -> None:
        assert first.dimensions == second.dimensions
        assert second.displacement(first, shape) < 1e-4
        np.testing.assert_allclose(first.spacing_mm, second.spacing_mm, rtol=1e-6)

    return compare
