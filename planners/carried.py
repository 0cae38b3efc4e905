"""One configuration on its way from one task to another: what the new data changes in it, and what does not suit it."""

import math
from dataclasses import dataclass, replace
from typing import Any

from planners import recipe
from planners.decision import axis_names, millimetres, percent, times
from planners.diameter import fit_scaling
from planners.fingerprint import Fingerprint
from planners.geometry import median_resampled_shape, reorder, target_spacing
from planners.instance_plan import enlarge, renew_options, stats_of
from planners.instances import choose_targets, count_outputs, object_sizes
from planners.labels import Labels
from planners.low_resolution import ENOUGH_OF_A_CASE
from planners.network_size import FAMILIES
from planners.plan import Configuration, Plan, Target
from planners.sides import mirroring
from planners.topology import SPACING_FACTOR


@dataclass(frozen=True)
class Carried:
    """A configuration on its way: as it is by now, the values that were changed, and remarks on those that were not.

    ``changes`` and ``remarks`` hold pairs of a field (``patch_size``) and what is to be said of it.
    """

    item: Configuration
    changes: tuple[tuple[str, str], ...] = ()
    remarks: tuple[tuple[str, str], ...] = ()

    def change(self, field: str, because: str, **values: Any) -> "Carried":
        """Replace values of the configuration, and say why."""
        return replace(self, item=replace(self.item, **values), changes=(*self.changes, (field, because)))

    def remark(self, field: str, text: str) -> "Carried":
        """Say something of a value that stays."""
        return replace(self, remarks=(*self.remarks, (field, text)))


def carry_configuration(
    item: Configuration, plan: Plan, fingerprint: Fingerprint, *, is_trained: bool = False
) -> Carried:
    """Carry a configuration of a plan to a dataset. Its estimated bytes are left at 0, to be predicted anew.

    Args:
        item: one of the plan's.
        plan: where it comes from.
        fingerprint: of the dataset.
        is_trained: its network will be used, which expects objects of the size that it was trained with.
    """
    carried = _give_objects(Carried(item), plan, fingerprint, is_trained=is_trained)
    carried = _give_shapes(carried, plan, fingerprint)
    carried = _give_channels(carried, plan, fingerprint)
    carried = give_labels(carried, plan.labels, fingerprint.labels)
    carried = mirror(carried, plan, fingerprint)
    if item.training.initial_weights or item.training.frozen:
        training = replace(carried.item.training, initial_weights="", frozen=())
        because = f"weights that {plan.dataset} started from, and frozen parts, are not carried"
        carried = carried.change("training.initial_weights", because, training=training)
    if item.architecture.family in FAMILIES:
        carried = replace(carried, item=replace(carried.item, estimated_bytes=0))  # so that its reason is made anew
    return _remark_on_patch(_remark_on_spacing(carried, plan, fingerprint), plan)


def _give_objects(carried: Carried, plan: Plan, fingerprint: Fingerprint, *, is_trained: bool) -> Carried:
    """Decide anew what depends on the objects: the common size, and a target's options; a user's own stay."""
    if not fingerprint.labels.instance_classes:
        return carried
    item, place = carried.item, f"{carried.item.name}.target.options."
    stats, fitted = stats_of(fingerprint), fit_scaling(fingerprint)
    about = f"{item.name}.scaling"
    asked = any(r.rule == "user" and (r.about == about or r.about.startswith(f"{about}.")) for r in plan.reasons)
    scaling = item.scaling if asked or is_trained else fitted.value
    sizes = object_sizes(stats, item.spacing_mm, scaling)
    kept = [r.about.removeprefix(place) for r in plan.reasons if r.rule == "user" and r.about.startswith(place)]
    target = renew_options(item.target, sizes, kept)
    if scaling != item.scaling:
        carried = carried.change("scaling", f"for {fingerprint.dataset}: {fitted.because}", scaling=scaling)
    elif scaling != fitted.value:
        why = "as the user chose" if asked else "as the network was trained"
        carried = carried.remark("scaling", f"kept, {why}; planned anew: {fitted.because}")
    for option in sorted(set(target.options) - {"decode"}):
        if target.options[option] != item.target.options.get(option):
            because = f"for the objects of {fingerprint.dataset}: median diameter {sizes.median:.3g} voxels"
            carried = carried.change(f"target.options.{option}", because, target=target)
    if target.options.get("decode") != item.target.options.get("decode"):
        because = f"for the objects of {fingerprint.dataset}, of which 5 % are below {sizes.small:.3g} voxels"
        carried = carried.change("target.options.decode", because, target=target)
    chosen = choose_targets(stats, sizes)
    if item.target.name not in chosen.names:
        carried = carried.remark("target.name", f"planned anew: {' and '.join(chosen.names)}: {chosen.because}")
    return carried


