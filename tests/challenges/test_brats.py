"""BraTS: regions, patients, what is missing where, and a submission's header as the organisers check it."""

import math
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from autoseg.challenges import CHALLENGES, pack, prepare, score
from autoseg.data.dataset import DatasetSource, open_dataset
from autoseg.data.image import Geometry
from autoseg.data.io import open_label, write_segmentation
from autoseg.errors import DatasetError

Make = Callable[[str, Path], Any]

HEADER = (
    *("dim[0]", "dim[1]", "dim[2]", "dim[3]", "pixdim[0]", "pixdim[1]", "pixdim[2]", "pixdim[3]"),
    *("qform_code", "qoffset_x", "qoffset_y", "qoffset_z", "quatern_b", "quatern_c", "quatern_d"),
    *("srow_x", "srow_y", "srow_z"),
)
"""Fields of a NIfTI header that say where its voxels lie."""


@pytest.mark.parametrize(("name", "enhancing"), [("brats2021", 4), ("brats2023", 3)])
def test_regions_are_painted_with_the_official_values(
    name: str, enhancing: int, make_example: Make, tmp_path: Path
) -> None:
    out = prepare(name, make_example(name, tmp_path / "raw").root, tmp_path / "out")
    labels = open_dataset(DatasetSource(dataset=out)).labels
    assert labels is not None
    assert {region.name: set(region.values) for region in labels.regions} == {
        "whole tumor": {1, 2, enhancing},
        "tumor core": {1, enhancing},
        "enhancing tumor": {enhancing},
    }
    truth, painted = np.array([0, 1, 2, enhancing]), np.zeros(4, dtype=int)
    for region, value in zip(labels.regions, labels.region_values, strict=True):
        painted[np.isin(truth, region.values)] = value
    np.testing.assert_array_equal(painted, truth)


def test_channels_are_the_files_of_the_scan(make_example: Make, tmp_path: Path) -> None:
    out = prepare("brats2021", make_example("brats2021", tmp_path / "raw").root, tmp_path / "out")
    links = [(out / "imagesTr" / f"BraTS2021_00002_{channel:04d}.nii.gz").resolve().name for channel in range(4)]
    assert links == [f"BraTS2021_00002_{channel}.nii.gz" for channel in ("t1", "t1ce", "t2", "flair")]
    out = prepare("brats2023", make_example("brats2023", tmp_path / "raw2").root, tmp_path / "out2")
    links = [(out / "imagesTr" / f"BraTS-GLI-00002-000_{channel:04d}.nii.gz").resolve().name for channel in range(4)]
    assert links == [f"BraTS-GLI-00002-000-{channel}.nii.gz" for channel in ("t1n", "t1c", "t2w", "t2f")]


def test_scans_of_one_patient_are_one_group(make_example: Make, tmp_path: Path) -> None:
    out = prepare("brats2023", make_example("brats2023", tmp_path / "raw").root, tmp_path / "out")
    groups = {case.id: case.group for case in open_dataset(DatasetSource(dataset=out)).cases}
    assert groups["BraTS-GLI-00000-000"] == groups["BraTS-GLI-00000-001"] == "BraTS-GLI-00000"
    assert groups["BraTS-GLI-00002-000"] == "BraTS-GLI-00002"


@pytest.mark.parametrize("name", ["brats2021", "brats2023"])
def test_one_archive_is_enough_to_train(name: str, make_example: Make, tmp_path: Path) -> None:
    example = make_example(name, tmp_path / "raw")
    training, validation = sorted(path for path in example.root.iterdir())
    prepare(name, training, tmp_path / "out")
    assert not open_dataset(DatasetSource(dataset=tmp_path / "out")).test_cases
    predictions = example.write_predictions(tmp_path / "predictions")
    assert pack(name, predictions, tmp_path / "a.zip", validation).is_file()
    with pytest.raises(DatasetError, match="no test images"):
        pack(name, predictions, tmp_path / "b.zip", training)
    with pytest.raises(DatasetError, match="no training case"):
        prepare(name, validation, tmp_path / "out2")


def test_every_missing_file_is_named(make_example: Make, tmp_path: Path) -> None:
    example = make_example("brats2021", tmp_path / "raw")
    training, validation = sorted(path for path in example.root.iterdir())
    (training / "BraTS2021_00000" / "BraTS2021_00000_seg.nii.gz").unlink()
    (training / "BraTS2021_00002" / "BraTS2021_00002_t2.nii.gz").write_bytes(b"")
    (validation / "BraTS2021_00013" / "BraTS2021_00013_flair.nii.gz").unlink()
    shutil.copytree(training / "BraTS2021_00003", validation / "BraTS2021_00003")
    (validation / "BraTS2021_00003" / "BraTS2021_00003_seg.nii.gz").unlink()
    with pytest.raises(DatasetError) as raised:
        prepare("brats2021", example.root, tmp_path / "out")
    message = str(raised.value)
    assert "case BraTS2021_00000: " in message
    assert "BraTS2021_00000_seg.nii.gz missing" in message
    assert "BraTS2021_00002_t2.nii.gz empty" in message
    assert "BraTS2021_00013_flair.nii.gz missing" in message
    assert "case BraTS2021_00003: it is in " in message


