"""The U-Net planner: a fingerprint and a memory budget in, a plan with a reason for every value out.

Read :func:`plan_unet` first; every step of it is one rule of ``geometry``, ``topology``, ``fitting``,
``low_resolution`` or ``recipe``. ``docs/planning.md`` lists the rules with formulas, sources and a worked example.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from planners import recipe
from planners.decision import Decision, assemble, cases, times
from planners.diameter import fit_scaling
from planners.fingerprint import Fingerprint
from planners.fitting import Fit, Limits, MisfitError, choose_batch_size, explain_patch, fit_patch
from planners.geometry import axis_order, median_resampled_shape, reorder, target_spacing
from planners.instance_plan import Explained, InstanceTask, enlarge, plan_instances, stats_of, vary
from planners.labels import Labels
from planners.low_resolution import LowResolution, explain_low_resolution, find_low_resolution
from planners.memory import explain_bytes, step_bytes
from planners.plan import Configuration, Input, MemoryBudget, Plan, Reason
from planners.presets import DEFAULT, Preset, explain_architecture
from planners.records import PlanError
from planners.sides import mirroring

MEASURED = "median of the cases at that spacing, after cropping to nonzero"

FULLRES, LOWRES, CASCADE, PLANE = "3d_fullres", "3d_lowres", "3d_cascade_fullres", "2d"
"""Names of the configurations (nnU-Net v2)."""

Planned = tuple[tuple[Configuration, ...], tuple[Reason, ...]]
"""Several configurations and the reasons of all their values."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What one grid's configurations share.

    Attributes:
        fingerprint: the facts.
        limits: preset, budget, label entries.
        spacing: target spacing, in the plan's axis order.
        median_shape: of the cases at that spacing, in the plan's axis order.
        dataset_voxels: of all training cases at that spacing; 2D counts the whole volumes too.
        axis_order: the plan's.
        instances: what finds the objects; None where none are to be told apart.
    """

    fingerprint: Fingerprint
    limits: Limits
    spacing: Decision[tuple[float, ...]]
    median_shape: Decision[tuple[float, ...]]
    dataset_voxels: float
    axis_order: tuple[int, int, int]
    instances: InstanceTask | None = None


def plan_default(fingerprint: Fingerprint, budget: MemoryBudget) -> Plan:
    """Plan plain U-Nets: ``3d_fullres`` and ``2d`` for volumes, ``2d`` alone for single slices.

    Where a patch of ``3d_fullres`` sees too little of a case, ``3d_lowres`` and ``3d_cascade_fullres`` join them. Where
    objects are to be told apart there is one configuration per target instead: ``2d_boundary``, ``2d_flow`` …

    Raises:
        PlanError: no configuration is possible; the message says the least budget that would do.
    """
    return plan_unet(DEFAULT, fingerprint, budget)


def plan_unet(preset: Preset, fingerprint: Fingerprint, budget: MemoryBudget) -> Plan:
    """Plan with the numbers of a preset; raises as :func:`plan_default`."""
    spacing = target_spacing(fingerprint.spacings_mm, fingerprint.shapes)
    shape = median_resampled_shape(fingerprint.spacings_mm, fingerprint.shapes, spacing.value)
    order = axis_order(spacing.value)
    instances, num_labels, measured = None, count_label_entries(fingerprint.labels), MEASURED
    if fingerprint.labels.instance_classes:
        stats_of(fingerprint)
        scaling = fit_scaling(fingerprint)
        if scaling.value is not None:
            seen = enlarge(fingerprint, scaling.value)
            z, y, x = median_resampled_shape(seen.spacings_mm, seen.shapes, spacing.value)
            shape = (max(z, 1.0), max(y, 1.0), max(x, 1.0))  # preprocessing leaves a voxel of what shrinks
            measured = f"{MEASURED}, brought to a common diameter of the objects"
        is_flat = shape[order.value[0]] == 1  # as seen after scaling, which decides between 2D and 3D as well
        instances = plan_instances(fingerprint, reorder(spacing.value, order.value)[1 if is_flat else 0 :], scaling)
        num_labels = max(num_labels, instances.most_outputs)
    task = Task(
        fingerprint=fingerprint,
        limits=Limits(preset=preset, budget=budget, num_labels=num_labels),
        spacing=Decision(value=reorder(spacing.value, order.value), rule=spacing.rule, because=spacing.because),
        median_shape=Decision(value=reorder(shape, order.value), rule="median-shape", because=measured),
        dataset_voxels=math.prod(shape) * fingerprint.num_cases,
        axis_order=order.value,
        instances=instances,
    )
    configurations, reasons = _plan_configurations(task)
    return Plan(
        dataset=fingerprint.dataset,
        planner=preset.name,
        budget=budget,
        axis_order=order.value,
        channels=fingerprint.channels,
        labels=fingerprint.labels,
        configurations=configurations,
        reasons=(Reason(about="axis_order", rule=order.rule, because=order.because), *reasons),
    )


def count_label_entries(labels: Labels) -> int:
    """Count the entries that nnU-Net's ``labels`` table would have: background, classes or regions, and ignore."""
    named = 1 + len(labels.regions) if labels.regions else labels.num_classes
    return named + (labels.ignore is not None)


