"""One fold from start to end: is it what the plan says, train it, predict its validation cases, score them.

A trained fold is bound to what it was made from. Where the plan or the data has changed since, the run stops with a
message instead of mixing two experiments; more epochs extend the fold.
"""

import dataclasses
import time

from autoseg import room
from autoseg.compute import Compute, free_device, prepare
from autoseg.data.splits import Fold, Splits
from autoseg.errors import DeviceError, OptionError, RunFolderError
from autoseg.evaluation.overlap import Scores
from autoseg.inference.out_of_fold import choice_is_current, logits_file
from autoseg.locks import hold
from autoseg.options import ALL_DATA
from autoseg.progress import say
from autoseg.run_folder import FOLD_LOCK, RunFolder, RunRecord, remove_leftovers
from autoseg.targets import make_target
from autoseg.training.cascade import NextStages, check_previous, open_cases, previous_digest
from autoseg.training.case_losses import measure_case_losses
from autoseg.training.collapse import empty_text, missed_text
from autoseg.training.fold_record import FoldRecord, decode_digest, identity
from autoseg.training.step_downs import adopt, are_related, give_way, own_configuration
from autoseg.training.time_limit import time_limit
from autoseg.training.trainer import FoldJob, train_fold
from autoseg.training.validation import check_unchanged, validate_fold
from planners import records
from planners.host_memory import loading_bytes, training_bytes
from planners.plan import Plan

MOST_STEPS_DOWN = 10
"""Assumption: ten steps take a batch of 60 to 14; a device that still runs out then is not this program's alone."""


def train_and_validate(run: RunFolder, configuration: str, fold: int | str, *, wait: bool = False) -> None:
    """Bring one fold to its end: trained, its validation cases predicted and scored. Does only what is missing.

    Args:
        run: the run.
        configuration, fold: what is trained.
        wait: where another process works on the fold, wait for it and do what it has left, instead of raising.

    Raises:
        RunFolderError: the fold was made from something else, or another process works on it.
        OptionError: there is no such fold.
        DatasetError: a case has changed since it was preprocessed.
    """
    job = fold_job(run, configuration, fold)
    with hold(job.folder.root / FOLD_LOCK, wait=wait) as waited:
        job = fold_job(run, configuration, fold) if waited else job
        remove_leftovers(job.folder.root)
        prepare(job.compute)
        check_previous(job)
        record = _bind(job)
        if not record.finished:
            files = {item.id: item for item in run.read(RunRecord, run.run_file).cases}
            check_unchanged([*job.train_cases, *job.validation_cases], files, missing=False)  # training needs none
            job, record = _train(job, record)
            measure_case_losses(job)
            record = dataclasses.replace(record, finished=True)
            run.write(record, job.folder.record)
        keep = _is_judged(job, run.read(RunRecord, run.run_file))
        if fold != ALL_DATA and _needs_validation(job, record, keep):
            started = time.monotonic()
            _tell_missed(job, validate_fold(job, keep_logits=keep))
            took = time.monotonic() - started
            decode = decode_digest(job.configuration)
            record = dataclasses.replace(record, validated=record.epochs, validation_s=took, decode=decode)
            run.write(record, job.folder.record)


def _tell_missed(job: FoldJob, scores: Scores) -> None:
    """Name the classes that no prediction holds though labels do, and the cases in which nothing was found."""
    labelled, predicted = (
        [sum(row[index] for row in rows) for index in range(len(scores.structures))]
        for rows in ([row.num_labelled for row in scores.cases], [row.num_predicted for row in scores.cases])
    )
    missed = missed_text(job.name, scores.structures, labelled, predicted)
    empty = empty_text(job.name, scores.cases)
    for event, text in (("missed", missed), ("empty-predictions", empty)):
        if text:
            say(f"  {text}")
            job.run.log(event, fold=job.name, because=text)


def _train(job: FoldJob, record: FoldRecord) -> tuple[FoldJob, FoldRecord]:
    """Train a fold; where the device runs out of memory, step down once and go on, some times over.

    Raises:
        PlanError: there is nothing left to give up.
        DeviceError: memory ran out again and again.
    """
    for _ in range(MOST_STEPS_DOWN):
        if _fits(job):
            return job, record
        free_device(job.compute)  # only now is the failed step's memory nobody's
        plan = give_way(job.run, job.configuration, "the device ran out of memory")
        job = dataclasses.replace(job, plan=plan, configuration=plan.configuration(job.configuration.name))
        record = _bind(job)
    raise DeviceError(
        f"{job.name}: {job.compute.device} ran out of memory {MOST_STEPS_DOWN} times, the last time with batch size "
        f"{job.configuration.batch_size}. Stop other programs on it; the same command then goes on"
    )


