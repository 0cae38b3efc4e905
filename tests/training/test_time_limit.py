"""Each training's share of the time, and how it follows its own clock to the end."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from autoseg.run_folder import RunFolder
from autoseg.training.fold_record import FoldRecord
from autoseg.training.fold_state import Counters
from autoseg.training.schedule import Bend, end_at, last_epoch
from autoseg.training.time_limit import (
    Length,
    Pace,
    TimedConfiguration,
    TimedFold,
    TimeLimit,
    TimeRecord,
    fold_time,
    time_limit,
)
from planners.plan import Plan

FITTED = Length(epochs=20, steps_per_epoch=10, validation_steps=2)
PACE = Pace(step=0.9, validation_step=0.5, window=0.0, voxel=0.0)  # an epoch is 10 s
FOLDS = 3


def record(**changes: Any) -> TimeRecord:
    own = Length(epochs=100, steps_per_epoch=50, validation_steps=10)
    whole = TimeRecord(
        budget_s=FOLDS * 230 + 5,
        measuring_s=5,
        at_once=1,
        configurations=(TimedConfiguration(name="tiny", made_from="", pace=PACE, own=own, fitted=FITTED),),
        folds=tuple(TimedFold(configuration="tiny", fold=fold, validation_s=30) for fold in range(FOLDS)),
    )
    return dataclasses.replace(whole, **changes)


def rows_of(seconds: list[float]) -> list[dict[str, Any]]:
    return [{"epoch": epoch, "seconds": value} for epoch, value in enumerate(seconds)]


def put_fold(run: RunFolder, fold: int, seconds: list[float], **changes: Any) -> None:
    """Write what a training leaves behind, without its tensors."""
    folder = run.fold("tiny", fold)
    state = FoldRecord(configuration="", split="", epochs=FITTED.epochs, **changes)
    run.write(state, folder.record)
    folder.progress.write_text("".join(json.dumps(row) + "\n" for row in rows_of(seconds)))


@pytest.fixture
def run(make_run: Any) -> RunFolder:
    made: RunFolder = make_run(**dataclasses.asdict(FITTED))
    made.write(record(), made.time_file)
    return made


def limit(run: RunFolder, fold: int) -> TimeLimit | None:
    return time_limit(run, run.read(Plan, run.plan_file), "tiny", fold)


def test_equal_trainings_have_equal_shares_without_their_validation(run: RunFolder) -> None:
    assert {limit(run, fold) for fold in range(FOLDS)} == {TimeLimit(seconds=200, epochs=500, validation_s=30)}


def test_what_a_finished_one_took_too_long_the_others_share(run: RunFolder) -> None:
    put_fold(run, 0, [13.0] * 20, finished=True, validated=20, validation_s=50)
    shared = (FOLDS * 230 - 260 - 50 - 2 * 50) / 2  # and validations are expected to be as slow as the first was
    assert limit(run, 1) == TimeLimit(seconds=pytest.approx(shared), epochs=500, validation_s=50)
    put_fold(run, 1, [10.0] * 7)
    assert limit(run, 1) == limit(run, 2), "a half-done one has its share, of which a part is spent"


def test_not_in_force_for_another_fold_or_another_length(run: RunFolder) -> None:
    assert limit(run, FOLDS) is None
    plan = run.read(Plan, run.plan_file)
    item = plan.configurations[0]
    other = dataclasses.replace(item, training=dataclasses.replace(item.training, epochs=21))
    longer = dataclasses.replace(plan, configurations=(other,))
    assert time_limit(run, longer, "tiny", 0) is None
    run.time_file.unlink()
    assert limit(run, 0) is None


def test_extended_folds_are_unfinished_again(run: RunFolder) -> None:
    put_fold(run, 0, [10.0] * 10, finished=True, validated=10, validation_s=30)
    state = dataclasses.replace(run.read(FoldRecord, run.fold("tiny", 0).record), epochs=10)
    run.write(state, run.fold("tiny", 0).record)
    assert fold_time(run, "tiny", 0, 10).finished == 10
    assert limit(run, 0) == TimeLimit(seconds=pytest.approx(200), epochs=500, validation_s=30)


def simulate(seconds: Any, share: float, planned: int = 20) -> tuple[float, int]:
    """Train by a clock: ``seconds`` gives the time of an epoch; gives the time in all and the number of epochs."""
    from planners.plan import Training

    training, limit = Training(epochs=planned), TimeLimit(seconds=share, epochs=1000)
    rows: list[dict[str, Any]] = []
    bend: Bend | None = None
    while len(rows) < last_epoch(training, bend):
        rows.append({"epoch": len(rows), "seconds": seconds(len(rows))})
        bend = end_at(training, bend, len(rows), limit.end(rows, Counters(epoch=len(rows))))
    return sum(row["seconds"] for row in rows), len(rows)


@pytest.mark.parametrize(
    "seconds",
    [
        lambda epoch: 10.0,
        lambda epoch: 14.0,
        lambda epoch: 7.0,
        lambda epoch: 10.0 + 0.5 * epoch,
        lambda epoch: 10.0 - 0.2 * epoch,
        lambda epoch: 25.0 if epoch == 0 else 10.0,
        lambda epoch: 20.0 if epoch % 7 == 3 else 10.0,
        lambda epoch: 10.0 if epoch < 10 else 15.0,
    ],
    ids=["as planned", "slower", "faster", "slowing", "quickening", "slow start", "hiccups", "slower from half-way"],
)
def test_speeds_that_drift_still_end_within_ten_per_cent(seconds: Any) -> None:
    took, epochs = simulate(seconds, 200.0)
    assert 0.9 * 200 <= took <= 1.1 * 200
    assert epochs >= 12


def test_work_that_was_lost_is_spent() -> None:
    limit = TimeLimit(seconds=200, epochs=1000)
    rows = rows_of([10.0] * 5)
    assert limit.end(rows, Counters(epoch=5)) == 20
    assert limit.end(rows, Counters(epoch=5, lost_s=50.0)) == 15


def test_no_more_epochs_than_the_plan_itself_had() -> None:
    assert TimeLimit(seconds=1e6, epochs=30).end(rows_of([1.0] * 5), Counters(epoch=5)) == 30


def test_the_record_survives_as_json(run: RunFolder, tmp_path: Path) -> None:
    assert run.read(TimeRecord, run.time_file) == record()
