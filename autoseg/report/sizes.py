"""Sizes: how the score of a structure hangs on how large it is, case by case."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from autoseg.evaluation.overlap import Scores
from autoseg.report.axes import Axis, Plane, around
from autoseg.report.material import Material

MAX_PANELS = 9  # three rows of three; of more structures those with the lowest Dice
MAX_POINTS = 400  # of one panel; more would cover each other, and the page must stay light
MIN_CASES = 3  # fewer tell nothing of a trend
MIN_RANKED = 8  # assumption: below, a rank correlation is mostly chance
MM3_PER_ML = 1000.0


@dataclass(frozen=True, kw_only=True)
class SizePanel:
    """One structure: the drawing, and what it says in words."""

    name: str
    drawing: Markup
    note: str


@dataclass(frozen=True, kw_only=True)
class SizeSection:
    """Panels of the structures, the lowest Dice first; ``hidden`` structures are left out."""

    panels: tuple[SizePanel, ...]
    hidden: int


def size_section(material: Material) -> SizeSection | None:
    """Draw size against Dice for every structure that is labelled in enough cases; None without scores."""
    scores = material.scores
    if scores is None:
        return None
    volumes, unit = voxel_sizes(material)
    points = [_points(scores, index, volumes) for index in range(len(scores.structures))]
    found = [index for index, some in enumerate(points) if len(some) >= MIN_CASES]
    lowest = sorted(found, key=lambda index: (2.0 if scores.dice[index] is None else scores.dice[index], index))
    shown = sorted(lowest[:MAX_PANELS])
    if not shown:
        return None
    panels = tuple(_panel(scores.structures[index], points[index], unit) for index in shown)
    return SizeSection(panels=panels, hidden=len(found) - len(shown))


def voxel_sizes(material: Material) -> tuple[dict[str, float], str]:
    """Give the size of a voxel of each case and the unit; without a fingerprint voxels are counted.

    Returns:
        Per case the size in the unit: millilitres, of 2D images square millimetres.
    """
    fingerprint = material.fingerprint
    if fingerprint is None or not fingerprint.case_ids:
        return {}, "voxels"
    flat = all(shape[0] == 1 for shape in fingerprint.shapes)
    pairs = zip(fingerprint.case_ids, fingerprint.spacings_mm, strict=True)
    if flat:
        return {case: y * x for case, (_, y, x) in pairs}, "mm²"
    return {case: z * y * x / MM3_PER_ML for case, (z, y, x) in pairs}, "ml"


def _points(scores: Scores, index: int, volumes: dict[str, float]) -> list[tuple[float, float]]:
    """List size and Dice of the cases whose label holds the structure."""
    rows = [row for row in scores.cases if row.num_labelled[index] and (not volumes or row.case in volumes)]
    pairs = [(row.num_labelled[index] * volumes.get(row.case, 1.0), row.dice[index]) for row in rows]
    return [(size, dice) for size, dice in pairs if dice is not None]


def _panel(name: str, points: Sequence[tuple[float, float]], unit: str) -> SizePanel:
    sizes, dice = [x for x, _ in points], [y for _, y in points]
    low = min(int(min(dice) * 10) / 10, 0.9)
    plane = Plane(
        x=around(sizes, f"size in the label, {unit}", logarithmic=True), y=Axis(low=low, high=1.0, label="Dice")
    )
    note = f"{len(points)} cases"
    if len(points) >= MIN_RANKED:
        found = rank_correlation(sizes, dice)
        note += f"; rank correlation {found:.2f}".replace("-", "\u2212") if found is not None else ""
    thinned = sorted(points)
    if len(thinned) > MAX_POINTS:
        thinned = [thinned[round(i * (len(points) - 1) / (MAX_POINTS - 1))] for i in range(MAX_POINTS)]
    ends = f"{_short(min(sizes))} to {_short(max(sizes))} {unit}"
    description = f"Dice of {name} against its size, {ends}; {note}"
    return SizePanel(name=name, drawing=plane.drawing([plane.dots(thinned)], description), note=note)


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Correlate ranks (Spearman): 1 where the larger is always the better; None where all are equal.

    Source: Spearman, The proof and measurement of association between two things (1904); ties share their mean rank.
    """
    ranks = np.stack([_ranks(first), _ranks(second)])
    if not (ranks.std(axis=1) > 0).all():
        return None
    return float(np.corrcoef(ranks)[0, 1])


def _ranks(values: Sequence[float]) -> np.ndarray:
    _, places, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[places]


def _short(value: float) -> str:
    return f"{value:.3g}"
