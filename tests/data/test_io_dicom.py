"""A DICOM series per folder: order, gaps, several series, damage; compared with ITK's own series reader."""

import locale
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from autoseg.data.io import open_image, open_label, write_segmentation
from autoseg.errors import ImageError

SHAPE = (5, 6, 7)
STEP, PIXELS = 2.5, (0.7, 0.8)  # along z; x, y
AXES = np.linalg.qr(np.array([[1.0, 0.1, 0.0], [-0.1, 1.0, 0.2], [0.0, -0.2, 1.0]]))[0]
AXES[:, 2] = np.cross(AXES[:, 0], AXES[:, 1])


def make_slice(path: Path, pixels: np.ndarray, place: float, number: int, **tags: str) -> None:
    image = sitk.GetImageFromArray(pixels[None].astype(np.int16))
    image.SetSpacing((*PIXELS, 1.0))
    position = np.array([10.0, -20.0, 30.0]) + AXES[:, 2] * place
    values = {
        "0008|0016": "1.2.840.10008.5.1.4.1.1.2", "0008|0060": "CT", "0008|103e": "abdomen",
        "0020|000d": "1.2.3", "0020|000e": "1.2.3.4", "0020|0013": str(number),
        "0020|0032": "\\".join(f"{value:.6f}" for value in position),
        "0020|0037": "\\".join(f"{value:.9f}" for value in (*AXES[:, 0], *AXES[:, 1])),
        "0008|0018": f"1.2.3.4.{number}.{sum(path.name.encode())}",
        "0028|1052": "-1024", "0028|1053": "1",
    }  # fmt: skip
    for key, value in {**values, **{name.replace("_", "|"): text for name, text in tags.items()}}.items():
        image.SetMetaData(key, value)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    writer.SetFileName(str(path))
    before = locale.setlocale(locale.LC_ALL)
    writer.Execute(image)
    locale.setlocale(locale.LC_ALL, before)  # GDCM's writer leaves the program in the locale C; its reader does not


def make_series(folder: Path, places: list[float], prefix: str = "", **tags: str) -> np.ndarray:
    """Write slices; file names run against the positions. Gives the array in order of position."""
    folder.mkdir(parents=True, exist_ok=True)
    array = np.random.default_rng(len(places)).integers(-1000, 1000, (len(places), *SHAPE[1:]))
    for number, place in enumerate(places):
        make_slice(folder / f"{prefix}{99 - number:02d}.dcm", array[number], place, number + 1, **tags)
    return array


@pytest.fixture
def even() -> list[float]:
    return [STEP * number for number in range(SHAPE[0])]


def test_slices_are_sorted_by_place(tmp_path: Path, even: list[float]) -> None:
    array = make_series(tmp_path / "case", even)
    image = open_image([tmp_path / "case"])
    assert (image.shape, image.num_channels, image.modality) == (SHAPE, 1, "CT")
    assert image.geometry.spacing_mm == pytest.approx((STEP, PIXELS[1], PIXELS[0]), abs=1e-5)
    assert image.geometry.origin == pytest.approx((10, -20, 30), abs=1e-5)
    np.testing.assert_allclose(np.array(image.geometry.direction).reshape(3, 3), AXES, atol=1e-6)
    np.testing.assert_array_equal(image.read()[0], array)
    np.testing.assert_array_equal(image.read(((1, 3), (2, 6), (0, 4)))[0], array[1:3, 2:6, 0:4])


def test_agrees_with_itk(tmp_path: Path, even: list[float]) -> None:
    make_series(tmp_path, even)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path)))
    expected, image = reader.Execute(), open_image([tmp_path])
    np.testing.assert_array_equal(image.read()[0], sitk.GetArrayFromImage(expected))
    np.testing.assert_allclose(image.geometry.file_spacing, expected.GetSpacing(), atol=1e-5)
    np.testing.assert_allclose(image.geometry.origin, expected.GetOrigin(), atol=1e-5)
    np.testing.assert_allclose(image.geometry.direction, expected.GetDirection(), atol=1e-5)


def test_prediction_for_a_series_is_a_volume(tmp_path: Path, even: list[float]) -> None:
    make_series(tmp_path / "case", even)
    image = open_image([tmp_path / "case"])
    label = open_label(write_segmentation(tmp_path / "out.nii.gz", np.ones(SHAPE, np.uint8), image.geometry))
    assert label.geometry.displacement(image.geometry, SHAPE) < 1e-4


def test_missing_slices_are_named(tmp_path: Path, even: list[float]) -> None:
    make_series(tmp_path, [*even[:2], *[place + STEP for place in even[2:]]])
    with pytest.raises(ImageError, match=r"not evenly spaced: 1 missing between slices 2 and 3 of 5 \(98.dcm, 97.dcm"):
        open_image([tmp_path])


def test_irregular_spacing_is_refused(tmp_path: Path, even: list[float]) -> None:
    make_series(tmp_path, [*even[:-1], even[-1] + 0.4 * STEP])
    with pytest.raises(ImageError, match=r"gap between slices 4 and 5 of 5 .*: 3.50 mm, usually 2.50"):
        open_image([tmp_path])


