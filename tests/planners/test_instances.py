"""Which targets are chosen for which objects, with which options, and how such plans are edited and carried."""

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest
import torch

from autoseg.data.io import image_from_array
from autoseg.preprocessing.populate import estimate_bytes
from autoseg.preprocessing.resampling import resampled_shape
from autoseg.targets import TARGETS
from autoseg.targets.affinity import FAR as TARGET_FAR
from autoseg.targets.affinity import offsets_of
from autoseg.targets.decode_flow import FlowOptions
from autoseg.targets.instance_encoding import boundary_width as target_width
from autoseg.targets.instance_target import DIAMETER
from planners import PLANNERS, Fingerprint, LabelClass, Labels, MemoryBudget, Plan, PlanError, unet
from planners.decision import Decision
from planners.describe import describe
from planners.diameter import scale_of
from planners.edit import set_value
from planners.fingerprint import CaseObjects, InstanceStats
from planners.host_memory import loading_bytes, predict_host, preprocessing_bytes
from planners.instance_plan import USUAL_DIAMETER, enlarge
from planners.instances import (
    FAR,
    KNOWN_OPTIONS,
    MOST_POINTS,
    NUM_OUTPUTS,
    USUAL_STEPS,
    ObjectSizes,
    as_options,
    boundary_width,
    target_options,
)
from planners.joint import join
from planners.memory import configuration_bytes
from planners.plan import SizeScaling, Target, Training
from planners.records import dumps, from_json
from planners.transfer import adapt_labels, carry


def of_one_size(fingerprint: Fingerprint, **stats: Any) -> Fingerprint:
    """The same with images whose objects have one median diameter, so that none is rescaled."""
    assert fingerprint.instances is not None
    cases = tuple(dataclasses.replace(case, diameter_mm=20.0) for case in fingerprint.instances.cases)
    changed = dataclasses.replace(fingerprint.instances, cases=cases, **stats)
    return dataclasses.replace(fingerprint, instances=changed)


def plan_of(fingerprint: Fingerprint, **stats: Any) -> Plan:
    return PLANNERS["default"](of_one_size(fingerprint, **stats), MemoryBudget())


def names(plan: Plan) -> list[str]:
    return [item.name for item in plan.configurations]


def because(plan: Plan, about: str) -> str:
    return "; ".join(reason.because for reason in plan.reasons if reason.about == about)


# ------------------------------------------------------------------------------------------------------------- rules


@pytest.mark.parametrize(
    ("stats", "expected", "numbers"),
    [
        ({"touching_fraction": 0.3, "solidity": 0.9}, ["2d_boundary", "2d_flow"], ["30 %", "≥ 6", "0.90 (≥ 0.85)"]),
        ({"touching_fraction": 0.005}, ["2d_foreground"], ["0.5 % of the objects touch another (< 1 %)"]),
        ({"background_fraction": 0.04}, ["2d_boundary", "2d_affinity"], ["4 % of the voxels are background (< 5 %)"]),
        ({"solidity": 0.6}, ["2d_flow", "2d_affinity"], ["solidity 0.60 (< 0.85)"]),
        ({"diameters_mm": (3.0, 5.0, 8.0)}, ["2d_flow", "2d_affinity"], ["median diameter 5 voxels (< 6)"]),
    ],
)
def test_targets_follow_from_the_statistics(
    nuclei: Fingerprint, stats: dict[str, Any], expected: list[str], numbers: list[str]
) -> None:
    plan = plan_of(nuclei, **stats)
    assert names(plan) == expected
    for name in expected:
        for number in numbers:
            assert number in because(plan, f"{name}.target.name")
    dense = [item.target.options.get("dense", False) for item in plan.configurations]
    assert dense == [stats.get("background_fraction", 1) < 0.05] + [False] * (len(dense) - 1)


def test_volumes_are_looked_at_whole(ellipsoids: Fingerprint) -> None:
    plan = plan_of(ellipsoids)
    assert names(plan) == ["3d_fullres_boundary", "3d_fullres_flow"]
    assert "3D alone: objects found slice by slice" in because(plan, "configurations")
    assert "no low resolution, no cascade" in because(plan, "configurations")
    assert "takes seconds per patch" in because(plan, "3d_fullres_flow.target.name")
    assert plan.configurations[0].target.options["spacing"] == [4.0, 1.0, 1.0]


