"""Ways that take turns (A B A B …), and what their rounds say: medians with intervals, ratios of pairs. Not a script.

Whatever else happens on a machine then falls on all ways alike, and a ratio of two rounds of the same turn is worth
more than a ratio of two medians.
"""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence

CONFIDENCE = 0.93  # with five rounds the whole range has 0.9375
FIGURES = {"wall": "wall, s", "cpu": "CPU, s", "memory": "peak MB", "above": "MB above the start"}
Row = dict[str, float]
Rows = dict[str, list[Row]]


def take_turns(ways: Mapping[str, Callable[[int], Row]], rounds: int, warm: bool = True) -> Rows:
    """Run every way once per round, in turn.

    Args:
        ways: by name; each is given the number of the round and gives what it took.
        rounds: that count.
        warm: whether a round that does not count, number −1, goes before.
    """
    rows: Rows = {way: [] for way in ways}
    for turn in range(-1 if warm else 0, rounds):
        for way, run in ways.items():
            found = run(turn)
            rows[way] += [found] if turn >= 0 else []
    return rows


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Give the innermost order statistics that hold the median with at least ``CONFIDENCE`` (else the range).

    Source: the number of values below the median is binomial, whatever they are distributed like.
    """
    ordered, count = sorted(values), len(values)
    outside, low = 2 * 0.5**count, 0
    while 2 * low + 2 < count and outside + 2 * math.comb(count, low + 1) * 0.5**count <= 1 - CONFIDENCE:
        low += 1
        outside += 2 * math.comb(count, low) * 0.5**count
    return ordered[low], ordered[-1 - low]


def show(values: Sequence[float], digits: int) -> str:
    """Write the median, with its interval in brackets."""
    low, high = interval(values)
    return f"{statistics.median(values):.{digits}f} [{low:.{digits}f}–{high:.{digits}f}]"


def ratios(rows: Mapping[str, Sequence[Row]], figure: str, way: str, against: str) -> list[float]:
    """Divide what ``against`` took by what ``way`` took, round by round."""
    pairs = zip(rows[against], rows[way], strict=True)
    return [other[figure] / own[figure] for other, own in pairs]


def table(title: str, rows: Mapping[str, Sequence[Row]]) -> str:
    """Lay out what each way took as a table in Markdown; its ratios are of the first way to it."""
    first = next(iter(rows))
    figures = [figure for figure in FIGURES if figure in rows[first][0]]
    heads = [title, *(FIGURES[figure] for figure in figures), *(f"{figure} ×" for figure in figures)]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for way, found in rows.items():
        cells = []
        for figure in figures:
            values = [row[figure] for row in found]
            cells.append(show(values, decimals(statistics.median(values))))
        for figure in figures:
            cells.append("" if way == first else show(ratios(rows, figure, way, first), 2))
        lines.append(f"| {way} | {' | '.join(cells)} |")
    return "\n".join(lines)


def decimals(value: float) -> int:
    """Say how many decimals show three digits of a number; at most four."""
    return max(0, min(4, 2 - math.floor(math.log10(value)))) if value > 0 else 2
