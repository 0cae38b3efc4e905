"""The predicted Dice: learnt from few cases or many, unmoved by failures, and judged on cases it has not seen."""

import dataclasses
import itertools
import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoseg.evaluation import dice_calibration
from autoseg.evaluation.confidence import (
    EMPTY_BINS,
    NUM_BINS,
    Bin,
    CaseConfidence,
    Confidence,
    add_bins,
    log_odds,
    share,
)
from autoseg.evaluation.dice_calibration import calibrate
from planners import records

NAMES = ("expected_dice", "dice")


def make_cases(num, *, seed=0, noise=0.2, slope=1.5, offset=-1.0, num_folds=3):
    """Cases of one structure whose Dice follows its expectation along a line of log odds, but for noise."""
    random = np.random.default_rng(seed)
    expected = random.uniform(0.6, 0.97, num)
    truth = slope * log_odds(expected) + offset + noise * random.normal(size=num)
    return [
        CaseConfidence(
            case=f"case_{index:03d}",
            fold=index % num_folds,
            expected_dice=(float(guess),),
            dice=(share(odds),),
            mean_dice=share(odds),
        )
        for index, (guess, odds) in enumerate(zip(expected, truth, strict=True))
    ]


def test_the_line_is_found():
    (organ, mean), compared = calibrate(["organ"], make_cases(200, noise=0.1))
    assert organ.rule == "line"
    assert organ.slope == pytest.approx(1.5, abs=0.05)
    assert organ.offset == pytest.approx(-1.0, abs=0.1)
    assert (mean.rule, mean.slope) == ("shift", 1)
    assert mean.predict(organ.predict(0.8).dice).dice == pytest.approx(organ.predict(0.8).dice, abs=0.01)
    errors = [abs(case.predicted_dice[0] - case.dice[0]) for case in compared]
    assert organ.error == pytest.approx(np.mean(errors))
    assert organ.error < 0.03 < organ.error_of_constant
    for case in compared:
        assert case.predicted_mean == pytest.approx(case.predicted_dice[0], abs=0.03)


def test_failures_do_not_bend_the_line():
    cases = make_cases(60, noise=0.1)
    failed = [dataclasses.replace(case, dice=(0.0,), mean_dice=0.0) for case in cases[:6]]
    (organ, _), _ = calibrate(["organ"], [*failed, *cases[6:]])
    assert organ.slope == pytest.approx(1.5, abs=0.15)
    assert organ.predict(0.9).dice == pytest.approx(share(1.5 * log_odds(0.9) - 1), abs=0.02)


