"""Weights: what is fitted on some folds counts only by what it does on the others."""

import numpy as np
import pytest

from autoseg.evaluation.criterion import beats, case_values, difference_of, interval_of
from autoseg.evaluation.overlap import CaseScore, Scores, collect
from autoseg.evaluation.statistics import paired_difference
from autoseg.evaluation.weights import Weights, fit_weights, weight_steps, weights_text

FOLDS = {f"case {index:02d}": index % 3 for index in range(18)}


def scores_of(dice: np.ndarray) -> Scores:
    """Scores of cases in one or more structures from (cases, structures); nan: absent."""
    rows = []
    for case, values in zip(FOLDS, np.atleast_2d(dice), strict=False):
        found = tuple(None if np.isnan(value) else float(value) for value in values)
        present = [value for value in found if value is not None]
        mean = sum(present) / len(present) if present else None
        none = (0,) * len(found)
        rows.append(
            CaseScore(
                case=case, dice=found, iou=found, mean_dice=mean, tp=none, fp=none, fn=none, tn=none,
                num_predicted=none, num_labelled=none,
            )
        )  # fmt: skip
    return collect(rows, [f"s{index}" for index in range(len(rows[0].dice))])


def table(gain: dict[Weights, float], noise: float, seed: int = 0) -> dict[Weights, Scores]:
    """Scores per weights: a base per case, the gain of the weights, and noise of their own."""
    rng = np.random.default_rng(seed)
    base = rng.uniform(0.7, 0.9, (len(FOLDS), 2))
    return {
        step: scores_of(base + gain.get(step, 0.0) + (noise * rng.normal(size=base.shape) if step != EQUAL else 0.0))
        for step in weight_steps(2)
    }


EQUAL, GOOD = (0.5, 0.5), (0.2, 0.8)


def test_steps_are_few_and_distinct() -> None:
    assert weight_steps(1) == ((1.0,),)
    assert weight_steps(2) == (EQUAL, (0.8, 0.2), GOOD, (2 / 3, 1 / 3), (1 / 3, 2 / 3))
    for count in range(2, 6):
        steps = weight_steps(count)
        assert steps[0] == (1 / count,) * count
        assert len(set(steps)) == len(steps) == (5 if count == 2 else 1 + 4 * count)
        assert all(sum(step) == pytest.approx(1) for step in steps)
    assert weights_text((1 / 6, 1 / 6, 4 / 6)) == "1 : 1 : 4"


def test_weights_that_are_better_everywhere_win() -> None:
    found = fit_weights(("a", "b"), table({GOOD: 0.02}, 0.002), FOLDS)
    assert found is not None
    assert found.accepted
    assert found.weights == GOOD
    assert set(found.by_fold.values()) == {GOOD}
    assert found.difference is not None
    assert 0.015 < found.difference.mean < 0.025


def test_every_case_is_scored_with_weights_from_the_other_folds() -> None:
    """The best weights are made to differ by fold; each fold's cases must get what the others prefer."""
    scores = table({}, 0.0)
    better = {0: (0.8, 0.2), 1: GOOD, 2: (1 / 3, 2 / 3)}
    values = {step: np.array([row.dice for row in item.cases], dtype=float) for step, item in scores.items()}
    for fold, step in better.items():
        for index, case in enumerate(FOLDS):
            if FOLDS[case] == fold:
                values[step][index] += 0.03 + 0.01 * fold  # the higher fold decides among the others
    scores = {step: scores_of(found) for step, found in values.items()}
    found = fit_weights(("a", "b"), scores, FOLDS)
    assert found is not None
    assert found.by_fold == {0: better[2], 1: better[2], 2: better[1]}
    rows = {row.case: row for row in found.scores.cases}
    for case, fold in FOLDS.items():
        expected = next(row for row in scores[found.by_fold[fold]].cases if row.case == case)
        assert rows[case] == expected
    assert found.weights == better[2]
    assert not found.accepted, "on unseen folds they gain nothing"


@pytest.mark.parametrize("seed", range(4))
def test_luck_is_not_accepted(seed: int) -> None:
    """Weights that differ from equal ones by noise alone look better on their own cases, and are refused."""
    scores = table({}, 0.02, seed)
    found = fit_weights(("a", "b"), scores, FOLDS)
    assert found is not None
    assert not found.accepted
    own = scores[found.weights].mean_dice or 0.0
    assert own >= (scores[EQUAL].mean_dice or 1.0)
    assert own >= (found.scores.mean_dice or 1.0)


def test_from_one_fold_nothing_is_fitted() -> None:
    assert fit_weights(("a", "b"), table({GOOD: 0.02}, 0.0), dict.fromkeys(FOLDS, 0)) is None


def test_with_few_cases_nothing_beats_anything() -> None:
    five = paired_difference([0.9] * 5, [0.5] * 5)
    six = paired_difference([0.9] * 6, [0.5] * 6)
    assert not beats(five)
    assert beats(six)
    assert not beats(None)


def test_values_of_cases_average_to_the_criterion() -> None:
    rng = np.random.default_rng(1)
    full = rng.uniform(0.5, 1.0, (12, 3))
    scores = scores_of(full)
    assert case_values(scores) == pytest.approx(full.mean(axis=1))
    sparse = np.where(rng.random(full.shape) < 0.4, np.nan, full)
    sparse[3] = np.nan
    scores = scores_of(sparse)
    values = case_values(scores)
    assert values[3] is None
    present = [value for value in values if value is not None]
    assert np.mean(present) == pytest.approx(scores.mean_dice, abs=1e-12)
    interval = interval_of(scores)
    assert interval is not None
    assert interval.mean == pytest.approx(scores.mean_dice, abs=1e-12)
    draws = []
    for _ in range(2000):
        drawn = sparse[rng.integers(12, size=12)]
        with np.errstate(invalid="ignore"):
            counts = np.isfinite(drawn).sum(axis=0)
            draws.append((np.nansum(drawn, axis=0)[counts > 0] / counts[counts > 0]).mean())
    low, high = np.quantile(draws, [0.025, 0.975])
    assert interval.high - interval.low == pytest.approx(high - low, rel=0.25), "as resampling the criterion itself"


def test_difference_is_that_of_the_criterion() -> None:
    rng = np.random.default_rng(2)
    first, second = (scores_of(rng.uniform(0.5, 1.0, (12, 2))) for _ in range(2))
    found = difference_of(first, second)
    assert found is not None
    assert found.mean == pytest.approx((first.mean_dice or 0) - (second.mean_dice or 0), abs=1e-12)
