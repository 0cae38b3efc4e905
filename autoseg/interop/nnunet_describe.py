"""A plan of ours as nnU-Net v2 says it: the content of ``plans.json`` and ``dataset.json``.

The other direction of ``nnunet_plan`` and ``nnunet_network``. What nnU-Net cannot say is refused by name.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from autoseg.errors import ModelError
from autoseg.interop.nnunet_network import FAMILIES
from autoseg.interop.nnunet_plan import NEVER_SEPARATE, NORMALIZATIONS, PLANNERS, SPLINES
from planners.labels import Labels
from planners.network_size import RESIDUAL_ENCODER_UNET
from planners.plan import Architecture, Configuration, Plan, Resampling
from planners.presets import supervise
from planners.regions import membership, painting

PLANS = "nnUNetPlans"
TARGETS = ("semantic", "regions")
READERS = {".png": "NaturalImage2DIO", ".bmp": "NaturalImage2DIO", ".tif": "Tiff3DIO", ".tiff": "Tiff3DIO"}
"""What nnU-Net reads files with, by their ending; all others with SimpleITK."""
USUAL_ENDING = ".nii.gz"
MEASURES = {
    "mean": "mean",
    "median": "median",
    "std": "std",
    "minimum": "min",
    "maximum": "max",
    "percentile_00_5": "percentile_00_5",
    "percentile_99_5": "percentile_99_5",
}


def check_sayable(plan: Plan, configuration: Configuration) -> None:
    """Check that nnU-Net can say and do what a configuration does.

    Raises:
        ModelError: it cannot; the message names every reason.
    """
    reasons = [*_cannot_label(plan.labels, configuration), *_cannot_compute(plan, configuration)]
    if reasons:
        raise ModelError(
            f"{configuration.name} cannot be a model of nnU-Net: {'; '.join(reasons)}. Export it as MODEL.autoseg"
        )


def describe_plans(plan: Plan, configurations: Sequence[Configuration], ending: str) -> dict[str, Any]:
    """Give the content of ``plans.json``.

    Args:
        plan: ours.
        configurations: those to write.
        ending: of the image files, such as ``.nii.gz``.
    """
    finest = configurations[-1]
    backward = [int(axis) for axis in np.argsort(plan.axis_order)]
    flat = [1] * (3 - finest.dimensions)
    return {
        "dataset_name": plan.dataset,
        "plans_name": PLANS,
        "original_median_spacing_after_transp": [*map(float, flat), *finest.spacing_mm],
        "original_median_shape_after_transp": [*flat, *map(round, finest.median_shape)],
        "image_reader_writer": reader_of(ending, configurations),
        "transpose_forward": list(plan.axis_order),
        "transpose_backward": backward,
        "configurations": {item.name: _describe(item, configurations) for item in configurations},
        "experiment_planner_used": next(
            (theirs for theirs, ours in PLANNERS.items() if ours == plan.planner), next(iter(PLANNERS))
        ),
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            str(index): {
                theirs: None if channel.intensities is None else getattr(channel.intensities, ours)
                for ours, theirs in MEASURES.items()
            }
            for index, channel in enumerate(plan.channels)
        },
    }


def describe_dataset(plan: Plan, configuration: Configuration, ending: str) -> dict[str, Any]:
    """Give the content of ``dataset.json``: classes by their place in the plan, since nnU-Net wants 0, 1, 2, …."""
    labels, order = plan.labels, None
    if configuration.target.name == "regions":
        values = [item.value for item in labels.classes]
        strokes = painting(labels)
        assert strokes is not None, "checked before"
        classes: dict[str, Any] = {"background": 0}
        for stroke in strokes:
            region = labels.regions[stroke.region]
            indices = [values.index(value) for value in region.values]
            classes[region.name] = indices[0] if len(indices) == 1 else indices
        order = [stroke.index for stroke in strokes]
    else:
        classes = {"background": 0, **{name: index for index, name in enumerate(labels.names) if index}}
    if labels.ignore_index is not None:
        classes["ignore"] = labels.ignore_index
    content = {
        "channel_names": {str(index): channel.name for index, channel in enumerate(plan.channels)},
        "labels": classes,
        "file_ending": ending,
    }
    return content if order is None else {**content, "regions_class_order": order}


def heads_of(plan: Plan, configuration: Configuration) -> tuple[int, ...] | None:
    """Per output channel of nnU-Net's network, ours; None: alike. It paints regions in the order of its outputs."""
    strokes = painting(plan.labels) if configuration.target.name == "regions" else None
    order = tuple(stroke.region for stroke in strokes or ())
    return None if order == tuple(sorted(order)) else order


def changed_values(labels: Labels) -> str:
    """Say which values of the user's files nnU-Net writes otherwise; empty: none."""
    pairs = [(value, index) for index, value in enumerate(labels.values) if value != index]
    shown = ", ".join(f"{index} for {value}" for value, index in pairs[:4]) + (" …" if len(pairs) > 4 else "")
    return f"nnU-Net wants the values 0, 1, 2, …: its segmentations hold {shown}" if pairs else ""


def reader_of(ending: str, configurations: Sequence[Configuration]) -> str:
    """Name what nnU-Net reads the image files with."""
    if ending == ".tif" and all(item.dimensions == 2 for item in configurations):
        return "NaturalImage2DIO"
    return READERS.get(ending, "SimpleITKIO")


