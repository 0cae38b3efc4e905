"""Equal seeds give equal weights on a CPU, bit for bit: whatever prepares the batches, on however many processes."""

import os
from collections.abc import Callable

import pytest
import torch
from safetensors.torch import load_file

from autoseg.run_folder import RunFolder, RunRecord, records_from
from autoseg.training import augmentation_batchgenerators
from autoseg.training.folds import fold_job
from autoseg.training.trainer import FoldTrainer, train_fold
from planners.plan import Augmentation

MakeRun = Callable[..., RunFolder]


def trained(make_run: MakeRun, folder: str, **fields: object) -> dict[str, torch.Tensor]:
    run = make_run(**{"epochs": 1, "steps_per_epoch": 4, "validation_steps": 1, "folder": folder, **fields})
    job = fold_job(run, "tiny", 0)
    train_fold(job)
    return load_file(job.folder.weights_last)


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def with_workers(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, count: int) -> dict[str, torch.Tensor]:
    monkeypatch.setattr(augmentation_batchgenerators, "MAX_WORKERS", count)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    return trained(make_run, f"workers{count}", augmentation=Augmentation(backend="batchgenerators"))


@pytest.mark.slow
def test_any_number_of_worker_processes_gives_equal_weights(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = with_workers(make_run, monkeypatch, 0)
    for count in (1, 2, 4):
        assert_same(alone, with_workers(make_run, monkeypatch, count))


def test_batches_made_beside_the_step_give_the_weights_of_batches_made_in_turn(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside = trained(make_run, "beside")
    monkeypatch.setattr(
        FoldTrainer, "batches", lambda self, source, epoch, steps: (source.batch(epoch, step, "cpu") for step in steps)
    )
    assert_same(beside, trained(make_run, "in_turn"))


def with_threads(make_run: MakeRun, count: int) -> dict[str, torch.Tensor]:
    run = make_run(f"threads{count}", epochs=1, steps_per_epoch=2, validation_steps=1)
    chosen = records_from(RunRecord, run.run_file).compute
    run.change_record(compute={**(chosen or {}), "threads": count})
    job = fold_job(run, "tiny", 0)
    assert job.compute.threads == count, "a restart takes the threads of the first start"
    train_fold(job)
    return load_file(job.folder.weights_last)


def test_another_number_of_threads_gives_equal_weights_but_for_rounding(make_run: MakeRun) -> None:
    """Threads add up in another order; so their number is kept in ``run.json``, and restarts take it from there."""
    first, second = with_threads(make_run, 1), with_threads(make_run, 2)
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=1e-3, atol=1e-4)
