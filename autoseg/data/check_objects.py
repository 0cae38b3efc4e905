"""Look at the ids of one case: are they ids, are they objects, do they go with the map of classes?"""

from dataclasses import dataclass

import numpy as np

from autoseg.data.check_labels import MANY_VALUES, is_scattered
from autoseg.data.check_problem import Problem, count, problem
from autoseg.data.label_layers import split_ids
from autoseg.data.object_pieces import count_pieces
from autoseg.errors import DatasetError
from planners.labels import Labels
from planners.object_numbers import number_objects

WHOLE_FRACTION = 0.5
"""In an image taken for ids fewer numbers than this are in one piece, in a map of ids more (assumption; of ids at hand
at least 9 in 10 are)."""

IMAGE_VOXELS = 1 << 22
"""Voxels in the middle of a map in which pieces are counted to tell an image: it has about one in every voxel."""

SHOWN = 5
"""Ids listed in one message."""


@dataclass(frozen=True, kw_only=True)
class ObjectFacts:
    """What one map of ids holds; counts alone, as there may be very many objects.

    Attributes:
        num_objects: ids of classes with instances.
        num_in_pieces: those of them that are not one connected piece.
        most_pieces, torn_id: the number of pieces of the id in the most pieces, and that id; 0 where there is none.
    """

    num_objects: int
    num_in_pieces: int = 0
    most_pieces: int = 0
    torn_id: int = 0


@dataclass(frozen=True)
class ExaminedIds:
    """A map of ids, looked at.

    Attributes:
        problems: what is wrong with it.
        values_ZYX: the class values; None where the ids are none.
        numbers_ZYX: the objects of classes with instances, numbered 1, 2, …, int32; None where the ids are none.
        facts: None where the ids are none.
    """

    problems: tuple[Problem, ...] = ()
    values_ZYX: np.ndarray | None = None
    numbers_ZYX: np.ndarray | None = None
    facts: ObjectFacts | None = None


def examine_ids(
    case_id: str, file: str, label_ZYX: np.ndarray, classes_ZYX: np.ndarray | None, labels: Labels
) -> ExaminedIds:
    """Look at the ids of a case.

    Args:
        case_id: for the problems.
        file: of the ids, for the problems.
        label_ZYX: the map of ids as read.
        classes_ZYX: the map of class values as read; None where there is one class.
        labels: as declared, with instances.
    """
    try:
        ids, values = split_ids(label_ZYX, classes_ZYX, labels)
    except DatasetError as fault:
        found, _, fix = str(fault).partition(". ")
        return ExaminedIds((problem("no-ids", case_id, f"{found} ({file})", fix),))
    with_instances = [item.value for item in labels.classes if item.name in labels.instance_classes]
    belongs = np.isin(values, with_instances)
    numbers, number = number_objects(ids * belongs)
    if number > MANY_VALUES and _is_image(numbers):
        found = f"{file} holds {number:,} different values, scattered like those of an image"
        return ExaminedIds((problem("image-as-label", case_id, found),))
    pieces = count_pieces(numbers, number)
    worst = int(np.argmax(pieces)) if number else 0
    facts = ObjectFacts(
        num_objects=number,
        num_in_pieces=int(np.sum(pieces > 1)),
        most_pieces=int(pieces[worst]),
        torn_id=int(ids.reshape(-1)[np.argmax(numbers == worst)]) if pieces[worst] > 1 else 0,
    )
    if classes_ZYX is None:
        problems = _about_ignore(case_id, file, label_ZYX, ids, labels)
    else:
        problems = _against_classes(case_id, file, ids, values, belongs, labels)
    return ExaminedIds(problems, values, numbers, facts)


def _about_ignore(
    case_id: str, file: str, label_ZYX: np.ndarray, ids: np.ndarray, labels: Labels
) -> tuple[Problem, ...]:
    """Look whether the ignore label's value may be an object: numbers go on below and above it."""
    if labels.ignore is None or int(ids.max(initial=0)) <= labels.ignore:
        return ()
    voxels = int(np.count_nonzero(label_ZYX == labels.ignore))
    lowest = int(ids[ids > 0].min())
    if not voxels or lowest > labels.ignore:
        return ()
    found = (
        f"the ignore value {labels.ignore} ({count(voxels, 'voxel')}) lies among the ids, {lowest} to {ids.max()} "
        f"({file})"
    )
    return (problem("ignore-among-ids", case_id, found),)


def _is_image(numbers: np.ndarray) -> bool:
    """Tell an image from a map of ids: most of its values are scattered, and in many pieces."""
    if not is_scattered(numbers):
        return False
    num_slices = max(1, IMAGE_VOXELS // numbers[0].size)
    first = max(0, (len(numbers) - num_slices) // 2)
    middle, number = number_objects(numbers[first : first + num_slices])
    return bool(np.mean(count_pieces(middle, number)[1:] == 1) < WHOLE_FRACTION) if number else False


def _against_classes(
    case_id: str, file: str, ids: np.ndarray, values: np.ndarray, belongs: np.ndarray, labels: Labels
) -> tuple[Problem, ...]:
    """Compare ids with the map of classes: an object has one class, and what has a class with instances is one."""
    there = (ids > 0) & (values != labels.classes[0].value)
    outside = int(np.count_nonzero(ids)) - int(np.count_nonzero(there))
    bare = int(np.count_nonzero(belongs & (ids == 0)))
    if labels.ignore is not None:
        there &= values != labels.ignore
    numbers, number = number_objects(ids * there)
    one_class = np.zeros(number + 1, dtype=values.dtype)
    one_class[numbers.reshape(-1)] = values.reshape(-1)
    mixed = np.unique(ids[there & (one_class[numbers] != values)])
    found = []
    if outside:
        found.append(f"{count(outside, 'voxel')} of objects are {labels.classes[0].name}")
    if bare:
        found.append(f"{count(bare, 'voxel')} of {' or '.join(labels.instance_classes)} belong to no object")
    if mixed.size:
        shown = ", ".join(str(value) for value in mixed[:SHOWN]) + (" …" if mixed.size > SHOWN else "")
        found.append(f"{count(mixed.size, 'object')} of more than one class (id {shown})")
    return (problem("ids-against-classes", case_id, f"{'; '.join(found)} ({file})"),) if found else ()
