"""Where voxels lie: the spacing to work at, the order of axes, the shapes that follow, the patch to start from.

All arrays of cases are n × 3 in z, y, x. Source of every rule: nnU-Net (Isensee et al. 2021, Nature Methods 18,
supplementary note 2), constants as in nnU-Net v2.8.1.
"""

from collections.abc import Sequence

import numpy as np

from planners.decision import AXES, Decision, cases, times
from planners.fingerprint import Shape, Spacing

ANISOTROPY_THRESHOLD = 3.0
"""An axis is through-plane where its spacing exceeds the others' this many times (nnU-Net v2)."""

THROUGH_PLANE_PERCENTILE = 10
"""Percentile of the through-plane spacings that is worked at instead of their median (nnU-Net v2)."""

PATCH_VOXELS = {2: 2048**2, 3: 256**3}
"""Voxels of the first patch, per number of dimensions: surely larger than what fits (nnU-Net v2)."""


def target_spacing(spacings_mm: Sequence[Spacing], shapes: Sequence[Shape]) -> Decision[Spacing]:
    """Choose the spacing that all cases are resampled to, z, y, x as read.

    It is the median per axis. Where one axis is through-plane in both spacing and shape, the median would blur most
    of its thin-sliced cases, so that axis takes its 10th percentile, but stays the axis of largest spacing.
    """
    spacings = np.array(spacings_mm, dtype=float)
    median = np.percentile(spacings, 50, axis=0)
    shape = np.percentile(np.array(shapes, dtype=float), 50, axis=0)
    worst = int(np.argmax(median))
    coarsest_other, shortest_other = float(max(np.delete(median, worst))), float(min(np.delete(shape, worst)))
    in_spacing = median[worst] > ANISOTROPY_THRESHOLD * coarsest_other
    in_shape = ANISOTROPY_THRESHOLD * shape[worst] < shortest_other
    if not (in_spacing and in_shape):
        because = f"median of {cases(len(spacings))}, per axis"
        return Decision(value=_triple(median), rule="median-spacing", because=because)
    target = median.copy()
    target[worst] = np.percentile(spacings[:, worst], THROUGH_PLANE_PERCENTILE)
    if target[worst] < coarsest_other:
        target[worst] = coarsest_other + 1e-5  # keeps it the largest, so that the axis order does not change
    because = (
        f"median of {cases(len(spacings))}, but {AXES[0]} at its {THROUGH_PLANE_PERCENTILE}th percentile: "
        f"{median[worst] / coarsest_other:.1f} > {ANISOTROPY_THRESHOLD:g} times coarser, "
        f"{times([shape[worst]])} < {times([shortest_other])} / {ANISOTROPY_THRESHOLD:g} slices"
    )
    return Decision(value=_triple(target), rule="through-plane-percentile", because=because)


def axis_order(spacing_mm: Spacing) -> Decision[tuple[int, int, int]]:
    """Choose the order of axes: the one of largest spacing first, the others as they are.

    Args:
        spacing_mm: target spacing, z, y, x as read.
    """
    first = int(np.argmax(spacing_mm))
    a, b = (axis for axis in range(3) if axis != first)
    because = f"{AXES[first]} as read has the largest spacing ({spacing_mm[first]:.4g} mm), so it comes first"
    if first == 0:
        because = f"as read: no spacing is larger than that of {AXES[0]} ({spacing_mm[0]:.4g} mm)"
    return Decision(value=(first, a, b), rule="largest-spacing-first", because=because)


def median_resampled_shape(
    spacings_mm: Sequence[Spacing], shapes: Sequence[Shape], target_mm: Spacing
) -> tuple[float, float, float]:
    """Give the median over cases of the shape at the target spacing, z, y, x as read; an even count can give halves."""
    scale = np.array(spacings_mm, dtype=float) / np.array(target_mm)
    return _triple(np.median(np.round(scale * np.array(shapes)), axis=0))


def reorder(values: Sequence[float], order: Sequence[int]) -> tuple[float, ...]:
    """Bring values per axis as read into the plan's axis order."""
    return tuple(values[axis] for axis in order)


def first_patch(spacing_mm: Sequence[float], median_shape: Sequence[float]) -> tuple[float, ...]:
    """Give the patch to start from: a cube in millimetres of a fixed number of voxels, clipped to the median shape.

    Args:
        spacing_mm: two or three entries.
        median_shape: as many; halves are kept, since the network's padding rounds them up.
    """
    dimensions = len(spacing_mm)
    density = 1 / np.array(spacing_mm, dtype=float)
    scale = (PATCH_VOXELS[dimensions] / np.prod(density)) ** (1 / dimensions)
    return tuple(float(min(round(size), limit)) for size, limit in zip(density * scale, median_shape, strict=True))


def _triple(values: np.ndarray) -> tuple[float, float, float]:
    z, y, x = (float(value) for value in values)
    return z, y, x
