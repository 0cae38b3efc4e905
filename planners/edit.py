"""What a user changes in a plan: one value by its path, recorded as a reason of rule ``user``; a configuration more.

Values that follow from the changed one (the output's size, the inputs of a cascade, the bytes) are brought along.
Reasons that the change makes untrue say so. Whether the result is possible is checked by the records themselves.
"""

import dataclasses
import difflib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from planners import inheritance, recipe
from planners.decision import byte_size
from planners.instance_plan import follow_target
from planners.memory import StepBytes, configuration_bytes, explain_bytes
from planners.network_size import FAMILIES
from planners.plan import Configuration, Plan, Reason
from planners.records import PlanError, RecordError, from_json, to_json

DERIVED = {
    "name": "it names the configuration's folders",
    "estimated_bytes": "it is computed; change patch_size or batch_size",
}
"""Fields of a configuration that cannot be set, and why."""

DECIDED_FOR = {
    "spacing_mm": (
        "median_shape",
        "patch_size",
        "architecture.stages.stride",
        "architecture.stages.kernel",
        "training.batch_dice",
        "target.options.width",
        "target.options.decode.smallest",
        "target.options.decode.least_points",
        "target.options.decode.steps",
        "target.options.offsets",
    ),
    "scaling": ("median_shape", "patch_size", "target.options.diameter"),
    "patch_size": (
        "batch_size",
        "architecture.stages.stride",
        "training.batch_dice",
        "training.augmentation.rotation_radians",
        "training.augmentation.in_plane",
    ),
    "architecture": ("patch_size", "batch_size"),
    "training.steps_per_epoch": ("training.validation_steps",),
}
"""Per value, those whose reasons quote it; they do not follow when a user changes it, and their reasons say so."""


def read_plan(value: Any, place: str = "$") -> Plan:
    """Build a plan from JSON values, as a person may have written them: configurations may inherit.

    Args:
        value: what ``json.load`` gave.
        place: where in the file it stands.

    Raises:
        RecordError: a value does not fit, or an inheritance leads nowhere; the message begins with its place.
    """
    whole = inheritance.resolve(value, place)
    plan = from_json(Plan, whole, place)
    if whole is value:
        return plan
    heirs = [
        item["name"]
        for item in value["configurations"]
        if inheritance.INHERITS in item and "estimated_bytes" not in item
    ]
    return predict_bytes_anew(plan, heirs)


def set_value(plan: Plan, path: str, text: str) -> Plan:
    """Change one value of one configuration, or of all; or add a configuration.

    Args:
        plan: stays as it is.
        path: ``3d_fullres.batch_size``, ``*.training.epochs`` (``*`` means every configuration),
            ``2d.architecture.stages[0].features``, or ``NEW.inherits`` to add a configuration.
        text: the new value as JSON; what is no JSON is taken as a string.

    Returns:
        The changed plan, with a reason of rule ``user`` per changed value.

    Raises:
        PlanError: the path leads nowhere, the value does not fit there, or the plan would be impossible.
    """
    name, *steps = [step for step in re.split(r"[.\[\]]+", path) if step] or [""]
    if not steps:
        raise PlanError(f"{path!r} names no field; write CONFIGURATION.FIELD, such as *.training.epochs")
    names = [item.name for item in plan.configurations]
    if steps == [inheritance.INHERITS]:
        return _add_configuration(plan, name, text)
    if name != "*" and name not in names:
        add = f"; --set {name}.inherits={names[0]} would add one"
        raise PlanError(f"{path!r}: no configuration {name!r}{_nearest(name, [*names, '*'])}{add}")
    for chosen in names if name == "*" else [name]:
        plan = _set_in_configuration(plan, chosen, steps, _parse(text))
    return plan


def set_training(
    plan: Plan,
    *,
    epochs: int | None = None,
    steps_per_epoch: int | None = None,
    seed: int | None = None,
    patience: int | None = None,
) -> Plan:
    """Change the length or the seed of every configuration's training; None keeps what is planned.

    Validation takes a fifth of the new steps, at least one.

    Raises:
        PlanError: a number is out of range.
    """
    changes = {"epochs": epochs, "steps_per_epoch": steps_per_epoch, "seed": seed, "patience": patience}
    former = {item.name: item.training.steps_per_epoch for item in plan.configurations}
    for field, value in changes.items():
        if value is not None:
            plan = set_value(plan, f"*.training.{field}", str(value))
    if steps_per_epoch is None:
        return plan
    asked = {reason.about for reason in plan.reasons if reason.rule == "user"}
    for item in plan.configurations:
        if former[item.name] == steps_per_epoch or f"{item.name}.training.validation_steps" in asked:
            continue  # the user has chosen them, or they follow already
        follows = recipe.validation_steps(steps_per_epoch)
        training = dataclasses.replace(item.training, validation_steps=follows.value)
        changed = dataclasses.replace(item, training=training)
        about = f"{item.name}.training.validation_steps"
        plan = replace_configuration(plan, changed, Reason(about=about, rule=follows.rule, because=follows.because))
    return plan


