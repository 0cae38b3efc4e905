"""Pairs of instance maps: read a prediction and its label, check that they belong together, count and score."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from autoseg.data.parallel import MemoryGate
from autoseg.errors import ImageError
from autoseg.evaluation.contingency import (
    CHUNK_BYTES,
    PAIR_BYTES,
    Contingency,
    contingency,
    frame_ids,
    joined,
    object_classes,
)
from autoseg.evaluation.file_pairs import FLOAT_BYTES, check_grids, integers
from autoseg.evaluation.instance_metrics import CURVE, InstanceMeasure, InstanceProtocol
from autoseg.evaluation.instance_records import ALL_OBJECTS, ObjectScores
from autoseg.evaluation.matching import Parts, match

if TYPE_CHECKING:
    from autoseg.data.image import Image

LARGEST_ID = 2**63 - 1  # of int64, in which ids are counted
PIECES = 3
"""An image with one object of so many pieces looks like a mask of all objects (assumption: a single object that
something else cuts in two is common, in three is rare)."""

Scored = tuple[ObjectScores, tuple[tuple[Parts, ...], ...]]
"""A group of objects of one image: its scores, and the parts of every metric, which are added up over images."""


@dataclass(frozen=True, kw_only=True)
class MeasuredImage:
    """One image: the deleted objects, its groups, and what looks wrong."""

    case: str
    groups: dict[str, Scored]
    num_deleted: tuple[int, int]
    hint: str


@dataclass(frozen=True, kw_only=True)
class InstanceFiles:
    """The files of one image: instances, and the maps of classes where there are any."""

    prediction: Path
    label: Path
    predicted_classes: Path | None = None
    label_classes: Path | None = None


@dataclass(frozen=True, kw_only=True)
class InstanceRules:
    """How an image is measured: rules, metrics, the value that is not annotated, and the names of classes."""

    protocol: InstanceProtocol
    measures: tuple[InstanceMeasure, ...]
    ignore: int | None
    class_names: Mapping[int, str]


def measure_files(rules: InstanceRules, case: str, files: InstanceFiles, gate: MemoryGate) -> MeasuredImage:
    """Measure the objects of one pair of files.

    Raises:
        ImageError: they cannot be read, do not belong together, or hold no ids.
    """
    from autoseg.data.io import as_ids, open_label

    prediction, label = as_ids(open_label(files.prediction)), as_ids(open_label(files.label))
    check_grids(prediction, label, files.prediction, files.label)
    if rules.protocol.flat and label.shape[0] != 1:
        raise ImageError(
            f"{files.label} is a volume; protocol {rules.protocol.name} is made for 2D images. Take --protocol default"
        )
    images = [prediction, label]
    if files.label_classes is not None and files.predicted_classes is not None:
        images += [open_label(files.predicted_classes), open_label(files.label_classes)]
    with gate.hold(_needed_bytes(images)):
        label_ZYX, prediction_ZYX = _ids(label, files.label), _ids(prediction, files.prediction)
        table, num_deleted = _tabulate(rules, label_ZYX, prediction_ZYX)
        classes = None
        if len(images) > 2:
            predicted_classes = _classes(images[2], prediction, prediction_ZYX, table.prediction_ids)
            classes = _classes(images[3], label, label_ZYX, table.label_ids), predicted_classes
        hint = _hint(files.label, label_ZYX, rules.ignore) or _hint(files.prediction, prediction_ZYX, rules.ignore)
    groups = score_groups(rules, table, classes)
    return MeasuredImage(case=case, groups=groups, num_deleted=num_deleted, hint=hint)


def score_groups(
    rules: InstanceRules, table: Contingency, classes: tuple[np.ndarray, np.ndarray] | None
) -> dict[str, Scored]:
    """Measure all objects of an image and, where their classes are known, those of each class.

    Args:
        rules: metrics, and the names of classes by value.
        table: of the image.
        classes: the class value of each object of the label, and of the prediction; None where there is one class.
    """
    groups = {ALL_OBJECTS: score_objects(rules, ALL_OBJECTS, table)}
    if classes is not None:
        label_classes, predicted_classes = classes
        for value in np.union1d(label_classes, predicted_classes).tolist():
            name = rules.class_names.get(value, str(value))
            part = table.keep(label_classes == value, predicted_classes == value)
            groups[name] = score_objects(rules, name, part)
    return groups


def _needed_bytes(images: "Sequence[Image]") -> int:
    """Estimate the memory that comparing opened files of one grid takes."""
    per_voxel = PAIR_BYTES + sum(image.dtype.itemsize + FLOAT_BYTES * (image.dtype.kind == "f") for image in images)
    return int(np.prod(images[0].shape)) * per_voxel + CHUNK_BYTES


def _ids(image: "Image", path: Path) -> np.ndarray:
    """Read a map of ids.

    Raises:
        ImageError: it holds fractions, negative or too large numbers.
    """
    ids = integers(image.read()[0], path)
    lowest, highest = (int(ids.min()), int(ids.max())) if ids.size else (0, 0)
    if lowest < 0 or highest > LARGEST_ID:
        strange = lowest if lowest < 0 else highest
        raise ImageError(f"{path} holds the id {strange}. Ids run from 0, the background, to 2**63 − 1: renumber it")
    return ids


def _classes(classes: "Image", instances: "Image", ids: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Read the map of classes that belongs to some instances, and give each object its class."""
    check_grids(classes, instances, classes.paths[0], instances.paths[0])
    return object_classes(ids, integers(classes.read()[0], classes.paths[0]), wanted)


