"""What every planner owes, run over the table ``PLANNERS``: on kept, hand-made and seeded fingerprints."""

import ast
import contextlib
import dataclasses
import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import planners
from planners import PLANNERS, Channel, Fingerprint, LabelClass, Labels, MemoryBudget, Plan, PlanError
from planners.describe import WIDTH, describe
from planners.fingerprint import CaseObjects, InstanceStats
from planners.geometry import axis_order, first_patch, median_resampled_shape, reorder, target_spacing
from planners.instances import count_outputs
from planners.network_size import feature_map_elements
from planners.plan import Input
from planners.presets import PRESETS as ALL_PRESETS
from planners.records import dumps, from_json, to_json
from planners.topology import topology
from planners.unet import count_label_entries

PRESETS = {preset.name: preset for preset in ALL_PRESETS}
"""The numbers behind the planners of the table that go by element budgets; others keep to measures of their own."""

sizes = st.sampled_from([1, 3, 7, 12, 20, 35, 48, 64, 100, 155, 240, 512, 900])


@st.composite
def fingerprints(draw: st.DrawFn) -> Fingerprint:
    """Datasets of all kinds: flat, thick-sliced, tiny, huge, with mixed spacings."""
    count = draw(st.integers(1, 4))
    scale = [draw(st.sampled_from([0.005, 0.3, 0.7, 1.0, 1.25, 3.0, 6.0])) for _ in range(3)]
    shape = [draw(sizes) for _ in range(3)]
    jitter = st.floats(0.8, 1.25)
    num_classes = draw(st.integers(2, 30))
    return Fingerprint(
        dataset="seeded",
        channels=tuple(Channel(name=draw(st.sampled_from(["CT", "MRI", "noNorm", "R"]))) for _ in range(count % 3 + 1)),
        labels=Labels(
            classes=tuple(LabelClass(name=str(value), value=3 * value) for value in range(num_classes)),
            ignore=draw(st.sampled_from([None, 255])),
        ),
        num_cases=draw(st.integers(1, 500)),
        spacings_mm=tuple((*(size * draw(jitter) for size in scale),) for _ in range(count)),  # type: ignore[misc]
        shapes=tuple((*(math.ceil(size * draw(jitter)) for size in shape),) for _ in range(count)),  # type: ignore[misc]
        cropped_fraction=draw(st.floats(0.1, 1.0)),
    )


@st.composite
def fingerprints_with_objects(draw: st.DrawFn) -> Fingerprint:
    """The same with objects of all kinds: dense, apart, touching, tiny, larger than the image, of one or more sizes."""
    fingerprint = draw(fingerprints())
    fraction, diameter = st.floats(0, 1), st.floats(0.01, 1000)
    spread = draw(st.sampled_from([1.0, 2.0, 10.0]))
    number = draw(st.sampled_from([1, 12]))  # so many cases that a common diameter can be fitted, or too few
    small = draw(diameter)
    cases = tuple(
        CaseObjects(count=5, diameter_mm=small * spread ** draw(fraction)) for _ in fingerprint.shapes * number
    )
    return dataclasses.replace(
        fingerprint,
        labels=dataclasses.replace(fingerprint.labels, instance_classes=fingerprint.labels.names[1:2]),
        shapes=fingerprint.shapes * number,
        spacings_mm=fingerprint.spacings_mm * number,
        size_features=tuple((math.log(case.diameter_mm), draw(fraction)) for case in cases),
        instances=InstanceStats(
            cases=cases,
            diameters_mm=(small, small * spread**0.5, small * spread),
            solidity=draw(fraction),
            elongation=1 + draw(fraction),
            touching_fraction=draw(fraction) ** 4,
            background_fraction=draw(fraction),
        ),
    )


def resolve(place: Any, steps: list[str]) -> list[Any]:
    """All values a reason is about; a step into a list goes into each of its entries."""
    if not steps:
        return [place]
    if isinstance(place, list) and not steps[0].isdigit():
        return [found for item in place for found in resolve(item, steps)]
    return resolve(place[int(steps[0]) if isinstance(place, list) else steps[0]], steps[1:])


def is_too_small(fingerprint: Fingerprint) -> bool:
    """No axis can be halved, neither of the volume nor of its slices."""
    spacing = target_spacing(fingerprint.spacings_mm, fingerprint.shapes).value
    order = axis_order(spacing).value
    shape = reorder(median_resampled_shape(fingerprint.spacings_mm, fingerprint.shapes, spacing), order)
    volume = topology(reorder(spacing, order), first_patch(reorder(spacing, order), shape))
    plane = topology(reorder(spacing, order)[1:], first_patch(reorder(spacing, order)[1:], shape[1:]))
    return len(plane.strides) == 1 and (shape[0] == 1 or len(volume.strides) == 1)


