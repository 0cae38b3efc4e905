"""A dataset as a CSV table: channels, groups, folds, and rows that cannot be understood."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from autoseg.data.dataset import Dataset, DatasetSource, open_dataset
from autoseg.data.splits import Fold
from autoseg.errors import DatasetError


def opened(place: Path) -> Dataset:
    return open_dataset(DatasetSource(dataset=place))


def table(root: Path, text: str, name: str = "cases.csv") -> Path:
    for file in ("a.nii.gz", "b.nii.gz", "c.nii.gz"):
        (root / "scans").mkdir(exist_ok=True)
        sitk.WriteImage(sitk.GetImageFromArray(np.zeros((2, 3, 4), np.uint8)), str(root / "scans" / file))
    (root / name).write_text(text, encoding="utf-8-sig")
    return root / name


def test_table(tmp_path: Path) -> None:
    place = table(
        tmp_path,
        "Case,image_t1,image_t2,label,group,split\n"
        "a,scans/a.nii.gz,scans/b.nii.gz,scans/c.nii.gz,anna,0\n"
        "b,scans/a.nii.gz,scans/b.nii.gz,scans/c.nii.gz,ben,1\n\n"
        "c,scans/a.nii.gz,scans/b.nii.gz,,,test\n",
    )
    dataset = opened(place)
    assert (dataset.layout, dataset.channels, [case.id for case in dataset.cases]) == (
        "table",
        ("t1", "t2"),
        ["a", "b"],
    )
    assert dataset.cases[0].images == (tmp_path / "scans" / "a.nii.gz", tmp_path / "scans" / "b.nii.gz")
    assert [case.group for case in dataset.cases] == ["anna", "ben"]
    assert [case.id for case in dataset.test_cases] == ["c"]
    assert dataset.splits is not None
    assert [fold.validation for fold in dataset.splits.folds] == [("a",), ("b",)]
    assert opened(tmp_path).cases == dataset.cases  # found in its folder, too


def test_table_with_semicolons_and_a_validation_side(tmp_path: Path) -> None:
    row = "scans/a.nii.gz;scans/b.nii.gz"
    dataset = opened(table(tmp_path, f"case;image;label;split\na;{row};train\nb;{row};val\nc;{row};\n"))
    assert dataset.splits is not None
    assert dataset.splits.folds == (Fold(train=("a", "c"), validation=("b",)),)
    assert dataset.channels == ("image",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("case,label\na,b\n", "needed are case,image"),
        ("", "is empty"),
        (";\n ; \n", "is empty"),
        ("case,image,label\na,x\n,x,y\na,x,y\na,x,y\n", r"line 2 has 2 columns of 3.*line 5 repeats case a of line 4"),
        ("case,image,label,split\na,x,y,one\n", "column split of cases.csv holds 'one'"),
        ("case,image,label,split\na,x,y,1\nb,x,y,\n", "mixes fold numbers with names"),
    ],
)
def test_faulty_tables(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        opened(table(tmp_path, text))


def test_table_rows_without_files(tmp_path: Path) -> None:
    row = "scans/a.nii.gz,scans/b.nii.gz,scans/c.nii.gz"
    dataset = opened(
        table(
            tmp_path,
            f"case,image,image,label\na,{row}\nb,scans/a.nii.gz,,scans/b.nii.gz\nc,scans/a.nii.gz,scans/b.nii.gz,\n",
        )
    )
    assert dataset.channels == ("channel_0", "channel_1")
    assert [(item.case, item.kind) for item in dataset.mismatches] == [
        ("b", "missing-channel"),
        ("c", "image-without-label"),
    ]
