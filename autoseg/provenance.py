"""``run.json`` at the start of a run: where its data is, what was asked, which versions and hardware made it."""

import contextlib
import dataclasses
import datetime
import os
import platform
import shlex
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from autoseg import log, room
from autoseg.data.dataset import Case, Dataset
from autoseg.data.instance_labels import OBJECT_LABELS
from autoseg.data.tasks import AUTO, INSTANCE, SEMANTIC
from autoseg.errors import RunFolderError
from autoseg.jobs import visible_gpus
from autoseg.options import RunOptions
from autoseg.progress import say, warn
from autoseg.run_folder import CaseFiles, RunFolder, RunRecord
from planners import records
from planners.decision import byte_size
from planners.plan import Plan

PACKAGES = ("torch", "numpy", "scipy", "SimpleITK")
"""Packages whose version may change a result."""


def open_record(dataset: Dataset, options: RunOptions, run: RunFolder) -> Dataset:
    """Make ``run.json``, or see that it belongs to this dataset and bring its files and options up to date.

    Returns:
        The dataset; where nobody says what its labels are, they are what the folder's plan takes them for.

    Raises:
        RunFolderError: the folder was made from another dataset, or planned for another task.
    """
    dataset = _as_planned(dataset, run)
    files = {
        "name": dataset.name,
        "dataset": str(dataset.root.resolve()),
        "cases": tuple(_files(case) for case in dataset.cases),
        "test_cases": tuple(_files(case) for case in dataset.test_cases),
        "options": records.to_json(
            {k: str(v) if isinstance(v, Path) else v for k, v in {**vars(options), "task": dataset.task}.items()}
        ),
    }
    if not run.run_file.exists():
        now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        run.write(RunRecord(started=now, versions=_versions(), hardware=_hardware(), **files), run.run_file)
        return dataset
    record = run.read(RunRecord, run.run_file)
    found = record.dataset
    if found != files["dataset"]:
        raise RunFolderError(f"{run.root} was made from {found}, not from {files['dataset']}. Give another --out")
    run.change_record(**files)
    say("  this folder was used before; what is done is kept")
    _warn_of_versions(record.versions)
    return dataset


def _as_planned(dataset: Dataset, run: RunFolder) -> Dataset:
    """Settle the task of undeclared labels as the folder's plan has it, and refuse another task than the plan's."""
    if not run.plan_file.exists():
        return dataset
    planned = INSTANCE if run.read(Plan, run.plan_file).labels.instance_classes else SEMANTIC
    if dataset.task == AUTO:
        labels = OBJECT_LABELS if planned == INSTANCE else dataset.labels
        return dataclasses.replace(dataset, task=planned, labels=labels)
    if dataset.task != planned:
        raise RunFolderError(f"{run.root} was planned for the task {planned}, not {dataset.task}. {_BACK[planned]}")
    return dataset


_BACK = {
    SEMANTIC: "Take instances out of dataset.json and leave --task instance out to go on, or give another --out",
    INSTANCE: "Declare instances in dataset.json, or leave --task semantic out, to go on; or give another --out",
}
"""How to come back to the task that a folder was planned for. ``--task`` does not overrule ``dataset.json``."""


@contextlib.contextmanager
def logged(run: RunFolder, verb: str) -> Iterator[None]:
    """Log all that is said and raised while the body works on a run, from its versions, command line and device on.

    Args:
        run: whose ``log.jsonl`` is written.
        verb: what is started.
    """
    with log.session(run.log_file, verb, **circumstances(run)):
        yield


def circumstances(run: RunFolder | None = None) -> dict[str, Any]:
    """Describe this start: command line, folder, versions, hardware, and how the run computes, where that is chosen."""
    chosen = None
    if run is not None:
        with contextlib.suppress(RunFolderError):  # not there yet; what is damaged is said by who needs it
            chosen = run.read(RunRecord, run.run_file).compute
    return {
        "command": shlex.join(sys.argv),
        "folder": str(Path.cwd()),
        "versions": _versions(),
        "hardware": _hardware(),
        "compute": chosen,
    }


def _files(case: Case) -> CaseFiles:
    images = tuple(str(path.resolve()) for path in case.images)
    return CaseFiles(
        id=case.id,
        images=images,
        label=None if case.label is None else str(case.label.resolve()),
        group=case.group,
        annotated_classes=case.annotated_classes,
        classes=None if case.classes is None else str(case.classes.resolve()),
    )


def _warn_of_versions(before: dict[str, str]) -> None:
    """Say which packages have changed since the first start: what is added now may differ from what was made then."""
    now = _versions()
    changed = [f"{name} {before[name]} → {now[name]}" for name in now if before.get(name, now[name]) != now[name]]
    if changed:
        warn(
            f"  other versions than at the first start: {', '.join(changed)}. What is trained from here on may not "
            "equal to the bit what the old ones would have trained"
        )


def _versions() -> dict[str, str]:
    from autoseg import __version__

    versions = {name: metadata.version(name) for name in PACKAGES}
    return {"autoseg": __version__, "python": platform.python_version(), **versions}


def _hardware() -> dict[str, str]:
    gpus = ", ".join(f"GPU {gpu.index}: {gpu.memory_bytes / 1e9:.0f} GB" for gpu in visible_gpus())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": processor_name(),
        "cores": str(cores),
        "memory": byte_size(max((item.total_bytes for item in room.memory_limits()), default=0)),
        "gpus": gpus or "none",
    }


def processor_name() -> str:
    """Give the processor's name as the system knows it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
