"""Flow: in every voxel of an object the direction in which heat rises that its centre gives off.

``encode_flow_slowly`` writes the diffusion down as it is defined. ``encode_flow`` cuts the objects out in boxes, lays
boxes of like size side by side and lets all of them diffuse at once, each as long as objects of its size need.

Two things are settled that the definition leaves open. Where several voxels are equally near the centre of mass, each
gives off its share: a mirrored object then has a mirrored flow. And at the border to another object the difference is
taken within the object alone.

Source: Stringer et al. 2021 (Cellpose), Methods; the numbers of steps and neighbours are those of its published code.
"""

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from autoseg.targets.object_maps import number_objects, object_boxes

STEPS_PER_SIDE = {2: 2, 3: 6}  # steps of the diffusion per voxel of height + width (+ depth) + 2; Cellpose
TIE = 1e-6  # squared distances from the centre of mass that differ by less are equal
CHUNK_VOXELS = 30_000  # that diffuse together: few enough for the cache, and for torch to split no operation
DEVICE_CHUNK_VOXELS = 1 << 23  # the same on a GPU, which wants much at once
SINGLE_SIDE = 64  # 0.13^32 is 4e-29, which float32 still holds
SIDE_LADDER = 1.25  # an object diffuses as long as one would that is at most so much longer, along each axis
BOX_LADDER = {2: 2.0, 3: 1.25}
"""A box is at most so much longer than its object, along each axis. In 2D few kinds of boxes are worth more than small
ones: 12 crops of 256 × 256 pixels with 380 nuclei took 0.44 s of one core at 1.25, 0.18 at 2, 0.26 at 3 (2026-11)."""


def encode_flow(ids: np.ndarray, device: torch.device | str = "cpu") -> np.ndarray:
    """Give every voxel of an object the direction to its centre, as heat finds it.

    Args:
        ids: of the objects, (z, y, x) or (y, x).
        device: where to diffuse.

    Returns:
        Unit vectors, axes × space, float32, in the order of the axes; 0 outside, and where heat has no slope.
    """
    numbers, count = number_objects(ids)
    result = np.zeros((ids.ndim, *ids.shape), dtype=np.float32)
    if not count:
        return result
    first, shape = object_boxes(numbers, count)
    source = _sources(numbers, count)
    on_cpu = torch.device(device).type == "cpu"

    def work(boxes: tuple[np.ndarray, tuple[int, ...], np.ndarray]) -> None:
        some, sides, steps = boxes
        places, inside = _voxels_of(first[some], sides, ids.shape)
        mask = inside & (numbers[places] == (some + 1).astype(np.int32))
        heat = torch.from_numpy((source[places] * mask).astype(_precision(sides))).to(device)
        vectors = _directions(_diffuse(heat, torch.from_numpy(mask).to(device), steps)).cpu().numpy()
        chosen = tuple(np.broadcast_to(place, mask.shape)[mask] for place in places)
        for axis in range(ids.ndim):
            result[axis][chosen] = vectors[axis][mask]

    groups = _like_boxes(shape, CHUNK_VOXELS if on_cpu else DEVICE_CHUNK_VOXELS)
    if on_cpu:  # boxes are so few at a time that torch splits no operation: then threads take one group each
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            list(pool.map(work, groups))
    else:
        for group in groups:  # in this thread: another one would leave its stream
            work(group)
    return result


def encode_flows(ids: np.ndarray, device: torch.device | str = "cpu") -> np.ndarray:
    """Encode a batch as ``encode_flow`` does each sample, with the boxes of all samples side by side.

    Args:
        ids: of the objects, B × space, numbered 1, 2, … in each sample.
        device: where to diffuse.

    Returns:
        B × axes × space, float32.
    """
    highest = ids.reshape(len(ids), -1).max(axis=1, initial=0)
    before = (np.cumsum(highest) - highest).astype(np.int32).reshape(-1, *(1,) * (ids.ndim - 1))
    one = np.where(ids > 0, ids + before, 0).reshape(-1, *ids.shape[2:])  # no object looks at another: no gap is needed
    flow = encode_flow(one, device)
    return np.moveaxis(flow.reshape(len(flow), *ids.shape), 0, 1)


