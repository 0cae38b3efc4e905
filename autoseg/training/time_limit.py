"""How long one training may take, out of the time given for all: what ``--time-budget`` decided, read back by each.

``RUN/time.json`` holds what was decided. Every training takes its share from it anew: of the time that the finished
ones have left, as much as its part of the work that remains. So a training that took longer costs the others, not the
budget. A restart finds the same numbers, and so does another process.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from autoseg.run_folder import RunFolder
from autoseg.training.fold_record import FoldRecord
from autoseg.training.fold_state import Counters, load_counters, read_progress, spent_s
from planners.plan import Plan, Training

RECENT_EPOCHS = 3
"""Epochs whose mean is the speed now (assumption: one alone may be chance, many forget that the speed has changed)."""

OVER = 0.25
"""Part of an epoch that may go over the time: a quarter over is better than three quarters unused (assumption; at
twenty epochs 1 % of the time)."""


@dataclass(frozen=True, kw_only=True)
class Length:
    """How long a training is; fields as in ``Training``."""

    epochs: int
    steps_per_epoch: int
    validation_steps: int

    @classmethod
    def of(cls, training: Training) -> "Length":
        """Take the length from a plan."""
        return cls(
            epochs=training.epochs,
            steps_per_epoch=training.steps_per_epoch,
            validation_steps=training.validation_steps,
        )

    @property
    def steps(self) -> int:
        """Training steps in all."""
        return self.epochs * self.steps_per_epoch


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How fast one configuration is on this machine, in seconds.

    Attributes:
        step: one training step, loading included.
        validation_step: one step of an epoch's validation, loading included.
        window: one window of a prediction in one of its mirrored forms.
        voxel: one voxel of the preprocessed grid on its way from logits to the segmentation of the image.
    """

    step: float
    validation_step: float
    window: float
    voxel: float

    def epoch(self, length: Length) -> float:
        """Seconds of one epoch."""
        return self.step * length.steps_per_epoch + self.validation_step * length.validation_steps


@dataclass(frozen=True, kw_only=True)
class TimedConfiguration:
    """One configuration within the time budget.

    Attributes:
        name: of the configuration.
        made_from: digest of what its pace depends on.
        pace: as measured.
        own: the length that the plan had by itself: the longest.
        fitted: the length that fits the time; what the plan says now.
    """

    name: str
    made_from: str
    pace: Pace
    own: Length
    fitted: Length


@dataclass(frozen=True, kw_only=True)
class TimedFold:
    """One training within the time budget; ``validation_s``: seconds expected for its final validation."""

    configuration: str
    fold: int | str
    validation_s: float


@dataclass(frozen=True, kw_only=True)
class TimeRecord:
    """``time.json``: the time given for all trainings, and how it was divided.

    Attributes:
        budget_s: seconds from the first step of the first training to the end of the last validation, breaks between
            a stop and the next start not counted.
        measuring_s: seconds of it that went into measuring the paces.
        at_once: trainings that run side by side, on average.
        configurations, folds: what is to be trained.
    """

    budget_s: float
    measuring_s: float
    at_once: float
    configurations: tuple[TimedConfiguration, ...]
    folds: tuple[TimedFold, ...]

    def timed(self, name: str) -> TimedConfiguration:
        """Find a configuration."""
        return next(item for item in self.configurations if item.name == name)


@dataclass(frozen=True, kw_only=True)
class TimeLimit:
    """What one training may take.

    Attributes:
        seconds: for its steps and the validation of its epochs, from its beginning; what it has taken is part of it.
        epochs: the most it may make, however fast it is.
        validation_s: expected for its final validation, on top.
    """

    seconds: float
    epochs: int
    validation_s: float = 0.0

    def end(self, rows: Sequence[dict[str, Any]], counters: Counters) -> int:
        """Give the number of epochs that fit, those that are done included.

        Args:
            rows: of ``progress.jsonl``; at least one.
            counters: after the epoch of the last row.
        """
        recent = [row["seconds"] for row in rows[-RECENT_EPOCHS:]]
        left = self.seconds - spent_s(rows, counters)
        more = math.floor(left / max(sum(recent) / len(recent), 1e-9) + OVER)
        return min(counters.epoch + max(more, 0), max(self.epochs, counters.epoch))


@dataclass(frozen=True, kw_only=True)
class FoldTime:
    """How far one training is.

    Attributes:
        epochs: those that are made, the unfinished one in part.
        seconds: that they took.
        finished: number of planned epochs that it is finished for; 0: it is not.
        validation_s: seconds of its final validation; None: that is still to be made.
    """

    epochs: float = 0.0
    seconds: float = 0.0
    finished: int = 0
    validation_s: float | None = None


def fold_time(run: RunFolder, configuration: str, fold: int | str, steps_per_epoch: int) -> FoldTime:
    """Look up how far a training is."""
    folder = run.fold(configuration, fold)
    if not folder.record.exists():
        return FoldTime()
    record = run.read(FoldRecord, folder.record)
    counters = load_counters(folder.state) if folder.state.exists() else Counters()
    validated = record.finished and record.validated == record.epochs
    rows = read_progress(folder)
    return FoldTime(
        epochs=max(counters.epoch + counters.step / steps_per_epoch, len(rows)),
        seconds=spent_s(rows, counters),
        finished=record.epochs if record.finished else 0,
        validation_s=(record.validation_s or 0.0) if validated else None,
    )


def time_limit(run: RunFolder, plan: Plan, configuration: str, fold: int | str) -> TimeLimit | None:
    """Give the time that one training may take; None where no budget of time is in force for it.

    It is in force as long as the plan says the length that was fitted to it: a user who sets another has the last word.
    """
    record = read_time(run)
    if record is None or (configuration, fold) not in [(item.configuration, item.fold) for item in record.folds]:
        return None
    timed = record.timed(configuration)
    if Length.of(plan.configuration(configuration).training) != timed.fitted:
        return None
    left, mine = (record.budget_s - record.measuring_s) * record.at_once, 0.0
    work: dict[tuple[str, int | str], float] = {}
    slower = _slower(run, record)
    for item in record.folds:
        other = record.timed(item.configuration)
        state = fold_time(run, item.configuration, item.fold, other.fitted.steps_per_epoch)
        finished = state.finished >= other.fitted.epochs
        expected = item.validation_s * slower[item.configuration]
        left -= state.validation_s if finished and state.validation_s is not None else expected
        if finished:
            left -= state.seconds
        else:
            work[item.configuration, item.fold] = other.pace.epoch(other.fitted) * other.fitted.epochs
        if (item.configuration, item.fold) == (configuration, fold):
            mine = expected
    share = work.get((configuration, fold), 0.0) / max(sum(work.values()), 1e-9)
    most = timed.own.steps // timed.fitted.steps_per_epoch
    return TimeLimit(seconds=left * share, epochs=most, validation_s=mine)


def read_time(run: RunFolder) -> TimeRecord | None:
    """Read ``time.json``; None where there is none."""
    return run.read(TimeRecord, run.time_file) if run.time_file.exists() else None


def _slower(run: RunFolder, record: TimeRecord) -> dict[str, float]:
    """Compare, per configuration, what final validations took with what was expected of them; 1 where none is done."""
    taken = {item.name: 0.0 for item in record.configurations}
    expected = dict(taken)
    for item in record.folds:
        state = fold_time(run, item.configuration, item.fold, 1)
        if state.validation_s and item.validation_s:
            taken[item.configuration] += state.validation_s
            expected[item.configuration] += item.validation_s
    return {name: taken[name] / expected[name] if expected[name] else 1.0 for name in taken}
