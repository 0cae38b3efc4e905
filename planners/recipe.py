"""What does not depend on memory: normalization, resampling, target, training, augmentation.

Source: nnU-Net (Isensee et al. 2021) as in nnU-Net v2.8.1, unless a rule says otherwise.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from planners.decision import Decision, assemble, percent, times
from planners.fingerprint import Channel
from planners.labels import Labels
from planners.plan import Augmentation, Reason, Resampling, Target, Training
from planners.regions import painting
from planners.sides import mirror_all

NORMALIZATION_BY_NAME = {
    "ct": "ct",
    "nonorm": "none",
    "zscore": "zscore",
    "rescale_to_0_1": "rescale-0-1",
    "rgb_to_0_1": "rgb-0-1",
}
"""Normalization by channel name, in lower case; any other name is normalized by z-score (nnU-Net v2)."""

MASK_BELOW = 0.75
"""Where cropping leaves less than this part of the voxels, statistics are taken inside the mask (nnU-Net v2)."""

VALIDATION_FRACTION = 5
"""Training steps per validation step: 250 and 50 in nnU-Net v2."""

IN_PLANE_ABOVE = 3.0
"""A patch this many times longer than its first axis is rotated and scaled in plane only (nnU-Net v2)."""

NARROW_ABOVE = 1.5
"""A 2D patch this many times longer than wide is rotated by 15 degrees at most (nnU-Net v2)."""


def normalizations(channels: Sequence[Channel]) -> Decision[tuple[str, ...]]:
    """Choose each channel's normalization by its name."""
    value = tuple(NORMALIZATION_BY_NAME.get(channel.name.casefold(), "zscore") for channel in channels)
    named = [channel.name for channel in channels if channel.name.casefold() in NORMALIZATION_BY_NAME]
    others = [channel.name for channel in channels if channel.name not in named]
    parts = [f"{', '.join(named)}: asked for by name"] if named else []
    parts += [f"{', '.join(others)}: no special name, so zscore"] if others else []
    return Decision(value=value, rule="normalization-by-name", because="; ".join(parts))


def masks(normalization: Sequence[str], cropped_fraction: float) -> Decision[tuple[bool, ...]]:
    """Choose per channel whether only voxels inside the nonzero mask are normalized."""
    small = cropped_fraction < MASK_BELOW
    value = tuple(small and name == "zscore" for name in normalization)
    because = (
        f"cropping keeps {percent(cropped_fraction)} of the voxels ({'<' if small else '≥'} {percent(MASK_BELOW)})"
    )
    if small and not all(value):
        because += "; only zscore leaves the outside at zero"
    return Decision(value=value, rule="mask-where-cropped", because=because)


def resampling(spacing_mm: Sequence[float]) -> Decision[Resampling]:
    """Choose the spline orders."""
    value = Resampling()
    because = (
        f"cubic for images, linear for labels and logits; along an axis more than {value.anisotropy_threshold:g} "
        "times coarser than another, the nearest slice"
    )
    if len(spacing_mm) == 2:
        because = "cubic for images, linear for labels and logits; none across slices"
    return Decision(value=value, rule="spline-orders", because=because)


def semantic_target(labels: Labels, place: str) -> tuple[Target, tuple[Reason, ...]]:
    """Ask for one class per voxel or, where regions are declared, for each of them on its own."""
    if labels.regions:
        return _regions_target(labels, place)
    classes = f"{labels.num_classes} classes with background"
    ignored = "" if labels.ignore is None else f"; {labels.ignore} (ignore) gets no output"
    decisions: dict[str, Decision[Any]] = {
        "name": Decision(value="semantic", rule="one-class-per-voxel", because="every voxel has one class"),
        "num_outputs": Decision(value=labels.num_classes, rule="output-per-class", because=classes + ignored),
    }
    return assemble(Target, place, decisions)