def encode_flow_slowly(ids: np.ndarray) -> np.ndarray:
    """Give the same from the definition, on the whole image at once: the oracle of ``encode_flow``."""
    numbers, count = number_objects(np.pad(ids, 1))
    if not count:
        return np.zeros((ids.ndim, *ids.shape), dtype=np.float32)
    _, shape = object_boxes(numbers, count)
    steps = STEPS_PER_SIDE[ids.ndim] * int(shape.sum(1).max() + 2)
    source = _sources(numbers, count)
    moves = [move for move in itertools.product((-1, 0, 1), repeat=ids.ndim) if ids.ndim == 2 or np.abs(move).sum() < 2]
    axes = tuple(range(ids.ndim))
    own = [np.roll(numbers, move, axes) == numbers for move in moves]
    heat = np.zeros(numbers.shape)
    for _ in range(steps):
        heat += source
        total = sum(np.roll(heat, move, axes) * same for move, same in zip(moves, own, strict=True))
        heat = total / len(moves) * (numbers > 0)
    slopes = np.zeros((ids.ndim, *numbers.shape))
    for axis in axes:
        for step in (1, -1):
            same = np.roll(numbers, -step, axis) == numbers
            slopes[axis] += step * np.roll(heat, -step, axis) * same
    length = np.sqrt((slopes**2).sum(0))
    unit = np.where((length > 0) & (numbers > 0), slopes / np.where(length > 0, length, 1), 0)
    return unit[(slice(None), *(slice(1, -1),) * ids.ndim)].astype(np.float32)


def flow_errors(ids: np.ndarray, count: int, flow: np.ndarray) -> np.ndarray:
    """Measure how far a flow is from the one its own objects would have.

    Returns:
        Per object 1 … ``count`` the mean squared length of the difference, float64.
    """
    there = ids > 0
    difference = np.zeros(int(there.sum()))
    for wanted, found in zip(encode_flow(ids), flow, strict=True):
        difference += np.square(wanted[there] - found[there], dtype=np.float64)
    sizes = np.bincount(ids[there], minlength=count + 1)
    return (np.bincount(ids[there], weights=difference, minlength=count + 1) / np.maximum(sizes, 1))[1:]


def _sources(numbers: np.ndarray, count: int) -> np.ndarray:
    """Share one unit of heat among the voxels of each object that are nearest to its centre of mass; float64."""
    places = np.nonzero(numbers)
    owner = numbers[places]
    sizes = np.bincount(owner, minlength=count + 1)
    distance = np.zeros(len(owner))
    for place in places:
        middle = np.bincount(owner, weights=place, minlength=count + 1) / np.maximum(sizes, 1)
        distance += (place - middle[owner]) ** 2
    least = np.full(count + 1, np.inf)
    np.minimum.at(least, owner, distance)
    nearest = distance <= least[owner] + TIE
    shares = np.bincount(owner[nearest], minlength=count + 1)
    source = np.zeros(numbers.shape)
    source[places] = nearest / shares[owner]
    return source


