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
        ("new.batch_size", "4", "'new.batch_size': no configuration 'new' (possible: 3d_fullres, 2d, *); --set "
         "new.inherits=3d_fullres would add one"),
        ("3d_new.inherits", "3d_fulres", "3d_new.inherits is '3d_fulres'; did you mean '3d_fullres'? (possible: 3d_"),
        ("2d.inherits", "3d_fullres", "2d.inherits: 2d is in the plan already (with 3d_fullres, 2d). Give a new name"),
        ("a/b.inherits", "2d", "'a/b' cannot name a configuration, nor its folders; use letters, digits, _ and -"),
        ("2d.previous", "3d_lowres", "plan has no configuration '3d_lowres'; it has: 3d_fullres, 2d"),
        ("2d.previous", "2d", "2d.previous leads in a circle: 2d → 2d"),
        ("", "2d", "'' names no field"),
    ],
)  # fmt: skip
def test_faults_name_the_place_and_what_is_possible(hippocampus: Plan, path: str, text: str, message: str) -> None:
    with pytest.raises(PlanError) as fault:
        set_value(hippocampus, path, text)
    assert str(fault.value).startswith(message)


def test_the_inputs_follow_the_previous_configuration(hippocampus: Plan) -> None:
    plan = set_value(hippocampus, "3d_fullres.previous", "2d")
    assert [(part.kind, part.channels) for part in plan.configuration("3d_fullres").inputs] == [
        ("image", 1),
        ("previous", 2),
    ]
    back = set_value(plan, "3d_fullres.previous", "null")
    assert back.configuration("3d_fullres") == hippocampus.configuration("3d_fullres")


def reason_of(plan: Plan, about: str, rule: str) -> str:
    (found,) = (reason.because for reason in plan.reasons if (reason.about, reason.rule) == (about, rule))
    return found


def test_a_value_overrules_the_reason_it_had(hippocampus: Plan) -> None:
    plan = set_value(hippocampus, "3d_fullres.batch_size", "4")
    former = reason_of(hippocampus, "3d_fullres.batch_size", "dataset-fraction")
    assert reason_of(plan, "3d_fullres.batch_size", "dataset-fraction") == f"overruled: {former}"
    again = set_value(plan, "3d_fullres.batch_size", "5")
    assert reason_of(again, "3d_fullres.batch_size", "dataset-fraction") == f"overruled: {former}"
    assert user_reasons(again)["3d_fullres.batch_size"] == "set by the user (was 4)"


def test_a_recipe_says_what_of_it_was_changed(hippocampus: Plan) -> None:
    plan = set_value(hippocampus, "2d.training.learning_rate", "0.02")
    plan = set_value(plan, "2d.training.learning_rate", "0.03")
    text = reason_of(plan, "2d.training", "fixed-recipe")
    assert text.endswith("on foreground; training.learning_rate is set by the user")
    untouched = reason_of(hippocampus, "3d_fullres.training", "fixed-recipe")
    assert reason_of(plan, "3d_fullres.training", "fixed-recipe") == untouched
    plan = set_value(plan, "2d.architecture.stages[1].features", "48")
    text = reason_of(plan, "2d.architecture.stages.features", "double-features")
    assert text.endswith("; architecture.stages.1.features is set by the user")


def test_reasons_tell_what_they_were_decided_for(hippocampus: Plan) -> None:
    plan = set_value(hippocampus, "3d_fullres.patch_size", "[48, 64, 48]")
    text = reason_of(plan, "3d_fullres.training.augmentation.rotation_radians", "rotation-by-shape")
    assert text.endswith("(decided for patch_size [40, 56, 40])")
    assert reason_of(plan, "3d_fullres.patch_size", "first-patch-fits").startswith("overruled: 36 × 50 × 35")
    assert reason_of(set_value(plan, "3d_fullres.patch_size", "[40, 40, 40]"), "3d_fullres.batch_size",
                     "dataset-fraction").endswith("(decided for patch_size [40, 56, 40])")  # fmt: skip


def test_too_much_memory_says_what_would_fit(hippocampus: Plan) -> None:
    plan = set_value(hippocampus, "3d_fullres.batch_size", "400")
    text = reason_of(plan, "3d_fullres.estimated_bytes", "step-bytes")
    fits = int(text.split("--set 3d_fullres.batch_size=")[1].split(" ")[0])
    item = plan.configuration("3d_fullres")
    sizes = [step_bytes(item.architecture, item.patch_size, batch, 1, 3).total for batch in (fits, fits + 1)]
    assert sizes[0] <= plan.budget.device_bytes < sizes[1]
    huge = set_value(hippocampus, "3d_fullres.patch_size", "[1200, 1200, 1200]")
    assert "no batch fits 8.0 GB" in reason_of(huge, "3d_fullres.estimated_bytes", "step-bytes")


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


def test_the_users_own_validation_stays(hippocampus: Plan) -> None:
    chosen = set_value(hippocampus, "*.training.validation_steps", "3")
    for plan in (set_training(chosen, steps_per_epoch=50), set_training(chosen, steps_per_epoch=250)):
        assert {item.training.validation_steps for item in plan.configurations} == {3}
        assert "2d.training.validation_steps" in user_reasons(plan)


@pytest.mark.parametrize(
    ("field", "text"),
    [("mirror_axes", "[]"), ("mirror_axes", "[0]"), ("mirror_swaps", "[]"), ("mirror_swap_axis", "null")],
)
def test_sides_stop_changing_places_when_their_axis_or_they_are_taken_away(
    hippocampus: Plan, field: str, text: str
) -> None:
    """One ``--set`` does it: pairs and axis cannot be without each other."""
    item = hippocampus.configuration("3d_fullres")
    training = dataclasses.replace(item.training, mirror_swaps=((1, 2),), mirror_swap_axis=2)
    plan = dataclasses.replace(hippocampus, configurations=(dataclasses.replace(item, training=training),))
    changed = set_value(plan, f"3d_fullres.training.{field}", text).configuration("3d_fullres").training
    assert (changed.mirror_swaps, changed.mirror_swap_axis) == ((), None)
    assert changed.mirror_axes == {"[]": (), "[0]": (0,)}.get(text if field == "mirror_axes" else "", (0, 1, 2))
