from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planners import LabelClass, Labels, PlanError, Region


def make(*values: int, ignore: int | None = None) -> Labels:
    return Labels(classes=tuple(LabelClass(name=f"n{value}", value=value) for value in values), ignore=ignore)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    values=st.lists(st.integers(-(2**40), 2**40), min_size=2, max_size=8, unique=True),
    seed=st.integers(0, 100),
)
def test_decode_brings_back_what_was_encoded(values: list[int], seed: int) -> None:
    labels = make(*values)
    label = np.random.default_rng(seed).choice(np.array(values), size=(3, 4, 5))
    inner = labels.encode(label)
    assert inner.dtype == np.int16
    assert inner.shape == label.shape
    assert set(np.unique(inner)) <= set(range(len(values)))
    np.testing.assert_array_equal(labels.decode(inner), label)


@pytest.mark.parametrize(
    ("values", "kind"),
    [((0, 255), "uint8"), ((0, 256), "uint16"), ((-1, 5), "int16"), ((0, 70000), "int32"), ((0, 2**40), "int64")],
)
def test_file_type_is_the_smallest_that_holds_the_values(values: tuple[int, ...], kind: str) -> None:
    labels = make(*values)
    assert labels.file_dtype == kind
    assert labels.decode(np.array([0, 1])).dtype == kind


def test_two_values_of_a_mask() -> None:
    inner = make(0, 255).encode(np.array([[0, 255], [255, 0]], dtype=np.uint8))
    np.testing.assert_array_equal(inner, [[0, 1], [1, 0]])


def test_floats_that_are_integers() -> None:
    np.testing.assert_array_equal(make(0, 2).encode(np.array([0.0, 2.0], dtype=np.float32)), [0, 1])


def test_ignore_comes_after_the_last_class() -> None:
    labels = make(0, 7, ignore=3)
    assert (labels.num_classes, labels.ignore_index, labels.values) == (2, 2, (0, 7, 3))
    np.testing.assert_array_equal(labels.encode(np.array([3, 7, 0])), [2, 1, 0])
    assert make(0, 1).ignore_index is None


@pytest.mark.parametrize(
    ("found", "shown"), [([0, 7], "7"), ([0.0, 0.5], "0.5"), ([-1, 1], "-1"), (range(9), "2, 3, 4, 5, 6 …")]
)
def test_undeclared_values_are_listed(found: list[float], shown: str) -> None:
    with pytest.raises(PlanError, match="is not declared") as fault:
        make(0, 1).encode(np.array(found))
    assert f"label value {shown} is not declared (declared: 0, 1)" in str(fault.value)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"classes": (LabelClass(name="a", value=0),)}, "need a background and at least one more"),
        ({"classes": (LabelClass(name="a", value=0), LabelClass(name="b", value=0))}, "label value 0 is used twice"),
        ({"classes": (LabelClass(name="a", value=0), LabelClass(name="a", value=1))}, "label name a is used twice"),
        (
            {"classes": (LabelClass(name="a", value=0), LabelClass(name="b", value=1)), "ignore": 1},
            "label value 1 is used twice",
        ),
    ],
)
def test_impossible_labels(labels: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        Labels(**labels)


@pytest.mark.parametrize("kind", ["uint8", "int16", "int64", "float32", "float64"])
def test_encoding_by_table_equals_encoding_by_search(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = make(0, 127, 3, ignore=255)
    found = np.random.default_rng(0).choice([0, 3, 127, 255] if kind == "uint8" else [0, 3, 127], size=(5, 6, 7))
    monkeypatch.setattr("planners.labels.CHUNK_VOXELS", 50)
    fast = labels.encode(found.astype(kind).transpose(2, 0, 1))
    monkeypatch.setattr("planners.labels.TABLE_ENTRIES", 0)
    np.testing.assert_array_equal(fast, labels.encode(found.astype(kind).transpose(2, 0, 1)))
    assert fast.dtype == np.int16
    assert fast.shape == (7, 5, 6)


def test_decoding_does_not_depend_on_the_ignore_value() -> None:
    for ignore in (255, 256, -1, 10**6):
        decoded = make(0, 7, ignore=ignore).decode(np.array([0, 1, 1]))
        assert decoded.tolist() == [0, 7, 7]
        assert decoded.dtype == np.uint8


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"regions": [("a", (1, 5))]}, "region a holds the value 5, which no class has"),
        ({"regions": [("a", ())]}, "region a holds no class"),
        ({"regions": [("a", (1,)), ("a", (2,))]}, "region a is there twice"),
        ({"regions": [("a", (1, 2))], "region_values": (1, 2)}, "regions_class_order has 2 values for 1 regions"),
        ({"regions": [("a", (1, 2))], "region_values": (3,)}, "regions_class_order holds 3"),
        ({"region_values": (1,)}, "has 1 values for 0 regions"),
    ],
)
def test_impossible_regions(fields: dict[str, Any], message: str) -> None:
    regions = tuple(Region(name=name, values=values) for name, values in fields.get("regions", []))
    with pytest.raises(PlanError, match=message):
        Labels(classes=make(0, 1, 2).classes, **{**fields, "regions": regions})
