"""Contingency: which objects of a label share how many voxels with which objects of its prediction.

One sparse table per image; all instance metrics follow from it. Label and prediction are maps of instance ids: 0 is
background, any other number an object, whatever its parts. Ids need not be consecutive.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

BACKGROUND = 0

CHUNK_VOXELS = 1 << 18
"""Voxels counted at a time: at least as fast as more at once, and the sorting of their runs fits the caches."""

CHUNK_BYTES = 150 * CHUNK_VOXELS
"""Held while a chunk is counted in which every voxel is a run of its own (measured 2026-11: 145 a voxel)."""

PAIR_BYTES = 20
"""Per voxel, held for the table where objects of 4×4 pixels lie side by side (measured 2026-11: 19; of 18×18: 1.4)."""


class Overlaps(NamedTuple):
    """Pairs of values that meet: value in the label, value in the prediction, number of voxels; each pair once."""

    label: np.ndarray
    prediction: np.ndarray
    counts: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class Contingency:
    """The objects of a label and of its prediction, and the voxels that they share.

    Attributes:
        label_ids, prediction_ids: int64, ascending; (n) and (m).
        label_sizes, prediction_sizes: int64, voxels of each object.
        label_index, prediction_index: (k) pairs of objects that share voxels, as entries of the lists above; ordered by
            label, then prediction.
        shared: (k) int64, how many voxels those share.
    """

    label_ids: np.ndarray
    prediction_ids: np.ndarray
    label_sizes: np.ndarray
    prediction_sizes: np.ndarray
    label_index: np.ndarray
    prediction_index: np.ndarray
    shared: np.ndarray

    @property
    def num_labelled(self) -> int:
        """Objects of the label."""
        return len(self.label_ids)

    @property
    def num_predicted(self) -> int:
        """Objects of the prediction."""
        return len(self.prediction_ids)

    @functools.cached_property
    def iou(self) -> np.ndarray:
        """(k) voxels shared over voxels in either, of each pair."""
        return self.shared / self.unions

    @functools.cached_property
    def unions(self) -> np.ndarray:
        """(k) voxels in either object of each pair."""
        return self.label_sizes[self.label_index] + self.prediction_sizes[self.prediction_index] - self.shared

    @functools.cached_property
    def label_alone(self) -> np.ndarray:
        """(n) voxels of each object of the label that lie on the prediction's background."""
        return self.label_sizes - _sums(self.label_index, self.shared, self.num_labelled)

    @functools.cached_property
    def predicted_on_label(self) -> np.ndarray:
        """(m) voxels of each object of the prediction that lie on any object of the label."""
        return _sums(self.prediction_index, self.shared, self.num_predicted)

    def keep(self, labelled: np.ndarray, predicted: np.ndarray) -> "Contingency":
        """Turn objects into background.

        Args:
            labelled: (n) bool, the objects of the label that stay.
            predicted: (m) bool, the same of the prediction.

        Returns:
            The table that the maps would have given without the others.
        """
        pairs = labelled[self.label_index] & predicted[self.prediction_index]
        label_place, prediction_place = np.cumsum(labelled) - 1, np.cumsum(predicted) - 1
        return Contingency(
            label_ids=self.label_ids[labelled],
            prediction_ids=self.prediction_ids[predicted],
            label_sizes=self.label_sizes[labelled],
            prediction_sizes=self.prediction_sizes[predicted],
            label_index=label_place[self.label_index[pairs]],
            prediction_index=prediction_place[self.prediction_index[pairs]],
            shared=self.shared[pairs],
        )


def contingency(label: np.ndarray, prediction: np.ndarray, ignore: int | None = None) -> Contingency:
    """Count which objects meet.

    The maps are cut into runs of equal pairs of values, which are sorted instead of the voxels: there are as many times
    fewer as objects are wide.

    Args:
        label, prediction: instance ids from 0 to 2**63 − 1, any integer type, equal shapes of any number of axes.
        ignore: voxels with this value in the label belong to no object of either; None: there is no such value.

    Raises:
        ValueError: the shapes differ, or an id is negative or too large.
    """
    found = overlaps(label, prediction)
    for kind, values in (("label", found.label), ("prediction", found.prediction)):
        if values.size and values.min() < BACKGROUND:
            raise ValueError(f"{kind} holds the id {values.min()}; ids are whole numbers from 0, the background, up")
    if ignore is not None:
        counted = found.label != ignore
        found = Overlaps(*(part[counted] for part in found))
    label_ids, label_sizes, label_place = _objects(found.label, found.counts)
    prediction_ids, prediction_sizes, prediction_place = _objects(found.prediction, found.counts)
    both = (found.label != BACKGROUND) & (found.prediction != BACKGROUND)
    return Contingency(
        label_ids=label_ids,
        prediction_ids=prediction_ids,
        label_sizes=label_sizes,
        prediction_sizes=prediction_sizes,
        label_index=label_place[both],
        prediction_index=prediction_place[both],
        shared=found.counts[both],
    )


