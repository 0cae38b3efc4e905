"""Renew what ``docs/planning.md`` shows of real plans: its pictures and its worked examples.

Run it from anywhere after a rule or a wording has changed: ``python docs/renew_planning.py``. The examples are those of
the planners' tests, which also check that the document is up to date.
"""

import math
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from planners import Configuration, Plan
from planners.decision import axis_names, millimetres, percent, times
from planners.describe import describe

FOLDER = Path(__file__).resolve().parent

STYLE = """<style>
text { font-family: Helvetica, Arial, sans-serif; font-size: 12px; fill: #24292f; }
.title { font-weight: 600; }
.quiet { fill: #57606a; }
.middle { text-anchor: middle; }
.kept { fill: #afb8c1; }
.halved { fill: #54aeff; }
.case { fill: none; stroke: #6e7781; }
.patch { fill: #54aeff; fill-opacity: 0.35; stroke: #0969da; }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3; }
.quiet { fill: #9198a1; }
.kept { fill: #484f58; }
.halved { fill: #1f6feb; }
.case { stroke: #9198a1; }
.patch { stroke: #58a6ff; }
}
</style>"""


def draw_pooling(configuration: Configuration) -> str:
    """Draw what becomes of each axis from stage to stage: its voxels as a bar, its spacing below."""
    stages, names = configuration.architecture.stages, axis_names(configuration.dimensions)
    size, spacing = list(configuration.patch_size), list(configuration.spacing_mm)
    column, left, top, row = 104, 60, 62, 52
    parts = [_text(8, 18, "Pooling per axis: blue where an edge was just halved", "title")]
    parts += [_text(8, top + row * axis + 15, name, "title") for axis, name in enumerate(names)]
    parts += [_text(8, 46, "stage"), _text(8, top + row * len(names) + 10, "kernel")]
    longest = math.log2(2 * max(size))
    for index, stage in enumerate(stages):
        x = left + column * index
        parts.append(_text(x, 46, f"{index + 1}: {stage.features} features"))
        for axis, stride in enumerate(stage.stride):
            size[axis], spacing[axis] = size[axis] // stride, spacing[axis] * stride
            y, length = top + row * axis, (column - 12) * math.log2(2 * size[axis]) / longest
            kind = "kept" if stride == 1 else "halved"
            parts.append(f'<rect class="{kind}" x="{x}" y="{y}" width="{length:.1f}" height="20" rx="3"/>')
            parts += [_text(x + 5, y + 15, str(size[axis])), _text(x, y + 36, millimetres([spacing[axis]]), "quiet")]
        parts.append(_text(x, top + row * len(names) + 10, " × ".join(str(edge) for edge in stage.kernel)))
    return _picture(left + column * len(stages), top + row * len(names) + 24, parts)


def draw_patches(plans: Sequence[Plan]) -> str:
    """Draw each 3D configuration's patch within the median case, both to scale in millimetres."""
    shown = [
        (plan.dataset, item)
        for plan in plans
        for item in plan.configurations
        if item.dimensions == 3 and item.previous is None
    ]
    width, parts = 210, [_text(8, 18, "Patch (blue) against median case, both in millimetres", "title")]
    for index, (dataset, item) in enumerate(shown):
        x = width * index + width // 2
        parts += _boxes(item, x, 120)
        seen = min(1.0, math.prod(item.patch_size) / math.prod(item.median_shape))
        lines = (
            (f"{dataset}, {item.name}", "title middle"),
            (f"case {times(item.median_shape)}", "middle"),
            (f"patch {times(item.patch_size)}", "middle"),
            (f"a patch sees {percent(seen)}", "quiet middle"),
        )
        parts += [_text(x, 218 + 17 * line, text, kind) for line, (text, kind) in enumerate(lines)]
    return _picture(width * len(shown), 284, parts)


def _boxes(item: Configuration, x: float, y: float) -> Iterator[str]:
    """Draw case and patch as boxes about one centre; x to the right, z up, y half as long to the upper right."""
    case = [size * spacing for size, spacing in zip(item.median_shape, item.spacing_mm, strict=True)]
    patch = [size * spacing for size, spacing in zip(item.patch_size, item.spacing_mm, strict=True)]
    largest = [max(pair) for pair in zip(case, patch, strict=True)]
    slant = 0.35  # half the length, at 45 degrees
    scale = 160 / max(largest[2] + slant * largest[1], largest[0] + slant * largest[1])
    for kind, box in (("case", case), ("patch", patch)):
        deep, high, wide = slant * box[1] * scale, box[0] * scale, box[2] * scale
        left, low = x - (wide + deep) / 2, y + (high + deep) / 2
        front = f"M{left:.1f} {low:.1f}h{wide:.1f}v{-high:.1f}h{-wide:.1f}z"
        roof = f"M{left:.1f} {low - high:.1f}l{deep:.1f} {-deep:.1f}h{wide:.1f}l{-deep:.1f} {deep:.1f}z"
        side = f"M{left + wide:.1f} {low:.1f}l{deep:.1f} {-deep:.1f}v{-high:.1f}l{-deep:.1f} {deep:.1f}z"
        yield f'<path class="{kind}" d="{front}{roof}{side}"/>'


def _text(x: float, y: float, text: str, kind: str = "") -> str:
    chosen = f' class="{kind}"' if kind else ""
    return f'<text{chosen} x="{x}" y="{y}">{text}</text>'


def _picture(width: int, height: int, parts: Sequence[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
    return "\n".join([head, STYLE, *parts, "</svg>"]) + "\n"


def worked_example(plan: Plan) -> str:
    """Give the plan as text without its 2D configuration; of a cascade the two stages alone."""
    names = [item.name for item in plan.configurations]
    left_out = ("2d ", "3d_fullres ") if "3d_lowres" in names else ("2d ",)
    return "\n\n".join(part for part in describe(plan).split("\n\n") if not part.startswith(left_out))


def pictures(hippocampus: Plan, prostate: Plan, liver: Plan) -> dict[str, str]:
    """Give all pictures by file name."""
    return {
        "planning_pooling.svg": draw_pooling(prostate.configuration("3d_fullres")),
        "planning_patches.svg": draw_patches((hippocampus, prostate, liver)),
    }


def main() -> None:
    """Write the pictures beside this script, and put the examples in their places in the document."""
    sys.path.insert(0, str(FOLDER.parent / "tests" / "planners"))
    import conftest  # type: ignore[import-not-found]

    plans = [conftest.EXAMPLES[name]() for name in ("hippocampus", "prostate", "liver")]
    for name, text in pictures(*plans).items():
        (FOLDER / name).write_text(text)
    document = FOLDER / "planning.md"
    text = document.read_text()
    for plan in plans:
        pattern = rf"```\n{plan.dataset}: .*?\n```\n"
        text = re.sub(pattern, lambda _, plan=plan: f"```\n{worked_example(plan)}\n```\n", text, flags=re.DOTALL)
    document.write_text(text)


if __name__ == "__main__":
    main()
