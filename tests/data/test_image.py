"""Geometry in voxels, and images from memory."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from autoseg.data import io
from autoseg.data.image import Geometry, flat_geometry
from autoseg.errors import ImageError

Write = Callable[..., Path]
Volume = Callable[..., np.ndarray]
PLAIN_3D = Geometry(spacing_mm=(2.5, 0.75, 0.5))
FLAT = flat_geometry((0.75, 0.5))
BOX = ((1, 3), (2, 6), (0, 4))


def test_displacement_is_in_voxels() -> None:
    shape = (10, 20, 30)
    moved = Geometry(spacing_mm=PLAIN_3D.spacing_mm, origin=(1.0, 0.0, 0.0))
    scaled = Geometry(spacing_mm=(2.5, 0.75, 1.0))
    flipped = Geometry(spacing_mm=(2.5, 0.75, 0.5), direction=(1, 0, 0, 0, -1, 0, 0, 0, 1))
    assert PLAIN_3D.displacement(PLAIN_3D, shape) == 0
    assert PLAIN_3D.displacement(moved, shape) == pytest.approx(2)  # 1 mm of 0.5 mm
    assert PLAIN_3D.displacement(scaled, shape) == pytest.approx(29)
    assert PLAIN_3D.displacement(flipped, shape) == pytest.approx(38)
    assert FLAT.displacement(flat_geometry(known=False), (1, 9, 9)) == 0  # a PNG says nothing of its place


def test_image_from_array() -> None:
    assert io.image_from_array(np.zeros((4, 6, 5)), (3, 1, 1)).shape == (4, 6, 5)
    assert io.image_from_array(np.zeros((2, 4, 6, 5)), (3, 1, 1)).num_channels == 2
    flat = io.image_from_array(np.zeros((3, 6, 5), bool), (0.5, 0.25))
    assert (flat.shape, flat.num_channels, flat.dtype) == ((1, 6, 5), 3, np.dtype("uint8"))
    assert flat.geometry.spacing_mm == (999 * 0.5, 0.5, 0.25)
    for array, spacing in [
        (np.zeros((6, 5)), (1, 1, 1)),
        (np.zeros((0, 6, 5)), (1, 1, 1)),
        (np.zeros((4, 6, 5)), (1,)),
    ]:
        with pytest.raises(ImageError, match="is no image"):
            io.image_from_array(array, spacing)
    with pytest.raises(ImageError, match="positive millimetres"):
        io.image_from_array(np.zeros((4, 6, 5)), (1, 0, 1))
    with pytest.raises(ImageError, match="complex128 is no image"):
        io.image_from_array(np.zeros((4, 6, 5), complex), (1, 1, 1))


def test_image_from_sitk_equals_the_file(tmp_path: Path, write_itk: Write, volume: Volume, spaced: Geometry) -> None:
    path = write_itk(tmp_path / "a.nii.gz", volume("int16"), spaced)
    opened, taken = io.open_image([path]), io.image_from_sitk(sitk.ReadImage(str(path)))
    assert taken.geometry == opened.geometry
    np.testing.assert_array_equal(taken.read(BOX), opened.read(BOX))
    back = io.sitk_from_label(np.ones(taken.shape, np.uint8), taken.geometry)
    assert back.GetSpacing() == pytest.approx(sitk.ReadImage(str(path)).GetSpacing())
    assert back.GetDirection() == pytest.approx(sitk.ReadImage(str(path)).GetDirection())
