"""A plan made for one task, carried to another dataset.

What describes the network and its grid is carried: spacing, axis order, patch, topology, batch, normalization schemes,
training. What describes the data comes from the new fingerprint: channels and their intensities, labels, target,
mirroring, shapes, bytes. Every value keeps a reason: rule ``carried`` says where it comes from and what of it does not
suit the new data, rule ``carried-changed`` what had to change.
"""

from collections.abc import Sequence
from dataclasses import fields, replace

from planners.carried import Carried, carry_configuration, give_labels, meaning, mirror
from planners.decision import byte_size
from planners.describe import CHANGES
from planners.edit import predict_bytes_anew
from planners.fingerprint import Channel, Fingerprint
from planners.geometry import axis_order, median_resampled_shape, target_spacing
from planners.instance_plan import word_statistics
from planners.labels import Labels
from planners.plan import Configuration, MemoryBudget, Plan, Reason
from planners.records import PlanError

FIELDS = {field.name for field in fields(Configuration)}

FINE_TUNING_RATE = 0.001
"""Learning rate for training that starts from trained weights: a tenth of that from scratch. Source: nnU-Net's
fine-tuning (its HEAD after v2.8.1) takes 1e-3 with SGD where training from scratch takes 1e-2."""

FINE_TUNING_WARM_UP = (50, 1000)
"""Epochs of warm-up, and of the whole training that they belong to (same source). Assumption: a shorter training
warms up for the same part of it."""


def carry(plan: Plan, fingerprint: Fingerprint, budget: MemoryBudget, *, is_trained: bool = False) -> Plan:
    """Carry a plan to another dataset.

    Args:
        plan: made for some task; stays as it is.
        fingerprint: of the dataset that it shall serve.
        budget: memory there is now. Patch and batch are not fitted to it; where they are too large, the reason says
            what would fit.
        is_trained: keep what a network expects that was trained by the plan: channels of equal name are normalized by
            the plan's intensities instead of the new ones, objects brought to the plan's size.

    Returns:
        The plan for the new dataset. Weights that the old one started from, and frozen parts, are not carried.

    Raises:
        PlanError: the plan has 3D configurations alone, and the dataset single slices; or only one of them is of
            instances.
    """
    _check_same_task(plan, fingerprint)
    plan, turned = _turn_to_slices(plan, fingerprint)
    kept, left_out = _suitable(plan, fingerprint)
    channels, about_channels = _carry_channels(plan, fingerprint, is_trained=is_trained)
    carried = [carry_configuration(item, plan, fingerprint, is_trained=is_trained) for item in kept]
    new = Plan(
        dataset=fingerprint.dataset,
        planner=plan.planner,
        budget=budget,
        axis_order=plan.axis_order,
        channels=channels,
        labels=fingerprint.labels,
        configurations=tuple(one.item for one in carried),
        reasons=(
            Reason(about="plan.json", rule="carried", because=f"the plan of {plan.dataset}"),
            *turned,
            *_about_budget(plan, budget),
            about_channels,
            *_about_labels(plan.labels, fingerprint.labels),
            *_about_objects(fingerprint, carried[0].item),
            *left_out,
            *_reasons(plan, fingerprint, carried),
        ),
    )
    return predict_bytes_anew(new, [item.name for item in new.configurations])


def adapt_labels(plan: Plan, fingerprint: Fingerprint) -> Plan:
    """Give a plan the labels of a dataset, with what follows: target, heads, a cascade's inputs, mirroring.

    Args:
        plan: stays as it is.
        fingerprint: of the dataset; classes are told apart by name.

    Returns:
        The same plan where its labels and the dataset's differ in the values in the files alone; else one with reasons
        of rule ``carried-changed``. All that the labels do not touch stays as it is.

    Raises:
        PlanError: only one of plan and dataset is of instances.
    """
    labels = fingerprint.labels
    _check_same_task(plan, fingerprint)
    about = _about_labels(plan.labels, labels)
    if not about:
        return replace(plan, labels=labels)
    carried = [
        mirror(give_labels(Carried(item), plan.labels, labels), plan, fingerprint) for item in plan.configurations
    ]
    reasons = [reason for one in carried for reason in _changes(one)]
    changed = {reason.about for reason in (*about, *reasons)}
    kept = [reason for reason in plan.reasons if reason.about not in changed]
    new = replace(
        plan,
        labels=labels,
        configurations=tuple(one.item for one in carried),
        reasons=(*kept, *about, *reasons),
    )
    return predict_bytes_anew(new, [item.name for item in new.configurations])


def _check_same_task(plan: Plan, fingerprint: Fingerprint) -> None:
    """Refuse to use a plan of classes for objects, and the other way round: no target serves both."""
    ours, theirs = plan.labels.instance_classes, fingerprint.labels.instance_classes
    if bool(ours) == bool(theirs):
        return
    planned, there = ("objects", "classes alone") if ours else ("classes", f"objects of {', '.join(theirs)}")
    raise PlanError(
        f"the plan of {plan.dataset} is for {planned}, and {fingerprint.dataset} has {there}: no target serves both. "
        "Plan anew, or take the plan of a dataset of the same kind (see `instances` in dataset.json)"
    )


