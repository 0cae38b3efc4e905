"""A limit of memory, of the process or its container: it stays below, or says what was needed, and nothing is lost."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from chaos_driver import broken, finish, like, run_command
from chaos_limits import MEMORY_OF, TIGHT, copy_run, differing, is_one_message
from chaos_table import Row

from autoseg import room
from autoseg.data import parallel
from autoseg.data.image import Geometry
from autoseg.data.io import write_segmentation

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of address space are Linux's")

ROW = Row(
    key="3a",
    fault="memory limit",
    injected="RLIMIT_AS too small to start, and tightened in the middle of preprocessing, training and prediction; the "
    "limit of a control group (its files, version 1 and 2)",
    promise="it stays below, or ends with exit code 2 and one message: what was asked for, what is allowed, what to "
    "do; nothing saved is lost and the same command goes on with more memory; a container's limit is an error, no kill",
)
GREEDY = 256  # samples of a batch, so that a step takes far more than the 24 MB that are left
LEFT = 24 * 2**20
ENOUGH_FOR_SMALL = 230 * 2**20
"""Four fifths of it hold a tiny image by our estimate (174 MB); the large one does not fit, whole or in slabs."""
LIBRARIES = "import SimpleITK"
"""Statement: what a prediction loads when it opens the first image takes its address space before the limit is set."""


def test_too_little_to_start(reference: Path, tiny_dataset: Path, tmp_path: Path, record: Callable[..., None]) -> None:
    survived, sizes = 0, (250, 450)
    for megabytes in sizes:
        arguments = [
            "predict",
            str(reference),
            str(tiny_dataset / "imagesTs"),
            str(tmp_path / "out"),
            "--device",
            "cpu",
        ]
        code, said = finish(arguments, tmp_path / "said", before=MEMORY_OF.format(megabytes * 2**20))
        good = code == 2 and "main memory ran out" in said and f"{megabytes * 2**20 / 1e9:.1f} GB" in said
        survived += good and is_one_message(said)
        print(said)
    record(ROW, trials=len(sizes), survived=survived, note="too small to start: said before anything is done")


def test_training_runs_out_and_goes_on(reference: Path, tmp_path: Path, record: Callable[..., None]) -> None:
    run = copy_run(reference, tmp_path / "run")
    plan = json.loads((run / "plan.json").read_text())
    (item,) = (item for item in plan["configurations"] if item["name"] == "3d_fullres")
    item["batch_size"] = GREEDY
    item["training"] |= {"epochs": 1, "steps_per_epoch": 1, "validation_steps": 1}
    (run / "plan.json").write_text(json.dumps(plan))
    kept = (run / "folds/3d_fullres/fold_0/weights_last.safetensors").read_bytes()
    tight = TIGHT.format(module="autoseg.training.trainer", name="FoldTrainer.step", more=LEFT)
    arguments = ["train", str(run), "3d_fullres", "1"]
    code, said = finish(arguments, tmp_path / "said", before=tight)
    print(said)
    good = code == 2 and "main memory ran out" in said and is_one_message(said) and not broken(run)
    good = good and (run / "folds/3d_fullres/fold_0/weights_last.safetensors").read_bytes() == kept
    again, told = finish(arguments, tmp_path / "said")
    print(told)
    record(
        ROW, trials=1, survived=int(good and again == 0), note="training: the same command goes on without the limit"
    )


def make_group(folder: Path, total: int, used: int, *, version: int) -> None:
    """Write the files of a control group's memory controller."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ("memory.max", "memory.current") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    for name, value in zip(names, (total, used), strict=True):
        (folder / name).write_text(f"{value}\n")
    (folder / "memory.stat").write_text("inactive_file 0\ntotal_inactive_file 0\n")


@pytest.mark.parametrize("version", [1, 2])
def test_limits_of_groups_above_count(
    version: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record: Callable[..., None]
) -> None:
    """A batch system sets the limit on the job, and starts the program in a group below it."""
    line = "4:memory:/job_7/step_0/task" if version == 1 else "0::/job_7/step_0/task"
    root = tmp_path / "memory" if version == 1 else tmp_path
    own = Path("/proc/self/cgroup")
    real = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda self, *a, **k: line if self == own else real(self, *a, **k))
    monkeypatch.setattr(room, "CONTROL_GROUPS", tmp_path)
    make_group(root / "job_7" / "step_0" / "task", 2**63 - 4096, 0, version=1)  # version 1 says "no limit" so
    make_group(root / "job_7", 3_000_000, 1_000_000, version=version)
    found = parallel.host_memory_bytes()
    record(ROW, trials=1, survived=int(found == int(parallel.HOST_FRACTION * 2_000_000)), note="groups of v1 and v2")


def test_the_process_s_own_limit_counts() -> None:
    code = "from autoseg.data.parallel import host_memory_bytes; print(host_memory_bytes())"
    code = f"{MEMORY_OF.format(2 * 10**9)}\n{code}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 10**9 < int(done.stdout) < 0.8 * 2e9


