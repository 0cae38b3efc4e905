"""Memory is a promise: under a limit set on the process the whole way fails, and slabs go through."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from autoseg.inference.device_memory import batch_voxels_within, memory_fraction, sums_fit
from autoseg.networks import build_network, save_weights
from autoseg.run_folder import RunFolder
from planners.fingerprint import Channel
from planners.labels import LabelClass, Labels
from planners.plan import MemoryBudget, Plan

NUM_CLASSES = 24
MEGABYTE = 2**20


def test_gpu_memory_is_shared_within_its_limit():
    assert sums_fit(49, free=100)
    assert not sums_fit(50, free=100)
    assert not sums_fit(49, free=100, limit=60)
    assert sums_fit(29, free=100, limit=60)
    assert batch_voxels_within(10**12, usual=2**23) == 2**23
    small = batch_voxels_within(10**9, usual=2**23)
    assert 1 < small < 2**23
    assert batch_voxels_within(1, usual=2**23) == 1
    assert memory_fraction(4, 16) == 0.25
    assert memory_fraction(32, 16) == 1.0


@pytest.mark.slow
def test_a_limit_on_the_process(make_configuration, tmp_path):
    configuration = make_configuration((16, 32, 32), num_outputs=NUM_CLASSES, mirror_axes=())
    plan = Plan(
        dataset="test",
        planner="default",
        budget=MemoryBudget(),
        axis_order=(0, 1, 2),
        channels=(Channel(name="c0"),),
        labels=Labels(classes=tuple(LabelClass(name=str(index), value=index) for index in range(NUM_CLASSES))),
        configurations=(configuration,),
    )
    run = RunFolder(tmp_path / "run")
    run.write(plan, run.plan_file)
    network = build_network(configuration.architecture, 1, NUM_CLASSES, seed=0)
    save_weights(run.fold(configuration.name, 0).weights_last, network, {"step": "0"})
    array = np.random.default_rng(0).integers(0, 255, (320, 96, 96), dtype=np.uint8)
    np.save(tmp_path / "image.npy", array)

    whole, output = _predict(tmp_path, "whole.npy", 0)
    assert whole is not None, output
    estimate, peak = _numbers(output)
    assert peak < estimate["whole"]
    limit = estimate["slabs"] / 0.8 / MEGABYTE + 8
    assert limit * MEGABYTE < 0.7 * peak, "else the test shows nothing"
    failed, output = _predict(tmp_path, "none.npy", limit, "whole")
    assert failed is None, "the limit does not bind"
    assert "allocate" in output
    slabs, output = _predict(tmp_path, "slabs.npy", limit)
    assert slabs is not None, output
    assert "in slabs" in output
    estimate, peak = _numbers(output)
    assert peak < estimate["slabs"]
    assert (slabs != whole).mean() < 1e-3


def _predict(folder: Path, result: str, limit_mb: float, *options: str) -> tuple[np.ndarray | None, str]:
    worker = Path(__file__).with_name("memory_worker.py")
    places = [str(folder / name) for name in ("run", "image.npy", result)]
    command = [sys.executable, str(worker), *places, str(limit_mb), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (np.load(folder / result) if done.returncode == 0 else None), done.stdout + done.stderr


def _numbers(output: str) -> tuple[dict[str, int], int]:
    words = output.split()
    found = {name: int(words[words.index(name) + 1]) for name in ("whole", "slabs", "peak") if name in words}
    return found, found.pop("peak")
