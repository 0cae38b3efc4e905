"""Lesions: against the published procedure done slowly on whole images, and on shapes with known answers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from autoseg.evaluation.lesions import (
    find_lesions,
    lesion_dice,
    lesion_f1,
    lesion_hd95,
    lesion_precision,
    lesion_recall,
    lesion_wise,
)
from autoseg.evaluation.metric_options import FACES, MetricOptions
from autoseg.evaluation.pairs import Pair, make_pair

pytestmark = pytest.mark.filterwarnings("ignore:.*scipy.ndimage.*:DeprecationWarning")  # surface-distance 0.1
PLAIN = MetricOptions()
GLIOMA = MetricOptions(lesion_dilation=3, lesion_min_mm3=50)


def blobs(seed: int, shape: tuple[int, ...], density: float, sigma: float = 1.5) -> np.ndarray:
    """Random islands of many sizes."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), sigma)
    return noise > np.quantile(noise, 1 - density)


def balls(shape: tuple[int, ...], *places: tuple[tuple[int, ...], float]) -> np.ndarray:
    """Balls, each given by its middle and radius."""
    grid = np.indices(shape)
    found = np.zeros(shape, bool)
    for middle, radius in places:
        found |= sum((axis - at) ** 2 for axis, at in zip(grid, middle, strict=True)) <= radius**2
    return found


def slow_lesion_wise(
    label: np.ndarray, prediction: np.ndarray, spacing: tuple[float, ...], dilation: int, minimum: float
) -> dict[str, Any]:
    """BraTS 2023's procedure as its README and script describe it: whole images, one lesion at a time."""
    measure = pytest.importorskip("skimage.measure")
    surface_distance = pytest.importorskip("surface_distance")
    growth = ndimage.generate_binary_structure(label.ndim, 2)

    def grow(mask: np.ndarray) -> np.ndarray:
        return ndimage.binary_dilation(mask, growth, iterations=dilation) if dilation else mask

    groups = measure.label(grow(label), connectivity=label.ndim)
    predicted = measure.label(prediction, connectivity=label.ndim)
    seen: set[int] = set()
    dice, distances, missed = [], [], 0
    for number in range(1, groups.max() + 1):
        lesion = label & (groups == number)
        partners = set(predicted[grow(lesion)].tolist()) - {0}
        seen |= partners
        if lesion.sum() * np.prod(spacing) <= minimum * (1 + 1e-9):
            continue
        found = np.isin(predicted, list(partners))
        missed += not partners
        dice.append(2 * (lesion & found).sum() / (lesion.sum() + found.sum()))
        if partners:
            measured = surface_distance.compute_surface_distances(lesion, found, spacing)
            distances.append(surface_distance.compute_robust_hausdorff(measured, 95))
        else:
            distances.append(374.0)  # instead of the infinity there
    invented = predicted.max() - len(seen)
    total = len(dice) + invented
    return {
        "dice": sum(dice) / total if total else None,
        "hd95": (sum(distances) + 374.0 * invented) / total if total else None,
        "missed": missed,
        "invented": invented,
        "lesion_dice": dice,
    }


def assert_equal(pair: Pair, slow: dict[str, Any], options: MetricOptions) -> None:
    fast = lesion_wise(pair, options)
    assert (fast.num_missed, fast.num_invented) == (slow["missed"], slow["invented"])
    assert fast.dice == (None if slow["dice"] is None else pytest.approx(slow["dice"], rel=1e-9))
    assert fast.hd95 == (None if slow["hd95"] is None else pytest.approx(slow["hd95"], rel=1e-9))
    assert sorted(fast.lesion_dice) == pytest.approx(sorted(slow["lesion_dice"]))
    assert lesion_dice(pair, options) == fast.dice
    assert lesion_hd95(pair, options) == fast.hd95


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize(("dilation", "minimum"), [(0, 0.0), (1, 2.0), (3, 50.0)])
def test_lesion_wise_scores_equal_the_published_procedure(seed: int, dilation: int, minimum: float) -> None:
    label = blobs(seed, (18, 26, 22), 0.04)
    prediction = blobs(seed, (18, 26, 22), 0.05) if seed % 3 else blobs(seed + 100, (18, 26, 22), 0.03)
    prediction &= blobs(seed + 200, (18, 26, 22), 0.8)
    spacing = (1.0, 1.0, 1.0) if seed % 2 else (2.5, 0.75, 0.5)
    options = MetricOptions(lesion_dilation=dilation, lesion_min_mm3=minimum)
    slow = slow_lesion_wise(label, prediction, spacing, dilation, minimum)
    assert_equal(make_pair(label, prediction, spacing), slow, options)


