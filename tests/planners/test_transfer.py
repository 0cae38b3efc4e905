"""A plan carried to other data keeps its network, takes the data's own facts, and says what had to change."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planners import PLANNERS, Channel, Fingerprint, Intensities, LabelClass, Labels, MemoryBudget, Plan, PlanError
from planners.describe import describe
from planners.edit import set_value
from planners.memory import step_bytes
from planners.records import dumps, from_json, to_json
from planners.transfer import adapt_labels, carry, fine_tune, renew_warm_up

MakeFingerprint = Callable[..., Fingerprint]

BUDGET = MemoryBudget()
CARRIED = ("name", "spacing_mm", "patch_size", "output_size", "batch_size", "architecture", "resampling", "previous")


def name_labels(*names: str) -> Labels:
    return Labels(classes=tuple(LabelClass(name=name, value=value) for value, name in enumerate(names)))


def facts(**changes: Any) -> Fingerprint:
    """A dataset of small isotropic volumes, but for the changes."""
    given: dict[str, Any] = {
        "dataset": "hippocampus",
        "channels": (Channel(name="MRI"),),
        "labels": name_labels("background", "anterior", "posterior"),
        "num_cases": 208,
        "spacings_mm": ((1.0, 1.0, 1.0),) * 208,
        "shapes": ((36, 50, 35),) * 208,
    }
    return Fingerprint(**{**given, **changes})


THICK = facts(
    dataset="prostate",
    channels=(Channel(name="T2"), Channel(name="ADC")),
    labels=name_labels("background", "peripheral", "transition"),
    num_cases=32,
    spacings_mm=((3.6, 0.625, 0.625),) * 32,
    shapes=((20, 320, 319),) * 32,
)
FLAT = facts(dataset="retina", num_cases=20, spacings_mm=((999.0, 1.0, 1.0),) * 20, shapes=((1, 584, 565),) * 20)


def reasons(plan: Plan, about: str, rule: str) -> str:
    return "; ".join(reason.because for reason in plan.reasons if (reason.about, reason.rule) == (about, rule))


def check_carried(old: Plan, new: Plan, fingerprint: Fingerprint) -> None:
    """What holds of every carried plan."""
    assert (new.dataset, new.labels, new.axis_order) == (fingerprint.dataset, fingerprint.labels, old.axis_order)
    assert [channel.name for channel in new.channels] == [channel.name for channel in fingerprint.channels]
    for item in new.configurations:
        before = old.configuration(item.name)
        for field in CARRIED:
            assert getattr(item, field) == getattr(before, field), field
        assert item.target.num_outputs == fingerprint.labels.num_classes
        step = step_bytes(
            item.architecture, item.patch_size, item.batch_size, item.num_input_channels, item.target.num_outputs
        )
        assert item.estimated_bytes == step.total
        for field in set(to_json(item)) - {"name", "previous"}:
            place = f"{item.name}.{field}"
            assert any(r.about == place or r.about.startswith(f"{place}.") for r in new.reasons), place
    assert from_json(Plan, to_json(new)) == new
    assert describe(new)


def test_to_the_same_data_nothing_changes(hippocampus: Plan, make_fingerprint: MakeFingerprint) -> None:
    new = carry(hippocampus, make_fingerprint(), BUDGET)
    assert new.configurations == hippocampus.configurations
    assert not [reason for reason in new.reasons if reason.rule == "carried-changed" and "median" not in reason.about]
    check_carried(hippocampus, new, make_fingerprint())


def test_the_network_and_its_grid_stay(hippocampus: Plan) -> None:
    fingerprint = THICK
    new = carry(hippocampus, fingerprint, BUDGET)
    check_carried(hippocampus, new, fingerprint)
    item = new.configuration("3d_fullres")
    assert item.median_shape == (72.0, 200.0, 199.0), "the new cases, at the plan's spacing"
    assert item.inputs[0].channels == 2
    assert item.normalization == ("zscore", "zscore")
    text = reasons(new, "3d_fullres.patch_size", "carried")
    assert text.startswith("from hippocampus: 36 × 50 × 35, up to multiples of 8 × 8 × 8")
    assert "sees 3 % of the median case (< 25 %)" in text
    assert "z 3.6 times finer, so slices are interpolated" in reasons(new, "3d_fullres.spacing_mm", "carried")
    assert reasons(new, "channels", "carried-changed").startswith("T2, ADC instead of MRI")
    assert reasons(new, "labels", "carried-changed") == ("new: peripheral, transition; not here: anterior, posterior")


def test_lost_detail_and_large_patches_are_said(prostate: Plan) -> None:
    fingerprint = facts(spacings_mm=((1.0, 0.2, 0.2),) * 208)
    new = carry(prostate, fingerprint, BUDGET)
    check_carried(prostate, new, fingerprint)
    text = reasons(new, "3d_fullres.spacing_mm", "carried")
    assert "whose own would be 1.00 × 0.20 × 0.20 mm" in text
    assert "z 3.6 times coarser, so detail is lost" in text
    assert "larger along z, y, x than the median case of 10 × 16 × 11" in reasons(
        new, "3d_fullres.patch_size", "carried"
    )


def test_an_axis_order_that_would_be_another_is_said(prostate: Plan) -> None:
    across = facts(spacings_mm=((0.5, 0.5, 3.0),) * 208)
    new = carry(prostate, across, BUDGET)
    assert new.axis_order == (0, 1, 2)
    assert "planned anew: 2, 0, 1, x as read has the largest spacing" in reasons(new, "axis_order", "carried")


def test_channels_are_told_by_name(make_fingerprint: MakeFingerprint) -> None:
    old = PLANNERS["default"](make_fingerprint(channels=(Channel(name="CT"), Channel(name="PET"))), BUDGET)
    old = set_value(old, "*.normalization", '["ct", "rescale-0-1"]')
    old = set_value(old, "*.use_mask_for_norm", "[false, true]")
    other = make_fingerprint(channels=tuple(Channel(name=name) for name in ("pet", "MRI", "CT")))
    new = carry(old, other, BUDGET)
    check_carried(old, new, other)
    for item in new.configurations:
        assert item.normalization == ("rescale-0-1", "zscore", "ct")
        assert item.use_mask_for_norm == (True, False, False)
    assert reasons(new, "2d.normalization", "carried-changed") == "chosen by name for MRI; carried for pet, CT"


def intensities(mean: float) -> Intensities:
    return Intensities(
        mean=mean, median=mean, std=1.0, minimum=0.0, maximum=9.0, percentile_00_5=1.0, percentile_99_5=8.0
    )


def test_intensities_are_the_new_ones_or_those_the_network_knows(make_fingerprint: MakeFingerprint) -> None:
    old = PLANNERS["default"](make_fingerprint(channels=(Channel(name="CT", intensities=intensities(5.0)),)), BUDGET)
    names = (Channel(name="ct", intensities=intensities(7.0)), Channel(name="b", intensities=intensities(3.0)))
    other = make_fingerprint(channels=names)

    def means(plan: Plan) -> list[float]:
        return [channel.intensities.mean for channel in plan.channels if channel.intensities is not None]

    assert means(carry(old, other, BUDGET)) == [7.0, 3.0]
    assert means(carry(old, other, BUDGET, is_trained=True)) == [5.0, 3.0]


def test_single_slices_take_the_plane_alone(prostate: Plan) -> None:
    fingerprint = FLAT
    new = carry(prostate, fingerprint, BUDGET)
    assert [item.name for item in new.configurations] == ["2d"]
    assert "3d_fullres left out" in reasons(new, "configurations", "carried-changed")
    check_carried(prostate, new, fingerprint)
    volumes = dataclasses.replace(prostate, configurations=(prostate.configuration("3d_fullres"),))
    with pytest.raises(PlanError, match=r"is for volumes \(3d_fullres\), and retina has single slices. Plan without"):
        carry(volumes, fingerprint, BUDGET)


def test_planes_serve_volumes(retina: Plan) -> None:
    fingerprint = THICK
    check_carried(retina, carry(retina, fingerprint, BUDGET), fingerprint)


def test_a_smaller_budget_is_said_with_what_would_fit(prostate: Plan) -> None:
    small = MemoryBudget(device_bytes=3 * 10**9)
    new = carry(prostate, THICK, small)
    assert new.budget == small
    assert new.configuration("3d_fullres").batch_size == prostate.configuration("3d_fullres").batch_size
    assert "3.0 GB, but the plan was made for 8.0 GB" in reasons(new, "budget", "carried-changed")
    text = reasons(new, "3d_fullres.estimated_bytes", "step-bytes")
    assert "above 3.0 GB" in text
    assert "--set 3d_fullres.batch_size=1 would fit 3.0 GB" in text or "no batch fits 3.0 GB" in text


def cascade(plan: Plan) -> Plan:
    coarse = set_value(plan, "low.inherits", "3d_fullres")
    coarse = set_value(coarse, "low.spacing_mm", "[3, 3, 3]")
    return set_value(set_value(coarse, "high.inherits", "3d_fullres"), "high.previous", "low")


def test_a_cascade_is_carried_with_its_input(hippocampus: Plan, make_fingerprint: MakeFingerprint) -> None:
    fingerprint = make_fingerprint(labels=name_labels("background", "a", "b", "c", "d"))
    new = carry(cascade(hippocampus), fingerprint, BUDGET)
    assert [part.channels for part in new.configuration("high").inputs] == [1, 4]
    assert "coarser" not in reasons(new, "low.spacing_mm", "carried"), "a first stage is meant to be coarse"
    check_carried(cascade(hippocampus), new, fingerprint)


def test_what_a_plan_started_from_is_not_carried(hippocampus: Plan, make_fingerprint: MakeFingerprint) -> None:
    old = set_value(hippocampus, "*.training.initial_weights", "0123")
    old = set_value(set_value(old, "*.training.frozen", '["encoder"]'), "*.training.epochs", "7")
    for item in carry(old, make_fingerprint(), BUDGET).configurations:
        assert (item.training.initial_weights, item.training.frozen, item.training.epochs) == ("", (), 7)


def test_mirroring_is_decided_by_the_new_labels(hippocampus: Plan, make_fingerprint: MakeFingerprint) -> None:
    sides = make_fingerprint(labels=name_labels("background", "left kidney", "right kidney"))
    new = carry(hippocampus, sides, BUDGET)
    own = PLANNERS["default"](sides, BUDGET)
    for item in new.configurations:
        assert item.training.mirror_axes == own.configuration(item.name).training.mirror_axes
    chosen = set_value(hippocampus, "*.training.mirror_axes", "[0]")
    assert {item.training.mirror_axes for item in carry(chosen, sides, BUDGET).configurations} == {(0,)}


def test_a_target_of_the_users_own_stays(hippocampus: Plan, make_fingerprint: MakeFingerprint) -> None:
    old = set_value(hippocampus, "3d_fullres.target.name", "distances")
    new = carry(old, make_fingerprint(labels=name_labels("background", "a")), BUDGET)
    assert new.configuration("3d_fullres").target == old.configuration("3d_fullres").target
    assert "the rules do not know distances" in reasons(new, "3d_fullres.target.num_outputs", "carried")
    assert new.configuration("2d").target.num_outputs == 2


def test_the_description_tells_where_the_plan_is_from(hippocampus: Plan) -> None:
    text = describe(fine_tune(carry(hippocampus, THICK, MemoryBudget(device_bytes=10**9)), "runs/a"))
    head, first, _ = text.split("\n\n")
    assert "  plan            the plan of hippocampus" in head
    assert "  channels        T2, ADC instead of MRI; intensities of prostate" in head
    assert "  labels          new: peripheral, transition; not here: anterior, posterior" in head
    assert "  budget          1.0 GB, but the plan was made for 8.0 GB" in head
    assert "  changed         training.learning_rate = 0.001: starts from runs/a" in first
    assert "  plan  " not in describe(hippocampus)


def test_carried_twice_tells_where_each_reason_is_from(hippocampus: Plan, make_fingerprint: MakeFingerprint) -> None:
    old = set_value(hippocampus, "3d_fullres.batch_size", "3")
    twice = carry(carry(old, make_fingerprint(dataset="b"), BUDGET), make_fingerprint(dataset="c"), BUDGET)
    assert reasons(twice, "3d_fullres.batch_size", "carried") == "from hippocampus: set by the user (was 7)"
    assert reasons(twice, "plan.json", "carried") == "the plan of b"


def test_other_labels_alone(hippocampus: Plan, make_fingerprint: MakeFingerprint) -> None:
    other = make_fingerprint(
        labels=name_labels("background", "posterior", "tumour", "cyst"), shapes=((99, 99, 99),) * 208
    )
    new = adapt_labels(cascade(hippocampus), other)
    assert new.configuration("3d_fullres").median_shape == hippocampus.configuration("3d_fullres").median_shape
    assert {item.target.num_outputs for item in new.configurations} == {4}
    assert [part.channels for part in new.configuration("high").inputs] == [1, 3]
    assert reasons(new, "labels", "carried-changed") == "new: tumour, cyst; not here: anterior"
    values = Labels(classes=tuple(LabelClass(name=c.name, value=7 * c.value) for c in hippocampus.labels.classes))
    same = adapt_labels(hippocampus, make_fingerprint(labels=values))
    assert same == dataclasses.replace(hippocampus, labels=values)


def test_names_are_compared_without_case(hippocampus: Plan, make_fingerprint: MakeFingerprint) -> None:
    other = make_fingerprint(labels=name_labels("background", "Anterior", "POSTERIOR"))
    assert not reasons(carry(hippocampus, other, BUDGET), "labels", "carried-changed")


def test_a_plan_without_reasons_gets_some(hippocampus: Plan, make_fingerprint: MakeFingerprint) -> None:
    new = carry(dataclasses.replace(hippocampus, reasons=()), make_fingerprint(dataset="b"), BUDGET)
    check_carried(hippocampus, new, make_fingerprint(dataset="b"))
    assert reasons(new, "2d.batch_size", "carried") == "from hippocampus"


def test_fine_tuning_starts_gently(hippocampus: Plan) -> None:
    for epochs, warm_up in ((None, 50), (100, 5), (2000, 50), (4, 0)):
        tuned = fine_tune(hippocampus, "runs/a", epochs)
        for item in tuned.configurations:
            assert (item.training.learning_rate, item.training.warm_up) == (0.001, warm_up)
            assert item.training.epochs == 1000
        assert "runs/a" in reasons(tuned, "2d.training.learning_rate", "fine-tuning")
    slow = set_value(hippocampus, "*.training.learning_rate", "0.0001")
    assert {item.training.learning_rate for item in fine_tune(slow, "x").configurations} == {0.0001}


names = st.sampled_from(["CT", "MRI", "T2", "pet", "R"])


@st.composite
def datasets(draw: st.DrawFn) -> Fingerprint:
    count = draw(st.integers(1, 3))
    spacing = tuple(draw(st.sampled_from([0.3, 1.0, 2.5, 6.0])) for _ in range(3))
    shape = tuple(draw(st.sampled_from([20, 48, 100, 300])) for _ in range(3))
    changes: dict[str, Any] = {
        "dataset": draw(st.sampled_from(["one", "two"])),
        "channels": tuple(Channel(name=name) for name in draw(st.lists(names, min_size=1, max_size=3, unique=True))),
        "labels": name_labels("background", *draw(st.lists(names, min_size=1, max_size=5, unique=True))),
        "num_cases": count,
        "spacings_mm": (spacing,) * count,
        "shapes": (shape,) * count,
        "cropped_fraction": draw(st.sampled_from([0.3, 1.0])),
    }
    return facts(**changes)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(first=datasets(), second=datasets())
def test_any_plan_is_carried_to_any_volumes(first: Fingerprint, second: Fingerprint) -> None:
    plan = PLANNERS["default"](first, BUDGET)
    new = carry(plan, second, BUDGET)
    assert carry(plan, second, BUDGET) == new
    check_carried(plan, new, second)
    assert len(dumps(new)) > 100


def test_single_slices_keep_their_own_order_of_axes() -> None:
    """Volumes whose last axis is the coarse one put it first; that order would cut a slice into lines."""
    sagittal = facts(spacings_mm=((1.0, 1.0, 5.0),) * 9, shapes=((200, 200, 24),) * 9, num_cases=9)
    plan = PLANNERS["default"](sagittal, BUDGET)
    assert plan.axis_order == (2, 0, 1)
    new = carry(plan, FLAT, BUDGET)
    assert new.axis_order == (0, 1, 2)
    assert new.configuration("2d").median_shape == (584, 565)
    assert "single slices stay as they are read" in reasons(new, "axis_order", "carried-changed")


def test_warm_up_follows_the_epochs_of_a_gentle_start(hippocampus: Plan) -> None:
    plan = fine_tune(hippocampus, "a model")
    assert {item.training.warm_up for item in plan.configurations} == {50}
    short = renew_warm_up(set_value(plan, "*.training.epochs", "40"))
    assert {item.training.warm_up for item in short.configurations} == {2}
    assert "the same part of 40" in reasons(short, "2d.training.warm_up", "fine-tuning")
    chosen = set_value(set_value(plan, "2d.training.warm_up", "7"), "*.training.epochs", "40")
    assert [item.training.warm_up for item in renew_warm_up(chosen).configurations] == [2, 7]
