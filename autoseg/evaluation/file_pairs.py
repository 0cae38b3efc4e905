"""Pairs of files: read a prediction and its label, check that they belong together, count and measure."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from autoseg.data.parallel import MemoryGate
from autoseg.errors import ImageError
from autoseg.evaluation.measure import Ruler
from autoseg.evaluation.metric_records import CaseMetrics
from autoseg.evaluation.overlap import CHUNK_VOXELS, CasePrediction, Structure, joint_histogram
from autoseg.evaluation.shifts import find_shift
from planners.labels import Labels

if TYPE_CHECKING:
    from autoseg.data.image import Image

TABLE_VALUES = 1024  # value ranges up to this are counted without sorting the voxels (assumption: covers label maps)
MOST_VALUES = 1024
"""Assumption: more different values than this are the numbers of objects, not classes; no atlas that we know has more.
Every pair of values is counted, and every value measured."""
DISPLACEMENT_LIMIT = 0.5  # voxels; beyond half a voxel the two maps do not describe the same points
BACKGROUND = 0

MAP_BYTES = 4
"""Per voxel, beside the two files' own values: inner class indices of both maps, int16."""

FLOAT_BYTES = 8
"""Per voxel of a map stored as floats, beside its own: it is turned into int64."""

MASK_BYTES = 24
"""Per voxel, what masks and metrics need beside the maps: 8 for the default ones, 20 lesion-wise, of structures that
fill the image (measured 2026-11 on 60×384×384 voxels; 56 where label and prediction are noise of single voxels)."""


@dataclass(frozen=True)
class ValueTable:
    """How often the values of a label meet those of its prediction: ``counts`` (label values, predicted values)."""

    case: str
    label_values: tuple[int, ...]
    predicted_values: tuple[int, ...]
    counts: np.ndarray

    @property
    def values(self) -> tuple[int, ...]:
        """All values that occur, ascending."""
        return tuple(sorted({*self.label_values, *self.predicted_values}))

    def histogram(self, values: Sequence[int]) -> np.ndarray:
        """Lay the counts out over given values, which hold all that occur: row = label, column = prediction."""
        index_of = {value: index for index, value in enumerate(values)}
        found = np.zeros((len(values), len(values)), dtype=np.int64)
        place = np.ix_([index_of[v] for v in self.label_values], [index_of[v] for v in self.predicted_values])
        found[place] = self.counts
        return found


@dataclass(frozen=True, kw_only=True)
class ComparedCase:
    """What was found in one case.

    Attributes:
        table: counts of values.
        metrics: per structure of ``structures``.
        structures: names of what was measured.
        hint: what looks wrong and may be right; empty: nothing.
    """

    table: ValueTable
    metrics: CaseMetrics
    structures: tuple[str, ...]
    hint: str = ""


