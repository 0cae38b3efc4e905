"""Segmentations are written whole, in the smallest type, with the geometry they came with."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.data import io
from autoseg.data.image import Geometry, flat_geometry
from autoseg.data.io_write import WRITERS, check_ids_fit, write_values
from autoseg.errors import ImageError, RoomError

Volume = Callable[..., np.ndarray]
Same = Callable[..., None]
PLAIN_3D = Geometry(spacing_mm=(2.5, 0.75, 0.5))
FLAT = flat_geometry((0.75, 0.5))


VALUES = {"uint8": [0, 127, 255], "uint16": [0, 300], "int16": [-1, 300], "int32": [0, 70000], "int64": [0, 2**40]}


@pytest.mark.parametrize("ending", WRITERS)
@pytest.mark.parametrize("dtype", VALUES)
def test_segmentation_round_trip(
    tmp_path: Path, ending: str, dtype: str, assert_same_place: Same, spaced: Geometry
) -> None:
    flat = ending == ".png"
    known = FLAT if flat else spaced
    geometry = PLAIN_3D if ending.startswith(".tif") else known
    label = np.random.default_rng(3).choice(VALUES[dtype], size=(1 if flat else 4, 6, 5)).astype(np.int64)
    path = tmp_path / f"case{ending}"
    if dtype not in WRITERS[ending][1]:
        with pytest.raises(ImageError, match=r"do not fit this format .* Choose .nii.gz"):
            io.write_segmentation(path, label, geometry)
        assert not list(tmp_path.iterdir())
        return
    assert io.write_segmentation(path, label, geometry) == path
    read = io.open_label(path)
    assert read.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(read.read()[0], label)
    assert_same_place(read.geometry, geometry, label.shape)
    beside = {"case.json"} if ending.startswith(".tif") else set()  # the spacing along z
    assert {item.name for item in tmp_path.iterdir()} == {path.name, *beside}


@pytest.mark.parametrize(("ending", "most"), [(".png", 2**16 - 1), (".tif", 2**31 - 1), (".nii.gz", 2**63 - 1)])
def test_a_format_holds_so_many_objects(tmp_path: Path, ending: str, most: int) -> None:
    check_ids_fit(tmp_path / f"a{ending}", most)
    with pytest.raises(ImageError, match=rf"a{ending}: {most + 1:,} objects were found.*Give the image as TIFF"):
        check_ids_fit(tmp_path / f"a{ending}", most + 1)


@pytest.mark.parametrize("ending", [".nii.gz", ".tif", ".png", ".mha", ".nrrd"])
def test_2d_segmentation_stays_2d(tmp_path: Path, ending: str, assert_same_place: Same) -> None:
    path = io.write_segmentation(tmp_path / f"a{ending}", np.ones((1, 6, 5), dtype=np.uint8), FLAT)
    assert sitk.ReadImage(str(path)).GetSize() == (5, 6)
    assert_same_place(io.open_label(path).geometry, FLAT, (1, 6, 5))


@settings(max_examples=15, deadline=None)
@given(
    st.tuples(*[st.floats(0.05, 20)] * 3),
    st.tuples(*[st.floats(-500, 500)] * 3),
    st.integers(0, 2**32 - 1),
    st.sampled_from([".nii.gz", ".nrrd", ".mha"]),
)
def test_any_geometry_survives(
    tmp_path_factory: pytest.TempPathFactory, spacing: tuple, origin: tuple, seed: int, ending: str
) -> None:
    direction = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0]
    geometry = Geometry(spacing_mm=spacing, origin=origin, direction=tuple(direction.ravel().tolist()))
    path = tmp_path_factory.mktemp("geometry") / f"a{ending}"
    label = np.zeros((3, 4, 5), dtype=np.uint8)
    once = io.open_label(io.write_segmentation(path, label, geometry)).geometry
    twice = io.open_label(io.write_segmentation(path, label, once)).geometry
    assert once.displacement(geometry, label.shape) < 2e-3  # NIfTI keeps origins as float32: 500 mm in 0.05 mm voxels
    assert twice.displacement(once, label.shape) < 1e-3


def test_what_cannot_be_written(tmp_path: Path, volume: Volume) -> None:
    with pytest.raises(ImageError, match="a volume of shape 4×6×5 cannot be written as PNG"):
        io.write_segmentation(tmp_path / "a.png", volume(), PLAIN_3D)
    with pytest.raises(ImageError, match="type float32 cannot be written"):
        io.write_segmentation(tmp_path / "a.nii.gz", volume("float32"), PLAIN_3D)
    with pytest.raises(ImageError, match="no label can be written with this ending"):
        io.write_segmentation(tmp_path / "a.xyz", volume(), PLAIN_3D)
    (tmp_path / "file").write_text("")
    with pytest.raises(ImageError, match="cannot be written"):
        io.write_segmentation(tmp_path / "file" / "a.nii.gz", volume(), PLAIN_3D)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = io.write_segmentation(tmp_path / "a.nii.gz", np.ones((2, 3, 4), np.uint8), PLAIN_3D)
    before = path.read_bytes()

    def fail(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(RoomError, match=r"a.nii.gz cannot be written: the disk is full"):
        io.write_segmentation(path, np.zeros((2, 3, 4), np.uint8), PLAIN_3D)
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["a.nii.gz"]


@pytest.mark.parametrize(("name", "dtype"), [("a.tif", np.float32), ("a.tif", np.uint8), ("a.mhd", np.uint8)])
def test_write_values_keeps_the_type(name: str, dtype: type, tmp_path: Path) -> None:
    array = (np.random.default_rng(0).random((3, 5, 4)) * 200).astype(dtype)
    geometry = Geometry(spacing_mm=(2.0, 0.5, 0.25), origin=(1.0, 2.0, 3.0))
    write_values(tmp_path / "new" / name, array, geometry)
    opened = io.open_image([tmp_path / "new" / name])
    assert opened.dtype == dtype
    np.testing.assert_array_equal(opened.read()[0], array)
    if name == "a.mhd":
        assert opened.geometry == geometry
        assert (tmp_path / "new" / "a.raw").stat().st_size == array.size
    with pytest.raises(ImageError, match="Choose one of these endings"):
        write_values(tmp_path / "a.nii.gz", array, geometry)
