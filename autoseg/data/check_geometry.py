"""Say how two voxel grids of the same shape lie against each other in space: flipped, shifted, scaled, rotated.

All numbers are in voxels of the first grid, so that half a millimetre counts for as much as it moves.
"""

import math
from dataclasses import dataclass

import numpy as np

from autoseg.data.image import Geometry
from planners.fingerprint import Shape

SAME_VOXELS = 1e-3
"""Corners closer than this are the same place: headers keep numbers as 32-bit floats (2e-8 has been reported as an
error by other tools; assumption on the limit)."""

NOISE_VOXELS = 0.1
"""Corners closer than this moved by rounding in a header, not by another grid (assumption)."""

AXES = ("z", "y", "x")


@dataclass(frozen=True)
class Misfit:
    """How far and in what way a grid lies beside another.

    Attributes:
        voxels: the farthest that any corner moved along any axis.
        how: such as ``flipped along x and shifted by 2 voxels along z``.
    """

    voxels: float
    how: str


def misfit(first: Geometry, second: Geometry, shape: Shape) -> Misfit:
    """Compare two grids of one shape.

    Args:
        first: the grid to measure in.
        second: the other grid.
        shape: voxels z, y, x of both arrays; an axis with one voxel has no direction and does not count.

    Returns:
        How they differ; nothing (0 voxels) where one of the two files does not say where it lies.
    """
    if not (first.known and second.known):
        return Misfit(0.0, "equal")
    axes = [axis for axis in range(3) if shape[axis] > 1] or [1, 2]
    matrix, offset = _from_second_to_first(first, second)
    matrix, offset = matrix[np.ix_(axes, axes)], offset[axes]
    corners = np.array(np.meshgrid(*[(0, shape[axis] - 1) for axis in axes], indexing="ij")).reshape(len(axes), -1)
    voxels = float(np.abs(matrix @ corners + offset[:, None] - corners).max())
    names = [AXES[axis] for axis in axes]
    extents = np.array([shape[axis] for axis in axes])
    return Misfit(voxels, " and ".join(_describe(matrix, offset, extents, names)) if voxels >= SAME_VOXELS else "equal")


def orientation(geometry: Geometry) -> str:
    """Name the directions in which the array's z, y, x run, by their closest body axes.

    Returns:
        Three letters of L, R, P, A, S, I such as ``SPL``: to the Superior, to the Posterior, to the Left.

    Source: ITK and DICOM count positions towards the left, the posterior and the superior (LPS).
    """
    letters = ("RL", "AP", "IS")
    columns = geometry.matrix[:, ::-1] / np.linalg.norm(geometry.matrix[:, ::-1], axis=0)
    free = {0, 1, 2}
    named = {}
    for axis in sorted(range(3), key=lambda axis: -np.abs(columns[:, axis]).max()):
        body = max(free, key=lambda body: abs(columns[body, axis]))
        free.remove(body)
        named[axis] = letters[body][int(columns[body, axis] > 0)]
    return "".join(named[axis] for axis in range(3))


def _from_second_to_first(first: Geometry, second: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """Give matrix and offset that turn a voxel's z, y, x in the second grid into its z, y, x in the first."""
    first_matrix, second_matrix = first.matrix[:, ::-1], second.matrix[:, ::-1]
    apart = np.array(second.origin) - np.array(first.origin)
    return np.linalg.solve(first_matrix, second_matrix), np.linalg.solve(first_matrix, apart)


def _describe(matrix: np.ndarray, offset: np.ndarray, extents: np.ndarray, names: list[str]) -> list[str]:
    """Put the difference of two grids into words, one phrase per kind."""
    tolerance = NOISE_VOXELS / extents.max()
    rows = _closest_axes(matrix)
    lengths = np.linalg.norm(matrix, axis=0)
    signs = np.sign(matrix[rows, range(len(names))])
    phrases = []
    if rows != list(range(len(names))):
        swaps = [f"{names[i]} for {names[row]}" for i, row in enumerate(rows) if row != i]
        phrases.append(f"with axes exchanged ({', '.join(swaps)})")
    flipped = [name for name, sign in zip(names, signs, strict=True) if sign < 0]
    if flipped:
        phrases.append(f"flipped along {' and '.join(flipped)}")
    scaled = [
        f"{length:.4g} along {name}" for name, length in zip(names, lengths, strict=True) if _far(length, tolerance)
    ]
    if scaled:
        phrases.append(f"scaled by {', '.join(scaled)}")
    degrees = _tilt(matrix, rows, lengths)
    if degrees > math.degrees(tolerance):
        phrases.append(f"rotated by {degrees:.2g} degrees")
    shift = _shift(matrix, offset, extents, plain=not (flipped or degrees > math.degrees(tolerance)))
    moved = [f"{step:+.3g} voxels along {name}" for name, step in zip(names, shift, strict=True) if abs(step) >= 0.05]
    if moved:
        phrases.append(f"shifted by {', '.join(moved)}")
    return phrases or ["moved by rounding"]


def _far(length: float, tolerance: float) -> bool:
    return abs(length - 1) > tolerance


def _closest_axes(matrix: np.ndarray) -> list[int]:
    """For each axis of the second grid, the axis of the first that it follows most; each is given once."""
    strength = np.abs(matrix) / np.linalg.norm(matrix, axis=0)
    rows = [0] * len(matrix)
    for _ in rows:
        row, column = np.unravel_index(np.argmax(strength), strength.shape)
        rows[int(column)] = int(row)
        strength[row, :] = -1
        strength[:, column] = -1
    return rows


def _tilt(matrix: np.ndarray, rows: list[int], lengths: np.ndarray) -> float:
    """Give the largest angle in degrees between an axis of the second grid and the axis of the first it follows."""
    cosines = np.abs(matrix[rows, range(len(rows))]) / lengths
    return float(np.degrees(np.arccos(np.clip(cosines, 0, 1))).max())


def _shift(matrix: np.ndarray, offset: np.ndarray, extents: np.ndarray, *, plain: bool) -> np.ndarray:
    """Give how far the first voxel moved; under flips and rotations, which move it anyway, how far the centre did."""
    if plain:
        return offset
    centre = (extents - 1) / 2
    return matrix @ centre + offset - centre
