"""The whole job on one screen: from a dataset folder to networks, predictions and a report. Read ``run`` first.

Each stage reads the records of the stages before it, does only what is missing, and writes its own record; so the same
command goes on where it stopped. torch is imported by the stages that need it.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from autoseg import log, planning
from autoseg.claims import Claims, Part, claimed, joined, part_of
from autoseg.data.check import CheckResult
from autoseg.data.check_problem import count
from autoseg.data.dataset import Dataset, DatasetSource, open_dataset
from autoseg.data.fold_faults import fold_warnings
from autoseg.data.splits import Splits, all_data_split, make_splits
from autoseg.errors import DatasetError, OptionError
from autoseg.jobs import Job, autoseg_command, run_jobs, visible_gpus
from autoseg.locks import holder_of
from autoseg.options import ALL_DATA, RunOptions
from autoseg.progress import duration, say, warn
from autoseg.provenance import logged, open_record
from autoseg.run_folder import FOLD_LOCK, RunFolder, RunRecord, remove_leftovers
from planners import describe, records
from planners.fingerprint import Fingerprint
from planners.plan import Plan

if TYPE_CHECKING:
    from autoseg.compute import Compute

PLAIN_TARGET = "semantic"
"""Takes no options, and fits every plan's labels."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What every stage is given: where the data is, what was asked for, where to write, who works beside it."""

    dataset: Dataset
    options: RunOptions
    run: RunFolder
    claims: Claims

    @property
    def record(self) -> RunRecord:
        """``run.json`` as it is now."""
        return self.run.read(RunRecord, self.run.run_file)

    @property
    def plan(self) -> Plan:
        """``plan.json`` as it is now."""
        return self.run.read(Plan, self.run.plan_file)


def run(source: DatasetSource, options: RunOptions) -> RunFolder:
    """Do the whole job: check, fingerprint, plan, preprocess, train, choose, predict the test images, report.

    Raises:
        AutosegError, PlanError: the user's input is at fault. Nothing is lost; the same command goes on.
    """
    dataset = open_dataset(source)
    run = RunFolder(options.out or Path("runs") / dataset.name)
    stages: dict[str, Callable[[Work], None]] = {
        "check": _check_and_measure,
        "plan": _plan,
        "preprocess": _preprocess,
        "train": _train,
        "choose": _choose,
        "predict": _predict_tests,
        "report": _report,
    }
    part = (options.configurations, options.folds)
    with claimed(run.root, part, wait=options.wait) as claims, logged(run, "run"):
        say(f"{dataset.name}: {len(dataset.cases)} cases → {run.root}")
        remove_leftovers(run.root)
        work = Work(dataset=open_record(dataset, options, run), options=options, run=run, claims=claims)
        started = time.monotonic()
        for number, (name, stage) in enumerate(stages.items(), start=1):
            if name == "choose" and not _is_for_this_process(work):
                return run
            log.enter_stage(name)
            say(f"[{number}/{len(stages)}] {name}")
            began = time.monotonic()
            stage(work)
            run.log("stage", name=name, seconds=round(time.monotonic() - began, 3))
            if options.until == name:
                say(f"stopped after {name}, as asked. The same command without --until goes on")
                return run
        claims.settle()
        _summary(work, time.monotonic() - started)
    return run


# ------------------------------------------------------------------------------------------------------------- stages


def _check_and_measure(work: Work) -> None:
    from autoseg.preprocessing.fingerprinting import check_and_measure

    result, fingerprint = check_and_measure(work.dataset, work.run.measures, store_folder=work.run.root)
    work.run.write(result, work.run.check_file)
    for problem in result.problems:
        told = {"problem": problem.kind, "case": problem.case, "found": problem.found, "fix": problem.fix}
        work.run.log("stop" if problem.stops else "warning", **told)
    say(result.text())
    if result.stops or fingerprint is None:
        stopping = count(sum(p.stops for p in result.problems), "problem")
        raise DatasetError(f"{stopping} in {work.dataset.name}; see above")
    work.run.write(fingerprint, work.run.fingerprint_file)
    work.run.change_record(warnings=tuple(result.warning_lines()))


def _plan(work: Work) -> None:
    fingerprint = work.run.read(Fingerprint, work.run.fingerprint_file)
    if work.options.init is None:
        plan = planning.decide(work.run, fingerprint, work.options)
    else:
        from autoseg.training import initial

        plan = initial.decide(work.run, fingerprint, work.options)
    splits = _splits(work)
    _warn_of_folds(work, splits, fingerprint)
    names, folds = _own_part(work.options, plan, splits)
    for name in names:
        plan.configuration(name)
    for fold in folds:
        if fold != ALL_DATA and not 0 <= int(fold) < len(splits.folds):
            raise OptionError(f"no fold {fold}: this dataset has folds 0 to {len(splits.folds) - 1}, and {ALL_DATA}")
    seed = plan.configuration(names[0]).training.seed
    _record_parts(work, plan, splits)
    work.run.change_record(seed=seed)
    say(describe.describe(plan))
    _say_feeding(plan, names)
    say(f"  training {', '.join(names)}; folds {', '.join(map(str, folds))} of {len(splits.folds)} ({splits.source})")


