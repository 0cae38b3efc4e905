"""Read the label of a case as the layers that training and scoring use: classes, and ids where objects are told apart.

Everyone who trains on a label or scores with it reads it here, so that all see the same.
"""

import dataclasses

import numpy as np

from autoseg.data.image import Image, shape_text
from autoseg.data.instance_labels import needs_class_map
from autoseg.data.io import as_ids
from autoseg.errors import DatasetError
from planners.labels import Labels
from planners.object_numbers import number_objects

PART_VOXELS = 1 << 20
"""Voxels of a float map looked at in one go: some tens of MB of temporary arrays."""

EXACT_FLOAT = 2**53
"""From here on a float does not hold every whole number, so that two ids may have become one."""


def read_layers(label: Image, classes: Image | None, labels: Labels) -> np.ndarray:
    """Read a label as layers × z × y × x.

    Args:
        label: as ``open_label`` gives it: a map of class values or, where objects are told apart, of their ids: whole
            numbers from 0 (no object), of any numbering, or a picture in which every object has a colour of its own.
        classes: the map of class values beside a map of ids; None where there is none.
        labels: as declared.

    Returns:
        Without instances one layer, int16: the inner class indices, as ``Labels.encode`` gives them. With instances
        two, int32: the inner class indices, and the objects' numbers 1, 2, … without gaps; 0 where there is no object,
        where nothing is annotated, and in classes without instances.

    Raises:
        DatasetError: the map of classes is missing or of another shape, or the ids are fractions or negative.
        PlanError: a class value is not declared.
        ImageError: a file is damaged, or a map of classes is in colours.
    """
    if not labels.instance_classes:
        return labels.encode(label.read()[0])[None]
    if classes is None and needs_class_map(labels):
        names = ", ".join(labels.names[1:])
        raise DatasetError(
            f"the map of classes is missing: ids alone do not tell {names}. Put it into the folder classes/ in the "
            "folder of labels, under the label's name"
        )
    if classes is not None and classes.shape != label.shape:
        raise DatasetError(
            f"the map of classes has shape {shape_text(classes.shape)}, the ids have {shape_text(label.shape)}. "
            "Export both from one grid"
        )
    layers = np.empty((2, *label.shape), dtype=np.int32)
    ids, values = split_ids(as_ids(label).read()[0], None if classes is None else classes.read()[0], labels)
    layers[0] = labels.encode(values)
    layers[1] = number_objects(ids * _with_instances(labels)[layers[0]])[0]
    return layers


def as_predicted(labels: Labels) -> Labels:
    """Give the labels by which predictions are read.

    Where objects are told apart no number of a prediction means that nothing is annotated: the ignore value is the id
    of an object there as any other number.
    """
    return dataclasses.replace(labels, ignore=None) if labels.instance_classes else labels


def split_ids(label_ZYX: np.ndarray, classes_ZYX: np.ndarray | None, labels: Labels) -> tuple[np.ndarray, np.ndarray]:
    """Split what the files of a case with instances hold into ids and class values.

    Args:
        label_ZYX: the map of ids as read.
        classes_ZYX: the map of class values as read; None where there is one class, which ids above 0 then mean.
        labels: as declared.

    Returns:
        The ids, integers, 0 where nothing is annotated; and the class values, as in the user's files.

    Raises:
        DatasetError: the ids are fractions or negative.
    """
    if classes_ZYX is not None:
        return _whole(label_ZYX), classes_ZYX
    ignored = None if labels.ignore is None else label_ZYX == labels.ignore
    ids = _whole(label_ZYX if ignored is None else np.where(ignored, 0, label_ZYX))
    place = (ids > 0).astype(np.uint8)
    if ignored is not None:
        place[ignored] = labels.num_classes
    low, high = np.min_scalar_type(min(labels.values)), np.min_scalar_type(max(labels.values))
    return ids, np.array(labels.values, dtype=np.result_type(low, high))[place]


def _whole(ids: np.ndarray) -> np.ndarray:
    """Give ids as integers, or raise for fractions and negative numbers."""
    fractional = _first_fraction(ids)
    if fractional is not None:
        raise DatasetError(
            f"the ids hold {fractional:.9g}; an id of an object is a whole number. Resample ids with nearest neighbour"
        )
    lowest = ids.min(initial=0)
    if lowest < 0:
        raise DatasetError(
            f"the ids hold {int(lowest)}; ids are 0, no object, and above. Number the objects from 1, or declare the "
            "value as the ignore label"
        )
    return ids.astype(np.int64) if ids.dtype.kind == "f" else ids


def _first_fraction(ids: np.ndarray) -> float | None:
    if ids.dtype.kind != "f":
        return None
    flat = ids.reshape(-1)
    for start in range(0, flat.size, PART_VOXELS):
        part = flat[start : start + PART_VOXELS]
        with np.errstate(invalid="ignore"):
            strange = ~(np.abs(part) < EXACT_FLOAT) | (np.rint(part) != part)
        if strange.any():
            return float(part[np.argmax(strange)])
    return None


def _with_instances(labels: Labels) -> np.ndarray:
    """Tell per inner index, that of the ignore label included, whether objects of the class are told apart."""
    return np.array([name in labels.instance_classes for name in labels.names] + [False])
