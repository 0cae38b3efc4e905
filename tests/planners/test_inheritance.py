"""Configurations that inherit: what they take, what they change, what is refused; the plan read is always complete."""

import json
from typing import Any

import pytest

from planners import Plan
from planners.edit import read_plan, set_value
from planners.memory import step_bytes
from planners.records import RecordError, dumps, from_json, to_json


def with_configurations(plan: Plan, *configurations: Any) -> Any:
    value = to_json(plan)
    value["configurations"] += configurations
    return value


def test_a_plan_without_heirs_is_read_as_it_is(hippocampus: Plan) -> None:
    assert read_plan(to_json(hippocampus)) == hippocampus


def test_what_is_not_said_is_inherited(hippocampus: Plan) -> None:
    training = {"epochs": 50, "augmentation": {"enabled": False}}
    heir = {"name": "3d_big_batch", "inherits": "3d_fullres", "batch_size": 9, "training": training}
    plan = read_plan(with_configurations(hippocampus, heir))
    parent, child = plan.configuration("3d_fullres"), plan.configuration("3d_big_batch")
    assert plan.configurations[:2] == hippocampus.configurations
    assert (child.batch_size, child.training.epochs, child.training.augmentation.enabled) == (9, 50, False)
    expected = {**to_json(parent), "name": "3d_big_batch", "batch_size": 9, "estimated_bytes": child.estimated_bytes}
    expected["training"] = {**to_json(parent.training), "epochs": 50}
    expected["training"]["augmentation"] = {**to_json(parent.training.augmentation), "enabled": False}
    assert to_json(child) == expected
    assert child.estimated_bytes > parent.estimated_bytes


def test_what_follows_follows(hippocampus: Plan) -> None:
    heir = {"name": "3d_large", "inherits": "3d_fullres", "patch_size": [48, 64, 48]}
    child = read_plan(with_configurations(hippocampus, heir)).configuration("3d_large")
    assert child.output_size == (48, 64, 48)
    arguments = (child.architecture, child.patch_size, child.batch_size, 1, 3)
    assert child.estimated_bytes == step_bytes(*arguments).total
    told = {**heir, "estimated_bytes": 5}
    assert read_plan(with_configurations(hippocampus, told)).configuration("3d_large").estimated_bytes == 5


def test_lists_are_replaced(hippocampus: Plan) -> None:
    heir = {"name": "still", "inherits": "3d_fullres", "training": {"mirror_axes": [0]}}
    assert read_plan(with_configurations(hippocampus, heir)).configuration("still").training.mirror_axes == (0,)


def test_chains_in_any_order(hippocampus: Plan) -> None:
    heirs = (
        {"name": "c", "inherits": "b", "training": {"seed": 3}},
        {"name": "a", "inherits": "3d_fullres", "batch_size": 3},
        {"name": "b", "inherits": "a", "training": {"epochs": 5}},
    )
    plan = read_plan(with_configurations(hippocampus, *heirs))
    last = plan.configuration("c")
    assert (last.batch_size, last.training.epochs, last.training.seed) == (3, 5, 3)
    assert [item.name for item in plan.configurations] == ["3d_fullres", "2d", "c", "a", "b"]


def test_cascades_inherit_and_are_made_by_inheriting(hippocampus: Plan) -> None:
    heirs = (
        {"name": "second", "inherits": "3d_fullres", "previous": "2d"},
        {"name": "second_slow", "inherits": "second", "training": {"epochs": 2000}},
        {"name": "alone", "inherits": "second", "previous": None},
    )
    plan = read_plan(with_configurations(hippocampus, *heirs))
    for name in ("second", "second_slow"):
        item = plan.configuration(name)
        assert item.previous == "2d"
        assert [(part.kind, part.name, part.channels) for part in item.inputs] == [
            ("image", "image", 1),
            ("previous", "2d", 2),
        ]
    assert plan.configuration("alone").inputs == plan.configuration("3d_fullres").inputs


