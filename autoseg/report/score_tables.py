"""Score tables: scores and candidates as rows of texts that the template lays out."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from autoseg.evaluation.overlap import ABSENT, Scores, mean_of, score_text
from autoseg.report.charts import histogram, strip
from autoseg.report.material import Material

MAX_CASE_ROWS = 300  # the rest is in scores.json; with this many rows the page stays light
MAX_CASE_COLUMNS = 10
NUM_LOWEST = 7  # as many as fill the height of the histogram beside them


@dataclass(frozen=True, kw_only=True)
class ClassRow:
    """One structure: mean Dice and IoU, the strip of all cases, the mean per fold, cases without it."""

    name: str
    dice: str
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
    others: tuple[str, ...] = ()
    chosen: bool = False


@dataclass(frozen=True, kw_only=True)
class ScoreSection:
    """Scores by class, fold and case."""

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


def score_section(material: Material) -> ScoreSection | None:
    """Lay out the scores; None where there are none."""
    scores = material.scores
    if scores is None or not scores.cases:
        return None
    folds = tuple(dict.fromkeys(item.fold for item in material.folds if item.scores is not None))
    defined = [value for row in scores.cases for value in row.dice if value is not None]
    low = int(min(defined, default=0.0) * 10) / 10 if defined else 0.0
    low = min(low, 0.9)
    rows = tuple(_class_row(material, scores, index, folds, low) for index in range(len(scores.structures)))
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
    )


def _class_row(material: Material, scores: Scores, index: int, folds: Sequence[str], low: float) -> ClassRow:
    values = {row.case: row.dice[index] for row in scores.cases}
    present = [value for value in values.values() if value is not None]
    name = scores.structures[index]
    ends = f"from {min(present):.3f} to {max(present):.3f}" if present else ABSENT
    return ClassRow(
        name=name,
        dice=number(scores.dice[index]),
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


def candidate_bars(material: Material) -> tuple[Bar, ...]:
    """Lay out the candidates in their order, with Dice per structure where these are few."""
    choice = material.choice
    if choice is None:
        return ()
    return tuple(
        Bar(
            name=item.name,
            value=score_text(item.mean_dice),
            fill=item.mean_dice or 0.0,
            others=tuple(map(score_text, item.dice)) if 1 < len(item.dice) <= MAX_CASE_COLUMNS else (),
            chosen=item.configurations == choice.configurations,
        )
        for item in choice.candidates
    )


def trial_rows(material: Material) -> tuple[tuple[str, str, str, str, bool], ...]:
    """Lay out the postprocessing trials: rule, before, after, cases changed, accepted."""
    choice, rows = material.choice, []
    for trial in choice.trials if choice is not None else ():
        name, structures = trial.postprocessing.name, choice.structures if choice is not None else ()
        before, after = trial.mean_before, trial.mean_after
        if name in structures:
            index = structures.index(name)
            before, after = trial.dice_before[index], trial.dice_after[index]
        rows.append((name, score_text(before), score_text(after), str(trial.num_changed), trial.accepted))
    return tuple(rows)


def number(value: float | None) -> str:
    """Write a score with three digits; a structure that is not there has none."""
    return ABSENT if value is None else f"{value:.3f}"
