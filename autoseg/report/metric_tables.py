"""Metric tables: surface distances, volumes and whatever else was measured, per structure with intervals."""

from dataclasses import dataclass

from autoseg.evaluation.metric_records import Interval, MetricTable
from autoseg.evaluation.metrics import METRICS, Metric
from autoseg.report.material import Material
from autoseg.report.ranges import Entry, RangeList, interval_text, range_list, value_text

LISTED = ("nsd", "hd95", "assd", "boundary_iou")
"""Shown as lists, in this order; what else was measured is in the table."""

EXPLAINED = {
    "nsd": "the share of both surfaces that lies within the protocol's tolerance of the other",
    "hd95": "the distance that 95 % of both surfaces lie within",
    "assd": "the mean distance between the surfaces",
    "boundary_iou": "the overlap of the bands along both boundaries",
}
"""What the listed metrics are, for those who do not know the abbreviations."""

MAX_ENTRIES = 12  # rows of a list; of more structures the worst are shown, all are in the table
MAX_ROWS = 130  # of the table: more structures than any public dataset has
IN_SCORES = ("dice", "iou")  # they stand in the table above

DIRECTIONS = {"higher": "higher is better", "lower": "lower is better", "zero": "zero is best", "neither": ""}


@dataclass(frozen=True, kw_only=True)
class MetricColumn:
    """The head of a column: the metric's name for people, what it is, its unit and direction."""

    title: str
    note: str


@dataclass(frozen=True, kw_only=True)
class MetricSection:
    """Lists of the main metrics and the table of all.

    Attributes:
        protocol: by whose rules was measured.
        lists: the main metrics.
        explained: of these, the title and what it is.
        hidden: structures left out of every list.
        columns: of the table.
        rows: a name and per column (value, interval), structures first, then the mean.
    """

    protocol: str
    lists: tuple[RangeList, ...]
    explained: tuple[tuple[str, str], ...]
    hidden: int
    columns: tuple[MetricColumn, ...]
    rows: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]


def metric_section(material: Material) -> MetricSection | None:
    """Lay out the metrics of what was chosen; None where nothing was measured."""
    table = material.metrics
    if table is None or not table.cases:
        return None
    shown = [index for index, name in enumerate(table.metrics) if base_name(name) not in IN_SCORES]
    listed = [index for wanted in LISTED for index in shown if base_name(table.metrics[index]) == wanted]
    rows = [
        (name, tuple(_cell(table, place, index) for index in shown))
        for place, name in list(enumerate(table.structures))[:MAX_ROWS]
    ]
    if len(table.structures) > 1:
        rows.append(("mean", tuple(_mean_cell(table, index) for index in shown)))
    return MetricSection(
        protocol=table.protocol,
        lists=tuple(_list(table, index) for index in listed),
        explained=tuple(
            (metric_title(name), EXPLAINED[base_name(name)]) for name in (table.metrics[i] for i in listed)
        ),
        hidden=max(len(table.structures) - MAX_ENTRIES, 0),
        columns=tuple(_column(table.metrics[index]) for index in shown),
        rows=tuple(rows),
    )


def base_name(name: str) -> str:
    """Give the metric's name without its parameter: ``nsd`` of ``nsd@2``."""
    return name.partition("@")[0]


def metric_of(name: str) -> Metric | None:
    """Find a metric by name; None for one that this version does not know."""
    return METRICS.get(base_name(name))


def metric_title(name: str) -> str:
    """Name a metric for people, with its tolerance where it has one."""
    metric, (_, at, tolerance) = metric_of(name), name.partition("@")
    title = metric.title if metric is not None else base_name(name)
    return f"{title} at {tolerance} mm" if at else title


def metric_note(name: str) -> str:
    """Say the unit of a metric and which way is better."""
    metric = metric_of(name)
    if metric is None:
        return ""
    return ", ".join(text for text in (metric.unit, DIRECTIONS.get(metric.better, "")) if text)


def _column(name: str) -> MetricColumn:
    return MetricColumn(title=metric_title(name), note=metric_note(name))


def _list(table: MetricTable, index: int) -> RangeList:
    metric = metric_of(table.metrics[index])
    unit, better = (metric.unit, metric.better) if metric is not None else ("", "higher")
    entries = [
        Entry(name=name, interval=table.by_structure[place][index]) for place, name in enumerate(table.structures)
    ]
    if len(entries) > MAX_ENTRIES:
        sign = -1 if better == "lower" else 1
        present = [item for item in entries if item.interval is not None]
        entries = sorted(present, key=lambda item: sign * (item.interval.mean if item.interval else 0.0))[:MAX_ENTRIES]
    limits = (0.0, 1.0) if not unit else None
    return range_list(metric_title(table.metrics[index]), metric_note(table.metrics[index]), entries, unit, limits)


def _cell(table: MetricTable, place: int, index: int) -> tuple[str, str]:
    return _texts(table, index, table.by_structure[place][index])


def _mean_cell(table: MetricTable, index: int) -> tuple[str, str]:
    return _texts(table, index, table.mean[index])


def _texts(table: MetricTable, index: int, interval: Interval | None) -> tuple[str, str]:
    metric = metric_of(table.metrics[index])
    unit = metric.unit if metric is not None else ""
    if interval is None:
        return "–", ""
    return value_text(interval.mean, unit), interval_text(interval, unit)
