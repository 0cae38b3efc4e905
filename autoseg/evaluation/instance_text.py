"""Measured instances as text: the table for the terminal, and the CSV."""

import csv
import io

from autoseg.data.check_problem import count
from autoseg.evaluation.folder_text import NOTHING, interval_text
from autoseg.evaluation.instance_metrics import InstanceMeasure, find_instance_protocol, parse_instance_metrics
from autoseg.evaluation.instance_records import GroupSummary, InstanceComparison
from autoseg.evaluation.overlap import align

NUM_WORST = 5  # assumption: as many as one looks at; all are in the JSON
DIGITS = {"": 3, "bits": 3, "objects": 1}


def instance_table(comparison: InstanceComparison, num_worst: int = NUM_WORST) -> str:
    """Lay out a comparison for the terminal: a block per group, a row per metric, then the worst images.

    Each row has the mean over images with its 95 % interval, their median, lowest and highest value, and the score of
    all images taken as one (``pooled``). The number that the protocol publishes has a star.
    """
    measures = parse_instance_metrics(comparison.metrics)
    rules = find_instance_protocol(comparison.protocol)
    images = count(len(comparison.cases), "image")
    lines = [f"protocol {comparison.protocol} ({rules.title}), {images}; * is the number to report"]
    for group in comparison.totals:
        objects = f"{group.num_labelled:,} labelled, {group.num_predicted:,} predicted"
        lines += ["", f"{group.group}: {objects}", "", *align(_rows(comparison, group, measures))]
        lines += _undefined(group, measures)
    if comparison.class_mean:
        pairs = zip(measures, comparison.class_mean, strict=True)
        rows = [(measure.title, _text(value, _digits(comparison, measure))) for measure, value in pairs]
        lines += ["", f"mean over classes of the {comparison.summary}", "", *align(rows)]
    return "\n".join(lines + _worst(comparison, measures[0], num_worst))


def instance_csv(comparison: InstanceComparison) -> str:
    """Write a row per image and group, a column per metric, then the objects counted; empty where there is no value."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    found = [f"found@{threshold:g}" for threshold in comparison.thresholds]
    writer.writerow(["case", "group", *comparison.metrics, "labelled", "predicted", *found])
    for case in comparison.cases:
        for row in case.scores:
            values = ["" if value is None else repr(float(value)) for value in row.values]
            writer.writerow([case.case, row.group, *values, row.num_labelled, row.num_predicted, *row.found])
    return out.getvalue()


def _rows(
    comparison: InstanceComparison, group: GroupSummary, measures: tuple[InstanceMeasure, ...]
) -> list[tuple[str, ...]]:
    heads = [kind + "*" * (kind == comparison.summary) for kind in ("mean", "median", "pooled")]
    rows = [("", *heads, "lowest", "highest")]
    for measure, summary in zip(measures, group.metrics, strict=True):
        others = (summary.median, summary.pooled, summary.lowest, summary.highest)
        digits = _digits(comparison, measure)
        rows.append((measure.title, interval_text(summary.mean, digits), *(_text(value, digits) for value in others)))
    return rows


def _undefined(group: GroupSummary, measures: tuple[InstanceMeasure, ...]) -> list[str]:
    """Say in how many images which metrics are not defined: their means say nothing of those."""
    numbers: dict[int, list[str]] = {}
    for measure, summary in zip(measures, group.metrics, strict=True):
        if summary.num_undefined:
            numbers.setdefault(summary.num_undefined, []).append(measure.title)
    lines = [f"  {count(number, 'image')} without {', '.join(titles)}" for number, titles in numbers.items()]
    return ["left out of these means and medians, as there are no objects to measure:", *lines] if lines else []


def _worst(comparison: InstanceComparison, measure: InstanceMeasure, num_worst: int) -> list[str]:
    """Name the images with the worst values of the first metric."""
    better = measure.metric.better
    found = []
    for case in comparison.cases:
        value = case.scores[0].values[0]
        if value is not None:
            found.append((value if better == "higher" else -abs(value), case.case, value))
    if len(found) < 2 or not num_worst:
        return []
    rows = [(f"  {case}", _text(value, _digits(comparison, measure))) for _, case, value in sorted(found)[:num_worst]]
    return ["", f"worst images by {measure.title}", *align(rows)]


def _digits(comparison: InstanceComparison, measure: InstanceMeasure) -> int:
    rounded = find_instance_protocol(comparison.protocol).digits
    return DIGITS[measure.metric.unit] if rounded is None or measure.metric.unit else rounded


def _text(value: float | None, digits: int) -> str:
    return NOTHING if value is None else f"{value:.{digits}f}"
