"""Boundary IoU: the overlap of what lies near the border of label and prediction."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from autoseg.evaluation.metric_options import MetricOptions
    from autoseg.evaluation.pairs import Pair


def boundary_iou(pair: "Pair", options: "MetricOptions") -> float | None:
    """Measure the IoU of the two border bands: the voxels of each mask that lie close to what does not belong to it.

    The band is ``options.boundary_fraction`` of the image's diagonal wide, in whole voxels, at least one. As in the
    paper's code it is what so many erosions by a square of 3 × 3 take away, and what lies outside the image does not
    belong to the mask: voxels of the mask at the image's border are in the band.

    Our extension to other spacings and to 3D: diagonal and width are in mm, and each axis has as many voxels as the
    width holds there (rounded); the square becomes a box. With equal spacings it is the paper's count on pixels.

    Empty masks: None where both hold no voxel; 0 where one of them does not.
    Source: Cheng et al., Boundary IoU: improving object-centric image segmentation evaluation, 2021, sections 4 and 5.
    """
    widths = band_widths(pair.shape, pair.spacing_mm, options.boundary_fraction)
    label, prediction = (border_band(mask, widths) for mask in (pair.label, pair.prediction))
    either = np.count_nonzero(label | prediction)
    return np.count_nonzero(label & prediction) / either if either else None


def band_widths(shape: Sequence[int], spacing_mm: Sequence[float], fraction: float) -> tuple[int, ...]:
    """Give the width of the border band in voxels per axis, at least one.

    Args:
        shape: of the whole image; its diagonal counts.
        spacing_mm: per axis.
        fraction: width as a part of the diagonal.
    """
    widths = []
    for own in spacing_mm:
        # in voxels of this axis from the start: with equal spacings nothing is lost to rounding
        sides = [size * (spacing / own) for size, spacing in zip(shape, spacing_mm, strict=True)]
        widths.append(max(round(fraction * math.hypot(*sides)), 1))
    return tuple(widths)


def border_band(mask: np.ndarray, widths: Sequence[int]) -> np.ndarray:
    """Give the voxels of a mask that lie at most so many voxels from what does not belong to it, along each axis alone.

    Args:
        mask: bool; all outside of it counts as not belonging.
        widths: per axis, in voxels.
    """
    from scipy import ndimage

    eroded = mask.view(np.uint8)
    for axis, width in enumerate(widths):
        if eroded.size:
            eroded = ndimage.minimum_filter1d(eroded, 2 * width + 1, axis=axis, mode="constant", cval=0)
    return mask & (eroded == 0)
