import math
from collections.abc import Callable

import pytest

from planners import PLANNERS, Fingerprint, LabelClass, Labels, MemoryBudget, Plan, PlanError
from planners.decision import quantity
from planners.presets import DEFAULT, build_architecture
from planners.topology import topology

MakeFingerprint = Callable[..., Fingerprint]


def reasons(plan: Plan, about: str) -> list[str]:
    return [item.because for item in plan.reasons if item.about == about]


def reason(plan: Plan, about: str) -> str:
    (found,) = reasons(plan, about)
    return found


def test_volumes_get_3d_and_2d(hippocampus: Plan) -> None:
    full, plane = hippocampus.configurations
    assert (full.name, full.patch_size, full.batch_size, len(full.architecture.stages)) == (
        "3d_fullres",
        (40, 56, 40),
        7,
        4,
    )
    assert (plane.name, plane.patch_size, plane.patch_shape) == ("2d", (56, 40), (1, 56, 40))
    assert reasons(hippocampus, "configurations") == [
        "3D and 2D: the median case has 36 slices",
        "no low resolution: a patch sees 100 % of the median case (≥ 25 %)",
    ]
    assert not full.training.batch_dice
    assert plane.training.batch_dice


def test_slices_get_2d_alone(retina: Plan) -> None:
    (plane,) = retina.configurations
    assert (plane.name, plane.spacing_mm, plane.median_shape) == ("2d", (1.0, 1.0), (584.0, 565.0))
    assert retina.axis_order == (0, 1, 2)
    assert plane.num_input_channels == 3
    assert plane.normalization == ("zscore",) * 3
    assert reason(retina, "configurations") == "2D alone: the median case has one slice"


def test_axis_order_reaches_every_value(make_fingerprint: MakeFingerprint) -> None:
    fingerprint = make_fingerprint(spacings_mm=((0.5, 0.5, 4.0),), shapes=((320, 300, 30),))
    plan = PLANNERS["default"](fingerprint, MemoryBudget())
    assert plan.axis_order == (2, 0, 1)
    assert plan.configuration("3d_fullres").spacing_mm == (4.0, 0.5, 0.5)
    assert plan.configuration("3d_fullres").median_shape == (30, 320, 300)
    assert plan.configuration("2d").median_shape == (320, 300)
    assert reason(plan, "axis_order") == "x as read has the largest spacing (4 mm), so it comes first"


def test_stride_reason_names_the_axis_that_waits(prostate: Plan) -> None:
    place = "3d_fullres.architecture.stages"
    assert reason(prostate, f"{place}.stride").endswith("(deepest: 5 × 5 × 4); z at stages 4, 5 only")
    assert reason(prostate, f"{place}.kernel").startswith("1 along z in the first 2 stages")
    assert "z at its 10th percentile: 5.8 > 3 times" in reason(prostate, "3d_fullres.spacing_mm")


def test_large_volumes_get_low_resolution_and_a_cascade(liver: Plan) -> None:
    full, low, cascade, plane = liver.configurations
    assert (low.name, low.patch_size, low.median_shape) == ("3d_lowres", (128, 128, 128), (193.0, 205.0, 205.0))
    assert (cascade.name, cascade.previous, plane.name) == ("3d_cascade_fullres", "3d_lowres", "2d")
    assert [(part.kind, part.name, part.channels) for part in cascade.inputs] == [
        ("image", "image", 1),
        ("previous", "3d_lowres", 2),
    ]
    assert cascade.architecture == full.architecture
    assert cascade.num_input_channels == 3
    assert reasons(liver, "configurations")[1].startswith("low resolution and cascade: a patch sees 2 %")
    assert reason(liver, "3d_lowres.spacing_mm").endswith("until a patch sees 26 % of the median case (≥ 25 %)")
    assert reason(liver, "3d_cascade_fullres.inputs").endswith("with one channel per foreground class: 3")
    assert reason(liver, "3d_cascade_fullres.patch_size") == reason(liver, "3d_fullres.patch_size")


def test_batch_dice_follows_the_low_resolution_rule(liver: Plan) -> None:
    full, low, cascade, _ = liver.configurations
    assert [item.training.batch_dice for item in (full, low, cascade)] == [True, False, True]
    assert "of a grid of 193 × 205 × 205 it would see enough" in reason(liver, "3d_fullres.training.batch_dice")


