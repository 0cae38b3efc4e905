"""Postprocessing: rules that correct a segmentation where that is known to help (see ``trials``).

Neighbours in a structure are all 26 voxels around (8 in 2D); in what surrounds it, the 6 (4) that share a face: so the
inside of a closed surface never touches the outside.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from autoseg.errors import OptionError
from autoseg.extensions import find

LARGEST_COMPONENT = "largest-component"
REMOVE_SMALL = "remove-small"
FILL_HOLES = "fill-holes"
ALL_FOREGROUND = "all foreground"


@dataclass(frozen=True, kw_only=True)
class Postprocessing:
    """One rule, applied to the union of some classes.

    Attributes:
        rule: name in ``RULES``.
        name: for people: a class, a region, or ``all foreground``.
        classes: inner indices of the classes whose union the rule treats.
        size_mm3: of ``remove-small``: components smaller than this go (of 2D images an area in mm²); else None.
    """

    rule: str = LARGEST_COMPONENT
    name: str
    classes: tuple[int, ...]
    size_mm3: float | None = None


def keep_largest_component(segmentation: np.ndarray, classes: Sequence[int]) -> np.ndarray:
    """Keep the largest component of the union of some classes; what else they cover becomes background.

    Args:
        segmentation: inner class indices (z, y, x).
        classes: inner indices.

    Returns:
        A new map of the same type. Components of equal, largest size are all kept.

    Source: Isensee et al. 2021 (postprocessing); ties as in nnU-Net v2.8.1.
    """
    return _remove_components(segmentation, classes, lambda sizes: sizes < sizes.max())


def remove_small_components(
    segmentation: np.ndarray, classes: Sequence[int], size_mm3: float, voxel_mm3: float
) -> np.ndarray:
    """Remove the components of the union of some classes that are smaller than a size; they become background.

    Args:
        segmentation: inner class indices (z, y, x).
        classes: inner indices.
        size_mm3: components of at least this size stay.
        voxel_mm3: of one voxel (see ``voxel_mm3``).

    Returns:
        A new map of the same type.
    """
    return _remove_components(segmentation, classes, lambda sizes: sizes * voxel_mm3 < size_mm3)


def fill_holes(segmentation: np.ndarray, classes: Sequence[int]) -> np.ndarray:
    """Fill background that the union of some classes, and nothing else, encloses.

    A hole is a component of background that reaches no border of the image. A 2D image has no border along z, a volume
    has one: the inside of a tube is no hole. A hole with anything else in it or beside it stays: what lies in a
    structure may be another one.

    Args:
        segmentation: inner class indices (z, y, x).
        classes: inner indices; a hole becomes the one among them that most of its faces touch, of equals the first.

    Returns:
        A new map of the same type.
    """
    from scipy import ndimage

    result = segmentation.copy()
    box = padded_box(segmentation)
    inside = segmentation[box]
    holes, count = ndimage.label(inside == 0)  # faces, by default
    is_open = np.zeros(count + 1, dtype=bool)
    for face in border_faces(holes, segmentation.shape):
        is_open[face] = True
    contacts = np.zeros((count + 1, int(segmentation.max(initial=0)) + 1), dtype=np.int64)
    for axis in range(inside.ndim):
        here, there = face_neighbours(inside.ndim, axis)
        for hole, other in ((holes[here], inside[there]), (holes[there], inside[here])):
            touch = (hole > 0) & (other > 0)
            np.add.at(contacts, (hole[touch], other[touch]), 1)
    is_open[0] = True
    fill = choose_filling(contacts, is_open, classes)
    for plane, part in zip(holes, result[box], strict=True):
        found = fill[plane]
        np.copyto(part, found.astype(part.dtype), where=found > 0)
    return result


def choose_filling(contacts: np.ndarray, is_open: np.ndarray, classes: Sequence[int]) -> np.ndarray:
    """Decide what components of background become.

    Args:
        contacts: (components, classes) faces that each shares with voxels of a class; column 0 is not looked at.
        is_open: (components,) whether each reaches the border.
        classes: which may enclose and fill.

    Returns:
        (components,) class index; 0: stays background.
    """
    among = np.zeros(contacts.shape[1], dtype=bool)
    among[[index for index in classes if 0 < index < len(among)]] = True
    own = np.where(among, contacts, 0)
    total = contacts[:, 1:].sum(axis=1)
    return np.where(~is_open & (total > 0) & (own.sum(axis=1) == total), own.argmax(axis=1), 0)


def voxel_mm3(shape: Sequence[int], spacing_mm: Sequence[float]) -> float:
    """Give the volume of a voxel in mm³; of a 2D image (one voxel along some axis) its area in mm².

    Args:
        shape, spacing_mm: of the image, axes in the same order.
    """
    return math.prod(step for size, step in zip(shape, spacing_mm, strict=True) if size > 1)


def _small(segmentation: np.ndarray, rule: Postprocessing, voxel: float) -> np.ndarray:
    if rule.size_mm3 is None or not rule.size_mm3 > 0:
        raise OptionError(f"postprocessing {rule.rule} of {rule.name} has size_mm3 {rule.size_mm3}; give a size in mm³")
    return remove_small_components(segmentation, rule.classes, rule.size_mm3, voxel)


RULES: dict[str, Callable[[np.ndarray, Postprocessing, float], np.ndarray]] = {
    LARGEST_COMPONENT: lambda segmentation, rule, voxel: keep_largest_component(segmentation, rule.classes),
    REMOVE_SMALL: _small,
    FILL_HOLES: lambda segmentation, rule, voxel: fill_holes(segmentation, rule.classes),
}


def apply(segmentation: np.ndarray, rules: Sequence[Postprocessing], voxel_mm3: float) -> np.ndarray:
    """Apply the accepted rules in their order.

    Args:
        segmentation: inner class indices (z, y, x).
        rules: as in ``Choice.postprocessing``.
        voxel_mm3: volume of a voxel (see ``postprocessing.voxel_mm3``).

    Raises:
        OptionError: a rule's name is not known, or it lacks its size.
    """
    for item in rules:
        segmentation = find(RULES, "postprocessing", item.rule)(segmentation, item, voxel_mm3)
    return segmentation


def describe(rule: Postprocessing) -> str:
    """Say in a few words what a rule does, without its name: ``only the largest component is kept``."""
    if rule.rule == REMOVE_SMALL:
        return f"components smaller than {rule.size_mm3:g} mm³ are removed"
    return {LARGEST_COMPONENT: "only the largest component is kept", FILL_HOLES: "holes are filled"}.get(
        rule.rule, rule.rule
    )


def padded_box(segmentation: np.ndarray) -> tuple[slice, ...]:
    """Find the box of all foreground and one voxel around it, as far as the image reaches."""
    box = bounding_box(segmentation != 0)
    return tuple(
        slice(max(part.start - 1, 0), min(part.stop + 1, size)) if part.stop > part.start else part
        for part, size in zip(box, segmentation.shape, strict=True)
    )


def border_faces(array: np.ndarray, image_shape: Sequence[int]) -> list[np.ndarray]:
    """Give the outermost layers of a ``padded_box``: background there reaches the border of the image.

    Axes along which the image has one voxel have no border.
    """
    if not array.size:
        return []
    return [np.take(array, index, axis=axis) for axis, size in enumerate(image_shape) if size > 1 for index in (0, -1)]


def face_neighbours(num_axes: int, axis: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Give two views of an array whose entries are neighbours along an axis."""
    here = [slice(None)] * num_axes
    there = list(here)
    here[axis], there[axis] = slice(None, -1), slice(1, None)
    return tuple(here), tuple(there)