def _give_shapes(carried: Carried, plan: Plan, fingerprint: Fingerprint) -> Carried:
    """Measure the new cases on the plan's grid."""
    item = carried.item
    own = reorder(target_spacing(fingerprint.spacings_mm, fingerprint.shapes).value, plan.axis_order)
    grid = (*own[: 3 - item.dimensions], *item.spacing_mm)
    as_read = [grid[plan.axis_order.index(axis)] for axis in range(3)]
    z, y, x = as_read
    seen = enlarge(fingerprint, item.scaling)
    shape = median_resampled_shape(seen.spacings_mm, seen.shapes, (z, y, x))
    median = reorder(shape, plan.axis_order)[3 - item.dimensions :]
    because = f"median of the cases of {fingerprint.dataset} at that spacing, after cropping to nonzero"
    return carried.change("median_shape", because, median_shape=median)


def _give_channels(carried: Carried, plan: Plan, fingerprint: Fingerprint) -> Carried:
    """Carry each channel's normalization by the channel's name; choose that of channels the plan does not know."""
    item, channels = carried.item, fingerprint.channels
    known = [channel.name.casefold() for channel in plan.channels]
    places = [known.index(name) if name in known else None for name in (c.name.casefold() for c in channels)]
    schemes = tuple(
        name if place is None else item.normalization[place]
        for place, name in zip(places, recipe.normalizations(channels).value, strict=True)
    )
    masked = recipe.masks(schemes, fingerprint.cropped_fraction).value
    masks = tuple(
        mask if place is None else item.use_mask_for_norm[place] for place, mask in zip(places, masked, strict=True)
    )
    if places != list(range(len(known))):
        new = [channel.name for channel, place in zip(channels, places, strict=True) if place is None]
        same = [channel.name for channel, place in zip(channels, places, strict=True) if place is not None]
        parts = [f"chosen by name for {', '.join(new)}"] if new else []
        parts += [f"carried for {', '.join(same)}"] if same else []
        inputs = tuple(replace(part, channels=len(channels)) if part.kind == "image" else part for part in item.inputs)
        carried = carried.change("normalization", "; ".join(parts), normalization=schemes, use_mask_for_norm=masks)
        carried = carried.change("inputs", f"the channels of the image: {len(channels)}", inputs=inputs)
    if masks != masked:
        kept = percent(fingerprint.cropped_fraction)
        carried = carried.remark("use_mask_for_norm", f"does not suit: cropping keeps {kept} of the voxels here")
    return carried


def give_labels(carried: Carried, old: Labels, new: Labels) -> Carried:
    """Ask for the new labels: target, heads, a cascade's input, sides that change places when mirrored."""
    item = carried.item
    if meaning(old) == meaning(new):
        return carried
    count = count_outputs(item.target, new) if new.instance_classes else None
    if count is not None and count_outputs(item.target, old) == item.target.num_outputs:
        because = f"{count} maps for {new.num_classes} classes with background"
        if count != item.target.num_outputs:
            carried = carried.change("target.num_outputs", because, target=replace(item.target, num_outputs=count))
    elif item.target == replace(_target_of(old), options=item.target.options):
        target = _target_of(new)
        options = item.target.options if target.name == item.target.name else target.options
        because = f"{target.num_outputs} outputs for {new.num_classes} classes"
        because += f" in {len(new.regions)} regions" if new.regions else ", background included"
        carried = carried.change("target.num_outputs", because, target=replace(target, options=options))
    else:
        text = f"the rules do not know {item.target.name} with {item.target.num_outputs} outputs; set num_outputs"
        carried = carried.remark("target.num_outputs", text)
    if item.previous is not None:
        inputs = tuple(
            replace(part, channels=new.num_classes - 1) if part.kind == "previous" else part for part in item.inputs
        )
        because = f"the image, and one channel per foreground class of {item.previous}: {new.num_classes - 1}"
        carried = carried.change("inputs", because, inputs=inputs)
    return carried


