"""Find every problem of a dataset before any work starts, and say what to do about each.

    examine_case   one case: open, read once, measure          (check_case, check_labels, check_geometry)
    judge          all cases together: declared labels, channels, outliers, duplicates, disk, time  (check_across)
    CheckResult    what was found, and its text

``check_dataset`` does all of it. Who reads every case anyway (the fingerprint) calls ``examine_case`` with a function
that gets the opened arrays too, and ``judge`` at the end, so that one reading serves both.
"""

import contextlib
import dataclasses
import re
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autoseg.data import check_across
from autoseg.data.check_case import CaseFacts, OpenedCase, check_case, check_grids, open_case, unreadable
from autoseg.data.check_instances import check_objects, looks_like_ids, settle_task
from autoseg.data.check_objects import ExaminedIds, examine_ids
from autoseg.data.check_problem import KINDS, Problem, count, line, list_lines, problem
from autoseg.data.dataset import Case, Dataset, infer_labels
from autoseg.data.instance_labels import needs_class_map
from autoseg.data.io import Image
from autoseg.data.parallel import MemoryGate, default_threads, for_each_case
from autoseg.errors import DatasetError, ImageError
from autoseg.progress import duration
from planners.fingerprint import Spacing
from planners.geometry import target_spacing
from planners.labels import Labels

__all__ = ["KINDS", "CheckResult", "Problem", "check_dataset", "examine_case", "judge", "settle_task"]

Also = Callable[[Image, np.ndarray, np.ndarray, np.ndarray | None], None]
"""Called where image and label are sound, with the image, its voxels (C, z, y, x), the class values of its label (z, y,
x, as in the user's files) and, where objects are told apart, their numbers 1, 2, … (z, y, x, int32; otherwise None)."""

PREPROCESSED_VOXELS_PER_S = 1e7
"""Voxels × channels of the result that one thread preprocesses in a second, reading and storing included. Measured
2026-11-21 on one of two shared x86 cores: 0.5 (hippocampus) to 2.5 (CT, BraTS) · 10⁷ with resampling to 0.8 times the
spacing, 0.6 to 4 · 10⁷ without."""

HOUR_S = 3600.0

IDS_TAKEN_AS_CLASSES = (
    "If they number objects, take --task instance, or declare labels and instances in dataset.json; otherwise check "
    "the labels folder"
)
"""What to do where nobody declared labels and there are more values than classes."""


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """What the check of a dataset found.

    Attributes:
        dataset: its name.
        num_cases: training cases, including those with problems.
        num_test_cases: images to predict.
        channels: their names.
        labels: as declared, or as found in the files; None where they cannot be told.
        problems: sorted by case; those of the whole dataset first.
        notes: decisions that the user should see.
        store_bytes: expected size of all preprocessed cases.
        preprocessing_s: expected time for them.
    """

    dataset: str
    num_cases: int
    num_test_cases: int
    channels: tuple[str, ...]
    labels: Labels | None
    problems: tuple[Problem, ...]
    notes: tuple[str, ...] = ()
    store_bytes: int = 0
    preprocessing_s: float = 0.0

    @property
    def stops(self) -> bool:
        """Whether a run cannot start."""
        return any(item.stops for item in self.problems)

    @property
    def num_fine(self) -> int:
        """Training cases without a problem that stops the run."""
        return self.num_cases - len({item.case for item in self.problems if item.stops and item.case is not None})

    def warning_lines(self) -> tuple[str, ...]:
        """Give one line per warning, for records."""
        return tuple(line(item) for item in self.problems if not item.stops)

    def text(self) -> str:
        """Write everything for the terminal: problems, warnings, notes, and at last what is fine."""
        stops = [item for item in self.problems if item.stops]
        warnings = [item for item in self.problems if not item.stops]
        lines = []
        if stops:
            lines += [f"{count(len(stops), 'problem')} in {self.dataset}", *list_lines(stops)]
        if warnings:
            lines += [f"{count(len(warnings), 'warning')} on {self.dataset}", *list_lines(warnings)]
        lines += [f"note: {note}" for note in self.notes]
        parts = [count(len(self.channels), "channel")]
        parts += [] if self.labels is None else [count(len(self.labels.classes), "label")]
        parts += [count(self.num_test_cases, "test image")] if self.num_test_cases else []
        cases = count(self.num_cases, "case")
        if stops:
            lines.append(f"not ready: {self.num_fine} of {cases} without a problem ({', '.join(parts)})")
        else:
            lines.append(f"ready: {', '.join([cases, *parts])}")
        if warnings:
            lines.append(count(len(warnings), "warning"))
        return "\n".join(lines)