def _tabulate(rules: InstanceRules, label: np.ndarray, prediction: np.ndarray) -> tuple[Contingency, tuple[int, int]]:
    """Count an image by the protocol's rules; and how many objects of label and prediction they deleted."""
    protocol = rules.protocol
    if not protocol.tile or label.size < protocol.tile_from:
        return _without_frame(rules, label, prediction, None)
    size = protocol.tile
    tables, deleted = [], np.zeros(2, dtype=np.int64)
    for y in range(0, label.shape[1], size):
        for x in range(0, label.shape[2], size):
            box = (slice(None), slice(y, y + size), slice(x, x + size))
            table, some = _without_frame(rules, label[box], prediction[box], (1, size, size))
            tables.append(table)
            deleted += some
    return joined(tables), (int(deleted[0]), int(deleted[1]))


def _without_frame(
    rules: InstanceRules, label: np.ndarray, prediction: np.ndarray, shape: tuple[int, ...] | None
) -> tuple[Contingency, tuple[int, int]]:
    table = contingency(label, prediction, rules.ignore)
    width = rules.protocol.frame
    if not width:
        return table, (0, 0)
    labelled = ~np.isin(table.label_ids, frame_ids(label, width, shape))
    predicted = ~np.isin(table.prediction_ids, frame_ids(prediction, width, shape))
    return table.keep(labelled, predicted), (int((~labelled).sum()), int((~predicted).sum()))


def score_objects(rules: InstanceRules, group: str, table: Contingency) -> Scored:
    """Measure a group of objects by all metrics; values as the protocol rounds and fills them."""
    parts = tuple(measure.parts(table) for measure in rules.measures)
    values = []
    for measure, part in zip(rules.measures, parts, strict=True):
        value = measure.value(part)
        value = rules.protocol.undefined if value is None else value
        values.append(value if value is None or rules.protocol.digits is None else round(value, rules.protocol.digits))
    scores = ObjectScores(
        group=group,
        values=tuple(values),
        num_labelled=table.num_labelled,
        num_predicted=table.num_predicted,
        found=tuple(match(table, threshold).tp for threshold in CURVE),
    )
    return scores, parts


def _hint(path: Path, ids: np.ndarray, ignore: int | None) -> str:
    """Tell a mask from a map of instances: one object that is in many pieces."""
    mask = ids != 0 if ignore is None else (ids != 0) & (ids != ignore)
    values = ids[mask]
    if not values.size or values.min() != values.max():
        return ""
    from scipy import ndimage

    num_pieces = int(ndimage.label(mask, ndimage.generate_binary_structure(ids.ndim, ids.ndim))[1])
    if num_pieces < PIECES:
        return ""
    return (
        f"{path} holds one object (id {values[0]}) in {num_pieces} pieces: it looks like a mask of all objects. "
        "Give each object an id of its own"
    )