def test_small_irregularities_pass(tmp_path: Path, even: list[float]) -> None:
    make_series(tmp_path, [place + 0.04 * (-1) ** number for number, place in enumerate(even)])
    assert open_image([tmp_path]).shape == SHAPE


def test_doubled_slices_are_refused(tmp_path: Path, even: list[float]) -> None:
    make_series(tmp_path, [*even, even[1]])
    with pytest.raises(ImageError, match="lie at the same place"):
        open_image([tmp_path])


def test_several_series_are_listed(tmp_path: Path, even: list[float]) -> None:
    make_series(tmp_path, even)
    make_series(tmp_path, even[:3], "b", **{"0020_000e": "1.2.3.5", "0008_103e": "thin slices"})
    with pytest.raises(ImageError, match=r"2 series: abdomen \(5 slices.*\); thin slices \(3 slices.*Keep one"):
        open_image([tmp_path])


def test_a_scout_is_passed_over(tmp_path: Path, even: list[float]) -> None:
    array = make_series(tmp_path, even)
    make_series(tmp_path, [100.0], "b", **{"0020_000e": "1.2.3.5", "0008_103e": "scout"})
    image = open_image([tmp_path])
    np.testing.assert_array_equal(image.read()[0], array)
    assert image.notes == ("series of one slice passed over: scout (1 slice, b99.dcm …)",)


def test_gantry_tilt_is_refused(tmp_path: Path, even: list[float]) -> None:
    make_series(tmp_path, even)
    for number, place in enumerate(even):
        position = np.array([10.0, -20.0, 30.0]) + AXES[:, 2] * place + AXES[:, 1] * 0.3 * number
        text = "\\".join(f"{value:.6f}" for value in position)
        make_slice(tmp_path / f"{99 - number:02d}.dcm", np.zeros(SHAPE[1:]), place, number, **{"0020_0032": text})
    with pytest.raises(ImageError, match="gantry tilt"):
        open_image([tmp_path])


def test_slices_of_another_size_or_orientation(tmp_path: Path, even: list[float]) -> None:
    make_series(tmp_path, even)
    make_slice(tmp_path / "99.dcm", np.zeros((4, 4)), 0, 1)
    with pytest.raises(ImageError, match=r"has 6×7 pixels, 99.dcm|99.dcm .* has 4×4 pixels"):
        open_image([tmp_path])
    make_slice(tmp_path / "99.dcm", np.zeros(SHAPE[1:]), 0, 1, **{"0020_0037": "1\\0\\0\\0\\1\\0"})
    with pytest.raises(ImageError, match="oriented differently"):
        open_image([tmp_path])


def test_other_files_in_the_folder(tmp_path: Path, even: list[float]) -> None:
    case = tmp_path / "case" / "DICOM"
    array = make_series(case, even)
    (case / "README.txt").write_text("x" * 200)
    np.testing.assert_array_equal(open_image([tmp_path / "case"]).read()[0], array)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match="is a folder without DICOM images"):
        open_image([tmp_path / "empty"])


@pytest.mark.parametrize("kept", [0.5, -20])
def test_truncated_slice_is_named(tmp_path: Path, even: list[float], kept: float) -> None:
    make_series(tmp_path, even)
    path = tmp_path / "97.dcm"
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * kept) if kept > 0 else int(kept)])
    with pytest.raises(ImageError, match=r"97.dcm") as caught:
        open_image([tmp_path]).read()
    assert "\n" not in str(caught.value)


def test_single_file(tmp_path: Path) -> None:
    make_series(tmp_path / "case", [0.0])
    folder, file = open_image([tmp_path / "case"]), open_image([tmp_path / "case" / "99.dcm"])
    assert folder.shape == file.shape == (1, *SHAPE[1:])
    assert folder.geometry.dimensions == 3
    np.testing.assert_array_equal(folder.read(), file.read())


@pytest.mark.data
def test_real_series(data_folder: Path) -> None:
    folder = data_folder / "chaos_ct_liver" / "DICOM_anon"
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
    expected, image = reader.Execute(), open_image([folder])
    assert image.shape == (40, 512, 512)
    assert image.modality == "CT"
    np.testing.assert_allclose(image.geometry.file_spacing, expected.GetSpacing())
    np.testing.assert_allclose(image.geometry.origin, expected.GetOrigin())
    np.testing.assert_array_equal(image.read()[0], sitk.GetArrayFromImage(expected))
    # The label slices count from the head, positions from the feet: PNG k belongs to the file named i{k}.
    last = open_image([sorted(folder.glob("*.dcm"))[0]])
    np.testing.assert_array_equal(image.read(((39, 40), (0, 512), (0, 512))), last.read())


@pytest.mark.data
def test_real_series_beside_a_segmentation(data_folder: Path) -> None:
    assert open_image([data_folder / "dcmqi_dicom_seg" / "23x38x3" / "image"]).shape == (3, 38, 23)
    assert open_image([data_folder / "dcmqi_dicom_seg" / "23x38x3" / "multiframe"]).shape == (3, 38, 23)
