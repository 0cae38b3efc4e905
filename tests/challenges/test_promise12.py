"""PROMISE12: header and voxels are two files, test cases are told by their folder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autoseg.challenges import prepare
from autoseg.data.dataset import DatasetSource, open_dataset, read_case
from autoseg.errors import DatasetError

Make = Callable[[str, Path], Any]


def test_voxels_come_along_with_their_header(make_example: Make, tmp_path: Path) -> None:
    example = make_example("promise12", tmp_path / "raw")
    out = prepare("promise12", example.root, tmp_path / "out")
    for case in open_dataset(DatasetSource(dataset=out)).cases:
        image, label = read_case(case)
        assert image.read().any()
        assert label is not None
        assert label.read().any()
    assert {path.name for path in (out / "imagesTs").iterdir() if path.suffix == ".raw"} == {"Case00.raw", "Case01.raw"}


def test_equal_names_in_training_and_test_are_two_cases(make_example: Make, tmp_path: Path) -> None:
    example = make_example("promise12", tmp_path / "raw")
    dataset = open_dataset(DatasetSource(dataset=prepare("promise12", example.root, tmp_path / "out")))
    train = next(case for case in dataset.cases if case.id == "Case00")
    test = next(case for case in dataset.test_cases if case.id == "Case00")
    assert train.images[0].resolve() != test.images[0].resolve()
    assert (read_case(train)[0].read() != read_case(test)[0].read()).any()


def test_a_case_that_is_there_twice_is_refused(make_example: Make, tmp_path: Path) -> None:
    example = make_example("promise12", tmp_path / "raw")
    parts = [example.root / f"TrainingData_Part{part}" for part in (1, 2)]
    for ending in ("mhd", "raw"):
        (parts[1] / f"Case00.{ending}").write_bytes((parts[0] / f"Case00.{ending}").read_bytes())
    with pytest.raises(DatasetError, match="the same case"):
        prepare("promise12", example.root, tmp_path / "out")
