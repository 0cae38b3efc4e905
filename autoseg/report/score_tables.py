"""Score tables: scores and candidates as rows of texts that the template lays out."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from autoseg.evaluation.criterion import interval_of
from autoseg.evaluation.metric_records import Interval
from autoseg.evaluation.overlap import ABSENT, Scores, mean_of
from autoseg.evaluation.statistics import NARROW_CASES, bootstrap_means
from autoseg.report.charts import histogram, strip
from autoseg.report.material import Material
from autoseg.report.ranges import interval_text

MAX_CASE_ROWS = 300  # the rest is in scores.json; with this many rows the page stays light
MAX_CASE_COLUMNS = 10
NUM_LOWEST = 7  # as many as fill the height of the histogram beside them


@dataclass(frozen=True, kw_only=True)
class ClassRow:
    """One structure: mean Dice with its interval, IoU, the strip of all cases, the mean per fold, cases without it."""

    name: str
    dice: str
    interval: str
    iou: str
    strip: Markup
    folds: tuple[str, ...]
    num_absent: int
    fill: float


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A row with a bar: the fill is a fraction of the full width."""

    name: str
    value: str
    fill: float


@dataclass(frozen=True, kw_only=True)
class ScoreSection:
    """Scores by class, fold and case.

    ``interval`` is that of the mean Dice; ``narrow`` says that intervals are of too few cases, or is empty.
    """

    scored: str
    folds: tuple[str, ...]
    rows: tuple[ClassRow, ...]
    mean: ClassRow | None
    histogram: Markup
    lowest: tuple[Bar, ...]
    strip_low: str
    case_columns: tuple[str, ...]
    cases: tuple[tuple[str, ...], ...]
    num_cases: int
    interval: str
    narrow: str


def score_section(material: Material) -> ScoreSection | None:
    """Lay out the scores; None where there are none."""
    scores = material.scores
    if scores is None or not scores.cases:
        return None
    folds = tuple(dict.fromkeys(item.fold for item in material.folds if item.scores is not None))
    defined = [value for row in scores.cases for value in row.dice if value is not None]
    low = int(min(defined, default=0.0) * 10) / 10 if defined else 0.0
    low = min(low, 0.9)
    intervals = bootstrap_means([[row.dice[index] for row in scores.cases] for index in range(len(scores.structures))])
    rows = tuple(_class_row(material, scores, index, folds, low, interval) for index, interval in enumerate(intervals))
    means = [row.mean_dice for row in scores.cases if row.mean_dice is not None]
    lowest = f"{min(means):.3f}" if means else ABSENT
    columns = scores.structures[:MAX_CASE_COLUMNS] if len(scores.structures) > 1 else ()
    return ScoreSection(
        scored=material.scored,
        folds=folds if len(folds) > 1 else (),
        rows=rows,
        mean=_mean_row(material, scores, folds, low) if len(rows) > 1 else None,
        histogram=histogram(means, "mean Dice of a case", f"{len(means)} cases by mean Dice, the lowest {lowest}"),
        lowest=_lowest_bars(scores),
        strip_low=f"{low:.1f}",
        case_columns=columns,
        cases=_case_rows(material, scores, len(columns)),
        num_cases=len(scores.cases),
        interval=interval_text(interval_of(scores)),
        narrow=narrow_text(len(means)),
    )


def narrow_text(num_cases: int) -> str:
    """Say that intervals are of too few cases to be trusted; empty where they are not, or there is none."""
    if not 1 < num_cases < NARROW_CASES:
        return ""
    return f"With {num_cases} cases such intervals are too narrow: the truth lies outside more often than they say."


def _class_row(
    material: Material, scores: Scores, index: int, folds: Sequence[str], low: float, interval: Interval | None
) -> ClassRow:
    values = {row.case: row.dice[index] for row in scores.cases}
    present = [value for value in values.values() if value is not None]
    name = scores.structures[index]
    ends = f"from {min(present):.3f} to {max(present):.3f}" if present else ABSENT
    return ClassRow(
        name=name,
        dice=number(scores.dice[index]),
        interval=interval_text(interval),
        iou=number(scores.iou[index]),
        strip=strip(present, low, f"Dice of {name} in {len(present)} cases, {ends}"),
        folds=_per_fold(material, values, folds),
        num_absent=scores.num_absent[index],
        fill=scores.dice[index] or 0.0,
    )


def _mean_row(material: Material, scores: Scores, folds: Sequence[str], low: float) -> ClassRow:
    values = {row.case: row.mean_dice for row in scores.cases}
    present = [value for value in values.values() if value is not None]
    return ClassRow(
        name="mean",
        dice=number(scores.mean_dice),
        interval=interval_text(interval_of(scores)),
        iou=number(scores.mean_iou),
        strip=strip(present, low, f"mean Dice of {len(present)} cases"),
        folds=_per_fold(material, values, folds),
        num_absent=sum(value is None for value in values.values()),
        fill=scores.mean_dice or 0.0,
    )


def _per_fold(material: Material, values: dict[str, float | None], folds: Sequence[str]) -> tuple[str, ...]:
    if len(folds) < 2:
        return ()
    fold_of = material.fold_of_case
    return tuple(number(mean_of(v for case, v in values.items() if fold_of.get(case) == fold)) for fold in folds)


def _lowest_bars(scores: Scores) -> tuple[Bar, ...]:
    ranked = sorted((row.mean_dice, row.case) for row in scores.cases if row.mean_dice is not None)
    return tuple(Bar(name=case, value=number(value), fill=value) for value, case in ranked[:NUM_LOWEST])


def _case_rows(material: Material, scores: Scores, num_columns: int) -> tuple[tuple[str, ...], ...]:
    fold_of = material.fold_of_case
    ranked = sorted(scores.cases, key=lambda row: (2.0 if row.mean_dice is None else row.mean_dice, row.case))
    return tuple(
        (row.case, fold_of.get(row.case, "–"), number(row.mean_dice), *map(number, row.dice[:num_columns]))
        for row in ranked[:MAX_CASE_ROWS]
    )


def number(value: float | None) -> str:
    """Write a score with three digits; a structure that is not there has none."""
    return ABSENT if value is None else f"{value:.3f}"
