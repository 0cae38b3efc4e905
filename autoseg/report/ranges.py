"""Ranges: values with confidence intervals as rows of a list; numbers are text, so that a phone shows them in full."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from autoseg.evaluation.metric_records import Interval
from autoseg.report.charts import number_text, ticks

SIGNED = "±"
"""Instead of a unit: a difference of scores, written with its sign."""

THIN_SPACE = "\u202f"
DASH = "\u2013"


@dataclass(frozen=True, kw_only=True)
class RangeRow:
    """One row: its name, the value, the interval in words, the drawing, and whether it is set apart."""

    name: str
    value: str
    interval: str
    drawing: Markup
    chosen: bool = False


@dataclass(frozen=True, kw_only=True)
class RangeList:
    """Rows on one scale.

    Attributes:
        title: what is shown.
        note: unit, and which way is better.
        rows: in order.
        low, high: the ends of the scale, as text.
    """

    title: str
    note: str
    rows: tuple[RangeRow, ...]
    low: str
    high: str


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What a row shows: a name and an interval; None where there is no value."""

    name: str
    interval: Interval | None
    chosen: bool = False


def range_list(
    title: str, note: str, entries: Sequence[Entry], unit: str = "", limits: tuple[float, float] | None = None
) -> RangeList:
    """Lay out entries on one scale of round ends.

    Args:
        title, note: over the list.
        entries: one per row.
        unit: of the values: ``mm``, ``mm³``, ``SIGNED`` or empty.
        limits: the scale never goes beyond these, such as 0 and 1 of a Dice.
    """
    low, high = scale_of([item.interval for item in entries if item.interval is not None], limits)
    rows = tuple(
        RangeRow(
            name=item.name,
            value="absent" if item.interval is None else value_text(item.interval.mean, unit),
            interval=interval_text(item.interval, unit),
            drawing=draw_range(item, low, high, f"{title} of {item.name}", unit),
            chosen=item.chosen,
        )
        for item in entries
    )
    return RangeList(title=title, note=note, rows=rows, low=number_text(low), high=number_text(high))


def scale_of(intervals: Sequence[Interval], limits: tuple[float, float] | None = None) -> tuple[float, float]:
    """Choose round ends around all intervals, within the limits."""
    low, high = min((item.low for item in intervals), default=0.0), max((item.high for item in intervals), default=1.0)
    if limits is None:  # lengths, volumes and differences are judged by how far they are from nothing
        low, high = min(low, 0.0), max(high, 0.0)
    if high <= low:
        low, high = low - 0.05 * (abs(low) or 1.0), high + 0.05 * (abs(high) or 1.0)
    marks = ticks(low, high)
    step = marks[1] - marks[0] if len(marks) > 1 else high - low
    first = marks[0] if marks[0] <= low + 1e-9 * step else marks[0] - step
    last = marks[-1] if marks[-1] >= high - 1e-9 * step else marks[-1] + step
    if limits is not None:
        first, last = max(first, limits[0]), min(last, limits[1])
    return first, last if last > first else first + step


def draw_range(entry: Entry, low: float, high: float, description: str, unit: str = "") -> Markup:
    """Draw an interval as a line and its mean as a dot; stretched to the row's width, strokes keep theirs."""
    parts = ['<path class="grid" d="M0 5H100"/>']
    if low < 0 < high:
        parts.append(f'<path class="axis" d="M{-100 * low / (high - low):.1f} -3V13"/>')
    text = f"{description}: not defined"
    if entry.interval is not None:
        start, middle, stop = (
            100 * min(max((value - low) / (high - low), 0.0), 1.0)
            for value in (entry.interval.low, entry.interval.mean, entry.interval.high)
        )
        parts.append(f'<path class="whisker" d="M{start:.1f} 5H{stop:.1f}"/>')
        parts.append(f'<path class="knob" d="M{middle:.1f} 5h0"/>')
        text = f"{description}: {value_text(entry.interval.mean, unit)}"
        between = interval_text(entry.interval, unit)
        text += f", 95 % interval {between}" if between else ""
    opening = '<svg class="range" viewBox="0 0 100 10" preserveAspectRatio="none" role="img"'
    return Markup(f'{opening} aria-label="{escape(text)}">{"".join(parts)}</svg>')


def interval_text(interval: Interval | None, unit: str = "") -> str:
    """Write the two ends; empty where one case alone leaves no interval."""
    if interval is None or interval.num_cases < 2:
        return ""
    low, high = value_text(interval.low, unit), value_text(interval.high, unit)
    gap = " to " if interval.low < 0 or unit == SIGNED else DASH  # a sign beside a dash cannot be read
    return low if low == high else f"{low}{gap}{high}"


def value_text(value: float, unit: str = "") -> str:
    """Write a value: scores with three digits after the point, lengths and volumes with three significant ones."""
    if unit == SIGNED:
        return "0" if abs(value) < 5e-5 else f"{value:+.4f}".replace("-", "\u2212")
    if not unit:
        return f"{value:.3f}".replace("-", "\u2212")
    if value == 0:
        return "0"
    text = f"{value:#.3g}".rstrip(".")
    if "e" in text:
        text = f"{float(text):,.0f}".replace(",", THIN_SPACE) if abs(value) >= 1 else f"{value:.1e}"
    return text.replace("-", "\u2212")