def _regions_target(labels: Labels, place: str) -> tuple[Target, tuple[Reason, ...]]:
    names = ", ".join(region.name for region in labels.regions)
    if labels.region_values:
        back = f"painted in the order of regions_class_order: {', '.join(map(str, labels.region_values))}"
    elif painting(labels) is not None:
        back = "classes come back by painting the regions over each other, the innermost last"
    else:
        back = "no order of painting gives every class back, so each voxel takes the class that its regions fit best"
    ignored = "" if labels.ignore is None else f"; {labels.ignore} (ignore) gets no output"
    decisions: dict[str, Decision[Any]] = {
        "name": Decision(value="regions", rule="regions-where-declared", because=f"{names} may overlap"),
        "num_outputs": Decision(
            value=len(labels.regions),
            rule="output-per-region",
            because=f"{len(labels.regions)} regions: {names}{ignored}; {back}",
        ),
    }
    return assemble(Target, place, decisions)


def validation_steps(steps_per_epoch: int) -> Decision[int]:
    """Give validation a fifth of the training steps, at least one."""
    value = max(1, steps_per_epoch // VALIDATION_FRACTION)
    return Decision(value=value, rule="a-fifth-of-the-steps", because=f"a fifth of {steps_per_epoch} training steps")


def training(
    patch_size: Sequence[int],
    batch_dice: Decision[bool],
    place: str,
    mirroring: Mapping[str, Decision[Any]] | None = None,
) -> tuple[Training, tuple[Reason, ...]]:
    """Choose how a fold is trained: a fixed recipe, but for what the patch's shape and the batch Dice rule decide.

    Args:
        patch_size: two or three entries.
        batch_dice: whether the Dice term pools its sums over the batch.
        place: where the record stands in the plan, for the reasons.
        mirroring: what ``sides.mirroring`` decided; None: along every axis.
    """
    recipe = Training()
    fixed = (
        f"nnU-Net's recipe, whatever the dataset: SGD with Nesterov momentum {recipe.momentum:g}, learning rate "
        f"{recipe.learning_rate:g} × (1 − epoch / epochs)^0.9, weight decay {recipe.weight_decay:g}, gradients "
        f"clipped at {recipe.gradient_clip:g}, {percent(recipe.foreground_fraction)} of a batch on foreground"
    )
    decisions: dict[str, Decision[Any]] = {
        "validation_steps": validation_steps(recipe.steps_per_epoch),
        "batch_dice": batch_dice,
        **(mirroring or {"mirror_axes": mirror_all(len(patch_size))}),
    }
    augmentation = _augmentation(patch_size, f"{place}.augmentation")
    made, reasons = assemble(Training, place, decisions, {"augmentation": augmentation})
    return made, (Reason(about=place, rule="fixed-recipe", because=fixed), *reasons)


def _augmentation(patch_size: Sequence[int], place: str) -> tuple[Augmentation, tuple[Reason, ...]]:
    decisions: dict[str, Decision[Any]] = {}
    decisions["rotation_radians"], decisions["in_plane"] = _rotation(patch_size)
    return assemble(Augmentation, place, decisions)


def _rotation(patch_size: Sequence[int]) -> tuple[Decision[float], Decision[bool]]:
    flat_patch = len(patch_size) == 2
    ratio = max(patch_size) / (min(patch_size) if flat_patch else patch_size[0])
    limit = NARROW_ABOVE if flat_patch else IN_PLANE_ABOVE
    above = ratio > limit
    against = f"{ratio:.1f} times {'the shorter' if flat_patch else 'its z'} ({'>' if above else '≤'} {limit:g})"
    shape = f"the longest edge of {times(patch_size)} is {against}"
    if flat_patch:
        angle, in_plane = math.radians(15) if above else math.pi, False
    else:
        angle, in_plane = math.pi if above else math.pi / 6, above
    flat = "the patch is a plane already" if flat_patch else shape
    return (
        Decision(value=angle, rule="rotation-by-shape", because=shape),
        Decision(value=in_plane, rule="in-plane-by-shape", because=flat),
    )