def _about_objects(fingerprint: Fingerprint, item: Configuration) -> tuple[Reason, ...]:
    if not fingerprint.labels.instance_classes:
        return ()
    because = word_statistics(fingerprint, min(item.spacing_mm))
    return (Reason(about="labels.instance_classes", rule="objects-measured", because=because),)


def _suitable(plan: Plan, fingerprint: Fingerprint) -> tuple[tuple[Configuration, ...], tuple[Reason, ...]]:
    """Choose the configurations that the images allow: for single slices, those in 2D."""
    if not is_flat(fingerprint):
        return plan.configurations, ()
    kept = tuple(item for item in plan.configurations if item.dimensions == 2)
    names = ", ".join(item.name for item in plan.configurations if item.dimensions == 3)
    if not kept:
        raise PlanError(
            f"the plan of {plan.dataset} is for volumes ({names}), and {fingerprint.dataset} has single slices. "
            "Plan without it, or carry a plan that has a 2d configuration"
        )
    if not names:
        return kept, ()
    because = f"{names} left out: the median case of {fingerprint.dataset} has one slice"
    return kept, (Reason(about="configurations", rule="carried-changed", because=because),)


def _turn_to_slices(plan: Plan, fingerprint: Fingerprint) -> tuple[Plan, tuple[Reason, ...]]:
    """Give a plan for single slices the order of axes in which they are slices; another would cut them into lines."""
    own = own_axis_order(fingerprint)
    if not is_flat(fingerprint) or own == plan.axis_order:
        return plan, ()
    kept = tuple(reason for reason in plan.reasons if reason.about != "axis_order")
    because = f"single slices stay as they are read; {plan.dataset} had {', '.join(map(str, plan.axis_order))}"
    reason = Reason(about="axis_order", rule="carried-changed", because=because)
    return replace(plan, axis_order=own, reasons=kept), (reason,)


def own_axis_order(fingerprint: Fingerprint) -> tuple[int, int, int]:
    """Give the order of axes that a plan of the dataset's own would have."""
    return axis_order(target_spacing(fingerprint.spacings_mm, fingerprint.shapes).value).value


def is_flat(fingerprint: Fingerprint) -> bool:
    """Say whether the median case is a single slice, as the planners see it."""
    spacing = target_spacing(fingerprint.spacings_mm, fingerprint.shapes).value
    shape = median_resampled_shape(fingerprint.spacings_mm, fingerprint.shapes, spacing)
    return shape[axis_order(spacing).value[0]] == 1


def _carry_channels(plan: Plan, fingerprint: Fingerprint, *, is_trained: bool) -> tuple[tuple[Channel, ...], Reason]:
    names, new = [channel.name for channel in plan.channels], [channel.name for channel in fingerprint.channels]
    old = {channel.name.casefold(): channel for channel in plan.channels if channel.intensities is not None}
    channels = tuple(
        replace(channel, intensities=old[channel.name.casefold()].intensities)
        if is_trained and channel.name.casefold() in old
        else channel
        for channel in fingerprint.channels
    )
    measured = f"intensities of {fingerprint.dataset}"
    if channels != fingerprint.channels:
        measured = f"intensities of {plan.dataset} where names agree, as the network was trained with them"
    if names == new:
        return channels, Reason(about="channels", rule="carried", because=f"the same; {measured}")
    because = f"{', '.join(new)} instead of {', '.join(names)}; {measured}"
    return channels, Reason(about="channels", rule="carried-changed", because=because)


def _about_labels(old: Labels, new: Labels) -> tuple[Reason, ...]:
    """Say how the labels differ; nothing where the same outputs stand for the same names."""
    if meaning(old) == meaning(new):
        return ()
    known, here = ({name.casefold() for name in labels.names} for labels in (old, new))
    gone = [name for name in old.names if name.casefold() not in here]
    come = [name for name in new.names if name.casefold() not in known]
    parts = [f"new: {', '.join(come)}"] if come else []
    parts += [f"not here: {', '.join(gone)}"] if gone else []
    parts += [] if come or gone else ["the same classes in another order, or other regions"]
    return (Reason(about="labels", rule="carried-changed", because="; ".join(parts)),)


def _about_budget(plan: Plan, budget: MemoryBudget) -> tuple[Reason, ...]:
    if budget.device_bytes >= plan.budget.device_bytes:
        return ()
    because = (
        f"{byte_size(budget.device_bytes)}, but the plan was made for {byte_size(plan.budget.device_bytes)}: patch and "
        "batch stay as they are; see what each configuration's memory says would fit"
    )
    return (Reason(about="budget", rule="carried-changed", because=because),)


