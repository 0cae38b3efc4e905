"""NIfTI voxels read here agree with ITK; skewed axes; damage that ITK does not see."""

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from autoseg.data import io
from autoseg.data.image import Geometry
from autoseg.errors import ImageError

Write = Callable[..., Path]
Volume = Callable[..., np.ndarray]
Same = Callable[..., None]
PLAIN_3D = Geometry(spacing_mm=(2.5, 0.75, 0.5))
BOX = ((1, 3), (2, 6), (0, 4))


def swap_nifti(raw: bytes) -> bytes:
    """Turn a little-endian NIfTI-1 file of 16-bit voxels into a big-endian one."""
    fields = [(0, 4, 1), (32, 4, 1), (36, 2, 1), (40, 2, 8), (56, 4, 3), (68, 2, 4), (76, 4, 8), (108, 4, 3)]
    fields += [(120, 2, 1), (124, 4, 4), (140, 4, 2), (252, 2, 2), (256, 4, 18), (352, 2, (len(raw) - 352) // 2)]
    swapped = bytearray(raw)
    for start, width, count in fields:
        part = np.frombuffer(raw, dtype=f"u{width}", count=count, offset=start).byteswap()
        swapped[start : start + width * count] = part.tobytes()
    return bytes(swapped)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("order", "<>")
def test_scaled_and_swapped_nifti_agrees_with_itk(
    tmp_path: Path, order: str, compressed: bool, write_itk: Write, volume: Volume, spaced: Geometry
) -> None:
    plain = write_itk(tmp_path / "a.nii", volume("int16"), spaced)
    raw = bytearray(plain.read_bytes())
    struct.pack_into("<2f", raw, 112, 0.25, -3.5)
    if order == ">":
        raw = bytearray(swap_nifti(bytes(raw)))
    path = tmp_path / ("b.nii.gz" if compressed else "b.nii")
    path.write_bytes(gzip.compress(raw) if compressed else raw)
    expected = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    image = io.open_image([path])
    assert image.dtype == expected.dtype == np.float32
    np.testing.assert_array_equal(image.read()[0], expected)
    np.testing.assert_array_equal(image.read(BOX)[0], expected[1:3, 2:6, 0:4])


def skewed(write_itk: Write, volume: Volume, tmp_path: Path, shear: float) -> Path:
    raw = bytearray(write_itk(tmp_path / "a.nii", volume("int16"), PLAIN_3D).read_bytes())
    struct.pack_into("<hh", raw, 252, 0, 1)
    struct.pack_into("<12f", raw, 280, -0.5, shear, 0, 3, 0, -0.75, 0, 4, 0, 0, 2.5, 5)
    (tmp_path / "skew.nii.gz").write_bytes(gzip.compress(bytes(raw)))
    return tmp_path / "skew.nii.gz"


def test_noise_in_the_axes_is_taken_out_and_noted(
    tmp_path: Path, volume: Volume, assert_same_place: Same, write_itk: Write
) -> None:
    path = skewed(write_itk, volume, tmp_path, 0.01)
    with pytest.raises(RuntimeError, match="orthonormal"):
        sitk.ReadImage(str(path))
    image = io.open_image([path])
    assert image.notes[0].startswith("axes made orthogonal (corners moved by 0.0")
    direction = np.array(image.geometry.direction).reshape(3, 3)
    np.testing.assert_allclose(direction @ direction.T, np.eye(3), atol=1e-12)
    assert image.geometry.origin == (-3.0, -4.0, 5.0)
    np.testing.assert_allclose(direction, np.eye(3), atol=0.02)
    np.testing.assert_array_equal(image.read(), volume("int16")[None])
    io.write_segmentation(tmp_path / "p.nii.gz", volume("uint8"), image.geometry)
    assert_same_place(io.open_label(tmp_path / "p.nii.gz").geometry, image.geometry, image.shape)


def test_sheared_axes_are_refused(tmp_path: Path, write_itk: Write, volume: Volume) -> None:
    with pytest.raises(ImageError, match=r"skew.nii.gz has axes that are not at right angles .* Resample it"):
        io.open_image([skewed(write_itk, volume, tmp_path, 0.3)])


def test_damage_inside_a_compressed_file_is_seen(tmp_path: Path, write_itk: Write, volume: Volume) -> None:
    path = write_itk(tmp_path / "a.nii.gz", volume("float32", (20, 30, 40)))
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 0xFF
    path.write_bytes(raw)
    with pytest.raises(ImageError, match=r"a.nii.gz (is truncated or damaged|cannot be read: its content is damaged)"):
        io.open_image([path]).read()
