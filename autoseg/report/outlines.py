"""Outlines: voxel-exact SVG paths of a label map, as runs along the edges between voxels."""

import numpy as np


def outline(classes_YX: np.ndarray) -> str:
    """Draw the edges between voxels of different class.

    Args:
        classes_YX: (y, x) integers, 0 is background; the world outside is background.

    Returns:
        A path in voxel units: the first voxel covers 0 … 1.
    """
    padded = np.pad(classes_YX, 1)
    across = padded[1:, 1:-1] != padded[:-1, 1:-1]  # (y + 1, x): edge above voxel row y
    along = padded[1:-1, 1:] != padded[1:-1, :-1]  # (y, x + 1): edge left of voxel column x
    horizontal = [f"M{start} {row}h{length}" for row, start, length in runs(across)]
    vertical = [f"M{column} {start}v{length}" for column, start, length in runs(along.T)]
    return "".join(horizontal + vertical)


def area(mask_YX: np.ndarray) -> str:
    """Draw the voxels of a mask (y, x) as filled rows, in voxel units."""
    return "".join(f"M{start} {row}h{length}v1h{-length}z" for row, start, length in runs(mask_YX))


def runs(mask: np.ndarray) -> list[tuple[int, int, int]]:
    """List the runs of True in each row of a 2D mask: row, start, length."""
    steps = np.diff(np.pad(mask.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    rows, starts = np.nonzero(steps == 1)
    stops = np.nonzero(steps == -1)[1]  # the n-th stop of a row belongs to its n-th start: nonzero goes row by row
    return list(zip(rows.tolist(), starts.tolist(), (stops - starts).tolist(), strict=True))
