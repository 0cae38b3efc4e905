"""Object section: what the page says of objects that are told apart: numbers, charts, errors, images."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from autoseg.data.check_problem import count
from autoseg.evaluation.instance_metrics import InstanceMeasure, parse_instance_metrics
from autoseg.evaluation.instance_records import GroupSummary, InstanceComparison, InstanceSummary
from autoseg.evaluation.instance_results import InstanceResults
from autoseg.evaluation.instance_text import DIGITS
from autoseg.evaluation.metric_records import Interval
from autoseg.report import object_charts
from autoseg.report.charts import histogram
from autoseg.report.material import Material
from autoseg.report.metric_tables import DIRECTIONS
from autoseg.report.object_facts import (
    KINDS,
    LABEL_KINDS,
    MEANINGS,
    PREDICTION_KINDS,
    ImageRow,
    image_rows,
    kind_counts,
    length_unit,
    share,
)
from autoseg.report.object_statistics import settings_text
from autoseg.report.score_tables import Bar, narrow_text, number

MAIN = "f1@0.5"
"""The number at the head of the page; what the choice between targets goes by."""

IN_HEAD = 5  # further scores beside it
NUM_WORST = 8  # images named without opening a list
MAX_ROWS = 300  # images of the whole list; the rest is in instances.json


@dataclass(frozen=True, kw_only=True)
class ObjectHead:
    """The numbers at the head of the page: the main one with its interval, others as bars, counts in words."""

    title: str
    value: str
    interval: str
    others: tuple[Bar, ...]
    labelled: str
    predicted: str
    decode: str


@dataclass(frozen=True, kw_only=True)
class ObjectSection:
    """What the section shows.

    Attributes:
        head: for the head of the page.
        num_images: that were measured.
        narrow: that intervals are of too few images, or empty.
        groups: of each group of objects: its name, its counts in words, rows (metric, note, mean, interval, median,
            pooled, lowest, highest).
        curve, counts, spread, by_size, overlap: charts; empty where there is nothing to draw.
        bars: (title, shares (kind, percent)) of labelled and predicted objects.
        kinds: per kind its name, its labelled and predicted objects in words, what it means.
        worst, images: the worst images, and all of them, the worst first: case, fold, F1, AP, labelled, predicted,
            errors in words.
        hints: images in which something looks wrong, and what was left out.
    """

    head: ObjectHead
    num_images: int
    narrow: str
    groups: tuple[tuple[str, str, tuple[tuple[str, ...], ...]], ...]
    curve: Markup
    counts: Markup
    spread: Markup
    by_size: Markup
    overlap: Markup
    bars: tuple[tuple[str, tuple[tuple[str, float], ...]], ...]
    kinds: tuple[tuple[str, str, str], ...]
    worst: tuple[tuple[str, ...], ...]
    images: tuple[tuple[str, ...], ...]
    hints: tuple[str, ...]


def object_section(material: Material) -> ObjectSection | None:
    """Lay out the objects; None where none were measured."""
    results = material.instances
    if results is None or not results.comparison.cases:
        return None
    comparison, rows = results.comparison, image_rows(results)
    unit, values = length_unit(material), [row.f1 for row in rows if row.f1 is not None]
    bins = object_charts.size_bins(np.array([value for item in results.objects for value in item.label_diameters]))
    listed = _image_cells(material, [row for row in reversed(rows) if row.f1 is not None])
    return ObjectSection(
        head=_head(material, comparison),
        num_images=len(comparison.cases),
        narrow=narrow_text(len(values)),
        groups=tuple(_group(comparison, group) for group in comparison.totals),
        curve=object_charts.threshold_curve(comparison),
        counts=object_charts.count_chart(rows),
        spread=histogram(values, "F1 @ 0.5 of an image", f"{len(values)} images by F1") if values else Markup(""),
        by_size=object_charts.kinds_by_size(results, bins, unit) if bins is not None else Markup(""),
        overlap=object_charts.overlap_by_size(results, bins, unit) if bins is not None else Markup(""),
        **_kinds(results, rows),
        worst=listed[:NUM_WORST],
        images=listed[:MAX_ROWS],
        hints=(*comparison.hints, *comparison.problems, *comparison.notes),
    )


def mean_of_metric(results: InstanceResults | None, name: str) -> Interval | None:
    """Give the mean of a metric over images, of all objects; None where it was not measured."""
    comparison = results.comparison if results is not None else None
    if comparison is None or name not in comparison.metrics or not comparison.totals:
        return None
    return comparison.totals[0].metrics[comparison.metrics.index(name)].mean


def _head(material: Material, comparison: InstanceComparison) -> ObjectHead:
    total = comparison.totals[0]
    others: list[Bar] = []
    for measure, summary in zip(parse_instance_metrics(comparison.metrics), total.metrics, strict=True):
        wanted = measure.name != MAIN and measure.metric.better == "higher"
        if wanted and summary.mean is not None and len(others) < IN_HEAD:
            others.append(Bar(name=measure.title, value=number(summary.mean.mean), fill=summary.mean.mean))
    main = mean_of_metric(material.instances, MAIN)
    return ObjectHead(
        title="mean F1 @ 0.5, out of fold",
        value="–" if main is None else number(main.mean),
        interval=_ends(main, 3),
        others=tuple(others),
        labelled=f"{total.num_labelled:,}",
        predicted=f"{total.num_predicted:,}",
        decode=settings_text(material),
    )


def _group(comparison: InstanceComparison, group: GroupSummary) -> tuple[str, str, tuple[tuple[str, ...], ...]]:
    pairs = zip(parse_instance_metrics(comparison.metrics), group.metrics, strict=True)
    counts = f"{count(group.num_labelled, 'object')} labelled, {group.num_predicted:,} predicted"
    return group.group, counts, tuple(_metric_row(measure, summary) for measure, summary in pairs)


def _metric_row(measure: InstanceMeasure, summary: InstanceSummary) -> tuple[str, ...]:
    digits = DIGITS[measure.metric.unit]
    values = (summary.median, summary.pooled, summary.lowest, summary.highest)
    mean = _value(None if summary.mean is None else summary.mean.mean, digits)
    note = DIRECTIONS[measure.metric.better]
    return (measure.title, note, mean, _ends(summary.mean, digits), *(_value(value, digits) for value in values))


def _value(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:,.{digits}f}".replace("-", "\u2212")


def _ends(interval: Interval | None, digits: int) -> str:
    if interval is None or interval.num_cases < 2:
        return ""
    gap = " to " if interval.low < 0 else "–"
    return f"{_value(interval.low, digits)}{gap}{_value(interval.high, digits)}"


def _kinds(results: InstanceResults, rows: tuple[ImageRow, ...]) -> dict[str, Any]:
    """Lay out what became of the objects, as bars and as a table; nothing where that was not kept."""
    if not results.objects:
        return {"bars": (), "kinds": ()}
    labelled, predicted = kind_counts(rows)
    totals = labelled.total(), predicted.total()
    table = []
    for kind in KINDS:
        words = [f"{labelled[kind]:,} labelled ({share(labelled[kind], totals[0])})"] if kind in LABEL_KINDS else []
        if kind in PREDICTION_KINDS:
            words.append(f"{predicted[kind]:,} predicted ({share(predicted[kind], totals[1])})")
        table.append((kind, ", ".join(words), MEANINGS[kind]))
    bars = []
    for title, counts, total in (("labelled", labelled, totals[0]), ("predicted", predicted, totals[1])):
        shares = tuple((kind, 100 * counts[kind] / total) for kind in KINDS if counts[kind])
        bars.append((f"{total:,} {title}", shares))
    return {"bars": tuple(bars), "kinds": tuple(table)}


def _image_cells(material: Material, rows: list[ImageRow]) -> tuple[tuple[str, ...], ...]:
    fold_of = material.fold_of_case
    return tuple(
        (
            row.case,
            fold_of.get(row.case, "–"),
            number(row.f1),
            number(row.ap),
            str(row.num_labelled),
            str(row.num_predicted),
            row.errors if row.labelled or row.predicted else "–",
        )
        for row in rows
    )
