"""Memory of a process and its descendants over time, and its picture. Not a script."""

import os
import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from process_tree import Tree

from autoseg.data.io_write import write_text
from autoseg.report.charts import Chart, Series, line_chart

STYLES = ("c0", "c1", "c2", "c3")
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #5b616a; } .middle { text-anchor: middle; } .end { text-anchor: end; }
path { fill: none; } .grid, .axis { stroke: #b9b5ac; stroke-opacity: 0.6; } .line { stroke-width: 2; }
.c0 { stroke: #00679f; } .c1 { stroke: #b64d00; } .c2 { stroke: #3f7d3a; } .c3 { stroke: #7a4fa3; }
.limit { stroke: #a02020; stroke-dasharray: 5 4; stroke-width: 1.5; } text.name { font-size: 11px; stroke: none; }
text.c0 { fill: #00679f; } text.c1 { fill: #b64d00; } text.c2 { fill: #3f7d3a; } text.c3 { fill: #7a4fa3; }
@media (prefers-color-scheme: dark) { text { fill: #a3a8b0; } .c0 { stroke: #62b8ea; } .c1 { stroke: #f0964c; }
.c2 { stroke: #86c47f; } .c3 { stroke: #b695da; } .limit { stroke: #ee7b7b; } text.c0 { fill: #62b8ea; }
text.c1 { fill: #f0964c; } text.c2 { fill: #86c47f; } text.c3 { fill: #b695da; } }
"""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Memory of one command: points (seconds since its start, resident MB of the tree), and what it took in all."""

    name: str
    points: tuple[tuple[float, float], ...]
    wall_s: float
    cpu_s: float

    @property
    def peak_mb(self) -> float:
        return max(mb for _, mb in self.points)


def watch_command(
    name: str, command: Sequence[str], log: Path, *, every_s: float = 0.1, environment: Mapping[str, str] | None = None
) -> Curve:
    """Run a command to its end, and sample the memory of its process tree.

    Raises:
        SystemExit: it has failed; the end of its log is shown.
    """
    start, points = time.monotonic(), []
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env={**os.environ, **(environment or {})})
        tree, spent = Tree(process.pid), 0.0
        while process.poll() is None:
            points.append((time.monotonic() - start, tree.memory()))
            spent = max(spent, tree.cpu())
            time.sleep(every_s)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} has failed:\n{log.read_text()[-3000:]}")
    return Curve(name=name, points=tuple(points), wall_s=time.monotonic() - start, cpu_s=spent)


def write_picture(path: Path, description: str, curves: Sequence[Curve], limit_gb: float | None = None) -> None:
    """Draw curves of memory, each over the part of its own time, with a line where the limit lies."""
    series = [
        Series(name=curve.name, style=style, points=[(100 * s / curve.wall_s, mb / 1000) for s, mb in curve.points])
        for curve, style in zip(curves, STYLES, strict=False)
    ]
    top = max(curve.peak_mb for curve in curves) / 1000
    if limit_gb is not None:
        series.append(Series(name="limit", style="limit", points=[(0, limit_gb), (100, limit_gb)]))
        top = max(top, limit_gb)
    chart = Chart(
        description=description,
        x_label="% of the time it took",
        y_label="resident memory, GB",
        series=series,
        y_range=(0.0, 1.05 * top),
    )
    text = str(line_chart(chart))
    names = "".join(
        f'<text class="name end {style}" x="426" y="{204 - 14 * (len(curves) - 1 - row)}">{curve.name}: '
        f"{curve.wall_s:.0f} s, at most {curve.peak_mb / 1000:.2f} GB</text>"
        for row, (curve, style) in enumerate(zip(curves, STYLES, strict=False))
    )
    opening, rest = re.match(r"(<svg[^>]*)>(.*)", text, re.DOTALL).groups()
    space = "" if "xmlns=" in opening else ' xmlns="http://www.w3.org/2000/svg"'
    write_text(path, f"{opening}{space}><style>{STYLE}</style>{names}{rest}\n")
