"""The plan of an nnU-Net v2 model as one of ours: ``plans.json`` and ``dataset.json`` in, a Plan out.

Facts about the two files: nnU-Net v2.8.1. Plans that versions before 2.4 wrote (``UNet_class_name`` …) are understood
as well. What a Plan of ours cannot say is refused by name, never guessed.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from autoseg.data.dataset_json import channels_of, labels_of
from autoseg.errors import DatasetError, ModelError
from autoseg.interop.nnunet_network import read_architecture
from autoseg.targets import TARGETS
from planners import recipe
from planners.decision import Decision
from planners.fingerprint import Channel, Intensities
from planners.labels import Labels
from planners.memory import step_bytes
from planners.plan import Configuration, Input, MemoryBudget, Plan, Reason, Resampling, Target
from planners.presets import DEFAULT, PRESETS
from planners.records import PlanError

NORMALIZATIONS = {
    "CTNormalization": "ct",
    "ZScoreNormalization": "zscore",
    "NoNormalization": "none",
    "RescaleTo01Normalization": "rescale-0-1",
    "RGBTo01Normalization": "rgb-0-1",
}

PLANNERS = {
    "ExperimentPlanner": "default",
    "ResEncUNetPlanner": "resenc-m",
    "nnUNetPlannerResEncM": "resenc-m",
    "nnUNetPlannerResEncL": "resenc-l",
    "nnUNetPlannerResEncXL": "resenc-xl",
}

PREPROCESSOR = "DefaultPreprocessor"
SPLINES = "resample_data_or_seg_to_shape"
LINEAR = "resample_torch_fornnunet"
"""nnU-Net's resampling with torch: linear, the separate axis by the nearest slice."""

NEVER_SEPARATE = 1e9
"""Anisotropy threshold that no image passes."""


def read_plan(plans: Mapping[str, Any], dataset: Mapping[str, Any], wanted: str, path: Path) -> Plan:
    """Make a Plan of one trained configuration, of what it takes its previous segmentation from, and of all others
    that can be understood.

    Args:
        plans: the content of ``plans.json``.
        dataset: the content of ``dataset.json``.
        wanted: name of the trained configuration.
        path: the model, for messages.

    Raises:
        ModelError: something is missing, or cannot be said in a plan of ours.
    """
    try:
        return _read_plan(plans, dataset, wanted, path)
    except (DatasetError, PlanError) as fault:
        raise ModelError(f"{path} cannot be understood: {fault}") from fault
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as fault:
        what = f"{fault} is missing" if isinstance(fault, KeyError) else str(fault)
        raise ModelError(
            f"{path} cannot be understood as an nnU-Net v2 model: {what} in its plans. Copy the model anew"
        ) from fault


def _read_plan(plans: Mapping[str, Any], dataset: Mapping[str, Any], wanted: str, path: Path) -> Plan:
    if plans.get("label_manager", "LabelManager") != "LabelManager":
        raise PlanError(f"its label manager {plans['label_manager']} is not known (known: LabelManager)")
    labels, channels = _labels(dataset, path), _channels(plans, dataset, path)
    theirs = plans["configurations"]
    made: dict[str, Configuration] = {}
    reasons: list[Reason] = []
    for name in [wanted, *(name for name in theirs if name != wanted)]:
        try:
            for stage in stages_of(name, theirs):
                if stage not in made:
                    made[stage], why = _configuration(stage, resolve(stage, theirs), channels, labels)
                    reasons += [Reason(about=stage, rule="nnunet", because="as in nnU-Net's plans.json"), *why]
        except (PlanError, KeyError) as fault:
            if name == wanted:
                raise
            what = f"{fault} is missing" if isinstance(fault, KeyError) else fault
            reasons.append(Reason(about="configurations", rule="left-out", because=f"{name} is left out: {what}"))
    family = made[wanted].architecture.family
    usual = next((preset.name for preset in PRESETS if preset.family == family), DEFAULT.name)
    return Plan(
        dataset=str(plans["dataset_name"]),
        planner=PLANNERS.get(plans.get("experiment_planner_used", ""), usual),
        budget=MemoryBudget(),
        axis_order=tuple(plans["transpose_forward"]),
        channels=channels,
        labels=labels,
        configurations=tuple(made[name] for name in theirs if name in made),
        reasons=tuple(reasons),
    )


def stages_of(name: str, configurations: Mapping[str, Any]) -> list[str]:
    """Give a configuration and those that it takes previous segmentations from, the first stage first.

    Raises:
        PlanError: there is no such configuration, or the stages lead in a circle.
    """
    stages: list[str] = []
    following: str | None = name
    while following is not None:
        if following in stages:
            raise PlanError(f"previous_stage leads in a circle: {' → '.join([*stages, following])}")
        stages.append(following)
        following = resolve(following, configurations).get("previous_stage")
    return stages[::-1]


