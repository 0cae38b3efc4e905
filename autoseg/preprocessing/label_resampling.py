"""Bring label maps to the target spacing without inventing values.

Each label's indicator is interpolated linearly, and the label with the largest share wins; a tie goes to the label of
the nearest voxel if it is among the tied, else to the smallest. Only voxels between disagreeing neighbours are scored:
everywhere else the answer is the label that all neighbours share.

Source: facts of batchgenerators 0.25.5 (``resize_segmentation``, order 1), which scores every label everywhere.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autoseg.errors import OptionError
from autoseg.preprocessing.operators import nearest_samples, sample_positions, take
from autoseg.preprocessing.resampling import separate_axis
from planners.plan import Resampling

CHUNK_VOXELS = 1 << 16  # scored at a time: the corners' labels and weights then stay in the processor's cache


def resample_label(
    label_ZYX: np.ndarray,
    new_shape: Sequence[int],
    current_mm: Sequence[float],
    new_mm: Sequence[float],
    resampling: Resampling,
) -> np.ndarray:
    """Resample a label map to another grid over the same extent.

    Args:
        label_ZYX: z, y, x; any number type (−1 is a label like any other).
        new_shape: voxels along z, y, x afterwards.
        current_mm, new_mm: spacings before and after; they only decide on a separate axis.
        resampling: ``label_order`` 1 (see the module) or 0 (nearest voxel), the order through the plane of a separate
            axis, and the anisotropy threshold.

    Returns:
        The same type; the input itself where the shape stays.

    Raises:
        OptionError: ``label_order`` is neither 0 nor 1.
    """
    if resampling.label_order not in (0, 1):
        raise OptionError(f"label_order is {resampling.label_order}; choose 0 (nearest voxel) or 1 (largest share)")
    if tuple(new_shape) == label_ZYX.shape:
        return label_ZYX
    separate = separate_axis(current_mm, new_mm, resampling.anisotropy_threshold)
    linear = [resampling.label_order == 1] * 3
    if separate is not None:
        linear[separate] = resampling.order_through_plane > 0
    # Axes taken by the nearest sample commute with the others: first to fewer slices, repeated only at the end.
    label, repeats = label_ZYX, []
    for axis in range(3):
        if not linear[axis] and label.shape[axis] != new_shape[axis]:
            needed, repeat = np.unique(nearest_samples(label.shape[axis], new_shape[axis]), return_inverse=True)
            label = take(label, axis, needed)
            repeats.append((axis, repeat))
    together = [axis for axis in range(3) if linear[axis] and axis != separate]
    label = _vote(label, [new_shape[axis] if axis in together else label.shape[axis] for axis in range(3)])
    if separate is not None and linear[separate]:
        label = _vote(label, [new_shape[axis] if axis == separate else label.shape[axis] for axis in range(3)])
    for axis, repeat in repeats:
        label = take(label, axis, repeat)
    return label


@dataclass(frozen=True)
class _Axis:
    """Where the output samples of one axis lie: ``share`` of the way from sample ``low`` to sample ``high``."""

    low: np.ndarray
    high: np.ndarray
    share: np.ndarray
    nearest: np.ndarray
    changes: bool


def _vote(label: np.ndarray, new_shape: Sequence[int]) -> np.ndarray:
    """Resize by the largest share."""
    if tuple(new_shape) == label.shape:
        return label
    label = np.ascontiguousarray(label)
    axes = [_axis(size, new_size) for size, new_size in zip(label.shape, new_shape, strict=True)]
    result, scored = label, _uneven_cells(label, [axis.changes for axis in axes])
    for number in sorted(range(3), key=lambda number: new_shape[number] / label.shape[number]):
        axis = axes[number]
        result = take(result, number, axis.low)
        scored = take(scored, number, np.minimum(axis.low, scored.shape[number] - 1))
    places = np.flatnonzero(scored)
    for first in range(0, len(places), CHUNK_VOXELS):
        chunk = places[first : first + CHUNK_VOXELS]
        result.reshape(-1)[chunk] = _winners(label, axes, np.unravel_index(chunk, tuple(new_shape)))
    return result


def _axis(size: int, new_size: int) -> _Axis:
    positions = sample_positions(size, new_size)
    low = np.floor(positions).astype(np.intp)
    rest = 1 - (positions - low)
    return _Axis(
        low=np.clip(low, 0, size - 1),
        high=np.clip(low + 1, 0, size - 1),
        share=1 - rest,  # in two steps, as scipy.ndimage rounds it
        nearest=nearest_samples(size, new_size),
        changes=size != new_size,
    )


def _uneven_cells(label: np.ndarray, between: Sequence[bool]) -> np.ndarray:
    """Mark the cells between neighbouring voxels whose corners disagree; along other axes, a cell is a voxel."""
    low = high = label
    for axis, used in enumerate(between):
        if used and label.shape[axis] > 1:
            front: list[slice] = [slice(None)] * 3
            back: list[slice] = [slice(None)] * 3
            front[axis], back[axis] = slice(None, -1), slice(1, None)
            low = np.minimum(low[tuple(front)], low[tuple(back)])
            high = np.maximum(high[tuple(front)], high[tuple(back)])
    return low != high


def _winners(label: np.ndarray, axes: Sequence[_Axis], place: tuple[np.ndarray, ...]) -> np.ndarray:
    """Score the corners' labels at some output voxels (``place``: their z, y, x) and give the winners."""
    flat = label.reshape(-1)
    strides = (label.shape[1] * label.shape[2], label.shape[2], 1)
    lows = [axis.low[at] * stride for axis, at, stride in zip(axes, place, strides, strict=True)]
    highs = [axis.high[at] * stride for axis, at, stride in zip(axes, place, strides, strict=True)]
    nearest = flat[sum(axis.nearest[at] * stride for axis, at, stride in zip(axes, place, strides, strict=True))]
    shares = [axis.share[at] for axis, at in zip(axes, place, strict=True)]
    corners, weights = [], []
    # Corners and products in the order of scipy.ndimage's sums: equal to the last bit, so that ties are ties there too.
    for corner in itertools.product(*((0, 1) if axis.changes else (0,) for axis in axes)):
        corners.append(flat[sum(high if side else low for side, low, high in zip(corner, lows, highs, strict=True))])
        weight = np.ones(len(nearest))
        for side, share in zip(corner, shares, strict=True):
            weight = weight * (share if side else 1 - share)
        weights.append(weight)
    return _largest_share(np.stack(corners), np.stack(weights), nearest)


def _largest_share(corners: np.ndarray, weights: np.ndarray, nearest: np.ndarray) -> np.ndarray:
    first, last = corners.min(axis=0), corners.max(axis=0)
    score_first, score_last = _score(corners, weights, first), _score(corners, weights, last)
    winner = np.where(score_first > score_last, first, last)
    winner = np.where(score_first == score_last, nearest, winner)
    several = np.flatnonzero(((corners != first) & (corners != last)).any(axis=0))
    if len(several):
        corners, weights, nearest = corners[:, several], weights[:, several], nearest[several]
        scores = np.stack([_score(corners, weights, candidate) for candidate in corners])
        best = scores.max(axis=0)
        near_wins = (scores == best) & (corners == nearest)
        smallest = np.where(scores == best, corners, corners.max(axis=0)).min(axis=0)
        winner[several] = np.where(near_wins.any(axis=0), nearest, smallest)
    return winner


def _score(corners: np.ndarray, weights: np.ndarray, candidate: np.ndarray) -> np.ndarray:
    score = np.zeros(weights.shape[1])
    for corner, weight in zip(corners, weights, strict=True):
        score += weight * (corner == candidate)
    return score