def check_plan(name: str, plan: Plan, fingerprint: Fingerprint, budget: MemoryBudget) -> None:
    assert plan.planner == name
    assert plan.budget == budget
    assert from_json(Plan, json.loads(dumps(plan))) == plan
    check_reasons(plan)
    check_alternatives(plan)
    for item in plan.configurations:
        for axis, size in enumerate(item.patch_size):
            assert size % math.prod(stage.stride[axis] for stage in item.architecture.stages) == 0
        if not plan.labels.instance_classes:
            assert item.target.num_outputs == fingerprint.labels.num_classes
        assert sum(output.loss_weight for output in item.architecture.outputs) == pytest.approx(1)
        assert item.training.validation_steps * 5 == item.training.steps_per_epoch
        assert item.estimated_bytes > 0
        if name in PRESETS:
            check_budget(name, item.name, plan)


def check_alternatives(plan: Plan) -> None:
    """Objects: configurations are alike but for the target and what follows from it. Classes: see ``check_cascade``."""
    if not plan.labels.instance_classes:
        check_cascade(plan)
        return
    first, *others = plan.configurations
    base = "2d" if first.dimensions == 2 else "3d_fullres"
    for item in plan.configurations:
        assert item.name == f"{base}_{item.target.name}"
        assert item.target.num_outputs == count_outputs(item.target, plan.labels)
        assert item.target.options["spacing"] == list(item.spacing_mm)
    for item in others:
        own = {name: getattr(first, name) for name in ("name", "target", "estimated_bytes")}
        assert dataclasses.replace(item, **own) == first


def check_cascade(plan: Plan) -> None:
    """A first stage has its second and the other way round; the second is the full resolution but for its input."""
    names = [item.name for item in plan.configurations]
    assert names == [name for name in ("3d_fullres", "3d_lowres", "3d_cascade_fullres", "2d") if name in names]
    if "3d_lowres" not in names:
        assert "3d_cascade_fullres" not in names
        return
    full, low = plan.configuration("3d_fullres"), plan.configuration("3d_lowres")
    cascade = plan.configuration("3d_cascade_fullres")
    previous = Input(kind="previous", name="3d_lowres", channels=plan.labels.num_classes - 1)
    own = {"name": cascade.name, "inputs": (*full.inputs, previous), "previous": "3d_lowres"}
    assert cascade == dataclasses.replace(full, **own, estimated_bytes=cascade.estimated_bytes)
    assert cascade.estimated_bytes > full.estimated_bytes
    assert cascade.training.batch_dice
    assert not low.training.batch_dice
    assert low.architecture.family == full.architecture.family
    assert all(coarse >= fine for coarse, fine in zip(low.spacing_mm, full.spacing_mm, strict=True))
    coarser = math.prod(low.spacing_mm) / math.prod(full.spacing_mm)
    voxels = math.prod(full.median_shape)
    assert math.prod(full.patch_size) < 0.25 * voxels
    assert math.prod(low.patch_size) >= 0.25 * voxels / coarser * (1 - 1e-9)
    assert coarser >= 2 * (1 - 1e-9)


def check_budget(name: str, configuration: str, plan: Plan) -> None:
    """Within budget by the planner's own measure (it rounds the batch to the nearest), or at its smallest batch."""
    item, preset = plan.configuration(configuration), PRESETS[name]
    heads = max(count_label_entries(plan.labels), *(one.target.num_outputs for one in plan.configurations), 0)
    heads = heads if plan.labels.instance_classes else count_label_entries(plan.labels)
    elements = feature_map_elements(item.architecture, item.patch_size, heads)
    scale = preset.scale(item.dimensions)
    allowed = preset.element_budget(item.dimensions, plan.budget.device_bytes)
    assert elements / scale.reference_batch * scale.shrink_batch <= allowed
    if item.batch_size > preset.min_batch:
        assert elements / scale.reference_batch * (item.batch_size - 0.5) <= allowed * (1 + 1e-12)


def check_reasons(plan: Plan) -> None:
    """Every decision has a reason, every reason is about a value of the plan."""
    values: dict[str, Any] = {item.name: to_json(item) for item in plan.configurations}
    values |= {"axis_order": list(plan.axis_order), "configurations": list(values), "labels": to_json(plan.labels)}
    abouts = {reason.about for reason in plan.reasons}
    for reason in plan.reasons:
        assert reason.rule
        assert reason.because
        assert resolve(values, reason.about.split("."))
    unasked = {"name", "previous", *(() if plan.labels.instance_classes else ("scaling",))}
    for item in plan.configurations:
        for field in set(to_json(item)) - unasked:
            place = f"{item.name}.{field}"
            assert any(about == place or about.startswith(place + ".") for about in abouts), place


@pytest.mark.parametrize("name", PLANNERS)
def test_kept_fingerprints(name: str, kept: tuple[Fingerprint, MemoryBudget, Any]) -> None:
    fingerprint, budget, _ = kept
    check_plan(name, PLANNERS[name](fingerprint, budget), fingerprint, budget)


