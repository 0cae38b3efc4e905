"""Models of every kind that nnU-Net v2 trains segment here as they do in nnU-Net itself (needs its environment)."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from autoseg.interop.nnunet_plan import read_plan

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "nnunet_models.py"
ENVIRONMENT = Path(
    os.environ.get("AUTOSEG_TEST_NNUNET", Path.home() / ".cache" / "autoseg-benchmarks" / "nnunet-2.8.1")
)


@pytest.fixture(scope="module")
def environment() -> Path:
    """nnU-Net's virtual environment; skips where it is absent."""
    if not (ENVIRONMENT / "bin" / "python").exists():
        pytest.skip(
            f"needs nnU-Net v2.8.1: {ENVIRONMENT} does not exist (benchmarks/nnunet_prediction.py --setup makes it; "
            "AUTOSEG_TEST_NNUNET names another)"
        )
    return ENVIRONMENT


@pytest.fixture(scope="module")
def tiny() -> dict[str, Any]:
    """What the script that trains with nnU-Net knows of its models."""
    return runpy.run_path(str(SCRIPT.with_name("nnunet_tiny.py")))


@pytest.mark.parametrize("kind", ["2d", "3d", "resenc", "regions", "cascade", "windows"])
def test_the_plans_that_are_trained_are_understood(kind, tiny):
    plans = json.loads(json.dumps(tiny["make_plans"](kind)))
    stages = tiny["KINDS"][kind]["stages"]
    plan = read_plan(plans, tiny["make_dataset"](kind, 4), stages[-1], Path("model"))
    item = plan.configuration(stages[-1])
    assert item.architecture.dimensions == len(item.patch_size)
    assert item.architecture.family == ("residual-encoder-unet" if kind == "resenc" else "plain-unet")
    assert item.target.name == ("regions" if kind == "regions" else "semantic")
    assert (item.previous_resampling is not None) == (kind == "cascade"), "as nnU-Net predicts"
    assert [configuration.name for configuration in plan.configurations] == list(stages)


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("kind", ["2d", "resenc", "regions", "cascade", "windows"])
def test_a_model_that_nnunet_trains_segments_alike(kind, environment, data_folder, tmp_path):
    """Trains a tiny one (some minutes), predicts with both, and compares voxels and Dice."""
    words = [str(data_folder / "hippocampus"), str(tmp_path), "--kinds", kind, "--cases", "10", "--steps", "200"]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *words, "--venv", str(environment)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| holds |" in done.stdout
