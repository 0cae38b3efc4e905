"""Overlap: how far a prediction covers a label, counted from one joint histogram per case.

Where neither label nor prediction holds a class, Dice and IoU are not defined: the class is *absent* in that case
(``None`` in the records) and does not count in any mean. So is a class that a case has not been annotated for.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from planners.labels import Labels

CHUNK_VOXELS = 1 << 18
"""Voxels counted at a time: fits the caches (measured 2026-11 on a CPU: 2**16 … 2**22 differ by less than a third)."""

ABSENT = "absent"
"""What stands where a score is not defined; never ``nan``."""


class CasePrediction(NamedTuple):
    """A case's label and prediction: two maps of inner class indices of equal shape.

    Attributes:
        case: its id.
        label, prediction: the maps.
        annotated: the classes the case has been annotated for (inner indices); None: all.
        voxel_mm3: volume of a voxel, which postprocessing asks for.
    """

    case: str
    label: np.ndarray
    prediction: np.ndarray
    annotated: Sequence[int] | None = None
    voxel_mm3: float = 1.0


AnyPrediction = CasePrediction | tuple[str, np.ndarray, np.ndarray]
"""A case's prediction; without its last entries, all classes are annotated and a voxel has 1 mm³."""


@dataclass(frozen=True, kw_only=True)
class Structure:
    """One thing that is scored: a foreground class, or a region; ``classes`` are inner indices."""

    name: str
    classes: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class CaseScore:
    """The scores of one case; every tuple has one entry per structure.

    Attributes:
        case: its id.
        dice, iou: overlap, None where the structure is absent from label and prediction.
        mean_dice: mean over the structures that are not absent, or None.
        tp, fp, fn, tn: voxels that are right and wrong; voxels with the ignore label are left out.
        num_predicted, num_labelled: voxels of the structure in the prediction and in the label. Like the other counts
            they are 0 where the case has not been annotated for the structure.
    """

    case: str
    dice: tuple[float | None, ...]
    iou: tuple[float | None, ...]
    mean_dice: float | None
    tp: tuple[int, ...]
    fp: tuple[int, ...]
    fn: tuple[int, ...]
    tn: tuple[int, ...]
    num_predicted: tuple[int, ...]
    num_labelled: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The scores of a set of cases.

    Attributes:
        structures: names of what is scored: the foreground classes, or the regions where there are any.
        mean_dice, mean_iou: mean over structures of ``dice`` and ``iou``, leaving out what is absent everywhere.
        dice, iou: per structure, mean over the cases where it is not absent; None where it is absent everywhere.
        num_absent: per structure, the cases where neither label nor prediction holds it, or which have not been
            annotated for it.
        cases: sorted by id.
    """

    structures: tuple[str, ...]
    mean_dice: float | None
    mean_iou: float | None
    dice: tuple[float | None, ...]
    iou: tuple[float | None, ...]
    num_absent: tuple[int, ...]
    cases: tuple[CaseScore, ...]


def structures_of(labels: Labels) -> tuple[Structure, ...]:
    """Say what is scored: the regions where the dataset has any, else every foreground class."""
    if not labels.regions:
        return tuple(Structure(name=name, classes=(index,)) for index, name in enumerate(labels.names) if index > 0)
    index_of = {value: index for index, value in enumerate(labels.values)}
    return tuple(
        Structure(name=region.name, classes=tuple(sorted(index_of[value] for value in region.values)))
        for region in labels.regions
    )


def joint_histogram(
    label: np.ndarray, prediction: np.ndarray, num_classes: int, ignore_index: int | None = None
) -> np.ndarray:
    """Count how often each pair of classes meets.

    Args:
        label: inner class indices, any shape; ``ignore_index`` where not annotated.
        prediction: inner class indices, same shape.
        num_classes: classes with background.
        ignore_index: voxels with this label are left out.

    Returns:
        (num_classes, num_classes) int64: row = class in the label, column = class in the prediction.

    Raises:
        ValueError: the shapes differ, or an index is not a class.
    """
    if label.shape != prediction.shape:
        raise ValueError(f"label has shape {label.shape}, prediction has {prediction.shape}")
    counts = np.zeros(num_classes * num_classes, dtype=np.int64)
    labels, predictions = label.reshape(-1), prediction.reshape(-1)
    for start in range(0, labels.size, CHUNK_VOXELS):
        some_labels, some_predictions = labels[start : start + CHUNK_VOXELS], predictions[start : start + CHUNK_VOXELS]
        foreground = np.flatnonzero(np.logical_or(some_labels, some_predictions))
        counts[0] += some_labels.size - foreground.size
        rows, columns = some_labels[foreground].astype(np.intp), some_predictions[foreground].astype(np.intp)
        if ignore_index is not None:
            annotated = rows != ignore_index
            rows, columns = rows[annotated], columns[annotated]
        for kind, found in (("label", rows), ("prediction", columns)):
            if found.size and (found.min() < 0 or found.max() >= num_classes):
                raise ValueError(
                    f"{kind} holds class index {found.min()} … {found.max()}; there are {num_classes} classes"
                )
        counts += np.bincount(rows * num_classes + columns, minlength=counts.size)
    return counts.reshape(num_classes, num_classes)


def case_score(
    case: str, histogram: np.ndarray, structures: Sequence[Structure], annotated: Sequence[int] | None = None
) -> CaseScore:
    """Score one case from its joint histogram (row = label, column = prediction).

    A structure counts where the case has been annotated for all its classes; ``annotated`` is as in ``CasePrediction``.
    Background holds what is not annotated, so a structure with background counts only where everything is.
    """
    counted = [
        annotated is None or (0 not in item.classes and set(item.classes) <= {*annotated}) for item in structures
    ]
    tp, predicted, labelled = [], [], []
    for structure, counts in zip(structures, counted, strict=True):
        classes = np.array(structure.classes if counts else (), dtype=np.intp)
        tp.append(int(histogram[np.ix_(classes, classes)].sum()))
        labelled.append(int(histogram[classes].sum()))
        predicted.append(int(histogram[:, classes].sum()))
    union = [p + t - both for p, t, both in zip(predicted, labelled, tp, strict=True)]
    dice = tuple(_ratio(2 * both, p + t) for both, p, t in zip(tp, predicted, labelled, strict=True))
    total = int(histogram.sum())
    return CaseScore(
        case=case,
        dice=dice,
        iou=tuple(_ratio(both, either) for both, either in zip(tp, union, strict=True)),
        mean_dice=mean_of(dice),
        tp=tuple(tp),
        fp=tuple(p - both for p, both in zip(predicted, tp, strict=True)),
        fn=tuple(t - both for t, both in zip(labelled, tp, strict=True)),
        tn=tuple(total - either if counts else 0 for either, counts in zip(union, counted, strict=True)),
        num_predicted=tuple(predicted),
        num_labelled=tuple(labelled),
    )


def score_case(
    case: str, label: np.ndarray, prediction: np.ndarray, labels: Labels, annotated: Sequence[int] | None = None
) -> CaseScore:
    """Score one prediction.

    Args:
        case: its id.
        label: inner class indices (z, y, x), ``labels.ignore_index`` where not annotated.
        prediction: inner class indices, same shape.
        labels: the classes of the dataset.
        annotated: the classes the case has been annotated for; None: all.

    Raises:
        ValueError: the shapes differ, or an index is not a class.
    """
    histogram = joint_histogram(label, prediction, labels.num_classes, labels.ignore_index)
    return case_score(case, histogram, structures_of(labels), annotated)


def score_cases(cases: Iterable[AnyPrediction], labels: Labels) -> Scores:
    """Score cases one after the other; only one is held in memory if ``cases`` yields them."""
    rows = (
        score_case(item.case, item.label, item.prediction, labels, item.annotated)
        for item in (CasePrediction(*case) for case in cases)
    )
    return collect(rows, [item.name for item in structures_of(labels)])


def collect(cases: Iterable[CaseScore], structures: Sequence[str]) -> Scores:
    """Put the scores of cases together; their order does not matter."""
    rows = tuple(sorted(cases, key=lambda row: row.case))
    dice = [[row.dice[index] for row in rows] for index in range(len(structures))]
    iou = [[row.iou[index] for row in rows] for index in range(len(structures))]
    dice_means, iou_means = tuple(map(mean_of, dice)), tuple(map(mean_of, iou))
    return Scores(
        structures=tuple(structures),
        mean_dice=mean_of(dice_means),
        mean_iou=mean_of(iou_means),
        dice=dice_means,
        iou=iou_means,
        num_absent=tuple(column.count(None) for column in dice),
        cases=rows,
    )


def merge(parts: Sequence[Scores]) -> Scores:
    """Put the scores of several folds together.

    Raises:
        ValueError: there is none, or they score different structures.
    """
    if len({part.structures for part in parts}) != 1:
        raise ValueError(f"scores of {len(parts)} folds do not score the same structures")
    return collect((row for part in parts for row in part.cases), parts[0].structures)


def mean_of(values: Iterable[float | None]) -> float | None:
    """Average what is there; None where nothing is. The order of the values does not change the result."""
    present = [value for value in values if value is not None]
    return math.fsum(present) / len(present) if present else None


def score_text(value: float | None) -> str:
    """Write a score with four digits; a structure that is not there has none."""
    return ABSENT if value is None else f"{value:.4f}"


def align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lay out rows of texts: the first column to the left, the others to the right, two spaces between."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            text.ljust(width) if i == 0 else text.rjust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
