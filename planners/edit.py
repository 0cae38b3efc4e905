"""What a user changes in a plan: one value by its path, recorded as a reason of rule ``user``.

Values that follow from the changed one (the output's size, the bytes, validation steps) are brought along; whether the
result is possible is checked by the records themselves.
"""

import dataclasses
import difflib
import json
import re
from collections.abc import Sequence
from typing import Any

from planners import recipe
from planners.memory import step_bytes
from planners.network_size import FAMILIES
from planners.plan import Configuration, Plan, Reason
from planners.records import PlanError, RecordError, from_json, to_json
from planners.unet import explain_bytes

DERIVED = {
    "name": "it names the configuration's folders",
    "estimated_bytes": "it is computed; change patch_size or batch_size",
}
"""Fields of a configuration that cannot be set, and why."""


def set_value(plan: Plan, path: str, text: str) -> Plan:
    """Change one value of one configuration, or of all.

    Args:
        plan: stays as it is.
        path: ``3d_fullres.batch_size``, ``*.training.epochs`` (``*`` means every configuration),
            ``2d.architecture.stages[0].features``.
        text: the new value as JSON; what is no JSON is taken as a string.

    Returns:
        The changed plan, with a reason of rule ``user`` per changed value.

    Raises:
        PlanError: the path leads nowhere, the value does not fit there, or the plan would be impossible.
    """
    name, *steps = [step for step in re.split(r"[.\[\]]+", path) if step]
    if not steps:
        raise PlanError(f"{path!r} names no field; write CONFIGURATION.FIELD, such as *.training.epochs")
    names = [item.name for item in plan.configurations]
    if name != "*" and name not in names:
        raise PlanError(f"{path!r}: no configuration {name!r}{_nearest(name, [*names, '*'])}")
    for chosen in names if name == "*" else [name]:
        plan = _set_in_configuration(plan, chosen, steps, _parse(text))
    return plan


def set_training(
    plan: Plan, *, epochs: int | None = None, steps_per_epoch: int | None = None, seed: int | None = None
) -> Plan:
    """Change the length or the seed of every configuration's training; None keeps what is planned.

    Validation takes a fifth of the new steps, at least one.

    Raises:
        PlanError: a number is out of range.
    """
    changes = {"epochs": epochs, "steps_per_epoch": steps_per_epoch, "seed": seed}
    for field, value in changes.items():
        if value is not None:
            plan = set_value(plan, f"*.training.{field}", str(value))
    if steps_per_epoch is None:
        return plan
    for item in plan.configurations:
        follows = recipe.validation_steps(steps_per_epoch)
        training = dataclasses.replace(item.training, validation_steps=follows.value)
        changed = dataclasses.replace(item, training=training)
        about = f"{item.name}.training.validation_steps"
        plan = _replace(plan, changed, Reason(about=about, rule=follows.rule, because=follows.because))
    return plan


def _set_in_configuration(plan: Plan, name: str, steps: Sequence[str], value: Any) -> Plan:
    old = plan.configuration(name)
    if steps[0] in DERIVED:
        raise PlanError(f"{name}.{steps[0]} cannot be set: {DERIVED[steps[0]]}")
    before = _look_up(old, steps, name)
    changed = _store(to_json(old), steps, value)
    follows: list[Reason] = []
    if steps[0] == "patch_size" and old.output_size == old.patch_size:
        changed["output_size"] = changed["patch_size"]
        follows.append(
            Reason(about=f"{name}.output_size", rule="same-as-patch", because="it was the patch size before")
        )
    new = _build(changed, name)
    if new == old:
        return plan
    about = ".".join([name, *steps])
    former = "not set" if before is None else json.dumps(to_json(before))
    asked = Reason(about=about, rule="user", because=f"set by the user (was {former})")
    new, recomputed = _recompute_bytes(new, plan)
    return _replace(plan, new, asked, *follows, *recomputed)


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
        elif isinstance(record, dict):
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


def _recompute_bytes(item: Configuration, plan: Plan) -> tuple[Configuration, tuple[Reason, ...]]:
    """Predict the training step anew; a network whose arithmetic is unknown keeps the old prediction."""
    if item.architecture.family not in FAMILIES:
        return item, ()
    step = step_bytes(
        item.architecture, item.patch_size, item.batch_size, item.num_input_channels, item.target.num_outputs
    )
    if step.total == item.estimated_bytes:
        return item, ()
    decision = explain_bytes(step, plan.budget)
    reason = Reason(about=f"{item.name}.estimated_bytes", rule=decision.rule, because=decision.because)
    return dataclasses.replace(item, estimated_bytes=decision.value), (reason,)


def _replace(plan: Plan, changed: Configuration, *reasons: Reason) -> Plan:
    """Put a configuration in its place. What follows from a change replaces its former reason; a user's is added."""
    follows = {reason.about for reason in reasons if reason.rule != "user"}
    kept = tuple(reason for reason in plan.reasons if reason.about not in follows)
    configurations = tuple(changed if item.name == changed.name else item for item in plan.configurations)
    return dataclasses.replace(plan, configurations=configurations, reasons=(*kept, *reasons))


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _nearest(wrong: str, possible: Sequence[str]) -> str:
    near = difflib.get_close_matches(wrong, possible, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{hint} (possible: {', '.join(possible)})"
