"""A time for all trainings becomes epochs and steps in the plan, with reasons; and it is kept, extended, refused."""

import dataclasses
import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest

from autoseg import planning
from autoseg.errors import OptionError
from autoseg.options import RunOptions
from autoseg.run_folder import RunFolder, RunRecord
from autoseg.training.fold_record import FoldRecord
from autoseg.training.fold_state import Counters
from autoseg.training.folds import fold_job
from autoseg.training.outlook import remaining_s, validation_s
from autoseg.training.schedule import end_at, last_epoch
from autoseg.training.time_budget import RULE, fit_to_time
from autoseg.training.time_limit import Length, Pace, TimeRecord, time_limit
from autoseg.training.trainer import FoldJob
from planners import records
from planners.edit import set_training
from planners.fingerprint import Channel, Fingerprint
from planners.plan import Plan

MakeRun = Callable[..., RunFolder]
PACE = Pace(step=1.0, validation_step=0.5, window=0.001, voxel=0.0)
ASKED = [("tiny", 0), ("tiny", 1)]


def still() -> float:
    return 0.0


class Measure:
    """Gives made-up paces and counts how often it was asked."""

    def __init__(self, **steps: float) -> None:
        self.steps, self.asked = steps, []

    def __call__(self, job: FoldJob) -> Pace:
        self.asked.append(job.configuration.name)
        return dataclasses.replace(PACE, step=self.steps.get(job.configuration.name, 1.0))


@pytest.fixture
def run(make_run: MakeRun) -> RunFolder:
    return make_run(epochs=100, steps_per_epoch=25, validation_steps=5)


def length(run: RunFolder, name: str = "tiny") -> Length:
    return Length.of(run.read(Plan, run.plan_file).configuration(name).training)


def fit(run: RunFolder, budget_s: float, asked: Any = ASKED, measure: Any = None) -> Plan:
    return fit_to_time(run, asked, budget_s, measure or Measure(), still)


def put_fold(run: RunFolder, fold: int, seconds: list[float], **changes: Any) -> None:
    folder = run.fold("tiny", fold)
    run.write(FoldRecord(configuration="", split="", epochs=length(run).epochs, **changes), folder.record)
    rows = [{"epoch": epoch, "seconds": value} for epoch, value in enumerate(seconds)]
    folder.progress.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_the_fitted_length_fits_and_stands_in_the_plan_with_reasons(run: RunFolder) -> None:
    plan = fit(run, 2000)
    assert length(run) == Length(epochs=36, steps_per_epoch=25, validation_steps=5)
    assert plan == run.read(Plan, run.plan_file)
    (reason,) = [reason for reason in plan.reasons if reason.rule == RULE]
    assert reason.about == "tiny.training.epochs"
    assert reason.because == "100 without a limit; at 1 s a step, 2 trainings in 33 min 20 s"
    assert remaining_s(run, plan, ASKED, {"tiny": PACE}) <= 2000
    digest = records.digest(plan)
    assert digest in run.read(RunRecord, run.run_file).made_from[planning.WRITTEN], "no edit by hand"


def test_few_epochs_become_shorter_ones(run: RunFolder) -> None:
    plan = fit(run, 500)
    assert length(run).epochs == 20
    assert length(run).steps_per_epoch == 11
    assert length(run).validation_steps == 2
    assert {reason.about for reason in plan.reasons if reason.rule == RULE} == {
        f"tiny.training.{name}" for name in ("epochs", "steps_per_epoch", "validation_steps")
    }


