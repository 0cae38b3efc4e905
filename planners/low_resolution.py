"""Whether context is missing: the coarser grid on which a patch would see enough of a case.

Source: nnU-Net (Isensee et al. 2021, supplementary note 2); the steps are those of nnU-Net v2.8.1.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from planners.decision import Decision, millimetres, percent, times
from planners.fitting import Fit, Limits, MisfitError, fit_patch, most_voxels

ENOUGH_OF_A_CASE = 0.25
"""A patch should cover this part of the median case (nnU-Net v2)."""

SPACING_STEP = 1.03
"""Factor by which the spacing grows while looking for the coarser grid (nnU-Net v2)."""

LEAST_GAIN = 2.0
"""The coarser grid must have this many times fewer voxels to be worth a stage (nnU-Net v2)."""


@dataclass(frozen=True, kw_only=True)
class LowResolution:
    """The coarser grid and its patch.

    Attributes:
        spacing_mm: in the plan's axis order.
        median_shape: of the cases on this grid, rounded to whole voxels.
        voxels: of the median case, before that rounding.
        fit: patch and network.
    """

    spacing_mm: tuple[float, ...]
    median_shape: tuple[int, ...]
    voxels: float
    fit: Fit


def find_low_resolution(
    full: Fit, limits: Limits, spacing_mm: Sequence[float], median_shape: Sequence[float]
) -> Decision[LowResolution | None]:
    """Decide whether a low-resolution stage is worth it, and on which grid.

    The same decision says whether the Dice of the full resolution pools its sums over the batch.

    Args:
        full: the full-resolution patch.
        limits: as for the full-resolution patch.
        spacing_mm, median_shape: of the full resolution, in the plan's axis order.
    """
    voxels = math.prod(median_shape)
    seen, enough = min(1.0, math.prod(full.patch_size) / voxels), percent(ENOUGH_OF_A_CASE)
    if _sees_enough(full, voxels):
        because = f"a patch sees {percent(seen)} of the median case (≥ {enough})"
        return Decision(value=None, rule="patch-sees-enough", because=because)
    little = f"a patch sees {percent(seen)} of the median case (< {enough})"
    try:
        found = next(low for low in _coarser(limits, spacing_mm, median_shape) if _sees_enough(low.fit, low.voxels))
    except MisfitError as misfit:
        return Decision(value=None, rule="no-coarser-patch", because=f"{little}; on a coarser grid, {misfit}")
    if voxels / found.voxels < LEAST_GAIN:
        because = (
            f"{little}, but on the grid that it sees there are only {voxels / found.voxels:.1f} times fewer voxels"
        )
        return Decision(value=None, rule="too-little-gain", because=because)
    because = f"{little}, and of a grid of {times(found.median_shape)} it would see enough"
    return Decision(value=found, rule="patch-sees-too-little", because=because)


def explain_low_resolution(
    low: LowResolution, full_mm: Sequence[float]
) -> tuple[Decision[tuple[float, ...]], Decision[tuple[float, ...]], Decision[bool]]:
    """Word the spacing, the median shape and the batch Dice of a low-resolution stage.

    Args:
        low: the coarser grid.
        full_mm: spacing of the full resolution, in the plan's axis order.
    """
    seen = min(1.0, math.prod(low.fit.patch_size) / low.voxels)
    enough = f"a patch sees {percent(seen)} of the median case (≥ {percent(ENOUGH_OF_A_CASE)})"
    coarser = f"{millimetres(full_mm)}, coarser by 3 % at a time, the finer axes first, until {enough}"
    shape = tuple(float(size) for size in low.median_shape)
    return (
        Decision(value=low.spacing_mm, rule="coarser-until-enough", because=coarser),
        Decision(value=shape, rule="scaled-median-shape", because="the full resolution's, at that spacing"),
        Decision(value=False, rule="patch-sees-enough", because=enough),
    )


def _sees_enough(fit: Fit, voxels: float) -> bool:
    return math.prod(fit.patch_size) / voxels >= ENOUGH_OF_A_CASE


def _coarser(limits: Limits, spacing_mm: Sequence[float], median_shape: Sequence[float]) -> Iterator[LowResolution]:
    """Give ever coarser grids: first the finer axes grow until all are within a factor 2, then all axes alike.

    Grids of so many voxels that no patch within the budget can see enough of a case are passed over.
    """
    most = most_voxels(limits, len(spacing_mm))
    full, shape = np.array(spacing_mm, dtype=float), np.array(median_shape, dtype=float)
    spacing = full.copy()
    while True:
        finer = spacing.max() / spacing > 2
        spacing[finer if finer.any() else slice(None)] *= SPACING_STEP
        exact = full / spacing * shape
        if most < ENOUGH_OF_A_CASE * float(np.prod(exact)):
            continue
        whole = tuple(max(1, round(size)) for size in exact.tolist())
        grid = tuple(spacing.tolist())
        fit = fit_patch(limits, grid, whole)
        yield LowResolution(spacing_mm=grid, median_shape=whole, voxels=float(np.prod(exact)), fit=fit)
