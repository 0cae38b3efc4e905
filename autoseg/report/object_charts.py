"""Object charts: curves over IoU thresholds, what became of objects by their size, counts against counts."""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

from autoseg.evaluation.instance_errors import RIGHT
from autoseg.evaluation.instance_records import InstanceComparison, ObjectScores
from autoseg.evaluation.instance_results import InstanceResults
from autoseg.report.axes import Axis, Plane
from autoseg.report.charts import BOTTOM, HEIGHT, LEFT, TOP, WIDTH, number_text, svg
from autoseg.report.charts import RIGHT as MARGIN
from autoseg.report.object_facts import LABEL_KINDS, ImageRow, average_precision, f1

MAX_BINS = 8  # of sizes: a phone shows the numbers of so many
OBJECTS_PER_BIN = 10  # assumption: of fewer objects a share says little
TAILS = (0.02, 0.98)  # quantiles between which bins are even; the outermost bins take what lies beyond
MAX_DOTS = 400  # images of one chart; more would cover each other
WIDE_RATIO = 12.0  # counts that differ by more are drawn on logarithmic axes
BAR_GAP = 3.0  # user units


@dataclass(frozen=True, kw_only=True, eq=False)
class SizeBins:
    """Objects of the label, sorted by diameter into bins of equal ratio.

    Attributes:
        edges: of the bins, one more than there are bins; the outermost bins hold all that lies beyond.
        members: per bin the objects, as places in the lists of all.
    """

    edges: tuple[float, ...]
    members: tuple[np.ndarray, ...]


def threshold_curve(comparison: InstanceComparison) -> Markup:
    """Draw the mean AP and F1 over images at every IoU threshold."""
    thresholds = comparison.thresholds
    scores = [case.scores[0] for case in comparison.cases]
    plane = Plane(
        x=Axis(low=thresholds[0], high=thresholds[-1], label="IoU that counts as found"),
        y=Axis(low=0.0, high=1.0, label="mean over images"),
    )
    parts, words = [], []
    for name, style, measure in (("F1", "train", f1), ("AP", "validation", average_precision)):
        points = _means(scores, thresholds, measure)
        if points:
            parts += [plane.line(points, f"line curve {style}", name), plane.dots(points, f"points small {style}")]
            words.append(f"{name} {', '.join(f'{x:g}: {y:.3f}' for x, y in points)}")
    return plane.drawing(parts, "AP and F1 by IoU threshold; " + "; ".join(words)) if parts else Markup("")


def _means(
    scores: Sequence[ObjectScores],
    thresholds: Sequence[float],
    measure: Callable[[ObjectScores, int], float | None],
) -> list[tuple[float, float]]:
    points = []
    for place, threshold in enumerate(thresholds):
        values = [value for item in scores if (value := measure(item, place)) is not None]
        if values:
            points.append((threshold, statistics.fmean(values)))
    return points


