"""Places that cannot be written or are not there: the dataset, the model, the home folder, shared memory, compiler."""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from chaos_driver import TINY, finish
from chaos_limits import can_mount, copy_run, differing, finish_mounted, is_one_message
from chaos_table import Row

ROW = Row(
    key="3c",
    fault="read-only places",
    injected="a dataset, a model, a home folder on a file system that is mounted read-only; shared memory of 1 MB; no "
    "C compiler",
    promise="training and prediction work; what cannot be written (the run folder itself) is named in one message",
)
MOUNTED = pytest.mark.skipif(bool(can_mount()), reason=f"no file system of one's own can be mounted: {can_mount()}")


def same_predictions(out: Path, reference: Path) -> bool:
    """Tell whether a folder holds the reference's predictions, byte for byte."""
    wanted = sorted((reference / "predictions").glob("*.nii.gz"))
    return bool(wanted) and all((out / path.name).read_bytes() == path.read_bytes() for path in wanted)


@MOUNTED
def test_prediction_writes_nowhere_but_its_output(
    reference: Path, tiny_dataset: Path, tmp_path: Path, record: Callable[..., None]
) -> None:
    """Model, images and home read-only, hardly any shared memory: all at once."""
    home, out = tmp_path / "home", tmp_path / "out"
    home.mkdir()
    mounts = [f"ro {reference}", f"ro {tiny_dataset}", f"ro {home}", "-t tmpfs -o size=1m none /dev/shm"]
    arguments = ["predict", str(reference), str(tiny_dataset / "imagesTs"), str(out), "--device", "cpu"]
    environment = {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), "AUTOSEG_CACHE": ""}
    code, said = finish_mounted(mounts, arguments, environment)
    print(said)
    survived = 4 if code == 0 and same_predictions(out, reference) and not list(home.iterdir()) else 0
    record(ROW, trials=4, survived=survived, note="prediction, to the bit: model, images, home, /dev/shm")


@MOUNTED
def test_a_run_folder_that_cannot_be_written_is_named(
    reference: Path, tiny_dataset: Path, record: Callable[..., None]
) -> None:
    arguments = ["run", str(tiny_dataset), "--out", str(reference), *TINY, "--folds", "0"]
    code, said = finish_mounted([f"ro {reference}"], arguments)
    print(said)
    good = code == 2 and str(reference) in said and "read-only" in said.lower()
    survived = int(good and is_one_message(said))
    arguments = ["predict", str(reference), str(tiny_dataset / "imagesTs"), str(reference / "new"), "--device", "cpu"]
    code, said = finish_mounted([f"ro {reference}"], arguments)
    print(said)
    survived += int(code == 2 and "read-only" in said.lower() and is_one_message(said))
    record(ROW, trials=2, survived=survived, note="run folder and output: named")


def without_compiler(folder: Path) -> dict[str, str]:
    """Make an environment in which no C compiler is found and nothing compiled is kept."""
    folder.mkdir()
    for name in ("sh", "uname"):
        found = shutil.which(name)
        if found:
            (folder / name).symlink_to(found)
    return {"PATH": str(folder), "AUTOSEG_CACHE": str(folder / "cache")}


def test_no_compiler(reference: Path, tiny_dataset: Path, tmp_path: Path, record: Callable[..., None]) -> None:
    out = tmp_path / "out"
    arguments = ["predict", str(reference), str(tiny_dataset / "imagesTs"), str(out), "--device", "cpu"]
    code, said = finish(arguments, tmp_path / "said", environment=without_compiler(tmp_path / "bin"))
    print(said)
    names = {path.name for path in (reference / "predictions").glob("*.nii.gz")}
    good = code == 0 and names <= {path.name for path in out.iterdir()}
    told = "compiled operators are not there" in said or '"native": true' not in (reference / "run.json").read_text()
    record(ROW, trials=1, survived=int(good and told), note="no compiler: said in one line, torch's own operators")


@pytest.mark.slow
@MOUNTED
def test_a_whole_run_of_a_read_only_dataset(
    reference: Path, tiny_dataset: Path, tmp_path: Path, record: Callable[..., None]
) -> None:
    from chaos_driver import like, run_command

    run, home = tmp_path / "run", tmp_path / "home"
    home.mkdir()
    like(reference, run)
    mounts = [f"ro {tiny_dataset}", f"ro {home}", "-t tmpfs -o size=1m none /dev/shm"]
    code, said = finish_mounted(mounts, run_command(tiny_dataset, run), {"HOME": str(home), "AUTOSEG_CACHE": ""})
    print(said)
    lost = differing(run, reference)
    record(ROW, trials=3, survived=3 * (code == 0), lost=len(lost), note="a whole run: dataset, home, /dev/shm")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32" or os.cpu_count() is None, reason="permission bits are POSIX's")
def test_training_goes_on_without_a_compiler(reference: Path, tmp_path: Path, record: Callable[..., None]) -> None:
    run = copy_run(reference, tmp_path / "run")
    arguments = ["train", str(run), "3d_fullres", "1"]
    code, said = finish(arguments, tmp_path / "said", environment=without_compiler(tmp_path / "bin"))
    print(said)
    record(ROW, trials=1, survived=int(code == 0), note="training without a compiler")