@dataclass(frozen=True, kw_only=True)
class Comparer:
    """How a pair of files is compared.

    Attributes:
        ruler: what is measured; its structures are those of ``labels``, or none where there are no declared classes.
        labels: the declared classes; None: every value that occurs is a class, and all but 0 are measured.
        declared_by: what declares them, for messages.
    """

    ruler: Ruler
    labels: Labels | None
    declared_by: str

    def compare(
        self, case: str, prediction_path: Path, label_path: Path, gate: MemoryGate, annotated: Sequence[int] | None
    ) -> ComparedCase:
        """Compare one pair of files.

        Raises:
            ImageError: they cannot be read, do not belong together, or hold too many values.
        """
        from autoseg.data.io import open_label

        prediction, label = open_label(prediction_path), open_label(label_path)
        check_grids(prediction, label, prediction_path, label_path)
        with gate.hold(self.needed_bytes(prediction, label)):
            label_ZYX = integers(label.read()[0], label_path)
            prediction_ZYX = integers(prediction.read()[0], prediction_path)
            most = MOST_VALUES if self.labels is None else max(MOST_VALUES, len(self.labels.values))
            table = value_table(case, label_ZYX, prediction_ZYX, most, (str(label_path), str(prediction_path)))
            self._check_values(table, prediction_path, label_path)
            hint = find_shift(label_ZYX, prediction_ZYX, table) if self._has_no_ignored(table) else ""
            metrics, names = self._measure(table, label_ZYX, prediction_ZYX, label.geometry.spacing_mm, annotated)
        return ComparedCase(table=table, metrics=metrics, structures=names, hint=hint)

    def needed_bytes(self, prediction: "Image", label: "Image") -> int:
        """Estimate the memory that comparing two opened files takes."""
        num_voxels = int(np.prod(label.shape))
        own = sum(image.dtype.itemsize + FLOAT_BYTES * (image.dtype.kind == "f") for image in (prediction, label))
        return num_voxels * (own + (MAP_BYTES + MASK_BYTES if self.ruler.needs_masks else 0))

    def _measure(
        self,
        table: ValueTable,
        label_ZYX: np.ndarray,
        prediction_ZYX: np.ndarray,
        spacing_mm: Sequence[float],
        annotated: Sequence[int] | None,
    ) -> tuple[CaseMetrics, tuple[str, ...]]:
        ruler, ignore_index = self.ruler, None
        if self.labels is not None:
            values, ignore_index = self.labels.values, self.labels.ignore_index
        else:
            values = table.values
            ruler = Ruler(protocol=ruler.protocol, structures=value_structures(values), measures=ruler.measures)
        histogram = table.histogram(values)
        if ignore_index is not None:
            histogram[ignore_index] = 0
        if ruler.needs_masks:
            label_ZYX, prediction_ZYX = (class_indices(array, values) for array in (label_ZYX, prediction_ZYX))
        item = CasePrediction(table.case, label_ZYX, prediction_ZYX, annotated)
        measured = ruler.measure(item, spacing_mm, ignore_index, histogram)
        return measured, tuple(structure.name for structure in ruler.structures)

    def _check_values(self, table: ValueTable, prediction_path: Path, label_path: Path) -> None:
        if self.labels is None:
            return
        for path, values in ((label_path, table.label_values), (prediction_path, table.predicted_values)):
            strange = [str(value) for value in values if value not in self.labels.values]
            if strange:
                known = ", ".join(map(str, self.labels.values))
                raise ImageError(
                    f"{path} holds the value {', '.join(strange)}; {self.declared_by} {known}. "
                    "Correct the file, or declare the value in dataset.json"
                )

    def _has_no_ignored(self, table: ValueTable) -> bool:
        return self.labels is None or self.labels.ignore not in table.label_values


def value_structures(values: Sequence[int]) -> tuple[Structure, ...]:
    """Make every value but 0 a structure, named by its value; ``values`` ascending, as the maps are indexed."""
    return tuple(
        Structure(name=str(value), classes=(index,)) for index, value in enumerate(values) if value != BACKGROUND
    )


def check_grids(prediction: "Image", label: "Image", prediction_path: Path, label_path: Path) -> None:
    """Check that two images have voxels at the same places.

    Raises:
        ImageError: they have not.
    """
    if prediction.shape != label.shape:
        shapes = ["×".join(map(str, image.shape)) for image in (prediction, label)]
        raise ImageError(
            f"{prediction_path} has shape {shapes[0]}, {label_path} has {shapes[1]}. Bring both to the same grid"
        )
    displacement = label.geometry.displacement(prediction.geometry, label.shape)
    if displacement > DISPLACEMENT_LIMIT:
        raise ImageError(
            f"{prediction_path} and {label_path} lie {displacement:.1f} voxels apart in space. "
            "Export both from the same grid"
        )


