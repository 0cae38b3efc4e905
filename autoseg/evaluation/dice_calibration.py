"""Learn how the Dice of a case follows from what the network expects of it (see ``confidence``), on cases out of fold.

A line through the log odds of both, with an interval from the residuals out of fold: two numbers for the middle and two
for the interval, so that a few cases are enough.

Source: Wundram et al. 2024, "Conformal performance range prediction for segmentation output quality control" (intervals
of the Dice from residuals on labelled cases).
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

import numpy as np

from autoseg.evaluation.confidence import LEVEL, Calibration, CaseConfidence, log_odds, share
from autoseg.evaluation.overlap import mean_of

LEAST_CASES = 3  # assumption: with fewer nothing is learnt
PRIOR_CASES = 5
"""The slope is drawn towards 1 as if by so many cases. Of 0 to 40, 5 has the lowest error over both of two networks and
3 to 32 cases (measured 2026-11 on hippocampus, see docs/uncertainty.md)."""
ALL_PAIRS_CASES = 1000
"""Up to so many cases the slope is the median over all pairs, half a million; of more cases over as many pairs, evenly
chosen: 20,000 cases have 200 million."""
SPLITS = 5  # parts of the cases where they are all of one fold
MEAN = "mean"

Fit = Callable[[np.ndarray, np.ndarray], Calibration]
"""From expected and true Dice to a calibration without error and interval."""


def calibrate(
    structures: Sequence[str], cases: Sequence[CaseConfidence]
) -> tuple[tuple[Calibration, ...], tuple[CaseConfidence, ...]]:
    """Learn how the Dice of a case follows from what the network expects of it, per structure and for the mean.

    Args:
        structures: their names.
        cases: with ``dice`` and ``mean_dice``.

    Returns:
        One calibration per structure, then that of the mean; and the cases with what is predicted for them out of fold.
    """
    folds = [case.fold for case in cases]
    learnt = [
        _calibrate_one(name, [(case.expected_dice[index], case.dice[index]) for case in cases], folds)
        for index, name in enumerate(structures)
    ]
    # What is predicted of the structures foretells the mean better than what is expected of them.
    means = [
        mean_of(
            expected if values[place] is None else values[place]
            for expected, (_, values) in zip(case.expected_dice, learnt, strict=True)
        )
        for place, case in enumerate(cases)
    ]
    column = list(zip(means, (case.mean_dice for case in cases), strict=True))
    learnt.append(_calibrate_one(MEAN, column, folds, line=False))
    predicted = tuple(
        dataclasses.replace(
            case,
            predicted_dice=tuple(values[place] for _, values in learnt[:-1]),
            predicted_mean=learnt[-1][1][place],
        )
        for place, case in enumerate(cases)
    )
    return tuple(item for item, _ in learnt), predicted


def _calibrate_one(
    name: str, column: Sequence[tuple[float | None, float | None]], folds: Sequence[int | str], *, line: bool = True
) -> tuple[Calibration, list[float | None]]:
    """Calibrate one structure; give also what is predicted out of fold, per case.

    Without ``line`` the slope is 1. The mean starts from predictions out of fold, which are lower for a fold whose Dice
    is high, because the others' is lower: a slope fitted to them would be too flat.
    """
    places = [place for place, pair in enumerate(column) if None not in pair]
    expected = np.array([column[place][0] for place in places], dtype=float)
    dice = np.array([column[place][1] for place in places], dtype=float)
    missed = sum(guess is None and truth is not None for guess, truth in column)
    fit = functools.partial(_fit, line=line)
    fitted = dataclasses.replace(fit(expected, dice), name=name, num_missed=missed)
    if fitted.rule == "none":
        return fitted, [None] * len(column)
    groups = _groups([folds[place] for place in places])
    crossed = _cross(expected, dice, groups, fit)
    low, high = _ends(log_odds(dice) - crossed)
    predicted = np.array([share(value) for value in crossed])
    values: list[float | None] = [None] * len(column)
    for place, value in zip(places, predicted.tolist(), strict=True):
        values[place] = value
    calibration = dataclasses.replace(
        fitted,
        low=low,
        high=high,
        error=float(np.abs(predicted - dice).mean()),
        error_of_constant=_error_of_constant(dice, groups),
        coverage=None if low is None else _coverage(expected, dice, groups, fit),
    )
    return calibration, values


def _fit(expected: np.ndarray, dice: np.ndarray, *, line: bool) -> Calibration:
    """Fit the line by medians, so that single failures do not bend it.

    Source: Theil 1950 and Sen 1968 (the median of the slopes between all pairs).
    """
    num = len(expected)
    if num < LEAST_CASES:
        return Calibration(name="", rule="none", num_cases=num)
    x, y = log_odds(expected), log_odds(dice)
    found = _median_slope(x, y) if line else None
    slope = 1.0 if found is None else (num * found + PRIOR_CASES) / (num + PRIOR_CASES)
    offset = float(np.median(y - slope * x))
    rule = "shift" if found is None else "line"
    return Calibration(name="", rule=rule, slope=slope, offset=offset, num_cases=num)


def _median_slope(x: np.ndarray, y: np.ndarray) -> float | None:
    """Give the median slope over the pairs of cases, at least 0; None where all x are equal."""
    if len(x) > ALL_PAIRS_CASES:
        order = np.lexsort((y, x))
        x, y = x[order], y[order]
        first, second = _some_pairs(len(x))
    else:
        first, second = np.triu_indices(len(x), 1)
    distance = x[second] - x[first]
    different = distance != 0
    if not different.any():
        return None
    slopes = (y[second] - y[first])[different] / distance[different]
    return max(float(np.median(slopes)), 0.0)


def _some_pairs(num: int) -> tuple[np.ndarray, np.ndarray]:
    """Choose about as many pairs of cases as ``ALL_PAIRS_CASES`` have, always the same.

    Every case is paired with the ones that come a number of places after it, the end followed by the beginning. Those
    numbers are spread evenly up to half the cases, so that every case counts alike, and pairs near and far are drawn as
    often as they occur.
    """
    most, half = ALL_PAIRS_CASES * (ALL_PAIRS_CASES - 1) // 2, (num - 1) // 2
    num_steps = min(max(most // num, 1), half)
    steps = 1 + (2 * np.arange(num_steps) + 1) * half // (2 * num_steps)
    first = np.repeat(np.arange(num)[None], num_steps, axis=0)
    return first.reshape(-1), ((first + steps[:, None]) % num).reshape(-1)


def _groups(folds: Sequence[int | str]) -> np.ndarray:
    """Number the parts that are left out in turn: the folds, or a fifth of the cases each where there is one fold."""
    names = sorted(set(folds), key=str)
    if len(names) > 1:
        return np.array([names.index(fold) for fold in folds])
    return np.arange(len(folds)) % SPLITS


def _cross(expected: np.ndarray, dice: np.ndarray, groups: np.ndarray, fit: Fit) -> np.ndarray:
    """Predict every case by a calibration without the cases of its group; log odds."""
    result = np.empty(len(dice))
    for group in np.unique(groups):
        inside = groups == group
        fitted = fit(expected[~inside], dice[~inside])
        result[inside] = fitted.slope * log_odds(expected[inside]) + fitted.offset
    return result


def _ends(residuals: np.ndarray) -> tuple[float | None, float | None]:
    """Give how far below and above its prediction a new case may lie, from the residuals out of fold.

    The (n + 1)-corrected quantiles make the statement hold for any distribution of residuals, if new cases are like
    the old ones. Both tails need 19 cases; with 9 to 18 the interval is symmetric, with fewer there is none.

    Source: Vovk 2015, "Cross-conformal predictors"; Barber, Candès, Ramdas, Tibshirani 2021, "Predictive inference with
    the jackknife+" (CV+; here in its simple form, one middle for all folds).
    """
    num, tail = len(residuals), (1 - LEVEL) / 2
    ordered = np.sort(residuals)
    rank = math.ceil((1 - tail) * (num + 1) - 1e-9)
    if rank <= num:
        return float(ordered[num - rank]), float(ordered[rank - 1])
    rank = math.ceil(LEVEL * (num + 1) - 1e-9)
    if rank <= num:
        width = float(np.sort(np.abs(residuals))[rank - 1])
        return -width, width
    return None, None


def _error_of_constant(dice: np.ndarray, groups: np.ndarray) -> float | None:
    """Give the error of a prediction that looks at no image: the median Dice of the other groups."""
    if len(np.unique(groups)) < 2:
        return None
    errors = [np.abs(dice[groups == group] - np.median(dice[groups != group])) for group in np.unique(groups)]
    return float(np.concatenate(errors).mean())


def _coverage(expected: np.ndarray, dice: np.ndarray, groups: np.ndarray, fit: Fit) -> float | None:
    """Count the cases of each group in the intervals that the other groups alone give."""
    held: list[bool] = []
    for group in np.unique(groups):
        inside = groups == group
        others = (expected[~inside], dice[~inside])
        rest = groups[~inside] if len(np.unique(groups[~inside])) > 1 else _groups([0] * int((~inside).sum()))
        low, high = _ends(log_odds(others[1]) - _cross(*others, rest, fit))
        if low is None or high is None:
            return None
        fitted = fit(*others)
        middle = fitted.slope * log_odds(expected[inside]) + fitted.offset
        truth = log_odds(dice[inside])
        held += ((truth >= middle + low) & (truth <= middle + high)).tolist()
    return sum(held) / len(held)
