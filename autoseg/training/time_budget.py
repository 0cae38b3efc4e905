"""Fit all trainings into a given time: ``--time-budget`` decides how many epochs and steps each of them makes.

A few real steps are timed, and the same part of the plan's own length is taken for every training (``length``). The
time is a limit and no wish to train longer: the plan's own length is never exceeded.

What is counted is work: the time of trainings and validations that are done already, also of those done before the
budget was given, and of half-done ones. Breaks between a stop and the next start are not counted, nor are the seconds
between the newest epoch or saved state and a kill.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence

from autoseg.planning import write_by_program
from autoseg.progress import duration, finish_time, say
from autoseg.run_folder import RunFolder, RunRecord
from autoseg.training.estimate import Clock, measure_pace, timing_job
from autoseg.training.fold_record import LENGTH
from autoseg.training.length import Candidate, all_done_s, fit
from autoseg.training.outlook import Asked, trainings_at_once, validation_s
from autoseg.training.time_limit import (
    Length,
    Pace,
    TimedConfiguration,
    TimedFold,
    TimeRecord,
    fold_time,
    read_time,
)
from autoseg.training.trainer import FoldJob
from planners import records
from planners.plan import Configuration, Plan, Reason
from planners.transfer import renew_warm_up

RULE = "time-budget"
FIELDS = tuple(field.name for field in dataclasses.fields(Length))


def fit_to_time(
    run: RunFolder,
    asked: Sequence[Asked],
    budget_s: float,
    measure: Callable[[FoldJob], Pace] = measure_pace,
    clock: Clock = time.monotonic,
) -> Plan:
    """Fit the length of all trainings to a time, and write it to ``plan.json`` and ``time.json``.

    What was fitted before to the same time for the same trainings is kept, whatever has been trained since: each
    training follows its own clock to its end (``time_limit``).

    Args:
        run: planned and preprocessed.
        asked: configuration and fold of every training that is asked for, in their order.
        budget_s: seconds for all of them, validation included.
        measure: gives a configuration's speed.
        clock: gives seconds.

    Returns:
        The plan as written.

    Raises:
        OptionError: not even the shortest training fits; the message says how much time it needs.
    """
    plan, before, began = run.read(Plan, run.plan_file), read_time(run), clock()
    names = list(dict.fromkeys(name for name, _ in asked))
    own = {name: _own_length(plan.configuration(name), before) for name in names}
    made_from = {name: _made_from(run, plan.configuration(name)) for name in names}
    if before is not None and _is_the_same(before, asked, budget_s, own, made_from):
        say(f"  {duration(budget_s)} for all trainings: divided as before")
        return _write(run, plan, before)
    paces = {name: _known_pace(before, name, made_from[name]) for name in names}
    timed = {name: pace or _time(run, asked, name, measure) for name, pace in paces.items()}
    candidates = [_candidate(run, plan, item, own[item[0]], timed[item[0]]) for item in asked]
    measuring_s = clock() - began + (0.0 if before is None else before.measuring_s)
    side_by_side = trainings_at_once(plan, run.read(RunRecord, run.run_file), len(asked))
    spent = measuring_s + sum(item.spent_s for item in candidates) / side_by_side
    fitted = fit(candidates, budget_s - spent, side_by_side, spent)
    work = [item.left_s(fitted[item.name]) for item in candidates]
    left = all_done_s(work, side_by_side)
    longest = {item.name: item.own for item in candidates}
    record = TimeRecord(
        budget_s=budget_s,
        measuring_s=measuring_s,
        at_once=sum(work) / left if left else 1.0,
        configurations=tuple(
            TimedConfiguration(
                name=name, made_from=made_from[name], pace=timed[name], own=longest[name], fitted=fitted[name]
            )
            for name in names
        ),
        folds=tuple(
            TimedFold(configuration=item.name, fold=item.fold, validation_s=item.validation_s) for item in candidates
        ),
    )
    run.write(record, run.time_file)
    _say(record, spent, left)
    return _write(run, plan, record)


def _own_length(configuration: Configuration, before: TimeRecord | None) -> Length:
    """Give the length of a plan before it was fitted to a time; what the user has changed since counts as own."""
    now = Length.of(configuration.training)
    known = [] if before is None else [item for item in before.configurations if item.name == configuration.name]
    if not known:
        return now
    own, fitted = dataclasses.asdict(known[0].own), dataclasses.asdict(known[0].fitted)
    changed = {name: value for name, value in dataclasses.asdict(now).items() if value != fitted[name]}
    return Length(**{**own, **changed})


def _made_from(run: RunFolder, configuration: Configuration) -> str:
    """Identify what a pace depends on: the configuration without its length, device and precision."""
    value = records.to_json(configuration)
    value["training"] = {key: item for key, item in value["training"].items() if key not in (*LENGTH, *FIELDS)}
    compute = run.read(RunRecord, run.run_file).compute or {}
    return records.digest([value, {key: item for key, item in compute.items() if key != "reasons"}])


def _is_the_same(
    before: TimeRecord,
    asked: Sequence[Asked],
    budget_s: float,
    own: Mapping[str, Length],
    made_from: Mapping[str, str],
) -> bool:
    return (
        before.budget_s == budget_s
        and [(item.configuration, item.fold) for item in before.folds] == list(asked)
        and {item.name: item.own for item in before.configurations} == own
        and {item.name: item.made_from for item in before.configurations} == made_from
    )


def _known_pace(before: TimeRecord | None, name: str, made_from: str) -> Pace | None:
    known = () if before is None else before.configurations
    return next((item.pace for item in known if (item.name, item.made_from) == (name, made_from)), None)


def _time(run: RunFolder, asked: Sequence[Asked], name: str, measure: Callable[[FoldJob], Pace]) -> Pace:
    say(f"  timing {name} …")
    fold = next(fold for other, fold in asked if other == name)
    return measure(timing_job(run, name, fold))


def _candidate(run: RunFolder, plan: Plan, asked: Asked, own: Length, pace: Pace) -> Candidate:
    """Describe a training to be fitted; where folds are trained already its epochs keep their steps."""
    name, fold = asked
    trained = sorted((run.root / "folds" / name).glob("fold_*/configuration.json"))
    begun = run.is_begun(name)
    now = Length.of((run.read(Configuration, trained[0]) if trained else plan.configuration(name)).training)
    if begun and now.steps_per_epoch != own.steps_per_epoch:
        own = dataclasses.replace(now, epochs=max(own.steps // now.steps_per_epoch, 1))
    return Candidate(
        name=name,
        fold=fold,
        own=own,
        steps_fixed=begun,
        pace=pace,
        validation_s=validation_s(run, plan, asked, pace),
        state=fold_time(run, name, fold, now.steps_per_epoch),
    )


def _write(run: RunFolder, plan: Plan, record: TimeRecord) -> Plan:
    """Put the fitted lengths into ``plan.json``, with a reason per number."""
    old = {f"{item.name}.training.{name}" for item in record.configurations for name in FIELDS}
    kept = dict.fromkeys(reason for reason in plan.reasons if not (reason.rule == RULE and reason.about in old))
    lengths = {item.name: dataclasses.asdict(item.fitted) for item in record.configurations}
    configurations = tuple(
        dataclasses.replace(item, training=dataclasses.replace(item.training, **lengths.get(item.name, {})))
        for item in plan.configurations
    )
    plan = dataclasses.replace(plan, configurations=configurations, reasons=tuple(kept))
    fresh = [name for name in lengths if not run.is_begun(name)]
    plan = renew_warm_up(plan, fresh)
    return write_by_program(run, plan, *(reason for item in record.configurations for reason in _reasons(item, record)))


def _reasons(timed: TimedConfiguration, record: TimeRecord) -> list[Reason]:
    speed = f"at {timed.pace.step:.3g} s a step, {_trainings(record)} in {duration(record.budget_s)}"
    reasons = []
    for name in FIELDS:
        own, fitted = getattr(timed.own, name), getattr(timed.fitted, name)
        if own != fitted:
            because = f"{own} without a limit; {speed}"
        elif name == "epochs":
            because = f"all that was planned fits: {speed}"
        else:
            continue
        reasons.append(Reason(about=f"{timed.name}.training.{name}", rule=RULE, because=because))
    return reasons


def _trainings(record: TimeRecord) -> str:
    return f"{len(record.folds)} training{'s' * (len(record.folds) != 1)}"


def _say(record: TimeRecord, spent: float, left: float) -> None:
    """Tell what was fitted, and when it will end."""
    gone = f" ({duration(spent)} spent already)" if spent >= 1 else ""
    say(f"  {duration(record.budget_s)} for {_trainings(record)} with validation{gone}:")
    for item in record.configurations:
        folds = [fold for fold in record.folds if fold.configuration == item.name]
        expected = sum(fold.validation_s for fold in folds) / len(folds)
        length = f"{item.fitted.epochs} epochs of {item.fitted.steps_per_epoch} steps"
        whole = f"{item.own.epochs} of {item.own.steps_per_epoch}"
        why = "all that was planned" if item.fitted == item.own else f"planned were {whole}"
        say(f"    {item.name}: {length} ({why}); {item.pace.step:.3g} s a step, validation {duration(expected)} a fold")
    if all(item.fitted == item.own for item in record.configurations):
        say("    the plan's own length needs no more; the time is a limit, so nothing is trained for longer")
    say(f"  {duration(left)} more, done at about {finish_time(left)}")
