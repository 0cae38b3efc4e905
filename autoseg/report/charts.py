"""Charts: small inline SVG drawings that take their colours from the page's style sheet."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 440, 250  # user units; about the pixels of a phone's width, so that text keeps its size there
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 28, 36
MAX_POINTS = 240  # of one line: more than the pixels that a line has on a phone
STRIP_WIDTH, STRIP_HEIGHT = 200, 26
MAX_DOTS = 150  # of one strip: more would cover each other, and a hundred classes must fit the page
BINS = (20, 50, 100, 200, 500)  # bins between 0 and 1: the first that spreads the values over MIN_BINS is taken
MIN_BINS = 8
COUNT_WIDTH = 14  # user units; narrower bars have no number above them

Point = tuple[float, float | None]


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line: its name, its style class, and points (x, y); y is None where there is no value."""

    name: str
    style: str
    points: Sequence[Point]


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A line chart; without ``y_range`` the data decides. ``marks`` are upright lines: x, and what happened there."""

    description: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    y_range: tuple[float, float] | None = None
    marks: Sequence[tuple[float, str]] = ()


def line_chart(chart: Chart) -> Markup:
    """Draw lines over a grid."""
    values = [(x, y) for series in chart.series for x, y in series.points if y is not None and math.isfinite(y)]
    if not values:
        return Markup("")
    x_low, x_high = min(x for x, _ in values), max(x for x, _ in values)
    y_low, y_high = chart.y_range or _padded(min(y for _, y in values), max(y for _, y in values))
    if x_low == x_high:
        x_low, x_high = x_low - 0.5, x_high + 0.5
    x_scale = (WIDTH - LEFT - RIGHT) / (x_high - x_low)
    y_scale = (HEIGHT - TOP - BOTTOM) / (y_high - y_low)
    parts = []
    for tick in ticks(y_low, y_high):
        y = HEIGHT - BOTTOM - (tick - y_low) * y_scale
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text class="tick end" x="{LEFT - 6}" y="{y + 4:.1f}">{number_text(tick)}</text>')
    for tick in ticks(x_low, x_high, whole=True):
        x = LEFT + (tick - x_low) * x_scale
        parts.append(f'<path class="grid" d="M{x:.1f} {HEIGHT - BOTTOM}v4"/>')
        parts.append(f'<text class="tick middle" x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}">{number_text(tick)}</text>')
    for x, text in chart.marks:
        if x_low <= x <= x_high:
            x = LEFT + (x - x_low) * x_scale
            upright = f"M{x:.1f} {TOP}V{HEIGHT - BOTTOM}"
            parts.append(f'<path class="mark" d="{upright}"><title>{escape(text)}</title></path>')
    for series in chart.series:
        place = [
            None
            if y is None or not math.isfinite(y)
            else (LEFT + (x - x_low) * x_scale, HEIGHT - BOTTOM - (y - y_low) * y_scale)
            for x, y in thin(series.points)
        ]
        parts.append(
            f'<path class="line {escape(series.style)}" d="{_path(place)}"><title>{escape(series.name)}</title></path>'
        )
    parts.append(f'<path class="axis" d="M{LEFT} {HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>')
    parts.append(f'<text class="tick end" x="{WIDTH - RIGHT}" y="{HEIGHT - 4}">{escape(chart.x_label)}</text>')
    parts.append(f'<text class="tick" x="4" y="14">{escape(chart.y_label)}</text>')
    return svg((WIDTH, HEIGHT), chart.description, parts)


def histogram(values: Sequence[float], label: str, description: str) -> Markup:
    """Draw how many values (0 … 1) fall into each bin, from the bin of the lowest to 1."""
    lowest = min(values, default=0.0)
    num_bins = next((count for count in BINS if (1 - lowest) * count >= MIN_BINS), BINS[-1])
    first = min(int(lowest * num_bins + 1e-9), num_bins - MIN_BINS)
    counts = [0] * (num_bins - first)
    for value in values:
        counts[min(int(value * num_bins + 1e-9), num_bins - 1) - first] += 1
    width = (WIDTH - LEFT - RIGHT) / len(counts)
    scale = (HEIGHT - TOP - BOTTOM - 14) / max(*counts, 1)
    base, parts = HEIGHT - BOTTOM, []
    for index, count in enumerate(counts):
        x, low, height = LEFT + index * width, (first + index) / num_bins, count * scale
        high = low + 1 / num_bins
        parts.append(
            f'<rect class="bar" x="{x + 1:.1f}" y="{base - height:.1f}" width="{width - 2:.1f}" height="{height:.1f}">'
            f"<title>{low:.3g} to {high:.3g}: {count} cases</title></rect>"
        )
        if count and width > COUNT_WIDTH:
            parts.append(
                f'<text class="count middle" x="{x + width / 2:.1f}" y="{base - height - 5:.1f}">{count}</text>'
            )
    start = first / num_bins
    for tick in ticks(start, 1.0):
        x = LEFT + (tick - start) / (1 - start) * (WIDTH - LEFT - RIGHT)
        parts.append(f'<text class="tick middle" x="{x:.1f}" y="{base + 16}">{number_text(tick)}</text>')
    parts.append(f'<path class="axis" d="M{LEFT} {base}H{WIDTH - RIGHT}"/>')
    parts.append(f'<text class="tick end" x="{WIDTH - RIGHT}" y="{HEIGHT - 4}">{escape(label)}</text>')
    parts.append('<text class="tick" x="4" y="14">cases</text>')
    return svg((WIDTH, HEIGHT), description, parts)


def strip(values: Sequence[float], low: float, description: str) -> Markup:
    """Draw every value (of very many an even choice) as a dot between ``low`` and 1, with a tick at the median."""
    ordered = sorted(values)
    if not ordered:
        return Markup("")
    middle = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
    if len(ordered) > MAX_DOTS:
        ordered = [ordered[round(index * (len(ordered) - 1) / (MAX_DOTS - 1))] for index in range(MAX_DOTS)]
    scale = (STRIP_WIDTH - 12) / max(1.0 - low, 1e-9)
    rows = (0.5, 0.28, 0.72, 0.39, 0.61)  # neighbours lie on different heights, so that few dots cover each other
    dots = "".join(
        f"M{6 + (value - low) * scale:.1f} {rows[index % 5] * STRIP_HEIGHT:.1f}h0"
        for index, value in enumerate(ordered)
    )
    x = 6 + (middle - low) * scale
    parts = [
        f'<path class="grid" d="M6 {STRIP_HEIGHT - 1}H{STRIP_WIDTH - 6}"/>',
        f'<path class="dots" d="{dots}"/>',
        f'<path class="median" d="M{x:.1f} 2v{STRIP_HEIGHT - 4}"/>',
    ]
    return svg((STRIP_WIDTH, STRIP_HEIGHT), description, parts, kind="strip")


def thin(points: Sequence[Point]) -> list[Point]:
    """Average neighbours until at most MAX_POINTS are left."""
    if len(points) <= MAX_POINTS:
        return list(points)
    thinned: list[Point] = []
    edges = [round(index * len(points) / MAX_POINTS) for index in range(MAX_POINTS + 1)]
    for start, stop in itertools.pairwise(edges):
        group = points[start:stop]
        values = [y for _, y in group if y is not None and math.isfinite(y)]
        thinned.append((sum(x for x, _ in group) / len(group), sum(values) / len(values) if values else None))
    return thinned


def ticks(low: float, high: float, *, whole: bool = False, wanted: int = 5) -> list[float]:
    """Choose round numbers between two ends, about ``wanted`` of them."""
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    step = max(1.0, math.ceil(step)) if whole else step
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def _padded(low: float, high: float) -> tuple[float, float]:
    pad = (high - low) * 0.05 or max(abs(low) * 0.05, 0.05)
    return low - pad, high + pad


def number_text(value: float) -> str:
    """Write a round number as short as it is, with a true minus."""
    return f"{value:.10g}".replace("-", "−")


def _path(places: Sequence[tuple[float, float] | None]) -> str:
    text, pen_down = [], False
    for index, place in enumerate(places):
        if place is None:
            pen_down = False
            continue
        alone = not pen_down and (index + 1 == len(places) or places[index + 1] is None)
        text.append(f"{'L' if pen_down else 'M'}{place[0]:.1f} {place[1]:.1f}{'h0' if alone else ''}")
        pen_down = True
    return "".join(text)


def svg(size: tuple[int, int], description: str, parts: Sequence[str], kind: str = "chart") -> Markup:
    """Put the parts of a drawing together: its width and height in user units, and what it says in words."""
    width, height = size
    opening = f'<svg class="{kind}" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(description)}">'
    return Markup(opening + "".join(parts) + "</svg>")