def _plan_configurations(task: Task) -> Planned:
    """Plan what the images allow; a configuration that is impossible is left out, with a reason."""
    wanted: dict[str, Callable[[Task], Planned]] = {FULLRES: _plan_3d, PLANE: _plan_2d}
    slices = task.median_shape.value[0]
    why = f"3D and 2D: the median case has {times([slices])} slices"
    if slices == 1:
        del wanted[FULLRES]
        why = "2D alone: the median case has one slice"
    elif task.instances is not None:
        del wanted[PLANE]
        why = f"the median case has {times([slices])} slices"
    made, reasons = list[Configuration](), [Reason(about="configurations", rule="slices-or-volumes", because=why)]
    reasons.extend(() if task.instances is None else task.instances.reasons)
    misfits: dict[str, MisfitError] = {}
    for name, plan in wanted.items():
        try:
            configurations, whys = plan(task)
        except MisfitError as error:
            misfits[name] = error
            whys = (Reason(about="configurations", rule="left-out", because=f"{name} is left out: {error}"),)
        else:
            made.extend(configurations)
        reasons.extend(whys)
    if not made:
        raise _nothing_fits(misfits, task)
    return tuple(made), tuple(reasons)


def _nothing_fits(misfits: dict[str, MisfitError], task: Task) -> PlanError:
    dataset = task.fingerprint.dataset
    name, nearest = min(misfits.items(), key=lambda item: item[1].least_bytes or math.inf)
    if nearest.least_bytes is None:
        return PlanError(f"no plan is possible for {dataset}: {nearest}. Give the images more voxels")
    return PlanError(
        f"no plan is possible for {dataset} within {task.limits.budget.device_bytes:,} bytes; {name} is possible with "
        f"{nearest.least_bytes:,}. Give a budget of at least that"
    )


def _plan_3d(task: Task) -> Planned:
    """Plan the full resolution and, where its patches see too little of a case, the two stages of a cascade."""
    fit = fit_patch(task.limits, task.spacing.value, task.median_shape.value)
    low = find_low_resolution(fit, task.limits, task.spacing.value, task.median_shape.value)
    batch_dice = Decision(value=low.value is not None, rule=low.rule, because=low.because)
    full = _configure(FULLRES, task, fit, batch_dice)
    if task.instances is not None:
        return _together(vary(full, task.instances, task.limits.budget))
    if low.value is None:
        none = Reason(about="configurations", rule=low.rule, because=f"no low resolution: {low.because}")
        return (full[0],), (none, *full[1])
    both = Reason(about="configurations", rule=low.rule, because=f"low resolution and cascade: {low.because}")
    return _together([full, _plan_low(task, low.value), _plan_cascade(task, full)], both)


def _plan_low(task: Task, low: LowResolution) -> Explained:
    """Plan the first stage of a cascade: the whole case on the coarser grid."""
    voxels = low.voxels * task.fingerprint.num_cases
    spacing, shape, batch_dice = explain_low_resolution(low, task.spacing.value)
    coarse = replace(task, spacing=spacing, median_shape=shape, dataset_voxels=voxels)
    return _configure(LOWRES, coarse, low.fit, batch_dice)