def check_dataset(dataset: Dataset, *, threads: int | None = None, store_folder: Path | None = Path()) -> CheckResult:
    """Find every problem of a dataset.

    Args:
        dataset: as ``open_dataset`` gives it.
        threads: cases at a time; default: the processors this process may use.
        store_folder: the run folder, on whose disk the preprocessed cases will be (it need not exist); default: the
            current folder, below which runs are made. None leaves the disk out.
    """
    facts = _examine_all(dataset, threads)
    settled = settle_task(dataset, facts)
    if settled.labels != dataset.labels:
        facts = _examine_all(settled, threads)
    return judge(settled, facts, store_folder=store_folder, threads=threads)


def _examine_all(dataset: Dataset, threads: int | None) -> list[CaseFacts]:
    found = for_each_case(
        lambda item, gate: examine_case(item[0], test=item[1], gate=gate, labels=dataset.labels),
        all_cases(dataset),
        "checking",
        threads,
    )
    return list(found.values())


def all_cases(dataset: Dataset) -> list[tuple[str, tuple[Case, bool]]]:
    """List training cases and test cases: a name for messages, the case, and whether it is a test case."""
    named = [(case.id, (case, False)) for case in dataset.cases]
    return named + [(f"{case.id} (test image)", (case, True)) for case in dataset.test_cases]


def examine_case(
    case: Case,
    *,
    test: bool = False,
    gate: MemoryGate | None = None,
    also: Also | None = None,
    labels: Labels | None = None,
) -> CaseFacts:
    """Open, read and check one case; a fault of its files becomes a problem.

    Args:
        case: its files. The label of a test case is not looked at.
        test: whether it is an image to predict; its problems stop nothing.
        gate: admits the case when there is memory for it.
        also: what else to do with the arrays of a sound case with a label, while they are there.
        labels: as far as they are known; where classes have instances, the label is read as a map of ids.
    """
    opened = open_case(case, test=test, labels=labels)
    problems = [*opened.problems, *check_grids(opened)]
    with gate.hold(opened.num_bytes) if gate else contextlib.nullcontext():
        image_CZYX = _read(opened.image, case.id, problems)
        label = _read_label(opened, labels, problems)
        facts = check_case(case.id, opened.image, image_CZYX, opened.classes or opened.label, label.values_ZYX)
        problems += facts.problems
        sound = not any(item.stops for item in problems)
        if also and sound and opened.image and image_CZYX is not None and label.values_ZYX is not None:
            also(opened.image, image_CZYX, label.values_ZYX, label.numbers_ZYX)
    if opened.has_ids and opened.label is not None:
        facts = dataclasses.replace(facts, objects=label.facts, id_file=opened.label.name)
    found = tuple(dataclasses.replace(item, stops=item.stops and not test) for item in problems)
    return dataclasses.replace(facts, group=case.group, test=test, problems=found)


def _read_label(opened: OpenedCase, labels: Labels | None, problems: list[Problem]) -> ExaminedIds:
    """Read the class values of a case and, where objects are told apart, their numbers; faults become problems."""
    label_CZYX = _read(opened.label, opened.id, problems)
    if not opened.has_ids or labels is None:
        return ExaminedIds(values_ZYX=None if label_CZYX is None else label_CZYX[0])
    classes_CZYX = _read(opened.classes, opened.id, problems)
    classes_ZYX = None if classes_CZYX is None else classes_CZYX[0]
    if opened.label is None or label_CZYX is None or (classes_ZYX is None and needs_class_map(labels)):
        return ExaminedIds(values_ZYX=classes_ZYX)
    if classes_ZYX is not None and classes_ZYX.shape != opened.label.shape:
        return ExaminedIds(values_ZYX=classes_ZYX)
    examined = examine_ids(opened.id, opened.label.name, label_CZYX[0], classes_ZYX, labels)
    problems += examined.problems
    return examined


