"""How long a training will take, from a few real steps; said before it begins where that is more than a day."""

import time
from collections.abc import Sequence

from autoseg.progress import duration, say
from autoseg.run_folder import RunFolder
from autoseg.training.fold_state import FoldRecord
from autoseg.training.folds import fold_job
from autoseg.training.sampling import BatchSource
from autoseg.training.trainer import FoldJob, FoldTrainer

DAY_S = 24 * 3600
FEW_STEPS = 2000  # assumption: so few steps never take a day (a step of 43 s would)
TIMED_STEPS = 3  # the first warms up and is not counted
VALIDATION_SHARE = 0.07  # a fifth of the steps, forward only, at a third of a step's time


def say_if_long(run: RunFolder, pairs: Sequence[tuple[str, int | str]]) -> None:
    """Say how long the missing folds will take, and which ``--epochs`` would fit a day, where it is more than one.

    Args:
        run: planned and preprocessed.
        pairs: configuration and fold of every training that is asked for.
    """
    jobs = [fold_job(run, *pair) for pair in pairs if not _finished(run, *pair)]
    if sum(_steps(job) for job in jobs) < FEW_STEPS:
        return
    seconds_per_step = {
        job.configuration.name: _time_a_step(job) for job in {j.configuration.name: j for j in jobs}.values()
    }
    total = sum(seconds_per_step[job.configuration.name] * _steps(job) for job in jobs) * (1 + VALIDATION_SHARE)
    each = ", ".join(f"{name} {seconds:.2f} s a step" for name, seconds in seconds_per_step.items())
    say(f"  {len(jobs)} trainings, about {duration(total)} in all ({each})")
    if total > DAY_S:
        epochs = max(int(jobs[0].configuration.training.epochs * DAY_S / total), 1)
        say(f"  that is more than a day; --epochs {epochs} would fit one. Going on; Ctrl-C saves and stops")


def _steps(job: FoldJob) -> int:
    return job.configuration.training.epochs * job.configuration.training.steps_per_epoch


def _finished(run: RunFolder, configuration: str, fold: int | str) -> bool:
    folder = run.fold(configuration, fold)
    return folder.record.exists() and run.read(FoldRecord, folder.record).finished


def _time_a_step(job: FoldJob) -> float:
    """Make a few steps with a network that is thrown away; give the seconds of one, loading included."""
    trainer = FoldTrainer(job)
    source = BatchSource(job.train_cases, job.configuration, seed=trainer.training.seed, augment=True)
    started = 0.0
    for step in range(TIMED_STEPS):
        if step == 1:
            started = time.monotonic()
        trainer.step(source.batch(0, step, job.compute.device))
    return (time.monotonic() - started) / (TIMED_STEPS - 1)