def test_the_numbers_measured_are_told(nuclei: Fingerprint) -> None:
    plan = plan_of(nuclei)
    assert nuclei.instances is not None
    told = because(plan, "labels.instance_classes")
    assert f"{sum(case.count for case in nuclei.instances.cases):,} (nucleus) in 41 cases" in told
    text = describe(plan)
    assert "  objects         " in text
    assert "  target          boundary, 3 maps" in text
    assert "  all else        as 2d_boundary" in text


def test_without_objects_there_is_no_plan(nuclei: Fingerprint) -> None:
    with pytest.raises(PlanError, match=r"no objects of nucleus are known in .*; targets that find objects need some"):
        PLANNERS["default"](dataclasses.replace(nuclei, instances=None), MemoryBudget())


# ------------------------------------------------------------------------------- the same arithmetic as the targets'


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("num_classes", [2, 4])
@pytest.mark.parametrize("name", NUM_OUTPUTS)
def test_targets_take_the_options_and_count_their_outputs_alike(name: str, dimensions: int, num_classes: int) -> None:
    labels = Labels(classes=tuple(LabelClass(name=f"c{value}", value=value) for value in range(num_classes)))
    for spacing in ((4.0, 1.0, 1.5)[-dimensions:], (1.0,) * dimensions, (8.0, 1.0, 1.0)[:dimensions]):
        sizes = ObjectSizes(small=5, median=40, large=200, spacing_mm=spacing)
        for dense in (False, True) if name == "boundary" else (False,):
            options = as_options(target_options(name, sizes, dense=dense))
            record = Target(name=name, num_outputs=NUM_OUTPUTS[name](labels, options), options=options)
            assert record.num_outputs == TARGETS[name].num_outputs(labels, options)
            TARGETS[name](record, labels, Training(mirror_axes=tuple(range(dimensions))))
            assert json.loads(json.dumps(options)) == options


@pytest.mark.parametrize("median", [1, 4, 9, 18.8, 50, 300])
@pytest.mark.parametrize("small", [1, 2.2, 7.5, 40])
def test_the_boundary_is_as_wide_as_the_target_says(median: float, small: float) -> None:
    assert boundary_width(median, small) == target_width(median, small)


def test_constants_are_the_targets() -> None:
    assert {name: getattr(TARGETS[name], "known_options", None) for name in NUM_OUTPUTS} == KNOWN_OPTIONS
    assert FAR == TARGET_FAR
    assert USUAL_DIAMETER == DIAMETER
    assert FlowOptions() == FlowOptions(steps=USUAL_STEPS, least_points=MOST_POINTS)


