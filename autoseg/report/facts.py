"""Facts: the times and the circumstances of a run, as rows of texts that the template lays out."""

import datetime
from dataclasses import dataclass
from typing import Any

from autoseg.evaluation.overlap import mean_of
from autoseg.evaluation.selection import candidate_name
from autoseg.progress import duration
from autoseg.report.material import FoldMaterial, Material
from planners.plan import Plan


def time_rows(material: Material) -> tuple[tuple[str, ...], ...]:
    """Lay out the times: configuration, fold, epochs, seconds per step, waiting for data, training, validation."""
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
                    "–" if _validation_s(item) is None else duration(_validation_s(item) or 0.0),
                )
            )
    return tuple(rows)


def time_budget_text(material: Material) -> str:
    """Say how much time was asked for and how much was used; empty where no time was asked for."""
    asked = material.record.options.get("time_budget_s") if material.record is not None else None
    if not isinstance(asked, int | float) or asked <= 0:
        return ""
    used = training_seconds(material)
    return f"{duration(asked)} were asked for; training and validation took {duration(used)} ({used / asked:.0%})."


def training_seconds(material: Material) -> float:
    """Add up training and validation of all folds."""
    training = sum(row.get("seconds") or 0.0 for item in material.folds for row in item.rows)
    return training + sum(_validation_s(item) or 0.0 for item in material.folds)


def _validation_s(item: FoldMaterial) -> float | None:
    seconds = item.record.get("validation_s")
    return float(seconds) if isinstance(seconds, int | float) else None


def annotation_rows(material: Material) -> tuple[tuple[str, str, str], ...]:
    """Say in how many cases each class was annotated, where not all were in all: title, value, what it means."""
    record, plan = material.record, material.plan
    if record is None or plan is None:
        return ()
    found = [case.annotated_classes for case in record.cases]
    partly = sum(item is not None for item in found)
    if not partly:
        return ()
    counts = [sum(item is None or index in item for item in found) for index in range(plan.labels.num_classes)]
    value = ", ".join(f"{name} in {number}" for name, number in list(zip(plan.labels.names, counts, strict=True))[1:])
    because = (
        f"{partly} of {_count(len(found), 'case')} partly annotated; what was not counts neither in loss nor score"
    )
    return (("annotated", value, because),)


@dataclass(frozen=True, kw_only=True)
class Start:
    """What one configuration started from: the source, how much of it fitted, and (part, fate, why) of the rest."""

    configuration: str
    source: str
    fitted: str
    rest: tuple[tuple[str, str, str], ...]


def starts(material: Material) -> tuple[Start, ...]:
    """Tell of the trained weights that trainings started from, as the log has them last."""
    found: dict[str, Start] = {}
    for row in material.log:
        if row.get("event") == "initial weights" and isinstance(row.get("rows"), list):
            parts = [item for item in row["rows"] if isinstance(item, dict)]
            fates = [str(item.get("status")) for item in parts]
            rest = ((str(item.get("name")), str(item.get("status")), str(item.get("because"))) for item in parts)
            name = str(row.get("configuration"))
            found[name] = Start(
                configuration=name,
                source=str(row.get("source")),
                fitted=", ".join(f"{fates.count(fate)} {fate}" for fate in ("matched", "adapted", "new")),
                rest=tuple(item for item in rest if item[1] != "matched"),
            )
    return tuple(found.values())


def step_down_rows(material: Material) -> tuple[tuple[str, str], ...]:
    """List the folds that went on with a smaller step after the memory ran out: which, and what was changed."""
    found = ((f"{item.configuration}, fold {item.fold}", item.record.get("step_down")) for item in material.folds)
    return tuple((name, str(text)) for name, text in found if text)


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
                f"{name} {_option(value)}"
                for name, value in record.options.items()
                if value not in (None, [], "") and value is not False
            ),
        ),
    ]
    return tuple((title, text) for title, text in rows if text)


def headline(material: Material) -> str:
    """Say in two sentences what was trained on what and what came out."""
    record, plan, choice = material.record, material.plan, material.choice
    cases = _count(len(record.cases), "case") if record is not None else "An unknown number of cases"
    parts = [cases]
    if plan is not None:
        foreground = len(plan.labels.regions) or plan.labels.num_classes - 1
        parts.append(_count(len(plan.channels), "channel") + f" ({', '.join(item.name for item in plan.channels)})")
        classes = ("region", "regions") if plan.labels.regions else ("class", "classes")
        parts.append(f"{foreground} {classes[foreground != 1]} to find{_told_apart(plan)}")
    text = ", ".join(parts) + "."
    if material.folds:
        names = [item.configuration for item in material.folds]
        counted = [f"{_count(names.count(name), 'fold')} of {name}" for name in material.configurations]
        text += f" Trained: {', '.join(counted)}."
    if choice is not None:
        count = len(choice.postprocessing)
        rules = f" and corrected by {_count(count, 'rule')} that helped out of fold" if count else ""
        text += f" New images are segmented by {candidate_name(choice.configurations, choice.weights)}{rules}."
    else:
        text += " Nothing has been chosen yet."
    return text


def _told_apart(plan: Plan) -> str:
    named = plan.labels.instance_classes
    return f", the objects of {' and '.join(named)} told apart" if named else ""


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _moment(text: str) -> str:
    try:
        return datetime.datetime.fromisoformat(text).strftime("%d %B %Y, %H:%M").lstrip("0")
    except ValueError:
        return text


def _option(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