def test_a_container_s_limit_is_an_error_and_no_kill(tmp_path: Path, record: Callable[..., None]) -> None:
    make_group(tmp_path, 300 * 2**20, 0, version=2)
    code = f"""
import numpy as np
from pathlib import Path
from autoseg import room
room.CONTROL_GROUPS = Path({str(tmp_path)!r})
room.bound_to_group()
held = []
try:
    for _ in range(100):
        held.append(np.ones(2**24, np.uint8))
except MemoryError as fault:
    count = len(held)
    held.clear()
    print(count, room.told(fault))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    print(done.stdout, done.stderr)
    count, _, text = done.stdout.partition(" ")
    stack = room.THREAD_BYTES // 2**24
    good = done.returncode == 0 and 300 // 16 - 1 <= int(count or 0) <= 300 // 16 + stack + 1
    record(ROW, trials=1, survived=int(good and "main memory ran out" in text), note="a container's limit: an error")


@pytest.mark.slow
def test_preprocessing_of_large_cases(tiny_dataset: Path, tmp_path: Path, record: Callable[..., None]) -> None:
    """Cases beside what is left: each is done, or named with what it takes; the same command then does them all."""
    rng = np.random.default_rng(0)
    label = np.zeros((48, 160, 160), np.uint8)
    label[10:30, 40:90, 40:90] = 1
    label[15:20, 50:60, 50:60] = 2
    data = tmp_path / "data"
    for number in range(5):
        image = np.round(200.0 * label + rng.normal(300, 60, label.shape)).astype(np.int16)
        write_segmentation(data / "imagesTr" / f"big_{number}_0000.nii.gz", image, Geometry(spacing_mm=(2.0, 1.0, 1.0)))
        write_segmentation(data / "labelsTr" / f"big_{number}.nii.gz", label, Geometry(spacing_mm=(2.0, 1.0, 1.0)))
    content = json.loads((tiny_dataset / "dataset.json").read_text())
    (data / "dataset.json").write_text(json.dumps(content))
    arguments = [*run_command(data, tmp_path / "run"), "--until", "preprocess"]
    tight = TIGHT.format(module="autoseg.preprocessing.populate", name="populate_store", more=LEFT)
    code, said = finish(arguments, tmp_path / "said", before=tight)
    print(said)
    good = code in (0, 2) and is_one_message(said) and (code == 0 or "main memory" in said)
    again, told = finish(arguments, tmp_path / "said")
    print(told)
    record(ROW, trials=1, survived=int(good and again == 0), note="preprocessing: done below the limit, or said")


@pytest.mark.slow
def test_prediction_beside_a_large_image(
    reference: Path, tiny_dataset: Path, tmp_path: Path, record: Callable[..., None]
) -> None:
    """With hardly any memory it does not begin; with some, the large image is named or done, and the small are done."""
    images, small = tmp_path / "images", sorted((tiny_dataset / "imagesTs").iterdir())
    large = np.random.default_rng(0).normal(300, 60, (96, 160, 160)).astype(np.int16)
    write_segmentation(images / "a_large_0000.nii.gz", large, Geometry(spacing_mm=(2.0, 1.0, 1.0)))
    for path in small:
        (images / path.name).write_bytes(path.read_bytes())
    arguments = ["predict", str(reference), str(images), str(tmp_path / "out"), "--device", "cpu"]
    survived = 0
    for left in (LEFT, ENOUGH_FOR_SMALL):
        tight = LIBRARIES + TIGHT.format(module="autoseg.compute", name="prepare", more=left)
        code, said = finish(arguments, tmp_path / "said", before=tight)
        print(said)
        done = [(tmp_path / "out" / path.name.replace("_0000", "")).exists() for path in small]
        if left == LEFT:
            kept = code == 2 and "main memory ran out while beginning" in said and not any(done)
        else:
            kept = all(done) and (code == 0 or (code == 2 and "a_large" in said and "main memory" in said))
        survived += int(kept and is_one_message(said))
    record(ROW, trials=2, survived=survived, note="prediction: the large image is named, the others are done")


@pytest.mark.slow
def test_the_same_result_after_more_memory(
    reference: Path, tiny_dataset: Path, tmp_path: Path, record: Callable[..., None]
) -> None:
    run = tmp_path / "run"
    like(reference, run)
    tight = TIGHT.format(module="autoseg.training.trainer", name="FoldTrainer.step", more=0)
    code, said = finish(run_command(tiny_dataset, run), tmp_path / "said", before=tight)
    print(said)
    good = code in (0, 2) and is_one_message(said) and not broken(run)
    again, told = finish(run_command(tiny_dataset, run), tmp_path / "said")
    print(told)
    lost = differing(run, reference)
    record(ROW, trials=1, survived=int(good and again == 0), lost=len(lost), note="same weights afterwards")