def test_the_batch_of_the_low_resolution_counts_the_voxels_of_its_own_grid(make_fingerprint: MakeFingerprint) -> None:
    fingerprint = make_fingerprint(spacings_mm=((1.0, 1.0, 1.0),), shapes=((600, 600, 600),), num_cases=4)
    plan = PLANNERS["default"](fingerprint, MemoryBudget(device_bytes=80 * 10**9))
    full, low = plan.configuration("3d_fullres"), plan.configuration("3d_lowres")
    assert (full.patch_size, low.patch_size) == ((256, 256, 256), (256, 256, 256))
    assert (full.batch_size, low.batch_size) == (3, 2)  # 5 % of the full resolution's voxels are 3 patches, of these 1
    voxels = 4 * 600**3 / math.prod(low.spacing_mm)
    assert reason(plan, "3d_lowres.batch_size").startswith(
        f"the minimum; 5 % of the dataset's {quantity(voxels)} voxels"
    )


def test_a_residual_preset_differs_from_the_plain_one_in_network_and_numbers_alone(
    liver: Plan, liver_facts: Fingerprint
) -> None:
    plan = PLANNERS["resenc-m"](liver_facts, liver.budget)
    network = plan.configuration("3d_fullres").architecture
    assert network.family == "residual-encoder-unet"
    assert [stage.num_blocks for stage in network.stages] == [1, 3, 4, 6, 6, 6]
    assert network.num_decoder_blocks == (1,) * 5
    assert plan.configuration("3d_fullres").spacing_mm == liver.configuration("3d_fullres").spacing_mm
    because = reason(plan, "3d_fullres.architecture.stages.num_blocks")
    assert because == "residual blocks of two convolutions per encoder stage, after a stem of one"


@pytest.mark.parametrize("name", PLANNERS)
def test_the_budget_moves_every_preset(name: str, liver_facts: Fingerprint) -> None:
    patches = [
        math.prod(PLANNERS[name](liver_facts, MemoryBudget(device_bytes=gb * 10**9)).configurations[0].patch_size)
        for gb in (2, 8, 24, 40, 80)
    ]
    assert patches == sorted(patches)
    assert len(set(patches)) == 5


def test_outputs_halve_and_the_coarsest_weighs_nothing(prostate: Plan) -> None:
    outputs = prostate.configuration("3d_fullres").architecture.outputs
    weights = [output.loss_weight for output in outputs]
    total = 1 + 1 / 2 + 1 / 4 + 1 / 8 + 1 / 16
    assert weights == pytest.approx([1 / total, 0.5 / total, 0.25 / total, 0.125 / total, 0.0625 / total, 0])
    assert [output.stride for output in outputs[:4]] == [(1, 1, 1), (1, 2, 2), (1, 4, 4), (2, 8, 8)]


def test_two_stages_have_one_output_that_weighs_one() -> None:
    network = build_architecture(DEFAULT, topology((1, 1), (12, 4)))
    assert [output.loss_weight for output in network.outputs] == [1.0]


def test_features_double_up_to_the_cap(prostate: Plan) -> None:
    full, plane = prostate.configurations
    assert [stage.features for stage in full.architecture.stages] == [32, 64, 128, 256, 320, 320, 320]
    assert [stage.features for stage in plane.architecture.stages] == [32, 64, 128, 256, 512, 512, 512]


def test_an_estimate_above_the_budget_is_said(make_fingerprint: MakeFingerprint) -> None:
    many = Labels(classes=tuple(LabelClass(name=str(value), value=value) for value in range(120)))
    plan = PLANNERS["default"](make_fingerprint(labels=many, num_cases=10**5), MemoryBudget())
    assert plan.configuration("3d_fullres").estimated_bytes > 8e9
    because = reason(plan, "3d_fullres.estimated_bytes")
    assert because.endswith("above 8.0 GB: a smaller batch_size or patch_size may be needed")


def test_what_cannot_be_is_left_out_with_its_reason(make_fingerprint: MakeFingerprint) -> None:
    fingerprint = make_fingerprint(shapes=((100, 6, 6),) * 208)
    plan = PLANNERS["default"](fingerprint, MemoryBudget())
    assert [item.name for item in plan.configurations] == ["3d_fullres"]
    left_out = [item.because for item in plan.reasons if item.rule == "left-out"]
    assert left_out == [
        "2d is left out: the median shape 6 × 6 is too small for a network of two stages, which takes 8 voxels along "
        "two axes of like spacing or 12 along one"
    ]


def test_no_plan_for_tiny_images(make_fingerprint: MakeFingerprint) -> None:
    with pytest.raises(PlanError, match="no plan is possible for hippocampus: the median shape 5 × 6 × 7 is too small"):
        PLANNERS["default"](make_fingerprint(shapes=((5, 6, 7),) * 208), MemoryBudget())


def test_no_plan_within_a_tiny_budget_says_the_least(make_fingerprint: MakeFingerprint) -> None:
    with pytest.raises(PlanError, match=r"within 1,000 bytes; 2d is possible with [\d,]+\. Give a budget of at least"):
        PLANNERS["default"](make_fingerprint(), MemoryBudget(device_bytes=1000))