@pytest.mark.parametrize("seed", range(12))
def test_lesion_wise_scores_in_2d_equal_the_slow_procedure(seed: int) -> None:
    label, prediction = blobs(seed, (60, 50), 0.06), blobs(seed + 50, (60, 50), 0.06) | blobs(seed, (60, 50), 0.03)
    for dilation in (0, 2):
        options = MetricOptions(lesion_dilation=dilation, lesion_min_mm3=3)
        slow = slow_lesion_wise(label, prediction, (0.5, 1.5), dilation, 3)
        assert_equal(make_pair(label, prediction, (0.5, 1.5)), slow, options)


@pytest.mark.data
def test_real_hippocampi_equal_the_published_procedure(data_folder: Path) -> None:
    from autoseg.data.io import open_label

    files = sorted((data_folder / "hippocampus" / "labelsTr").glob("*.nii.gz"))[:18]
    assert len(files) == 18
    for index, file in enumerate(files):
        label = open_label(file).read()[0] > 0
        prediction = np.roll(label, 2, index % 3) & blobs(index, label.shape, 0.6, 2.0)
        slow = slow_lesion_wise(label, prediction, (1.0, 1.0, 1.0), 1, 2)
        assert_equal(
            make_pair(label, prediction, (1.0, 1.0, 1.0)), slow, MetricOptions(lesion_dilation=1, lesion_min_mm3=2)
        )


@pytest.mark.data
def test_real_tumours_equal_the_published_procedure(data_folder: Path) -> None:
    from autoseg.data.io import open_label

    cases = sorted((data_folder / "brats2015_deepmedic").rglob("OTMultiClass.nii.gz"))
    assert cases, "no labels found"
    for path in cases:
        enhancing = open_label(path).read()[0] == 4
        box = tuple(slice(max(p.min() - 5, 0), p.max() + 6) for p in np.nonzero(enhancing))
        label = enhancing[box]
        prediction = np.roll(label, (1, -1, 2), (0, 1, 2)) & blobs(1, label.shape, 0.7, 3.0)
        slow = slow_lesion_wise(label, prediction, (1.0, 1.0, 1.0), 3, 50)
        assert_equal(make_pair(enhancing, _paste(prediction, box, enhancing.shape), (1.0, 1.0, 1.0)), slow, GLIOMA)


def _paste(part: np.ndarray, box: tuple[slice, ...], shape: tuple[int, ...]) -> np.ndarray:
    whole = np.zeros(shape, bool)
    whole[box] = part
    return whole


SHAPE = (30, 30, 60)


def test_one_found_one_missed_one_invented() -> None:
    label = balls(SHAPE, ((15, 15, 10), 4), ((15, 15, 30), 4))
    prediction = balls(SHAPE, ((15, 15, 10), 4), ((15, 15, 50), 4))
    pair = make_pair(label, prediction, (1, 1, 1))
    found = lesion_wise(pair, PLAIN)
    assert found.lesion_dice == (1.0, 0.0)
    assert found.lesion_hd95 == (0.0, 374.0)
    assert (found.num_missed, found.num_invented) == (1, 1)
    assert found.dice == pytest.approx(1 / 3)
    assert found.hd95 == pytest.approx(374 * 2 / 3)
    assert lesion_recall(pair, PLAIN) == lesion_precision(pair, PLAIN) == lesion_f1(pair, PLAIN) == 0.5


def test_close_parts_are_one_lesion_only_when_grown() -> None:
    label = balls(SHAPE, ((15, 15, 10), 3), ((15, 15, 19), 3))  # two voxels between them
    prediction = balls(SHAPE, ((15, 15, 10), 3))
    pair = make_pair(label, prediction, (1, 1, 1))
    assert lesion_wise(pair, PLAIN).lesion_dice == (1.0, 0.0)
    assert lesion_wise(pair, GLIOMA).lesion_dice == (pytest.approx(2 / 3),)
    assert lesion_recall(pair, GLIOMA) == 1.0


def test_growing_reaches_past_the_crop_as_within_it() -> None:
    """Two lesions at the border of the crop: what lies between them outside the crop must not tell them apart."""
    label = np.zeros((40, 40, 40), bool)
    label[20, 20, 10], label[20, 20, 17] = True, True
    assert len(find_lesions(make_pair(label, label, (1, 1, 1)), GLIOMA).label_sizes) == 1
    label[20, 20, 17], label[20, 20, 18] = False, True
    assert len(find_lesions(make_pair(label, label, (1, 1, 1)), GLIOMA).label_sizes) == 2


def test_a_prediction_near_a_lesion_is_no_invention_when_grown() -> None:
    label, prediction = balls(SHAPE, ((15, 15, 10), 3)), balls(SHAPE, ((15, 15, 16), 2))
    pair = make_pair(label, prediction, (1, 1, 1))
    assert lesion_wise(pair, PLAIN).num_invented == 1
    near = lesion_wise(pair, GLIOMA)
    assert (near.dice, near.num_invented, near.num_missed) == (0.0, 0, 0)
    assert near.hd95 is not None
    assert 0 < near.hd95 < 20


