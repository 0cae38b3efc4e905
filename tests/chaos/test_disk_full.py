"""No room on the disk: old files stay whole, the message says what is needed and what is free, the command goes on."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from chaos_driver import broken, finish, leftovers, like, run_command
from chaos_limits import FILES_OF, can_mount, copy_run, differing, finish_mounted, is_one_message
from chaos_table import Row

from autoseg.errors import RoomError
from autoseg.preprocessing.store import Store
from autoseg.preprocessing.store_size import check_room, store_bytes
from autoseg.run_folder import RunFolder
from planners.fingerprint import Fingerprint
from planners.plan import Plan

ROW = Row(
    key="3b",
    fault="disk full",
    injected="RLIMIT_FSIZE that the plan, the store, the checkpoint, a prediction, the report exceeds; a file system "
    "of some kilobytes (tmpfs)",
    promise="exit code 2 and one message with the file, what it needs and what there is; no half file, old files "
    "whole; the same command goes on to the same result; the store's size is said, and refused, before it is begun",
)


def is_clean(run: Path, code: int, said: str, name: str) -> bool:
    """Tell whether it ended with the message for this file, and left nothing half."""
    print(said[-700:])
    told = name in said and "needs up to" in said and ("free in" in said or "at most" in said)
    return code == 2 and told and is_one_message(said) and not broken(run) and not leftovers(run)


def test_a_checkpoint_that_does_not_fit(
    reference: Path, tiny_dataset: Path, tmp_path: Path, record: Callable[..., None]
) -> None:
    run = copy_run(reference, tmp_path / "run", "folds", "predictions", "choice.json", "report.html", "log.jsonl")
    arguments = run_command(tiny_dataset, run)
    code, said = finish(arguments, tmp_path / "said", before=FILES_OF.format(30_000))
    good = is_clean(run, code, said, "state.safetensors")
    again, told = finish(arguments, tmp_path / "said")
    print(told[-700:])
    lost = differing(run, reference)
    record(ROW, trials=1, survived=int(good and again == 0), lost=len(lost), note="same results afterwards")


def test_an_array_of_which_only_the_end_does_not_fit(tmp_path: Path, record: Callable[..., None]) -> None:
    """``np.save`` tells of nothing where the last block alone is refused, and gives the size that should have been."""
    code = f"""
from pathlib import Path
import numpy as np
from autoseg.errors import RoomError
from autoseg.preprocessing.store import Store
{FILES_OF.format(15_000)}
try:
    Store(Path({str(tmp_path)!r}))._write_array("case", "image", np.zeros(4000, np.float32))
except RoomError as fault:
    print("told", fault)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    print(done.stdout, done.stderr)
    good = done.stdout.startswith("told") and not list(tmp_path.iterdir())
    record(ROW, trials=1, survived=int(good), note="a store's array of which only the end does not fit")


@pytest.mark.skipif(bool(can_mount()), reason=f"no file system of one's own can be mounted: {can_mount()}")
def test_every_format_of_a_prediction_is_whole_or_not_there(tmp_path: Path, record: Callable[..., None]) -> None:
    """ITK writes NIfTI to a full disk without an error: half a file would stand there under the right name."""
    code = f"""
import numpy as np
from pathlib import Path
from autoseg.data.image import Geometry
from autoseg.data.io import write_segmentation
from autoseg.errors import RoomError
label = np.random.default_rng(0).integers(0, 200, (40, 60, 60)).astype(np.uint8)
folder = Path({str(tmp_path)!r})
for ending in (".nii.gz", ".nii", ".nrrd", ".mha", ".tif"):
    write_segmentation(folder / f"old{{ending}}", label[:4, :30, :30], Geometry(spacing_mm=(2.0, 1.0, 1.0)))
    before = (folder / f"old{{ending}}").read_bytes()
    try:
        write_segmentation(folder / f"old{{ending}}", label, Geometry(spacing_mm=(2.0, 1.0, 1.0)))
    except RoomError as fault:
        print("whole" if (folder / f"old{{ending}}").read_bytes() == before else "half", fault)
    for path in folder.iterdir():
        path.unlink() if path.name in (f"old{{ending}}", "old.json") else print("left", path)
"""
    status, said = finish_mounted([f'-t tmpfs -o size=64k none "{tmp_path}"'], [], code=code)
    print(said)
    whole = sum(line.startswith("whole") and "it needs up to 0.1 MB" in line for line in said.splitlines())
    survived = whole if status == 0 and "left" not in said.replace("half", "") else 0
    record(ROW, trials=5, survived=survived, note="five formats on a full file system")


