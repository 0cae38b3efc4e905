"""Regions and classes: which regions hold which classes, and the way back from found regions to one class per voxel.

A class is known by its regions: a voxel belongs to a class where exactly the class's regions are found. The way back
need not be declared. Where there is an order in which painting the regions one over the other gives every class, that
is it; where there is none (regions that overlap without one holding the other), the class whose regions agree best with
what was found is taken.
"""

from dataclasses import dataclass

import numpy as np

from planners.labels import Labels


@dataclass(frozen=True)
class Stroke:
    """One step of painting: where region ``region`` (position) is found, the voxel becomes class ``index``."""

    region: int
    index: int


def membership(labels: Labels) -> np.ndarray:
    """Say which region holds which class: bool, regions × classes (inner indices, background included)."""
    values = [item.value for item in labels.classes]
    table = np.zeros((len(labels.regions), labels.num_classes), dtype=bool)
    for row, region in zip(table, labels.regions, strict=True):
        row[[values.index(value) for value in region.values]] = True
    return table


def representatives(labels: Labels) -> tuple[int, ...]:
    """Give, per class, the first class that the regions do not tell from it: itself in a definition that says all."""
    columns = [tuple(column) for column in membership(labels).T.tolist()]
    return tuple(columns.index(column) for column in columns)


def painting(labels: Labels) -> tuple[Stroke, ...] | None:
    """Find the order in which found regions are painted, the first stroke at the bottom.

    Returns:
        What ``labels.region_values`` says where it says something. Else an order that gives every class (or the first
        of those that no region tells apart) back on a canvas of background; None where there is no such order.

    Source: painting in a given order is nnU-Net v2's rule for ``regions_class_order``; finding the order is our own.
    The region painted last must hold one class alone, or it would cover the others; without that class, the same holds
    for the region before it. If some order exists, moving such a region to its end gives another one, so taking any of
    them never leads astray.
    """
    if labels.region_values:
        values = [item.value for item in labels.classes]
        return tuple(Stroke(region, values.index(value)) for region, value in enumerate(labels.region_values))
    table = membership(labels)
    distinct = sorted(set(representatives(labels)))
    open_classes = [index for index in distinct if table[:, index].any()]
    if table[:, 0].any() and len(open_classes) < len(distinct):
        return None  # unpainted voxels are background, which has regions here, while another class has none
    strokes: list[Stroke] = []
    rest = list(range(len(table)))
    while rest:
        region = next((r for r in reversed(rest) if table[r, open_classes].sum() == 1), None)
        if region is None:
            break
        index = next(index for index in open_classes if table[region, index])
        strokes.append(Stroke(region, index))
        open_classes.remove(index)
        rest.remove(region)
    if open_classes:
        return None
    # What is left holds only classes that are painted above it: it shows where a region is found without its parts.
    strokes += [Stroke(region, _smallest(table, region)) for region in rest]
    return tuple(reversed(strokes))


def painted(labels: Labels) -> tuple[int, ...]:
    """Give, per class, the class that its voxels become on the way labels → regions → labels."""
    strokes = painting(labels)
    if strokes is None:
        return representatives(labels)
    table = membership(labels)
    result = [0] * labels.num_classes
    for index in range(labels.num_classes):
        for stroke in strokes:
            if table[stroke.region, index]:
                result[index] = stroke.index
    return tuple(result)


def _smallest(table: np.ndarray, region: int) -> int:
    """Give the class of a region that the fewest regions hold; of equals the first."""
    held = np.flatnonzero(table[region])
    return int(held[np.argmin(table[:, held].sum(axis=0))])
