"""Folders: compare a folder of predictions with a folder of labels, matched by file name."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autoseg.data.check_problem import count
from autoseg.errors import DatasetError, ImageError
from autoseg.evaluation.overlap import (
    Scores,
    Structure,
    case_score,
    collect,
    joint_histogram,
    scores_table,
    structures_of,
)
from autoseg.progress import track
from planners.labels import Labels

if TYPE_CHECKING:
    from autoseg.data.image import Image

TABLE_VALUES = 1024  # value ranges up to this are counted without sorting the voxels (assumption: covers label maps)
DISPLACEMENT_LIMIT = 0.5  # voxels; beyond half a voxel the two maps do not describe the same points
THREADS = 4  # assumption: reading compressed files is the work, and one pair per thread is in memory
BACKGROUND = 0
SHOWN = 5  # cases named in a line; the record has all


@dataclass(frozen=True, kw_only=True)
class FolderComparison:
    """What came out of comparing two folders.

    Attributes:
        scores: of the cases that could be compared.
        problems: what could not, each with what to do; of many cases of one kind only the first are named.
        without_prediction, without_label: ids of all cases that have only the other.
        num_unreadable: cases that have both and could not be compared.
    """

    scores: Scores
    problems: tuple[str, ...]
    without_prediction: tuple[str, ...] = ()
    without_label: tuple[str, ...] = ()
    num_unreadable: int = 0

    @property
    def num_left_out(self) -> int:
        """Cases that were not compared."""
        return len(self.without_prediction) + len(self.without_label) + self.num_unreadable

    def text(self) -> str:
        """Lay out the scores for the terminal, and the problems below them."""
        table = scores_table(self.scores)
        if not self.problems:
            return table
        compared, left_out = count(len(self.scores.cases), "case"), count(self.num_left_out, "case")
        lines = [f"{compared} compared, {left_out} not:", *(f"  {problem}" for problem in self.problems)]
        if max(len(self.without_prediction), len(self.without_label)) > SHOWN:
            lines.append("  (--json names every case)")
        return table + "\n\n" + "\n".join(lines)


@dataclass(frozen=True)
class ValueTable:
    """How often the values of a label meet those of its prediction: ``counts`` (label values, predicted values)."""

    case: str
    label_values: tuple[int, ...]
    predicted_values: tuple[int, ...]
    counts: np.ndarray


def evaluate_folders(predictions: Path, labels: Path, declared: Labels | None = None) -> FolderComparison:
    """Compare predictions with labels of the same names, file endings aside.

    Args:
        predictions, labels: two folders, or two files.
        declared: the classes; by default those of a ``dataset.json`` in the folder of labels or beside it, whose
            ``labels_present`` holds too. Where there is none, every value that occurs is a class, named by its value,
            and 0 (or the lowest value, where 0 does not occur) is background.

    Raises:
        DatasetError: a folder is missing, or nothing can be compared; the message lists all problems.
    """
    predicted, labelled = _label_files(predictions), _label_files(labels)
    declared = declared or declared_labels(labels)
    annotated = _annotated_classes(labels, declared)
    if predictions.is_file() and labels.is_file():
        from autoseg.data.io import image_stem

        case = image_stem(labels)
        predicted, labelled = {case: [predictions]}, {case: [labels]}
    without_prediction, without_label = sorted(set(labelled) - set(predicted)), sorted(set(predicted) - set(labelled))
    pairs, problems = _match(predicted, labelled)
    tables: list[ValueTable] = []
    with ThreadPoolExecutor(THREADS) as threads:
        results = threads.map(lambda case: _compare_or_tell(case, *pairs[case], declared), pairs)
        for result in track(results, len(pairs), "comparing"):
            if isinstance(result, str):
                problems.append(result)
            else:
                tables.append(result)
    num_unreadable = len(problems)
    problems += _lonely(without_prediction, without_label)
    if not tables:
        listed = "\n".join(f"  {problem}" for problem in sorted(problems)) or "  both folders are empty"
        raise DatasetError(f"no prediction in {predictions} can be compared with {labels}\n{listed}")
    return FolderComparison(
        scores=_score(tables, declared, annotated),
        problems=tuple(sorted(problems)),
        without_prediction=tuple(without_prediction),
        without_label=tuple(without_label),
        num_unreadable=num_unreadable,
    )


def _label_files(folder: Path) -> dict[str, list[Path]]:
    """Find the label maps of a folder by case id; files of other kinds are left alone."""
    from autoseg.data.io import READERS, image_ending, image_stem

    if not folder.exists():
        raise DatasetError(f"{folder} does not exist. Give a folder of segmentations, or one file")
    found: dict[str, list[Path]] = {}
    for path in sorted([folder] if folder.is_file() else folder.iterdir()):
        if path.is_file() and image_ending(path) in READERS and not path.name.startswith("."):
            found.setdefault(image_stem(path), []).append(path)
    return found


def declared_labels(labels: Path) -> Labels | None:
    """Find the classes that a ``dataset.json`` in or beside the folder of labels declares; None where there is none.

    Raises:
        DatasetError: it cannot be understood.
    """
    from autoseg.data.dataset_json import labels_of

    content, path = _description(labels)
    return labels_of(content, path)


def _annotated_classes(labels: Path, declared: Labels | None) -> Mapping[str, tuple[int, ...]]:
    """Give the annotated classes of partly annotated cases, as the ``dataset.json`` of a folder of labels says."""
    from autoseg.data.dataset_json import classes_present, labels_present_of

    content, path = _description(labels)
    listed = labels_present_of(content, path)
    return classes_present(listed, declared, listed.keys(), f"{path}: labels_present")


def _description(labels: Path) -> tuple[Mapping[str, Any], Path]:
    """Read the ``dataset.json`` in a folder of labels or beside it; empty where there is none."""
    from autoseg.data.dataset_json import read_json

    folder = labels.parent if labels.is_file() else labels
    for path in (folder / "dataset.json", folder.resolve().parent / "dataset.json"):
        if path.is_file():
            content = read_json(path)
            return (content if isinstance(content, Mapping) else {}), path
    return {}, folder


def _match(
    predictions: Mapping[str, Sequence[Path]], labels: Mapping[str, Sequence[Path]]
) -> tuple[dict[str, tuple[Path, Path]], list[str]]:
    pairs, problems = {}, []
    for case in sorted(set(predictions) & set(labels)):
        twice = next((found for found in (predictions[case], labels[case]) if len(found) > 1), None)
        if twice is None:
            pairs[case] = (predictions[case][0], labels[case][0])
        else:
            problems.append(f"{case}: two files of one name: {', '.join(str(path) for path in twice)}. Keep one")
    return pairs, problems


def _lonely(without_prediction: Sequence[str], without_label: Sequence[str]) -> list[str]:
    problems = []
    if without_prediction:
        problems.append(f"no prediction for {_listed(without_prediction)}. Predict them, or take their labels away")
    if without_label:
        problems.append(f"no label for {_listed(without_label)}. Add them, or take the predictions away")
    return problems


def _listed(cases: Sequence[str]) -> str:
    more = f" and {len(cases) - SHOWN} more" if len(cases) > SHOWN else ""
    return f"{count(len(cases), 'case')} ({', '.join(cases[:SHOWN])}{more})"


def _compare_or_tell(case: str, prediction: Path, label: Path, declared: Labels | None) -> ValueTable | str:
    try:
        return _compare(case, prediction, label, declared)
    except ImageError as fault:
        return f"{case}: {fault}"


def _compare(case: str, prediction_path: Path, label_path: Path, declared: Labels | None) -> ValueTable:
    from autoseg.data.io import open_label

    prediction, label = open_label(prediction_path), open_label(label_path)
    _check_grids(prediction, label, prediction_path, label_path)
    table = value_table(case, _integers(label.read()[0], label_path), _integers(prediction.read()[0], prediction_path))
    if declared is not None:
        for path, values in ((label_path, table.label_values), (prediction_path, table.predicted_values)):
            strange = [str(value) for value in values if value not in declared.values]
            if strange:
                known = ", ".join(map(str, declared.values))
                raise ImageError(
                    f"{path} holds the value {', '.join(strange)}; declared are {known}. "
                    "Correct the file, or declare the value in dataset.json"
                )
    return table


def _check_grids(prediction: "Image", label: "Image", prediction_path: Path, label_path: Path) -> None:
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


def _integers(values: np.ndarray, path: Path) -> np.ndarray:
    if values.dtype.kind in "iub":
        return values
    whole = values.astype(np.int64)
    if not np.array_equal(whole, values):
        raise ImageError(f"{path} holds fractions. A label map needs whole numbers")
    return whole


def value_table(case: str, label: np.ndarray, prediction: np.ndarray) -> ValueTable:
    """Count how often each pair of values meets.

    Args:
        case: its id.
        label, prediction: integers, equal shapes; any values.
    """
    ends = [int(end) for array in (label, prediction) for end in (array.min(), array.max())]
    low, high = min(ends), max(ends)
    if low >= 0 and high < TABLE_VALUES:
        counts = joint_histogram(label, prediction, high + 1)
        values = np.arange(high + 1)
        rows, columns = np.flatnonzero(counts.any(axis=1)), np.flatnonzero(counts.any(axis=0))
        label_values, predicted_values, counts = values[rows], values[columns], counts[np.ix_(rows, columns)]
    else:
        label_values, row = np.unique(label, return_inverse=True)
        predicted_values, column = np.unique(prediction, return_inverse=True)
        counts = np.bincount(
            row.reshape(-1) * len(predicted_values) + column.reshape(-1),
            minlength=len(label_values) * len(predicted_values),
        ).reshape(len(label_values), len(predicted_values))
    return ValueTable(case, tuple(label_values.tolist()), tuple(predicted_values.tolist()), counts)


def _score(tables: Sequence[ValueTable], declared: Labels | None, annotated: Mapping[str, Sequence[int]]) -> Scores:
    if declared is not None:
        values, structures = declared.values, structures_of(declared)
    else:
        found = sorted({value for table in tables for value in (*table.label_values, *table.predicted_values)})
        background = BACKGROUND if BACKGROUND in found else found[0]
        values = (background, *(value for value in found if value != background))
        structures = tuple(Structure(name=str(value), classes=(i,)) for i, value in enumerate(values) if i > 0)
    index_of = {value: index for index, value in enumerate(values)}
    rows = []
    for table in tables:
        histogram = np.zeros((len(values), len(values)), dtype=np.int64)
        place = np.ix_([index_of[v] for v in table.label_values], [index_of[v] for v in table.predicted_values])
        histogram[place] = table.counts
        if declared is not None and declared.ignore_index is not None:
            histogram[declared.ignore_index] = 0
        rows.append(case_score(table.case, histogram, structures, annotated.get(table.case)))
    return collect(rows, [item.name for item in structures])
