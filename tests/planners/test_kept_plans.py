"""The default planner decides what nnU-Net v2.8.1 decides: 38 kept fingerprints, 70 configurations, every field."""

from typing import Any

import pytest

from planners import PLANNERS, Configuration, Fingerprint, MemoryBudget
from planners.fitting import Limits, choose_batch_size, fit_patch
from planners.geometry import axis_order, median_resampled_shape, reorder, target_spacing
from planners.low_resolution import find_low_resolution
from planners.presets import DEFAULT
from planners.unet import count_label_entries

Kept = tuple[Fingerprint, MemoryBudget, dict[str, Any]]

NAMES = {"ZScoreNormalization": "zscore", "CTNormalization": "ct"}


def as_kept(configuration: Configuration) -> dict[str, Any]:
    """Our configuration in the words of the kept file."""
    stages = configuration.architecture.stages
    return {
        "spacing_mm": list(configuration.spacing_mm),
        "median_shape_voxels": list(configuration.median_shape),
        "patch_size": list(configuration.patch_size),
        "batch_size": configuration.batch_size,
        "strides": [list(stage.stride) for stage in stages],
        "kernel_sizes": [list(stage.kernel) for stage in stages],
        "features_per_stage": [stage.features for stage in stages],
        "encoder_blocks": [stage.num_blocks for stage in stages],
        "decoder_convs": list(configuration.architecture.num_decoder_blocks),
        "normalization": list(configuration.normalization),
        "use_mask_for_norm": list(configuration.use_mask_for_norm),
        "batch_dice": configuration.training.batch_dice,
    }


def test_every_decision_agrees(kept: Kept) -> None:
    fingerprint, budget, theirs = kept
    plan = PLANNERS["default"](fingerprint, budget)
    assert list(plan.axis_order) == theirs["transpose_forward"]
    wanted = {name: entry for name, entry in theirs["configurations"].items() if name in ("2d", "3d_fullres")}
    assert {item.name for item in plan.configurations} == set(wanted)
    for name, entry in wanted.items():
        assert entry.pop("network") == "PlainConvUNet"
        entry["normalization"] = [NAMES[scheme] for scheme in entry["normalization"]]
        assert as_kept(plan.configuration(name)) == entry


def test_the_low_resolution_grid_agrees(kept: Kept) -> None:
    fingerprint, budget, theirs = kept
    if "3d_fullres" not in theirs["configurations"]:
        return
    target = target_spacing(fingerprint.spacings_mm, fingerprint.shapes).value
    order = axis_order(target).value
    spacing = reorder(target, order)
    shape = reorder(median_resampled_shape(fingerprint.spacings_mm, fingerprint.shapes, target), order)
    limits = Limits(preset=DEFAULT, budget=budget, num_labels=count_label_entries(fingerprint.labels))
    found = find_low_resolution(fit_patch(limits, spacing, shape), limits, spacing, shape).value
    entry = theirs["configurations"].get("3d_lowres")
    assert (found is None) == (entry is None)
    if found is None or entry is None:
        return
    assert list(found.spacing_mm) == entry["spacing_mm"]
    assert list(found.median_shape) == entry["median_shape_voxels"]
    assert list(found.fit.patch_size) == entry["patch_size"]
    assert choose_batch_size(found.fit, limits, found.voxels * fingerprint.num_cases).value == entry["batch_size"]


@pytest.mark.data
def test_the_kept_file_is_the_golden_one(golden_folder: Any) -> None:
    import json
    from pathlib import Path

    golden = [e for e in json.loads((golden_folder / "plans.json").read_text()) if e["planner"] == "default"]
    assert json.loads((Path(__file__).parent / "kept_plans.json").read_text()) == golden
