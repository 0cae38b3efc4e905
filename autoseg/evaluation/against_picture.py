"""A comparison of two sets of predictions as a picture: every case a dot, sorted, one panel per structure.

The picture stands alone (no style sheet, no script, no font), is as wide as a phone and can be made larger, tells the
two sides apart by shape and place as well as by colour, and says in its description what it shows.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from autoseg.data.check_problem import count
from autoseg.evaluation.against import Against, Comparison
from autoseg.evaluation.against_text import digits_of, leading, signed, title
from autoseg.evaluation.metrics import parse_metric

WIDTH = 390  # user units: the pixels of a phone's width, so that text keeps its size there
SIDE = 16
HEAD, PANEL_HEAD, PANEL_FOOT, AXIS = 62, 40, 18, 62
DOTS_HEIGHT, STEP = 200.0, 9.0  # of a panel's dots, and from dot to dot where there is room
FAR = 6.0
"""A case further away than this many times the third quartile of all distances is drawn at the edge with its number:
else one failure would press all others into a line (assumption)."""
NAME_LENGTH = 26  # characters of a case's name
CHARACTER = 6.4  # user units of a small character, on average (assumption)

FIRST, SECOND, INK, SOFT, RULE = "#0072b2", "#d55e00", "#1c1f24", "#5b616a", "#cfcbc2"
"""Blue and vermilion of Okabe & Ito 2008, told apart with every common colour blindness."""

STYLE = (
    "text{font:13px system-ui,-apple-system,'Segoe UI',Roboto,'Liberation Sans',Arial,sans-serif;"
    f"fill:{INK};paint-order:stroke;stroke:#fff;stroke-width:3px}}"
    f".b{{font-weight:650}}.s{{fill:{SOFT};font-size:12px}}.e{{text-anchor:end}}.m{{text-anchor:middle}}"
)


@dataclass(frozen=True, kw_only=True)
class _Panel:
    """One structure: its comparison, and its cases with a difference, the highest first."""

    row: Comparison
    points: tuple[tuple[float, str], ...]

    @property
    def step(self) -> float:
        return min(DOTS_HEIGHT / max(len(self.points), 1), STEP)

    @property
    def height(self) -> float:
        return PANEL_HEAD + self.step * max(len(self.points), 2) + PANEL_FOOT


@dataclass(frozen=True, kw_only=True)
class _Scale:
    """Where a difference stands across the picture; what lies beyond the ends stands at them."""

    low: float
    high: float

    def holds(self, value: float) -> bool:
        return self.low <= value <= self.high

    def x(self, value: float) -> float:
        inside = min(max(value, self.low), self.high)
        return SIDE + (inside - self.low) / (self.high - self.low) * (WIDTH - 2 * SIDE)


def draw(found: Against) -> str:
    """Draw the leading metric's differences: the mean over structures first, then each structure.

    Returns:
        SVG; a picture that says so where there is nothing to draw.
    """
    index = leading(found)
    if index is None:
        return _svg(
            80,
            "No difference to draw",
            "The two sets have no value in common.",
            [_text(SIDE, 46, "no difference to draw")],
        )
    measure = parse_metric(found.metrics[index])
    digits, higher = digits_of(measure), measure.metric.better == "higher"
    panels = _panels(found, index)
    scale = _scale(panels, found.margin if not measure.metric.unit else 0.0)
    parts = [_text(SIDE, 24, f"{title(measure)}: A − B, case by case", "b")]
    for y, letter, name in ((42, "A", found.first), (58, "B", found.second)):
        parts.append(_text(SIDE, y, letter if name == letter else f"{letter}  {_short(name, 48)}", "s"))
    top = float(HEAD)
    for panel in panels:
        margin = None if panel.row.non_inferior is None else (-found.margin if higher else found.margin)
        parts += _panel(panel, top, scale, digits, higher, margin)
        top += panel.height
    parts += _axis(scale, top, higher)
    parts.append(_text(SIDE, top + 55, _key(panels), "s"))
    return _svg(
        top + AXIS, f"{title(measure)} of A minus B, case by case", _describe(found, panels, digits, higher), parts
    )


def _panels(found: Against, index: int) -> list[_Panel]:
    rows = found.rows[index]
    order = [len(rows) - 1, *range(len(rows) - 1)] if len(rows) > len(found.structures) else range(len(rows))
    panels = []
    for place in order:
        if rows[place].difference is None:
            continue
        values = [
            (case.mean[index] if place == len(found.structures) else case.differences[place][index], case.case)
            for case in found.cases
        ]
        points = sorted(
            ((value, name) for value, name in values if value is not None), key=lambda item: (-item[0], item[1])
        )
        panels.append(_Panel(row=rows[place], points=tuple(points)))
    return panels


def _scale(panels: Sequence[_Panel], margin: float) -> _Scale:
    """Choose the ends of the axis: zero, all intervals and the margin lie within, and all cases but those far off."""
    sizes = sorted(abs(value) for panel in panels for value, _ in panel.points)
    far = FAR * sizes[3 * len(sizes) // 4]
    limit = sizes[-1] if far == 0 or sizes[-1] <= 1.5 * far else far
    ends = [0.0, -margin, margin]
    for panel in panels:
        if panel.row.difference is not None:
            ends += [panel.row.difference.low, panel.row.difference.high]
        ends += [min(max(value, -limit), limit) for value, _ in panel.points]
    low, high = min(ends), max(ends)
    room = 0.04 * (high - low) or 0.5
    return _Scale(low=low - room, high=high + room)


def _panel(panel: _Panel, top: float, scale: _Scale, digits: int, higher: bool, margin: float | None) -> list[str]:
    difference = panel.row.difference
    assert difference is not None
    first, last = top + PANEL_HEAD, top + panel.height - PANEL_FOOT
    interval = (
        f"{signed(difference.mean, digits)} ({signed(difference.low, digits)} … {signed(difference.high, digits)})"
    )
    low, middle, high = (scale.x(value) for value in (difference.low, difference.mean, difference.high))
    upright = f"{first - 5:.1f}V{last + 9:.1f}"
    parts = [
        f'<path d="M{SIDE} {top + 8:.1f}H{WIDTH - SIDE}" stroke="{RULE}"/>',
        _text(SIDE, top + 27, _short(panel.row.structure, 20, from_end=True), "b"),
        _text(WIDTH - SIDE, top + 27, interval, "s e"),
        f'<path d="M{low:.1f} {upright}H{max(high, low + 1):.1f}V{first - 5:.1f}z" fill="{RULE}" opacity="0.45"/>',
        f'<path d="M{scale.x(0):.1f} {upright}" stroke="{INK}"/>',
        f'<path d="M{middle:.1f} {upright}" stroke="{SOFT}" stroke-dasharray="1 3" stroke-width="2"/>',
    ]
    if margin is not None:
        parts.append(f'<path d="M{scale.x(margin):.1f} {upright}" stroke="{SOFT}" stroke-dasharray="5 3"/>')
    for index, (value, case) in enumerate(panel.points):
        parts.append(_dot(scale, value, first + (index + 0.5) * panel.step, case, digits, higher))
    return [*parts, *_ends(panel, first, scale, digits)]


def _dot(scale: _Scale, value: float, y: float, case: str, digits: int, higher: bool) -> str:
    """A case: a blue disc where A is better, a vermilion diamond where B is, a ring where equal; far off an arrow."""
    x, said = scale.x(value), f"<title>{escape(case)}: {signed(value, digits)}</title>"
    color = FIRST if (value > 0) == higher else SECOND
    if not scale.holds(value):
        way = 1 if value > 0 else -1
        return f'<path d="M{x + 4 * way:.1f} {y:.1f}l{-9 * way} -4.5v9z" fill="{color}">{said}</path>'
    if value == 0:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="#fff" stroke="{SOFT}" stroke-width="1.5">{said}</circle>'
    if color == FIRST:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{color}" fill-opacity="0.8">{said}</circle>'
    corner = f"M{x:.1f} {y - 4.5:.1f}l4.5 4.5l-4.5 4.5l-4.5 -4.5z"
    return f'<path d="{corner}" fill="{color}" fill-opacity="0.85">{said}</path>'


def _ends(panel: _Panel, first: float, scale: _Scale, digits: int) -> list[str]:
    """Name the cases at both ends, beyond zero or before it, as their rows are free there; number those far off."""
    parts = []
    for way, index in ((1, 0), (-1, len(panel.points) - 1)):
        value, case = panel.points[index]
        if value * way <= 0:
            continue
        y, zero = first + (index + 0.5) * panel.step + 4, scale.x(0)
        needed = min(len(case), NAME_LENGTH) * CHARACTER
        beyond, between = zero - SIDE if way > 0 else WIDTH - SIDE - zero, abs(scale.x(value) - zero) - 16
        if needed <= beyond or (needed <= between and scale.holds(value)):
            x = zero - 7 * way if needed <= beyond else scale.x(value) - 9 * way
            parts.append(_text(x, y, _short(case, NAME_LENGTH), "s e" if way > 0 else "s"))
        num_far = sum(other * way > 0 and not scale.holds(other) for other, _ in panel.points)
        if num_far:
            number = signed(value, digits) + (f" ({num_far} far off)" if num_far > 1 else "")
            parts.append(_text(scale.x(value) - 9 * way, y, number, "s e" if way > 0 else "s"))
    return parts


def _key(panels: Sequence[_Panel]) -> str:
    margin = any(panel.row.non_inferior is not None for panel in panels)
    return "band: 95 % interval of the mean (dotted)" + ("; dashed: margin" if margin else "")


def _axis(scale: _Scale, top: float, higher: bool) -> list[str]:
    parts = [f'<path d="M{SIDE} {top:.1f}H{WIDTH - SIDE}" stroke="{INK}"/>']
    for tick in _ticks(scale):
        x = scale.x(tick)
        parts.append(f'<path d="M{x:.1f} {top:.1f}v4" stroke="{INK}"/>')
        parts.append(
            _text(min(max(x, 20), WIDTH - 20), top + 17, f"{tick:+g}".replace("-", "−") if tick else "0", "s m")
        )
    left, right = ("B better", "A better") if higher else ("A better", "B better")
    colors, marks = {left: SECOND, right: FIRST}, {"A better": "●", "B better": "◆"}
    if not higher:
        colors = {left: FIRST, right: SECOND}
    parts.append(_text(SIDE, top + 35, f"← {marks[left]} {left}", "b", colors[left]))
    parts.append(_text(WIDTH - SIDE, top + 35, f"{right} {marks[right]} →", "b e", colors[right]))
    return parts


def _ticks(scale: _Scale) -> list[float]:
    """Round numbers along the axis, about five."""
    rough = (scale.high - scale.low) / 5
    unit = 10 ** math.floor(math.log10(rough))
    step = next(factor * unit for factor in (1, 2, 5, 10) if factor * unit >= rough)
    return [round(index * step, 12) for index in range(math.ceil(scale.low / step), math.floor(scale.high / step) + 1)]


def _describe(found: Against, panels: Sequence[_Panel], digits: int, higher: bool) -> str:
    """Say in words what the picture shows: its alternative text."""
    said = [f"A is {found.first}, B is {found.second}; {count(len(found.cases), 'case')}."]
    for panel in panels:
        difference = panel.row.difference
        assert difference is not None
        better = sum((value > 0) == higher and value != 0 for value, _ in panel.points)
        worse = sum((value > 0) != higher and value != 0 for value, _ in panel.points)
        said.append(
            f"{panel.row.structure}: mean difference {signed(difference.mean, digits)}, 95 % interval "
            f"{signed(difference.low, digits)} to {signed(difference.high, digits)}; A better in {better}, "
            f"B in {worse} of {count(len(panel.points), 'case')}."
        )
    return " ".join(said)


def _svg(height: float, heading: str, description: str, parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" '
        f'height="{height:.0f}" role="img">\n'
        f"<title>{escape(heading)}</title>\n<desc>{escape(description)}</desc>\n"
        f"<style>{STYLE}</style>\n"
        f'<rect width="{WIDTH}" height="{height:.0f}" fill="#fff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _text(x: float, y: float, content: str, kind: str = "", color: str = "") -> str:
    style = f' style="fill:{color}"' if color else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}"{style}>{escape(content)}</text>'


def _short(text: str, length: int, from_end: bool = False) -> str:
    """Cut a text; at its beginning, because the names of folders and cases differ at their end, or at its end."""
    if len(text) <= length:
        return text
    return text[: length - 1] + "…" if from_end else "…" + text[1 - length :]
