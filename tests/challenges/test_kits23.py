"""KiTS23: cases that lie in the organisers' repository, test images that lie elsewhere, its look-alikes."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import surface_distance

from autoseg.challenges import pack, prepare, score
from autoseg.data.dataset import DatasetSource, open_dataset
from autoseg.data.image import Geometry
from autoseg.data.io import write_segmentation
from autoseg.errors import DatasetError

Make = Callable[[str, Path], Any]


def test_regions_lie_in_each_other(make_example: Make, tmp_path: Path) -> None:
    out = prepare("kits23", make_example("kits23", tmp_path / "raw").root, tmp_path / "out")
    dataset = open_dataset(DatasetSource(dataset=out))
    assert dataset.labels is not None
    assert [region.values for region in dataset.labels.regions] == [(1, 2, 3), (2, 3), (2,)]
    assert dataset.labels.region_values == (1, 3, 2)
    assert dataset.channels == ("CT",)
    assert (out / "imagesTr" / "case_00400_0000.nii.gz").resolve().name == "imaging.nii.gz"
    assert (out / "labelsTr" / "case_00400.nii.gz").resolve().parent.name == "case_00400"


def test_images_not_yet_downloaded_are_named(make_example: Make, tmp_path: Path) -> None:
    example = make_example("kits23", tmp_path / "raw")
    for case in ("case_00000", "case_00400"):
        (example.root / "dataset" / case / "imaging.nii.gz").unlink()
    with pytest.raises(DatasetError) as raised:
        prepare("kits23", example.root, tmp_path / "out")
    assert "case case_00000: " in str(raised.value)
    assert "case case_00400: " in str(raised.value)
    assert "kits23_download_data" in str(raised.value)


def test_test_images_may_lie_in_a_folder_of_their_own(make_example: Make, tmp_path: Path) -> None:
    example = make_example("kits23", tmp_path / "raw")
    images = shutil.move(example.root / "images", tmp_path / "test_images")
    predictions = example.write_predictions(tmp_path / "predictions")
    assert pack("kits23", predictions, tmp_path / "a.zip", Path(images)).is_file()
    prepare("kits23", example.root / "dataset", tmp_path / "out")
    with pytest.raises(DatasetError, match="no test images"):
        pack("kits23", predictions, tmp_path / "b.zip", example.root / "dataset")


def test_a_case_in_two_folders_is_refused(make_example: Make, tmp_path: Path) -> None:
    example = make_example("kits23", tmp_path / "raw")
    shutil.copytree(example.root / "dataset" / "case_00001", example.root / "copy" / "case_00001")
    with pytest.raises(DatasetError, match="case case_00001: it is in "):
        prepare("kits23", example.root, tmp_path / "out")


def test_data_that_may_be_of_another_year_are_noted(
    make_example: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example = make_example("kits23", tmp_path / "raw")
    prepare("kits23", example.root, tmp_path / "out")
    assert "KiTS19" not in capsys.readouterr().err
    for case in example.train:
        shutil.rmtree(example.root / "dataset" / case / "instances")
    prepare("kits23", example.root, tmp_path / "out2")
    assert "KiTS19" in capsys.readouterr().err


def test_a_shifted_prediction_is_refused(make_example: Make, tmp_path: Path) -> None:
    """The organisers compare affine matrices; so do we, and write the official one."""
    example = make_example("kits23", tmp_path / "raw")
    predictions = example.write_predictions(tmp_path / "predictions")
    geometry = example.geometry
    shifted = Geometry(spacing_mm=geometry.spacing_mm, origin=(geometry.origin[0] + 5, *geometry.origin[1:]))
    write_segmentation(predictions / "case_00589.nii.gz", np.zeros((6, 10, 12), dtype=np.uint8), shifted)
    with pytest.raises(DatasetError, match=r"case case_00589: .* voxels away from its image"):
        pack("kits23", predictions, tmp_path / "a.zip", example.root)


@pytest.mark.filterwarnings("ignore:.*scipy.ndimage.*:DeprecationWarning")  # surface-distance 0.1
def test_scores_are_the_organisers(make_example: Make, tmp_path: Path) -> None:
    """Against their formula with DeepMind's surface distances: Dice and surface Dice, each region's own tolerance."""
    example = make_example("kits23", tmp_path / "raw")
    label, prediction = np.zeros((2, 8, 20, 22), dtype=np.uint8)
    label[2:6, 4:15, 4:18], label[3:5, 6:12, 6:12], label[3, 13, 13:17] = 1, 2, 3
    prediction[2:6, 5:15, 3:17], prediction[3:6, 7:13, 6:11] = 1, 2
    write_segmentation(tmp_path / "labels" / "case_00001.nii.gz", label, example.geometry)
    write_segmentation(tmp_path / "predictions" / "case_00001.nii.gz", prediction, example.geometry)
    table = score("kits23", tmp_path / "predictions", tmp_path / "labels").table
    assert (table.metrics, len(table.structures)) == (("dice", "nsd"), 3)
    regions = (((1, 2, 3), 1.0330772532390826), ((2, 3), 1.1328796488598762), ((2,), 1.1498198361434828))
    for (values, tolerance), found in zip(regions, table.cases[0].values, strict=True):
        ours, theirs = np.isin(label, values), np.isin(prediction, values)
        distances = surface_distance.compute_surface_distances(ours, theirs, example.geometry.spacing_mm)
        expected = surface_distance.compute_surface_dice_at_tolerance(distances, tolerance)
        assert found[0] == pytest.approx(2 * (ours & theirs).sum() / (ours.sum() + theirs.sum()))
        assert found[1] == pytest.approx(expected, rel=1e-6)


def test_absent_tumours_count(make_example: Make, tmp_path: Path) -> None:
    """No mass: 1 where none is found, 0 where some is, as in the organisers' script."""
    example = make_example("kits23", tmp_path / "raw")
    kidney = np.zeros((8, 20, 22), dtype=np.uint8)
    kidney[2:6, 4:15, 4:18] = 1
    invented = kidney.copy()
    invented[3, 6, 6] = 2
    for case, prediction in (("case_00000", kidney), ("case_00001", invented)):
        write_segmentation(tmp_path / "labels" / f"{case}.nii.gz", kidney, example.geometry)
        write_segmentation(tmp_path / "predictions" / f"{case}.nii.gz", prediction, example.geometry)
    table = score("kits23", tmp_path / "predictions", tmp_path / "labels").table
    assert [case.values[1:] for case in table.cases] == [((1, 1), (1, 1)), ((0, 0), (0, 0))]