def _fits(job: FoldJob) -> bool:
    """Train to the end, or tell that the device's memory did not suffice; what the error holds on to is let go here.

    Raises:
        RoomError: main memory did not suffice. It is other programs' too, so nothing is stepped down for it.
    """
    try:
        train_fold(job)
    except Exception as fault:
        if room.is_device_full(fault):
            return False
        if not room.is_no_memory(fault):
            raise
        settings = {"with_ids": bool(job.plan.labels.instance_classes)}
        if job.compute.device == "cpu":
            needed = training_bytes(job.configuration, half=job.compute.precision != "fp32", **settings)
        else:
            needed = loading_bytes(job.configuration, **settings)
        raise room.no_memory(fault, f"training {job.name}", needed) from fault
    return True


def fold_job(run: RunFolder, configuration: str, fold: int | str) -> FoldJob:
    """Gather what the training of a fold needs from the records of its run."""
    plan = run.read(Plan, run.plan_file)
    record = run.read(RunRecord, run.run_file)
    if record.compute is None:
        raise RunFolderError(f"{run.run_file} holds no compute settings; start with `autoseg run`")
    split = find_fold(run.read(Splits, run.splits_file), fold)
    return FoldJob(
        run=run,
        plan=plan,
        configuration=own_configuration(run, plan.configuration(configuration), run.fold(configuration, fold)),
        fold=fold,
        train_cases=open_cases(run, plan, configuration, split.train),
        validation_cases=open_cases(run, plan, configuration, split.validation),
        compute=records.from_json(Compute, record.compute),
        limit=time_limit(run, plan, configuration, fold),
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


def _is_judged(job: FoldJob, record: RunRecord) -> bool:
    """Tell whether a fold's logits are asked for later, and it does not only feed a cascade.

    They are for the choice between several configurations and, where objects are found, for fitting how.
    """
    if job.configuration.name not in record.configurations or job.fold not in record.folds:
        return False
    target = make_target(job.configuration.target, job.plan.labels, job.configuration.training)
    return len(record.configurations) > 1 or target.finds_objects


def _bind(job: FoldJob) -> FoldRecord:
    """Check that the fold on disk is the fold that is asked for; make its record where there is none."""
    split = [
        [[case.id, case.digest] for case in job.train_cases],
        [[case.id, case.digest] for case in job.validation_cases],
    ]
    configuration, split_digest = identity(records.to_json(job.configuration), split)
    epochs = job.configuration.training.epochs
    previous = previous_digest(job)
    wanted = FoldRecord(configuration=configuration, split=split_digest, previous=previous, epochs=epochs)
    if not job.folder.record.exists():
        job.run.write(job.configuration, job.folder.configuration)
        job.run.write(wanted, job.folder.record)
        return wanted
    found = job.run.read(FoldRecord, job.folder.record)
    if found.configuration == identity(records.to_json(job.configuration), None, with_decode=True)[0]:  # of before
        found = dataclasses.replace(found, configuration=configuration, decode=decode_digest(job.configuration))
    stale = not found.finished and found.configuration != wanted.configuration and found.split == wanted.split
    if stale and are_related(job.run, job.configuration.name, found.configuration, wanted.configuration):
        found = adopt(job.run, job.folder, found, job.configuration, job.name)
    for what, old, new in (
        ("configuration", found.configuration, wanted.configuration),
        ("split or cases", found.split, wanted.split),
    ):
        if old != new:
            raise RunFolderError(_changed(job, what, old, new))
    if found.previous != wanted.previous and found.epochs >= wanted.epochs:
        raise RunFolderError(
            f"{job.name} was trained with other segmentations of {job.configuration.previous} ({found.previous}, now "
            f"{wanted.previous}): that has been trained further. Train this fold further too (--epochs "
            f"{found.epochs + 1} or more), or anew by deleting {job.folder.root}"
        )
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
    if found.previous != wanted.previous:
        say(f"  {job.name}: from here on with newer segmentations of {job.configuration.previous}")
    changed = dataclasses.replace(found, epochs=wanted.epochs, previous=wanted.previous, finished=False, validated=None)
    job.run.write(changed, job.folder.record)
    return changed


def _needs_validation(job: FoldJob, record: FoldRecord, keep_logits: bool) -> bool:
    if record.validated != record.epochs or not job.folder.scores.exists():
        return True
    if record.decode != decode_digest(job.configuration):
        say(f"  {job.name}: its decoder has other settings than when it was validated")
        return True
    if not NextStages(job).are_complete():
        return True
    if not keep_logits or choice_is_current(job.run):
        return False
    return not all(logits_file(job.folder, case.id).exists() for case in job.validation_cases)
