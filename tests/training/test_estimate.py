"""What is said of the finish time, and the speeds it comes from."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from autoseg.inference.sliding_window import predict_logits
from autoseg.networks import build_network
from autoseg.run_folder import RunFolder, RunRecord
from autoseg.training import estimate, outlook
from autoseg.training.fold_record import FoldRecord
from autoseg.training.fold_state import append_progress
from autoseg.training.time_limit import Pace
from autoseg.training.trainer import FoldTrainer
from planners.plan import Configuration, Input, Plan

MakeRun = Callable[..., RunFolder]


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_pace_is_the_mean_of_steps_that_are_warm(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, made = Clock(), []

    def step(self: FoldTrainer, batch: Any) -> float:
        made.append(batch)
        clock.now += 20.0 if len(made) <= 3 else 2.0
        return 0.5

    def validate(self: FoldTrainer, epoch: int) -> tuple[float, list[float]]:
        clock.now += 3.0 * self.training.validation_steps
        return 0.5, [0.5]

    def predict(networks: Any, image: torch.Tensor, *_: Any) -> torch.Tensor:
        clock.now += 16.0
        return image

    def segment(*_: Any) -> None:
        clock.now += 960.0

    monkeypatch.setattr(estimate, "LONG_S", 1e9)
    monkeypatch.setattr(FoldTrainer, "step", step)
    monkeypatch.setattr(FoldTrainer, "validate", validate)
    monkeypatch.setattr(estimate, "predict_logits", predict)
    monkeypatch.setattr(estimate, "segment", segment)
    run = make_run()
    job = estimate.timing_job(run, "tiny", 0)
    assert estimate.measure_pace(job, clock) == Pace(step=2.0, validation_step=3.0, window=2.0, voxel=1.0)
    assert not job.folder.root.exists(), "timing leaves nothing behind"
    monkeypatch.setattr(estimate, "LONG_S", 30.0)
    made.clear()
    assert estimate.measure_pace(job, clock).step == 20.0, "where steps are long, two tell enough"
    assert len(made) == 2


def test_a_real_pace_is_above_zero(make_run: MakeRun) -> None:
    pace = estimate.measure_pace(estimate.timing_job(make_run(), "tiny", 0))
    assert min(dataclasses.astuple(pace)) > 0


def test_the_second_stage_of_a_cascade_is_timed_without_what_does_not_exist_yet(make_run: MakeRun) -> None:
    run = make_run()
    plan = run.read(Plan, run.plan_file)
    first = plan.configurations[0]
    inputs = (Input(channels=1), Input(kind="previous", name="tiny", channels=2))
    second = dataclasses.replace(first, name="second", inputs=inputs, previous="tiny")
    run.write(dataclasses.replace(plan, configurations=(first, second)), run.plan_file)
    job = estimate.timing_job(run, "second", 0)
    assert job.configuration.num_input_channels == 1
    FoldTrainer(job).step(FoldTrainer(job).source(job.train_cases, augment=True).batch(0, 0))


@pytest.mark.parametrize(("patch", "shape"), [((8, 8, 8), (10, 17, 8)), ((8, 8), (3, 17, 8))])
def test_passes_are_counted_as_prediction_makes_them(
    patch: tuple[int, ...], shape: tuple[int, ...], make_configuration: Callable[..., Configuration]
) -> None:
    configuration = make_configuration(patch)
    network = build_network(configuration.architecture, 1, 3)
    seen = []
    network.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    compute = outlook_compute()
    predict_logits([network], torch.from_numpy(np.zeros((1, *shape), np.float32)), configuration, compute)
    assert outlook.count_passes(shape, configuration) == sum(seen)


def outlook_compute() -> Any:
    from autoseg.compute import Compute

    return Compute(device="cpu", precision="fp32", channels_last=False, threads=1, reasons=())


def row(epoch: int, seconds: float = 27.0) -> dict[str, Any]:
    return {"epoch": epoch, "seconds": seconds, "validation_seconds": 2.0}


def test_few_steps_are_not_timed_and_the_first_epoch_tells(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(folds=(0, 1), epochs=10, steps_per_epoch=25, validation_steps=5)
    monkeypatch.setattr(estimate, "measure_pace", lambda job: pytest.fail("timed"))
    estimate.say_finish_time(run, [("tiny", 0), ("tiny", 1)])
    assert capsys.readouterr().err == ""
    outlook.say_outlook(run)
    assert capsys.readouterr().err == "", "nothing is known yet"
    run.write(FoldRecord(configuration="", split="", epochs=10), run.fold("tiny", 0).record)
    append_progress(run.fold("tiny", 0), row(0))
    outlook.say_outlook(run)
    # 9 + 10 epochs of 27 s; 2 validations of 2 cases with 4 windows × 8 forms at 0.4 s / 2 patches
    seconds = 19 * 27 + 2 * 2 * 32 * 0.2
    assert seconds == pytest.approx(538.6)
    assert "all 2 trainings, validation included: 8 min 58 s more, done at about" in capsys.readouterr().err


def test_configurations_without_a_finished_epoch_are_named(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(names=("tiny", "other"), epochs=2, steps_per_epoch=25, validation_steps=5)
    append_progress(run.fold("tiny", 0), row(0))
    outlook.say_outlook(run)
    assert capsys.readouterr().err.rstrip().endswith("; then other, not timed yet")


def test_many_steps_are_timed_and_a_time_that_fits_a_day_is_named(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(folds=(0, 1))
    pace = Pace(step=0.4, validation_step=0.0, window=0.0, voxel=0.0)
    monkeypatch.setattr(estimate, "measure_pace", lambda job: pace)
    estimate.say_finish_time(run, [("tiny", 0), ("tiny", 1)])
    told = capsys.readouterr().err
    assert "2 trainings, validation included: 55 h 33 min, done at about" in told
    assert "--time-budget 1d would fit one (about --epochs 432)" in told


def test_gpus_work_side_by_side(make_run: MakeRun) -> None:
    run = make_run()
    plan, record = run.read(Plan, run.plan_file), run.read(RunRecord, run.run_file)
    four = dataclasses.replace(plan, budget=dataclasses.replace(plan.budget, num_devices=4))
    assert outlook.trainings_at_once(four, record, 5) == 1, "on the CPU one after the other"
    cuda = dataclasses.replace(record, compute={**(record.compute or {}), "device": "cuda"})
    assert outlook.trainings_at_once(four, cuda, 5) == 4
    assert outlook.trainings_at_once(four, cuda, 3) == 3
