"""Every normalization in the table is finite and clean on any input; each formula by itself."""

import numpy as np
import pytest

from autoseg.errors import ImageError
from autoseg.preprocessing.normalization import NORMALIZATIONS, USES_INTENSITIES, ct, none, rescale_0_1, rgb_0_1, zscore
from planners import recipe
from planners.fingerprint import Intensities
from planners.records import PlanError

INTENSITIES = Intensities(
    mean=40.0, median=35.0, std=25.0, minimum=-900.0, maximum=900.0, percentile_00_5=-50.0, percentile_99_5=120.0
)
IMAGES = {
    "random": np.random.default_rng(0).uniform(0, 255, size=(4, 5, 6)),
    "constant": np.full((3, 3, 3), 200.7),
    "zeros": np.zeros((2, 3, 4)),
    "one voxel": np.full((1, 1, 1), 255.0),
    "empty": np.zeros((0, 3, 4)),
}


@pytest.mark.parametrize("name", NORMALIZATIONS)
@pytest.mark.parametrize("kind", IMAGES)
@pytest.mark.parametrize("masked", ["no mask", "half", "nothing inside"])
def test_contract(name: str, kind: str, masked: str) -> None:
    image = IMAGES[kind].astype(np.float32)
    kept = image.copy()
    half = np.arange(image.size).reshape(image.shape) % 2 == 0
    mask = {"no mask": None, "half": half, "nothing inside": np.zeros(image.shape, dtype=bool)}[masked]
    result = NORMALIZATIONS[name](image, mask, INTENSITIES)
    assert result.dtype == np.float32
    assert result.shape == image.shape
    assert np.isfinite(result).all()
    assert not np.shares_memory(result, image)
    np.testing.assert_array_equal(image, kept)
    again = NORMALIZATIONS[name](
        image.transpose(2, 0, 1), None if mask is None else mask.transpose(2, 0, 1), INTENSITIES
    )
    np.testing.assert_allclose(again.transpose(1, 2, 0), result, rtol=1e-5, atol=1e-5)


def test_the_table_holds_every_name_that_planners_give() -> None:
    assert set(recipe.NORMALIZATION_BY_NAME.values()) <= set(NORMALIZATIONS)
    assert set(USES_INTENSITIES) <= set(NORMALIZATIONS)


def test_zscore() -> None:
    image = np.random.default_rng(1).normal(1e5, 3, size=(6, 7, 8)).astype(np.float32)
    exact = (image.astype(float) - image.mean(dtype=float)) / image.std(dtype=float)
    np.testing.assert_allclose(zscore(image, None, None), exact, atol=3e-3)  # float32 has 1/128 at 1e5
    constant = zscore(np.full((2, 2, 2), 1.1e6, dtype=np.float32), None, None)
    np.testing.assert_array_equal(constant, 0)


def test_zscore_inside_a_mask_changes_nothing_else() -> None:
    image = np.random.default_rng(1).uniform(1, 9, size=(6, 7, 8)).astype(np.float32)
    mask = image > 4
    result = zscore(image, mask, None)
    np.testing.assert_array_equal(result[~mask], image[~mask])
    assert result[mask].mean() == pytest.approx(0, abs=1e-5)
    assert result[mask].std() == pytest.approx(1, abs=1e-5)


def test_large_image_is_summed_in_parts() -> None:
    image = np.random.default_rng(2).uniform(size=(3, 700, 800)).astype(np.float32)
    result = zscore(image, np.ones(image.shape, dtype=bool), None)
    np.testing.assert_allclose(result, (image - image.mean(dtype=float)) / image.std(dtype=float), atol=1e-5)


def test_ct() -> None:
    image = np.array([[[-1000.0, 0.0, 65.0, 500.0]]], dtype=np.float32)
    np.testing.assert_allclose(ct(image, None, INTENSITIES), [[[-3.6, -1.6, 1.0, 3.2]]], rtol=1e-6)
    with pytest.raises(PlanError, match="needs the channel's intensities"):
        ct(image, None, None)


def test_the_simple_ones() -> None:
    image = np.array([[[10.0, 20.0, 30.0]]], dtype=np.float32)
    np.testing.assert_array_equal(none(image, None, None), image)
    np.testing.assert_array_equal(rescale_0_1(image, None, None), [[[0, 0.5, 1]]])
    np.testing.assert_allclose(rgb_0_1(image, None, None), image / 255)


@pytest.mark.parametrize("value", [-1.0, 256.0])
def test_colours_outside_8_bit_are_refused(value: float) -> None:
    with pytest.raises(ImageError, match="no 8-bit colours"):
        rgb_0_1(np.full((1, 1, 2), value, dtype=np.float32), None, None)
