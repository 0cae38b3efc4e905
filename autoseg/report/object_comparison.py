"""Object comparison: runs that tell objects apart, side by side and image by image."""

from collections.abc import Sequence
from dataclasses import dataclass

from autoseg.evaluation.instance_metrics import parse_instance_metrics
from autoseg.evaluation.metric_records import Interval
from autoseg.evaluation.overlap import mean_of
from autoseg.evaluation.statistics import paired_difference
from autoseg.report.material import Material
from autoseg.report.object_section import MAIN, mean_of_metric
from autoseg.report.paired import difference_row, verdict
from autoseg.report.ranges import SIGNED, Entry, RangeList, interval_text, range_list
from autoseg.report.score_tables import number

COMPARED = (MAIN, "ap@0.5", "ap@0.75", "pq")
"""Metrics of objects that stand side by side; each run's page has all of its own."""


@dataclass(frozen=True, kw_only=True)
class ObjectPair:
    """One run against another by its objects, on the images of both.

    Attributes:
        verdict: of the mean F1, in a sentence.
        list: differences per metric, drawn.
        rows: metric, first, second, difference, interval, p.
    """

    verdict: str
    list: RangeList
    rows: tuple[tuple[str, ...], ...]


def compared_metrics(materials: Sequence[Material]) -> tuple[str, ...]:
    """Name the metrics of objects that any of the runs has."""
    return tuple(name for name in COMPARED if any(mean_of_metric(item.instances, name) for item in materials))


def metric_titles(names: Sequence[str]) -> list[str]:
    """Name metrics for people."""
    return [f"mean {measure.title}" for measure in parse_instance_metrics(names)]


def metric_cells(material: Material, names: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Lay out the means of a run: value and interval; a dash where it has none."""
    found = [mean_of_metric(material.instances, name) for name in names]
    return tuple(("–", "") if item is None else (number(item.mean), interval_text(item)) for item in found)


def mean_f1(materials: Sequence[Material], names: Sequence[str]) -> RangeList | None:
    """Draw the mean F1 of each run; None where none has any."""
    found = [mean_of_metric(item.instances, MAIN) for item in materials]
    if not any(found):
        return None
    entries = [Entry(name=name, interval=item) for name, item in zip(names, found, strict=True)]
    return range_list("Mean F1 @ 0.5", "higher is better", entries, limits=(0.0, 1.0))


def side_by_side(
    materials: Sequence[Material], names: Sequence[str]
) -> tuple[tuple[str, tuple[tuple[str, str, bool], ...]], ...]:
    """Lay out each metric of every run: value, interval, whether it is the highest."""
    rows = []
    for name, title in zip(names, metric_titles(names), strict=True):
        found = [mean_of_metric(item.instances, name) for item in materials]
        highest = max((item.mean for item in found if item is not None), default=None)
        rows.append((title, tuple(_cell(item, highest) for item in found)))
    return tuple(rows)


def _cell(item: Interval | None, highest: float | None) -> tuple[str, str, bool]:
    return ("–", "", False) if item is None else (number(item.mean), interval_text(item), item.mean == highest)


def object_pair(first: Material, second: Material, names: tuple[str, str]) -> ObjectPair | None:
    """Compare the objects of two runs on the images that both have measured; None where one has none."""
    if first.instances is None or second.instances is None:
        return None
    entries, rows, sentence = [], [], ""
    for name in compared_metrics([first, second]):
        mine, theirs = _values(first, name), _values(second, name)
        pairs = [(mine[case], theirs[case]) for case in sorted(mine.keys() & theirs.keys())]
        found = paired_difference([value for _, value in pairs], [value for value, _ in pairs])
        means = mean_of(value for value, _ in pairs), mean_of(value for _, value in pairs)
        entry, row = difference_row(parse_instance_metrics([name])[0].title, found, means)
        entries.append(entry)
        rows.append(row)
        sentence = verdict(found, names, "mean F1 @ 0.5") if name == MAIN else sentence
    title, note = f"{names[1]} minus {names[0]}", "objects; right of the upright line the former is better"
    return ObjectPair(verdict=sentence, list=range_list(title, note, entries, SIGNED), rows=tuple(rows))


def _values(material: Material, name: str) -> dict[str, float]:
    """Give a metric of each image that has a value."""
    comparison = material.instances.comparison if material.instances is not None else None
    if comparison is None or name not in comparison.metrics:
        return {}
    place = comparison.metrics.index(name)
    values = ((case.case, case.scores[0].values[place]) for case in comparison.cases)
    return {case: value for case, value in values if value is not None}
