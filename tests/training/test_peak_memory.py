"""What training on a CPU is predicted to take of main memory, beside what the process takes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from autoseg.data.demo import make_demo_dataset
from autoseg.run_folder import RunFolder
from planners.host_memory import training_bytes
from planners.plan import Plan

WITHIN = 1.25
"""Factor by which the prediction may be off, up or down: what is refused lies below it (``host_memory.SURE``)."""

MEASURE = """
import sys
from autoseg import cli
try:
    code = cli.main(sys.argv[2:])
except SystemExit as end:
    code = end.code
lines = open("/proc/self/status").read().splitlines()
peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
open(sys.argv[1], "w").write(str(peak * 1024))
sys.exit(code)
"""

SETTINGS = {
    "3d_fullres": ("3d_fullres.patch_size=[48,64,64]", "3d_fullres.batch_size=3"),
    "2d": ("2d.patch_size=[192,192]", "2d.batch_size=14"),
}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")
@pytest.mark.parametrize("name", list(SETTINGS))
def test_training_takes_what_is_predicted(name: str, tmp_path: Path) -> None:
    """The whole command: check, preprocessing, three epochs with validation and saving, all in one process."""
    dataset, run = make_demo_dataset(tmp_path / "demo", num_cases=5), RunFolder(tmp_path / "run")
    settings = [word for setting in SETTINGS[name] for word in ("--set", setting)]
    length = ["--epochs", "3", "--steps-per-epoch", "3", "--folds", "0", "--until", "train"]
    command = ["run", str(dataset), "--out", str(run.root), "--device", "cpu", "--configurations", name]
    peak = tmp_path / "peak"
    script = [sys.executable, "-c", MEASURE, str(peak)]
    done = subprocess.run([*script, *command, *settings, *length], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    plan = run.read(Plan, run.plan_file)
    predicted, measured = training_bytes(plan.configuration(name)), int(peak.read_text())
    print(json.dumps({"predicted": predicted, "measured": measured}))
    assert predicted / WITHIN < measured < predicted * WITHIN
    assert measured > 8 * 10**8  # else it is the program that is measured, not the training