def test_small_lesions_count_neither_missed_nor_found() -> None:
    label = balls(SHAPE, ((15, 15, 10), 4), ((15, 15, 40), 1))  # the small one has 7 voxels
    options = MetricOptions(lesion_min_mm3=7)
    for prediction in (balls(SHAPE, ((15, 15, 10), 4)), label):
        pair = make_pair(label, prediction, (1, 1, 1))
        assert lesion_wise(pair, options).lesion_dice == (1.0,)
        assert lesion_wise(pair, options).num_invented == 0
        assert lesion_recall(pair, options) == lesion_precision(pair, options) == 1.0
    pair = make_pair(label, balls(SHAPE, ((15, 15, 10), 4)), (1, 1, 1))
    assert lesion_recall(pair, MetricOptions(lesion_min_mm3=6)) == 0.5


def test_one_prediction_over_two_lesions_counts_with_each() -> None:
    label = np.zeros((10, 10, 30), bool)
    label[4:6, 4:6, 2:6] = label[4:6, 4:6, 10:14] = True
    prediction = np.zeros_like(label)
    prediction[4:6, 4:6, 2:14] = True
    found = lesion_wise(make_pair(label, prediction, (1, 1, 1)), PLAIN)
    assert found.lesion_dice == (0.5, 0.5)
    assert (found.num_missed, found.num_invented) == (0, 0)


def test_detection_can_ask_for_more_than_a_voxel() -> None:
    label, prediction = np.zeros((4, 12), bool), np.zeros((4, 12), bool)
    label[1, 1:9] = True
    prediction[1, 5:9] = True  # half of the label, wholly right: IoU 0.5
    pair = make_pair(label, prediction, (1, 1))
    for options, recall, precision in (
        (MetricOptions(lesion_overlap=0.49), 1.0, 1.0),
        (MetricOptions(lesion_overlap=0.5), 0.0, 1.0),
        (MetricOptions(lesion_iou=0.49), 1.0, 1.0),
        (MetricOptions(lesion_iou=0.5), 0.0, 0.0),
    ):
        assert (lesion_recall(pair, options), lesion_precision(pair, options)) == (recall, precision)
    assert lesion_f1(pair, MetricOptions(lesion_overlap=0.5)) == 0.0
    with pytest.raises(ValueError, match="set one"):
        MetricOptions(lesion_overlap=0.5, lesion_iou=0.5)


@pytest.mark.parametrize("seed", range(6))
def test_overlap_options_equal_a_loop_over_lesions(seed: int) -> None:
    measure = pytest.importorskip("skimage.measure")
    label, prediction = blobs(seed, (40, 60), 0.2, 1.0), blobs(seed, (40, 60), 0.2, 1.2)
    pair = make_pair(label, prediction, (1, 1))
    ones, others = measure.label(label), measure.label(prediction)
    covered = [(prediction & (ones == n)).sum() / (ones == n).sum() for n in range(1, ones.max() + 1)]
    assert lesion_recall(pair, MetricOptions(lesion_overlap=0.3)) == pytest.approx(np.mean(np.array(covered) > 0.3))
    best = [
        max(((ones == n) & (others == m)).sum() / ((ones == n) | (others == m)).sum() for n in range(1, ones.max() + 1))
        for m in range(1, others.max() + 1)
    ]
    assert lesion_precision(pair, MetricOptions(lesion_iou=0.4)) == pytest.approx(np.mean(np.array(best) > 0.4))


def test_connectivity_decides_whether_corners_join() -> None:
    label = np.zeros((4, 4, 4), bool)
    label[1, 1, 1] = label[2, 2, 2] = True
    pair = make_pair(label, label, (1, 1, 1))
    assert len(pair.lesions.label_sizes) == 1
    assert len(find_lesions(pair, MetricOptions(connectivity=FACES)).label_sizes) == 2


@pytest.mark.parametrize("options", [PLAIN, GLIOMA], ids=["plain", "glioma"])
def test_empty_masks(options: MetricOptions) -> None:
    nothing, ball = np.zeros(SHAPE, bool), balls(SHAPE, ((15, 15, 20), 5))
    metrics = (lesion_f1, lesion_precision, lesion_recall, lesion_dice, lesion_hd95)
    both = make_pair(nothing, nothing, (1, 1, 1))
    assert [metric(both, options) for metric in metrics] == [None] * 5
    only_label, only_prediction = make_pair(ball, nothing, (1, 1, 1)), make_pair(nothing, ball, (1, 1, 1))
    assert [metric(only_label, options) for metric in metrics] == [0.0, None, 0.0, 0.0, 374.0]
    assert [metric(only_prediction, options) for metric in metrics] == [0.0, 0.0, None, 0.0, 374.0]
