import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from planners import Configuration, Fingerprint, Plan, PlanError
from planners.edit import read_plan
from planners.plan import Output
from planners.records import RecordError, dumps, from_json, to_json


def changed(configuration: Configuration, path: str, value: Any) -> Any:
    """The configuration's JSON with one place changed."""
    tree = to_json(configuration)
    place: Any = tree
    *steps, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    for step in steps:
        place = place[step]
    place[last] = value
    return tree


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (
            "patch_size",
            [40, 57, 40],
            "3d_fullres.patch_size[1] is 57; the strides need a multiple of 8 (possible: 56 or 64)",
        ),
        ("patch_size", [4, 56, 40], "3d_fullres.patch_size[0] is 4; the strides need a multiple of 8 (possible: 8)"),
        ("patch_size", [56, 40], "3d_fullres.patch_size has 2 entries; needs 3"),
        ("spacing_mm", [1, 1], "3d_fullres.spacing_mm has 2 entries; needs 3"),
        ("batch_size", 0, "3d_fullres.batch_size is 0; must be at least 1"),
        ("architecture.dimensions", 4, "3d_fullres.architecture.dimensions is 4; must be 2 or 3"),
        ("architecture.stages", [], "3d_fullres.architecture.stages is empty"),
        ("architecture.num_decoder_blocks", [2], "3d_fullres.architecture.num_decoder_blocks needs 3 entries"),
        (
            "architecture.outputs",
            [],
            "3d_fullres.architecture.outputs has 0 entries; needs one, at most one per decoder stage",
        ),
        (
            "architecture.stages.1.stride",
            [2, 2],
            "3d_fullres.architecture.stages[1] needs a stride and a kernel of 3 entries",
        ),
        ("architecture.stages.1.features", 0, "3d_fullres.architecture.stages[1] holds a number below 1"),
        (
            "architecture.stages.1.kernel",
            [3, 2, 3],
            "3d_fullres.architecture.stages[1].kernel is [3, 2, 3]; possible are odd sizes: 1, 3, 5",
        ),
        (
            "architecture.stages.0.stride",
            [1, 1, 2],
            "3d_fullres.architecture.stages[0].stride is [1, 1, 2]; the first stage keeps the size: 1",
        ),
        ("spacing_mm", [1, 0, 1], "3d_fullres.spacing_mm is [1.0, 0.0, 1.0]; millimetres must be above 0"),
        ("training.learning_rate", -1, "3d_fullres.training.learning_rate is -1.0; must not be negative"),
        ("training.warm_up", -1, "3d_fullres.training.warm_up is -1; must not be negative"),
        ("training.momentum", 1, "3d_fullres.training.momentum is 1.0; must be at least 0 and below 1"),
        ("training.epochs", 0, "3d_fullres.training.epochs is 0; must be at least 1"),
        ("training.validation_steps", 0, "3d_fullres.training.validation_steps is 0; must be at least 1"),
        (
            "training.foreground_fraction",
            1.5,
            "3d_fullres.training.foreground_fraction is 1.5; must be between 0 and 1",
        ),
        ("training.mirror_axes", [0, 3], "3d_fullres.training.mirror_axes is [0, 3]; possible are [0, 1, 2]"),
    ],
)
def test_impossible_configurations(hippocampus: Plan, path: str, value: Any, message: str) -> None:
    with pytest.raises(RecordError) as fault:
        from_json(Configuration, changed(hippocampus.configuration("3d_fullres"), path, value))
    assert str(fault.value) == f"$: {message}"
    assert isinstance(fault.value.__cause__, PlanError)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 99}, "plan has format 99; this version reads 1"),
        ({"configurations": ()}, "plan has no configuration"),
        ({"axis_order": (0, 1, 1)}, r"axis_order \[0, 1, 1\] is no permutation of 0, 1, 2"),
        ({"channels": ()}, r"3d_fullres.normalization needs one entry per channel \(0\)"),
    ],
)
def test_impossible_plans(hippocampus: Plan, change: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        dataclasses.replace(hippocampus, **change)


def test_swaps_are_among_the_classes(hippocampus: Plan) -> None:
    item = hippocampus.configuration("2d")
    training = dataclasses.replace(item.training, mirror_swaps=((1, 3),), mirror_swap_axis=1)
    with pytest.raises(PlanError, match=r"2d.training.mirror_swaps names the class 3; possible are 0 to 2"):
        dataclasses.replace(hippocampus, configurations=(dataclasses.replace(item, training=training),))


def test_a_name_used_twice(hippocampus: Plan) -> None:
    with pytest.raises(PlanError, match="plan names a configuration twice: 2d, 2d"):
        dataclasses.replace(hippocampus, configurations=(hippocampus.configuration("2d"),) * 2)


def test_configurations_are_found_by_name(hippocampus: Plan) -> None:
    assert hippocampus.configuration("2d").dimensions == 2
    with pytest.raises(PlanError, match="plan has no configuration '3d'; it has: 3d_fullres, 2d"):
        hippocampus.configuration("3d")


def test_faults_in_a_plan_file_name_their_place(hippocampus: Plan) -> None:
    tree = to_json(hippocampus)
    tree["configurations"][0]["batch_size"] = "many"
    with pytest.raises(RecordError, match=r'^\$.configurations\[0\].batch_size is "many"; expected int$'):
        from_json(Plan, tree)


def test_a_plan_of_the_version_before_is_read() -> None:
    """It knew no cascade, no sides, no patience, no weights to start from: these have defaults."""
    tree = json.loads((Path(__file__).parent / "kept_plan_format_1.json").read_text())
    assert "patience" not in tree["configurations"][0]["training"]
    plan = read_plan(tree)
    assert [item.name for item in plan.configurations] == ["3d_fullres", "2d"]
    training = plan.configurations[0].training
    assert (training.epochs, training.patience, training.initial_weights) == (10, None, "")
    assert plan.labels.region_values == ()
    assert from_json(Plan, json.loads(dumps(plan))) == plan


def test_outputs_are_counted_against_the_decoder(hippocampus: Plan) -> None:
    network = hippocampus.configuration("2d").architecture
    extra = (*network.outputs, Output(stride=(8, 8), loss_weight=0.0))
    with pytest.raises(PlanError, match="outputs has 4 entries"):
        dataclasses.replace(hippocampus.configuration("2d"), architecture=dataclasses.replace(network, outputs=extra))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spacings_mm": ()}, "0 spacings and 208 shapes"),
        ({"spacings_mm": ((1.0, 0.0, 1.0),) * 208}, "a spacing that is not positive"),
        ({"shapes": ((36, 0, 35),) * 208}, "a shape with an empty axis"),
        ({"num_cases": 0}, "at least one case and one channel"),
        ({"channels": ()}, "at least one case and one channel"),
    ],
)
def test_impossible_fingerprints(make_fingerprint: Any, change: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        make_fingerprint(**change)


def test_fingerprint_round_trip(make_fingerprint: Any) -> None:
    fingerprint = make_fingerprint()
    assert from_json(Fingerprint, to_json(fingerprint)) == fingerprint
