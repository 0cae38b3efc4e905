"""Statistics: intervals and tests against scipy's, against enumeration, and where there is nothing to compute."""

import itertools
import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.evaluation.statistics import (
    EXACT_DIFFERENCES,
    NUM_RESAMPLES,
    Difference,
    _sign_flip,
    bootstrap_mean,
    bootstrap_means,
    is_non_inferior,
    paired_difference,
)
from planners import records

DRAWS = {
    "dice": lambda random, size: random.beta(30, 4, size),
    "failures": lambda random, size: np.where(random.random(size) < 0.08, 0.2, random.beta(30, 4, size)),
    "distances": lambda random, size: random.lognormal(1, 1, size),
}


@pytest.mark.parametrize("size", [5, 20, 100])
@pytest.mark.parametrize("kind", DRAWS)
def test_interval_equals_scipys_to_its_own_noise(kind: str, size: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    values = DRAWS[kind](np.random.default_rng(size), size)
    found = bootstrap_mean(values.tolist())
    oracle = stats.bootstrap(
        (values,), np.mean, n_resamples=NUM_RESAMPLES, method="BCa", vectorized=True, random_state=1
    ).confidence_interval
    assert found is not None
    assert found.mean == pytest.approx(values.mean(), rel=1e-12)
    width = oracle.high - oracle.low
    assert found.low == pytest.approx(oracle.low, abs=0.05 * width)
    assert found.high == pytest.approx(oracle.high, abs=0.05 * width)
    assert found.low < found.mean < found.high


def test_interval_is_the_same_whatever_the_order_and_whatever_is_computed_beside_it() -> None:
    random = np.random.default_rng(0)
    columns = [random.random(30).tolist() for _ in range(120)]  # more than are resampled together
    columns[7] = columns[7][:11]
    together = bootstrap_means(columns)
    for index in (0, 7, 119):
        alone = bootstrap_mean(columns[index][::-1])
        assert together[index] is not None
        assert alone is not None
        assert together[index].low == pytest.approx(alone.low, rel=1e-12)
        assert together[index].high == pytest.approx(alone.high, rel=1e-12)
    assert bootstrap_mean(columns[0]) == bootstrap_mean(columns[0])
    assert bootstrap_mean(columns[0]) != bootstrap_mean(columns[0], seed=1)


def test_what_is_absent_does_not_count() -> None:
    assert bootstrap_mean([None, 0.5, None, 0.7, 0.9]) == bootstrap_mean([0.5, 0.7, 0.9])
    assert bootstrap_mean([]) is None
    assert bootstrap_mean([None, None]) is None
    assert bootstrap_means([[], [None], [0.25]])[:2] == (None, None)


@pytest.mark.parametrize("values", [[0.3], [0.1] * 7, [0.0, 0.0]])
def test_one_case_and_equal_values_have_no_width(values: list[float]) -> None:
    found = bootstrap_mean(values)
    assert found is not None
    assert found.low == found.high == found.mean == pytest.approx(values[0])
    assert found.num_cases == len(values)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=12))
def test_interval_lies_within_the_values(values: list[float]) -> None:
    found = bootstrap_mean(values)
    assert found is not None
    slack = 1e-9 * max(map(abs, values))
    assert min(values) - slack <= found.low <= found.high <= max(values) + slack


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        bootstrap_mean([0.5, value])


def test_memory_is_bounded_whatever_the_number_of_cases() -> None:
    random = np.random.default_rng(0)
    first, second = random.random(3000).tolist(), random.random(3000).tolist()
    paired_difference(first[:5], second[:5])  # imports are not what is measured
    tracemalloc.start()
    paired_difference(first, second)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40e6  # all samples at once would take 240 MB


def enumerated_p(differences: list[float]) -> float:
    """All ways to flip the signs, one by one."""
    observed = abs(math.fsum(differences))
    flips = list(itertools.product((1, -1), repeat=len(differences)))
    sums = [abs(math.fsum(s * d for s, d in zip(signs, differences, strict=True))) for signs in flips]
    return sum(value >= observed - 1e-12 for value in sums) / len(flips)


@pytest.mark.parametrize("size", [1, 2, 5, 9])
def test_p_of_few_cases_is_exact(size: int) -> None:
    random = np.random.default_rng(size)
    first, second = random.normal(0.05, 0.1, size).tolist(), [0.0] * size
    found = paired_difference(first, second)
    assert found is not None
    assert found.exact
    assert found.p == pytest.approx(enumerated_p(first))


def test_p_with_ties_and_equal_cases_is_exact() -> None:
    first, second = [1.0, 1.0, 1.0, 0.5, 0.25, 0.25], [0.0, 0.0, 0.0, 0.5, 0.25, 0.5]
    found = paired_difference(first, second)
    assert found is not None
    assert found.p == pytest.approx(enumerated_p([1.0, 1.0, 1.0, 0.0, 0.0, -0.25]))


