"""Postprocessing of a map that is too large for numbers per voxel: the rules of ``postprocessing``, slab by slab.

The map is changed in place. What a rule gives is equal to the bit.
"""

from collections.abc import Callable, Sequence

import numpy as np

from autoseg.data.slab_components import SlabComponents
from autoseg.errors import OptionError
from autoseg.evaluation.postprocessing import (
    FILL_HOLES,
    LARGEST_COMPONENT,
    REMOVE_SMALL,
    Postprocessing,
    choose_filling,
    face_neighbours,
)


def apply_in_slabs(segmentation: np.ndarray, rules: Sequence[Postprocessing], voxel_mm3: float) -> None:
    """Apply the accepted rules in their order, in place.

    Args:
        segmentation: inner class indices (z, y, x).
        rules: as in ``Choice.postprocessing``.
        voxel_mm3: volume of a voxel (see ``postprocessing.voxel_mm3``).

    Raises:
        OptionError: a rule cannot be applied slab by slab (``why_no_slabs``).
    """
    for rule in rules:
        strange = why_no_slabs([rule])
        if strange is not None:
            raise OptionError(f"postprocessing of a large image: {strange}")
        if rule.rule == FILL_HOLES:
            _fill_holes(segmentation, rule.classes)
        elif rule.rule == LARGEST_COMPONENT:
            _remove(segmentation, rule.classes, lambda sizes: sizes < sizes.max(initial=0))
        else:
            least = rule.size_mm3 or 0.0
            _remove(segmentation, rule.classes, lambda sizes, least=least: sizes * voxel_mm3 < least)  # type: ignore[misc]


def why_no_slabs(rules: Sequence[Postprocessing]) -> str | None:
    """Say why rules cannot be applied slab by slab; None where they can."""
    strange = [rule.rule for rule in rules if rule.rule not in (FILL_HOLES, LARGEST_COMPONENT, REMOVE_SMALL)]
    return f"its rule {strange[0]} needs the whole map" if strange else None


def _remove(segmentation: np.ndarray, classes: Sequence[int], is_small: Callable[[np.ndarray], np.ndarray]) -> None:
    """Remove the components of the union of some classes whose sizes (in voxels) ``is_small`` picks."""
    table = _table(segmentation, classes)
    found = SlabComponents(lambda start, stop: table[segmentation[start:stop]], segmentation.shape, corners=True)
    small = np.concatenate([[False], is_small(found.sizes[1:])])
    if small.any():
        for start, stop, numbers, component in found.slabs():
            segmentation[start:stop][small[component][numbers]] = 0


def _fill_holes(segmentation: np.ndarray, classes: Sequence[int]) -> None:
    """Fill background that the union of some classes, and nothing else, encloses."""
    holes = SlabComponents(lambda start, stop: segmentation[start:stop] == 0, segmentation.shape, corners=False)
    contacts = np.zeros((len(holes.sizes), int(segmentation.max(initial=0)) + 1), dtype=np.int64)
    for start, stop, numbers, component in holes.slabs():
        around = segmentation[max(start - 1, 0) : stop + 1]
        own = np.zeros(around.shape, dtype=np.int32)  # the numbers, with none in the slices before and behind
        own[start - max(start - 1, 0) :][: stop - start] = numbers
        for axis in range(3):
            here, there = face_neighbours(3, axis)
            for hole, other in ((own[here], around[there]), (own[there], around[here])):
                touch = (hole > 0) & (other > 0)
                np.add.at(contacts, (component[hole[touch]], other[touch]), 1)
    fill = choose_filling(contacts, holes.is_open, classes).astype(segmentation.dtype)
    if fill.any():
        for start, stop, numbers, component in holes.slabs():
            found = fill[component][numbers]
            np.copyto(segmentation[start:stop], found, where=found > 0)


def _table(segmentation: np.ndarray, classes: Sequence[int]) -> np.ndarray:
    table = np.zeros(max(int(segmentation.max(initial=0)), *classes) + 1, dtype=bool)
    table[list(classes)] = True
    return table
