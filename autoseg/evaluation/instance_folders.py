"""Folders of instances: compare a folder of predicted instance maps with a folder of labels, matched by file name."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from autoseg.data.check_problem import count
from autoseg.data.instance_labels import CLASSES
from autoseg.data.parallel import MemoryGate, default_threads, for_each_case
from autoseg.errors import AutosegError, DatasetError
from autoseg.evaluation.contingency import contingency
from autoseg.evaluation.folders import MAX_THREADS, declared_labels, label_files, match_files, without_partner
from autoseg.evaluation.instance_metrics import InstanceProtocol, find_instance_protocol, parse_instance_metrics
from autoseg.evaluation.instance_pairs import (
    InstanceFiles,
    InstanceRules,
    MeasuredImage,
    Scored,
    measure_files,
    score_objects,
)
from autoseg.evaluation.instance_records import (
    ALL_OBJECTS,
    GroupSummary,
    InstanceCase,
    InstanceComparison,
    InstanceSummary,
)
from autoseg.evaluation.statistics import bootstrap_mean

__all__ = ["InstanceComparison", "evaluate_instances"]


def evaluate_instances(
    predictions: Path,
    labels: Path,
    *,
    protocol: str | None = None,
    metrics: Sequence[str] = (),
    threads: int | None = None,
) -> InstanceComparison:
    """Compare the instances of predictions with those of labels of the same names, file endings aside.

    Several images are read at a time, as many as are expected to fit the memory that is free.

    Args:
        predictions, labels: two folders of maps of instance ids, or two files. A folder ``classes`` in both, with maps
            of class values under the same names, tells each object's class; each class is then measured by itself, too.
            A ``dataset.json`` in the folder of labels or beside it names the classes and the ignore label.
        protocol: name of the preset; None: ``default``.
        metrics: measure these only; empty: what the preset measures.
        threads: images at a time; default: the processors this process may use, at most ``MAX_THREADS``.

    Raises:
        DatasetError: a folder is missing, or nothing can be compared; the message lists all problems.
        OptionError: the protocol or a metric is unknown.
    """
    rules = _rules(protocol, metrics, labels)
    predicted, labelled = _named(predictions, rules.protocol), _named(labels, rules.protocol)
    if predictions.is_file() and labels.is_file():
        from autoseg.data.io import image_stem

        case = image_stem(labels)
        predicted, labelled = {case: [predictions]}, {case: [labels]}
    without_prediction, without_label = sorted(set(labelled) - set(predicted)), sorted(set(predicted) - set(labelled))
    pairs, problems = match_files(predicted, labelled)
    measured = []
    for result in _measure_all(rules, _with_classes(pairs, predictions, labels), threads):
        if isinstance(result, str):
            problems.append(result)
        else:
            measured.append(result)
    num_unreadable = len(problems)
    lacking = [] if rules.protocol.labels_may_lack else without_label
    problems += without_partner(without_prediction, lacking)
    if not measured:
        listed = "\n".join(f"  {problem}" for problem in sorted(problems)) or "  they have no name in common"
        raise DatasetError(f"no instances in {predictions} can be compared with {labels}\n{listed}")
    notes = _notes(rules, predictions, labels, without_label if rules.protocol.labels_may_lack else [])
    return compare_images(
        rules,
        measured,
        problems=tuple(sorted(problems)),
        notes=notes,
        without_prediction=tuple(without_prediction),
        without_label=tuple(without_label),
        num_unreadable=num_unreadable,
        num_allowed=len(without_label) - len(lacking),
    )


def _rules(protocol: str | None, metrics: Sequence[str], labels: Path) -> InstanceRules:
    found = find_instance_protocol(protocol)
    measures = parse_instance_metrics(metrics or found.metrics)
    declared = declared_labels(labels)
    names = {} if declared is None else {item.value: item.name for item in declared.classes}
    ignore = None if declared is None else declared.ignore
    return InstanceRules(protocol=found, measures=measures, ignore=ignore, class_names=names)


def _named(folder: Path, protocol: InstanceProtocol) -> dict[str, list[Path]]:
    """Find the maps of a folder by case; beginnings of names that the protocol knows are taken off."""
    found: dict[str, list[Path]] = {}
    for stem, paths in label_files(folder).items():
        prefix = next((item for item in protocol.prefixes if stem.startswith(item) and stem != item), "")
        found.setdefault(stem[len(prefix) :].lstrip("_") if prefix else stem, []).extend(paths)
    return found


def _with_classes(pairs: Mapping[str, tuple[Path, Path]], predictions: Path, labels: Path) -> dict[str, InstanceFiles]:
    """Add the maps of classes where both folders have any; a file that is missing is found out when it is opened."""
    from autoseg.data.io import image_stem

    folders = [folder / CLASSES for folder in (predictions, labels)]
    known = [label_files(folder) for folder in folders] if all(folder.is_dir() for folder in folders) else []

    def class_map(place: int, path: Path) -> Path | None:
        return known[place].get(image_stem(path), [folders[place] / path.name])[0] if known else None

    return {
        case: InstanceFiles(
            prediction=prediction,
            label=label,
            predicted_classes=class_map(0, prediction),
            label_classes=class_map(1, label),
        )
        for case, (prediction, label) in pairs.items()
    }


def _measure_all(
    rules: InstanceRules, files: Mapping[str, InstanceFiles], threads: int | None
) -> list[MeasuredImage | str]:
    """Measure the images side by side; one that cannot be compared gives a sentence instead."""

    def measure(case: str, gate: MemoryGate) -> MeasuredImage | str:
        try:
            return measure_files(rules, case, files[case], gate)
        except (AutosegError, OSError, MemoryError) as fault:
            return f"{case}: {str(fault) or 'does not fit the memory that is free'}"

    if not files:
        return []
    at_a_time = threads or min(default_threads(), MAX_THREADS)
    return list(for_each_case(measure, [(case, case) for case in files], "comparing", at_a_time).values())


def _notes(rules: InstanceRules, predictions: Path, labels: Path, lacking: Sequence[str]) -> tuple[str, ...]:
    notes = [f"protocol {rules.protocol.name}: {sentence}" for sentence in rules.protocol.differs]
    if lacking:
        notes.append(
            f"{count(len(lacking), 'prediction')} without label: left out, as the challenge labels some images only"
        )
    have = [(folder / CLASSES).is_dir() for folder in (predictions, labels)]
    if any(have) and not all(have):
        missing = (labels if have[0] else predictions) / CLASSES
        notes.append(f"classes are not compared, as there is no {missing}")
    return tuple(notes)


def compare_images(rules: InstanceRules, measured: Sequence[MeasuredImage], **fields: object) -> InstanceComparison:
    """Put the images together; a class that does not occur in an image is measured there as absent."""
    nothing = np.zeros(0, dtype=np.int64)
    empty = contingency(nothing, nothing)
    names = {name: value for value, name in rules.class_names.items()}
    found = {name for item in measured for name in item.groups} - {ALL_OBJECTS}
    classes = sorted(found, key=lambda name: (names.get(name, 0), len(name), name))
    groups = (ALL_OBJECTS, *classes)
    rows = [[item.groups.get(group) or score_objects(rules, group, empty) for group in groups] for item in measured]
    totals = tuple(_total(rules, group, [row[place] for row in rows]) for place, group in enumerate(groups))
    summary = rules.protocol.summary
    class_mean: tuple[float | None, ...] = ()
    if classes:
        columns = zip(*([item.number(summary) for item in total.metrics] for total in totals[1:]), strict=True)
        class_mean = tuple(_mean([value for value in column if value is not None]) for column in columns)
    pairs = sorted(zip(measured, rows, strict=True), key=lambda pair: pair[0].case)
    return InstanceComparison(
        protocol=rules.protocol.name,
        summary=summary,
        metrics=tuple(measure.name for measure in rules.measures),
        groups=groups,
        cases=tuple(
            InstanceCase(case=item.case, scores=tuple(scores for scores, _ in row), num_deleted=item.num_deleted)
            for item, row in pairs
        ),
        totals=totals,
        class_mean=class_mean,
        hints=tuple(f"{item.case}: {item.hint}" for item, _ in pairs if item.hint),
        **fields,  # type: ignore[arg-type]
    )


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _total(rules: InstanceRules, group: str, rows: Sequence[Scored]) -> GroupSummary:
    summaries = []
    for place, measure in enumerate(rules.measures):
        values = [scores.values[place] for scores, _ in rows]
        present = [value for value in values if value is not None]
        summaries.append(
            InstanceSummary(
                metric=measure.name,
                mean=bootstrap_mean(values),
                median=statistics.median(present) if present else None,
                lowest=min(present, default=None),
                highest=max(present, default=None),
                pooled=measure.pool([parts[place] for _, parts in rows]),
                num_undefined=len(values) - len(present),
            )
        )
    return GroupSummary(
        group=group,
        metrics=tuple(summaries),
        num_labelled=sum(scores.num_labelled for scores, _ in rows),
        num_predicted=sum(scores.num_predicted for scores, _ in rows),
    )
