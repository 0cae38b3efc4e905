"""Axes: a plane of two scales, even or logarithmic, that charts draw their points and lines into."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from autoseg.report.charts import number_text, svg, ticks

WIDTH, HEIGHT = 320, 230  # user units; about the pixels of a phone's width, so that text keeps its size there
LEFT, RIGHT, TOP, BOTTOM = 40, 12, 26, 38
DECADES = (1.0, 2.0, 5.0)


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One scale: its ends, what it measures, whether equal ratios are equally far apart."""

    low: float
    high: float
    label: str
    logarithmic: bool = False

    def fraction(self, value: float) -> float:
        """Where a value lies between the ends (0 … 1), never beyond them."""
        if self.logarithmic:
            low, high = math.log(self.low), math.log(self.high)
            found = (math.log(max(value, self.low)) - low) / (high - low)
        else:
            found = (value - self.low) / (self.high - self.low)
        return min(max(found, 0.0), 1.0)

    def ticks(self) -> list[float]:
        """Round numbers between the ends; of a logarithmic axis powers of ten, or more where these are few."""
        if not self.logarithmic:
            return ticks(self.low, self.high)
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        powers = [10.0**power for power in range(first, last + 1)]
        found = [value for value in powers if self.low <= value <= self.high]
        if len(found) < 3:
            more = [factor * power for power in powers for factor in DECADES]
            found = [value for value in more if self.low <= value <= self.high]
        return found if len(found) >= 3 else ticks(self.low, self.high)


def around(values: Sequence[float], label: str, *, logarithmic: bool = False) -> Axis:
    """Make an axis that holds all values with a little room at both ends."""
    low, high = min(values), max(values)
    if logarithmic:
        factor = max((high / low) ** 0.05, 1.1)
        return Axis(low=low / factor, high=high * factor, label=label, logarithmic=True)
    pad = (high - low) * 0.05 or max(abs(low) * 0.05, 0.05)
    return Axis(low=low - pad, high=high + pad, label=label)


@dataclass(frozen=True, kw_only=True)
class Plane:
    """Two axes, as a drawing: places of points, and the frame around them."""

    x: Axis
    y: Axis

    def place(self, x: float, y: float) -> str:
        """Write where a point lies, for an SVG path."""
        across = LEFT + self.x.fraction(x) * (WIDTH - LEFT - RIGHT)
        down = HEIGHT - BOTTOM - self.y.fraction(y) * (HEIGHT - TOP - BOTTOM)
        return f"{across:.1f} {down:.1f}"

    def dots(self, points: Sequence[tuple[float, float]], style: str = "dots") -> str:
        """Draw points as round dots."""
        return f'<path class="{style}" d="{"".join(f"M{self.place(x, y)}h0" for x, y in points)}"/>'

    def line(self, points: Sequence[tuple[float, float]], style: str, title: str = "") -> str:
        """Draw a line through points."""
        text = f"<title>{escape(title)}</title>" if title else ""
        path = "L".join(self.place(x, y) for x, y in points)
        return f'<path class="{escape(style)}" d="M{path}">{text}</path>'

    def area(self, low: Sequence[tuple[float, float]], high: Sequence[tuple[float, float]], style: str) -> str:
        """Fill what lies between two lines of points in equal order."""
        path = "L".join(self.place(x, y) for x, y in (*low, *reversed(high)))
        return f'<path class="{style}" d="M{path}z"/>'

    def drawing(self, parts: Sequence[str], description: str) -> Markup:
        """Put the frame around what was drawn: grid, numbers, labels."""
        frame, right, base = [], WIDTH - RIGHT, HEIGHT - BOTTOM
        for tick in self.y.ticks():
            y = base - self.y.fraction(tick) * (base - TOP)
            frame.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{right}"/>')
            frame.append(f'<text class="tick end" x="{LEFT - 5}" y="{y + 4:.1f}">{number_text(tick)}</text>')
        for tick in self.x.ticks():
            x = LEFT + self.x.fraction(tick) * (right - LEFT)
            frame.append(f'<path class="grid" d="M{x:.1f} {base}v4"/>')
            frame.append(f'<text class="tick middle" x="{x:.1f}" y="{base + 16}">{number_text(tick)}</text>')
        ends = [
            f'<path class="axis" d="M{LEFT} {base}H{right}"/>',
            f'<text class="tick end" x="{right}" y="{HEIGHT - 5}">{escape(self.x.label)}</text>',
            f'<text class="tick" x="2" y="13">{escape(self.y.label)}</text>',
        ]
        return svg((WIDTH, HEIGHT), description, [*frame, *parts, *ends], kind="chart panel")