def _cannot_label(labels: Labels, configuration: Configuration) -> Iterator[str]:
    target = configuration.target
    if labels.instance_classes or target.name not in TARGETS:
        yield f"it has no targets that tell objects apart or other than classes and regions ({target.name})"
        return
    names = [item.name for item in labels.regions] if target.name == "regions" else list(labels.names[1:])
    if taken := {"background", "ignore"} & {name.casefold() for name in names}:
        yield f"it keeps the name {min(taken)} for something else"
    if target.name == "semantic":
        return
    if painting(labels) is None:
        yield "it paints regions one over the other, and no order of painting gives these regions back"
    if all(len(item.values) == 1 for item in labels.regions):
        yield "it takes regions of one class each for classes that exclude each other"
    table = membership(labels)
    if any(row[0] and row.sum() == 1 for row in table):
        yield "it predicts no region of background alone"
    if not table[:, 1:].any(axis=0).all():
        absent = labels.names[1 + int(np.flatnonzero(~table[:, 1:].any(axis=0))[0])]
        yield f"it knows no class that belongs to no region ({absent})"


def _cannot_compute(plan: Plan, configuration: Configuration) -> Iterator[str]:
    architecture = configuration.architecture
    if architecture.family not in FAMILIES.values() or architecture.options:
        yield f"it has no network {architecture.family} {architecture.options or ''}".rstrip()
    elif len(architecture.stages) < 2 or len(architecture.outputs) != len(supervise(_strides(architecture))):
        yield f"its networks have an output at every stage of the decoder, not {len(architecture.outputs)}"
    if unknown := [name for name in configuration.normalization if name not in NORMALIZATIONS.values()]:
        yield f"it has no normalization {unknown[0]}"
    if configuration.training.mirror_swaps:
        yield "it cannot exchange left and right where it mirrors (training.mirror_swaps)"
    if configuration.scaling is not None:
        yield "it cannot bring objects to a common size (scaling)"
    if configuration.output_size != configuration.patch_size:
        yield "its networks' outputs are as large as the patch (output_size)"
    if any(item.kind not in ("image", "previous") for item in configuration.inputs):
        yield "it has no inputs other than images and a previous segmentation"


def _describe(item: Configuration, all_of_them: Sequence[Configuration]) -> dict[str, Any]:
    following = [other.name for other in all_of_them if other.previous == item.name]
    described = {
        "data_identifier": f"{PLANS}_{item.name}",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": item.batch_size,
        "patch_size": list(item.patch_size),
        "median_image_size_in_voxels": list(item.median_shape),
        "spacing": list(item.spacing_mm),
        "normalization_schemes": [
            next(theirs for theirs, ours in NORMALIZATIONS.items() if ours == name) for name in item.normalization
        ],
        "use_mask_for_norm": list(item.use_mask_for_norm),
        **_describe_resampling(item.resampling),
        "architecture": _describe_network(item.architecture),
        "batch_dice": item.training.batch_dice,
    }
    if item.previous is not None:
        described["previous_stage"] = item.previous
    if following:
        described["next_stage"] = following[0] if len(following) == 1 else following
    return described


def _describe_resampling(resampling: Resampling) -> dict[str, Any]:
    never = resampling.anisotropy_threshold >= NEVER_SEPARATE
    settings: dict[str, Any] = {"order_z": resampling.order_through_plane, "force_separate_z": False if never else None}
    if not never and resampling.anisotropy_threshold != Resampling().anisotropy_threshold:
        settings["separate_z_anisotropy_threshold"] = resampling.anisotropy_threshold
    orders = {
        "data": resampling.image_order,
        "seg": resampling.label_order,
        "probabilities": resampling.logits_order,
    }
    described: dict[str, Any] = {}
    for kind, order in orders.items():
        described[f"resampling_fn_{kind}"] = SPLINES
        described[f"resampling_fn_{kind}_kwargs"] = {"is_seg": kind == "seg", "order": order, **settings}
    return described


def _describe_network(architecture: Architecture) -> dict[str, Any]:
    size = f"{architecture.dimensions}d"
    name = next(theirs for theirs, ours in FAMILIES.items() if ours == architecture.family)
    residual = architecture.family == RESIDUAL_ENCODER_UNET
    stages = [asdict(stage) for stage in architecture.stages]
    settings: Mapping[str, Any] = {
        "n_stages": len(stages),
        "features_per_stage": [stage["features"] for stage in stages],
        "conv_op": f"torch.nn.modules.conv.Conv{size}",
        "kernel_sizes": [list(stage["kernel"]) for stage in stages],
        "strides": [list(stage["stride"]) for stage in stages],
        "n_blocks_per_stage" if residual else "n_conv_per_stage": [stage["num_blocks"] for stage in stages],
        "n_conv_per_stage_decoder": list(architecture.num_decoder_blocks)[::-1],  # theirs: deepest first
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{size}",
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    return {
        "network_class_name": f"dynamic_network_architectures.architectures.unet.{name}",
        "arch_kwargs": settings,
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def _strides(architecture: Architecture) -> tuple[tuple[int, ...], ...]:
    return tuple(stage.stride for stage in architecture.stages)
