"""A pair: label and prediction of one structure in one case, as every metric sees it."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from autoseg.evaluation.lesions import Lesions
    from autoseg.evaluation.surface import SurfaceDistances

MARGIN = 1
"""Voxels kept around what either mask holds: surfaces and erosions look at direct neighbours."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Pair:
    """Label and prediction of one structure, cropped to where either of them is.

    A 2D image has two axes here (y, x), a 3D one three (z, y, x).

    Attributes:
        label, prediction: bool, equal shapes: the crop, which holds all voxels of both and ``MARGIN`` around, as far as
            the image reaches. Both are empty arrays where neither holds a voxel.
        spacing_mm: per axis.
        origin: voxel of the image where the crop begins.
        shape: of the whole image.

    Work that several metrics share is done once and kept here: ``surfaces``, ``lesions``.
    """

    label: np.ndarray
    prediction: np.ndarray
    spacing_mm: tuple[float, ...]
    origin: tuple[int, ...]
    shape: tuple[int, ...]

    @functools.cached_property
    def surfaces(self) -> "SurfaceDistances":
        """How far the two surfaces lie from each other."""
        from autoseg.evaluation.surface import measure_surfaces

        return measure_surfaces(self)

    @functools.cached_property
    def lesions(self) -> "Lesions":
        """The connected components of both, and which of them meet."""
        from autoseg.evaluation.lesions import find_lesions

        return find_lesions(self)

    @property
    def has_label(self) -> bool:
        """Whether the label holds a voxel."""
        return bool(self.label.any())

    @property
    def has_prediction(self) -> bool:
        """Whether the prediction holds a voxel."""
        return bool(self.prediction.any())

    @property
    def voxel_mm3(self) -> float:
        """Volume of a voxel in mm³; of a 2D image the area of a pixel in mm²."""
        return float(np.prod(self.spacing_mm))


def make_pair(label: np.ndarray, prediction: np.ndarray, spacing_mm: Sequence[float]) -> Pair:
    """Crop two masks of equal shape to where either of them is.

    Args:
        label, prediction: bool (z, y, x) or (y, x).
        spacing_mm: per axis.

    Raises:
        ValueError: shapes and spacing do not go together.
    """
    if label.shape != prediction.shape or label.ndim != len(spacing_mm):
        raise ValueError(f"label {label.shape}, prediction {prediction.shape}, spacing {tuple(spacing_mm)}")
    box = []
    for axis, size in enumerate(label.shape):
        others = tuple(other for other in range(label.ndim) if other != axis)
        present = np.flatnonzero(label.any(axis=others) | prediction.any(axis=others))
        if present.size == 0:
            box = [slice(0, 0)] * label.ndim
            break
        box.append(slice(max(int(present[0]) - MARGIN, 0), min(int(present[-1]) + 1 + MARGIN, size)))
    return Pair(
        label=label[tuple(box)],
        prediction=prediction[tuple(box)],
        spacing_mm=tuple(float(value) for value in spacing_mm),
        origin=tuple(part.start for part in box),
        shape=label.shape,
    )
