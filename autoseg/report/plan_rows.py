"""Plan rows: what is shown of each configuration, value and reason side by side; no reason is left out."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from planners import records
from planners.decision import AXES, axis_names, byte_size
from planners.describe import CHANGES, ROWS, TARGET, object_rows
from planners.labels import Labels
from planners.plan import Configuration, Plan
from planners.regions import painting

CARRIED = "carried-changed"
"""Rule of reasons that tell what another task's plan could not keep here."""

Row = tuple[str, str, str, bool]
"""Title, value, reason, and whether it was changed after planning."""


@dataclass(frozen=True, kw_only=True)
class PlanSection:
    """One configuration: its head line and its rows."""

    name: str
    memory: str
    trained: bool
    rows: tuple[Row, ...]


def plan_sections(plan: Plan | None, trained: tuple[str, ...]) -> tuple[PlanSection, ...]:
    """Lay out every configuration of the plan, the trained ones first."""
    if plan is None:
        return ()
    sections = []
    for item in sorted(plan.configurations, key=lambda item: item.name not in trained):
        memory = f"{byte_size(item.estimated_bytes)} of {byte_size(plan.budget.device_bytes)}"
        rows = tuple(_rows(plan, item))
        sections.append(PlanSection(name=item.name, memory=memory, trained=item.name in trained, rows=rows))
    return tuple(sections)


def _rows(plan: Plan, item: Configuration) -> Iterator[Row]:
    rows = ROWS
    if plan.labels.instance_classes:
        rows = tuple(row for one in ROWS for row in (object_rows(item) if one == TARGET else [one]))
    shown = {field for _, field, _ in rows}
    for title, field, word in rows:
        yield (title, word(item), *reason_of(plan, f"{item.name}.{field}"))
    for title, field, word_or_not in _more(plan.labels):
        value = word_or_not(item)
        if value and field not in shown:
            yield (title, value, *reason_of(plan, f"{item.name}.{field}"))
        shown.add(field)
    facts = records.to_json(item)
    for about in dict.fromkeys(reason.about for reason in plan.reasons):
        field = about.removeprefix(f"{item.name}.")
        if field != about and field not in shown:
            title = field.removeprefix("training.").removeprefix("architecture.").replace("target.options.", "target.")
            yield (re.sub(r"[._]", " ", title), _value_at(facts, field), *reason_of(plan, about))


def _more(labels: Labels) -> tuple[tuple[str, str, Callable[[Configuration], str]], ...]:
    """List what only some plans have: title, field, and a wording that is empty where there is nothing to say."""
    return (
        ("input", "inputs", _word_inputs),
        ("mirroring", "training.mirror_axes", lambda item: _word_mirroring(item, labels)),
        ("patience", "training.patience", lambda item: _epochs(item.training.patience)),
        ("warm-up", "training.warm_up", lambda item: _epochs(item.training.warm_up)),
        ("starts from", "training.initial_weights", _word_start),
        ("left as it is", "training.frozen", lambda item: ", ".join(item.training.frozen)),
    )


def _word_inputs(item: Configuration) -> str:
    return "the image" if item.previous is None else f"the image, and the segmentation by {item.previous}"


def _word_mirroring(item: Configuration, labels: Labels) -> str:
    training, names = item.training, axis_names(item.dimensions)
    axes = ", ".join(names[axis] for axis in training.mirror_axes)
    if training.mirror_swap_axis is None:
        return f"along {axes}" if axes else "off"
    pairs = [f"{labels.names[left]} ↔ {labels.names[right]}" for left, right in training.mirror_swaps]
    return f"along {axes}; along {names[training.mirror_swap_axis]} these change places: {', '.join(pairs)}"


def _word_start(item: Configuration) -> str:
    digest = item.training.initial_weights
    return f"trained weights (digest {digest})" if digest else ""


def _epochs(number: int | None) -> str:
    return "" if not number else f"{number} epoch{'s' * (number != 1)}"


def _value_at(facts: Any, field: str) -> str:
    """Give the value of a field as JSON; empty where the name is that of no field."""
    value = facts
    try:
        for step in field.split("."):
            value = value[int(step)] if isinstance(value, list) else value[step]
    except (KeyError, IndexError, ValueError, TypeError):
        return ""
    return value if isinstance(value, str) else json.dumps(value)


def general_rows(plan: Plan | None) -> tuple[tuple[str, str, str], ...]:
    """Lay out what holds for every configuration: title, value, reason."""
    if plan is None:
        return ()
    names = ", ".join(item.name for item in plan.configurations)
    rows = [
        ("budget", byte_size(plan.budget.device_bytes), reason_of(plan, "budget")[0]),
        ("configurations", names, reason_of(plan, "configurations")[0]),
        ("cascade", *cascade(plan)),
        ("axis order", ", ".join(AXES[axis] for axis in plan.axis_order), reason_of(plan, "axis_order")[0]),
        ("channels", ", ".join(item.name for item in plan.channels), reason_of(plan, "channels")[0]),
        *_label_rows(plan),
    ]
    return tuple(row for row in rows if row[1])


def cascade(plan: Plan) -> tuple[str, str]:
    """Say which configuration feeds which, and what that means; empty where none does."""
    fed = [f"{item.previous} → {item.name}" for item in plan.configurations if item.previous is not None]
    return ", ".join(fed), "the second sees the image and what the first has found in it, out of fold"


def _label_rows(plan: Plan) -> list[tuple[str, str, str]]:
    labels, because = plan.labels, reason_of(plan, "labels")[0]
    classes = ", ".join(f"{item.name} {item.value}" for item in labels.classes)
    rows = [("classes", classes, because or "name and value in the files")]
    if labels.regions:
        rows.append(("regions", *_word_regions(labels)))
    if labels.instance_classes:
        rows.append(("told apart", ", ".join(labels.instance_classes), reason_of(plan, "labels.instance_classes")[0]))
    if labels.ignore is not None:
        rows.append(("ignored", str(labels.ignore), "voxels with this value count nowhere"))
    return rows


def _word_regions(labels: Labels) -> tuple[str, str]:
    """Name each region with its classes, and say how a voxel gets one class from the regions found there."""
    by_value = {item.value: item.name for item in labels.classes}
    regions = [f"{region.name} ({', '.join(by_value[v] for v in region.values)})" for region in labels.regions]
    strokes = painting(labels)
    if strokes is None:
        way_back = "each voxel gets the class whose regions agree best with those found"
    else:
        order = [f"{labels.regions[item.region].name} as {labels.classes[item.index].name}" for item in strokes]
        way_back = f"painted one over the other: {', then '.join(order)}"
        way_back += "" if labels.region_values else " (derived)"
    return "; ".join(regions), f"unions of classes, predicted as one; {way_back}"


def reason_of(plan: Plan, about: str) -> tuple[str, bool]:
    """Give the reasons of a value: of its last change, or those it was planned with; and whether it was changed."""
    found = [reason for reason in plan.reasons if reason.about == about]
    changes = [reason for reason in found if reason.rule in CHANGES]
    return "; ".join(reason.because for reason in changes[-1:] or found), bool(changes)


def changes(plan: Plan | None) -> tuple[tuple[str, str, str], ...]:
    """List what was changed in a finished plan: what, by which rule, why."""
    reasons = plan.reasons if plan is not None else ()
    return tuple((item.about, item.rule, item.because) for item in reasons if item.rule in (*CHANGES, CARRIED))