def resolve(name: str, configurations: Mapping[str, Any]) -> dict[str, Any]:
    """Give a configuration with what it inherits: a child's entries replace its parent's whole.

    Raises:
        PlanError: there is no such configuration, or inheritance leads in a circle.
    """
    chain: list[Mapping[str, Any]] = []
    seen: list[str] = []
    following: str | None = name
    while following is not None:
        if following not in configurations:
            raise PlanError(f"there is no configuration {following!r} (there are: {', '.join(configurations)})")
        if following in seen:
            raise PlanError(f"inherits_from leads in a circle: {' → '.join([*seen, following])}")
        seen.append(following)
        chain.append(configurations[following])
        following = chain[-1].get("inherits_from")
    merged: dict[str, Any] = {}
    for part in reversed(chain):
        merged |= part
    return merged


def _configuration(
    name: str, content: Mapping[str, Any], channels: tuple[Channel, ...], labels: Labels
) -> tuple[Configuration, tuple[Reason, ...]]:
    if content.get("preprocessor_name", PREPROCESSOR) != PREPROCESSOR:
        raise PlanError(f"its preprocessor {content['preprocessor_name']} is not known (known: {PREPROCESSOR})")
    patch = tuple(int(size) for size in content["patch_size"])
    feeding = content.get("previous_stage")
    inputs = [Input(channels=len(channels))]
    if feeding is not None:
        inputs.append(Input(kind="previous", name=feeding, channels=labels.num_classes - 1, through="segmentation"))
    target = "regions" if labels.regions else "semantic"
    architecture = read_architecture(content, len(patch))
    batch_dice = Decision(value=bool(content["batch_dice"]), rule="nnunet", because="as in nnU-Net's plans.json")
    training, why = recipe.training(patch, batch_dice, f"{name}.training")
    outputs = TARGETS[target].num_outputs(labels, {})
    num_channels = sum(item.channels for item in inputs)
    made = Configuration(
        name=name,
        inputs=tuple(inputs),
        spacing_mm=tuple(float(value) for value in content["spacing"]),
        median_shape=tuple(float(value) for value in content["median_image_size_in_voxels"]),
        patch_size=patch,
        output_size=patch,
        batch_size=int(content["batch_size"]),
        normalization=tuple(_normalization(scheme) for scheme in content["normalization_schemes"]),
        use_mask_for_norm=tuple(bool(value) for value in content["use_mask_for_norm"]),
        resampling=_resampling(content),
        target=Target(name=target, num_outputs=outputs),
        architecture=architecture,
        training=training,
        estimated_bytes=step_bytes(architecture, patch, int(content["batch_size"]), num_channels, outputs).total,
        previous=feeding,
    )
    return made, why


def _labels(dataset: Mapping[str, Any], path: Path) -> Labels:
    labels = labels_of(dataset, path)
    if labels is None:
        raise PlanError("dataset.json has no labels")
    order = dataset.get("regions_class_order")
    if labels.regions and order and not labels.region_values:
        labels = replace(labels, region_values=tuple(int(value) for value in order))
    return labels


def _channels(plans: Mapping[str, Any], dataset: Mapping[str, Any], path: Path) -> tuple[Channel, ...]:
    names = channels_of(dataset, path)
    if names is None:
        raise PlanError("dataset.json has no channel_names")
    key = "foreground_intensity_properties_per_channel"
    measured = plans.get(key, plans.get("foreground_intensity_properties_by_modality", {}))
    return tuple(
        Channel(name=name, intensities=_intensities(measured.get(str(index)))) for index, name in enumerate(names)
    )


def _intensities(measured: Mapping[str, Any] | None) -> Intensities | None:
    if measured is None or any(value is None or not math.isfinite(value) for value in measured.values()):
        return None
    return Intensities(
        mean=float(measured["mean"]),
        median=float(measured["median"]),
        std=float(measured["std"]),
        minimum=float(measured["min"]),
        maximum=float(measured["max"]),
        percentile_00_5=float(measured["percentile_00_5"]),
        percentile_99_5=float(measured["percentile_99_5"]),
    )


def _normalization(scheme: str) -> str:
    if scheme not in NORMALIZATIONS:
        raise PlanError(f"normalization {scheme} is not known (known: {', '.join(NORMALIZATIONS)})")
    return NORMALIZATIONS[scheme]


def _resampling(content: Mapping[str, Any]) -> Resampling:
    """Bring the three resampling functions with their settings into one record, which has one rule for all three."""
    orders, rest = [], []
    for kind in ("data", "seg", "probabilities"):
        function, settings = content[f"resampling_fn_{kind}"], content.get(f"resampling_fn_{kind}_kwargs", {})
        if function not in (SPLINES, LINEAR):
            raise PlanError(f"resampling by {function} is not known (known: {SPLINES}, {LINEAR})")
        separate = settings.get("force_separate_z")
        if separate is True:
            raise PlanError("resampling with force_separate_z true is not known (known: null, false)")
        orders.append(int(settings.get("order", 1)) if function == SPLINES else 1)
        through = int(settings.get("order_z", 0)) if function == SPLINES else 0
        limit = float(settings.get("separate_z_anisotropy_threshold", Resampling().anisotropy_threshold))
        rest.append((through, limit if separate is None else NEVER_SEPARATE))
    if len(set(rest)) > 1:
        raise PlanError("resampling treats the axis of thick slices differently for images, labels and probabilities")
    return Resampling(
        image_order=orders[0],
        label_order=orders[1],
        logits_order=orders[2],
        order_through_plane=rest[0][0],
        anisotropy_threshold=rest[0][1],
    )