def test_p_of_many_cases_equals_scipys() -> None:
    stats = pytest.importorskip("scipy.stats")
    random = np.random.default_rng(4)
    first, second = random.normal(0.03, 0.1, 80), np.zeros(80)
    found = paired_difference(first.tolist(), second.tolist())
    oracle = stats.permutation_test(
        (first, second),
        lambda a, b, axis: (a - b).mean(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=20_000,
        random_state=0,
    )
    assert found is not None
    assert not found.exact
    assert found.p == pytest.approx(oracle.pvalue, abs=4 * math.sqrt(oracle.pvalue / NUM_RESAMPLES))


def test_sampled_p_agrees_with_the_exact_one_and_is_never_zero() -> None:
    random = np.random.default_rng(1)
    values = random.normal(0.02, 0.05, EXACT_DIFFERENCES)
    exact = paired_difference(values.tolist(), [0.0] * len(values))
    sampled = paired_difference([*values.tolist(), 1e-9], [0.0] * (len(values) + 1))
    assert exact is not None
    assert sampled is not None
    assert (exact.exact, sampled.exact) == (True, False)
    assert sampled.p == pytest.approx(exact.p, abs=4 * math.sqrt(exact.p / NUM_RESAMPLES))
    sure = paired_difference([1.0] * 100, [0.0] * 100)
    assert sure is not None
    assert sure.p == 1 / NUM_RESAMPLES


def test_false_alarms_are_as_frequent_as_p_says() -> None:
    random = np.random.default_rng(0)
    found = [paired_difference(random.normal(size=12).tolist(), [0.0] * 12) for _ in range(400)]
    assert 0.02 < np.mean([item is not None and item.p <= 0.05 for item in found]) < 0.085


def test_difference_is_first_minus_second_over_the_cases_of_both() -> None:
    found = paired_difference([0.9, 0.8, None, 0.5], [0.7, 0.7, 0.1, None])
    assert found is not None
    assert found.mean == pytest.approx(0.15)
    assert found.num_cases == 2
    other = paired_difference([0.7, 0.7, 0.1, None], [0.9, 0.8, None, 0.5])
    assert other is not None
    assert (other.mean, other.p) == (pytest.approx(-0.15), found.p)
    assert records.from_json(Difference, records.to_json(found)) == found


def test_without_a_common_case_there_is_no_difference() -> None:
    assert paired_difference([None, 0.5], [0.5, None]) is None
    assert paired_difference([], []) is None
    with pytest.raises(ValueError, match="pairs"):
        paired_difference([0.5], [0.5, 0.6])


def test_identical_sets_differ_by_nothing() -> None:
    values = np.random.default_rng(0).random(30).tolist()
    found = paired_difference(values, values)
    assert found == Difference(mean=0, low=0, high=0, num_cases=30, p=1.0, exact=True)
    assert is_non_inferior(values, values, 0.01) is True
    assert is_non_inferior(values, values, 0.0) is False  # not worse by less than nothing


def test_non_inferiority_looks_at_the_worse_end_of_the_interval() -> None:
    drawn = np.random.default_rng(5).normal(0, 0.02, 40)
    first, second = (drawn - drawn.mean() - 0.002).tolist(), [0.0] * 40
    found = paired_difference(first, second)
    assert found is not None
    assert found.low < -0.001 < 0.001 < found.high
    for margin, difference in itertools.product((0.9, 1.1), (found, None)):
        assert is_non_inferior(first, second, -margin * found.low, difference=difference) is (margin > 1)
        assert is_non_inferior(first, second, margin * found.high, "lower", difference=difference) is (margin > 1)
        assert is_non_inferior(first, second, margin * found.high, "zero", difference=difference) is (margin > 1)
    assert is_non_inferior(first, second, 0.01, "neither") is None
    with pytest.raises(ValueError, match="negative"):
        is_non_inferior(first, second, -0.01)


@pytest.mark.parametrize("size", range(1, 8))
def test_fewer_than_six_cases_cannot_show_non_inferiority(size: int) -> None:
    """However much better the first is: of two cases the interval is just the smaller and the larger one."""
    first, second = [0.9, 0.85, 0.9, 0.88, 0.9, 0.91, 0.92][:size], [0.5] * size
    assert is_non_inferior([*first, None], [*second, 0.3], 0.01) is (True if size >= 6 else None)
    assert is_non_inferior(second, first, 0.01, "lower") is (True if size >= 6 else None)
    assert is_non_inferior([None], [0.5], 0.01) is None


def test_non_inferiority_asks_for_a_sign_flip_test_beside_the_interval() -> None:
    """Of six cases one lies beyond the margin: the interval, too narrow, does not see it, the test does."""
    first = [0.0, 0.0, 0.0, 0.0, 0.0, -0.0101]
    found = paired_difference(first, [0.0] * 6)
    assert found is not None
    assert found.low > -0.01
    moved = [value + 0.01 for value in first]
    flips = [
        math.fsum(s * d for s, d in zip(signs, moved, strict=True)) for signs in itertools.product((1, -1), repeat=6)
    ]
    assert np.mean(np.array(flips) >= math.fsum(moved) - 1e-12) == 2 / 64 > 0.025
    assert is_non_inferior(first, [0.0] * 6, 0.01) is False
    assert is_non_inferior([*first, 0.0], [0.0] * 7, 0.01) is True  # 2 of 128
    assert is_non_inferior([-0.01] * 30, [0.0] * 30, 0.01) is False  # exactly as far behind as the margin


def test_of_sets_exactly_at_the_margin_few_pass() -> None:
    """What is truly worse by the margin is called no worse in at most about 2.5 % of draws."""
    random = np.random.default_rng(1)
    passed = [is_non_inferior(random.normal(-0.05, 0.05, 8).tolist(), [0.0] * 8, 0.05) for _ in range(150)]
    assert np.mean([bool(item) for item in passed]) < 0.06


@pytest.mark.parametrize("mean", [0.02, -0.02])
def test_sampled_one_sided_p_agrees_with_the_exact_one(mean: float) -> None:
    values = np.random.default_rng(1).normal(mean, 0.05, EXACT_DIFFERENCES)
    exact, sampled = (_sign_flip(part, 0, one_sided=True) for part in (values, np.append(values, 1e-9)))
    assert (exact[1], sampled[1]) == (True, False)
    assert (exact[0] < 0.5) == (mean > 0)
    assert sampled[0] == pytest.approx(exact[0], abs=4 * math.sqrt(exact[0] / NUM_RESAMPLES))