def overlaps(label: np.ndarray, prediction: np.ndarray) -> Overlaps:
    """Count how often each pair of values meets, leaving out where both are 0; ordered by label, then prediction.

    Args:
        label, prediction: integers, equal shapes.

    Raises:
        ValueError: the shapes differ, or a value exceeds int64.
    """
    if label.shape != prediction.shape:
        raise ValueError(f"label has shape {label.shape}, prediction has {prediction.shape}")
    parts = []
    flat = label.reshape(-1), prediction.reshape(-1)
    for start in range(0, label.size, CHUNK_VOXELS):
        parts.append(_runs(*(part[start : start + CHUNK_VOXELS] for part in flat)))
    if not parts:
        empty = np.zeros(0, dtype=np.int64)
        return Overlaps(empty, empty, empty)
    return _sum_equal(Overlaps(*(np.concatenate(part) for part in zip(*parts, strict=True))))


def joined(tables: Sequence[Contingency]) -> Contingency:
    """Put the tables of several images, or of parts of one, side by side: no object of one meets one of another.

    Ids may then occur twice.
    """
    label_starts = np.cumsum([0, *(table.num_labelled for table in tables)])
    prediction_starts = np.cumsum([0, *(table.num_predicted for table in tables)])

    def together(name: str, starts: np.ndarray | None = None) -> np.ndarray:
        parts = [getattr(table, name) for table in tables]
        if starts is not None:
            parts = [part + start for part, start in zip(parts, starts, strict=False)]
        return np.concatenate([np.zeros(0, dtype=np.int64), *parts])

    return Contingency(
        label_ids=together("label_ids"),
        prediction_ids=together("prediction_ids"),
        label_sizes=together("label_sizes"),
        prediction_sizes=together("prediction_sizes"),
        label_index=together("label_index", label_starts),
        prediction_index=together("prediction_index", prediction_starts),
        shared=together("shared"),
    )


def frame_ids(ids: np.ndarray, width: int, shape: Sequence[int] | None = None) -> np.ndarray:
    """Find the objects that touch the frame: the outermost voxels along every axis.

    Args:
        ids: a map of instance ids; axes of length 1 (the z of a 2D image) have no frame.
        width: of the frame in voxels.
        shape: of the map where it has been padded with background at its ends; default: its own.

    Returns:
        The ids, ascending.
    """
    found = [np.zeros(0, dtype=np.int64)]
    for axis, size in enumerate(shape or ids.shape):
        if size == 1:
            continue
        for part in (slice(0, width), slice(max(size - width, 0), size)):
            found.append(np.unique(ids[(slice(None),) * axis + (part,)]).astype(np.int64))
    values = np.unique(np.concatenate(found))
    return values[values != BACKGROUND]


def object_classes(ids: np.ndarray, classes: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Give each object the class that most of its voxels have, of equally many the lowest.

    Args:
        ids: a map of instance ids.
        classes: a map of class values, same shape.
        wanted: ids that occur in the map.

    Returns:
        The class value of each wanted id.

    Raises:
        ValueError: the shapes differ.
    """
    found = overlaps(ids, classes)
    order = np.lexsort((found.prediction, -found.counts, found.label))
    _, first = np.unique(found.label[order], return_index=True)
    best = order[first]
    return found.prediction[best][np.searchsorted(found.label[best], wanted)]


def _runs(label: np.ndarray, prediction: np.ndarray) -> Overlaps:
    """Count the pairs of values of one chunk, voxel row after voxel row."""
    changes = np.flatnonzero((label[1:] != label[:-1]) | (prediction[1:] != prediction[:-1])) + 1
    starts = np.concatenate([np.zeros(1, dtype=changes.dtype), changes])
    lengths = np.diff(starts, append=label.size)
    labels, predictions = _signed(label[starts]), _signed(prediction[starts])
    some = (labels != BACKGROUND) | (predictions != BACKGROUND)
    return _sum_equal(Overlaps(labels[some], predictions[some], lengths[some].astype(np.int64)))


def _signed(values: np.ndarray) -> np.ndarray:
    if values.dtype == np.uint64 and values.size and values.max() > np.iinfo(np.int64).max:
        raise ValueError(f"found the id {values.max()}; ids go up to {np.iinfo(np.int64).max}")
    return values.astype(np.int64)


def _sum_equal(found: Overlaps) -> Overlaps:
    """Add the counts of equal pairs."""
    label_values, row = np.unique(found.label, return_inverse=True)
    predicted_values, column = np.unique(found.prediction, return_inverse=True)
    codes, place = np.unique(row * max(len(predicted_values), 1) + column, return_inverse=True)
    rows, columns = np.divmod(codes, max(len(predicted_values), 1))
    return Overlaps(label_values[rows], predicted_values[columns], _sums(place, found.counts, len(codes)))


def _objects(values: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Give the objects among some values, their sizes, and the place of each value in that list (background: −1)."""
    ids, place = np.unique(values, return_inverse=True)
    sizes = _sums(place, counts, len(ids))
    if ids.size and ids[0] == BACKGROUND:
        return ids[1:], sizes[1:], place - 1
    return ids, sizes, place


def _sums(place: np.ndarray, counts: np.ndarray, size: int) -> np.ndarray:
    """Add counts by place; float64 holds sums up to 2**53 exactly, more voxels than any image has."""
    return np.bincount(place, weights=counts, minlength=size).astype(np.int64)
