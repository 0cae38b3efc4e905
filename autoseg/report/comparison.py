"""Comparison: several runs on one page, told apart where they differ, compared only where that means something."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autoseg.evaluation.criterion import interval_of
from autoseg.evaluation.metric_records import Interval
from autoseg.evaluation.selection import candidate_name
from autoseg.evaluation.statistics import bootstrap_mean
from autoseg.progress import duration
from autoseg.report.facts import training_seconds
from autoseg.report.material import Material, gather
from autoseg.report.metric_tables import base_name, metric_of
from autoseg.report.object_comparison import (
    ObjectPair,
    compared_metrics,
    mean_f1,
    metric_cells,
    metric_titles,
    object_pair,
    side_by_side,
)
from autoseg.report.page import file_text, template
from autoseg.report.paired import PairSection, listed, pair_section, shared_cases
from autoseg.report.ranges import Entry, RangeList, interval_text, range_list, value_text
from autoseg.report.score_tables import narrow_text, number
from autoseg.run_folder import RunFolder, write_atomic
from planners.decision import byte_size

MAX_STRUCTURES = 60  # rows of a table
SURFACE_METRICS = ("nsd", "hd95")


@dataclass(frozen=True, kw_only=True)
class RunRow:
    """One run: what it is called on the page, and what came out, as texts."""

    name: str
    folder: str
    dataset: str
    num_cases: str
    chosen: str
    dice: str
    interval: str
    surfaces: tuple[tuple[str, str], ...]
    objects: tuple[tuple[str, str], ...]
    epochs: str
    time: str
    memory: str


@dataclass(frozen=True, kw_only=True)
class Group:
    """Runs that can be compared: their names, Dice per structure side by side, and the pairs.

    ``f1``, ``objects`` and ``object_pairs`` are of runs that tell objects apart: None and empty where none does.
    """

    names: tuple[str, ...]
    dataset: str
    means: RangeList
    rows: tuple[tuple[str, tuple[tuple[str, str, bool], ...]], ...]
    hidden: int
    pairs: tuple[PairSection, ...]
    narrow: str
    f1: RangeList | None
    objects: tuple[tuple[str, tuple[tuple[str, str, bool], ...]], ...]
    object_pairs: tuple[ObjectPair | None, ...]


def write_comparison(runs: Sequence[RunFolder], out: Path) -> Path:
    """Write one page that compares runs; what cannot be compared is said to be so.

    Args:
        runs: the run folders; the first of a dataset is what the others are compared with.
        out: the file to write.

    Returns:
        The file.
    """
    write_atomic(out, render_comparison([gather(run) for run in runs]))
    return out


def render_comparison(materials: Sequence[Material]) -> str:
    """Lay out the page."""
    names = names_of(materials)
    groups, apart = group(materials)
    surfaces = [name for name in SURFACE_METRICS if any(_has(item, name) for item in materials)]
    metrics = compared_metrics(materials)
    rows = [_run_row(item, name, surfaces, metrics) for item, name in zip(materials, names, strict=True)]
    return template("comparison.html.jinja").render(
        style=file_text("report.css"),
        rows=rows,
        object_metrics=metric_titles(metrics),
        surfaces=[title for title, _ in map(_surface_head, surfaces)],
        surface_notes=[note for _, note in map(_surface_head, surfaces)],
        groups=[_group([materials[i] for i in members], [names[i] for i in members]) for members in groups],
        apart=[(names[index], why) for index, why in apart],
        missing=[(name, item.missing) for name, item in zip(names, materials, strict=True) if item.missing],
    )


def names_of(materials: Sequence[Material]) -> list[str]:
    """Name each run by its folder, with as many folders above as it takes to tell them apart."""
    paths = [item.run.root.resolve().parts for item in materials]
    for depth in range(1, max(map(len, paths), default=0) + 1):
        names = ["/".join(parts[-depth:]) for parts in paths]
        if len(set(names)) == len(names):
            return names
    return [f"{index}: {parts[-1]}" for index, parts in enumerate(paths, start=1)]


def group(materials: Sequence[Material]) -> tuple[list[list[int]], list[tuple[int, str]]]:
    """Sort runs into groups of the same dataset and structures.

    Returns:
        Groups of at least two, by index; and the runs that stand alone, with the reason.
    """
    groups: list[list[int]] = []
    apart = []
    for index, item in enumerate(materials):
        if item.scores is None or not item.scores.cases:
            apart.append((index, "it has no scored case yet"))
            continue
        home = next((members for members in groups if not obstacle(materials[members[0]], item)), None)
        if home is None:
            groups.append([index])
        else:
            home.append(index)
    for members in groups:
        if len(members) == 1:
            others = [materials[other[0]] for other in groups if other is not members]
            why = obstacle(others[0], materials[members[0]]) if others else "no other run has scores"
            apart.append((members[0], why))
    return [members for members in groups if len(members) > 1], sorted(apart)


def obstacle(first: Material, second: Material) -> str:
    """Say why two scored runs cannot be compared; empty where they can."""
    if first.scores is None or second.scores is None:
        return "one of them has no scores"
    mine, theirs = first.record, second.record
    if mine is not None and theirs is not None and mine.name != theirs.name and mine.dataset != theirs.dataset:
        return f"its dataset is {theirs.name}, not {mine.name}"
    if first.scores.structures != second.scores.structures:
        return f"it scores {listed(second.scores.structures)}, not {listed(first.scores.structures)}"
    if not {row.case for row in first.scores.cases} & {row.case for row in second.scores.cases}:
        return "no case is scored in both"
    return ""


def _has(material: Material, metric: str) -> bool:
    return material.metrics is not None and any(base_name(name) == metric for name in material.metrics.metrics)


def _surface_head(metric: str) -> tuple[str, str]:
    found = metric_of(metric)
    return (found.title, found.unit) if found is not None else (metric, "")


def _surface(material: Material, metric: str) -> tuple[str, str]:
    table = material.metrics
    for index, name in enumerate(table.metrics if table is not None else ()):
        interval = table.mean[index] if table is not None else None
        if base_name(name) == metric and interval is not None:
            unit = _surface_head(metric)[1]
            return value_text(interval.mean, unit), interval_text(interval, unit)
    return "–", ""


def _run_row(material: Material, name: str, surfaces: Sequence[str], metrics: Sequence[str]) -> RunRow:
    record, plan, choice, scores = material.record, material.plan, material.choice, material.scores
    epochs = sorted({len(item.rows) for item in material.folds if item.rows})
    seconds = training_seconds(material)
    return RunRow(
        name=name,
        folder=str(material.run.root),
        dataset=record.name if record is not None else "–",
        num_cases=str(len(scores.cases)) if scores is not None else "–",
        chosen=candidate_name(choice.configurations, choice.weights) if choice is not None else "nothing yet",
        dice=number(scores.mean_dice) if scores is not None and scores.mean_dice is not None else "–",
        interval=interval_text(_mean_interval(material)),
        surfaces=tuple(_surface(material, metric) for metric in surfaces),
        objects=metric_cells(material, metrics),
        epochs="–".join(str(value) for value in dict.fromkeys([*epochs[:1], *epochs[-1:]])) or "–",
        time=duration(seconds) if seconds else "–",
        memory=byte_size(plan.budget.device_bytes) if plan is not None else "–",
    )


def _mean_interval(material: Material) -> Interval | None:
    return interval_of(material.scores) if material.scores is not None else None


def _group(materials: Sequence[Material], names: Sequence[str]) -> Group:
    first, record = materials[0], materials[0].record
    structures = first.scores.structures if first.scores is not None else ()
    rows = [(name, _side_by_side(materials, index)) for index, name in enumerate(structures[:MAX_STRUCTURES])]
    if len(structures) > 1:
        rows.append(("mean", _side_by_side(materials, None)))
    entries = [Entry(name=name, interval=_mean_interval(item)) for item, name in zip(materials, names, strict=True)]
    shared = min(len(shared_cases(first, item)) for item in materials[1:])
    others = list(zip(materials, names, strict=True))[1:]
    return Group(
        names=tuple(names),
        dataset=record.name if record is not None else "",
        means=range_list("Mean Dice", "higher is better", entries, limits=(0.0, 1.0)),
        rows=tuple(rows),
        hidden=max(len(structures) - MAX_STRUCTURES, 0),
        pairs=tuple(pair_section(first, item, (names[0], name)) for item, name in others),
        narrow=narrow_text(shared),
        f1=mean_f1(materials, names),
        objects=side_by_side(materials, compared_metrics(materials)),
        object_pairs=tuple(object_pair(first, item, (names[0], name)) for item, name in others),
    )


def _side_by_side(materials: Sequence[Material], index: int | None) -> tuple[tuple[str, str, bool], ...]:
    """Lay out one structure (None: the mean) of every run: value, interval, whether it is the highest."""
    found = [_mean_interval(item) if index is None else bootstrap_mean(_values(item, index)) for item in materials]
    highest = max((item.mean for item in found if item is not None), default=None)
    return tuple(
        ("absent", "", False) if item is None else (number(item.mean), interval_text(item), item.mean == highest)
        for item in found
    )


def _values(material: Material, index: int) -> list[float | None]:
    return [row.dice[index] for row in material.scores.cases] if material.scores is not None else []