def _plan_cascade(task: Task, full: Explained) -> Explained:
    """Plan the second stage: the full resolution, which sees the first stage's segmentation as well."""
    before, reasons = full
    previous = Input(kind="previous", name=LOWRES, channels=task.fingerprint.labels.num_classes - 1)
    item = replace(before, name=CASCADE, inputs=(*before.inputs, previous), previous=LOWRES)
    seen = (
        f"the image, and the segmentation of {LOWRES} with one channel per foreground class: {item.num_input_channels}"
    )
    decisions: dict[str, Decision[Any]] = {
        "inputs": Decision(value=item.inputs, rule="image-and-previous", because=seen),
        "previous": Decision(
            value=LOWRES, rule="cascade", because=f"second stage: {LOWRES} sees what a patch here does not"
        ),
        "estimated_bytes": _predict_bytes(item, task.limits.budget),
    }
    item = replace(item, estimated_bytes=decisions["estimated_bytes"].value)
    changed = {f"{FULLRES}.{field}" for field in decisions}
    same = [
        replace(why, about=CASCADE + why.about.removeprefix(FULLRES)) for why in reasons if why.about not in changed
    ]
    new = [Reason(about=f"{CASCADE}.{field}", rule=d.rule, because=d.because) for field, d in decisions.items()]
    return item, (*same, *new)


def _plan_2d(task: Task) -> Planned:
    because = f"median of {cases(len(task.fingerprint.shapes))}, within the plane; slices stay as they are"
    spacing = Decision(value=task.spacing.value[1:], rule="median-spacing", because=because)
    shape = replace(task.median_shape, value=task.median_shape.value[1:])
    plane = replace(task, spacing=spacing, median_shape=shape)
    fit = fit_patch(task.limits, spacing.value, shape.value)
    pooled = "a single slice often lacks a class"
    batch_dice = Decision(value=True, rule="slices-pool-the-batch", because=pooled)
    made = _configure(PLANE, plane, fit, batch_dice)
    return _together([made] if task.instances is None else vary(made, task.instances, task.limits.budget))


def _together(made: Sequence[Explained], *reasons: Reason) -> Planned:
    return tuple(item for item, _ in made), (*reasons, *(why for _, whys in made for why in whys))


def _predict_bytes(item: Configuration, budget: MemoryBudget) -> Decision[int]:
    channels, outputs = item.num_input_channels, item.target.num_outputs
    return explain_bytes(step_bytes(item.architecture, item.patch_size, item.batch_size, channels, outputs), budget)


def _configure(name: str, task: Task, fit: Fit, batch_dice: Decision[bool]) -> Explained:
    """Bring one configuration's decisions together."""
    fingerprint, budget, patch = task.fingerprint, task.limits.budget, fit.patch_size
    image = Input(channels=len(fingerprint.channels))
    normalization = recipe.normalizations(fingerprint.channels)
    batch_size = choose_batch_size(fit, task.limits, task.dataset_voxels)
    target, why_target = recipe.semantic_target(fingerprint.labels, f"{name}.target")
    step = step_bytes(fit.architecture, patch, batch_size.value, image.channels, target.num_outputs)
    decisions: dict[str, Decision[Any]] = {
        "spacing_mm": task.spacing,
        "median_shape": task.median_shape,
        "patch_size": explain_patch(fit, task.limits),
        "output_size": Decision(value=patch, rule="same-as-patch", because="convolutions pad, so no voxel is lost"),
        "batch_size": batch_size,
        "inputs": Decision(value=(image,), rule="all-channels", because=f"the channels of the image: {image.channels}"),
        "normalization": normalization,
        "use_mask_for_norm": recipe.masks(normalization.value, fingerprint.cropped_fraction),
        "resampling": recipe.resampling(task.spacing.value),
        "estimated_bytes": explain_bytes(step, budget),
    }
    parts = {
        "name": (name, ()),
        "target": (target, why_target),
        "architecture": (
            fit.architecture,
            explain_architecture(task.limits.preset, fit.topology, f"{name}.architecture"),
        ),
        "training": recipe.training(
            patch, batch_dice, f"{name}.training", mirroring(fingerprint, task.axis_order, len(patch))
        ),
    }
    return assemble(Configuration, name, decisions, parts)