@pytest.mark.parametrize("name", NUM_OUTPUTS)
def test_layers_and_maps_of_objects_are_counted_in_the_device_memory(name: str, nuclei: Fingerprint) -> None:
    """Against what the target makes of a patch, ids in 32 bits."""
    item = set_value(set_value(plan_of(nuclei), "mine.inherits", "2d_boundary"), "mine.target.name", name)
    item = item.configuration("mine")
    label = torch.zeros(1, 2, *item.patch_size, dtype=torch.int32)
    label[0, :, 5:20, 5:20] = 1
    target = TARGETS[name](item.target, nuclei.labels, item.training)
    maps, weights = target.encode(label, [output.stride for output in item.architecture.outputs])
    made = [tensor for tensor in (label, *maps, *weights) if tensor is not None]
    held = item.batch_size * sum(tensor.numel() * tensor.element_size() for tensor in made)
    semantic = dataclasses.replace(item, target=dataclasses.replace(item.target, name="semantic"))
    voxels = item.batch_size * math.prod(item.patch_size)
    plain = sum(8 * voxels // math.prod(output.stride) for output in item.architecture.outputs) + 2 * voxels
    more = configuration_bytes(item).loss - configuration_bytes(semantic).loss
    assert plain + more == pytest.approx(held, rel=0.15 if name == "affinity" else 1e-9)
    assert plain + more >= held


def test_affinities_reach_as_far_along_thick_slices() -> None:
    def offsets(*spacing: float) -> set[tuple[int, ...]]:
        sizes = ObjectSizes(small=5, median=9, large=20, spacing_mm=spacing)
        return set(offsets_of(as_options(target_options("affinity", sizes))))

    near = {(1, 0, 0), (0, 1, 0), (0, 0, 1)}
    assert offsets(1, 1, 1) == near | {(4, 0, 0), (0, 4, 0), (0, 0, 4)}
    assert offsets(2, 1, 1) == near | {(2, 0, 0), (0, 4, 0), (0, 0, 4)}
    assert offsets(5, 1, 1) == near | {(0, 4, 0), (0, 0, 4)}


# ------------------------------------------------------------------------------------------------------ object sizes


def test_small_objects_are_kept_and_debris_is_not() -> None:
    def decode(small: float, *spacing: float) -> dict[str, Any]:
        sizes = ObjectSizes(small=small, median=2 * small, large=4 * small, spacing_mm=spacing)
        found: dict[str, Any] = as_options(target_options("flow", sizes))["decode"]
        return found

    assert decode(3, 1, 1) == {"smallest": 1, "least_points": 0}
    assert decode(9, 1, 1) == {"smallest": 7, "least_points": 6}
    assert decode(60, 0.5, 0.5) == {"smallest": 314, "least_points": 10, "steps": 480}
    assert decode(9, 4, 1, 1) == {"smallest": 3, "least_points": 2}


def rescaled(fingerprint: Fingerprint) -> Fingerprint:
    """The same images of objects of very different sizes, which one feature tells."""
    assert fingerprint.instances is not None
    count = len(fingerprint.shapes)
    diameters = [10.0 * 16 ** (index / (count - 1)) for index in range(count)]
    stats = dataclasses.replace(
        fingerprint.instances,
        cases=tuple(CaseObjects(count=9, diameter_mm=value) for value in diameters),
        diameters_mm=(10.0, 20.0, 80.0),
    )
    features = tuple((float(np.log(value)), 1.0) for value in diameters)  # the first is a logarithm of a length
    return dataclasses.replace(fingerprint, instances=stats, size_features=features)


def test_shapes_and_diameters_are_those_after_scaling(nuclei: Fingerprint) -> None:
    facts = rescaled(nuclei)
    plan = PLANNERS["default"](facts, MemoryBudget())
    item = plan.configurations[0]
    assert item.scaling is not None
    assert "common-diameter" in {reason.rule for reason in plan.reasons if reason.about == f"{item.name}.scaling"}
    assert item.target.options["diameter"] == pytest.approx(item.scaling.diameter_mm, rel=1e-3)
    seen = enlarge(facts, item.scaling)
    scale = [scale_of(features, item.scaling, "") for features in facts.size_features]
    assert max(scale) >= 2
    assert min(scale) <= 0.5
    for before, after, factor in zip(facts.spacings_mm, seen.spacings_mm, scale, strict=True):
        assert after == (before[0], before[1] * factor, before[2] * factor)
    areas = [shape[1] * shape[2] * factor**2 for shape, factor in zip(facts.shapes, scale, strict=True)]
    found = predict_host(item, plan, facts).largest  # by bytes, to which the image as read counts as well
    assert any(found[1] * found[2] == pytest.approx(area, rel=0.02) for area in areas)
    assert found not in facts.shapes
    assert enlarge(facts, None) is facts


def test_few_slices_that_scaling_makes_one_are_planned_as_one(nuclei: Fingerprint) -> None:
    """The network's axes and its target's are counted on the same grid."""
    facts = rescaled(nuclei)
    few = dataclasses.replace(
        facts,
        spacings_mm=tuple((1.0, 1.0, 1.0) for _ in facts.shapes),
        shapes=tuple((2, 256, 256) for _ in facts.shapes),
        size_features=tuple((first + 1.5, second) for first, second in facts.size_features),
    )
    scaling = SizeScaling(diameter_mm=20.0, weights=(0.0, 1.0, 0.0))
    decision: Decision[SizeScaling | None] = Decision(value=scaling, rule="common-diameter", because="")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unet, "fit_scaling", lambda fingerprint: decision)
        plan = PLANNERS["default"](few, MemoryBudget())
    for item in plan.configurations:
        assert item.dimensions == 2
        assert item.target.options["dimensions"] == 2
        assert item.target.options["spacing"] == list(item.spacing_mm)


