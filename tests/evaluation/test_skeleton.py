"""Centerline Dice: against the published formula on whole images, on shapes, and without scikit-image."""

import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from autoseg.errors import OptionError
from autoseg.evaluation.metric_options import MetricOptions
from autoseg.evaluation.pairs import make_pair
from autoseg.evaluation.skeleton import cldice

morphology = pytest.importorskip("skimage.morphology")
OPTIONS = MetricOptions()


def published(label: np.ndarray, prediction: np.ndarray) -> float:
    """The formula as printed, on the whole images."""
    skeleton_label, skeleton_prediction = morphology.skeletonize(label), morphology.skeletonize(prediction)
    precision = np.sum(skeleton_prediction * label) / np.sum(skeleton_prediction)
    sensitivity = np.sum(skeleton_label * prediction) / np.sum(skeleton_label)
    return 2 * precision * sensitivity / (precision + sensitivity)


def measured(label: np.ndarray, prediction: np.ndarray) -> float | None:
    return cldice(make_pair(label, prediction, (1.0,) * label.ndim), OPTIONS)


@pytest.mark.parametrize("shape", [(60, 70), (20, 24, 28)])
@pytest.mark.parametrize("seed", range(100))
def test_it_equals_the_published_formula(seed: int, shape: tuple[int, ...]) -> None:
    random = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(random.normal(size=shape), 2)
    label = noise > np.quantile(noise, 0.8)
    prediction = ndimage.gaussian_filter(noise + random.normal(size=shape) * noise.std() * 2, 1) > np.quantile(
        noise, 0.75
    )
    if seed % 2:  # away from the border, so that the crop is smaller than the image
        inner = np.zeros(shape, bool)
        inner[tuple(slice(5, -5) for _ in shape)] = True
        label, prediction = label & inner, prediction & inner
    assert measured(label, prediction) == pytest.approx(published(label, prediction), rel=1e-9)


@pytest.mark.data
def test_it_equals_the_published_formula_on_real_vessels(data_folder: Path) -> None:
    from autoseg.data.io import open_label

    files = sorted((data_folder / "drive_retina").rglob("*manual1.gif"))
    assert files, "no vessel labels found"
    random = np.random.default_rng(0)
    for file in files[:3]:
        label = open_label(file).read()[0, 0] > 0
        prediction = ndimage.binary_opening(label, iterations=1) | (label & (random.random(label.shape) < 0.6))
        value = measured(label, prediction)
        assert value == pytest.approx(published(label, prediction), rel=1e-9)
        assert value is not None
        assert 0.3 < value < 1


@pytest.mark.data
def test_it_equals_the_published_formula_on_real_organs_and_tumours(data_folder: Path) -> None:
    from autoseg.data.io import open_label

    files = sorted((data_folder / "hippocampus" / "labelsTr").glob("*.nii.gz"))[:17]
    files += sorted((data_folder / "brats2015_deepmedic").rglob("OTMultiClass.nii.gz"))
    assert len(files) == 20
    for index, file in enumerate(files):
        found = open_label(file).read()[0] > 0
        label = found[tuple(slice(places.min(), places.max() + 1) for places in np.nonzero(found))]
        prediction = np.roll(label, 2, index % 3)
        assert measured(label, prediction) == pytest.approx(published(label, prediction), rel=1e-9)


def test_thickness_costs_nothing_and_a_gap_its_length() -> None:
    label = np.zeros((21, 100), bool)
    label[9:12, 5:95] = True
    thick = ndimage.binary_dilation(label, iterations=3)
    assert measured(label, thick) == 1.0
    gap = label.copy()
    gap[:, 40:60] = False
    value = measured(label, gap)
    assert value is not None
    assert value == pytest.approx(2 * 0.775 / 1.775, abs=0.02)  # 20 of about 89 voxels of the centerline are missing


def test_solids_that_thin_away_still_count() -> None:
    label = np.zeros((8, 8, 8), bool)
    label[3:5, 3:5, 3:5] = True
    assert not morphology.skeletonize(label).any(), "scikit-image keeps it now: the fallback may go"
    assert measured(label, label) == 1.0
    assert measured(label, np.roll(label, 3, axis=0)) == 0.0


def test_empty_masks() -> None:
    nothing, something = np.zeros((9, 9), bool), np.eye(9, dtype=bool)
    assert measured(nothing, nothing) is None
    assert measured(something, nothing) == 0.0
    assert measured(nothing, something) == 0.0
    assert measured(something, something) == 1.0


def test_without_scikit_image_the_message_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage.morphology", None)
    mask = np.eye(9, dtype=bool)
    with pytest.raises(OptionError, match=r"cldice needs scikit-image.*autoseg\[skeleton\]"):
        cldice(make_pair(mask, mask, (1, 1)), OPTIONS)
