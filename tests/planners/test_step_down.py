"""The program's own steps down: always one smaller, always possible until the least, and then said."""

import dataclasses
import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planners import PLANNERS, Fingerprint, MemoryBudget, Plan, PlanError
from planners.describe import describe
from planners.memory import configuration_bytes
from planners.presets import DEFAULT, RESENC_M, build_architecture
from planners.step_down import continue_network, step_down, topology_of
from planners.topology import topology

MORE_THAN_ENOUGH = 500


def all_steps(plan: Plan, name: str) -> tuple[list[Plan], str]:
    """Step down until nothing is left; the plans, and the message at the end."""
    plans = [plan]
    for _ in range(MORE_THAN_ENOUGH):
        try:
            plans.append(step_down(plans[-1], name))
        except PlanError as end:
            return plans, str(end)
    raise AssertionError("it does not end")


def sizes(plans: list[Plan], name: str) -> list[tuple[int, tuple[int, ...]]]:
    return [(plan.configuration(name).batch_size, plan.configuration(name).patch_size) for plan in plans]


def check_steps(plan: Plan, name: str) -> None:
    plans, end = all_steps(plan, name)
    predicted = [configuration_bytes(item.configuration(name)).total for item in plans]
    assert all(after < before for before, after in itertools.pairwise(predicted))
    assert [item.configuration(name).estimated_bytes for item in plans[1:]] == predicted[1:]
    last = plans[-1].configuration(name)
    assert last.batch_size == 1
    assert " × ".join(map(str, last.patch_size)) in end
    untouched = {"patch_size", "batch_size", "output_size", "architecture", "estimated_bytes"}
    for step in plans:
        for field in dataclasses.fields(last):
            if field.name not in untouched:
                assert getattr(step.configuration(name), field.name) == getattr(plan.configuration(name), field.name)


def test_every_step_of_kept_plans_is_smaller(kept_facts: list[tuple[str, Fingerprint, MemoryBudget]]) -> None:
    for planner, fingerprint, budget in kept_facts[::17]:
        plan = PLANNERS[planner](fingerprint, budget)
        for item in plan.configurations[:2]:
            check_steps(plan, item.name)


edges = st.integers(8, 200)


@settings(max_examples=10, deadline=None)
@given(
    shape=st.tuples(edges, edges, edges),
    spacing=st.tuples(*(st.sampled_from([0.5, 0.7, 1.0, 2.5, 5.0]) for _ in range(3))),
    planner=st.sampled_from(["default", "resenc-m"]),
    gigabytes=st.integers(2, 24),
)
def test_steps_of_any_plan_end(
    shape: tuple[int, int, int], spacing: tuple[float, float, float], planner: str, gigabytes: int
) -> None:
    from planners import Channel, LabelClass, Labels

    labels = Labels(classes=(LabelClass(name="background", value=0), LabelClass(name="a", value=1)))
    fingerprint = Fingerprint(
        dataset="any",
        channels=(Channel(name="MRI"),),
        labels=labels,
        num_cases=20,
        spacings_mm=(spacing,),
        shapes=(shape,),
    )
    try:
        plan = PLANNERS[planner](fingerprint, MemoryBudget(device_bytes=gigabytes * 10**9))
    except PlanError:
        return
    for item in plan.configurations:
        check_steps(plan, item.name)


def test_the_batch_goes_first_then_the_patch_then_the_last_patch(hippocampus: Plan) -> None:
    plans, end = all_steps(hippocampus, "3d_fullres")
    found = sizes(plans, "3d_fullres")
    assert [batch for batch, _ in found[:6]] == [7, 6, 5, 4, 3, 2]
    assert {patch for _, patch in found[:6]} == {(40, 56, 40)}
    assert [batch for batch, _ in found[6:]] == [2] * (len(found) - 7) + [1]
    assert found[-1][1] == found[-2][1] != (40, 56, 40)
    assert end.startswith("3d_fullres does not fit: the device ran out of memory even with one patch of ")


def test_other_configurations_stay(hippocampus: Plan) -> None:
    changed = step_down(hippocampus, "3d_fullres")
    assert changed.configuration("2d") == hippocampus.configuration("2d")
    assert {r for r in changed.reasons if r.about.startswith("2d")} == {
        r for r in hippocampus.reasons if r.about.startswith("2d")
    }


def test_the_reason_is_told(hippocampus: Plan) -> None:
    plan = step_down(step_down(hippocampus, "3d_fullres"), "3d_fullres", "a measured step takes 9.0 GB")
    (reason,) = (r for r in plan.reasons if r.rule == "out-of-memory")
    assert reason.about == "3d_fullres.batch_size"
    assert reason.because == "a measured step takes 9.0 GB with 6"
    assert "  batch size      5                         a measured step takes 9.0 GB with 6" in describe(plan)


def test_a_smaller_patch_is_told_and_its_network_found_again(prostate: Plan) -> None:
    item = dataclasses.replace(prostate.configuration("3d_fullres"), batch_size=2)
    plan = dataclasses.replace(prostate, configurations=(item,))
    plans, _ = all_steps(plan, "3d_fullres")
    smaller = plans[1].configuration("3d_fullres")
    assert smaller.patch_size == smaller.output_size == (20, 256, 256)
    wanted = topology(item.spacing_mm, smaller.patch_size)
    assert smaller.architecture == build_architecture(DEFAULT, wanted)
    text = describe(plans[1])
    assert "the device ran out of memory with 20 × 320 × 256" in text


@pytest.mark.parametrize("preset", [DEFAULT, RESENC_M], ids=lambda preset: preset.name)
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (4.0, 1.0, 1.0), (1.0, 1.0)])
def test_a_network_is_continued_as_its_preset_builds_it(preset: Any, spacing: tuple[float, ...]) -> None:
    large, small = topology(spacing, (128,) * len(spacing)), topology(spacing, (40,) * len(spacing))
    built = build_architecture(preset, large)
    assert continue_network(built, small) == build_architecture(preset, small)
    grown = continue_network(build_architecture(preset, small), large)
    assert [stage.features for stage in grown.stages] == [stage.features for stage in built.stages]


def test_topology_is_read_off_a_configuration(prostate: Plan) -> None:
    item = prostate.configuration("3d_fullres")
    assert topology_of(item) == topology(item.spacing_mm, item.patch_size)