# ------------------------------------------------------------------------------------------------------------ edits


def test_options_are_set_by_the_user(nuclei: Fingerprint) -> None:
    plan = set_value(plan_of(nuclei), "2d_boundary.target.options.width", "3")
    assert plan.configuration("2d_boundary").target.options["width"] == 3
    assert "width           3 voxels" in describe(plan)
    dense = set_value(plan, "2d_boundary.target.options.dense", "true").configuration("2d_boundary")
    assert dense.target.num_outputs == 2
    assert dense.estimated_bytes < plan.configuration("2d_boundary").estimated_bytes


def test_another_target_takes_its_own_options(nuclei: Fingerprint) -> None:
    plan = set_value(plan_of(nuclei), "mine.inherits", "2d_boundary")
    plan = set_value(plan, "mine.target.name", "affinity")
    item = plan.configuration("mine")
    assert item.target.num_outputs == 2 * 2 + 1
    assert "width" not in item.target.options
    TARGETS["affinity"](item.target, plan.labels, item.training)
    assert "follows from target.name" in because(plan, "mine.target.num_outputs")
    assert from_json(Plan, json.loads(dumps(plan))) == plan


def test_a_finer_grid_makes_objects_larger(nuclei: Fingerprint) -> None:
    plan = plan_of(nuclei)
    before = plan.configuration("2d_flow").target.options["diameter"]
    after = set_value(plan, "2d_flow.spacing_mm", "[0.5, 0.5]").configuration("2d_flow").target
    assert after.options["diameter"] == pytest.approx(2 * before)
    assert after.options["spacing"] == [0.5, 0.5]


