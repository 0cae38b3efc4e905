"""What a dataset.json may say: labels in all their forms, channels, groups; and labels told from values alone."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from autoseg.data.dataset import DatasetSource, infer_labels, open_dataset
from autoseg.data.dataset_json import channels_of, groups_of, labels_of, read_json
from autoseg.errors import DatasetError
from planners.labels import Labels, Region

FILE = Path("dataset.json")


def labels(declared: Any) -> Labels:
    found = labels_of({"labels": declared}, FILE)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("declared", "names", "values"),
    [
        ({"background": 0, "a": 1, "b": 2}, ("background", "a", "b"), (0, 1, 2)),
        ({"0": "background", "1": "a", "2": "b"}, ("background", "a", "b"), (0, 1, 2)),
        ({"b": 255, "background": 0, "a": 127}, ("background", "a", "b"), (0, 127, 255)),
        ({"a": 1}, ("background", "a"), (0, 1)),
        ({"a": "3", "b": 4.0, "c": [5]}, ("background", "a", "b", "c"), (0, 3, 4, 5)),
        ({"none": 0, "hole": -1}, ("none", "hole"), (0, -1)),
    ],
)
def test_label_forms(declared: Any, names: tuple[str, ...], values: tuple[int, ...]) -> None:
    found = labels(declared)
    assert (found.names, found.values, found.ignore, found.regions) == (names, values, None, ())


def test_ignore_label() -> None:
    for declared in ({"background": 0, "a": 1, "ignore": 2}, {"0": "background", "1": "a", "2": "Ignore"}):
        found = labels(declared)
        assert (found.names, found.ignore, found.ignore_index) == (("background", "a"), 2, 2)


def test_regions_are_kept_and_classes_derived() -> None:
    found = labels({"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3, "ignore": 4})
    assert found.regions == (
        Region(name="whole", values=(1, 2, 3)),
        Region(name="core", values=(2, 3)),
        Region(name="enhancing", values=(3,)),
    )
    assert found.names == ("background", "label_1", "label_2", "enhancing")
    assert (found.values, found.ignore) == ((0, 1, 2, 3, 4), 4)


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"a": 0.5}, "label 'a' has the value 0.5, which is no integer"),
        ({"a": "one"}, "label 'a' has the value 'one'"),
        ({"a": []}, "label 'a' has no value"),
        ({"a": True}, "label 'a' has the value True"),
        ({"a": 1, "b": 1}, "label value 1 is used twice"),
        ({"0": "a", "1": "a"}, "same name"),
        ({"background": 0}, "a background and at least one more class"),
        ({"background": 0, "a": 1, "ignore": [2, 3]}, "the ignore label has the values"),
        ({"background": 0, "a": 1, "ignore": 1}, "used twice"),
        ([1, 2], "Write them like"),
    ],
)
def test_faulty_labels(declared: Any, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        labels(declared)


def test_channels() -> None:
    assert channels_of({"channel_names": {"1": "T2", "0": "T1"}}, FILE) == ("T1", "T2")
    assert channels_of({"modality": {"0": "CT"}}, FILE) == ("CT",)
    assert channels_of({"channel_names": ["a", "b"]}, FILE) == ("a", "b")
    assert channels_of({}, FILE) is None
    for faulty in ({"0": "a", "2": "b"}, {"T1": "0"}, "T1", {}):
        with pytest.raises(DatasetError, match="channel_names are"):
            channels_of({"channel_names": faulty}, FILE)


def test_groups() -> None:
    expected = {"a": "1", "b": "1", "c": "2"}
    assert groups_of({"groups": {"a": 1, "b": "1", "c": "2"}}, FILE) == (expected, {})
    assert groups_of({"groups": {"1": ["a", "b"], "2": ["c"]}}, FILE) == (expected, {})
    merged, odd = groups_of({"groups": {"1": ["a"], "2": ["a", "b"], "3": ["c", "b"]}}, FILE)
    assert merged == {"a": "1", "b": "1", "c": "1"}
    assert odd["a"] == "is in the groups 1 and 2, which are taken as one"
    with pytest.raises(DatasetError, match="Write them like"):
        groups_of({"groups": ["a"]}, FILE)


def test_faulty_json_names_the_place(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text('{"labels": {\n"a": 1,}}')
    with pytest.raises(DatasetError, match=r"dataset.json is not JSON: .* in line 2"):
        read_json(tmp_path / "dataset.json")
    (tmp_path / "dataset.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DatasetError, match="no text in UTF-8"):
        read_json(tmp_path / "dataset.json")
    with pytest.raises(DatasetError, match="cannot be read"):
        read_json(tmp_path / "gone.json")
    (tmp_path / "dataset.json").write_text("[]")
    with pytest.raises(DatasetError, match="no JSON object"):
        open_dataset(DatasetSource(dataset=tmp_path))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 255], {"background": 0, "foreground": 255}),
        ([0.0, 1.0, 4.0], {"background": 0, "label_1": 1, "label_4": 4}),
        ([127, 255], {"background": 127, "foreground": 255}),
        ([-1, 0, 3], {"background": 0, "label_-1": -1, "label_3": 3}),
        ({np.uint8(0): 100, np.uint8(7): 3}, {"background": 0, "foreground": 7}),
    ],
)
def test_labels_from_values(values: Any, expected: dict[str, int]) -> None:
    found = infer_labels(values)
    assert dict(zip(found.names, found.values, strict=True)) == expected


@pytest.mark.parametrize(
    ("values", "message"),
    [([0], "hold the value 0 only"), ([], "hold nothing only"), ([0, 0.5], "fractions"), (range(2000), "2000 values")],
)
def test_values_that_are_no_labels(values: Any, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        infer_labels(values)


# ------------------------------------------------------------------------------------------- groups by expression


@pytest.fixture
def patients(tmp_path: Path) -> Path:
    for name in ("pat1_left", "pat1_right", "pat2_left"):
        for folder in ("images", "labels"):
            (tmp_path / folder).mkdir(exist_ok=True)
            sitk.WriteImage(sitk.GetImageFromArray(np.zeros((3, 4), np.uint8)), str(tmp_path / folder / f"{name}.png"))
    return tmp_path


def test_group_by(patients: Path) -> None:
    for pattern in (r"pat(\d+)", r"^pat\d+"):
        dataset = open_dataset(DatasetSource(dataset=patients, group_by=pattern))
        groups = [case.group for case in dataset.cases]
        assert groups[0] == groups[1] != groups[2]
        assert None not in groups


@pytest.mark.parametrize(
    ("pattern", "message"), [("(", "no regular expression"), ("left", "does not match pat1_right")]
)
def test_faulty_group_by(patients: Path, pattern: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        open_dataset(DatasetSource(dataset=patients, group_by=pattern))


def test_case_without_label_is_kept_apart(patients: Path) -> None:
    (patients / "labels" / "pat2_left.png").unlink()
    (patients / "dataset.json").write_text(json.dumps({"groups": {"one": ["pat1_left", "pat2_left"]}}))
    dataset = open_dataset(DatasetSource(dataset=patients))
    assert [case.id for case in dataset.cases] == ["pat1_left", "pat1_right"]
    assert [item.case for item in dataset.mismatches] == ["pat2_left"]
    assert not dataset.notes