@pytest.mark.parametrize("name", PLANNERS)
def test_kept_objects(name: str, kept_objects: tuple[Fingerprint, MemoryBudget]) -> None:
    fingerprint, budget = kept_objects
    check_plan(name, PLANNERS[name](fingerprint, budget), fingerprint, budget)


@pytest.mark.parametrize("name", PLANNERS)
@settings(max_examples=100, deadline=None, derandomize=True)
@given(fingerprint=fingerprints(), gigabytes=st.one_of(st.just(0.05), st.floats(1, 80)))
def test_seeded_fingerprints(name: str, fingerprint: Fingerprint, gigabytes: float) -> None:
    """From 1 to 80 GB every dataset that is not too small gets a plan that owes nothing; below, that or a message."""
    budget = MemoryBudget(device_bytes=int(gigabytes * 1e9))
    if is_too_small(fingerprint):
        with pytest.raises(PlanError, match="too small for a network of two stages"):
            PLANNERS[name](fingerprint, budget)
        return
    with contextlib.nullcontext() if gigabytes >= 1 else contextlib.suppress(PlanError):
        plan = PLANNERS[name](fingerprint, budget)
        assert PLANNERS[name](fingerprint, budget) == plan
        check_plan(name, plan, fingerprint, budget)


@pytest.mark.parametrize("name", PLANNERS)
@settings(max_examples=40, deadline=None, derandomize=True)
@given(fingerprint=fingerprints_with_objects(), gigabytes=st.floats(1, 80))
def test_seeded_fingerprints_with_objects(name: str, fingerprint: Fingerprint, gigabytes: float) -> None:
    budget = MemoryBudget(device_bytes=int(gigabytes * 1e9))
    semantic = dataclasses.replace(fingerprint.labels, instance_classes=())
    if is_too_small(dataclasses.replace(fingerprint, labels=semantic)):
        return
    try:
        plan = PLANNERS[name](fingerprint, budget)
    except PlanError as fault:  # what fits in 2D alone: volumes are looked at whole
        if "is possible with" not in str(fault) and "too small" not in str(fault):
            raise
        return
    assert PLANNERS[name](fingerprint, budget) == plan
    check_plan(name, plan, fingerprint, budget)
    assert max(map(len, describe(plan).splitlines())) <= WIDTH


@pytest.mark.parametrize("name", PLANNERS)
@settings(max_examples=12, deadline=None, derandomize=True)
@given(fingerprint=fingerprints())
def test_the_least_budget_named_is_the_least(name: str, fingerprint: Fingerprint) -> None:
    with pytest.raises(PlanError) as fault:
        PLANNERS[name](fingerprint, MemoryBudget(device_bytes=0))
    if "too small" in str(fault.value):
        return
    least = int(str(fault.value).split(" is possible with ")[1].split(".")[0].replace(",", ""))
    assert PLANNERS[name](fingerprint, MemoryBudget(device_bytes=least)).configurations
    with pytest.raises(PlanError, match="Give a budget of at least that"):
        PLANNERS[name](fingerprint, MemoryBudget(device_bytes=least - 1))


@pytest.mark.parametrize("name", PLANNERS)
@settings(max_examples=12, deadline=None, derandomize=True)
@given(fingerprint=fingerprints())
def test_what_is_left_out_is_back_with_the_budget_named(name: str, fingerprint: Fingerprint) -> None:
    """Within the least budget of any plan, the other configuration says its own least."""
    with pytest.raises(PlanError) as fault:
        PLANNERS[name](fingerprint, MemoryBudget(device_bytes=0))
    if "too small" in str(fault.value):
        return
    least = int(str(fault.value).split(" is possible with ")[1].split(".")[0].replace(",", ""))
    reasons = PLANNERS[name](fingerprint, MemoryBudget(device_bytes=least)).reasons
    for left_out in (reason.because for reason in reasons if reason.rule == "left-out"):
        if "needs a budget of" in left_out:
            more = int(left_out.split("needs a budget of ")[1].split(" ")[0].replace(",", ""))
            missing = left_out.split(" ")[0]
            with_it = PLANNERS[name](fingerprint, MemoryBudget(device_bytes=more))
            without = PLANNERS[name](fingerprint, MemoryBudget(device_bytes=more - 1))
            assert missing in {item.name for item in with_it.configurations}
            assert missing not in {item.name for item in without.configurations}


def test_every_preset_is_a_planner() -> None:
    assert len(PRESETS) == len(ALL_PRESETS)
    assert [name for name in PLANNERS if name in PRESETS] == list(PRESETS)


def test_planners_import_only_the_standard_library_and_numpy() -> None:
    folder = Path(planners.__file__).parent
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for top in {name.split(".")[0] for name in names}:
                assert top in {"numpy", "planners"} or top in sys.stdlib_module_names, f"{path.name} imports {top}"
                assert top not in {"random", "time", "datetime", "os", "pathlib", "io"}, f"{path.name} imports {top}"