SCALING = "{'diameter_mm': 9, 'weights': [1, 1]"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("2d_flow.target.options.width", "2", "width, which target flow does not know; it knows dimensions, spacing"),
        ("2d_flow.target.options.dimensions", "3", "dimensions is 3; the configuration has 2"),
        ("2d_boundary.target.opts.width", "2", "has no field 'opts'"),
        ("2d_boundary.target.options.width", "wide", "2d_boundary.target.options.width is 'wide'; give a number above"),
        ("2d_flow.target.options.spacing", "3", "2d_flow.target.options.spacing is 3; give 2 numbers above 0"),
        ("2d_flow.target.options.decode.smallest", "abc", "options.decode.smallest is 'abc'; give a number"),
        ("2d_flow.target.options.decode", "5", "2d_flow.target.options.decode is 5; give settings by name"),
        ("2d_flow.scaling", f"{SCALING}, 'least': 0}}", "2d_flow.scaling.least is 0.*; must be a number above 0"),
        ("2d_flow.scaling", f"{SCALING}, 'most': 0.1}}", "2d_flow.scaling.least is 0.25, above 2d_flow.scaling.most"),
        ("2d_flow.scaling", "{'diameter_mm': -1, 'weights': [1]}", "2d_flow.scaling.diameter_mm is -1"),
        ("2d_flow.scaling", "{'diameter_mm': 9, 'weights': []}", "2d_flow.scaling.weights is .*; needs a constant"),
    ],
)
def test_impossible_options_are_refused(nuclei: Fingerprint, path: str, value: str, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        set_value(plan_of(nuclei), path, value.replace("'", '"'))


def test_a_target_of_ones_own_keeps_its_number_of_maps(nuclei: Fingerprint) -> None:
    plan = set_value(plan_of(nuclei), "2d_flow.target.name", "stars")
    plan = set_value(plan, "2d_flow.target.num_outputs", "33")
    assert plan.configuration("2d_flow").target.num_outputs == 33


# --------------------------------------------------------------------------------------------------- carried, joined


def test_a_plan_is_carried_to_other_objects(nuclei: Fingerprint) -> None:
    plan = set_value(plan_of(nuclei), "2d_boundary.target.options.width", "2")
    assert nuclei.instances is not None
    low, middle, high = (value / 2 for value in nuclei.instances.diameters_mm)
    stats = of_one_size(nuclei, diameters_mm=(low, middle, high), touching_fraction=0.0).instances
    labels = Labels(
        classes=tuple(LabelClass(name=name, value=value) for value, name in enumerate(("background", "cell", "spot"))),
        instance_classes=("cell", "spot"),
    )
    other = dataclasses.replace(
        nuclei, dataset="other", instances=stats, labels=labels, class_voxels=(), class_centers=()
    )
    carried = carry(plan, other, MemoryBudget())
    item, former = carried.configuration("2d_boundary"), plan.configuration("2d_boundary")
    assert item.target.options["diameter"] == pytest.approx(former.target.options["diameter"] / 2, rel=1e-3)
    assert item.target.options["width"] == 2
    assert item.target.num_outputs == 4
    assert carried.configuration("2d_flow").target.num_outputs == 4
    assert "planned anew: foreground" in because(carried, "2d_boundary.target.name")
    assert "(cell, spot) in" in because(carried, "labels.instance_classes")
    assert adapt_labels(plan, other).configuration("2d_flow").target.num_outputs == 4
    assert describe(carried)


def test_a_size_that_the_user_or_a_network_is_bound_to_is_carried(nuclei: Fingerprint) -> None:
    facts = rescaled(nuclei)
    asked = set_value(PLANNERS["default"](facts, MemoryBudget()), "2d_flow.scaling", "null")
    carried = carry(asked, facts, MemoryBudget())
    assert carried.configuration("2d_flow").scaling is None
    assert carried.configuration("2d_boundary").scaling is not None
    assert "as the user chose; planned anew: rescaled to" in because(carried, "2d_flow.scaling")
    sizes = [carried.configuration(name).target.options["diameter"] for name in ("2d_flow", "2d_boundary")]
    assert facts.instances is not None
    assert sizes == pytest.approx([facts.instances.diameters_mm[1], 10 * 16**0.5], rel=0.05)

    plain = plan_of(nuclei)
    assert plain.configuration("2d_flow").scaling is None
    assert carry(plain, facts, MemoryBudget()).configuration("2d_flow").scaling is not None
    started = carry(plain, facts, MemoryBudget(), is_trained=True)
    assert started.configuration("2d_flow").scaling is None
    assert "as the network was trained; planned anew: rescaled to" in because(started, "2d_flow.scaling")


def test_plans_of_classes_and_of_objects_are_not_mixed(nuclei: Fingerprint) -> None:
    semantic = dataclasses.replace(
        nuclei, dataset="classes", labels=dataclasses.replace(nuclei.labels, instance_classes=()), instances=None
    )
    of_classes = PLANNERS["default"](semantic, MemoryBudget())
    for use in (lambda plan, facts: carry(plan, facts, MemoryBudget()), adapt_labels):
        with pytest.raises(PlanError, match=r"plan of classes is for classes, and .* has objects of nucleus"):
            use(of_classes, nuclei)
        with pytest.raises(PlanError, match="is for objects, and classes has classes alone"):
            use(plan_of(nuclei), semantic)
    with pytest.raises(PlanError, match="only one of them tells objects apart"):
        join([nuclei, semantic])


def test_preprocessing_of_ids_is_what_its_own_gate_holds(ellipsoids: Fingerprint) -> None:
    plan = plan_of(ellipsoids)
    item, shape, spacing = plan.configurations[0], (20, 40, 30), (2.0, 1.5, 1.0)
    image = image_from_array(np.zeros(shape, np.float32), spacing)
    label = image_from_array(np.zeros(shape, np.int32), spacing)
    grid, voxels = resampled_shape(shape, spacing, item.spacing_mm), int(np.prod(shape))
    assert preprocessing_bytes(item, voxels, grid, shape, with_ids=True) == estimate_bytes(image, label, plan, item)
    assert loading_bytes(item, with_ids=True) > loading_bytes(item)


def test_a_plan_with_scaling_is_a_record(nuclei: Fingerprint) -> None:
    plan = PLANNERS["default"](rescaled(nuclei), MemoryBudget())
    assert isinstance(plan.configurations[0].scaling, SizeScaling)
    assert from_json(Plan, json.loads(dumps(plan))) == plan
    none = set_value(plan, "*.scaling", "null")
    assert {item.scaling for item in none.configurations} == {None}
    assert "decided for scaling" in because(none, "2d_flow.median_shape")
    assert isinstance(nuclei.instances, InstanceStats)
