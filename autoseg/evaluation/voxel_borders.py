"""Distances between border voxels, for protocols and comparisons that are defined by them.

The border of a mask are its voxels that share a face with one that does not belong to it; what lies outside the image
does not belong. Distances run between the middles of voxels and every border voxel counts alike, whatever the area of
the surface there. MONAI and medpy measure so. The numbers differ from ``surface`` by up to about a voxel; prefer those:
with anisotropic spacing, counted voxels say little of areas.
"""

import functools
import math
import operator
from typing import TYPE_CHECKING

import numpy as np

from autoseg.evaluation.nearest import nearest_mm, window

if TYPE_CHECKING:
    from autoseg.evaluation.metric_options import MetricOptions
    from autoseg.evaluation.pairs import Pair


def border_distances_mm(pair: "Pair") -> tuple[np.ndarray, np.ndarray] | None:
    """Measure how far the border voxels of label and prediction lie from each other's borders.

    Returns:
        From the label's border voxels to the prediction's, and from the prediction's to the label's, both ascending;
        None where a mask is empty.
    """
    if not pair.has_label or not pair.has_prediction:
        return None
    reach = window(pair.spacing_mm).reach
    borders = [_border(mask, reach) for mask in (pair.label, pair.prediction)]
    points = [np.flatnonzero(border) for border in borders]
    _, from_label = nearest_mm(points[0], borders[1], points[1], pair.spacing_mm)
    _, from_prediction = nearest_mm(points[1], borders[0], points[0], pair.spacing_mm)
    return from_label, from_prediction


def _border(mask: np.ndarray, padding: tuple[int, ...]) -> np.ndarray:
    """Say where the border of a mask is, with so many voxels of background put around per axis."""
    framed = np.pad(mask, 1)
    middle = (slice(1, -1),) * mask.ndim
    neighbours = [
        framed[(*middle[:axis], ends, *middle[axis + 1 :])]
        for axis in range(mask.ndim)
        for ends in (slice(None, -2), slice(2, None))
    ]
    border = np.zeros([size + 2 * before for size, before in zip(mask.shape, padding, strict=True)], dtype=bool)
    inner = tuple(slice(before, before + size) for size, before in zip(mask.shape, padding, strict=True))
    border[inner] = mask & ~functools.reduce(operator.and_, neighbours)
    return border


def border_hd(pair: "Pair", options: "MetricOptions") -> float | None:
    """Measure the Hausdorff distance in mm between border voxels, as MONAI and medpy do.

    Empty masks: None where label or prediction or both hold no voxel. Heeds no option.
    """
    del options
    distances = border_distances_mm(pair)
    return None if distances is None else float(max(item[-1] for item in distances))


def border_hd95(pair: "Pair", options: "MetricOptions") -> float | None:
    """Measure HD95 in mm between border voxels, as MONAI does.

    Per direction the 95th percentile over voxels, interpolated between neighbouring ones; the larger of the two. medpy
    takes the percentile over both directions together.

    Empty masks: None where label or prediction or both hold no voxel. Heeds no option.
    """
    del options
    distances = border_distances_mm(pair)
    if distances is None:
        return None
    return max(_percentile(item, 95) for item in distances)


def border_assd(pair: "Pair", options: "MetricOptions") -> float | None:
    """Measure the average symmetric surface distance in mm between border voxels, as MONAI does with ``symmetric``.

    The mean over the border voxels of both directions together, so the larger border weighs more.

    Empty masks: None where label or prediction or both hold no voxel. Heeds no option.
    """
    del options
    distances = border_distances_mm(pair)
    return None if distances is None else float(np.concatenate(distances).mean())


def _percentile(ascending: np.ndarray, percent: float) -> float:
    place = percent / 100 * (ascending.size - 1)
    below = math.floor(place)
    above = min(below + 1, ascending.size - 1)
    return float(ascending[below] + (place - below) * (ascending[above] - ascending[below]))