def _read(image: Image | None, case_id: str, problems: list[Problem]) -> np.ndarray | None:
    """Read all voxels; a damaged file is added to the problems."""
    if image is None:
        return None
    try:
        return image.read()
    except ImageError as fault:
        problems.append(unreadable("unreadable-file", case_id, fault))
        return None


def judge(
    dataset: Dataset,
    facts: Sequence[CaseFacts],
    *,
    store_folder: Path | None = None,
    threads: int | None = None,
    rescaled_mm: Mapping[str, Spacing] | None = None,
) -> CheckResult:
    """Put together what is wrong with a dataset from what its cases hold.

    Args:
        dataset: with its labels, as far as they are known.
        facts: of all cases.
        store_folder: the run folder; None leaves the disk out.
        threads: that will preprocess; default: the processors this process may use.
        rescaled_mm: per case whose objects will be brought to a common size, the spacing that this comes to.
    """
    facts = [dataclasses.replace(case, label_file=_short(case.label_file, dataset)) for case in facts]
    problems = [item for case in facts for item in case.problems]
    problems += [problem(item.kind, item.case, _name_channel(item.found, dataset)) for item in dataset.mismatches]
    labels, faults = (dataset.labels, []) if dataset.labels is not None else _labels_found(facts)
    problems += [] if any(item.stops for item in problems) else faults
    problems += check_across.check_channels(facts, dataset.channels)
    problems += check_across.check_dimensions(facts)
    annotated = {case.id: case.annotated_classes for case in dataset.cases if case.annotated_classes is not None}
    if dataset.labels is not None:
        problems += check_across.check_values(facts, dataset.labels)
        problems += check_across.check_present(facts, dataset.labels, annotated)
        problems += check_across.check_regions(dataset.labels)
    if labels is not None:
        problems += check_across.check_classes(facts, labels, annotated, declared=dataset.labels is not None)
        problems += check_objects(facts, labels)
    problems += check_across.check_sizes(facts) + check_across.check_orientations(facts)
    problems += check_across.check_duplicates(facts)
    store_bytes, seconds = _expected(facts, dataset, threads or default_threads(), rescaled_mm or {})
    problems += _resources(store_bytes, seconds, store_folder)
    problems = [dataclasses.replace(item, found=_short(item.found, dataset)) for item in problems]
    return CheckResult(
        dataset=dataset.name,
        num_cases=len(dataset.cases) + len({item.case for item in dataset.mismatches} - {c.id for c in dataset.cases}),
        num_test_cases=len(dataset.test_cases),
        channels=dataset.channels,
        labels=labels,
        problems=tuple(sorted(problems, key=lambda item: (item.case or "", not item.stops))),
        notes=(*dataset.notes, *_reader_notes(facts), *_label_note(dataset, labels)),
        store_bytes=store_bytes,
        preprocessing_s=seconds,
    )


def _labels_found(facts: Sequence[CaseFacts]) -> tuple[Labels | None, list[Problem]]:
    """Infer the labels from the values in sound files."""
    counts: Counter[int] = Counter()
    for case in facts:
        if case.label is not None and case.label.unlisted:
            found = f"{case.label.num_values:,} label values are more than can be classes, in {case.label_file}"
            return None, [problem("no-labels", None, found, IDS_TAKEN_AS_CLASSES)]
        if case.label is not None and not case.label.looks_like_image and not case.label.fractional_voxels:
            counts.update(dict(case.label.values))
    try:
        return infer_labels(counts), []
    except DatasetError as fault:
        found, _, fix = str(fault).partition(". ")
        return None, [problem("no-labels", None, found, IDS_TAKEN_AS_CLASSES if looks_like_ids(facts) else fix)]


