"""From flow vectors back to objects: every voxel of the foreground follows the flow; those that meet are one object.

Following 200 steps from every voxel is slow, and needless: after a few steps the ways have run together. So the ways
are followed some steps at a time, and those that stand in the same voxel go on as one, from their mean place.
``track(merge=False)`` follows each to its end and is the oracle.

Source: Stringer et al. 2021 (Cellpose), Methods, and the constants of its published code.
"""

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from autoseg.targets.flow_encoding import flow_errors
from autoseg.targets.object_maps import OpenSides, drop_small, fill_holes, keep_objects, reaches

FIRST_STEPS = 10  # before ways are merged for the first time; an object thinner than twice that has gathered by then
PEAK_RADIUS = 2  # voxels around a peak of the end points in which no other is sought; Cellpose
GROW_STEPS, GROW_ABOVE = 5, 2  # a peak takes end points so many voxels off, through voxels that hold more; Cellpose


@dataclass(frozen=True, kw_only=True)
class FlowOptions:
    """How flow maps are decoded; what a run tunes on out-of-fold predictions.

    Attributes:
        foreground: probability above which a voxel belongs to some object.
        steps: that each voxel follows the flow; more than the radius of the largest object.
        least_points: end points that a peak needs more of, to be an object.
        largest_error: mean squared difference between an object's flow and the one it would have; it is dropped above.
        smallest: voxels of the smallest object that is kept.
    """

    foreground: float = 0.5
    steps: int = 200
    least_points: int = 10
    largest_error: float = 0.4
    smallest: int = 15


def decode_flow(
    flow: np.ndarray,
    foreground: np.ndarray,
    options: FlowOptions | None = None,
    open_sides: OpenSides | None = None,
) -> np.ndarray:
    """Find the objects in a flow.

    Args:
        flow: axes × space, of length 1 in objects.
        foreground: its probability, space.
        options: see there; None: its defaults.
        open_sides: of a block of an image; objects that reach such a side are neither measured nor too small.

    Returns:
        int32 map of the objects 1, 2, …, 0 for background.
    """
    options = options or FlowOptions()
    mask = foreground > options.foreground
    if not mask.any():
        return np.zeros(mask.shape, dtype=np.int32)
    ids = np.zeros(mask.shape, dtype=np.int32)
    ids[mask] = gather(track(flow, mask, options.steps), mask.shape, options.least_points)
    ids = keep_objects(ids, np.bincount(ids.ravel()) > 0)
    count = int(ids.max())
    if options.largest_error < np.inf and count:
        keep = np.concatenate(([False], flow_errors(ids, count, flow) <= options.largest_error))
        ids = keep_objects(ids, keep | reaches(ids, count, open_sides))
    return drop_small(fill_holes(ids), options.smallest, open_sides)


def track(flow: np.ndarray, mask: np.ndarray, steps: int, *, merge: bool = True) -> np.ndarray:
    """Follow the flow from every voxel of a mask.

    Args:
        flow: axes × space; outside the mask it is taken as 0.
        mask: where to start.
        steps: to follow.
        merge: let ways that stand in the same voxel go on as one.

    Returns:
        Per voxel of the mask (in C order) the index of the voxel it ends in, into the flattened image; int64.
    """
    scale = torch.tensor([2 / max(side - 1, 1) for side in mask.shape])
    field = torch.from_numpy(np.where(mask, flow, 0).astype(np.float32)) * scale.view(-1, *(1,) * mask.ndim)
    field = field.flip(0)[None]  # torch counts positions from −1 to 1, the last axis first
    points = (torch.from_numpy(np.stack(np.nonzero(mask), axis=1)).float() * scale - 1).flip(1)
    way, weight = torch.arange(len(points)), torch.ones(len(points))
    done, length = 0, FIRST_STEPS if merge else steps
    while done < steps:
        length = min(length, steps - done)
        points = _follow(field, points, length)
        done, length = done + length, max(done, length)
        if merge and done < steps:
            joined, count = _number_cells(_cells(points, mask.shape), mask.size)
            total = torch.zeros(count).index_add_(0, joined, weight)
            points = torch.zeros(count, mask.ndim).index_add_(0, joined, points * weight[:, None]) / total[:, None]
            way, weight = joined[way], total
    return _cells(points, mask.shape)[way].numpy()


def gather(ends: np.ndarray, shape: tuple[int, ...], least_points: int) -> np.ndarray:
    """Number the peaks of the end points, and give every point the number of its peak; 0 where it has none.

    Args:
        ends: per point its voxel, an index into the flattened image.
        shape: of the image.
        least_points: see ``FlowOptions``.

    Returns:
        int32 per point.
    """
    padded = tuple(side + 2 * PEAK_RADIUS for side in shape)
    places = np.ravel_multi_index([axis + PEAK_RADIUS for axis in np.unravel_index(ends, shape)], padded)
    held = np.bincount(places, minlength=int(np.prod(padded)))
    cells = np.flatnonzero(held)
    strides = np.cumprod((1, *padded[:0:-1]))[::-1]
    # Of equal peaks next to each other the last is taken: numbers of points, and in between the order of the cells.
    rank = np.zeros(len(held))
    rank[cells] = held[cells] + np.arange(1, len(cells) + 1) / (len(cells) + 1)
    peaks = cells[held[cells] > least_points]
    for move in _moves(PEAK_RADIUS, strides):
        peaks = peaks[rank[peaks + move] <= rank[peaks]]
    label = np.zeros(len(held), dtype=np.int32)
    label[peaks] = np.arange(1, len(peaks) + 1)
    rest = cells[(held[cells] > GROW_ABOVE) & (label[cells] == 0)]
    near = _moves(1, strides)
    for _ in range(GROW_STEPS):
        found = np.max([label[rest + move] for move in near], axis=0) if len(rest) else rest
        label[rest] = found
        rest = rest[found == 0]
    return label[places]


def _follow(field: Tensor, points: Tensor, steps: int) -> Tensor:
    """Go some steps along a field (1 × axes × space), bilinear in between, from points (N × axes), −1 to 1."""
    view = (1,) * (field.dim() - 2)
    points = points.contiguous().clone()
    where = points.view(*view, *points.shape)
    for _ in range(steps):
        moved = torch.nn.functional.grid_sample(field, where, padding_mode="border", align_corners=True)
        points += moved[0].flatten(1).T
        points.clamp_(-1, 1)
    return points


def _cells(points: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Index the voxels that points (N × axes, −1 to 1, the last axis first) are nearest to."""
    index = torch.zeros(len(points), dtype=torch.int64)
    for place, side in zip(points.T.flip(0), shape, strict=True):
        index = index * side + ((place + 1) * (max(side - 1, 1) / 2)).round().to(torch.int64).clamp_(0, side - 1)
    return index


def _number_cells(cells: Tensor, size: int) -> tuple[Tensor, int]:
    """Number the cells that occur, in their order, and count them."""
    there = torch.zeros(size, dtype=torch.int32)
    there[cells] = 1
    number = there.cumsum(0, dtype=torch.int32)
    return (number[cells] - 1).to(torch.int64), int(number[-1])


def _moves(radius: int, strides: np.ndarray) -> list[int]:
    around = itertools.product(range(-radius, radius + 1), repeat=len(strides))
    return [int(np.dot(move, strides)) for move in around if any(move)]
