"""The planners decide what nnU-Net v2.8.1 decides: 100 kept fingerprints, 272 configurations, every field, exactly."""

from typing import Any

import pytest

from planners import PLANNERS, Configuration, Fingerprint, MemoryBudget, Plan

Kept = tuple[Fingerprint, MemoryBudget, dict[str, Any]]

NAMES = {"ZScoreNormalization": "zscore", "CTNormalization": "ct"}
NETWORKS = {"plain-unet": "PlainConvUNet", "residual-encoder-unet": "ResidualEncoderUNet"}


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
        "network": NETWORKS[configuration.architecture.family],
        "normalization": list(configuration.normalization),
        "use_mask_for_norm": list(configuration.use_mask_for_norm),
        "batch_dice": configuration.training.batch_dice,
    }


def complete(theirs: dict[str, Any], name: str) -> dict[str, Any]:
    """A kept configuration with all its fields; a cascade's second stage has those of the one it inherits from."""
    entry = dict(theirs["configurations"][name])
    parent = entry.pop("inherits_from", None)
    entry.pop("previous_stage", None)
    entry = {**(complete(theirs, parent) if parent else {}), **entry}
    return {**entry, "normalization": [NAMES.get(scheme, scheme) for scheme in entry["normalization"]]}


def check(plan: Plan, theirs: dict[str, Any]) -> None:
    assert list(plan.axis_order) == theirs["transpose_forward"]
    assert {item.name for item in plan.configurations} == set(theirs["configurations"])
    for item in plan.configurations:
        assert as_kept(item) == complete(theirs, item.name)
        assert item.previous == theirs["configurations"][item.name].get("previous_stage")


def test_every_decision_agrees(kept: Kept) -> None:
    fingerprint, budget, theirs = kept
    check(PLANNERS[theirs["planner"]](fingerprint, budget), theirs)


@pytest.mark.data
def test_the_kept_file_is_the_golden_one(golden_folder: Any) -> None:
    import json
    from pathlib import Path

    golden = json.loads((golden_folder / "plans.json").read_text())
    assert len(golden) == 100
    assert json.loads((Path(__file__).parent / "kept_plans.json").read_text()) == golden
