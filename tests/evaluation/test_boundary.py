"""Boundary IoU equals the paper's steps on pixels, and an erosion by a box elsewhere."""

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy import ndimage

from autoseg.evaluation.boundary import band_widths, border_band, boundary_iou
from autoseg.evaluation.metric_options import MetricOptions
from autoseg.evaluation.pairs import make_pair


def paper(label: np.ndarray, prediction: np.ndarray, fraction: float) -> float:
    """The paper's steps: as many erosions by a 3 × 3 square as the band is wide; beyond the image is background."""
    width = max(round(fraction * math.sqrt(sum(size**2 for size in label.shape))), 1)
    square = np.ones((3,) * label.ndim)
    bands = [mask & ~ndimage.binary_erosion(mask, square, iterations=width) for mask in (label, prediction)]
    return (bands[0] & bands[1]).sum() / (bands[0] | bands[1]).sum()


@pytest.mark.parametrize("fraction", [0.001, 0.02, 0.05, 0.3])
def test_equals_the_paper_on_pixels(fraction: float) -> None:
    for seed in range(30):
        rng = np.random.default_rng(seed)
        shape = tuple(rng.integers(20, 60, 2).tolist()) if seed % 3 else tuple(rng.integers(8, 20, 3).tolist())
        noise = ndimage.gaussian_filter(rng.normal(size=(2, *shape)), (0, *(3,) * len(shape)))
        label, prediction = noise[0] > 0, noise[0] + 0.3 * noise[1] > 0  # reaches the border of the image
        for spacing in (1.0, 0.7):
            value = boundary_iou(
                make_pair(label, prediction, (spacing,) * len(shape)), MetricOptions(boundary_fraction=fraction)
            )
            assert value == pytest.approx(paper(label, prediction, fraction), rel=1e-12)


def test_width_follows_the_spacing() -> None:
    assert band_widths((300, 400), (1.0, 1.0), 0.02) == (10, 10)
    assert band_widths((300, 400), (0.1, 0.1), 0.02) == (10, 10)
    # 40 × 300 × 400 mm: a diagonal of 501.6 mm, a band of 10.03 mm
    assert band_widths((8, 300, 400), (5.0, 1.0, 1.0), 0.02) == (2, 10, 10)
    assert band_widths((4, 10), (5.0, 0.5), 0.02) == (1, 1)


@pytest.mark.parametrize("widths", [(1, 3, 2), (2, 1, 9), (12, 3, 2)])
def test_band_equals_erosion_by_a_box(widths: tuple[int, ...]) -> None:
    mask = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(9, 15, 17)), 2) > -0.02
    box = np.ones([2 * width + 1 for width in widths])
    np.testing.assert_array_equal(border_band(mask, widths), mask & ~ndimage.binary_erosion(mask, box))


def test_known_squares() -> None:
    label, prediction = np.zeros((2, 100, 100), dtype=bool)
    label[20:60, 20:60] = True
    prediction[20:60, 30:70] = True
    options = MetricOptions(boundary_fraction=0.02)  # 0.02 × 141.4 = 2.8: three voxels
    ring = 40 * 40 - 34 * 34
    both = 2 * 3 * 30  # the upper and lower edge, as far as the squares lie on one another …
    value = boundary_iou(make_pair(label, prediction, (1.0, 1.0)), options)
    assert value == both / (2 * ring - both)  # … which the side of either does not reach
    assert boundary_iou(make_pair(label, label, (1.0, 1.0)), options) == 1.0


def test_falls_as_the_prediction_moves_away() -> None:
    label = np.zeros((20, 40, 40), dtype=bool)
    label[5:15, 10:30, 10:30] = True
    moved = [np.roll(label, step, axis=2) for step in (0, 1, 2, 4)]
    values = [boundary_iou(make_pair(label, other, (3.0, 1.0, 1.0)), MetricOptions()) or 0 for other in moved]
    assert values[0] == 1
    assert all(before > after for before, after in pairwise(values))


def test_empty_masks() -> None:
    empty, full = np.zeros((6, 7), dtype=bool), np.ones((6, 7), dtype=bool)
    assert boundary_iou(make_pair(empty, empty, (1.0, 1.0)), MetricOptions()) is None
    assert boundary_iou(make_pair(full, empty, (1.0, 1.0)), MetricOptions()) == 0
    assert boundary_iou(make_pair(empty, full, (1.0, 1.0)), MetricOptions()) == 0
