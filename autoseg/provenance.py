"""``run.json`` at the start of a run: where its data is, what was asked, which versions and hardware made it."""

import datetime
import os
import platform
from importlib import metadata
from pathlib import Path

from autoseg.data.dataset import Case, Dataset
from autoseg.errors import RunFolderError
from autoseg.jobs import visible_gpus
from autoseg.options import RunOptions
from autoseg.progress import say
from autoseg.run_folder import CaseFiles, RunFolder, RunRecord
from planners import records

PACKAGES = ("torch", "numpy", "scipy", "SimpleITK")
"""Packages whose version may change a result."""


def open_record(dataset: Dataset, options: RunOptions, run: RunFolder) -> None:
    """Make ``run.json``, or see that it belongs to this dataset and bring its files and options up to date.

    Raises:
        RunFolderError: the folder was made from another dataset, or planned for another task.
    """
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
        return
    found = run.read(RunRecord, run.run_file).dataset
    if found != files["dataset"]:
        raise RunFolderError(f"{run.root} was made from {found}, not from {files['dataset']}. Give another --out")
    _check_task(run, dataset.task)
    run.change_record(**files)
    say("  this folder was used before; what is done is kept")


def _check_task(run: RunFolder, task: str) -> None:
    """Refuse to go on with another task than a plan was made for, where somebody had said which."""
    before = run.read(RunRecord, run.run_file).options.get("task", "auto")
    if before not in (task, "auto") and run.plan_file.exists():
        raise RunFolderError(
            f"{run.root} was planned for the task {before}, not {task}. Give --task {before} again, or another --out"
        )


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
