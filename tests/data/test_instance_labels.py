"""Which classes hold instances: every way to say it, every way to say it wrongly; maps of classes beside ids."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autoseg.data.dataset import Dataset, DatasetSource, open_dataset
from autoseg.data.dataset_json import labels_of
from autoseg.data.image import flat_geometry
from autoseg.data.instance_labels import OBJECT_LABELS, with_instances
from autoseg.data.io import write_segmentation
from autoseg.errors import DatasetError
from planners.labels import Labels

FILE = Path("dataset.json")
ONE = {"background": 0, "cell": 1}
THREE = {"background": 0, "round": 5, "long": 9, "stroma": 2, "ignore": 99}


def declared(labels: Any, task: str = "auto", **content: Any) -> Labels | None:
    content = {**content, **({} if labels is None else {"labels": labels})}
    return with_instances(labels_of(content, FILE), content, FILE, task)


@pytest.mark.parametrize(
    ("labels", "content", "task", "wanted"),
    [
        (ONE, {}, "auto", ()),
        (ONE, {"instances": []}, "auto", ()),
        (ONE, {"instances": False}, "semantic", ()),
        (ONE, {"instances": ["cell"]}, "auto", ("cell",)),
        (ONE, {"instances": ["cell"]}, "instance", ("cell",)),
        (ONE, {"instances": True}, "auto", ("cell",)),
        (ONE, {}, "instance", ("cell",)),
        (THREE, {"instances": ["long", "round"]}, "auto", ("round", "long")),
        (THREE, {"instances": ["long"]}, "instance", ("long",)),
        (THREE, {"instances": True}, "auto", ("stroma", "round", "long")),
        (THREE, {}, "instance", ("stroma", "round", "long")),
        (THREE, {}, "semantic", ()),
        (None, {}, "instance", ("object",)),
        (None, {"instances": True}, "auto", ("object",)),
    ],
)
def test_what_is_said(labels: Any, content: dict[str, Any], task: str, wanted: tuple[str, ...]) -> None:
    found = declared(labels, task, **content)
    assert found is not None
    assert found.instance_classes == wanted
    assert labels is not None or found == OBJECT_LABELS


@pytest.mark.parametrize("task", ["auto", "semantic"])
def test_nothing_said(task: str) -> None:
    assert declared(None, task) is None


@pytest.mark.parametrize(
    ("labels", "content", "task", "message"),
    [
        (ONE, {"instances": "cell"}, "auto", "instances is 'cell'. List the classes"),
        (ONE, {"instances": [1]}, "auto", r"instances is \[1\]. List the classes"),
        (ONE, {"instances": {"cell": 1}}, "auto", "instances is {'cell': 1}. List the classes"),
        (ONE, {"instances": ["cel"]}, "auto", "instances names cel; classes with objects may be cell. Correct"),
        (THREE, {"instances": ["background"]}, "auto", "instances names background; classes with objects may be"),
        (THREE, {"instances": ["ignore"]}, "auto", "instances names ignore; classes with objects may be stroma, round"),
        (None, {"instances": ["cell"]}, "auto", 'no labels are declared. Declare them, like "labels": .*"cell": 1'),
        (ONE, {"instances": ["cell"]}, "semantic", "dataset.json declares instances, and --task semantic asks for .*"),
        ({"a": [1, 2], "b": [2]}, {"instances": True}, "auto", "a is a region of several. Declare classes"),
        ({"a": [1, 2], "b": [2]}, {}, "instance", "a is a region of several. Declare classes"),
        ({"background": 3, "cell": 1, "ignore": 0}, {}, "instance", "0 is the ignore label, and in a map of ids 0 is"),
    ],
)
def test_what_is_said_wrongly(labels: Any, content: dict[str, Any], task: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        declared(labels, task, **content)


# ------------------------------------------------------------------------------------------------- maps of classes


def write(path: Path, value: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_segmentation(path, np.full((1, 3, 4), value, dtype=np.uint8), flat_geometry())


def make(root: Path, images: str, labels: str, channel: str = "") -> None:
    for case in ("a", "b"):
        write(root / images / f"{case}{channel}.png")
        write(root / labels / f"{case}.tif")
        write(root / labels / "classes" / f"{case}.png", 5)


def describe(root: Path, **content: Any) -> None:
    (root / "dataset.json").write_text(json.dumps({"labels": THREE, "instances": ["round"], **content}))


def maps(dataset: Dataset) -> list[str]:
    return [str(case.classes and case.classes.relative_to(dataset.root)) for case in dataset.cases]


def test_in_plain_folders(tmp_path: Path) -> None:
    make(tmp_path, "images", "labels")
    describe(tmp_path)
    dataset = open_dataset(DatasetSource(dataset=tmp_path))
    assert maps(dataset) == ["labels/classes/a.png", "labels/classes/b.png"]
    assert dataset.mismatches == ()
    assert dataset.notes == ()
    assert dataset.task == "instance"


def test_in_nnunet_folders_and_of_test_cases(tmp_path: Path) -> None:
    make(tmp_path, "imagesTr", "labelsTr", "_0000")
    make(tmp_path, "imagesTs", "labelsTs", "_0000")
    describe(tmp_path, channel_names={"0": "grey"})
    dataset = open_dataset(DatasetSource(dataset=tmp_path))
    assert maps(dataset) == ["labelsTr/classes/a.png", "labelsTr/classes/b.png"]
    assert [case.classes for case in dataset.test_cases] == [
        tmp_path / "labelsTs" / "classes" / f"{case}.png" for case in "ab"
    ]


def test_in_decathlon_and_in_a_table_of_dataset_json(tmp_path: Path) -> None:
    make(tmp_path, "imagesTr", "labelsTr")
    listed = [{"image": f"./imagesTr/{case}.png", "label": f"./labelsTr/{case}.tif"} for case in "ab"]
    describe(tmp_path, training=listed)
    assert maps(open_dataset(DatasetSource(dataset=tmp_path))) == ["labelsTr/classes/a.png", "labelsTr/classes/b.png"]
    write(tmp_path / "other.png")
    table = {case: {"images": [f"imagesTr/{case}.png"], "label": f"labelsTr/{case}.tif"} for case in "ab"}
    describe(tmp_path, dataset={**table, "b": {**table["b"], "classes": "other.png"}})
    assert maps(open_dataset(DatasetSource(dataset=tmp_path))) == ["labelsTr/classes/a.png", "other.png"]


def test_of_folders_given_one_by_one(tmp_path: Path) -> None:
    make(tmp_path, "pictures", "ids")
    describe(tmp_path)
    source = DatasetSource(images=tmp_path / "pictures", labels=tmp_path / "ids")
    assert maps(open_dataset(source)) == ["ids/classes/a.png", "ids/classes/b.png"]


def test_in_a_csv_table(tmp_path: Path) -> None:
    make(tmp_path, "pictures", "ids")
    describe(tmp_path)
    write(tmp_path / "other.png")
    rows = ["case,image,label,classes", "a,pictures/a.png,ids/a.tif,", "b,pictures/b.png,ids/b.tif,other.png"]
    (tmp_path / "cases.csv").write_text("\n".join(rows))
    dataset = open_dataset(DatasetSource(dataset=tmp_path / "cases.csv"))
    assert [str(case.classes) for case in dataset.cases] == [
        str(tmp_path / "ids" / "classes" / "a.png"),
        str(tmp_path / "other.png"),
    ]


def test_a_missing_map_leaves_none_and_an_empty_folder_is_said(tmp_path: Path) -> None:
    make(tmp_path, "images", "labels")
    describe(tmp_path)
    (tmp_path / "labels" / "classes" / "a.png").unlink()
    assert maps(open_dataset(DatasetSource(dataset=tmp_path))) == ["None", "labels/classes/b.png"]
    (tmp_path / "labels" / "classes" / "b.png").unlink()
    with pytest.raises(DatasetError, match="labels/classes holds no images"):
        open_dataset(DatasetSource(dataset=tmp_path))


@pytest.mark.parametrize("content", [{"instances": []}, {"labels": ONE}])
def test_where_ids_tell_everything_no_map_is_kept(tmp_path: Path, content: dict[str, Any]) -> None:
    make(tmp_path, "images", "labels")
    describe(tmp_path, **{"instances": True, **content})
    assert maps(open_dataset(DatasetSource(dataset=tmp_path))) == ["None", "None"]


@pytest.mark.parametrize(
    ("content", "asked", "task"),
    [
        (None, "auto", "auto"),
        (None, "semantic", "semantic"),
        (None, "instance", "instance"),
        ({}, "auto", "instance"),
        ({"instances": []}, "auto", "semantic"),
        ({"instances": []}, "instance", "instance"),
    ],
)
def test_the_task(tmp_path: Path, content: dict[str, Any] | None, asked: str, task: str) -> None:
    make(tmp_path, "images", "labels")
    if content is not None:
        describe(tmp_path, **content)
    assert open_dataset(DatasetSource(dataset=tmp_path, task=asked)).task == task
