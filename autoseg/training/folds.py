"""One fold from start to end: is it what the plan says, train it, predict its validation cases, score them.

A trained fold is bound to what it was made from. Where the plan or the data has changed since, the run stops with a
message instead of mixing two experiments; more epochs extend the fold.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from autoseg.compute import Compute, prepare
from autoseg.data.splits import Fold, Splits
from autoseg.errors import OptionError, RunFolderError
from autoseg.inference.out_of_fold import logits_file
from autoseg.options import ALL_DATA
from autoseg.preprocessing.store import Store, StoredCase
from autoseg.progress import say
from autoseg.run_folder import FoldFolder, RunFolder, RunRecord, lock
from autoseg.training.fold_state import FoldRecord, identity
from autoseg.training.trainer import FoldJob, train_fold
from autoseg.training.validation import validate_fold
from planners import records
from planners.plan import Plan


def train_and_validate(run: RunFolder, configuration: str, fold: int | str) -> None:
    """Bring one fold to its end: trained, its validation cases predicted and scored. Does only what is missing.

    Raises:
        RunFolderError: the fold was made from something else, or another process works on it.
        OptionError: there is no such fold.
    """
    job = fold_job(run, configuration, fold)
    with lock(job.folder.root / ".lock"):
        prepare(job.compute)
        record = _bind(job)
        if not record.finished:
            train_fold(job)
            record = dataclasses.replace(record, finished=True)
            run.write(record, job.folder.record)
        keep = len(run.read(RunRecord, run.run_file).configurations) > 1
        if fold != ALL_DATA and _needs_validation(job, record, keep):
            validate_fold(job, keep_logits=keep)
            run.write(dataclasses.replace(record, validated=record.epochs), job.folder.record)


def fold_job(run: RunFolder, configuration: str, fold: int | str) -> FoldJob:
    """Gather what the training of a fold needs from the records of its run."""
    plan = run.read(Plan, run.plan_file)
    record = run.read(RunRecord, run.run_file)
    if record.compute is None:
        raise RunFolderError(f"{run.run_file} holds no compute settings; start with `autoseg run`")
    split = find_fold(run.read(Splits, run.splits_file), fold)
    store = Store(run.store(configuration))
    return FoldJob(
        run=run,
        plan=plan,
        configuration=plan.configuration(configuration),
        fold=fold,
        train_cases=_open_all(store, split.train),
        validation_cases=_open_all(store, split.validation),
        compute=records.from_json(Compute, record.compute),
    )


def find_fold(splits: Splits, fold: int | str) -> Fold:
    """Give one fold's cases; ``all-data`` trains on every case, and looks at them too for its curves.

    Raises:
        OptionError: there is no such fold.
    """
    if fold == ALL_DATA:
        everything = tuple(sorted({case for item in splits.folds for case in (*item.train, *item.validation)}))
        return Fold(train=everything, validation=everything)
    if not isinstance(fold, int) or not 0 <= fold < len(splits.folds):
        raise OptionError(f"no fold {fold}: there are folds 0 to {len(splits.folds) - 1}, and {ALL_DATA}")
    return splits.folds[fold]


def _open_all(store: Store, ids: Sequence[str]) -> list[StoredCase]:
    return [store.open(case_id) for case_id in ids]


def _bind(job: FoldJob) -> FoldRecord:
    """Check that the fold on disk is the fold that is asked for; make its record where there is none."""
    split = [
        [[case.id, case.digest] for case in job.train_cases],
        [[case.id, case.digest] for case in job.validation_cases],
    ]
    configuration, split_digest = identity(records.to_json(job.configuration), split)
    epochs = job.configuration.training.epochs
    wanted = FoldRecord(configuration=configuration, split=split_digest, epochs=epochs)
    if not job.folder.record.exists():
        job.run.write(wanted, job.folder.record)
        return wanted
    found = job.run.read(FoldRecord, job.folder.record)
    for what, old, new in (
        ("configuration", found.configuration, wanted.configuration),
        ("split or cases", found.split, wanted.split),
    ):
        if old != new:
            raise RunFolderError(_changed(job, what, old, new))
    return _extend(job, found, wanted)


def _changed(job: FoldJob, what: str, old: str, new: str) -> str:
    return (
        f"{job.name} was trained with another {what} ({old}, now {new}): {job.folder.root}. "
        f"Undo the change, or start anew in another folder (--out) or by deleting {job.folder.root}"
    )


def _extend(job: FoldJob, found: FoldRecord, wanted: FoldRecord) -> FoldRecord:
    if found.epochs == wanted.epochs:
        return found
    if found.finished and found.epochs > wanted.epochs:
        say(f"  {job.name}: trained for {found.epochs} epochs already, more than the {wanted.epochs} asked for; kept")
        return found
    say(f"  {job.name}: from {found.epochs} to {wanted.epochs} epochs")
    changed = dataclasses.replace(found, epochs=wanted.epochs, finished=False, validated=None)
    job.run.write(changed, job.folder.record)
    return changed


def _needs_validation(job: FoldJob, record: FoldRecord, keep_logits: bool) -> bool:
    if record.validated != record.epochs or not job.folder.scores.exists():
        return True
    if not keep_logits or job.run.choice_file.exists():
        return False
    return not all(logits_file(job.folder, case.id).exists() for case in job.validation_cases)


def trained_folds(run: RunFolder, configuration: str) -> tuple[tuple[int | str, FoldFolder], ...]:
    """List the finished folds of a configuration in order."""
    root: Path = run.root / "folds" / configuration
    found = []
    for path in sorted(root.glob("fold_*")):
        text = path.name.removeprefix("fold_")
        fold = run.fold(configuration, int(text) if text.isdigit() else text)
        if fold.record.exists() and run.read(FoldRecord, fold.record).finished:
            found.append((int(text) if text.isdigit() else text, fold))
    return tuple(found)
