"""Calibration: bins against a direct computation, what the choice of voxels does, and that bins add up."""

import numpy as np
import pytest

from autoseg.evaluation.calibration import (
    bin_structure,
    bin_top_label,
    calibration_curve,
    expected_calibration_error,
    mean_calibration_error,
)
from autoseg.evaluation.confidence import LEAST_PROBABILITY, NUM_BINS, add_bins


def direct_error(probability: np.ndarray, right: np.ndarray, num_bins: int = 15) -> float:
    """The published formula, bin by bin, from the voxels themselves."""
    p, right = probability.astype(np.float64).ravel(), right.ravel()
    error = 0.0
    for index in range(num_bins):
        low, high = index / num_bins, (index + 1) / num_bins
        inside = (p >= low) & ((p < high) if index < num_bins - 1 else (p <= high))
        if inside.any():
            error += inside.sum() / p.size * abs(p[inside].mean() - right[inside].mean())
    return error


@pytest.mark.parametrize("seed", range(100))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_error_equals_the_published_formula(seed: int, dtype: type) -> None:
    random = np.random.default_rng(seed)
    shape = (7, 200, 300) if seed == 0 else (7, 20, 30)  # the first is more than one chunk
    probability = random.beta(0.3, 0.6, size=shape).astype(dtype)
    is_there = random.random(probability.shape) < probability**1.5
    error = expected_calibration_error(bin_structure(probability, is_there, where="all"))
    assert error == pytest.approx(direct_error(probability, is_there), rel=1e-6)
    asked = probability >= LEAST_PROBABILITY
    error = expected_calibration_error(bin_structure(probability, is_there))
    assert error == pytest.approx(direct_error(probability[asked], is_there[asked]), rel=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_top_label_equals_the_published_formula(seed: int) -> None:
    random = np.random.default_rng(seed)
    logits = random.normal(size=(4, 9, 10, 11)) * 3
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=0)
    label = random.integers(4, size=(9, 10, 11))
    right = probabilities.argmax(axis=0) == label
    found = expected_calibration_error(bin_top_label(probabilities, label, where="all"))
    assert found == pytest.approx(direct_error(probabilities.max(axis=0), right), rel=1e-6)
    asked = probabilities[0] <= 1 - LEAST_PROBABILITY
    assert not asked.all()
    found = expected_calibration_error(bin_top_label(probabilities, label))
    assert found == pytest.approx(direct_error(probabilities.max(axis=0)[asked], right[asked]), rel=1e-6)


def test_calibrated_probabilities_have_no_error_and_choosing_voxels_by_label_would_invent_one() -> None:
    random = np.random.default_rng(3)
    probability = random.random(400_000)
    is_there = random.random(probability.size) < probability
    assert expected_calibration_error(bin_structure(probability, is_there, where="all")) < 0.005
    assert expected_calibration_error(bin_structure(probability, is_there)) < 0.005
    union = is_there | (probability > 0.5)
    assert expected_calibration_error(bin_structure(probability[union], is_there[union])) > 0.1


def test_background_swamps_the_error_over_all_voxels() -> None:
    probability = np.concatenate([np.zeros(99_000), np.full(1000, 0.9)])
    is_there = np.arange(probability.size) >= 99_500  # half of what is called 0.9 is right
    assert expected_calibration_error(bin_structure(probability, is_there, where="all")) == pytest.approx(0.004)
    assert expected_calibration_error(bin_structure(probability, is_there)) == pytest.approx(0.4)


def test_bins_of_slabs_and_cases_add_up() -> None:
    random = np.random.default_rng(0)
    probability, is_there = random.random((6, 30, 40)), random.random((6, 30, 40)) < 0.5
    whole = bin_structure(probability, is_there)
    assert len(whole) == NUM_BINS
    (merged,) = add_bins([(bin_structure(probability[[z]], is_there[[z]]),) for z in range(6)])
    assert [item.count for item in merged] == [item.count for item in whole]
    assert [item.correct for item in merged] == [item.correct for item in whole]
    assert expected_calibration_error(merged) == pytest.approx(expected_calibration_error(whole), rel=1e-12)


def test_voxels_without_annotation_do_not_count() -> None:
    random = np.random.default_rng(0)
    probability, is_there = random.random((50, 60)), random.random((50, 60)) < 0.5
    annotated = random.random((50, 60)) < 0.7
    assert bin_structure(probability, is_there, annotated) == bin_structure(probability[annotated], is_there[annotated])
    classes = np.stack([1 - probability, probability])
    found = bin_top_label(classes, is_there.astype(int), annotated, "all")
    assert sum(item.count for item in found) == annotated.sum()


def test_curve_gives_means_of_the_bins_that_hold_voxels() -> None:
    probability = np.array([0.0, 0.005, 0.5, 0.52, 1.0])
    is_there = np.array([False, True, True, False, True])
    curve = calibration_curve(bin_structure(probability, is_there, where="all"))
    assert [point.num_voxels for point in curve] == [2, 2, 1]
    assert curve[0] == pytest.approx((0.0025, 0.5, 2))
    assert curve[1] == pytest.approx((0.51, 0.5, 2))
    assert curve[2] == pytest.approx((1.0, 1.0, 1))
    assert calibration_curve(bin_structure(probability, is_there)) == curve[1:]


def test_no_voxel_is_no_error_but_undefined() -> None:
    nothing = bin_structure(np.zeros(5), np.zeros(5, bool))
    assert expected_calibration_error(nothing) is None
    assert calibration_curve(nothing) == ()
    assert expected_calibration_error(bin_structure(np.zeros(5), np.zeros(5, bool), where="all")) == 0.0
    wrong = bin_structure(np.ones(5), np.zeros(5, bool))
    assert mean_calibration_error([nothing, wrong]) == 1.0
    assert mean_calibration_error([nothing]) is None


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="shape"):
        bin_structure(np.zeros(3), np.zeros(4, bool))