def _warn_of_folds(work: Work, splits: Splits, fingerprint: Fingerprint) -> None:
    """Say what makes the folds' scores too good, or leaves a class out of one."""
    problems = work.run.read(CheckResult, work.run.check_file).problems
    voxels = dict(zip(fingerprint.case_ids, fingerprint.class_voxels, strict=False))
    told = fold_warnings(
        splits,
        class_voxels=voxels,
        classes=fingerprint.labels.names,
        twins=[(item.other, item.case) for item in problems if item.other is not None and item.case is not None],
        groups={case.id: case.group for case in work.dataset.cases if case.group is not None},
    )
    for text in told:
        warn(f"  warning: {text}")


def _own_part(options: RunOptions, plan: Plan, splits: Splits) -> Part:
    """Name the configurations and folds that this process was asked to train."""
    names = options.configurations or tuple(item.name for item in plan.configurations)
    return names, options.folds or tuple(range(len(splits.folds)))


def _record_parts(work: Work, plan: Plan, splits: Splits) -> None:
    """Note in ``run.json`` what is trained here: by this process, and by those beside it."""
    names, folds = own = _own_part(work.options, plan, splits)
    if ALL_DATA not in folds:  # that has no validation to be judged by, so it is never chosen with others
        parts = [own, *map(part_of, work.claims.others()), *work.claims.ended()]
        every = (item.name for item in plan.configurations), range(len(splits.folds))
        own = joined(parts, (tuple(dict.fromkeys((*names, *every[0]))), tuple(dict.fromkeys((*folds, *every[1])))))
    work.run.change_record(configurations=own[0], folds=own[1])


def _is_for_this_process(work: Work) -> bool:
    """Tell whether the rest is this process's to do: nobody else trains here any more. Settle what is chosen from."""
    if not work.claims.is_last():
        told = ", ".join(map(str, work.claims.others())) or "another process"
        say(f"trained what was asked for. Still at work here: {told}; the last chooses, predicts and reports for all")
        return False
    from autoseg.training.fold_record import trained_folds

    _record_parts(work, work.plan, work.run.read(Splits, work.run.splits_file))
    record = work.record
    own = _own_part(work.options, work.plan, work.run.read(Splits, work.run.splits_file))
    trained = {(name, fold) for name in record.configurations for fold, _ in trained_folds(work.run, name)}
    missing = [(name, fold) for name in record.configurations for fold in record.folds if (name, fold) not in trained]
    if missing and (record.configurations, record.folds) != own:
        told = ", ".join(f"{name} fold {fold}" for name, fold in missing)
        say(f"not finished by those who began it: {told}. The choice is made without; their own command goes on")
        work.run.change_record(configurations=own[0], folds=own[1])
    return True


def _say_feeding(plan: Plan, names: Sequence[str]) -> None:
    """Say which configurations are trained, in all folds, because another needs their segmentations."""
    for name in names:
        previous = plan.configuration(name).previous
        if previous is not None:
            say(f"  {name} sees what {previous} found, so {previous} is trained first, in all folds")


def _splits(work: Work) -> Splits:
    """Give the run's folds: the ones kept in ``splits.json``, the dataset's own, or new ones."""
    run, dataset = work.run, work.dataset
    ids = [case.id for case in dataset.cases]
    groups = {case.id: case.group for case in dataset.cases if case.group is not None}
    if dataset.splits is None and len(ids) == 1 and work.options.folds == (ALL_DATA,):
        wanted = all_data_split(ids)
    else:
        wanted = dataset.splits or make_splits(ids, groups)
    if run.splits_file.exists():
        kept = run.read(Splits, run.splits_file)
        named = {case for fold in kept.folds for case in (*fold.train, *fold.validation)}
        if named == set(ids):
            return kept
        warn("  the dataset's cases have changed; the folds are made anew")
    run.write(wanted, run.splits_file)
    return wanted


def _preprocess(work: Work) -> None:
    from autoseg.preprocessing.populate import populate_store, store_name
    from autoseg.preprocessing.store import Store
    from autoseg.preprocessing.store_size import check_room
    from autoseg.training.fold_record import is_trained

    plan = work.plan
    names = dict.fromkeys(name for name, _ in _trainings(work))
    _check_targets(plan, tuple(names))
    verify = not all(is_trained(work.run, plan, *pair) for pair in _trainings(work))  # else nobody reads the store
    fingerprint = work.run.read(Fingerprint, work.run.fingerprint_file)
    for name in dict.fromkeys(store_name(plan, name) for name in names):
        item, folder = plan.configuration(name), work.run.store(name)
        check_room(plan, item, fingerprint, [case.id for case in work.dataset.cases], Store(folder))
        populate_store(work.dataset, plan, item, folder, verify=verify)