def test_more_time_than_the_plan_needs_changes_nothing_but_says_so(
    run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    before = length(run)
    plan = fit(run, 1e6)
    assert length(run) == before
    assert "nothing is trained for longer" in capsys.readouterr().err
    assert [reason.because[:27] for reason in plan.reasons if reason.rule == RULE] == ["all that was planned fits: "]
    limit = time_limit(run, plan, "tiny", 0)
    assert limit is not None
    assert limit.epochs == 100


def test_all_configurations_train_equally_long(make_run: MakeRun) -> None:
    run = make_run(names=("tiny", "other"), epochs=100, steps_per_epoch=25, validation_steps=5)
    asked = [("tiny", 0), ("other", 0), ("tiny", 1), ("other", 1)]
    measure = Measure(other=3.0)
    fit(run, 6000, asked, measure)
    assert length(run, "tiny") == length(run, "other")
    assert length(run).epochs == int(6000 / (2 * (27.5 + 77.5)))
    assert measure.asked == ["tiny", "other"], "each is timed once"


def test_too_little_time_is_refused_and_nothing_is_written(run: RunFolder) -> None:
    before = run.plan_file.read_bytes()
    with pytest.raises(OptionError, match="too short for one step of each of 2 trainings"):
        fit(run, 1.0)
    assert run.plan_file.read_bytes() == before
    assert not run.time_file.exists()


def test_the_same_time_again_keeps_what_was_fitted_without_timing(run: RunFolder) -> None:
    first = fit(run, 2000)
    put_fold(run, 0, [31.0] * 17)
    measure = Measure()
    assert fit(run, 2000, measure=measure) == first
    assert measure.asked == []


def test_more_time_lengthens_trained_folds_and_keeps_their_steps(run: RunFolder) -> None:
    fit(run, 500)
    for fold in (0, 1):
        put_fold(run, fold, [12.0] * 20, finished=True, validated=20, validation_s=0.1)
    measure = Measure()
    fit(run, 1000, measure=measure)
    assert length(run).steps_per_epoch == 11
    assert length(run).epochs == 20 + int((1000 - 2 * 240 - 0.4) / 2 / 12.0)
    assert measure.asked == [], "the speed is known"
    fit(run, 1e6)
    assert length(run) == Length(epochs=100 * 25 // 11, steps_per_epoch=11, validation_steps=2)


def test_trained_folds_keep_their_steps_when_the_command_names_others(run: RunFolder) -> None:
    """With ``--steps-per-epoch 25`` on the command line every start writes that into the plan first."""
    fit(run, 500)
    own = run.read(Plan, run.plan_file).configuration("tiny")
    for fold in (0, 1):
        put_fold(run, fold, [12.0] * 20, finished=True, validated=20, validation_s=0.1)
        run.write(own, run.fold("tiny", fold).configuration)
    planning.write_by_program(run, set_training(run.read(Plan, run.plan_file), epochs=100, steps_per_epoch=25))
    fit(run, 1000)
    assert length(run).steps_per_epoch == 11
    assert length(run).validation_steps == 2


def test_what_was_spent_before_counts(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    put_fold(run, 0, [27.5] * 40)
    fit(run, 2000)
    assert length(run).epochs == 32, "of the first fold 40 epochs are made, the second has the 900 s that are left"
    assert "18 min 20 s spent already" in capsys.readouterr().err


def test_the_users_own_epochs_have_the_last_word(run: RunFolder) -> None:
    fit(run, 500)
    shorter = set_training(run.read(Plan, run.plan_file), epochs=7)
    planning.write_by_program(run, shorter)
    assert time_limit(run, shorter, "tiny", 0) is None
    fit(run, 500)
    assert length(run).epochs == 7, "and they are the longest that a time can give"
    assert length(run).steps_per_epoch == 25


def test_planning_keeps_it_with_and_without_the_option(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    labels = run.read(Plan, run.plan_file).labels
    fingerprint = Fingerprint(
        dataset="toy",
        channels=(Channel(name="MRI"),),
        labels=labels,
        num_cases=4,
        spacings_mm=((1.0, 1.0, 1.0),),
        shapes=((20, 24, 20),),
    )
    options = RunOptions(budget_bytes=10**9, device="cpu", epochs=50, steps_per_epoch=25)
    run.plan_file.unlink()
    plan = planning.decide(run, fingerprint, options)
    name = plan.configurations[0].name
    run.store("tiny").rename(run.store(name))
    asked = [(name, 0)]
    fitted = fit(run, 300, asked)
    assert fitted != plan
    without = dataclasses.replace(options, epochs=None, steps_per_epoch=None)
    assert planning.decide(run, fingerprint, without).configurations == fitted.configurations
    planning.decide(run, fingerprint, options)
    measure = Measure()
    again = fit(run, 300, asked, measure)
    assert (again.configurations, measure.asked) == (fitted.configurations, [])
    assert len(again.reasons) == len(set(again.reasons))
    assert "by hand" not in capsys.readouterr().err


def train_by_clock(run: RunFolder, fold: int, epoch_s: Callable[[], float], validation: float) -> float:
    """Do what a training does to the records of its run, by made-up times; give the seconds it took."""
    job = fold_job(run, "tiny", fold)
    assert job.limit is not None
    training, rows, bend = job.configuration.training, [], None
    run.write(FoldRecord(configuration="", split="", epochs=training.epochs), job.folder.record)
    while len(rows) < last_epoch(training, bend):
        rows.append({"epoch": len(rows), "seconds": epoch_s()})
        bend = end_at(training, bend, len(rows), job.limit.end(rows, Counters(epoch=len(rows))))
    put_fold(
        run, fold, [row["seconds"] for row in rows], finished=True, validated=training.epochs, validation_s=validation
    )
    return sum(row["seconds"] for row in rows) + validation


@pytest.mark.parametrize("factor", [0.7, 1.0, 1.5])
def test_all_trainings_end_within_ten_per_cent_whatever_was_measured(run: RunFolder, factor: float) -> None:
    fit(run, 3000)
    planned = length(run)
    count = itertools.count()

    def epoch_s() -> float:
        return factor * PACE.epoch(planned) * (0.9 + 0.004 * next(count))

    took = sum(train_by_clock(run, fold, epoch_s, validation=factor * 40) for fold in (0, 1))
    assert 0.9 * 3000 <= took <= 1.1 * 3000


def test_the_seconds_of_measuring_are_part_of_the_time(run: RunFolder) -> None:
    moments = iter([0.0, 100.0])
    fit_to_time(run, ASKED, 2000, Measure(), lambda: next(moments))
    assert run.read(TimeRecord, run.time_file).measuring_s == 100.0
    assert length(run).epochs == int((1900 - 0.2) / 2 / 27.5)


def test_validation_is_estimated_from_the_shapes_of_the_stored_cases(run: RunFolder) -> None:
    plan = run.read(Plan, run.plan_file)
    # 10 × 12 × 8 voxels: 2 × 2 × 1 windows of 8³, each in 8 mirrored forms, in 2 cases; 960 voxels each
    pace = Pace(step=0, validation_step=0, window=0.5, voxel=0.001)
    assert validation_s(run, plan, ("tiny", 0), pace) == pytest.approx(2 * (4 * 8 * 0.5 + 0.96))
    assert validation_s(run, plan, ("tiny", "all-data"), pace) == 0.0