def predict_bytes_anew(plan: Plan, names: Sequence[str]) -> Plan:
    """Predict the training step's bytes of some configurations, such as after an edit by hand, with the reason."""
    for name in names:
        changed, reasons = _recompute_bytes(plan.configuration(name), plan)
        if reasons:
            plan = replace_configuration(plan, changed, *reasons)
    return plan


def replace_configuration(plan: Plan, changed: Configuration, *reasons: Reason) -> Plan:
    """Put a configuration in its place. What follows from a change replaces its former reason; a user's is added."""
    follows = {reason.about for reason in reasons if reason.rule != "user"}
    kept = tuple(reason for reason in plan.reasons if reason.about not in follows and reason not in reasons)
    configurations = tuple(changed if item.name == changed.name else item for item in plan.configurations)
    return dataclasses.replace(plan, configurations=configurations, reasons=(*kept, *reasons))


def largest_batch(item: Configuration, device_bytes: int) -> int:
    """Give the largest batch up to the configuration's own whose predicted step fits; 0 where no patch does.

    The prediction grows with the batch, so halving finds it.
    """
    fits, above = 0, item.batch_size + 1
    while above - fits > 1:
        middle = (fits + above) // 2
        fits, above = (middle, above) if _step(item, middle).total <= device_bytes else (fits, middle)
    return fits


def _add_configuration(plan: Plan, name: str, parent: str) -> Plan:
    names = [item.name for item in plan.configurations]
    if name == "*" or name in names:
        raise PlanError(f"{name}.inherits: {name} is in the plan already (with {', '.join(names)}). Give a new name")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
        raise PlanError(f"{name!r} cannot name a configuration, nor its folders; use letters, digits, _ and -")
    if parent not in names:
        raise PlanError(f"{name}.inherits is {parent!r}{_nearest(parent, names)}")
    value = to_json(plan)
    value["configurations"].append({"name": name, inheritance.INHERITS: parent})
    return read_plan(value)


def _set_in_configuration(plan: Plan, name: str, steps: Sequence[str], value: Any) -> Plan:
    old = plan.configuration(name)
    if steps[0] in DERIVED:
        raise PlanError(f"{name}.{steps[0]} cannot be set: {DERIVED[steps[0]]}")
    before = _look_up(old, steps, name)
    changed = _store(to_json(old), steps, value)
    follows = _bring_along(changed, old, steps, plan)
    new = _build(changed, name)
    if new == old:
        return plan
    field = ".".join(steps)
    if plan.labels.instance_classes:
        new, more = follow_target(old, new, field, plan.labels)
        follows += more
    former = "not set" if before is None else json.dumps(to_json(before))
    asked = Reason(about=f"{name}.{field}", rule="user", because=f"set by the user (was {former})")
    new, recomputed = _recompute_bytes(new, plan)
    reasons = _mark_overruled(plan.reasons, name, field, former)
    return replace_configuration(dataclasses.replace(plan, reasons=reasons), new, asked, *follows, *recomputed)


def _bring_along(changed: dict[str, Any], old: Configuration, steps: Sequence[str], plan: Plan) -> list[Reason]:
    """Change what follows from the value that was set, in place, and say why."""
    if steps[0] == "patch_size" and old.output_size == old.patch_size:
        changed["output_size"] = changed["patch_size"]
        because = "it was the patch size before"
        return [Reason(about=f"{old.name}.output_size", rule="same-as-patch", because=because)]
    if steps[0] == "previous":
        changed["inputs"] = inheritance.follow_previous(changed["inputs"], changed["previous"], to_json(plan))
        because = "the previous configuration was changed"
        return [Reason(about=f"{old.name}.inputs", rule="image-and-previous", because=because)]
    if steps[0] == "training" and old.training.mirror_swaps:
        return _end_swaps(changed["training"], old.name, steps[-1])
    return []


def _end_swaps(training: dict[str, Any], name: str, field: str) -> list[Reason]:
    """Let no classes change places where the user takes away their axis, or the pairs: neither is without the other."""
    axes, swaps, axis = (training.get(key) for key in ("mirror_axes", "mirror_swaps", "mirror_swap_axis"))
    if not isinstance(axes, list) or (swaps and axis in axes):
        return []
    training |= {"mirror_swaps": [], "mirror_swap_axis": None}
    others = [other for other in ("mirror_swaps", "mirror_swap_axis") if other != field]
    because = f"{field} is set by the user: no classes change places"
    return [Reason(about=f"{name}.training.{other}", rule="follows", because=because) for other in others]


