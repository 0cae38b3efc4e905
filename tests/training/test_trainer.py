"""The trainer on tiny made-up cases: it learns, goes on bit for bit, survives bad batches, and stops when asked."""

import dataclasses
import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from autoseg.compute import Compute
from autoseg.errors import AutosegError
from autoseg.preprocessing.locations import sample_locations
from autoseg.preprocessing.preprocess import CaseGrid, PreprocessedCase
from autoseg.preprocessing.store import Store, StoredCase
from autoseg.run_folder import RunFolder
from autoseg.training import trainer as training
from autoseg.training.epoch_line import HEADER, epoch_line
from autoseg.training.fold_state import read_progress
from autoseg.training.momentum import fit_momentum
from autoseg.training.schedule import learning_rate
from autoseg.training.trainer import FoldJob, FoldTrainer, Interrupted, train_fold
from planners import PLANNERS
from planners.edit import set_training, set_value
from planners.fingerprint import Channel, Fingerprint
from planners.labels import LabelClass, Labels
from planners.plan import MemoryBudget, Plan

LABELS = Labels(classes=(LabelClass(name="background", value=0), LabelClass(name="ball", value=1)))
SHAPE = (16, 20, 18)
COMPUTE = Compute(device="cpu", precision="fp32", channels_last=False, threads=1, reasons=())


def make_plan(epochs: int = 2, steps: int = 3) -> Plan:
    fingerprint = Fingerprint(
        dataset="balls",
        channels=(Channel(name="MRI"),),
        labels=LABELS,
        num_cases=3,
        spacings_mm=((1.0, 1.0, 1.0),),
        shapes=(SHAPE,),
    )
    plan = PLANNERS["default"](fingerprint, MemoryBudget())
    plan = set_value(plan, "3d_fullres.patch_size", "[16,16,16]")
    return set_training(plan, epochs=epochs, steps_per_epoch=steps)


def make_case(store: Store, name: str, seed: int) -> StoredCase:
    rng = np.random.default_rng(seed)
    centre = [size / 2 + rng.uniform(-2, 2) for size in SHAPE]
    distance = sum((axis - c) ** 2 for axis, c in zip(np.indices(SHAPE), centre, strict=True))
    label = (distance < 20).astype(np.int8)
    image = (label * 2.0 + rng.normal(0, 0.3, SHAPE))[None].astype(np.float32)
    grid = CaseGrid(
        shape_before_crop=SHAPE,
        crop_box=tuple((0, size) for size in SHAPE),
        shape_after_crop=SHAPE,
        spacing_before_mm=(1.0, 1.0, 1.0),
        shape=SHAPE,
        spacing_mm=(1.0, 1.0, 1.0),
    )
    case = PreprocessedCase(image_CZYX=image, labels_LZYX=label[None], grid=grid)
    return store.write(name, case, digest=name, locations=sample_locations(label, LABELS))


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[StoredCase]:
    store = Store(tmp_path_factory.mktemp("store"))
    return [make_case(store, f"case_{index}", index) for index in range(3)]


def make_job(root: Path, cases: list[StoredCase], **changes: Any) -> FoldJob:
    plan = make_plan(**changes)
    return FoldJob(
        run=RunFolder(root),
        plan=plan,
        configuration=plan.configuration("3d_fullres"),
        fold=0,
        train_cases=cases[:2],
        validation_cases=cases[2:],
        compute=COMPUTE,
    )


def weights(job: FoldJob) -> dict[str, torch.Tensor]:
    return load_file(job.folder.weights_last)


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, cases: list[StoredCase]) -> FoldJob:
    torch.set_num_threads(1)
    job = make_job(tmp_path_factory.mktemp("whole"), cases)
    train_fold(job)
    return job


def test_an_epoch_leaves_its_line_and_the_weights(whole: FoldJob) -> None:
    rows = read_progress(whole.folder)
    assert [row["epoch"] for row in rows] == [0, 1]
    training = fit_momentum(whole.configuration.training)
    assert training.momentum == 0.9, "six steps are few"
    assert [row["learning_rate"] for row in rows] == [learning_rate(training, epoch) for epoch in range(2)]
    for row in rows:
        assert np.isfinite(row["train_loss"])
        assert len(row["dice"]) == 1
    assert whole.folder.weights_best.exists()
    assert set(weights(whole)) == set(load_file(whole.folder.weights_best))


