"""ACDC: phases come from Info.cfg, patients are groups, folds are nnU-Net's."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autoseg.challenges import prepare
from autoseg.challenges.acdc import _splits
from autoseg.challenges.base import OfficialCase
from autoseg.data.dataset import DatasetSource, open_dataset
from autoseg.data.io import open_image
from autoseg.errors import DatasetError

Make = Callable[[str, Path], Any]


def test_the_earlier_frame_need_not_be_the_diastole(make_example: Make, tmp_path: Path) -> None:
    example = make_example("acdc", tmp_path / "raw")
    dataset = open_dataset(DatasetSource(dataset=prepare("acdc", tmp_path / "raw", tmp_path / "out")))
    end_diastole = next(case for case in dataset.cases if case.id == "patient002_ED")
    official = example.root / "training" / "patient002" / "patient002_frame11.nii.gz"
    np.testing.assert_array_equal(open_image(end_diastole.images).read(), open_image([official]).read())
    assert {case.id: case.group for case in dataset.cases}["patient002_ES"] == "patient002"


def test_test_labels_are_taken_where_they_are(make_example: Make, tmp_path: Path) -> None:
    example = make_example("acdc", tmp_path / "raw")
    patient = example.root / "testing" / "patient101"
    for frame in ("01", "09"):
        source = example.root / "training" / "patient001" / "patient001_frame01_gt.nii.gz"
        (patient / f"patient101_frame{frame}_gt.nii.gz").write_bytes(source.read_bytes())
    out = prepare("acdc", example.root, tmp_path / "out")
    assert sorted(path.name for path in (out / "labelsTs").iterdir()) == [
        "patient101_ED.nii.gz",
        "patient101_ES.nii.gz",
    ]


def test_a_patient_without_its_phases_is_named(make_example: Make, tmp_path: Path) -> None:
    example = make_example("acdc", tmp_path / "raw")
    (example.root / "training" / "patient001" / "Info.cfg").write_text("Group: DCM\n")
    (example.root / "testing" / "patient101" / "patient101_frame09.nii.gz").unlink()
    with pytest.raises(DatasetError) as raised:
        prepare("acdc", example.root, tmp_path / "out")
    assert "case patient001: " in str(raised.value)
    assert "case patient101_ES: " in str(raised.value)


def test_folds_are_those_of_nnunet() -> None:
    """The validation patients of fold 0 as nnU-Net's rule gives them, worked out here with numpy's older interface."""
    patients = [f"patient{number:03d}" for number in range(1, 101)]
    cases = [OfficialCase(id=f"{p}_{e}", images=(), group=p) for p in patients for e in ("ED", "ES")]
    splits = _splits(cases)
    np.random.seed(1234)
    shuffled = np.array(patients)
    np.random.shuffle(shuffled)
    for fold, (train, validation) in enumerate(splits):
        assert {case[:10] for case in validation} == set(shuffled[fold::5].tolist())
        assert len(validation) == 40
        assert not {case[:10] for case in train} & {case[:10] for case in validation}
    assert _splits(cases[:8]) == []
