"""Medical Segmentation Decathlon: ten tasks, told apart by name; channels in 4D files; lists that lie."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autoseg.challenges import CHALLENGES, pack, prepare
from autoseg.data.dataset import DatasetSource, open_dataset, read_case
from autoseg.errors import DatasetError

Make = Callable[[str, Path], Any]


def test_a_task_is_told_by_its_list_where_its_folder_was_renamed(make_example: Make, tmp_path: Path) -> None:
    for name in ("msd01", "msd04"):
        example = make_example(name, tmp_path / name)
        renamed = example.root.rename(tmp_path / f"my_{name}")
        taken = [other for other in CHALLENGES if other.startswith("msd") and CHALLENGES[other].recognise(renamed)]
        assert taken == [name]


def test_a_folder_of_all_tasks_gives_the_one_that_is_meant(make_example: Make, tmp_path: Path) -> None:
    for name in ("msd02", "msd09"):
        make_example(name, tmp_path / "raw")
    out = prepare("msd09", tmp_path / "raw", tmp_path / "out")
    assert (out / "imagesTr" / "spleen_001_0000.nii.gz").resolve().parts[-3] == "Task09_Spleen"


def test_channels_of_one_file_stay_in_it(make_example: Make, tmp_path: Path) -> None:
    example = make_example("msd05", tmp_path / "raw")
    dataset = open_dataset(DatasetSource(dataset=prepare("msd05", example.root, tmp_path / "out")))
    assert dataset.channels == ("T2", "ADC")
    assert read_case(dataset.cases[0])[0].num_channels == 2


def test_lists_that_cannot_be_understood(make_example: Make, tmp_path: Path) -> None:
    example = make_example("msd02", tmp_path / "raw")
    description = example.root / "dataset.json"
    content = json.loads(description.read_text())
    description.write_text(json.dumps({**content, "training": ["a.nii.gz"]}))
    with pytest.raises(DatasetError, match="no pair"):
        prepare("msd02", example.root, tmp_path / "out")
    description.write_text(json.dumps({**content, "training": None}))
    with pytest.raises(DatasetError, match="no list training"):
        prepare("msd02", example.root, tmp_path / "out")


def test_every_missing_file_is_named(make_example: Make, tmp_path: Path) -> None:
    example = make_example("msd04", tmp_path / "raw")
    (example.root / "imagesTs" / "hippocampus_003.nii.gz").unlink()
    (example.root / "labelsTr" / "hippocampus_004.nii.gz").write_bytes(b"")
    with pytest.raises(DatasetError) as raised:
        prepare("msd04", example.root, tmp_path / "out")
    message = str(raised.value)
    assert "2 cases" in message
    assert "case hippocampus_004" in message
    assert "empty" in message
    assert "case hippocampus_003" in message


def test_without_the_test_images_there_is_a_dataset_all_the_same(
    make_example: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example = make_example("msd04", tmp_path / "raw")
    shutil.rmtree(example.root / "imagesTs")
    out = prepare("msd04", example.root, tmp_path / "out")
    assert "none of the listed test images is there" in capsys.readouterr().err
    assert not open_dataset(DatasetSource(dataset=out)).test_cases
    with pytest.raises(DatasetError, match="without test images"):
        pack("msd04", example.write_predictions(tmp_path / "predictions"), tmp_path, out)