def bounding_box(mask: np.ndarray) -> tuple[slice, ...]:
    """Find the smallest box that holds all of a mask; empty where it holds nothing."""
    box = []
    for axis in range(mask.ndim):
        present = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        box.append(slice(int(present[0]), int(present[-1]) + 1) if present.size else slice(0, 0))
    return tuple(box)


def _remove_components(
    segmentation: np.ndarray, classes: Sequence[int], is_small: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Remove the components whose sizes (in voxels) ``is_small`` picks."""
    from scipy import ndimage

    result = segmentation.copy()
    mask = _is_one_of(segmentation, classes)
    box = bounding_box(mask)
    components, count = ndimage.label(mask[box], structure=np.ones((3,) * mask.ndim))
    if count:
        sizes = np.zeros(count + 1, dtype=np.int64)
        for plane in components:  # plane by plane: indexing makes copies of eight bytes a voxel
            sizes += np.bincount(plane.reshape(-1), minlength=count + 1)
        small = np.concatenate([[False], is_small(sizes[1:])])
        if small.any():
            for plane, part in zip(components, result[box], strict=True):
                part[small[plane]] = 0
    return result


def _is_one_of(segmentation: np.ndarray, classes: Sequence[int]) -> np.ndarray:
    table = np.zeros(max(int(segmentation.max(initial=0)), *classes) + 1, dtype=bool)
    table[list(classes)] = True
    mask = np.empty(segmentation.shape, dtype=bool)
    for plane, part in zip(segmentation, mask, strict=True):
        part[...] = table[plane]
    return mask
