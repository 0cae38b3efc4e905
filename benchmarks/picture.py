"""Draw what the benchmarks have found: one picture for the README, and the tables of ``docs/performance.md``.

    python benchmarks/picture.py [--results benchmarks/results] [--picture docs/pictures/speed.svg]
                                 [--document docs/performance.md]

Reads every file that the scripts beside it have written. Run it after any of them; a test holds that picture and tables
are what the kept results say. A bar is the median of nnU-Net's rounds divided by autoseg's of the same turn, the line
across its end the order statistics that hold that median with at least 93 % confidence.
"""

import argparse
import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import results
from results import BUSY, Judged, Question, Result, ratio, reached
from turns import decimals, interval, show

PICTURE, DOCUMENT = results.ROOT / "docs" / "pictures" / "speed.svg", results.ROOT / "docs" / "performance.md"
START, END = "<!-- results: written by benchmarks/picture.py -->", "<!-- end of results -->"
ORDER = ("preprocessing", "resampling", "training", "prediction", "export", "startup")  # parts of scripts' names
WAYS = {
    "nnunet": "nnU-Net",
    "nnunet-bf16": "nnU-Net, bf16",
    "nnunet-torch": "nnU-Net, torch resampling",
    "nnunet-workers": "nnU-Net, its own processes",
}
FIGURES = {"wall": "time", "cpu": "processor time", "memory": "peak memory"}
UNITS = {"wall": "s", "cpu": "s", "memory": "MB"}
PACKAGES = (("nnunetv2", "nnU-Net"), ("torch", "torch"))
TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
WIDTH, LEFT, RIGHT, TOP, ROW, BAR = 840, 440, 72, 58, 22, 13  # user units; about the pixels of a README
STYLE = """<style>
text { font-family: ui-sans-serif, system-ui, "Segoe UI", Helvetica, Arial, sans-serif; font-size: 13px; }
text { fill: #1c1f24; }
.title { font-weight: 600; font-size: 15px; }
.quiet { fill: #5b616a; font-size: 12px; }
.end { text-anchor: end; }
.middle { text-anchor: middle; }
.grid { stroke: #d8d4cc; }
.one { stroke: #1c1f24; stroke-width: 1.5; }
.bar { fill: #0072b2; }
.memory { fill: #00835f; }
.void { fill: none; stroke: #b64d00; stroke-dasharray: 3 2; }
.range { stroke: #1c1f24; stroke-width: 1.5; fill: none; }
@media (prefers-color-scheme: dark) {
text { fill: #e9e7e2; }
.quiet { fill: #a3a8b0; }
.grid { stroke: #353b45; }
.one, .range { stroke: #e9e7e2; }
.bar { fill: #56b4e9; }
.memory { fill: #2fc79a; }
.void { stroke: #f0964c; }
}
</style>"""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One ratio with all that is said of it."""

    judged: Judged
    question: Question
    result: Result

    @property
    def values(self) -> list[float]:
        return ratio(self.judged, self.question)

    @property
    def holds(self) -> bool:
        return all(guard.holds for guard in self.question.guards)


def lines_of(found: Iterable[Result]) -> list[Line]:
    """Give every ratio that counts, in the order of the work."""

    def place(result: Result) -> tuple[int, str]:
        return next((at for at, part in enumerate(ORDER) if part in result.script), len(ORDER)), result.script

    return [
        Line(judged=judged, question=question, result=result)
        for result in sorted(found, key=place)
        for question in result.questions
        for judged in question.judged
    ]


# --------------------------------------------------------------------------------------------------------- picture


def draw(found: Sequence[Result]) -> str:
    """Draw all ratios as bars on a logarithmic axis that begin at 1."""
    lines = lines_of(found)
    if not lines:
        return ""
    ends = [end for line in lines for end in interval(line.values)]
    low, high = min(1.0, *ends) * 0.9, max(2.0, *ends) * 1.1
    scale = (WIDTH - LEFT - RIGHT) / math.log(high / low)
    bottom = TOP + ROW * len(lines)
    parts = [_text(8, 20, "How many times less than nnU-Net v2 autoseg takes", "title")]
    for tick in (tick for tick in TICKS if low <= tick <= high):
        x = LEFT + math.log(tick / low) * scale
        kind = "one" if tick == 1 else "grid"
        parts.append(f'<path class="{kind}" d="M{x:.1f} {TOP - 8}V{bottom}"/>')
        parts.append(_text(x, TOP - 14, f"{tick:g}×" if tick != 1 else "equal", "quiet middle"))
    for index, line in enumerate(lines):
        repeated = index > 0 and lines[index - 1].judged.title == line.judged.title
        parts += _bar(line, TOP + ROW * index, lambda value: LEFT + math.log(value / low) * scale, named=not repeated)
    for index, text in enumerate(_footer(found)):
        parts.append(_text(8, bottom + 22 + 17 * index, text, "quiet"))
    height = bottom + 22 + 17 * len(_footer(found)) - 6
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">'
    return "\n".join([head, STYLE, *parts, "</svg>"]) + "\n"


def _bar(line: Line, y: float, place: Callable[[float], float], *, named: bool) -> Iterator[str]:
    low, high = interval(line.values)
    median, middle = statistics.median(line.values), y + ROW / 2
    if named:
        yield _text(8, middle + 4, line.judged.title)
    against = f"{FIGURES[line.judged.figure]}, {WAYS.get(line.judged.against, line.judged.against)}"
    yield _text(LEFT - 14, middle + 4, against, "quiet end")
    start, stop = sorted((place(1.0), place(median)))
    kind = ("memory" if line.judged.figure == "memory" else "bar") if line.holds else "void"
    yield f'<rect class="{kind}" x="{start:.1f}" y="{middle - BAR / 2}" width="{stop - start:.1f}" height="{BAR}"/>'
    first, last = f"{place(low):.1f}", f"{place(high):.1f}"
    yield f'<path class="range" d="M{first} {middle}H{last}m0 -4v8M{first} {middle - 4}v8"/>'
    text = f"{median:.{min(decimals(median), 1)}f}×" + ("" if line.holds else " ?")
    yield _text(max(place(high), place(1.0)) + 7, middle + 4, text)


def _footer(found: Sequence[Result]) -> list[str]:
    machines = sorted(
        {f"{item.machine.cpu}, {item.machine.cores} cores, {item.machine.memory_gb:.0f} GB" for item in found}
    )
    versions = sorted(
        {f"{name} {item.versions[key]}" for item in found for key, name in PACKAGES if key in item.versions}
    )
    dates = sorted({item.date[:10] for item in found})
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    notes = ["Bars: medians of rounds in turn; lines across: at least 93 % confidence. More: docs/performance.md"]
    busy = max(item.load / item.machine.cores for item in found)
    if busy > BUSY:
        notes.append(f"Measured beside other work: up to {busy:.1f} processes per core at the start of a script")
    if not all(line.holds for line in lines_of(found)):
        notes.append("?: the answers were not equal enough to count")
    return [f"{'; '.join(machines)}; {', '.join(versions)}; {when}", *notes]


def _text(x: float, y: float, text: str, kind: str = "") -> str:
    return f'<text{f" class={chr(34)}{kind}{chr(34)}" if kind else ""} x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


# ---------------------------------------------------------------------------------------------------------- tables


def tables(found: Sequence[Result]) -> str:
    """Lay out all ratios, guards and circumstances in Markdown."""
    if not found:
        return "\nNothing has been measured yet.\n"
    rows = [
        "| what | figure | against | nnU-Net | autoseg | nnU-Net / autoseg | asked | |",
        "|---|---|---|---|---|---|---|---|",
        *(_row(line) for line in lines_of(found)),
    ]
    guards = [
        f"| {question.title} | {guard.what} | {guard.found} | {'holds' if guard.holds else '**does not hold**'} |"
        for result in found
        for question in result.questions
        for guard in question.guards
    ]
    notes = [
        f"* {question.title}: {' '.join(question.note.split())}"
        for result in found
        for question in result.questions
        if question.note
    ]
    runs = [
        f"| `{item.script}.py` | {item.date} | {item.commit} | {item.machine.cpu}, {item.machine.cores} cores, "
        f"{item.machine.memory_gb:.0f} GB, {'with' if item.machine.amx else 'without'} AMX | {item.load:.1f}, "
        f"{item.load_end:.1f} | {', '.join(f'{name} {version}' for name, version in item.versions.items())} |"
        for item in found
    ]
    head = ["| comparison | guard | found | |", "|---|---|---|---|"]
    circumstances = [
        "| results | start, UTC | commit | machine | load at start, end | versions |",
        "|---|---|---|---|---|---|",
    ]
    parts = [rows, [*head, *guards] if guards else [], notes, [*circumstances, *runs]]
    return "\n" + "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def _row(line: Line) -> str:
    judged, rows, figure = line.judged, line.question.rows, line.judged.figure
    theirs, ours = (statistics.median(row[figure] for row in rows[way]) for way in (judged.against, judged.ours))
    cells = [f"{value:.{decimals(value)}f} {UNITS[figure]}" for value in (theirs, ours)]
    asked = [f"{judged.must:g}×"] if judged.must is not None else []
    asked += [f"at most {judged.most:g} {UNITS[figure]}"] if judged.most is not None else []
    answer = {True: "reached", False: "**missed**", None: ""}[reached(judged, line.question)]
    middle = [FIGURES[figure], WAYS.get(judged.against, judged.against), *cells, show(line.values, 2)]
    return f"| {judged.title} | {' | '.join(middle)} | {', '.join(asked)} | {answer} |"


def renew(document: str, found: Sequence[Result]) -> str:
    """Put the tables between the marks of a document."""
    before, _, rest = document.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}\n{tables(found)}\n{END}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=results.FOLDER)
    parser.add_argument("--picture", type=Path, default=PICTURE)
    parser.add_argument("--document", type=Path, default=DOCUMENT)
    options = parser.parse_args()
    found = results.read(options.results)
    options.picture.parent.mkdir(parents=True, exist_ok=True)
    options.picture.write_text(draw(found))
    document = options.document.read_text() if options.document.exists() else f"{START}{END}"
    options.document.write_text(renew(document, found).lstrip())
    print(f"{len(found)} results: {options.picture}, {options.document}")


if __name__ == "__main__":
    main()
