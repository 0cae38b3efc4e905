import dataclasses

import pytest

from planners import Plan, PlanError, Reason
from planners.edit import set_training, set_value
from planners.memory import step_bytes


def user_reasons(plan: Plan) -> dict[str, str]:
    return {reason.about: reason.because for reason in plan.reasons if reason.rule == "user"}


def test_one_value(hippocampus: Plan) -> None:
    plan = set_value(hippocampus, "3d_fullres.batch_size", "4")
    assert plan.configuration("3d_fullres").batch_size == 4
    assert plan.configuration("2d") == hippocampus.configuration("2d")
    assert user_reasons(plan) == {"3d_fullres.batch_size": "set by the user (was 7)"}
    assert hippocampus.configuration("3d_fullres").batch_size == 7


def test_every_configuration(hippocampus: Plan) -> None:
    plan = set_value(hippocampus, "*.training.learning_rate", "0.02")
    assert {item.training.learning_rate for item in plan.configurations} == {0.02}
    assert list(user_reasons(plan)) == ["3d_fullres.training.learning_rate", "2d.training.learning_rate"]


@pytest.mark.parametrize("path", ["2d.architecture.stages[1].features", "2d.architecture.stages.1.features"])
def test_an_entry_of_a_list(hippocampus: Plan, path: str) -> None:
    plan = set_value(hippocampus, path, "48")
    assert [stage.features for stage in plan.configuration("2d").architecture.stages] == [32, 48, 128, 256]
    assert user_reasons(plan) == {"2d.architecture.stages.1.features": "set by the user (was 64)"}


def test_text_that_is_no_json_is_a_string(hippocampus: Plan) -> None:
    plan = set_value(hippocampus, "2d.training.loss", "dice+focal")
    assert plan.configuration("2d").training.loss == "dice+focal"
    plan = set_value(hippocampus, "2d.training.augmentation.enabled", "false")
    assert plan.configuration("2d").training.augmentation.enabled is False


def test_options_are_free(hippocampus: Plan) -> None:
    plan = set_value(hippocampus, "*.target.options.border", '{"width": 2}')
    assert plan.configuration("2d").target.options == {"border": {"width": 2}}
    assert user_reasons(plan)["2d.target.options.border"] == "set by the user (was not set)"
    plan = set_value(plan, "2d.target.options.border.width", "3")
    assert plan.configuration("2d").target.options == {"border": {"width": 3}}


def test_output_size_and_bytes_follow_the_patch(hippocampus: Plan) -> None:
    plan = set_value(hippocampus, "3d_fullres.patch_size", "[48, 64, 48]")
    item = plan.configuration("3d_fullres")
    assert item.output_size == item.patch_size == (48, 64, 48)
    assert item.estimated_bytes == step_bytes(item.architecture, (48, 64, 48), 7, 1, 3).total
    assert item.estimated_bytes > hippocampus.configuration("3d_fullres").estimated_bytes
    (reason,) = (reason for reason in plan.reasons if reason.about == "3d_fullres.estimated_bytes")
    assert reason.rule == "step-bytes"


def test_output_size_of_a_valid_network_stays(hippocampus: Plan) -> None:
    item = dataclasses.replace(hippocampus.configuration("2d"), output_size=(16, 8))
    plan = dataclasses.replace(hippocampus, configurations=(item,))
    assert set_value(plan, "2d.patch_size", "[64, 64]").configuration("2d").output_size == (16, 8)


def test_an_unknown_family_keeps_its_estimate(hippocampus: Plan) -> None:
    plan = set_value(hippocampus, "2d.architecture.family", "my-network")
    plan = set_value(plan, "2d.batch_size", "3")
    assert plan.configuration("2d").estimated_bytes == hippocampus.configuration("2d").estimated_bytes


def test_the_same_value_changes_nothing(hippocampus: Plan) -> None:
    assert set_value(hippocampus, "3d_fullres.batch_size", "7") is hippocampus


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        ("3d.batch_size", "4", "'3d.batch_size': no configuration '3d' (possible: 3d_fullres, 2d, *)"),
        ("3d_fulres.batch_size", "4", "'3d_fulres.batch_size': no configuration '3d_fulres'; did you mean '3d_full"),
        ("2d.batchsize", "4", "2d has no field 'batchsize'; did you mean 'batch_size'? (possible: name, inputs, "),
        ("2d.training.epoch", "4", "2d.training has no field 'epoch'; did you mean 'epochs'? (possible: epochs, "),
        ("2d.quux", "4", "2d has no field 'quux' (possible: name, "),
        ("2d.patch_size.2", "4", "2d.patch_size has no entry '2'; it has entries 0 to 1"),
        ("2d.batch_size.x", "4", "2d.batch_size is 292, which has no field 'x'"),
        ("batch_size", "4", "'batch_size' names no field; write CONFIGURATION.FIELD, such as *.training.epochs"),
        ("2d.batch_size", "four", '2d.batch_size is "four"; expected int'),
        ("2d.patch_size", "56,40", '2d.patch_size is "56,40"; expected a list, written as [40, 56, 40]'),
        ("2d.patch_size", "[56, 41]", "2d.patch_size[1] is 41; the strides need a multiple of 8 (possible: 40 or 48)"),
        ("2d.training.optimizer", "adam", "2d.training.optimizer is 'adam'; expected one of 'sgd'"),
        ("2d.name", "flat", "2d.name cannot be set: it names the configuration's folders"),
        ("2d.estimated_bytes", "1", "2d.estimated_bytes cannot be set: it is computed; change patch_size or "),
        ("*.normalization", '["ct", "ct"]', "3d_fullres.normalization needs one entry per channel (1)"),
    ],
)  # fmt: skip
def test_faults_name_the_place_and_what_is_possible(hippocampus: Plan, path: str, text: str, message: str) -> None:
    with pytest.raises(PlanError) as fault:
        set_value(hippocampus, path, text)
    assert str(fault.value).startswith(message)


def test_shorter_training_brings_validation_along(hippocampus: Plan) -> None:
    plan = set_training(hippocampus, epochs=10, steps_per_epoch=52, seed=3)
    for item in plan.configurations:
        training = item.training
        assert (training.epochs, training.steps_per_epoch, training.validation_steps, training.seed) == (10, 52, 10, 3)
    about = "2d.training.validation_steps"
    assert [reason for reason in plan.reasons if reason.about == about] == [
        Reason(about=about, rule="a-fifth-of-the-steps", because="a fifth of 52 training steps")
    ]
    assert user_reasons(plan)["2d.training.epochs"] == "set by the user (was 1000)"


def test_validation_takes_at_least_one_step(hippocampus: Plan) -> None:
    assert set_training(hippocampus, steps_per_epoch=3).configuration("2d").training.validation_steps == 1


def test_what_is_not_given_stays(hippocampus: Plan) -> None:
    assert set_training(hippocampus) == hippocampus
    plan = set_training(hippocampus, seed=1)
    assert plan.configuration("2d").training == dataclasses.replace(hippocampus.configuration("2d").training, seed=1)


def test_impossible_training(hippocampus: Plan) -> None:
    with pytest.raises(PlanError, match=r"3d_fullres.training.epochs is 0; must be at least 1"):
        set_training(hippocampus, epochs=0)
