"""``run.json`` at the start of a run: where its data is, what was asked, which versions and hardware made it."""

import dataclasses
import datetime
import os
import platform
from importlib import metadata
from pathlib import Path

from autoseg.data.dataset import Case, Dataset
from autoseg.data.instance_labels import OBJECT_LABELS
from autoseg.data.tasks import AUTO, INSTANCE, SEMANTIC
from autoseg.errors import RunFolderError
from autoseg.jobs import visible_gpus
from autoseg.options import RunOptions
from autoseg.progress import say
from autoseg.run_folder import CaseFiles, RunFolder, RunRecord
from planners import records
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
    found = run.read(RunRecord, run.run_file).dataset
    if found != files["dataset"]:
        raise RunFolderError(f"{run.root} was made from {found}, not from {files['dataset']}. Give another --out")
    run.change_record(**files)
    say("  this folder was used before; what is done is kept")
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


def _versions() -> dict[str, str]:
    from autoseg import __version__

    versions = {name: metadata.version(name) for name in PACKAGES}
    return {"autoseg": __version__, "python": platform.python_version(), **versions}


def _hardware() -> dict[str, str]:
    gpus = ", ".join(f"GPU {gpu.index}: {gpu.memory_bytes / 1e9:.0f} GB" for gpu in visible_gpus())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"system": f"{platform.system()} {platform.machine()}", "cores": str(cores), "gpus": gpus or "none"}
