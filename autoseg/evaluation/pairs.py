"""A pair: label and prediction of one structure in one case, as every metric sees it."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from autoseg.evaluation.lesions import Lesions
    from autoseg.evaluation.overlap import Structure
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


def make_pairs(
    label: np.ndarray,
    prediction: np.ndarray,
    structures: "Sequence[Structure]",
    spacing_mm: Sequence[float],
    ignore_index: int | None = None,
) -> Iterator[Pair]:
    """Make the pairs of all structures from two label maps, one after the other, each as ``make_pair`` of its masks.

    Where the classes lie is found in one pass over each map, so a structure costs no more than its own box.

    Args:
        label, prediction: inner class indices (z, y, x) or (y, x), any integer type.
        structures: what to compare; their order is kept.
        spacing_mm: per axis.
        ignore_index: voxels with this label are False in both masks.

    Raises:
        ValueError: shapes and spacing do not go together.
    """
    from scipy import ndimage

    if label.shape != prediction.shape:
        raise ValueError(f"label has shape {label.shape}, prediction has {prediction.shape}")
    boxes = [ndimage.find_objects(item) for item in (label, prediction)]
    for structure in structures:
        box = _box_around(boxes, structure.classes, label.shape)
        masks = [_mask_of(item[box], structure.classes) for item in (label, prediction)]
        if ignore_index is not None:
            masks[1] &= label[box] != ignore_index
        pair = make_pair(masks[0], masks[1], spacing_mm)
        origin = tuple(part.start + first for part, first in zip(box, pair.origin, strict=True))
        empty = not pair.label.size
        yield dataclasses.replace(pair, origin=(0,) * label.ndim if empty else origin, shape=label.shape)


def _box_around(
    boxes: Sequence[Sequence[tuple[slice, ...] | None]], classes: Sequence[int], shape: Sequence[int]
) -> tuple[slice, ...]:
    """Give the box of some classes in both maps, with ``MARGIN``; for background the whole image."""
    if 0 in classes:
        return tuple(slice(0, size) for size in shape)
    found = [box for of_map in boxes for index in classes if index <= len(of_map) and (box := of_map[index - 1])]
    if not found:
        return (slice(0, 0),) * len(shape)
    ends = [(min(part.start for part in parts), max(part.stop for part in parts)) for parts in zip(*found, strict=True)]
    return tuple(
        slice(max(start - MARGIN, 0), min(stop + MARGIN, size)) for (start, stop), size in zip(ends, shape, strict=True)
    )


def _mask_of(indices: np.ndarray, classes: Sequence[int]) -> np.ndarray:
    """Say where one of some classes is."""
    mask = np.zeros(indices.shape, dtype=bool)
    for index in classes:
        mask |= indices == index
    return mask