@pytest.mark.parametrize(
    ("num", "rule", "interval"),
    [
        *((0, "none", False), (2, "none", False), (3, "line", False), (8, "line", False), (9, "line", True)),
        *((10, "line", True), (19, "line", True), (500, "line", True)),
    ],
)
def test_few_cases_are_said_to_be_few(num, rule, interval):
    (organ, _), compared = calibrate(["organ"], make_cases(num))
    assert organ.rule == rule
    assert organ.num_cases == num
    assert (organ.low is not None) == interval
    predicted = organ.predict(0.8)
    assert 0 < predicted.dice < 1
    if rule == "none":
        assert predicted.dice == pytest.approx(0.8)
        assert "too few" in organ.text()
        assert organ.error is None
        assert all(case.predicted_dice == (None,) for case in compared)
    else:
        assert ("interval" in organ.text()) != interval
        assert f"{num} out-of-fold cases" in organ.text()
    if interval:
        assert predicted.low < predicted.dice < predicted.high
    if num == 3:  # drawn towards 1 by as much as five cases
        x, y = (log_odds(np.array([getattr(case, name)[0] for case in make_cases(3)])) for name in NAMES)
        slopes = [(y[i] - y[j]) / (x[i] - x[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
        assert organ.slope == pytest.approx((3 * np.median(slopes) + 5) / 8)


@pytest.mark.parametrize("num", [15, 60])
def test_the_interval_holds_nine_of_ten_new_cases(num):
    """Over many draws of a few cases: what is promised of new cases is kept, whatever the noise looks like."""
    inside = total = 0
    for seed in range(60):
        cases = make_cases(num, seed=seed, noise=0.5)
        (organ, _), _ = calibrate(["organ"], cases)
        for case in make_cases(40, seed=1000 + seed, noise=0.5):
            low, high = organ.predict(case.expected_dice[0])[1:]
            inside, total = inside + (low <= case.dice[0] <= high), total + 1
    assert 0.87 < inside / total < 0.97


def test_coverage_is_counted_on_unseen_folds():
    (organ, _), _ = calibrate(["organ"], make_cases(200))
    assert 0.82 < organ.coverage < 0.97
    assert calibrate(["organ"], make_cases(8))[0][0].coverage is None


def test_what_is_predicted_for_a_fold_does_not_depend_on_it():
    cases = make_cases(30)
    changed = [dataclasses.replace(case, dice=(0.1,), mean_dice=0.1) if case.fold == 1 else case for case in cases]
    before, after = calibrate(["organ"], cases)[1], calibrate(["organ"], changed)[1]
    for one, other in zip(before, after, strict=True):
        assert (one.predicted_dice == other.predicted_dice) == (one.fold == 1)


def test_cases_of_one_fold_are_split():
    cases = [dataclasses.replace(case, fold=0) for case in make_cases(30)]
    (organ, _), compared = calibrate(["organ"], cases)
    assert organ.error is not None
    whole = [organ.predict(case.expected_dice[0]).dice for case in cases]
    assert [case.predicted_dice[0] for case in compared] != whole  # none of them by itself
    assert organ.coverage is not None


def test_structures_that_are_absent_or_missed():
    cases = make_cases(12)
    two = [
        dataclasses.replace(case, expected_dice=(*case.expected_dice, None), dice=(*case.dice, 0.0))
        for case in cases[:4]
    ]
    two += [
        dataclasses.replace(case, expected_dice=(*case.expected_dice, 0.4), dice=(*case.dice, None))
        for case in cases[4:]
    ]
    (organ, lesion, mean), compared = calibrate(["organ", "lesion"], two)
    assert (lesion.rule, lesion.num_cases, lesion.num_missed) == ("none", 0, 4)
    assert (organ.num_cases, organ.num_missed) == (12, 0)
    assert mean.num_cases == 12
    assert {case.predicted_dice[1] for case in compared} == {None}


def test_equal_expectations_give_a_shift():
    cases = [dataclasses.replace(case, expected_dice=(0.9,)) for case in make_cases(20)]
    (organ, _), _ = calibrate(["organ"], cases)
    assert organ.rule == "shift"
    assert organ.predict(0.9).dice == pytest.approx(np.median([case.dice[0] for case in cases]), abs=0.01)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=3, max_size=30), st.integers(1, 4))
def test_any_cases_give_a_monotone_map_within_0_and_1(pairs, num_folds):
    cases = [
        CaseConfidence(case=str(index), fold=index % num_folds, expected_dice=(guess,), dice=(truth,), mean_dice=truth)
        for index, (guess, truth) in enumerate(pairs)
    ]
    (organ, _), _ = calibrate(["organ"], cases)
    values = [organ.predict(expected) for expected in np.linspace(0, 1, 11)]
    assert all(first.dice <= second.dice + 1e-12 for first, second in itertools.pairwise(values))
    for value in values:
        assert 0 <= value.dice <= 1
        assert value.low is None or 0 <= value.low <= value.high <= 1


def test_log_odds_keep_away_from_the_ends():
    assert share(log_odds(0.3)) == pytest.approx(0.3)
    assert share(log_odds(0.0)) == pytest.approx(0.005)
    assert share(log_odds(1.0)) == pytest.approx(0.995)


def test_bins_add_up_and_the_record_comes_back():
    one = (Bin(count=4, confidence=2.5, correct=3), *EMPTY_BINS[1:])
    total = add_bins([(one, EMPTY_BINS), (one, one)])
    assert total[0][0] == Bin(count=8, confidence=5.0, correct=6)
    assert total[1] == one
    assert len(total[0]) == NUM_BINS
    calibrations, cases = calibrate(["a", "b"], [])
    record = Confidence(
        structures=("a", "b"),
        configurations=("2d",),
        cases=tuple(make_cases(3)),
        bins=total,
        calibrations=calibrations,
        calibration_errors=(0.1, None),
    )
    assert not cases
    assert records.from_json(Confidence, json.loads(records.dumps(record))) == record
    assert record.of_mean == calibrations[-1]
    assert dataclasses.replace(record, calibrations=()).of_mean is None


@pytest.mark.parametrize("num", [4, 999, 1000])
def test_the_slope_of_few_cases_is_the_median_over_all_pairs(num):
    random = np.random.default_rng(num)
    x = random.normal(size=num)
    y = 0.7 * x + random.normal(size=num)
    slopes = [(y[place + 1 :] - y[place]) / (x[place + 1 :] - x[place]) for place in range(num)]
    assert dice_calibration._median_slope(x, y) == np.median(np.concatenate(slopes))


@pytest.mark.parametrize("num", [1001, 2000])
def test_the_slope_of_many_cases_is_close_to_the_median_over_all_pairs(num, monkeypatch):
    random = np.random.default_rng(num)
    x = random.normal(size=num)
    y = 0.7 * x + random.standard_t(2, size=num)
    found = dice_calibration._median_slope(x, y)
    order = random.permutation(num)
    assert dice_calibration._median_slope(x[order], y[order]) == found
    monkeypatch.setattr(dice_calibration, "ALL_PAIRS_CASES", num)
    assert found == pytest.approx(dice_calibration._median_slope(x, y), abs=0.005)


def test_chosen_pairs_are_different_ones_and_every_case_counts_alike():
    num = 1002
    first, second = dice_calibration._some_pairs(num)
    assert 450_000 < len(first) < 500_000
    met = np.zeros((num, num), dtype=int)
    np.add.at(met, (first, second), 1)
    assert (met + met.T).max() == 1
    assert not met.diagonal().any()
    assert len(set(met.sum(axis=0).tolist())) == len(set(met.sum(axis=1).tolist())) == 1


def test_memory_for_many_cases_is_bounded():
    random = np.random.default_rng(0)
    x, y = random.normal(size=(2, 20_000))
    tracemalloc.start()
    dice_calibration._median_slope(x, y)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60e6  # all pairs: 10 GB
    assert dice_calibration._median_slope(np.ones(2000), y[:2000]) is None