def size_bins(diameters: np.ndarray) -> SizeBins | None:
    """Sort objects by diameter into bins; None where there are none."""
    if not diameters.size:
        return None
    low, high = (float(value) for value in np.quantile(diameters, TAILS))
    wanted = min(max(len(diameters) // OBJECTS_PER_BIN, 1), MAX_BINS)
    count = wanted if high > 1.05 * low > 0 else 1
    edges = np.geomspace(low, high, count + 1) if count > 1 else np.array([diameters.min(), diameters.max()])
    place = np.clip(np.searchsorted(edges, diameters, side="right") - 1, 0, count - 1)
    return SizeBins(
        edges=tuple(float(value) for value in edges),
        members=tuple(np.flatnonzero(place == index) for index in range(count)),
    )


def kinds_by_size(results: InstanceResults, bins: SizeBins, unit: str) -> Markup:
    """Draw what share of the labelled objects of each size is right, merged, split, missed; counts above."""
    kinds = np.array([kind for item in results.objects for kind in item.label_errors])
    base, scale = HEIGHT - BOTTOM, HEIGHT - TOP - BOTTOM
    parts = _frame(bins, [(0.0, "0"), (0.5, "0.5"), (1.0, "1")], (0.0, 1.0), unit)
    words = []
    for index, members in enumerate(bins.members):
        left, width = _column(bins, index)
        top, between = float(base), _range(bins, index, unit)
        counts = [(kind, int((kinds[members] == kind).sum())) for kind in LABEL_KINDS]
        for kind, count in counts:
            height = scale * count / max(len(members), 1)
            top -= height
            if count:
                parts.append(
                    f'<rect class="kind {kind}" x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" '
                    f'height="{height:.1f}"><title>{escape(between)}: {count} of {len(members)} {kind}</title></rect>'
                )
        parts.append(f'<text class="count middle" x="{left + width / 2:.1f}" y="{TOP - 5}">{len(members) or ""}</text>')
        if len(members):
            words.append(f"{between}: {counts[0][1]} of {len(members)} {RIGHT}")
    parts.append('<text class="tick" x="4" y="10">objects</text>')
    return svg((WIDTH, HEIGHT), "What became of labelled objects by diameter; " + "; ".join(words), parts)


def overlap_by_size(results: InstanceResults, bins: SizeBins, unit: str) -> Markup:
    """Draw the IoU of the objects that were found, by their diameter: median and quartiles."""
    overlaps = np.array([value for item in results.objects for value in item.label_iou])
    is_right = np.array([kind == RIGHT for item in results.objects for kind in item.label_errors], dtype=bool)
    found = [overlaps[members[is_right[members]]] for members in bins.members]
    if not any(item.size for item in found):
        return Markup("")
    quartiles = [np.quantile(item, (0.25, 0.5, 0.75)) if item.size else None for item in found]
    low = min(0.5, math.floor(10 * min(float(item[0]) for item in quartiles if item is not None)) / 10)
    base, scale = HEIGHT - BOTTOM, (HEIGHT - TOP - BOTTOM) / (1 - low)
    parts, words = _frame(bins, [(low + step * (1 - low) / 5,) * 2 for step in range(6)], (low, 1.0), unit), []
    for index, item in enumerate(quartiles):
        if item is None:
            continue
        left, width = _column(bins, index)
        first, middle, last = (base - (float(value) - low) * scale for value in item)
        text = f"{_range(bins, index, unit)}: median {item[1]:.2f}, quartiles {item[0]:.2f} and {item[2]:.2f}"
        x = left + width / 2
        parts.append(f'<path class="whisker" d="M{x:.1f} {first:.1f}V{last:.1f}"><title>{escape(text)}</title></path>')
        parts.append(f'<path class="knob" d="M{x:.1f} {middle:.1f}h0"/>')
        words.append(text)
    parts.append('<text class="tick" x="4" y="14">IoU of those found</text>')
    return svg((WIDTH, HEIGHT), "IoU of the objects found, by diameter; " + "; ".join(words), parts)


def _column(bins: SizeBins, index: int) -> tuple[float, float]:
    """Give left end and width of a bin's bar."""
    width = (WIDTH - LEFT - MARGIN) / len(bins.members)
    return LEFT + index * width + BAR_GAP / 2, width - BAR_GAP


def _frame(
    bins: SizeBins, ticks: Sequence[tuple[float, float | str]], ends: tuple[float, float], unit: str
) -> list[str]:
    """Draw grid and numbers: ticks (value, text) of the upright axis, and the edges of the bins."""
    base, scale = HEIGHT - BOTTOM, (HEIGHT - TOP - BOTTOM) / (ends[1] - ends[0])
    parts = []
    for value, text in ticks:
        y = base - (value - ends[0]) * scale
        word = text if isinstance(text, str) else number_text(round(text, 2))
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - MARGIN}"/>')
        parts.append(f'<text class="tick end" x="{LEFT - 6}" y="{y + 4:.1f}">{word}</text>')
    width = (WIDTH - LEFT - MARGIN) / len(bins.members)
    inner = bins.edges[1:-1] if len(bins.members) > 1 else ()
    for index, edge in enumerate(inner, start=1):
        parts.append(
            f'<text class="tick middle" x="{LEFT + index * width:.1f}" y="{base + 16}">{size_text(edge)}</text>'
        )
    parts.append(f'<path class="axis" d="M{LEFT} {base}H{WIDTH - MARGIN}"/>')
    parts.append(f'<text class="tick end" x="{WIDTH - MARGIN}" y="{HEIGHT - 4}">diameter, {escape(unit)}</text>')
    return parts


def _range(bins: SizeBins, index: int, unit: str) -> str:
    low, high, last = bins.edges[index], bins.edges[index + 1], len(bins.members) - 1
    if last == 0:
        return f"{size_text(low)} to {size_text(high)} {unit}"
    if index == 0:
        return f"below {size_text(high)} {unit}"
    return f"{size_text(low)} {unit} and above" if index == last else f"{size_text(low)} to {size_text(high)} {unit}"


def size_text(value: float) -> str:
    """Write a length with two digits, of large ones all before the point."""
    return number_text(round(value) if value >= 10 else float(f"{value:.2g}"))


def count_chart(rows: Sequence[ImageRow]) -> Markup:
    """Draw how many objects each image holds against how many were predicted."""
    if not rows:
        return Markup("")
    points = sorted((float(row.num_labelled), float(row.num_predicted)) for row in rows)
    if len(points) > MAX_DOTS:
        points = [points[round(index * (len(points) - 1) / (MAX_DOTS - 1))] for index in range(MAX_DOTS)]
    low, high, is_wide = _count_ends([value for pair in points for value in pair])
    plane = Plane(
        x=Axis(low=low, high=high, label="objects labelled", logarithmic=is_wide),
        y=Axis(low=low, high=high, label="objects predicted", logarithmic=is_wide),
    )
    same = [(low, low), (high, high)]
    exact = sum(first == second for first, second in points)
    description = f"Objects labelled against predicted, {len(points)} images; in {exact} the counts are equal"
    return plane.drawing([plane.line(same, "ideal", "where the counts are equal"), plane.dots(points)], description)


def _count_ends(counts: Sequence[float]) -> tuple[float, float, bool]:
    """Give the ends of an axis of counts, and whether it is logarithmic; 0 stands at the lower end then."""
    most, least = max(counts), min((value for value in counts if value), default=1.0)
    return (0.8 * least, 1.25 * most, True) if most > WIDE_RATIO * least else (0.0, 1.05 * max(most, 1.0), False)
