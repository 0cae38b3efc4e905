"""Regions, ignore label and partly labelled cases: read from every layout, and every fault of theirs is found."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from autoseg.data.dataset import Dataset, DatasetSource, open_dataset
from autoseg.data.dataset_json import classes_present, labels_of, labels_present_of
from autoseg.errors import DatasetError
from planners.labels import Labels, Region

FILE = Path("dataset.json")
NESTED = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}


def labels(declared: Any, **content: Any) -> Labels:
    found = labels_of({"labels": declared, **content}, FILE)
    assert found is not None
    return found


# ------------------------------------------------------------------------------------------------------------- regions


def test_the_order_of_regions_is_kept_with_its_values() -> None:
    found = labels(NESTED, regions_class_order=[1, 2, 3])
    assert [region.name for region in found.regions] == ["whole", "core", "enhancing"]
    assert found.region_values == (1, 2, 3)
    assert labels(NESTED).region_values == ()
    assert labels(NESTED, regions_class_order="None").region_values == ()


@pytest.mark.parametrize(
    ("declared", "regions", "names"),
    [
        ({"background": 0, "a": [1]}, (), ("background", "a")),
        ({"background": [0], "a": [[1]], "b": [2, 2]}, (), ("background", "a", "b")),
        ({"background": 0, "a": [[1, 2]], "b": 1}, (("a", (1, 2)), ("b", (1,))), ("background", "b", "label_2")),
        ({"a": [2, 1], "b": [1]}, (("a", (1, 2)), ("b", (1,))), ("background", "b", "label_2")),
        ({"background": 0, "all": [0, 1], "a": 1}, (("all", (0, 1)), ("a", (1,))), ("background", "a")),
        ({"background": 5, "a": [0, 1], "b": 1}, (("a", (0, 1)), ("b", (1,))), ("background", "label_0", "b")),
    ],
)
def test_rare_forms(declared: Any, regions: Any, names: tuple[str, ...]) -> None:
    found = labels(declared)
    assert found.regions == tuple(Region(name=name, values=values) for name, values in regions)
    assert found.names == names


@pytest.mark.parametrize(
    ("declared", "content", "message"),
    [
        (NESTED, {"regions_class_order": [1, 2]}, "has 2 values for 3 regions .whole, core, enhancing."),
        (NESTED, {"regions_class_order": [1, 2, 9]}, "regions_class_order holds 9"),
        (NESTED, {"regions_class_order": 3}, "regions_class_order is 3. Give a list"),
        (NESTED, {"regions_class_order": ["a", 2, 3]}, "has the value 'a', which is no integer"),
        ({**NESTED, "ignore": 3}, {}, "label value 3 is used twice"),
        ({"background": 0, "whole": [1, 2, 4], "ignore": 4}, {}, "label value 4 is used twice"),
        ({"background": 0, "a": [1, []]}, {}, "label 'a' has no value"),
    ],
)
def test_faulty_regions(declared: Any, content: Any, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        labels(declared, **content)


# -------------------------------------------------------------------------------------------------------------- ignore


@pytest.mark.parametrize("value", [-1, 2, 128, 255, 70000])
def test_any_value_may_be_ignored(value: int) -> None:
    found = labels({"background": 0, "a": 1, "Ignore": value})
    assert (found.ignore, found.ignore_index) == (value, 2)
    assert found.encode(np.array([value, 0, 1])).tolist() == [2, 0, 1]
    assert found.file_dtype == np.uint8


def test_zero_may_be_ignored_where_the_background_has_another_value() -> None:
    found = labels({"ignore": 0, "a": 2, "background": 1})
    assert (found.names, found.values, found.ignore) == (("background", "a"), (1, 2, 0), 0)
    with pytest.raises(DatasetError, match="0 is the ignore label, and no class is the background"):
        labels({"ignore": 0, "a": 1, "b": 2})


def test_the_class_called_background_is_it() -> None:
    assert labels({"cell": 0, "background": 255}).names == ("background", "cell")


# -------------------------------------------------------------------------------------------------------------- partly

ORGANS = labels_of({"labels": {"background": 0, "liver": 1, "spleen": 4, "kidney": 9}}, FILE)


def test_names_become_indices() -> None:
    listed = {"a": ["liver"], "b": ["kidney", "background", "liver"], "c": [], "d": ["liver", "spleen", "kidney"]}
    found = classes_present(listed, ORGANS, "abcd", "x")
    assert found == {"a": (0, 1), "b": (0, 1, 3), "c": (0,)}, "a case with every class is like any other"


def test_a_region_stands_for_its_classes() -> None:
    assert classes_present({"a": ["core"]}, labels(NESTED), "a", "x") == {"a": (0, 2, 3)}


@pytest.mark.parametrize(
    ("listed", "declared", "message"),
    [
        ({"a": ["lung"]}, ORGANS, "place: case a names lung .declared: background, liver, spleen, kidney."),
        ({"z": ["liver"]}, ORGANS, "place: case z is not in the dataset. Correct"),
        ({"z": [], "a": ["x", "y"]}, ORGANS, "case z is not in the dataset; case a names x, y"),
        ({f"c{i}": [] for i in range(8)}, ORGANS, "; and 3 more"),
        ({"a": ["liver"]}, None, "place names classes, but no labels are declared"),
    ],
)
def test_unknown_names_and_cases(listed: dict[str, list[str]], declared: Labels | None, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        classes_present(listed, declared, "ab", "place")


def test_how_it_is_written() -> None:
    assert labels_present_of({}, FILE) == {}
    assert labels_present_of({"labels_present": {"a": ["x"]}}, FILE) == {"a": ["x"]}
    for faulty in (["a"], {"a": "liver"}):
        with pytest.raises(DatasetError, match="Write it like"):
            labels_present_of({"labels_present": faulty}, FILE)


def annotated(dataset: Dataset) -> dict[str, tuple[int, ...] | None]:
    return {case.id: case.annotated_classes for case in dataset.cases}


def test_a_dataset_of_two_sources(spoiled) -> None:
    spoiled.declare(labels_present={"case_00": ["inner"], "case_03": ["outer", "inner"]})
    found = annotated(open_dataset(DatasetSource(dataset=spoiled.root)))
    assert found == {"case_00": (0, 2), **{f"case_{number:02d}": None for number in range(1, 6)}}
    spoiled.declare(labels_present={"case_77": ["inner"]})
    with pytest.raises(DatasetError, match=r"dataset.json: labels_present: case case_77 is not in the dataset"):
        open_dataset(DatasetSource(dataset=spoiled.root))


def test_a_table_has_a_column_for_it(tmp_path: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((2, 3, 4), np.uint8)), str(tmp_path / "x.nii.gz"))
    rows = ["case,image,label,labels_present", "a,x.nii.gz,x.nii.gz,liver", 'b,x.nii.gz,x.nii.gz,"liver, left lung"']
    rows += ["c,x.nii.gz,x.nii.gz,liver|spleen", "d,x.nii.gz,x.nii.gz,"]
    (tmp_path / "cases.csv").write_text("\n".join(rows))
    declared = {"labels": {"background": 0, "liver": 1, "spleen": 2, "left lung": 3}}
    (tmp_path / "dataset.json").write_text(json.dumps(declared))
    dataset = open_dataset(DatasetSource(dataset=tmp_path / "cases.csv"))
    assert annotated(dataset) == {"a": (0, 1), "b": (0, 1, 3), "c": (0, 1, 2), "d": None}
    (tmp_path / "cases.csv").write_text("\n".join([*rows[:1], "a,x.nii.gz,x.nii.gz,lung"]))
    with pytest.raises(DatasetError, match=r"column labels_present of .*cases.csv: case a names lung"):
        open_dataset(DatasetSource(dataset=tmp_path / "cases.csv"))


# --------------------------------------------------------------------------------------------------------------- check


def test_a_class_that_should_not_be_there(spoiled) -> None:
    spoiled.declare(labels_present={"case_02": ["outer"]})
    says = spoiled.only("unannotated-label", 2)
    assert says == "label holds inner (36 voxels), which labels_present does not name (labelsTr/case_02.nii.gz)"
    label = spoiled.make_case(2)[1]
    label[label == 2] = 0
    spoiled.write(spoiled.label(2), label)
    assert spoiled.check().problems == ()


def test_classes_that_were_not_annotated_are_not_rare(spoiled) -> None:
    for case in range(1, 5):
        label = spoiled.make_case(case)[1]
        label[label == 2] = 0
        spoiled.write(spoiled.label(case), label)
    assert "of 6 cases, less than half show inner (in 2)" in spoiled.only("rare-class", None)
    spoiled.declare(labels_present={f"case_{case:02d}": ["outer"] for case in range(1, 4)})
    assert spoiled.check().problems == ()


def test_flat_images_among_volumes(spoiled) -> None:
    for path, array in zip(
        (spoiled.image(1), spoiled.image(1, 1), spoiled.label(1)),
        (*spoiled.make_case(1)[0], spoiled.make_case(1)[1]),
        strict=True,
    ):
        sitk.WriteImage(sitk.GetImageFromArray(array[6]), str(path))
    result = spoiled.check()
    (item,) = [item for item in result.problems if item.kind == "mixed-dimensions"]
    assert (item.case, item.found) == ("case_01", "image is 2D, those of 5 of 6 cases are 3D")
    assert result.stops


def test_a_flat_test_image_stops_nothing(spoiled) -> None:
    for channel in range(2):
        array = spoiled.make_case(90)[0][channel]
        sitk.WriteImage(sitk.GetImageFromArray(array[6]), str(spoiled.image(90, channel, "imagesTs")))
    result = spoiled.check()
    assert ("mixed-dimensions", "case_90") in spoiled.found(result)
    assert not result.stops


@pytest.mark.parametrize(
    ("declared", "content", "kind", "says"),
    [
        (
            {"background": 0, "all": [1, 2]},
            {},
            "equal-classes",
            "label_1 and label_2 are in the same regions",
        ),
        (
            {"background": 0, "outer": [1, 2], "inner": 2},
            {"regions_class_order": [2, 1]},
            "region-order",
            "regions_class_order paints label_1 as inner, inner as label_1",
        ),
        (
            {"background": 0, "odd": [0, 1], "inner": 2},
            {},
            "equal-classes",
            "background and label_1 are in the same regions",
        ),
    ],
)
def test_classes_that_do_not_come_back(spoiled, declared: Any, content: Any, kind: str, says: str) -> None:
    spoiled.declare(labels=declared, **content)
    assert spoiled.only(kind, None) == says


def test_a_class_in_no_region() -> None:
    import dataclasses

    from autoseg.data.check_across import check_regions

    alone = dataclasses.replace(
        labels(NESTED), regions=(Region(name="core", values=(2, 3)), Region(name="e", values=(3,)))
    )
    (item,) = check_regions(alone)
    assert (item.kind, item.stops) == ("class-without-region", False)
    assert item.found == "label_1 is in no region"
    assert check_regions(labels(NESTED)) == []


def test_an_order_that_paints_either_of_two_equal_classes_is_right(spoiled) -> None:
    spoiled.declare(labels={"background": 0, "whole": [1, 2, 3], "core": [2, 3]}, regions_class_order=[1, 3])
    kinds = {problem.kind for problem in spoiled.check().problems}
    assert "equal-classes" in kinds
    assert "region-order" not in kinds
