"""The doctor: what this machine is, what a run folder holds, and what is wrong with either."""

import itertools
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoseg.errors import AutosegError, RunFolderError
from autoseg.run_folder import RunFolder, RunRecord
from planners.decision import byte_size
from planners.plan import Configuration
from planners.records import PlanError, RecordError

LOW_DISK_BYTES = 5 * 10**9
"""Assumption: a store and its checkpoints of a usual dataset need some gigabytes."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing the doctor has looked at.

    Attributes:
        title, text: what, and what was found (with what to do, where it is bad).
        is_bad: whether it must be mended.
    """

    title: str
    text: str
    is_bad: bool = False


def findings_text(findings: tuple[Finding, ...]) -> str:
    """Lay findings out for the terminal; bad ones are marked."""
    width = max((len(item.title) for item in findings), default=0)
    return "\n".join(f"{'!' if item.is_bad else ' '} {item.title:{width}}  {item.text}" for item in findings)


def examine_machine() -> tuple[Finding, ...]:
    """Look at versions, device, precision, memory and disk; a convolution is checked against float64 on the way."""
    import platform

    import numpy
    import torch

    from autoseg import __version__, compute
    from autoseg.data.parallel import host_memory_bytes

    found = [
        Finding(
            title="versions",
            text=f"autoseg {__version__}, Python {platform.python_version()}, torch {torch.__version__}, "
            f"numpy {numpy.__version__}, {platform.system()} {platform.machine()}",
        )
    ]
    try:
        chosen = compute.choose()
        found += [Finding(title="computing", text=reason) for reason in chosen.reasons]
        error = compute.convolution_error(torch.device(chosen.device), chosen.precision)
        limit = compute.TOLERANCES[chosen.precision]
        text = f"a 3D convolution in {chosen.precision} differs from float64 by {error:.1e} (allowed {limit:.0e})"
        found.append(Finding(title="self-test", text=text, is_bad=error > limit))
    except AutosegError as fault:
        found.append(Finding(title="computing", text=str(fault), is_bad=True))
    if torch.version.cuda and not torch.cuda.is_available():
        text = f"torch is built for CUDA {torch.version.cuda}, but no GPU can be used: look at the driver (nvidia-smi)"
        found.append(Finding(title="CUDA", text=text, is_bad=shutil.which("nvidia-smi") is not None))
    found.append(Finding(title="main memory", text=f"{byte_size(host_memory_bytes())} may be used now"))
    found.append(_disk(Path.cwd()))
    return tuple(found)


def _disk(place: Path) -> Finding:
    free = shutil.disk_usage(place).free
    low = free < LOW_DISK_BYTES
    text = f"{byte_size(free)} free in {place}" + ("; a store and checkpoints may not fit" if low else "")
    return Finding(title="disk", text=text, is_bad=low)


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
    found += list(_records(run))
    trained = sorted((run.root / "folds").glob("*/fold_*"))
    feeding = [(path.parent.name, path.name.removeprefix("fold_")) for path in trained]
    asked = [(name, str(fold)) for name, fold in itertools.product(record.configurations, record.folds)]
    for name, fold in dict.fromkeys((*asked, *feeding)):
        found.append(_fold(run, name, fold))
    found.append(_disk(run.root))
    return tuple(found)


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
    if run.log_file.exists():
        lines = run.log_file.read_text(encoding="utf-8", errors="replace").splitlines()
        faults = [row for row in map(_row, lines) if row.get("event") in ("stop", "fault")]
        if faults:
            yield Finding(title="log.jsonl", text=f"{len(faults)} stops, the last: {json.dumps(faults[-1])[:200]}")


def _of_other_task(run: RunFolder) -> tuple[Path, ...]:
    """Name the records that a run of this task never writes: those of objects, or those of classes alone."""
    from planners.plan import Plan

    try:
        tells_apart = bool(run.read(Plan, run.plan_file).labels.instance_classes)
    except (AutosegError, RecordError, PlanError):  # it is not there yet, or damaged, which is said elsewhere
        tells_apart = False
    return (run.metrics_file, run.confidence_file) if tells_apart else (run.instances_file,)


def _row(line: str) -> dict[str, object]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        return {}
    return row if isinstance(row, dict) else {}


def _fold(run: RunFolder, name: str, fold: int | str) -> Finding:
    from autoseg.evaluation.case_losses import CaseLosses
    from autoseg.evaluation.confidence import Confidence
    from autoseg.evaluation.overlap import Scores
    from autoseg.training.fold_state import FoldRecord, load_counters

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
            return Finding(title=title, text=text, is_bad=lost)
        if not folder.state.exists():
            return Finding(title=title, text="begun, nothing saved yet")
        counters = load_counters(folder.state)
        return Finding(title=title, text=f"in training: epoch {counters.epoch + 1} of {record.epochs}")
    except (AutosegError, RecordError) as fault:
        return Finding(title=title, text=str(fault), is_bad=True)


def examine(run_folder: Path | None, *, overfit: bool) -> bool:
    """Print what the doctor finds; tell whether all is well.

    Args:
        run_folder: look at this run; None: at the machine.
        overfit: train on two cases of the run until they are learnt by heart.

    Raises:
        RunFolderError: it is no run folder, or holds no preprocessed cases.
    """
    if run_folder is None:
        if overfit:
            raise RunFolderError("--overfit needs a run: autoseg doctor RUN --overfit")
        found = examine_machine()
    else:
        found = examine_run(RunFolder(run_folder))
    print(findings_text(found))
    well = not any(item.is_bad for item in found)
    if overfit and run_folder is not None:
        from autoseg.training.overfit import overfit as learn

        result = learn(RunFolder(run_folder))
        sys.stderr.flush()
        print(result.text())
        well = well and result.is_learnt
    return well