def _reasons(plan: Plan, fingerprint: Fingerprint, carried: Sequence[Carried]) -> list[Reason]:
    """Give every value its reason: the former one as carried, with remarks, unless the value was changed."""
    changes = [reason for one in carried for reason in _changes(one)]
    remarks: dict[str, str] = {}
    for one in carried:
        for field, text in one.remarks:
            about = f"{one.item.name}.{field}"
            remarks[about] = f"{remarks.get(about, '')}; {text}"
    own = axis_order(target_spacing(fingerprint.spacings_mm, fingerprint.shapes).value)
    if own.value != plan.axis_order:
        remarks["axis_order"] = f"; planned anew: {', '.join(map(str, own.value))}, {own.because}"
    places = ("axis_order", "configurations", *(f"{one.item.name}." for one in carried))
    changed = {reason.about for reason in changes}
    reasons = []
    for about in dict.fromkeys(reason.about for reason in plan.reasons):
        field = about.partition(".")[2].partition(".")[0]
        if about.startswith(places) and about not in changed and (not field or field in FIELDS):
            because = _former(plan, about) + remarks.pop(about, "")
            reasons.append(Reason(about=about, rule="carried", because=because))
    for about in _without_reason([*reasons, *changes], carried):
        because = f"from {plan.dataset}{remarks.pop(about, '')}"
        reasons.append(Reason(about=about, rule="carried", because=because))
    rest = [Reason(about=about, rule="carried", because=text.removeprefix("; ")) for about, text in remarks.items()]
    return [*reasons, *rest, *changes]


def _without_reason(reasons: Sequence[Reason], carried: Sequence[Carried]) -> list[str]:
    """List the values that nobody has given a reason for, as in a plan of another program."""
    told = {".".join(reason.about.split(".")[:2]) for reason in reasons}
    places = [f"{one.item.name}.{field.name}" for one in carried for field in fields(Configuration)]
    return [place for place in places if place not in told and not place.endswith((".name", ".previous"))]


def _former(plan: Plan, about: str) -> str:
    """Word why a value was what it is, in the task that it comes from."""
    found = [reason for reason in plan.reasons if reason.about == about]
    told = [reason for reason in found if reason.rule in CHANGES][-1:] or found
    because = "; ".join(reason.because for reason in told)
    return because if told[0].rule == "carried" else f"from {plan.dataset}: {because}"


def _changes(one: Carried) -> list[Reason]:
    last = dict(one.changes)
    return [Reason(about=f"{one.item.name}.{field}", rule="carried-changed", because=last[field]) for field in last]


def fine_tune(plan: Plan, model: str, epochs: int | None = None) -> Plan:
    """Let a plan's training start gently, as one from trained weights should: a low learning rate after a warm-up.

    Args:
        plan: stays as it is.
        model: what the weights come from, for the reasons.
        epochs: the training's length where that will be changed yet; default: each configuration's own.
    """
    reasons: list[Reason] = []
    changed = []
    for item in plan.configurations:
        length = epochs or item.training.epochs
        warm_up = gentle_warm_up(length)
        rate = min(FINE_TUNING_RATE, item.training.learning_rate)
        training = replace(item.training, learning_rate=rate, warm_up=warm_up)
        changed.append(replace(item, training=training))
        why = {
            "learning_rate": f"starts from {model}: {rate:g} instead of {item.training.learning_rate:g}, as nnU-Net",
            "warm_up": _why_warm_up(length),
        }
        reasons += [
            Reason(about=f"{item.name}.training.{field}", rule="fine-tuning", because=because)
            for field, because in why.items()
        ]
    abouts = {reason.about for reason in reasons}
    kept = tuple(reason for reason in plan.reasons if reason.about not in abouts)
    return replace(plan, configurations=tuple(changed), reasons=(*kept, *reasons))


def renew_warm_up(plan: Plan, names: Sequence[str] | None = None) -> Plan:
    """Fit the warm-up of a gentle start to epochs that were changed after it; a warm-up that the user set stays.

    Args:
        plan: stays as it is.
        names: configurations to look at; default: all.
    """
    for item in plan.configurations if names is None else map(plan.configuration, names):
        about = f"{item.name}.training.warm_up"
        rules = {reason.rule for reason in plan.reasons if reason.about == about}
        warm_up = gentle_warm_up(item.training.epochs)
        if "fine-tuning" not in rules or "user" in rules or warm_up == item.training.warm_up:
            continue
        changed = replace(item, training=replace(item.training, warm_up=warm_up))
        reason = Reason(about=about, rule="fine-tuning", because=_why_warm_up(item.training.epochs))
        plan = replace(
            plan,
            configurations=tuple(changed if other.name == item.name else other for other in plan.configurations),
            reasons=tuple(reason if other.about == about else other for other in plan.reasons),
        )
    return plan


def gentle_warm_up(epochs: int) -> int:
    """Give the epochs of warm-up for a training that starts from trained weights."""
    share, whole = FINE_TUNING_WARM_UP
    return min(share, round(epochs * share / whole))


def _why_warm_up(epochs: int) -> str:
    share, whole = FINE_TUNING_WARM_UP
    return f"{share} of {whole} epochs, as nnU-Net; the same part of {epochs} (assumption)"