def integers(values: np.ndarray, path: Path) -> np.ndarray:
    """Give a label map as integers.

    Raises:
        ImageError: it holds fractions.
    """
    if values.dtype.kind in "iub":
        return values
    whole = values.astype(np.int64)
    if not np.array_equal(whole, values):
        raise ImageError(f"{path} holds fractions. A label map needs whole numbers")
    return whole


def class_indices(array: np.ndarray, values: Sequence[int]) -> np.ndarray:
    """Replace values by their place in ``values``, which holds all that occur."""
    dtype = np.uint8 if len(values) <= 256 else np.int16
    low, high = min(values), max(values)
    if tuple(values) == tuple(range(len(values))) and array.dtype.kind in "iu":
        return array  # values are their own places
    if low >= 0 and high < TABLE_VALUES and array.dtype.kind in "iu":
        table = np.zeros(high + 1, dtype=dtype)
        table[list(values)] = np.arange(len(values), dtype=dtype)
        return table[array]
    order = np.argsort(values)
    places = np.searchsorted(np.array(values)[order], array)
    return order.astype(dtype)[places]


def value_table(
    case: str,
    label: np.ndarray,
    prediction: np.ndarray,
    most_values: int = MOST_VALUES,
    names: tuple[str, str] = ("the label", "the prediction"),
) -> ValueTable:
    """Count how often each pair of values meets.

    Args:
        case: its id.
        label, prediction: integers, equal shapes; any values.
        most_values: that each of them may hold.
        names: of label and prediction, for messages.

    Raises:
        ImageError: one holds more values.
    """
    ends = [int(end) for array in (label, prediction) for end in (array.min(), array.max())]
    low, high = min(ends), max(ends)
    if low >= 0 and high < TABLE_VALUES:
        counts = joint_histogram(label, prediction, high + 1)
        values = np.arange(high + 1)
        rows, columns = np.flatnonzero(counts.any(axis=1)), np.flatnonzero(counts.any(axis=0))
        label_values, predicted_values, counts = values[rows], values[columns], counts[np.ix_(rows, columns)]
    else:
        label_values, predicted_values = (
            _values_of(array, most_values, name) for array, name in zip((label, prediction), names, strict=True)
        )
        counts = _count_pairs(label, prediction, label_values, predicted_values)
    return ValueTable(case, tuple(label_values.tolist()), tuple(predicted_values.tolist()), counts)


def too_many_values(what: str, most: int) -> str:
    """Say that something holds too many values, and what to do."""
    return (
        f"{what} more than {most} different values, too many for classes. If these are numbers of objects, measure "
        "with --task instance; else declare the classes in dataset.json"
    )


def _values_of(array: np.ndarray, most: int, name: str) -> np.ndarray:
    """Give the values that occur, ascending, without sorting all voxels at once.

    Raises:
        ImageError: there are more than ``most``.
    """
    flat = array.reshape(-1)
    found = np.empty(0, dtype=array.dtype)
    for start in range(0, flat.size, CHUNK_VOXELS):
        found = np.union1d(found, flat[start : start + CHUNK_VOXELS])
        if len(found) > most:
            raise ImageError(too_many_values(f"{name} holds", most))
    return found


def _count_pairs(
    label: np.ndarray, prediction: np.ndarray, label_values: np.ndarray, predicted_values: np.ndarray
) -> np.ndarray:
    """Count how often pairs of any values meet, a chunk of voxels at a time: (label values, predicted values)."""
    shape = len(label_values), len(predicted_values)
    counts = np.zeros(shape[0] * shape[1], dtype=np.int64)
    labels, predictions = label.reshape(-1), prediction.reshape(-1)
    for start in range(0, labels.size, CHUNK_VOXELS):
        rows = np.searchsorted(label_values, labels[start : start + CHUNK_VOXELS])
        columns = np.searchsorted(predicted_values, predictions[start : start + CHUNK_VOXELS])
        counts += np.bincount(rows * shape[1] + columns, minlength=counts.size)
    return counts.reshape(shape)
