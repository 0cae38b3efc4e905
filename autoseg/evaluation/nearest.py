"""The nearest point of another surface: exact distances between two sets of points of one grid.

Most points of a good prediction's surface lie within a few voxels of the label's. So the steps of the grid are tried
from the shortest on: the first that meets the other set is the distance. What is still left after ``WINDOW_STEPS`` is
looked up in a tree of the other set's points. Nothing is computed for voxels that are on neither surface, which is what
a distance transform spends its time on.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

WINDOW_STEPS = 250
"""About so many steps are tried: a ball of four voxels, a circle of nine. Source: measured 2026-11 on a CPU with the
volume of benchmarks/surface_metrics.py: between 60 and 1000 the whole takes 0.6 to 0.8 s, in no order."""


@dataclass(frozen=True)
class Window:
    """The steps of the grid up to a length, shortest first; equal lengths together.

    Attributes:
        reach: per axis, the longest step in points: what a grid needs as padding.
        lengths_mm: ascending.
        steps: per length, int (steps, axes).
    """

    reach: tuple[int, ...]
    lengths_mm: tuple[float, ...]
    steps: tuple[np.ndarray, ...]


@functools.lru_cache(maxsize=64)
def window(spacing_mm: tuple[float, ...], num_steps: int = WINDOW_STEPS) -> Window:
    """Give all steps within the ball (2D: circle) that holds about ``num_steps`` points of the grid."""
    ball = math.pi if len(spacing_mm) == 2 else math.pi * 4 / 3
    radius = (num_steps * math.prod(spacing_mm) / ball) ** (1 / len(spacing_mm))
    reach = tuple(int(radius / spacing) for spacing in spacing_mm)
    steps = np.array(list(itertools.product(*(range(-size, size + 1) for size in reach))))
    lengths = lengths_mm(steps, spacing_mm)
    within = np.flatnonzero(lengths <= radius)
    within = within[np.argsort(lengths[within], kind="stable")]
    steps, lengths = steps[within], lengths[within]
    # lengths that differ by rounding alone, such as of (1, 2, 3) and (3, 1, 2), are one
    first = np.flatnonzero(np.diff(lengths, prepend=-1.0) > 1e-12 * radius)
    return Window(reach=reach, lengths_mm=tuple(lengths[first].tolist()), steps=tuple(np.split(steps, first[1:])))


def lengths_mm(steps: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Give the lengths of steps; int (steps, axes)."""
    return np.sqrt(((steps * np.asarray(spacing_mm)) ** 2).sum(axis=1))


def nearest_mm(
    points: np.ndarray, others: np.ndarray, other_points: np.ndarray, spacing_mm: tuple[float, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Measure how far each point lies from the nearest of another set.

    Args:
        points: flat positions in the grid ``others``, at least the window's reach away from its ends.
        others: bool: the grid, True where the other set has a point; padded by the window's reach on each side.
        other_points: flat positions of those, at least one.
        spacing_mm: per axis of the grid.

    Returns:
        The order of ``points`` by their distance, and the distances in mm in this order.
    """
    near = window(spacing_mm, WINDOW_STEPS)
    strides = np.array([math.prod(others.shape[axis + 1 :]) for axis in range(others.ndim)])
    present = others.reshape(-1)
    places, left = np.arange(points.size), points
    order, distances = [], []
    for length, steps in zip(near.lengths_mm, near.steps, strict=True):
        if not left.size:
            break
        met = present[left + int(steps[0] @ strides)]
        for jump in (steps[1:] @ strides).tolist():
            met |= present[left + jump]
        found = places[met]
        if found.size:
            order.append(found)
            distances.append(np.full(found.size, length))
            missed = ~met
            places, left = places[missed], left[missed]
    if left.size:
        far = _far_mm(left, other_points, others.shape, spacing_mm)
        by_distance = np.argsort(far)
        order.append(places[by_distance])
        distances.append(far[by_distance])
    return np.concatenate(order), np.concatenate(distances)


def _far_mm(
    points: np.ndarray, other_points: np.ndarray, shape: Sequence[int], spacing_mm: tuple[float, ...]
) -> np.ndarray:
    """Measure distances with a tree of the other points."""
    here, there = (np.stack(np.unravel_index(flat, shape), axis=1) for flat in (points, other_points))
    # measured 2026-11 on a CPU, 120 000 points each: takes half as long to build as balanced and compact, 0.6 to ask
    tree = cKDTree(there * np.asarray(spacing_mm), compact_nodes=False, balanced_tree=False)
    _, nearest = tree.query(here * np.asarray(spacing_mm))
    # from whole steps, as in the window: the tree's own distances carry the rounding of large coordinates
    return lengths_mm(here - there[nearest], spacing_mm)
