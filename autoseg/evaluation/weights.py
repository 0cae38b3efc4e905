"""Weights of an ensemble: fitted on some folds, judged on the others.

Weights that are fitted on the very cases they are judged on always look at least as good as equal ones. So each fold's
cases are scored with the weights that were best on the cases of the other folds, and only if these scores beat those of
equal weights by more than luck are the weights a candidate; then with the weights that are best on all cases.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from autoseg.evaluation.criterion import beats, difference_of
from autoseg.evaluation.overlap import Scores, collect
from autoseg.evaluation.statistics import Difference

Names = tuple[str, ...]
"""The configurations of a candidate: one, or several whose probabilities are averaged."""

Weights = tuple[float, ...]
"""Shares of the configurations of an ensemble; they add up to 1."""

FACTORS = (4, 2)
"""One configuration's weight against that of each other: so many times, or so many times less. Assumption: between
equal weights and one alone, which are candidates anyway, Dice changes slowly; finer steps fit the cases at hand."""


@dataclass(frozen=True, kw_only=True)
class Weighted:
    """An ensemble with weights, as it was judged.

    Attributes:
        configurations: whose probabilities are averaged.
        weights: the best over all cases, for new images.
        by_fold: what each fold's cases were scored with.
        scores: of those; so of no case with weights that it has helped to find.
        difference: to equal weights; None where there is nothing to compare.
        accepted: whether it is a candidate.
    """

    configurations: Names
    weights: Weights
    by_fold: dict[int | str, Weights]
    scores: Scores
    difference: Difference | None
    accepted: bool


def weight_steps(count: int) -> tuple[Weights, ...]:
    """List the weights to try for an ensemble of some configurations, equal ones first."""
    steps = [(1,) * count]
    for factor in FACTORS if count > 1 else ():
        for index in range(count):
            steps.append(tuple(factor if other == index else 1 for other in range(count)))
            steps.append(tuple(1 if other == index else factor for other in range(count)))
    return tuple(tuple(part / sum(step) for part in step) for step in dict.fromkeys(steps))


def fit_weights(names: Names, scores: Mapping[Weights, Scores], fold_of: Mapping[str, int | str]) -> Weighted | None:
    """Fit an ensemble's weights fold by fold, and judge them.

    Args:
        names: its configurations.
        scores: per weights (as of ``weight_steps``, equal ones first), of the same cases.
        fold_of: per case, the fold whose networks have not seen it.

    Returns:
        None where there are fewer than two folds, so that nothing can be judged.
    """
    equal = next(iter(scores.values()))
    folds = list(dict.fromkeys(fold_of[row.case] for row in equal.cases))
    if len(folds) < 2:
        return None
    table = np.array(
        [[[np.nan if value is None else value for value in row.dice] for row in item.cases] for item in scores.values()]
    )
    place = np.array([folds.index(fold_of[row.case]) for row in equal.cases])
    steps = list(scores)
    chosen = [_best(table[:, place != index]) for index in range(len(folds))]
    fitted = collect(
        (scores[steps[chosen[fold]]].cases[index] for index, fold in enumerate(place.tolist())), equal.structures
    )
    difference, best = difference_of(fitted, equal), _best(table)
    return Weighted(
        configurations=names,
        weights=steps[best],
        by_fold={fold: steps[index] for fold, index in zip(folds, chosen, strict=True)},
        scores=fitted,
        difference=difference,
        accepted=best > 0 and beats(difference),
    )


def _best(table: np.ndarray) -> int:
    """Find the first weights with the highest mean Dice; ``table`` (weights, cases, structures), nan where absent."""
    counts = np.isfinite(table).sum(axis=1)
    means = np.nansum(table, axis=1) / np.maximum(counts, 1)
    present = np.maximum((counts > 0).sum(axis=1), 1)
    return int(np.round(means.sum(axis=1) / present, 12).argmax())  # rounding errors decide nothing


def weights_text(weights: Sequence[float]) -> str:
    """Write weights as a ratio: ``1 : 4``."""
    least = min(weights)
    return " : ".join(f"{weight / least:.3g}" for weight in weights)
