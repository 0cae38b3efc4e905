"""Measuring a training step on the CPU; what follows from measured numbers is tested with made-up ones, as of a GPU."""

import dataclasses
from pathlib import Path

import pytest
import torch

from autoseg.compute import Compute
from autoseg.options import RunOptions
from autoseg.planning import decide
from autoseg.run_folder import RunFolder, RunRecord
from autoseg.training import measure
from autoseg.training.measure import MeasuredStep, fit_to_device, largest_sum, measure_plan, measure_step, word_measured
from planners import PLANNERS, Channel, Fingerprint, LabelClass, Labels, MemoryBudget, Plan, PlanError
from planners.memory import record_step
from planners.tape import INTEGER

COMPUTE = Compute(device="cpu", precision="fp32", channels_last=False, threads=1)
FACTS = Fingerprint(
    dataset="balls",
    channels=(Channel(name="MRI"),),
    labels=Labels(classes=(LabelClass(name="background", value=0), LabelClass(name="ball", value=1))),
    num_cases=400,
    spacings_mm=((1.0, 1.0, 1.0),),
    shapes=((16, 24, 16),),
)
NAME = "3d_fullres"


@pytest.fixture
def plan() -> Plan:
    return PLANNERS["default"](FACTS, MemoryBudget())


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    run = RunFolder(tmp_path / "run")
    run.write(RunRecord(name="balls", dataset="nowhere", cases=(), started="now"), run.run_file)
    return run


def with_batch(plan: Plan, batch_size: int) -> Plan:
    return measure.with_batch_size(plan, NAME, batch_size)


def test_the_profile_gives_the_largest_sum_of_what_lives() -> None:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        first = torch.empty(10_000, dtype=torch.uint8)
        second = torch.empty(30_000, dtype=torch.uint8)
        del first
        third = torch.empty(5_000, dtype=torch.uint8)
        del second, third
    assert largest_sum(profile) == 40_000


