"""Facts: the plan, the times and the circumstances of a run, as rows of texts that the template lays out."""

import datetime
from dataclasses import dataclass
from typing import Any

from autoseg.evaluation.overlap import mean_of
from autoseg.evaluation.selection import candidate_name
from autoseg.progress import duration
from autoseg.report.material import Material
from planners.decision import AXES, byte_size
from planners.describe import CHANGES, ROWS
from planners.plan import Plan

EVENTS = {
    "non-finite-loss": "training steps skipped, because their loss was not finite",
    "recovered": "training went back to the last saved weights",
    "out-of-memory": "memory ran out, and a smaller step was taken",
}
"""Events of ``log.jsonl`` that a reader should know of."""


@dataclass(frozen=True, kw_only=True)
class PlanSection:
    """One configuration: its head line and rows (title, value, reason, whether it was changed after planning)."""

    name: str
    memory: str
    trained: bool
    rows: tuple[tuple[str, str, str, bool], ...]


def plan_sections(material: Material) -> tuple[PlanSection, ...]:
    """Lay out every configuration of the plan, the trained ones first."""
    plan = material.plan
    if plan is None:
        return ()
    trained = material.configurations or (material.record.configurations if material.record is not None else ())
    sections = []
    for item in sorted(plan.configurations, key=lambda item: item.name not in trained):
        rows = []
        for title, field, word in ROWS:
            because, changed = _reason(plan, f"{item.name}.{field}")
            rows.append((title, word(item), because, changed))
        memory = f"{byte_size(item.estimated_bytes)} of {byte_size(plan.budget.device_bytes)}"
        sections.append(PlanSection(name=item.name, memory=memory, trained=item.name in trained, rows=tuple(rows)))
    return tuple(sections)


def general_rows(plan: Plan | None) -> tuple[tuple[str, str, str], ...]:
    """Lay out what holds for every configuration: title, value, reason."""
    if plan is None:
        return ()
    labels = plan.labels
    rows = [
        ("budget", byte_size(plan.budget.device_bytes), _reason(plan, "budget")[0]),
        ("configurations", ", ".join(item.name for item in plan.configurations), _reason(plan, "configurations")[0]),
        ("axis order", ", ".join(AXES[axis] for axis in plan.axis_order), _reason(plan, "axis_order")[0]),
        ("channels", ", ".join(item.name for item in plan.channels), ""),
        ("classes", ", ".join(f"{item.name} {item.value}" for item in labels.classes), "name and value in the files"),
    ]
    if labels.regions:
        rows.append(("regions", ", ".join(item.name for item in labels.regions), "unions of classes, predicted as one"))
    if labels.ignore is not None:
        rows.append(("ignored", str(labels.ignore), "voxels with this value count nowhere"))
    return tuple(rows)


def _reason(plan: Plan, about: str) -> tuple[str, bool]:
    """Give the reasons of a value: of its last change, or those it was planned with."""
    found = [reason for reason in plan.reasons if reason.about == about]
    changes = [reason for reason in found if reason.rule in CHANGES]
    return "; ".join(reason.because for reason in changes[-1:] or found), bool(changes)


def changes(plan: Plan | None) -> tuple[tuple[str, str, str], ...]:
    """List what was changed after planning: what, by whom, why."""
    reasons = plan.reasons if plan is not None else ()
    return tuple((item.about, item.rule, item.because) for item in reasons if item.rule in CHANGES)


def time_rows(material: Material) -> tuple[tuple[str, ...], ...]:
    """Lay out the training times: configuration, fold, epochs, seconds per step, waiting for data, total."""
    rows = []
    for item in material.folds:
        if item.rows:
            step = mean_of(row.get("step_seconds") for row in item.rows)
            wait = mean_of(row.get("data_wait_fraction") for row in item.rows)
            total = sum(row.get("seconds") or 0.0 for row in item.rows)
            rows.append(
                (
                    item.configuration,
                    item.fold,
                    str(item.rows[-1]["epoch"] + 1),
                    "–" if step is None else f"{step:.3f} s",
                    "–" if wait is None else f"{wait:.0%}",
                    duration(total),
                )
            )
    return tuple(rows)


def stage_rows(material: Material) -> tuple[tuple[str, str], ...]:
    """Add up the seconds of each stage over all starts of the run, where the log tells them."""
    totals: dict[str, float] = {}
    for row in material.log:
        if row.get("event") == "stage" and isinstance(row.get("seconds"), int | float):
            totals[str(row.get("name"))] = totals.get(str(row.get("name")), 0.0) + float(row["seconds"])
    return tuple((name, duration(seconds)) for name, seconds in totals.items())


def fact_rows(material: Material) -> tuple[tuple[str, str], ...]:
    """List how the run was made: seed, device, versions, hardware, options that were given."""
    record = material.record
    if record is None:
        return ()
    compute: dict[str, Any] = record.compute or {}
    reasons = "; ".join(str(reason) for reason in compute.get("reasons", ()))
    parts = [compute.get("device"), compute.get("precision"), "channels last" if compute.get("channels_last") else None]
    parts.append(f"{compute['threads']} threads" if "threads" in compute else None)
    rows = [
        ("dataset", record.dataset),
        ("first start", _moment(record.started)),
        ("seed", str(record.seed)),
        ("computed with", ", ".join(str(part) for part in parts if part)),
        ("because", reasons),
        ("hardware", ", ".join(f"{name} {value}" for name, value in record.hardware.items())),
        ("versions", ", ".join(f"{name} {value}" for name, value in record.versions.items())),
        (
            "options",
            ", ".join(
                f"{name} {_option(value)}" for name, value in record.options.items() if value not in (None, [], "")
            ),
        ),
    ]
    return tuple((title, text) for title, text in rows if text)


def event_rows(material: Material) -> tuple[str, ...]:
    """Count the events of the log that a reader should know of."""
    found = [str(row.get("event")) for row in material.log]
    return tuple(
        f"{text}: {_count(found.count(name), 'time')}; see log.jsonl" for name, text in EVENTS.items() if name in found
    )


def headline(material: Material) -> str:
    """Say in two sentences what was trained on what and what came out."""
    record, plan, choice = material.record, material.plan, material.choice
    cases = _count(len(record.cases), "case") if record is not None else "An unknown number of cases"
    parts = [cases]
    if plan is not None:
        foreground = len(plan.labels.regions) or plan.labels.num_classes - 1
        parts.append(_count(len(plan.channels), "channel") + f" ({', '.join(item.name for item in plan.channels)})")
        classes = ("region", "regions") if plan.labels.regions else ("class", "classes")
        parts.append(f"{foreground} {classes[foreground != 1]} to find")
    text = ", ".join(parts) + "."
    if material.folds:
        names = [item.configuration for item in material.folds]
        counted = [f"{_count(names.count(name), 'fold')} of {name}" for name in material.configurations]
        text += f" Trained: {', '.join(counted)}."
    if choice is not None:
        rules = " and keeps only largest components where that helps" if choice.postprocessing else ""
        text += f" New images are segmented by {candidate_name(choice.configurations)}{rules}."
    else:
        text += " Nothing has been chosen yet."
    return text


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _moment(text: str) -> str:
    try:
        return datetime.datetime.fromisoformat(text).strftime("%d %B %Y, %H:%M").lstrip("0")
    except ValueError:
        return text


def _option(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