def _target_of(labels: Labels) -> Target:
    return recipe.semantic_target(labels, "target")[0]


def mirror(carried: Carried, plan: Plan, fingerprint: Fingerprint) -> Carried:
    """Decide anew what mirroring does; axes that the user has chosen stay."""
    item = carried.item
    decided = mirroring(fingerprint, plan.axis_order, item.dimensions)
    axes, values = decided["mirror_axes"], {field: decision.value for field, decision in decided.items()}
    because = f"for {fingerprint.dataset}: {axes.because}"
    place = f"{item.name}.training.mirror_axes"
    if any(reason.about == place and reason.rule == "user" for reason in plan.reasons):
        values["mirror_axes"] = item.training.mirror_axes
        because = f"as the user chose for {plan.dataset}; planned anew: {axes.because}"
    if values.get("mirror_swap_axis") not in values["mirror_axes"]:
        values = {"mirror_axes": values["mirror_axes"], "mirror_swaps": (), "mirror_swap_axis": None}
    training = replace(item.training, **values)
    if training == item.training:
        return carried
    carried = carried.change("training.mirror_axes", because, training=training)
    for field in ("mirror_swaps", "mirror_swap_axis"):
        told = any(reason.about == f"{item.name}.training.{field}" for reason in plan.reasons)
        if training.mirror_swaps and field in decided:
            carried = carried.change(f"training.{field}", decided[field].because, training=training)
        elif told:
            carried = carried.change(f"training.{field}", f"no classes change places in {fingerprint.dataset}")
    return carried


def _remark_on_spacing(carried: Carried, plan: Plan, fingerprint: Fingerprint) -> Carried:
    """Say where the plan's grid loses detail of the new data, or invents some. A first stage is meant to be coarse."""
    item = carried.item
    if any(other.previous == item.name for other in plan.configurations):
        return carried
    own = reorder(target_spacing(fingerprint.spacings_mm, fingerprint.shapes).value, plan.axis_order)
    own = own[3 - item.dimensions :]
    parts = []
    for name, planned, here in zip(axis_names(item.dimensions), item.spacing_mm, own, strict=True):
        if planned >= SPACING_FACTOR * here:
            parts.append(f"{name} {planned / here:.1f} times coarser, so detail is lost")
        elif here >= SPACING_FACTOR * planned:
            parts.append(f"{name} {here / planned:.1f} times finer, so slices are interpolated")
    if parts:
        text = f"does not suit {fingerprint.dataset}, whose own would be {millimetres(own)}: {'; '.join(parts)}"
        return carried.remark("spacing_mm", text)
    return carried


def _remark_on_patch(carried: Carried, plan: Plan) -> Carried:
    """Say where the patch is larger than the new cases need, or sees too little of them."""
    item = carried.item
    larger = []
    for axis, name in enumerate(axis_names(item.dimensions)):
        divisor = math.prod(stage.stride[axis] for stage in item.architecture.stages)
        if item.patch_size[axis] - divisor >= item.median_shape[axis]:
            larger.append(name)
    if larger:
        text = (
            f"larger along {', '.join(larger)} than the median case of {times(item.median_shape)}; the rest is padding"
        )
        carried = carried.remark("patch_size", text)
    seen = math.prod(min(p, m) for p, m in zip(item.patch_size, item.median_shape, strict=True))
    share = seen / math.prod(item.median_shape)
    staged = item.previous is not None or any(other.previous is not None for other in plan.configurations)
    if item.dimensions == 3 and share < ENOUGH_OF_A_CASE and not staged:
        text = f"sees {percent(share)} of the median case (< {percent(ENOUGH_OF_A_CASE)}); planned anew, a low "
        carried = carried.remark("patch_size", f"{text}resolution may join it")
    return carried


def meaning(labels: Labels) -> object:
    """What the outputs of a network mean: classes and regions by name, whatever their values in the files."""
    by_value = {item.value: item.name.casefold() for item in labels.classes}
    regions = [(region.name.casefold(), tuple(by_value[value] for value in region.values)) for region in labels.regions]
    painted = tuple(by_value[value] for value in labels.region_values)
    return list(by_value.values()), regions, painted, labels.ignore is None, labels.instance_classes
