"""AMOS22: CT up to number 500, the organisers' division as the one fold."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autoseg.challenges import CHALLENGES, prepare
from autoseg.data.dataset import DatasetSource, open_dataset
from autoseg.evaluation.protocols import PROTOCOLS

Make = Callable[[str, Path], Any]


@pytest.mark.parametrize(("name", "train", "validation"), [("amos22", 3, 2), ("amos22-ct", 2, 1)])
def test_the_fold_is_the_organisers_division(
    name: str, train: int, validation: int, make_example: Make, tmp_path: Path
) -> None:
    example = make_example(name, tmp_path / "raw")
    dataset = open_dataset(DatasetSource(dataset=prepare(name, example.root, tmp_path / "out")))
    assert dataset.splits is not None
    (fold,) = dataset.splits.folds
    assert (len(fold.train), len(fold.validation)) == (train, validation)
    assert "amos_0008" in fold.validation


def test_only_ct_is_called_ct() -> None:
    """The name chooses the normalization: Hounsfield units for CT alone."""
    assert CHALLENGES["amos22-ct"].channels == ("CT",)
    assert "CT" not in CHALLENGES["amos22"].channels


def test_labels_are_those_of_the_protocol() -> None:
    values = {value: item.name for item in PROTOCOLS["amos"].structures for value in item.values}
    ours = {value: name for name, value in CHALLENGES["amos22"].labels.items() if value}
    assert {value: name.replace(" ", "") for value, name in ours.items()} == {
        value: name.replace(" ", "") for value, name in values.items()
    }


def test_without_validation_labels_they_are_named(make_example: Make, tmp_path: Path) -> None:
    example = make_example("amos22", tmp_path / "raw")
    description = json.loads((prepare("amos22", example.root, tmp_path / "out") / "dataset.json").read_text())
    assert description["numTraining"] == 5
    assert description["licence"]
