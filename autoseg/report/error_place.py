"""Error place: where in a case most is wrong at once, so that three planes can be laid through it."""

from collections.abc import Sequence

import numpy as np

NUM_VOXELS = 5
"""Side of the cube in which wrong voxels are counted, in voxels of the middle spacing (assumption: larger than the
errors along every border, smaller than a structure)."""


def densest(mask_ZYX: np.ndarray, spacing_mm: Sequence[float]) -> tuple[int, int, int] | None:
    """Find the voxel of a mask that has most of the mask around it.

    Cubes of a coarse grid are counted first, then every place in and around the fullest: the memory is a fraction of
    the mask's, and a whole-body mask takes a second.

    Args:
        mask_ZYX: bool (z, y, x).
        spacing_mm: z, y, x.

    Returns:
        z, y, x of a voxel of the mask; None where it is empty.
    """
    if not mask_ZYX.any():
        return None
    side_mm = NUM_VOXELS * sorted(spacing_mm)[1]
    sides = [
        min(max(round(side_mm / spacing), 1), size) for spacing, size in zip(spacing_mm, mask_ZYX.shape, strict=True)
    ]
    counts: np.ndarray = mask_ZYX
    for axis, (side, size) in enumerate(zip(sides, mask_ZYX.shape, strict=True)):
        counts = np.add.reduceat(counts, np.arange(0, size, side), axis=axis, dtype=np.int32)
    fullest = np.unravel_index(int(counts.argmax()), counts.shape)
    corner = [max((int(place) - 1) * side, 0) for place, side in zip(fullest, sides, strict=True)]
    stops = [(int(place) + 2) * side for place, side in zip(fullest, sides, strict=True)]
    window = mask_ZYX[tuple(map(slice, corner, stops))]
    around = np.where(window, box_sums(window, sides), -1)
    found = np.unravel_index(int(around.argmax()), around.shape)
    z, y, x = (start + int(place) for start, place in zip(corner, found, strict=True))
    return z, y, x


def box_sums(mask_ZYX: np.ndarray, sides: Sequence[int]) -> np.ndarray:
    """Count the voxels of a mask in the box around every voxel; an even side reaches one further back."""
    counts = mask_ZYX.astype(np.int32)
    for axis, side in enumerate(sides):
        pad = [(0, 0)] * 3
        pad[axis] = (side // 2 + 1, (side - 1) // 2)
        sums = np.cumsum(np.pad(counts, pad), axis=axis)
        size = counts.shape[axis]
        counts = sums.take(range(side, side + size), axis=axis) - sums.take(range(size), axis=axis)
    return counts
