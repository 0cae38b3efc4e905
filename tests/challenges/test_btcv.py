"""BTCV: images and labels joined by number, the parts of the same page that are other data."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autoseg.challenges import pack, prepare
from autoseg.data.dataset import DatasetSource, open_dataset
from autoseg.errors import DatasetError

Make = Callable[[str, Path], Any]


def test_organs_and_files(make_example: Make, tmp_path: Path) -> None:
    out = prepare("btcv", make_example("btcv", tmp_path / "raw").root, tmp_path / "out")
    dataset = open_dataset(DatasetSource(dataset=out))
    assert dataset.labels is not None
    names = {item.value: item.name for item in dataset.labels.classes}
    assert (names[1], names[2], names[3], names[13]) == (
        "spleen",
        "right kidney",
        "left kidney",
        "left adrenal gland",
    )
    assert (out / "labelsTr" / "img0040.nii.gz").resolve().name == "label0040.nii.gz"
    assert [case.id for case in dataset.test_cases] == ["img0061", "img0062"]


def test_both_sides_of_a_missing_pair_are_named(make_example: Make, tmp_path: Path) -> None:
    example = make_example("btcv", tmp_path / "raw")
    (example.root / "Training" / "img" / "img0001.nii.gz").unlink()
    (example.root / "Training" / "label" / "label0040.nii.gz").unlink()
    with pytest.raises(DatasetError) as raised:
        prepare("btcv", example.root, tmp_path / "out")
    assert "case img0001: " in str(raised.value)
    assert "has no image" in str(raised.value)
    assert "case img0040: " in str(raised.value)
    assert "has no label" in str(raised.value)


def test_other_data_of_the_same_page_are_refused(tmp_path: Path) -> None:
    cervix = tmp_path / "cervix" / "RawData" / "Training"
    averaged = tmp_path / "averaged" / "averaged-training-images"
    for path in (
        cervix / "img" / "0507688-Image.nii.gz",
        cervix / "label" / "0507688-Mask.nii.gz",
        averaged / "DET0000101_avg.nii.gz",
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    for folder in (tmp_path / "cervix", tmp_path / "averaged"):
        with pytest.raises(DatasetError, match=r"Expected Training/img/img0001\.nii\.gz"):
            prepare("btcv", folder, tmp_path / "out")


def test_packing_says_that_the_names_are_not_sure(
    make_example: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example = make_example("btcv", tmp_path / "raw")
    pack("btcv", example.write_predictions(tmp_path / "predictions"), tmp_path / "a.zip", example.root)
    assert "not known to us" in capsys.readouterr().err