def _like_boxes(shape: np.ndarray, limit: int) -> Iterator[tuple[np.ndarray, tuple[int, ...], np.ndarray]]:
    """Group objects (indices from 0) by the sides of a box that holds them; at most ``limit`` voxels a group.

    Yields:
        Objects, the sides of their boxes, and how many steps each diffuses, which rise.
    """
    num_axes = shape.shape[1]
    steps = STEPS_PER_SIDE[num_axes] * (_rungs(shape, SIDE_LADDER).sum(axis=1) + 2)
    kinds, kind_of = np.unique(_rungs(shape, BOX_LADDER[num_axes]), axis=0, return_inverse=True)
    order = np.lexsort((steps, kind_of.ravel()))
    ends = np.cumsum(np.bincount(kind_of.ravel()))
    for kind, members in zip(kinds, np.split(order, ends[:-1]), strict=True):
        sides = tuple(int(side) for side in kind)
        at_once = max(limit // int(np.prod([side + 2 for side in sides])), 1)
        for start in range(0, len(members), at_once):
            some = members[start : start + at_once]
            yield some, sides, steps[some]


def _rungs(shape: np.ndarray, factor: float) -> np.ndarray:
    """Give for every side the lowest rung of a ladder that is as long; each rung is ``factor`` times the one below."""
    ladder = [4]
    while ladder[-1] < shape.max():
        ladder.append(max(int(ladder[-1] * factor), ladder[-1] + 1))
    return np.array(ladder)[np.searchsorted(ladder, shape)]


def _precision(sides: tuple[int, ...]) -> type:
    """Choose float32 where heat is still a number at the far end of a box: along a line it falls to 0.13 per voxel."""
    return np.float32 if max(sides) <= SINGLE_SIDE else np.float64


def _voxels_of(
    first: np.ndarray, sides: tuple[int, ...], shape: tuple[int, ...]
) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """Give the places of the voxels of boxes with a rim of one voxel (sides × boxes), and which are in the image."""
    places = []
    inside: np.ndarray = np.ones((1,) * (len(sides) + 1), dtype=bool)
    for axis, side in enumerate(sides):
        place = np.arange(-1, side + 1)[:, None] + first[:, axis]
        view = (*(side + 2 if other == axis else 1 for other in range(len(sides))), len(first))
        inside = inside & ((place >= 0) & (place < shape[axis])).reshape(view)
        places.append(place.clip(0, shape[axis] - 1).reshape(view))
    return tuple(places), inside


def _diffuse(source: Tensor, mask: Tensor, steps: np.ndarray) -> Tensor:
    """Let heat spread within each box (sides × boxes, the rim empty): a mean over the neighbourhood, step by step.

    The boxes come last, so that whatever is added lies one behind the other in memory. Each makes its own number of
    ``steps``, which rise; those that are done are laid aside.
    """
    num_axes = source.dim() - 1
    share = mask[(slice(1, -1),) * num_axes].to(source) / (9 if num_axes == 2 else 7)
    heat, made = torch.zeros_like(source), 0
    done = []
    for wanted, count in zip(*np.unique(steps, return_counts=True), strict=True):
        _spread(heat, source, share, int(wanted) - made)
        made = int(wanted)
        done.append(heat[..., :count])
        heat, source, share = (item[..., count:].contiguous() for item in (heat, source, share))
    return torch.cat(done, dim=-1)


def _spread(heat: Tensor, source: Tensor, share: Tensor, steps: int) -> None:
    """Make some steps in place."""
    num_axes = source.dim() - 1
    middle = (slice(1, -1),) * num_axes
    spread, total = torch.zeros_like(source), torch.zeros_like(share)
    inner = heat[middle]
    if num_axes == 2:
        rows = spread[1:-1]
        for _ in range(steps):
            heat += source
            torch.add(heat[:-2], heat[2:], out=rows)
            rows += heat[1:-1]
            torch.add(rows[:, :-2], rows[:, 2:], out=total)
            total += rows[:, 1:-1]
            torch.mul(total, share, out=inner)
        return
    for _ in range(steps):
        heat += source
        torch.add(heat[:-2, 1:-1, 1:-1], heat[2:, 1:-1, 1:-1], out=total)
        total += heat[1:-1, :-2, 1:-1]
        total += heat[1:-1, 2:, 1:-1]
        total += heat[1:-1, 1:-1, :-2]
        total += heat[1:-1, 1:-1, 2:]
        total += inner
        torch.mul(total, share, out=inner)


def _directions(heat: Tensor) -> Tensor:
    """Take central differences and make them unit vectors: axes × sides × boxes; 0 on the rim."""
    num_axes = heat.dim() - 1
    slopes = heat.new_zeros((num_axes, *heat.shape))
    for axis in range(num_axes):
        size = heat.shape[axis]
        slopes[axis].narrow(axis, 1, size - 2).copy_(heat.narrow(axis, 2, size - 2) - heat.narrow(axis, 0, size - 2))
    # Far from the centre of a thin object slopes are so small that their squares vanish: scale first.
    largest = slopes.abs().amax(0)
    slopes /= torch.where(largest > 0, largest, torch.ones_like(largest))
    length = slopes.square().sum(0).sqrt_()
    return slopes / torch.where(length > 0, length, torch.ones_like(length))