@pytest.mark.parametrize("stop_after", [1, 2, 4])
def test_stopped_after_any_step_it_goes_on_bit_for_bit(
    stop_after: int, whole: FoldJob, cases: list[StoredCase], tmp_path: Path
) -> None:
    job = make_job(tmp_path, cases)
    first = FoldTrainer(job)
    step, done = first.step, []

    def counted(batch: Any) -> float | None:
        done.append(1)
        if len(done) == stop_after:
            signal.raise_signal(signal.SIGINT)
        return step(batch)

    first.step = counted  # type: ignore[method-assign]
    with pytest.raises(Interrupted):
        first.run()
    train_fold(job)
    assert same(weights(job), weights(whole))
    kept = [{key: row[key] for key in ("epoch", "train_loss", "dice", "ema_dice")} for row in read_progress(job.folder)]
    wanted = [
        {key: row[key] for key in ("epoch", "train_loss", "dice", "ema_dice")} for row in read_progress(whole.folder)
    ]
    assert kept == wanted


def test_another_seed_gives_other_weights(whole: FoldJob, cases: list[StoredCase], tmp_path: Path) -> None:
    job = make_job(tmp_path, cases)
    plan = set_training(job.plan, seed=1)
    job = dataclasses.replace(job, plan=plan, configuration=plan.configuration("3d_fullres"))
    train_fold(job)
    assert not same(weights(job), weights(whole))


def test_a_batch_that_is_not_finite_is_skipped_and_named(
    cases: list[StoredCase], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job = make_job(tmp_path, cases)
    trainer = FoldTrainer(job)
    batches = trainer.batches

    def poisoned(*arguments: Any) -> Any:
        for index, batch in enumerate(batches(*arguments)):
            if index == 1:
                batch.image[0, 0, 0, 0, 0] = float("nan")
            yield batch

    monkeypatch.setattr(trainer, "batches", poisoned)
    trainer.run()
    printed = capsys.readouterr().err
    assert "loss not finite in epoch 1; step 2 skipped (case_" in printed
    assert all(torch.isfinite(value).all() for value in weights(job).values())
    events = [json.loads(line)["event"] for line in job.run.log_file.read_text().splitlines()]
    assert events.count("non-finite-loss") == 2
    assert read_progress(job.folder)[-1]["skipped_steps"] == 2


def test_a_loss_that_stays_not_finite_ends_with_a_message(
    cases: list[StoredCase], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "SKIPPED_LIMIT", 4)
    trainer = FoldTrainer(make_job(tmp_path, cases, epochs=4))
    monkeypatch.setattr(trainer, "step", lambda batch: None)
    with pytest.raises(
        AutosegError, match=r"5 steps had a loss that is not finite, the last with case_.*learning rate"
    ):
        trainer.run()
    assert trainer.compute.precision == "fp32"


def test_the_wait_for_data_is_the_part_of_the_steps_time_that_was_spent_on_it(
    cases: list[StoredCase], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    trainer = FoldTrainer(make_job(tmp_path, cases, epochs=1, steps=2), lambda: now[0])
    prepare, step, validate = trainer.batches, trainer.step, trainer.validate

    def takes(seconds: float, work: Any) -> Any:
        now[0] += seconds
        return work

    def slowly(*arguments: Any) -> Any:
        for batch in prepare(*arguments):
            yield takes(3.0, batch)

    monkeypatch.setattr(trainer, "batches", slowly)
    monkeypatch.setattr(trainer, "step", lambda batch: takes(1.0, step(batch)))
    monkeypatch.setattr(trainer, "validate", lambda epoch: takes(100.0, validate(epoch)))
    trainer.run()
    (row,) = read_progress(trainer.job.folder)
    assert row["data_wait_fraction"] == pytest.approx(0.75)
    assert row["step_seconds"] == pytest.approx(4.0)
    assert row["saving_seconds"] == 0.0  # nothing was saved before the row
    assert " 75%" in epoch_line(row, 1)


def test_validation_patches_without_foreground_are_stated_as_absent() -> None:
    row = {
        "epoch": 0,
        "learning_rate": 0.01,
        "train_loss": 0.5,
        "validation_loss": None,
        "mean_dice": None,
        "ema_dice": None,
        "step_seconds": 0.1,
        "data_wait_fraction": 0.0,
        "seconds": 1.0,
    }
    line = epoch_line(row, 2)
    assert "nan" not in line.lower()
    assert line.count("–") == 3
    assert len(line.split()) == len(HEADER.replace("done at", "end").split())
