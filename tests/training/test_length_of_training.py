"""When a training ends: planned epochs, more of them, stalled validation, a limit of time; and it resumes the same."""

import dataclasses
import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from autoseg.run_folder import RunFolder
from autoseg.training.fold_state import load_counters, read_progress
from autoseg.training.folds import fold_job
from autoseg.training.schedule import learning_rate
from autoseg.training.time_limit import TimeLimit
from autoseg.training.trainer import FoldJob, FoldTrainer
from planners.edit import set_training
from planners.plan import Plan

MakeRun = Callable[..., RunFolder]


class Clock:
    """Seconds that pass only where a test lets them."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Killed(BaseException):
    """As abrupt as a kill: nothing is saved."""


def trainer_of(
    job: FoldJob,
    *,
    clock: Clock | None = None,
    step_s: Callable[[int], float] = lambda count: 1.0,
    dice: Callable[[int], float] | None = None,
    die_at: int | None = None,
) -> FoldTrainer:
    """Make a trainer whose steps take made-up time, whose validation gives made-up Dice, and that dies where asked."""
    clock = clock or Clock()
    trainer = FoldTrainer(job, clock)
    step, validate, count = trainer.step, trainer.validate, [0]

    def timed_step(batch: Any) -> float | None:
        count[0] += 1
        clock.now += step_s(count[0])
        if count[0] == die_at:
            raise Killed
        return step(batch)

    def told_dice(epoch: int) -> tuple[float | None, list[float | None]]:
        return validate(epoch) if dice is None else (0.5, [dice(epoch), dice(epoch)])

    trainer.step, trainer.validate = timed_step, told_dice  # type: ignore[method-assign]
    return trainer


def weights(job: FoldJob) -> dict[str, torch.Tensor]:
    return load_file(job.folder.weights_last)


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def rates(job: FoldJob) -> list[float]:
    return [row["learning_rate"] for row in read_progress(job.folder)]


def test_more_epochs_on_a_finished_fold_follow_the_longer_schedule(make_run: MakeRun) -> None:
    run = make_run(epochs=3, steps_per_epoch=1, validation_steps=1)
    trainer_of(fold_job(run, "tiny", 0)).run()
    run.write(set_training(run.read(Plan, run.plan_file), epochs=6), run.plan_file)
    longer = fold_job(run, "tiny", 0)
    trainer_of(longer).run()
    short = dataclasses.replace(longer.configuration.training, epochs=3)
    wanted = [learning_rate(short, epoch) for epoch in range(3)]
    wanted += [learning_rate(longer.configuration.training, epoch) for epoch in range(3, 6)]
    assert rates(longer) == wanted
    assert wanted[3] > wanted[2], "the rate rises again to where the longer schedule is"


def stalling(epoch: int) -> float:
    return 0.5 + 0.1 * min(epoch, 3)


def annealed(make_run: MakeRun, folder: str) -> FoldJob:
    return fold_job(make_run(folder, epochs=60, steps_per_epoch=2, validation_steps=1, patience=4), "tiny", 0)


def test_stalled_validation_begins_the_final_anneal(make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    job = annealed(make_run, "stalls")
    trainer_of(job, dice=lambda epoch: 0.8 if epoch == 2 else 0.3).run()
    rows = read_progress(job.folder)
    assert len(rows) == 3 + 4 + 6, "the best, patience, a tenth of the planned epochs"
    assert [row["annealing"] for row in rows] == [False] * 7 + [True] * 6
    training = job.configuration.training
    assert rates(job)[:8] == [learning_rate(training, epoch) for epoch in range(8)], "it goes on from where it stands"
    assert rates(job)[-1] == pytest.approx(rates(job)[7] * (1 / 6) ** 0.9)
    assert "no better validation for 4 epochs: final anneal, epochs 8 to 13" in capsys.readouterr().err
    events = [json.loads(line) for line in job.run.log_file.read_text().splitlines()]
    assert [event["end"] for event in events if event["event"] == "final-anneal"] == [13]


def test_improving_validation_is_left_alone(make_run: MakeRun) -> None:
    job = fold_job(make_run(epochs=8, steps_per_epoch=1, validation_steps=1, patience=2), "tiny", 0)
    trainer_of(job, dice=lambda epoch: 0.1 * epoch).run()
    assert not any(row["annealing"] for row in read_progress(job.folder))
    assert len(read_progress(job.folder)) == 8


@pytest.mark.parametrize("die_at", [9, 16, 21])
def test_killed_while_it_stalls_or_anneals_it_goes_on_bit_for_bit(die_at: int, make_run: MakeRun) -> None:
    def dice(epoch: int) -> float:
        return 0.8 if epoch == 2 else 0.3

    whole = annealed(make_run, "whole")
    trainer_of(whole, dice=dice).run()
    killed = annealed(make_run, "killed")
    clock = Clock()
    with pytest.raises(Killed):
        trainer_of(killed, dice=dice, clock=clock, step_s=lambda count: 25.0, die_at=die_at).run()
    assert killed.folder.state.exists()
    trainer_of(killed, dice=dice, clock=clock).run()
    assert same(weights(whole), weights(killed))
    assert rates(whole) == rates(killed)


def test_an_annealed_fold_given_more_epochs_leaves_the_anneal(make_run: MakeRun) -> None:
    job = annealed(make_run, "run")
    trainer_of(job, dice=lambda epoch: 0.8 if epoch == 2 else 0.3).run()
    run = job.run
    run.write(set_training(run.read(Plan, run.plan_file), epochs=70), run.plan_file)
    longer = fold_job(run, "tiny", 0)
    trainer_of(longer, dice=lambda epoch: 0.9).run()
    rows = read_progress(longer.folder)
    assert rows[13]["learning_rate"] == learning_rate(longer.configuration.training, 13)
    assert not rows[13]["annealing"]


@pytest.mark.parametrize(
    "step_s",
    [lambda count: 1.0, lambda count: 1.3, lambda count: 0.8, lambda count: 0.6 + count / 60],
    ids=["as planned", "slower", "faster", "slowing"],
)
def test_with_a_limit_it_ends_within_ten_per_cent(step_s: Callable[[int], float], make_run: MakeRun) -> None:
    job = fold_job(make_run(epochs=20, steps_per_epoch=3, validation_steps=1), "tiny", 0)
    job = dataclasses.replace(job, limit=TimeLimit(seconds=60.0, epochs=1000))
    clock = Clock()
    trainer_of(job, clock=clock, step_s=step_s, dice=stalling).run()
    assert 54 <= clock.now <= 66
    falling = rates(job)
    assert falling == sorted(falling, reverse=True)
    assert falling[-1] < 0.2 * falling[0], "the schedule ends with the time"
    steps = [before - after for before, after in itertools.pairwise(falling)]
    assert max(steps) < 0.25 * falling[0], "and falls without jumps"


def test_with_a_limit_and_two_kills_it_keeps_to_it(make_run: MakeRun) -> None:
    job = fold_job(make_run(epochs=20, steps_per_epoch=3, validation_steps=1), "tiny", 0)
    job = dataclasses.replace(job, limit=TimeLimit(seconds=1200.0, epochs=1000))
    clock = Clock()
    for die_at in (17, 20):
        with pytest.raises(Killed):
            trainer_of(job, clock=clock, step_s=lambda count: 22.0, dice=stalling, die_at=die_at).run()
        bend = load_counters(job.folder.state).bend
        clock.now += 5000.0  # a break between stop and start is no work
    assert bend is not None, "what was decided is kept"
    trainer_of(job, clock=clock, step_s=lambda count: 22.0, dice=stalling).run()
    assert 1200 * 0.9 <= clock.now - 2 * 5000 <= 1200 * 1.1
    assert [row["epoch"] for row in read_progress(job.folder)] == list(range(len(read_progress(job.folder))))


def test_time_of_epochs_counts_what_came_before_a_stop(make_run: MakeRun) -> None:
    job = fold_job(make_run(epochs=2, steps_per_epoch=4, validation_steps=1), "tiny", 0)
    clock = Clock()
    with pytest.raises(Killed):  # the third step's save holds the seconds of three steps
        trainer_of(job, clock=clock, step_s=lambda count: 30.0, dice=stalling, die_at=4).run()
    trainer_of(job, clock=clock, step_s=lambda count: 30.0, dice=stalling).run()
    assert [row["seconds"] for row in read_progress(job.folder)] == [120.0, 120.0]
