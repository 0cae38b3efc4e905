"""A run folder: which records are there and whole, how far each fold is, what stopped it last, what is damaged."""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from autoseg.doctor.finding import Finding, disk
from autoseg.doctor.last_start import last_start
from autoseg.errors import AutosegError, RunFolderError
from autoseg.run_folder import UNFINISHED, RunFolder, RunRecord
from planners.plan import Configuration
from planners.records import PlanError, RecordError

SHOWN = 3
"""Damaged cases that are named. Assumption: more tell no more, all are made again."""


def examine_run(run: RunFolder) -> tuple[Finding, ...]:
    """Look through a run folder: which records are there and whole, how far each fold is, what is missing.

    Raises:
        RunFolderError: it is no run folder.
    """
    if not run.run_file.exists():
        raise RunFolderError(f"{run.root} is no run folder: it holds no run.json. Name one that `autoseg run` made")
    try:
        record = run.read(RunRecord, run.run_file)
    except (AutosegError, RecordError) as fault:
        return (Finding(title="run.json", text=str(fault), is_bad=True),)
    found = [Finding(title="run", text=f"{record.name}, {len(record.cases)} cases of {record.dataset}")]
    found += _dataset(record)
    found += last_start(run)
    found += list(_records(run))
    trained = sorted((run.root / "folds").glob("*/fold_*"))
    feeding = [(path.parent.name, path.name.removeprefix("fold_")) for path in trained]
    asked = [(name, str(fold)) for name, fold in itertools.product(record.configurations, record.folds)]
    for name, fold in dict.fromkeys((*asked, *feeding)):
        found.append(_fold(run, name, fold))
    return (*found, *_stores(run), *_leftovers(run), disk(run.root))


def _dataset(record: RunRecord) -> list[Finding]:
    missing = [
        path
        for case in record.cases
        for path in (*case.images, *(path for path in (case.label, case.classes) if path))
        if not Path(path).exists()
    ]
    if not missing:
        return []
    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    return [Finding(title="dataset", text=f"{missing[0]}{more} is no longer there; put it back", is_bad=True)]


def _records(run: RunFolder) -> Iterator[Finding]:
    """Read every record once, strictly."""
    from autoseg.data.check import CheckResult
    from autoseg.data.splits import Splits
    from autoseg.evaluation.confidence import Confidence
    from autoseg.evaluation.instance_results import InstanceResults
    from autoseg.evaluation.metric_records import MetricTable
    from autoseg.evaluation.overlap import Scores
    from autoseg.evaluation.selection import Choice
    from planners.fingerprint import Fingerprint
    from planners.plan import Plan

    kinds: dict[Path, type[Any]] = {
        run.check_file: CheckResult,
        run.fingerprint_file: Fingerprint,
        run.plan_file: Plan,
        run.splits_file: Splits,
        run.choice_file: Choice,
        run.scores_file: Scores,
        run.metrics_file: MetricTable,
        run.confidence_file: Confidence,
        run.instances_file: InstanceResults,
    }
    needless = _of_other_task(run)
    for path, kind in kinds.items():
        if not path.exists():
            if path in needless:
                continue
            yield Finding(title=path.name, text="not there yet")
            continue
        try:
            run.read(kind, path)
            yield Finding(title=path.name, text="whole")
        except (AutosegError, RecordError, PlanError) as fault:
            yield Finding(title=path.name, text=str(fault), is_bad=True)


def _of_other_task(run: RunFolder) -> tuple[Path, ...]:
    """Name the records that a run of this task never writes: those of objects, or those of classes alone."""
    from planners.plan import Plan

    try:
        tells_apart = bool(run.read(Plan, run.plan_file).labels.instance_classes)
    except (AutosegError, RecordError, PlanError):  # it is not there yet, or damaged, which is said elsewhere
        tells_apart = False
    return (run.metrics_file, run.confidence_file) if tells_apart else (run.instances_file,)


def _fold(run: RunFolder, name: str, fold: int | str) -> Finding:
    from autoseg.evaluation.case_losses import CaseLosses
    from autoseg.evaluation.confidence import Confidence
    from autoseg.evaluation.overlap import Scores
    from autoseg.networks.checkpoint import load_weights
    from autoseg.training.fold_record import FoldRecord
    from autoseg.training.fold_state import load_counters

    folder, title = run.fold(name, fold), f"{name} fold {fold}"
    if not folder.record.exists():
        return Finding(title=title, text="not begun")
    try:
        record = run.read(FoldRecord, folder.record)
        further: dict[Path, type[Any]] = {
            folder.configuration: Configuration,
            folder.scores: Scores,
            folder.confidence: Confidence,
            folder.case_losses: CaseLosses,
        }
        for path, kind in further.items():
            if path.exists():
                run.read(kind, path)
        if record.finished:
            lost = not folder.weights_last.exists()
            text = f"{folder.weights_last} is missing; delete {folder.root} to train it anew" if lost else "trained"
            if not lost:
                load_weights(folder.weights_last)  # compares them with their checksum
            return Finding(title=title, text=text, is_bad=lost)
        if not folder.state.exists():
            return Finding(title=title, text="begun, nothing saved yet")
        counters = load_counters(folder.state)
        return Finding(title=title, text=f"in training: epoch {counters.epoch + 1} of {record.epochs}")
    except (AutosegError, RecordError) as fault:
        return Finding(title=title, text=str(fault), is_bad=True)


def _stores(run: RunFolder) -> Iterator[Finding]:
    """Compare the sizes of all preprocessed arrays with their records; checksums are compared when training begins."""
    from autoseg.preprocessing.store import Store

    for folder in sorted(path for path in (run.root / "store").glob("*") if path.is_dir() and path != run.measures):
        store = Store(folder)
        found = {path.stem: store.record(path.stem) for path in folder.glob("*.json")}
        cases = {name: record for name, record in found.items() if record is not None}
        damaged = sorted(name for name, record in cases.items() if not store.is_whole(name, record))
        text = f"{len(cases)} cases, whole by their sizes"
        if damaged:
            more = f" and {len(damaged) - SHOWN} more" if len(damaged) > SHOWN else ""
            names = f"{', '.join(damaged[:SHOWN])}{more}"
            text = f"{names} of {len(cases)} cases are not whole; `autoseg run` makes them again"
        yield Finding(title=f"store/{folder.name}", text=text, is_bad=bool(damaged))


def _leftovers(run: RunFolder) -> Iterator[Finding]:
    """Count the unfinished files of processes that were killed, or that are at work now."""
    found = [Path(place, name) for place, _, names in os.walk(run.root) for name in names if UNFINISHED.fullmatch(name)]
    if found:
        text = f"{len(found)} unfinished files, such as {found[0]}; the next `autoseg run` removes those of the dead"
        yield Finding(title="leftovers", text=text)
