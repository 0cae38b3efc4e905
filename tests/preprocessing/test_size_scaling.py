"""The factor that an image is enlarged by: asked of the image alone, limited, in steps."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from autoseg.preprocessing.preprocess import preprocess_case
from autoseg.preprocessing.size_features import NUM_FEATURES, size_features
from autoseg.preprocessing.size_scaling import image_scale
from planners.fingerprint import Fingerprint
from planners.geometry import median_resampled_shape, reorder
from planners.instance_plan import enlarge
from planners.plan import Configuration, Plan, SizeScaling
from planners.records import PlanError

FLAT = (999.0, 1.0, 1.0)
PlanMaker = Callable[..., tuple[Plan, Configuration]]


def stripes(period: int, side: int = 96) -> np.ndarray:
    """Squares of half a period."""
    wave = (np.arange(side) % period) < period // 2
    return (wave[:, None] & wave).astype(np.float32)[None, None]


def scaling(**changes: Any) -> SizeScaling:
    """The diameter is taken to be the mean of the lengths: of a common one of 16 mm."""
    return SizeScaling(**{"diameter_mm": 16.0, "weights": (0.0, 1.0, *[0.0] * (NUM_FEATURES - 1)), **changes})


def test_one_where_the_configuration_has_no_scaling(make_plan: PlanMaker) -> None:
    _, configuration = make_plan((1.0, 1.0))
    assert image_scale(stripes(8), FLAT, configuration) == 1.0


def test_larger_things_are_enlarged_less_by_as_much(make_plan: PlanMaker) -> None:
    _, configuration = make_plan((1.0, 1.0), scaling=scaling())
    small, large = image_scale(stripes(8), FLAT, configuration), image_scale(stripes(16, 192), FLAT, configuration)
    assert small == 2 * large
    assert 4 * np.log2(small) == pytest.approx(round(4 * np.log2(small)))
    fine = image_scale(stripes(8), (999.0, 0.5, 0.5), configuration)
    assert fine == 2 * small  # of half the diameter in mm
    expected = 16 / np.exp(size_features(stripes(8), FLAT)[0])
    assert abs(np.log2(small / expected)) <= 1 / 8


def test_rounding_noise_and_contrast_change_no_grid(make_plan: PlanMaker) -> None:
    _, configuration = make_plan((1.0, 1.0), scaling=scaling())
    image = stripes(12) + np.random.default_rng(0).normal(size=(1, 1, 96, 96)).astype(np.float32) / 20
    found = image_scale(image, FLAT, configuration)
    assert image_scale(image * np.float32(1 + 1e-6), (999.0, 1 + 1e-7, 1 - 1e-7), configuration) == found
    assert image_scale(1000 - 200 * image, FLAT, configuration) == found


@pytest.mark.parametrize(
    ("diameter", "least", "most", "expected"), [(1e4, 0.5, 3.0, 2**1.5), (1e-4, 0.4, 3.0, 2**-1.25)]
)
def test_limits_hold_in_whole_steps(
    make_plan: PlanMaker, diameter: float, least: float, most: float, expected: float
) -> None:
    _, configuration = make_plan((1.0, 1.0), scaling=scaling(diameter_mm=diameter, least=least, most=most))
    assert image_scale(stripes(8), FLAT, configuration) == expected


def test_an_image_that_shows_nothing_stays(make_plan: PlanMaker) -> None:
    _, configuration = make_plan((1.0, 1.0), scaling=scaling(diameter_mm=1e4))
    assert image_scale(np.zeros((1, 1, 64, 64)), FLAT, configuration) == 1.0


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_planning_expects_the_grid_that_preprocessing_makes(make_plan: PlanMaker, order: tuple[int, int, int]) -> None:
    """Whatever the plan's order of axes: equal spacings, and things of another size along each."""
    image = np.indices((40, 48, 64))
    periods = np.array([5, 9, 32]).reshape(3, 1, 1, 1)
    image = np.all(np.sin(image * 2 * np.pi / periods) > 0, axis=0)
    image, ones = 1 + image[None].astype(np.float32), (1.0, 1.0, 1.0)
    features = size_features(image, ones)
    turned = size_features(image.transpose(0, *(1 + axis for axis in order)), ones)
    assert order == (0, 1, 2) or abs(turned[0] - features[0]) > 0.2, "it matters which planes are looked at"
    plan, configuration = make_plan(ones, axis_order=order, scaling=scaling(diameter_mm=12.0, least=0.1, most=10.0))
    facts = Fingerprint(
        dataset="d",
        channels=plan.channels,
        labels=plan.labels,
        num_cases=1,
        spacings_mm=(ones,),
        shapes=((40, 48, 64),),
        size_features=(features,),
    )
    seen = enlarge(facts, configuration.scaling)
    expected = reorder(median_resampled_shape(seen.spacings_mm, seen.shapes, ones), order)
    assert preprocess_case(image, ones, plan, configuration).grid.shape == tuple(map(int, expected))


def test_weights_of_another_version_are_refused(make_plan: PlanMaker) -> None:
    _, configuration = make_plan((1.0, 1.0), scaling=scaling(weights=(0.0, 1.0)))
    with pytest.raises(PlanError, match=rf"scaling.weights has 2 entries; this version needs {1 + NUM_FEATURES}"):
        image_scale(stripes(8), FLAT, configuration)
