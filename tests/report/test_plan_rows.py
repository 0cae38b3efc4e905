"""Plan rows: every reason of a plan is shown, and what only some plans have is said in words."""

import dataclasses

import pytest

from autoseg.report.plan_rows import changes, general_rows, plan_sections
from planners import PLANNERS, Channel, Fingerprint, LabelClass, Labels, MemoryBudget, Plan, Reason
from planners.labels import Region

KIDNEYS = Labels(
    classes=tuple(LabelClass(name=n, value=v) for v, n in enumerate(("background", "kidney_left", "kidney_right")))
)


def make_plan(labels: Labels = KIDNEYS, shape: tuple[int, int, int] = (300, 400, 400)) -> Plan:
    fingerprint = Fingerprint(
        dataset="abdomen",
        channels=(Channel(name="MRI"),),
        labels=labels,
        num_cases=20,
        spacings_mm=((1.0, 1.0, 1.0),) * 20,
        shapes=(shape,) * 20,
    )
    return PLANNERS["default"](fingerprint, MemoryBudget(device_bytes=4 * 10**9))


def change(plan: Plan, name: str, *reasons: Reason, **training: object) -> Plan:
    item = plan.configuration(name)
    changed = dataclasses.replace(item, training=dataclasses.replace(item.training, **training))
    items = tuple(changed if other is item else other for other in plan.configurations)
    return dataclasses.replace(plan, configurations=items, reasons=(*plan.reasons, *reasons))


@pytest.fixture(scope="module")
def plan() -> Plan:
    return make_plan()


def rows_of(plan: Plan, name: str) -> dict[str, tuple[str, str]]:
    section = next(item for item in plan_sections(plan, ()) if item.name == name)
    return {title: (value, because) for title, value, because, _ in section.rows}


def test_every_reason_of_a_configuration_is_shown(plan: Plan) -> None:
    for section in plan_sections(plan, ("3d_fullres",)):
        shown = " ".join(because for _, _, because, _ in section.rows)
        for reason in plan.reasons:
            if reason.about.startswith(f"{section.name}."):
                assert reason.because in shown, reason.about
        assert len({title for title, *_ in section.rows}) == len(section.rows)


def test_trained_configurations_come_first(plan: Plan) -> None:
    assert plan_sections(plan, ("3d_fullres",))[0].name == "3d_fullres"
    assert plan_sections(None, ()) == general_rows(None) == changes(None) == ()


def test_a_cascade_says_who_feeds_whom(plan: Plan) -> None:
    general = {title: value for title, value, _ in general_rows(plan)}
    assert general["cascade"] == "3d_lowres → 3d_cascade_fullres"
    assert rows_of(plan, "3d_cascade_fullres")["input"][0] == "the image, and the segmentation by 3d_lowres"
    assert rows_of(plan, "3d_fullres")["input"][0] == "the image"
    assert "cascade" not in {title for title, *_ in general_rows(make_plan(shape=(36, 50, 35)))}


def test_sides_that_change_places_are_named(plan: Plan) -> None:
    why = Reason(about="3d_fullres.training.mirror_axes", rule="sides", because="x runs from right to left")
    swapped = change(plan, "3d_fullres", why, mirror_axes=(0, 1, 2), mirror_swap_axis=2, mirror_swaps=((1, 2),))
    value, because = rows_of(swapped, "3d_fullres")["mirroring"]
    assert value == "along z, y, x; along x these change places: kidney_left ↔ kidney_right"
    assert "x runs from right to left" in because
    assert (
        rows_of(change(plan, "2d", mirror_axes=(1,), mirror_swaps=(), mirror_swap_axis=None), "2d")["mirroring"][0]
        == "along x"
    )
    off = change(plan, "2d", mirror_axes=(), mirror_swaps=(), mirror_swap_axis=None)
    assert rows_of(off, "2d")["mirroring"][0] == "off"


def test_regions_say_how_a_voxel_gets_its_class() -> None:
    classes = tuple(
        LabelClass(name=n, value=v) for v, n in ((0, "background"), (1, "core"), (2, "edema"), (4, "active"))
    )
    regions = (
        Region(name="whole", values=(1, 2, 4)),
        Region(name="inner", values=(1, 4)),
        Region(name="hot", values=(4,)),
    )
    derived = Labels(classes=classes, regions=regions, ignore=255)
    rows = {title: (value, because) for title, value, because in general_rows(make_plan(derived))}
    assert rows["regions"][0] == "whole (core, edema, active); inner (core, active); hot (active)"
    assert "whole as edema, then inner as core, then hot as active (derived)" in rows["regions"][1]
    assert rows["ignored"][0] == "255"
    given = dataclasses.replace(derived, region_values=(2, 1, 4))
    because = {title: because for title, _, because in general_rows(make_plan(given))}["regions"]
    assert "hot as active" in because
    assert "derived" not in because


def test_transfer_patience_and_step_downs_are_told(plan: Plan) -> None:
    reasons = (
        Reason(about="3d_fullres.training.initial_weights", rule="initial-weights", because="from runs/hippocampus"),
        Reason(about="3d_fullres.batch_size", rule="out-of-memory", because="the memory ran out with 2"),
        Reason(about="channels", rule="carried-changed", because="the scheme of CT is kept"),
        Reason(about="3d_fullres.training.epochs", rule="time-budget", because="6 h asked"),
    )
    changed = change(
        plan, "3d_fullres", *reasons, initial_weights="abc123", frozen=("encoder",), patience=30, warm_up=1
    )
    rows = rows_of(changed, "3d_fullres")
    assert rows["starts from"] == ("trained weights (digest abc123)", "from runs/hippocampus")
    assert rows["left as it is"][0] == "encoder"
    assert rows["patience"][0] == "30 epochs"
    assert rows["warm-up"][0] == "1 epoch"
    assert rows["batch size"][1] == "the memory ran out with 2"
    assert rows["epochs"] == ("1000", "6 h asked")
    assert [rule for _, rule, _ in changes(changed)] == ["out-of-memory", "carried-changed", "time-budget"]