def test_reasons_say_so(hippocampus: Plan) -> None:
    heir = {"name": "big", "inherits": "3d_fullres", "batch_size": 9, "training": {"epochs": 50}}
    plan = read_plan(with_configurations(hippocampus, heir))
    found = {(reason.about, reason.rule): reason.because for reason in plan.reasons}
    assert found["configurations", "inherits"] == "big is 3d_fullres, but for batch_size, training.epochs"
    assert found["big.batch_size", "user"] == "set by the user (7 in 3d_fullres)"
    assert found["big.training.epochs", "user"] == "set by the user (1000 in 3d_fullres)"
    assert ("big.batch_size", "dataset-fraction") not in found
    assert found["big.spacing_mm", "median-spacing"] == found["3d_fullres.spacing_mm", "median-spacing"]


def test_what_is_written_is_whole(hippocampus: Plan) -> None:
    heir = {"name": "big", "inherits": "3d_fullres", "batch_size": 9}
    plan = read_plan(with_configurations(hippocampus, heir))
    written = json.loads(dumps(plan))
    assert "inherits" not in json.dumps(written["configurations"])
    assert from_json(Plan, written) == read_plan(written) == plan


@pytest.mark.parametrize(
    ("heirs", "message"),
    [
        (
            [{"name": "a", "inherits": "3d_fulres"}],
            r"$.configurations[2].inherits is \"3d_fulres\"; did you mean '3d_fullres'? (possible: 3d_fullres, 2d)",
        ),
        ([{"name": "a", "inherits": 3}], r"$.configurations[2].inherits is 3 (possible: 3d_fullres, 2d)"),
        ([{"name": "a", "inherits": ["2d"]}], r"$.configurations[2].inherits is [\"2d\"] (possible: 3d_fullres, 2d)"),
        (
            [{"name": "a", "inherits": "b"}, {"name": "b", "inherits": "c"}, {"name": "c", "inherits": "b"}],
            "$.configurations[2].inherits leads in a circle: b → c → b. One of them must be written in full",
        ),
        ([{"name": "a", "inherits": "a"}], "$.configurations[2].inherits leads in a circle: a → a."),
        ([{"inherits": "2d"}], "$.configurations[2].name is missing; a configuration that inherits needs a name"),
        ([{"name": "2d", "inherits": "3d_fullres"}], "$: plan names a configuration twice: 3d_fullres, 2d, 2d"),
        (
            [{"name": "a", "inherits": "2d", "batchsize": 3}],
            "$.configurations[2].batchsize is not a field of Configuration",
        ),
        (
            [{"name": "a", "inherits": "2d", "training": {"epochs": "x"}}],
            r"$.configurations[2].training.epochs is \"x\"; expected int",
        ),
        (
            [{"name": "a", "inherits": "3d_fullres", "patch_size": [40, 57, 40]}],
            "$.configurations[2]: a.patch_size[1] is 57; the strides need a multiple of 8 (possible: 56 or 64)",
        ),
        (
            [{"name": "a", "inherits": "3d_fullres", "previous": "b"}],
            "$: plan has no configuration 'b'; it has: 3d_fullres, 2d, a",
        ),
    ],
)
def test_faults_name_their_place(hippocampus: Plan, heirs: list[Any], message: str) -> None:
    with pytest.raises(RecordError) as fault:
        read_plan(with_configurations(hippocampus, *heirs))
    assert str(fault.value).startswith(message.replace('\\"', '"'))


@pytest.mark.parametrize("value", [None, 3, [], {}, {"configurations": 3}, {"configurations": [3, None]}])
def test_what_is_no_plan_is_refused_as_ever(value: Any) -> None:
    with pytest.raises(RecordError, match=r"^\$"):
        read_plan(value)


def test_an_option_adds_a_configuration(hippocampus: Plan) -> None:
    plan = set_value(set_value(hippocampus, "3d_new.inherits", "3d_fullres"), "3d_new.batch_size", "2")
    assert plan.configuration("3d_new").batch_size == 2
    assert plan.configurations[:2] == hippocampus.configurations
