"""Bringing images to a common diameter: when, to which, and how it is estimated."""

from typing import Any

import numpy as np
import pytest

from planners import Channel, Fingerprint, LabelClass, Labels
from planners.diameter import LEFT_EXPONENT, LIMITS, RIDGE, fit_ridge, fit_scaling, scale_of, spread_of
from planners.fingerprint import CaseObjects, InstanceStats
from planners.records import PlanError


def known(features: np.ndarray | tuple[Any, ...], diameters: list[float | None] | np.ndarray) -> Fingerprint:
    """Facts of images with features and median diameters (None: without objects)."""
    cases = tuple(
        CaseObjects(count=0) if value is None else CaseObjects(count=7, diameter_mm=float(value)) for value in diameters
    )
    return Fingerprint(
        dataset="cells",
        channels=(Channel(name="grey"),),
        labels=Labels(classes=(LabelClass(name="background", value=0), LabelClass(name="cell", value=1))),
        num_cases=len(cases),
        spacings_mm=((999.0, 1.0, 1.0),) * len(cases),
        shapes=((1, 256, 256),) * len(cases),
        instances=InstanceStats(
            cases=cases,
            diameters_mm=(8.0, 16.0, 40.0),
            solidity=0.9,
            elongation=1.2,
            touching_fraction=0.3,
            background_fraction=0.8,
        ),
        size_features=tuple(tuple(map(float, row)) for row in features),
    )


def images(num: int, noise: float, low: float = 5, high: float = 100, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features from which diameters between two bounds follow, but for noise."""
    rng = np.random.default_rng(seed)
    logs = rng.uniform(np.log(low), np.log(high), num)
    others = rng.normal(size=(num, 4))
    first = logs - others @ [0.3, -0.2, 0, 0] - 0.5 + noise * rng.normal(size=num)
    return np.column_stack([first, others]), np.exp(logs)


def test_sizes_that_spread_and_can_be_estimated_are_brought_to_the_median() -> None:
    features, diameters = images(60, 0.1)
    decision = fit_scaling(known(features, diameters))
    assert decision.rule == "common-diameter"
    scaling = decision.value
    assert scaling is not None
    assert scaling.diameter_mm == pytest.approx(np.median(diameters))
    scales = np.array([scale_of(row, scaling, "cells") for row in features])
    assert spread_of(np.log(diameters * scales)) < spread_of(np.log(diameters)) ** LEFT_EXPONENT
    assert np.median(diameters * scales) == pytest.approx(scaling.diameter_mm, rel=0.15)
    assert f"rescaled to {np.median(diameters):.3g} mm, the median of 60 images" in decision.because


def test_an_image_of_twice_the_size_gets_half_the_factor() -> None:
    features, diameters = images(60, 0.1)
    scaling = fit_scaling(known(features, diameters)).value
    assert scaling is not None
    row = features[np.argsort(diameters)[30]]
    larger = [row[0] + np.log(2), *row[1:]]
    assert scale_of(larger, scaling, "cells") == scale_of(row, scaling, "cells") / 2


def test_no_image_is_changed_beyond_what_the_measured_ones_ask_for() -> None:
    features, diameters = images(60, 0.1)
    scaling = fit_scaling(known(features, diameters)).value
    assert scaling is not None
    common = np.median(diameters)
    assert scaling.least == pytest.approx(max(LIMITS[0], common / diameters.max()))
    assert scaling.most == pytest.approx(min(LIMITS[1], common / diameters.min()))
    for shift in (-20, 20):
        assert scaling.least <= scale_of(features[0] + shift, scaling, "cells") <= scaling.most


@pytest.mark.parametrize(
    ("num", "noise", "high", "rule", "because"),
    [
        (60, 0.1, 10, "diameters-alike", "not rescaled: of 60 images the median diameters spread by a factor of 1.9"),
        (60, 1.5, 100, "diameters-hard-to-estimate", "what can be estimated from an image alone a factor of"),
        (9, 0.1, 60, "too-few-for-diameters", "not rescaled: 9 images with objects to learn"),
    ],
)
def test_otherwise_images_stay_as_they_are(num: int, noise: float, high: float, rule: str, because: str) -> None:
    decision = fit_scaling(known(*images(num, noise, high=high)))
    assert decision.value is None
    assert decision.rule == rule
    assert because in decision.because


@pytest.mark.parametrize("num", [10, 30])
def test_chance_rescales_nothing(num: int) -> None:
    """Features that know nothing of the diameters."""
    for seed in range(40):
        features, diameters = images(num, 0.1, seed=seed)
        shuffled = np.random.default_rng(seed).permutation(features)
        assert fit_scaling(known(shuffled, diameters)).value is None


def test_images_without_objects_or_features_are_passed_over() -> None:
    features, diameters = images(40, 0.1)
    plain = fit_scaling(known(features, diameters))
    rows = [tuple(row) for row in features] + [tuple(features[0] + 9), ()]
    assert fit_scaling(known(tuple(rows), [*diameters, None, 500.0])) == plain


def test_without_features_nothing_is_rescaled() -> None:
    decision = fit_scaling(known((), images(40, 0.1)[1]))
    assert decision.value is None
    assert decision.rule == "too-few-for-diameters"


def test_left_out_equals_fitting_again_without() -> None:
    features, diameters = images(15, 0.3)
    features[:, 4] = 3.0  # says nothing
    values = np.log(diameters)
    weights, missed = fit_ridge(features, values)
    middle, deviation = features[:, 1:4].mean(axis=0), features[:, 1:4].std(axis=0)
    standard, wanted = (features[:, 1:4] - middle) / deviation, values - features[:, 0]
    for index in range(len(values)):
        rest = np.arange(len(values)) != index
        design = np.column_stack([np.ones(len(values)), standard])
        penalty = RIDGE * len(values) * np.diag([0.0, 1, 1, 1])
        solved = np.linalg.solve(design[rest].T @ design[rest] + penalty, design[rest].T @ wanted[rest])
        assert missed[index] == pytest.approx(wanted[index] - design[index] @ solved)
    assert weights[1] == 1
    assert weights[5] == 0


def test_features_of_other_images_are_refused() -> None:
    features, diameters = images(12, 0.1)
    rows = [tuple(row) for row in features]
    with pytest.raises(PlanError, match="5 and 6 size features"):
        fit_scaling(known((*rows[:-1], (*rows[-1], 1.0)), diameters))
    scaling = fit_scaling(known(features, diameters)).value
    assert scaling is not None
    with pytest.raises(PlanError, match=r"cells: scaling.weights has 6 entries; this version needs 3"):
        scale_of((1.0, 2.0), scaling, "cells")