def test_scans_after_treatment_are_not_those_of_2023(tmp_path: Path) -> None:
    folder = tmp_path / "BraTS-GLI-00005-100"
    folder.mkdir()
    (folder / "BraTS-GLI-00005-100-t1n.nii.gz").write_bytes(b"")
    assert not CHALLENGES["brats2023"].recognise(tmp_path)


def test_submission_keeps_the_official_header(make_example: Make, tmp_path: Path) -> None:
    """The organisers compare a prediction's qform with that of their images, which lie as here."""
    example = make_example("brats2023", tmp_path / "raw")
    validation = sorted(path for path in example.root.iterdir())[1]
    for path in validation.rglob("*.nii.gz"):
        volume = sitk.GetImageFromArray(np.arange(6 * 10 * 12, dtype=np.int16).reshape(6, 10, 12))
        volume.SetOrigin((0, -239, 0))
        sitk.WriteImage(volume, str(path))
    for case, label in example.tests.items():
        volume = sitk.GetImageFromArray(label.astype(np.int32))
        volume.SetOrigin((0, -239, 0))
        (tmp_path / "predictions").mkdir(exist_ok=True)
        sitk.WriteImage(volume, str(tmp_path / "predictions" / f"{case}.nii.gz"))
    archive = pack("brats2023", tmp_path / "predictions", tmp_path / "a.zip", validation)
    with zipfile.ZipFile(archive) as file:
        file.extractall(tmp_path / "unpacked")
    for case in example.tests:
        assert header(tmp_path / "unpacked" / f"{case}.nii.gz") == header(validation / case / f"{case}-t1n.nii.gz")
    assert header(tmp_path / "unpacked" / f"{case}.nii.gz")["qoffset_y"] == "239"


def test_absent_regions_score_as_the_organisers_do(make_example: Make, tmp_path: Path) -> None:
    """No enhancing tumour: 1 and 0 mm where none is found, 0 and the image's diagonal where some is."""
    example = make_example("brats2021", tmp_path / "raw")
    without, small = np.zeros((6, 10, 12), dtype=np.uint8), np.zeros((6, 10, 12), dtype=np.uint8)
    without[2:4, 3:6, 4:8] = 1
    without[1:5, 2:8, 3:9][without[1:5, 2:8, 3:9] == 0] = 2
    small[...] = without
    small[3, 4, 5] = 4
    for folder, first, second in (("labels", without, without), ("predictions", without, small)):
        write_segmentation(tmp_path / folder / "BraTS2021_00000.nii.gz", first, example.geometry)
        write_segmentation(tmp_path / folder / "BraTS2021_00002.nii.gz", second, example.geometry)
    table = score("brats2021", tmp_path / "predictions", tmp_path / "labels").table
    enhancing = table.structures.index("enhancing tumor")
    dice, hd95 = table.metrics.index("dice"), table.metrics.index("hd95")
    found = {case.case: case.values[enhancing] for case in table.cases}
    assert (found["BraTS2021_00000"][dice], found["BraTS2021_00000"][hd95]) == (1, 0)
    assert found["BraTS2021_00002"][dice] == 0
    assert found["BraTS2021_00002"][hd95] == pytest.approx(math.hypot(240, 240, 155))


def test_a_missed_and_an_invented_lesion_count_as_lesions(tmp_path: Path) -> None:
    """Three lesions, one found, one missed, one invented: Dice 1/3, HD95 two thirds of the penalty."""
    label = np.zeros((24, 40, 40), dtype=np.uint8)
    label[4:9, 4:9, 4:9] = 3
    prediction = label.copy()
    label[4:9, 4:9, 28:33] = 3
    prediction[4:9, 28:33, 4:9] = 3
    geometry = Geometry(spacing_mm=(1.0, 1.0, 1.0))
    for folder, array in (("labels", label), ("predictions", prediction)):
        write_segmentation(tmp_path / folder / "BraTS-GLI-00000-000.nii.gz", array, geometry)
    table = score("brats2023", tmp_path / "predictions", tmp_path / "labels").table
    for values in table.cases[0].values:
        assert values[table.metrics.index("lesion_dice")] == pytest.approx(1 / 3)
        assert values[table.metrics.index("lesion_hd95")] == pytest.approx(2 / 3 * 374)
        assert values[table.metrics.index("dice")] == pytest.approx(0.5)


def test_enhancing_tumour_stays_4(make_example: Make, tmp_path: Path) -> None:
    example = make_example("brats2021", tmp_path / "raw")
    out = prepare("brats2021", example.root, tmp_path / "out")
    archive = pack("brats2021", example.write_predictions(tmp_path / "predictions"), tmp_path / "a.zip", out)
    with zipfile.ZipFile(archive) as file:
        file.extractall(tmp_path / "unpacked")
    for path in (tmp_path / "unpacked").iterdir():
        assert np.unique(open_label(path).read()).tolist() == [0, 1, 2, 4]


def header(path: Path) -> dict[str, str]:
    """Give the fields of a NIfTI header that say where its voxels lie."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    return {key: reader.GetMetaData(key) for key in HEADER if reader.HasMetaDataKey(key)}
