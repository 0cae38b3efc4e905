"""Measured cases as text: the table for the terminal, and the CSV."""

import csv
import io
from collections.abc import Sequence

from autoseg.data.check_problem import count
from autoseg.evaluation.metric_records import CaseMetrics, Interval, MetricTable
from autoseg.evaluation.metrics import Measure, parse_metric
from autoseg.evaluation.overlap import align, mean_of
from autoseg.evaluation.protocol_records import EMPTY_BOTH, EMPTY_LABEL, EMPTY_PREDICTION, NOT_ANNOTATED

WIDTH = 100  # characters; metrics that do not fit beside each other go into a second block
NOTHING = "–"
NUM_WORST = 5  # assumption: as many as one looks at; all are in the CSV and the JSON


def metric_table(table: MetricTable, num_worst: int = NUM_WORST) -> str:
    """Lay out a table for the terminal: a row per structure, a column per metric, then the worst cases.

    Each number is a mean over cases with its 95 % interval. Beside them stands in how many cases a structure is in both
    masks (``found``), in the label alone (``missed``), in the prediction alone (``invented``), in neither (``absent``)
    or was not annotated, as far as there are any.
    """
    measures = [parse_metric(name) for name in table.metrics]
    names = ["structure", *table.structures, *(["mean"] if len(table.structures) > 1 else [])]
    columns = [_column(table, index, measure) for index, measure in enumerate(measures)]
    blocks = _blocks([*columns, *_occurrences(table)], max(map(len, names)))
    lines = [f"protocol {table.protocol}, {count(len(table.cases), 'case')}; means with 95 % intervals", ""]
    for number, block in enumerate(blocks):
        lines += [""] * (number > 0) + align(list(zip(names, *block, strict=True)))
    for part in (_left_out(table, measures), _worst(table, measures, num_worst)):
        lines += ["", *part] if part else []
    return "\n".join(lines)


def interval_text(interval: Interval | None, digits: int = 3) -> str:
    """Write a mean with its interval: ``0.912 (0.890–0.931)``."""
    if interval is None:
        return NOTHING
    mean, low, high = (f"{value:.{digits}f}" for value in (interval.mean, interval.low, interval.high))
    between = " … " if low.startswith("-") or high.startswith("-") else "–"
    return f"{mean} ({low}{between}{high})"


def metric_csv(table: MetricTable) -> str:
    """Write a row per case and structure, a column per metric; empty where there is no value."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["case", "structure", *table.metrics, "empty", "voxels_both", "voxels_prediction", "voxels_label"])
    for row in table.cases:
        for index, structure in enumerate(table.structures):
            values = ["" if value is None else repr(float(value)) for value in row.values[index]]
            counts = row.counts[index] if row.counts else ("", "", "")
            writer.writerow([row.case, structure, *values, row.empty[index], *counts])
    return out.getvalue()


def _title(measure: Measure) -> str:
    number = measure.name.partition("@")[2]
    unit = measure.metric.unit
    at = f" @ {number}" + (" mm" if measure.metric.parameter == "tolerance_mm" else "") if number else ""
    return f"{measure.metric.title}{at}" + (f" [{unit}]" if unit else "")


def _column(table: MetricTable, index: int, measure: Measure) -> tuple[str, ...]:
    digits = {"": 3, "mm": 2}.get(measure.metric.unit, 0)
    cells = [interval_text(row[index], digits) for row in table.by_structure]
    mean = [interval_text(table.mean[index], digits)] if len(table.structures) > 1 else []
    return (_title(measure), *cells, *mean)


def _blocks(columns: Sequence[Sequence[str]], first: int) -> list[list[Sequence[str]]]:
    """Cut columns into blocks that fit the width."""
    blocks: list[list[Sequence[str]]] = [[]]
    used = first
    for column in columns:
        width = 2 + max(map(len, column))
        if blocks[-1] and used + width > WIDTH:
            blocks.append([])
            used = first
        blocks[-1].append(column)
        used += width
    return blocks


def _occurrences(table: MetricTable) -> list[Sequence[str]]:
    titles = {"": "found", EMPTY_PREDICTION: "missed", EMPTY_LABEL: "invented", EMPTY_BOTH: "absent"}
    columns: list[Sequence[str]] = []
    for kind, title in {**titles, NOT_ANNOTATED: NOT_ANNOTATED}.items():
        numbers = [sum(row.empty[index] == kind for row in table.cases) for index in range(len(table.structures))]
        if kind == "" or any(numbers):
            columns.append((title, *map(str, numbers), *([""] if len(table.structures) > 1 else [])))
    return columns


def _left_out(table: MetricTable, measures: Sequence[Measure]) -> list[str]:
    """Say which metrics have no value in cases where one mask alone is empty: their means say nothing of those."""
    lines = []
    for place, structure in enumerate(table.structures):
        groups: dict[int, list[str]] = {}
        for index, measure in enumerate(measures):
            num = sum(
                row.values[place][index] is None and row.empty[place] in (EMPTY_LABEL, EMPTY_PREDICTION)
                for row in table.cases
            )
            if num and not measure.metric.pooled:
                groups.setdefault(num, []).append(measure.metric.title)
        lines += [f"  {structure}: {count(num, 'case')} without {', '.join(found)}" for num, found in groups.items()]
    return ["left out of these means, as one mask is empty:", *lines] if lines else []


def _worst(table: MetricTable, measures: Sequence[Measure], num_worst: int) -> list[str]:
    """Name the cases with the worst mean over structures of the first metric that tells good from bad."""
    chosen = next((i for i, m in enumerate(measures) if m.metric.better != "neither" and not m.metric.pooled), None)
    if chosen is None or not num_worst or len(table.cases) < 2:
        return []
    measure = measures[chosen]
    better = measure.metric.better
    found = []
    for row in table.cases:
        value = _case_mean(row, chosen, magnitude=better == "zero")
        if value is not None:
            found.append((value if better == "higher" else -value, row.case, value))
    if not found:
        return []
    digits = {"": 3, "mm": 2}.get(measure.metric.unit, 0)
    rows = [(f"  {case}", f"{value:.{digits}f}") for _, case, value in sorted(found)[:num_worst]]
    return [f"worst cases by mean {_title(measure)}", *align(rows)]


def _case_mean(row: CaseMetrics, index: int, magnitude: bool) -> float | None:
    values = [structure[index] for structure in row.values]
    return mean_of(abs(value) if magnitude and value is not None else value for value in values)
