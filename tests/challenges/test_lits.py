"""LiTS: batches in folders of any name, numbers that sort as numbers, a flat archive."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autoseg.challenges import CHALLENGES, prepare
from autoseg.challenges.official_folders import files_matching
from autoseg.errors import DatasetError

Make = Callable[[str, Path], Any]


def test_batches_may_lie_anywhere(make_example: Make, tmp_path: Path) -> None:
    example = make_example("lits", tmp_path / "raw")
    (example.root / "Training Batch 1").rename(example.root / "batch1")
    for path in (example.root / "Training Batch 2").iterdir():
        path.rename(example.root / path.name)
    out = prepare("lits", example.root, tmp_path / "out")
    assert len(list((out / "labelsTr").iterdir())) == 3
    assert not [path for path in (out / "imagesTr").iterdir() if path.name.startswith("test")]


def test_a_number_that_is_there_twice_is_refused(make_example: Make, tmp_path: Path) -> None:
    example = make_example("lits", tmp_path / "raw")
    twin = example.root / "Training Batch 2" / "volume-0.nii"
    twin.write_bytes((example.root / "Training Batch 1" / "volume-0.nii").read_bytes())
    with pytest.raises(DatasetError, match="same name"):
        prepare("lits", example.root, tmp_path / "out")


def test_names_of_a_submission() -> None:
    submission = CHALLENGES["lits"].submission
    assert submission is not None
    assert submission.name("test-volume-69") == "test-segmentation-69.nii"


def test_numbers_sort_as_numbers(tmp_path: Path) -> None:
    for number in (10, 9, 100):
        (tmp_path / f"volume-{number}.nii").touch()
    (tmp_path / "._volume-1.nii").touch()
    assert list(files_matching(tmp_path, r"volume-(\d+)\.nii")) == ["9", "10", "100"]