def _expected(
    facts: Sequence[CaseFacts], dataset: Dataset, threads: int, rescaled_mm: Mapping[str, Spacing]
) -> tuple[int, float]:
    """Estimate bytes of all stored cases and the seconds to make them, before there is a plan.

    Both configurations that the planner may make (2d and 3d_fullres) are counted, at the spacing that it would choose;
    of volumes with objects there is one store.
    """
    cases = [case for case in facts if not case.test and case.image is not None and case.spacing_mm and case.shape]
    if not cases:
        return 0, 0.0
    spacings = [case.spacing_mm for case in cases if case.spacing_mm]
    shapes = [case.shape for case in cases if case.shape]
    target = target_spacing(spacings, shapes).value
    voxels = num_bytes = 0.0
    for case, spacing, shape in zip(cases, spacings, shapes, strict=True):
        axes = [axis for axis in range(3) if shape[axis] > 1]
        seen = rescaled_mm.get(case.id, spacing)
        stored = float(np.prod([seen[axis] / target[axis] for axis in axes]))
        stored *= case.image.content_voxels if case.image else 0
        voxels += stored
        num_bytes += stored * (4 * len(dataset.channels) + _label_bytes(case))
    with_ids = any(case.objects is not None for case in cases)
    configurations = 1 if with_ids or all(shape[0] == 1 for shape in shapes) else 2
    num_bytes *= configurations
    return int(num_bytes), configurations * voxels * len(dataset.channels) / (PREPROCESSED_VOXELS_PER_S * threads)


def _label_bytes(case: CaseFacts) -> int:
    """Give the bytes per voxel of a stored label: classes alone, or classes and ids in a type that holds all ids."""
    if case.objects is None:
        return 1
    return 4 if case.objects.num_objects <= np.iinfo(np.int16).max else 8


def _resources(store_bytes: int, seconds: float, store_folder: Path | None) -> list[Problem]:
    problems = []
    if store_folder is not None:
        there = next(path for path in (store_folder.absolute(), *store_folder.absolute().parents) if path.exists())
        kept = sum(path.stat().st_size for path in (store_folder / "store").glob("*/*.image.npy"))
        needed, free = store_bytes - kept, shutil.disk_usage(there).free
        if needed > free:
            found = f"the preprocessed cases need about {_gigabytes(needed)}, {there} has {_gigabytes(free)} free"
            problems.append(problem("disk-space", None, found))
    if seconds >= HOUR_S:
        problems.append(problem("long-preprocessing", None, f"preprocessing will take about {duration(seconds)}"))
    return problems


def _reader_notes(facts: Sequence[CaseFacts]) -> list[str]:
    counts = Counter(note for case in facts for note in case.notes)
    return [f"{note} in {count(number, 'case')}" for note, number in sorted(counts.items())]


def _label_note(dataset: Dataset, labels: Labels | None) -> list[str]:
    if dataset.labels is not None or labels is None:
        return []
    named = [f"{item.name} = {item.value}" for item in labels.classes]
    shown = ", ".join(named[:8]) + (f" and {len(named) - 8} more" if len(named) > 8 else "")
    return [f"no labels are declared; found in the files: {shown}"]


def _name_channel(text: str, dataset: Dataset) -> str:
    """Add its name to the number of a channel: ``channel 0001`` becomes ``channel 1 (T2)``."""

    def named(match: re.Match[str]) -> str:
        number = int(match[1])
        return (
            f"channel {number} ({dataset.channels[number]})" if number < len(dataset.channels) else f"channel {number}"
        )

    return re.sub(r"channel (\d{4})\b", named, text)


def _short(text: str, dataset: Dataset) -> str:
    """Leave the dataset's folder out of a message."""
    folder = dataset.root if dataset.root.is_dir() else dataset.root.parent
    return text.replace(f"{folder}/", "")


def _gigabytes(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:.3g} GB"