def test_what_a_store_takes_is_known_before(reference: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder(reference)
    plan, fingerprint = run.read(Plan, run.plan_file), run.read(Fingerprint, run.fingerprint_file)
    item, folder = plan.configuration("3d_fullres"), run.store("3d_fullres")
    written = sum(path.stat().st_size for path in folder.iterdir())
    cases = [path.name.removesuffix(".json") for path in folder.glob("*.json")]
    assert written <= store_bytes(plan, item, fingerprint, cases) <= 1.1 * written
    assert store_bytes(plan, item, fingerprint) == store_bytes(plan, item, fingerprint, cases)
    monkeypatch.setattr("autoseg.room.free_disk", lambda path: 1000)
    with pytest.raises(RoomError, match=r"needs about 0\.1 MB of disk, and 0\.001 MB are free in"):
        check_room(plan, item, fingerprint, cases, Store(reference / "another"))
    check_room(plan, item, fingerprint, cases, Store(folder))  # all are there already


@pytest.mark.slow
def test_one_limit_after_the_other(
    reference: Path, tiny_dataset: Path, tmp_path: Path, record: Callable[..., None]
) -> None:
    run = tmp_path / "run"
    like(reference, run)
    arguments, survived = run_command(tiny_dataset, run), 0
    limits = {12_000: "plan.json", 15_000: ".image.npy", 30_000: "state.safetensors", 50_000: "report.html"}
    for limit, name in limits.items():
        code, said = finish(arguments, tmp_path / "said", before=FILES_OF.format(limit))
        survived += is_clean(run, code, said, name)
    again, told = finish(arguments, tmp_path / "said")
    print(told[-700:])
    lost = differing(run, reference)
    survived *= again == 0
    record(ROW, trials=len(limits), survived=survived, lost=len(lost), note="plan, store, checkpoint, report")


@pytest.mark.slow
@pytest.mark.skipif(bool(can_mount()), reason=f"no file system of one's own can be mounted: {can_mount()}")
def test_a_prediction_on_a_full_disk(
    reference: Path, tiny_dataset: Path, tmp_path: Path, record: Callable[..., None]
) -> None:
    """Probabilities are written through memory, where a full disk would end the process with a bus error."""
    out = tmp_path / "out"
    out.mkdir()
    arguments = ["predict", str(reference), str(tiny_dataset / "imagesTs"), str(out), "--device", "cpu"]
    survived = 0
    for size, more in (("20k", ["--save-probabilities"]), ("4k", [])):
        code, said = finish_mounted([f'-t tmpfs -o size={size} none "{out}"'], [*arguments, *more])
        print(said[-700:])
        survived += code == 2 and "disk is full" in said and is_one_message(said)
    record(ROW, trials=2, survived=survived, note="predictions and probabilities")


@pytest.mark.slow
@pytest.mark.skipif(bool(can_mount()), reason=f"no file system of one's own can be mounted: {can_mount()}")
def test_a_whole_run_on_a_disk_that_is_too_small(
    reference: Path, tiny_dataset: Path, tmp_path: Path, record: Callable[..., None]
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    survived, sizes = 0, ("48k", "200k", "260k", "320k")
    for size in sizes:
        arguments = run_command(tiny_dataset, small / "run")
        code, said = finish_mounted([f'-t tmpfs -o size={size} none "{small}"'], arguments)
        print(size, said[-700:])
        survived += code == 2 and is_one_message(said) and "free" in said
    assert json.loads((reference / "choice.json").read_text())["configurations"]
    record(ROW, trials=len(sizes), survived=survived, note="a run on file systems of 48 to 320 kB")