@pytest.mark.parametrize("planner", ["default", "resenc-m"])
def test_a_measured_step_is_near_the_predicted_one(planner: str) -> None:
    plan = with_batch(PLANNERS[planner](FACTS, MemoryBudget()), 2)
    item = plan.configuration(NAME)
    found = measure_step(plan, NAME, COMPUTE)
    assert found.reserved_bytes == found.peak_bytes > found.saved_bytes > 0
    assert found.seconds > 0
    assert measure.predict(plan, NAME, COMPUTE) == pytest.approx(found.peak_bytes, rel=0.15)
    tape = record_step(item.architecture, item.patch_size, 2, 1, 2, half=False)
    weighted = [output for output in item.architecture.outputs if output.loss_weight]
    voxels = 2 * 16 * 24 * 16
    classes = sum(INTEGER * voxels // (output.stride[0] * output.stride[1] * output.stride[2]) for output in weighted)
    assert found.saved_bytes == pytest.approx(tape.kept_bytes() + classes, rel=0.05)


def test_measuring_leaves_nothing_behind(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    measure_step(with_batch(plan, 1), "2d", COMPUTE)
    assert list(tmp_path.iterdir()) == []


class Device:
    """A device of so many bytes, on which every voxel of a batch takes the same; it can be too full to say how much."""

    def __init__(self, bytes_per_voxel: int, *, breaks_above: float = float("inf")) -> None:
        self.bytes_per_voxel, self.breaks_above = bytes_per_voxel, breaks_above
        self.tried: list[tuple[int, tuple[int, ...]]] = []

    def __call__(self, plan: Plan, name: str, compute: Compute) -> MeasuredStep:
        item = plan.configuration(name)
        self.tried.append((item.batch_size, item.patch_size))
        voxels = item.batch_size
        for edge in item.patch_size:
            voxels *= edge
        if voxels * self.bytes_per_voxel > self.breaks_above:
            raise torch.OutOfMemoryError("simulated")
        size = 1000 + voxels * self.bytes_per_voxel
        return MeasuredStep(peak_bytes=size, reserved_bytes=size, saved_bytes=size // 2, seconds=0.5)


def test_without_cuda_nothing_is_measured(run: RunFolder, plan: Plan) -> None:
    assert fit_to_device(run, plan, [NAME], COMPUTE) is plan
    assert not run.plan_file.exists()


def test_a_step_that_fits_changes_nothing(run: RunFolder, plan: Plan) -> None:
    device = Device(1)
    assert fit_to_device(run, plan, [NAME, "2d"], COMPUTE, device) is plan
    assert len(device.tried) == 2


@pytest.mark.parametrize("breaks", [False, True])
def test_it_steps_down_until_a_tenth_of_the_budget_is_left(
    breaks: bool, run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = decide(run, FACTS, RunOptions(budget_bytes=8 * 10**9, device="cpu"))
    patch = 16 * 24 * 16
    per_voxel = 9 * 10**8 // patch  # eight patches fit 0.9 of the budget of 8 GB less some bytes
    device = Device(per_voxel, breaks_above=8.1e9 if breaks else float("inf"))
    item = plan.configuration(NAME)
    assert item.batch_size > 8
    fitted = fit_to_device(run, plan, [NAME], COMPUTE, device)
    assert fitted.configuration(NAME).batch_size <= 8
    assert fitted.configuration(NAME).patch_size == item.patch_size
    assert [batch for batch, _ in device.tried] == sorted({batch for batch, _ in device.tried}, reverse=True)
    assert 1000 + device.tried[-1][0] * patch * per_voxel <= 7.2e9 < 1000 + device.tried[-2][0] * patch * per_voxel
    assert run.read(Plan, run.plan_file) == fitted
    printed = capsys.readouterr().err
    assert ("the device ran out of memory" in printed) == breaks
    assert "more than 90% of 8.0 GB" in printed or breaks
    assert f"batch size {device.tried[-2][0]} → {device.tried[-1][0]} from here on" in printed


def test_the_next_start_does_not_take_it_for_an_edit_by_hand(
    run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    options = RunOptions(budget_bytes=8 * 10**9, device="cpu")
    plan = decide(run, FACTS, options)
    fitted = fit_to_device(run, plan, [NAME], COMPUTE, Device(9 * 10**8 // (16 * 24 * 16)))
    assert fitted != plan
    capsys.readouterr()
    assert decide(run, FACTS, options).configurations == fitted.configurations
    assert "edited by hand" not in capsys.readouterr().err


def test_it_ends_with_the_least_that_was_tried(run: RunFolder, plan: Plan) -> None:
    plan = with_batch(plan, 3)
    run.write(plan, run.plan_file)
    with pytest.raises(PlanError, match=r"3d_fullres does not fit: .* even with one patch of \d+ × \d+ × \d+"):
        fit_to_device(run, plan, [NAME], COMPUTE, Device(10**12))


def test_a_configuration_that_was_begun_is_left(run: RunFolder, plan: Plan) -> None:
    run.write(plan, run.fold(NAME, 0).record)  # any record
    device = Device(10**12)
    assert fit_to_device(run, plan, [NAME], COMPUTE, device) is plan
    assert device.tried == []


def test_on_a_cpu_large_batches_are_extended_from_two(plan: Plan) -> None:
    device = Device(100)
    plan = with_batch(plan, 30)
    (row,) = measure_plan(plan, COMPUTE, [NAME], device)
    assert [batch for batch, _ in device.tried] == [1, 2]
    assert row.measured_bytes == 1000 + 30 * 16 * 24 * 16 * 100
    assert "extended linearly to batch size 30 from 1 and 2" in row.note


def test_the_table_stands_in_columns(plan: Plan) -> None:
    small = with_batch(plan, 2)
    rows = (
        *measure_plan(small, COMPUTE, [NAME], Device(100)),
        *measure_plan(small, COMPUTE, [NAME], Device(100, breaks_above=1)),
    )
    rows = (dataclasses.replace(rows[0], predicted_bytes=2 * (rows[0].measured_bytes or 0)), rows[1])
    text = word_measured(rows, COMPUTE)
    first, header, measured, failed = text.splitlines()
    assert first == "memory of a training step on cpu, fp32"
    assert header.split() == ["predicted", "measured", "difference", "s/step"]
    assert measured.split() == ["3d_fullres", "2", "MB", "1", "MB", "+100%", "0.50"]
    assert "–" in failed
    assert "out of memory" in failed
    assert header.index("measured") + len("measured") == measured.index("1 MB") + len("1 MB")
