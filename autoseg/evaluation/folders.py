"""Folders: compare a folder of predictions with a folder of labels, matched by file name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoseg.data.check_problem import count
from autoseg.data.parallel import MemoryGate, default_threads, for_each_case
from autoseg.errors import AutosegError, DatasetError, OptionError
from autoseg.evaluation.file_pairs import (
    BACKGROUND,
    MOST_VALUES,
    ComparedCase,
    Comparer,
    too_many_values,
    value_table,
)
from autoseg.evaluation.measure import Ruler, tabulate
from autoseg.evaluation.metric_records import CaseMetrics, MetricTable
from autoseg.evaluation.metrics import parse_metrics
from autoseg.evaluation.overlap import CasePrediction, Scores, Structure, case_score, collect
from autoseg.evaluation.protocols import Protocol, find_protocol, structures_for
from planners.labels import LabelClass, Labels

__all__ = ["FolderComparison", "declared_labels", "evaluate_folders", "value_table"]

MAX_THREADS = 8  # assumption: reading compressed files is much of the work, and disks serve few readers well
SHOWN = 5  # cases named in a line; the record has all


@dataclass(frozen=True, kw_only=True)
class FolderComparison:
    """What came out of comparing two folders.

    Attributes:
        scores: overlap and voxel counts of the cases that could be compared.
        table: what the protocol's metrics gave in them.
        problems: what could not be compared, each with what to do; of many cases of one kind only the first are named.
        hints: compared cases in which something looks wrong, each by name; they are scored as they are.
        notes: what the protocol did not find in the labels, what is not known of it, and where we differ from it.
        without_prediction, without_label: ids of all cases that have only the other.
        num_unreadable: cases that have both and could not be compared.
    """

    scores: Scores
    table: MetricTable
    problems: tuple[str, ...]
    hints: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    without_prediction: tuple[str, ...] = ()
    without_label: tuple[str, ...] = ()
    num_unreadable: int = 0

    @property
    def num_left_out(self) -> int:
        """Cases that were not compared."""
        return len(self.without_prediction) + len(self.without_label) + self.num_unreadable

    def text(self) -> str:
        """Lay out the means with their intervals for the terminal, then the worst cases, hints and problems."""
        from autoseg.evaluation.folder_text import metric_table

        parts = [metric_table(self.table)]
        for title, sentences in (("note", self.notes), ("compared, but look at", self.hints)):
            if sentences:
                parts.append("\n".join([f"{title}:", *(f"  {sentence}" for sentence in sentences)]))
        if self.problems:
            compared, left_out = count(len(self.table.cases), "case"), count(self.num_left_out, "case")
            lines = [f"{compared} compared, {left_out} not:", *(f"  {problem}" for problem in self.problems)]
            if max(len(self.without_prediction), len(self.without_label)) > SHOWN:
                lines.append("  (--json names every case)")
            parts.append("\n".join(lines))
        return "\n\n".join(parts)

    def csv(self) -> str:
        """Write a row per case and structure, a column per metric; empty where there is no value."""
        from autoseg.evaluation.folder_text import metric_csv

        return metric_csv(self.table)


def evaluate_folders(
    predictions: Path,
    labels: Path,
    declared: Labels | None = None,
    *,
    protocol: str | None = None,
    metrics: Sequence[str] = (),
    threads: int | None = None,
) -> FolderComparison:
    """Compare predictions with labels of the same names, file endings aside.

    Several cases are read at a time, as many as are expected to fit the memory that is free.

    Args:
        predictions, labels: two folders, or two files.
        declared: the classes; by default those of a ``dataset.json`` in the folder of labels or beside it, whose
            ``labels_present`` holds too. Where there is none, the protocol's own structures are taken; where it has
            none, every value that occurs is a class, named by its value, and 0 (or the lowest value, where 0 does not
            occur) is background.
        protocol: name of the rules; None: ``default``.
        metrics: measure these only; empty: what the protocol measures.
        threads: cases at a time; default: the processors this process may use, at most ``MAX_THREADS``.

    Raises:
        DatasetError: a folder is missing, or nothing can be compared; the message lists all problems.
        OptionError: the protocol or a metric is unknown, or the protocol does not fit the labels.
    """
    declared = declared or declared_labels(labels)
    comparer, notes = _comparer(_protocol(protocol, metrics, labels), metrics, declared)
    annotated = _annotated_classes(labels, declared)
    predicted, labelled = _files(predictions, labels)
    without_prediction, without_label = sorted(set(labelled) - set(predicted)), sorted(set(predicted) - set(labelled))
    pairs, problems = match_files(predicted, labelled)
    compared, faults = _compare_all(comparer, pairs, annotated, threads)
    problems += faults
    num_unreadable = len(problems)
    problems += without_partner(without_prediction, without_label)
    if not compared:
        listed = "\n".join(f"  {problem}" for problem in sorted(problems)) or "  both folders are empty"
        raise DatasetError(f"no prediction in {predictions} can be compared with {labels}\n{listed}")
    return FolderComparison(
        scores=_score(compared, comparer, annotated),
        table=_tabulate(compared, comparer),
        problems=tuple(sorted(problems)),
        hints=tuple(f"{item.table.case}: {item.hint}" for item in compared if item.hint),
        notes=notes,
        without_prediction=tuple(without_prediction),
        without_label=tuple(without_label),
        num_unreadable=num_unreadable,
    )


def _files(predictions: Path, labels: Path) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
    """Find predictions and labels by case id; two files belong together whatever their names."""
    from autoseg.data.io import image_stem

    predicted, labelled = label_files(predictions), label_files(labels)
    if predictions.is_file() and labels.is_file():
        case = image_stem(labels)
        return {case: [predictions]}, {case: [labels]}
    return predicted, labelled


def label_files(folder: Path) -> dict[str, list[Path]]:
    """Find the label maps of a folder by case id; files of other kinds are left alone.

    Raises:
        DatasetError: there is no such folder.
    """
    from autoseg.data.folders import without_maps
    from autoseg.data.io import READERS, image_ending, image_stem

    if not folder.exists():
        raise DatasetError(f"{folder} does not exist. Give a folder of segmentations, or one file")
    found: dict[str, list[Path]] = {}
    for path in sorted([folder] if folder.is_file() else folder.iterdir()):
        if path.is_file() and image_ending(path) in READERS and not path.name.startswith("."):
            found.setdefault(image_stem(path), []).append(path)
    return without_maps(found)


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


def _protocol(name: str | None, metrics: Sequence[str], labels: Path) -> Protocol:
    """Find the protocol; of one with a variant per task, the variant that the dataset's name tells.

    Raises:
        OptionError: there is none of that name, or the task cannot be told and ``nsd`` needs it.
    """
    protocol = find_protocol(name)
    asked = [measure.name for measure in parse_metrics(metrics or protocol.metrics)]
    if not protocol.variants or "nsd" not in asked:
        return protocol
    content, path = _description(labels)
    told = _letters(str(content.get("name", "")))
    for variant in protocol.variants:
        task = _letters(variant.removeprefix(f"{protocol.name}-"))
        if told and told.startswith(task):
            return find_protocol(variant)
    raise OptionError(
        f"protocol {protocol.name} measures nsd with another tolerance in each task, and {path} names none of them. "
        f"Name one: --protocol {', '.join(protocol.variants)}; or a tolerance: --metrics dice,nsd@2"
    )


def _letters(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalpha())


def _comparer(protocol: Protocol, metrics: Sequence[str], declared: Labels | None) -> tuple[Comparer, tuple[str, ...]]:
    structures: tuple[Structure, ...] = ()
    notes: tuple[str, ...] = ()
    declared_by = "declared are"
    if declared is None and protocol.structures:
        classes = [LabelClass(name="background", value=BACKGROUND)]
        classes += [LabelClass(name=f"label_{value}", value=value) for value in protocol.values if value != BACKGROUND]
        declared, declared_by = Labels(classes=tuple(classes)), f"protocol {protocol.name} knows"
    if declared is not None:
        structures, notes = structures_for(protocol, declared)
    notes += tuple(f"{protocol.name}, not known: {sentence}" for sentence in protocol.unknown)
    notes += tuple(f"{protocol.name}, not as its organisers: {sentence}" for sentence in protocol.differs)
    measures = parse_metrics(metrics or protocol.metrics)
    ruler = Ruler(protocol=protocol, structures=structures, measures=measures)
    return Comparer(ruler=ruler, labels=declared, declared_by=declared_by), notes


def match_files(
    predictions: Mapping[str, Sequence[Path]], labels: Mapping[str, Sequence[Path]]
) -> tuple[dict[str, tuple[Path, Path]], list[str]]:
    """Pair the files of cases that have both; gives the pairs, and a sentence for each case with two files alike."""
    pairs, problems = {}, []
    for case in sorted(set(predictions) & set(labels)):
        twice = next((found for found in (predictions[case], labels[case]) if len(found) > 1), None)
        if twice is None:
            pairs[case] = (predictions[case][0], labels[case][0])
        else:
            problems.append(f"{case}: two files of one name: {', '.join(str(path) for path in twice)}. Keep one")
    return pairs, problems


def without_partner(without_prediction: Sequence[str], without_label: Sequence[str]) -> list[str]:
    """Say which cases have only one of the two files: a sentence each."""
    problems = []
    if without_prediction:
        problems.append(f"no prediction for {_listed(without_prediction)}. Predict them, or take their labels away")
    if without_label:
        problems.append(f"no label for {_listed(without_label)}. Add them, or take the predictions away")
    return problems


def _listed(cases: Sequence[str]) -> str:
    more = f" and {len(cases) - SHOWN} more" if len(cases) > SHOWN else ""
    return f"{count(len(cases), 'case')} ({', '.join(cases[:SHOWN])}{more})"


def _compare_all(
    comparer: Comparer,
    pairs: Mapping[str, tuple[Path, Path]],
    annotated: Mapping[str, tuple[int, ...]],
    threads: int | None,
) -> tuple[list[ComparedCase], list[str]]:
    """Compare the pairs of files side by side.

    Returns:
        The compared cases, and a sentence for each case that could not be compared.

    Raises:
        OptionError: what is the same in every case, such as a package that a metric lacks.
    """

    def compare(case: str, gate: MemoryGate) -> ComparedCase | Exception:
        try:
            return comparer.compare(case, *pairs[case], gate, annotated.get(case))
        except (AutosegError, OSError, MemoryError) as fault:
            return fault

    at_a_time = threads or min(default_threads(), MAX_THREADS)
    results = for_each_case(compare, [(case, case) for case in pairs], "comparing", at_a_time) if pairs else {}
    compared, faults = [], []
    for case, result in results.items():
        if isinstance(result, OptionError):
            raise result
        if isinstance(result, Exception):
            faults.append(f"{case}: {str(result) or 'does not fit the memory that is free'}")
        else:
            compared.append(result)
    return compared, faults


def _values(compared: Sequence[ComparedCase], comparer: Comparer) -> tuple[int, ...]:
    """Give the values of all classes, background first: the declared ones, or those that occur.

    Raises:
        DatasetError: too many occur.
    """
    if comparer.labels is not None:
        return comparer.labels.values
    found = sorted({value for item in compared for value in item.table.values})
    if len(found) > MOST_VALUES:
        raise DatasetError(too_many_values("labels and predictions of all cases hold", MOST_VALUES))
    background = BACKGROUND if BACKGROUND in found else found[0]
    return (background, *(value for value in found if value != background))


def _structures(values: Sequence[int], comparer: Comparer) -> tuple[Structure, ...]:
    if comparer.labels is not None:
        return comparer.ruler.structures
    return tuple(Structure(name=str(value), classes=(index,)) for index, value in enumerate(values) if index > 0)


def _score(compared: Sequence[ComparedCase], comparer: Comparer, annotated: Mapping[str, Sequence[int]]) -> Scores:
    values = _values(compared, comparer)
    structures = _structures(values, comparer)
    rows = []
    for item in compared:
        histogram = item.table.histogram(values)
        if comparer.labels is not None and comparer.labels.ignore_index is not None:
            histogram[comparer.labels.ignore_index] = 0
        rows.append(case_score(item.table.case, histogram, structures, annotated.get(item.table.case)))
    return collect(rows, [structure.name for structure in structures])


def _tabulate(compared: Sequence[ComparedCase], comparer: Comparer) -> MetricTable:
    """Put the cases' metrics together; a class that does not occur in a case is measured as absent there."""
    structures = _structures(_values(compared, comparer), comparer)
    ruler = comparer.ruler
    absent = absent_values(ruler)
    rows = []
    for item in compared:
        place = {name: index for index, name in enumerate(item.structures)}
        measured = [_row(item.metrics, place.get(structure.name), absent) for structure in structures]
        values, empty, counts = (tuple(part) for part in zip(*measured, strict=True)) if measured else ((), (), ())
        rows.append(CaseMetrics(case=item.table.case, values=values, empty=empty, counts=counts))
    return tabulate(rows, structures, ruler.protocol, [measure.name for measure in ruler.measures])


def _row(metrics: CaseMetrics, place: int | None, absent: CaseMetrics) -> tuple[Any, Any, Any]:
    found, index = (absent, 0) if place is None else (metrics, place)
    return found.values[index], found.empty[index], found.counts[index]


def absent_values(ruler: Ruler) -> CaseMetrics:
    """Measure a structure that neither label nor prediction holds."""
    import numpy as np

    nothing = np.zeros((1, 1, 1), dtype=np.uint8)
    structure = Structure(name="", classes=(1,))
    single = Ruler(protocol=ruler.protocol, structures=(structure,), measures=ruler.measures)
    return single.measure(CasePrediction("", nothing, nothing), (1.0, 1.0, 1.0))