def _mark_overruled(reasons: Sequence[Reason], name: str, field: str, former: str) -> tuple[Reason, ...]:
    """Let reasons that a change makes untrue say so: the value's own, and those of values decided from it."""
    cut = len(name) + 1
    dependent = {about for source, abouts in DECIDED_FOR.items() if _within(field, source) for about in abouts}
    marked = []
    for reason in reasons:
        about = reason.about[cut:] if reason.about.startswith(f"{name}.") else None
        because = reason.because
        if about is None or reason.rule == "user":
            pass
        elif _within(about, field):
            because = because if because.startswith("overruled: ") else f"overruled: {because}"
        elif _within(_without_entries(field), about) and f"{field} is set by the user" not in because:
            because = f"{because}; {field} is set by the user"
        elif about in dependent and f"(decided for {field} " not in because:
            because = f"{because} (decided for {field} {former})"
        marked.append(dataclasses.replace(reason, because=because))
    return tuple(marked)


def _within(field: str, place: str) -> bool:
    return field == place or field.startswith(f"{place}.")


def _without_entries(field: str) -> str:
    """Reasons speak of all entries of a list at once: ``stages.1.features`` is told of in ``stages.features``."""
    return re.sub(r"\.\d+(?=\.|$)", "", field)


def _look_up(record: Any, steps: Sequence[str], place: str) -> Any:
    """Walk to the value, so that a wrong step is reported where it is."""
    for step in steps:
        if dataclasses.is_dataclass(record):
            fields = [field.name for field in dataclasses.fields(record)]
            if step not in fields:
                raise PlanError(f"{place} has no field {step!r}{_nearest(step, fields)}")
            record = getattr(record, step)
        elif isinstance(record, tuple):
            if not step.isdigit() or int(step) >= len(record):
                raise PlanError(f"{place} has no entry {step!r}; it has entries 0 to {len(record) - 1}")
            record = record[int(step)]
        elif isinstance(record, Mapping):
            record = record.get(step)
        else:
            raise PlanError(f"{place} is {json.dumps(record)}, which has no field {step!r}")
        place = f"{place}.{step}"
    return record


def _store(value: Any, steps: Sequence[str], new: Any) -> Any:
    """Give the JSON value with one place changed."""
    if not steps:
        return new
    step = int(steps[0]) if isinstance(value, list) else steps[0]
    changed = value.copy()
    changed[step] = _store(value[step] if len(steps) > 1 else None, steps[1:], new)
    return changed


def _build(value: Any, name: str) -> Configuration:
    try:
        return from_json(Configuration, value, name)
    except RecordError as fault:
        if isinstance(fault.__cause__, PlanError):
            raise fault.__cause__ from None
        hint = ", written as [40, 56, 40]" if str(fault).endswith("expected a list") else ""
        raise PlanError(f"{fault}{hint}") from fault


def _step(item: Configuration, batch_size: int) -> StepBytes:
    return configuration_bytes(dataclasses.replace(item, batch_size=batch_size))


def _recompute_bytes(item: Configuration, plan: Plan) -> tuple[Configuration, tuple[Reason, ...]]:
    """Predict the training step anew; a network whose arithmetic is unknown keeps the old prediction."""
    if item.architecture.family not in FAMILIES:
        return item, ()
    step = _step(item, item.batch_size)
    if step.total == item.estimated_bytes:
        return item, ()
    decision = explain_bytes(step, plan.budget)
    because = decision.because
    if step.total > plan.budget.device_bytes:
        because += f" ({say_what_fits(item, plan.budget.device_bytes)})"
    reason = Reason(about=f"{item.name}.estimated_bytes", rule=decision.rule, because=because)
    return dataclasses.replace(item, estimated_bytes=decision.value), (reason,)


def say_what_fits(item: Configuration, device_bytes: int) -> str:
    """Word the largest batch that would fit a budget, as the option that sets it; or that none does."""
    batch = largest_batch(item, device_bytes)
    if batch:
        return f"--set {item.name}.batch_size={batch} would fit {byte_size(device_bytes)}"
    least = byte_size(_step(item, 1).total)
    return f"no batch fits {byte_size(device_bytes)}: one patch takes {least}; a smaller patch_size would help"


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _nearest(wrong: str, possible: Sequence[str]) -> str:
    near = difflib.get_close_matches(wrong, possible, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{hint} (possible: {', '.join(possible)})"