def _check_targets(plan: Plan, names: Sequence[str]) -> None:
    """Stop at an option of a target that is none here, not after training; the plain one has none, so no torch."""
    for item in map(plan.configuration, names):
        if item.target.name != PLAIN_TARGET or item.target.options:
            from autoseg.targets import make_target

            make_target(item.target, plan.labels, item.training)


def _trainings(work: Work) -> tuple[tuple[str, int | str], ...]:
    """List what this process trains, in order: what was asked for, and the stages that feed it."""
    plan, splits = work.plan, work.run.read(Splits, work.run.splits_file)
    return planning.training_order(plan, *_own_part(work.options, plan, splits), len(splits.folds))


def _train(work: Work) -> None:
    from autoseg.training.estimate import say_finish_time
    from autoseg.training.fold_record import is_trained
    from autoseg.training.folds import train_and_validate
    from autoseg.training.host_memory import refuse_if_short, warn_if_short
    from autoseg.training.measure import fit_to_device
    from autoseg.training.time_budget import fit_to_time

    run, pairs, chosen = work.run, _trainings(work), _choose_compute(work)
    names = tuple(dict.fromkeys(name for name, _ in pairs))
    plan = fit_to_device(run, work.plan, names, chosen)
    fingerprint = run.read(Fingerprint, run.fingerprint_file)
    missing = dict.fromkeys(name for name, fold in pairs if not is_trained(run, plan, name, fold))
    if chosen.device == "cpu":
        refuse_if_short(plan, tuple(missing), half=chosen.precision != "fp32")
    warn_if_short(plan, fingerprint, names, on_cpu=chosen.device == "cpu")
    if work.options.time_budget_s is None:
        say_finish_time(run, pairs)
    else:
        fit_to_time(run, pairs, work.options.time_budget_s)
    gpus = visible_gpus() if chosen.device == "cuda" else ()
    with work.claims.side_by_side():
        for wave in planning.training_waves(plan, pairs):
            if len(gpus) > 1 and len(wave) > 1:
                commands = [autoseg_command("train", str(run.root), name, str(fold), "--wait") for name, fold in wave]
                names_of = [f"{name} fold {fold}" for name, fold in wave]
                jobs = [Job(name=name, command=command) for name, command in zip(names_of, commands, strict=True)]
                run_jobs(jobs, [gpu.index for gpu in gpus])
                continue
            for name, fold in _busy_last(run, wave):
                say(f"  {name} fold {fold}")
                train_and_validate(run, name, fold, wait=True)


def _busy_last(run: RunFolder, wave: Sequence[tuple[str, int | str]]) -> Iterator[tuple[str, int | str]]:
    """Give the trainings of a wave, first those that nobody works on when it is their turn."""
    left = list(wave)
    while left:
        free = (pair for pair in left if holder_of(run.fold(*pair).root / FOLD_LOCK) is None)
        left.remove(pair := next(free, left[0]))
        yield pair


def _choose_compute(work: Work) -> "Compute":
    """Probe how to compute at the first start, and keep to it; say it with its reasons."""
    from autoseg import compute
    from autoseg.determinism import library_versions

    options = work.options
    asked = f"{options.device} {options.precision}{' deterministic' if options.deterministic else ''}"
    record = work.record
    if record.compute is None or record.made_from.get("compute") != asked:
        chosen = compute.choose(options.device, options.precision, deterministic=options.deterministic)
        work.run.change_record(
            compute=records.to_json(chosen),
            made_from={**record.made_from, "compute": asked},
            versions={**record.versions, **library_versions(chosen.device)},
        )
    chosen = records.from_json(compute.Compute, work.record.compute)
    for reason in chosen.reasons:
        say(f"  {reason}")
    return chosen


def _choose(work: Work) -> None:
    from autoseg.inference.out_of_fold import choose_for_run

    choose_for_run(work.run)


def _predict_tests(work: Work) -> None:
    if not work.dataset.test_cases:
        say("  the dataset has no test images")
        return
    from autoseg.inference.predictor import predict_cases

    predict_cases(work.run, work.dataset.test_cases, work.run.predictions)


def _report(work: Work) -> None:
    from autoseg.report import write_report

    say(f"  {write_report(work.run)}")


def _summary(work: Work, seconds: float) -> None:
    from autoseg.evaluation.selection import Choice

    run = work.run
    say(f"\ndone in {duration(seconds)}")
    lines = []
    if run.choice_file.exists():
        choice = run.read(Choice, run.choice_file)
        name, score = ("mean out-of-fold Dice", choice.mean_dice)
        if choice.score is not None:
            name, score = ("out-of-fold F1@0.5", choice.score)
        shown = "no foreground to score" if score is None else f"{score:.4f}"
        lines.append(f"{name:23}{shown}   ({' + '.join(choice.configurations)})")
    if work.dataset.test_cases:
        lines.append(f"predictions            {run.predictions}")
    lines += [
        f"report                 {run.report_file}",
        f"next                   autoseg predict {run.root} NEW_IMAGES OUTPUT",
    ]
    print("\n".join(lines))
