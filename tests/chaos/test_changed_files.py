"""Files of cases that change in the middle, and a clock that jumps: noticed and named, and nothing stale is used."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from chaos_driver import finish, run_command
from chaos_limits import copy_run, differing, is_one_message
from chaos_table import Row

from autoseg.cli import main
from autoseg.data.image import Geometry
from autoseg.data.io import open_image, write_segmentation

ROW = Row(
    key="4a",
    fault="a case changed or removed in the middle",
    injected="a label edited, an image swapped (also with its size and time kept), a file removed: between two stages, "
    "while a file is read, while training runs",
    promise="noticed and named, with what to do; no result mixes two versions of a case",
)
CLOCK = Row(
    key="4b",
    fault="the clock jumps",
    injected="the system's time set back and forth by a day at every reading",
    promise="same results; durations, time budget, locks and stamps do not follow the clock",
)


@pytest.fixture
def own_dataset(tiny_dataset: Path, tmp_path: Path) -> Path:
    """A copy of the dataset to be changed."""
    return Path(shutil.copytree(tiny_dataset, tmp_path / tiny_dataset.name))


@pytest.fixture
def run(reference: Path, tiny_dataset: Path, own_dataset: Path, tmp_path: Path) -> Path:
    """A copy of the reference's run, of the copied dataset."""
    return moved(copy_run(reference, tmp_path / "run"), tiny_dataset, own_dataset)


def moved(run: Path, before: Path, after: Path) -> Path:
    """Let a run be of a dataset in another place."""
    record = run / "run.json"
    record.write_text(record.read_text(encoding="utf-8").replace(str(before), str(after)), encoding="utf-8")
    return run


def edit_label(path: Path) -> None:
    """Move a label by a voxel."""
    image = open_image([path])
    write_segmentation(path, np.roll(image.read()[0].astype(np.uint8), 1, axis=2), Geometry(spacing_mm=(2.0, 1.0, 1.0)))


def swap(first: Path, second: Path) -> None:
    """Put one file's content into another and keep size (padded) and time as they were."""
    before, wanted = first.stat(), second.read_bytes()
    first.write_bytes(wanted)
    os.utime(first, ns=(before.st_atime_ns, before.st_mtime_ns))


def edited(data: Path) -> str:
    edit_label(data / "labelsTr" / "case_02.nii.gz")
    return "case_02"


def swapped(data: Path) -> str:
    images = data / "imagesTr"
    swap(images / "case_03_0000.nii.gz", images / "case_04_0000.nii.gz")
    return "case_03"


def removed(data: Path) -> str:
    (data / "labelsTr" / "case_04.nii.gz").unlink()
    return "case_04"


@pytest.mark.parametrize("change", [edited, swapped, removed])
def test_between_two_commands(
    change: Callable[[Path], str],
    run: Path,
    own_dataset: Path,
    record: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A trained fold and changed data do not go together: refused, and the case is named."""
    trained = (run / "folds/3d_fullres/fold_0/weights_last.safetensors").read_bytes()
    name = change(own_dataset)
    code = main(run_command(own_dataset, run))
    said = capsys.readouterr().err
    print(said[-1500:])
    good = code == 2 and name in said and is_one_message(said)
    good = good and (run / "folds/3d_fullres/fold_0/weights_last.safetensors").read_bytes() == trained
    record(ROW, trials=1, survived=int(good), note="between two commands")


CHANGE_WHILE_TRAINING = """
import sys, shutil
from pathlib import Path
from autoseg.training import trainer
real = trainer.FoldTrainer._epoch
def epoch(self):
    row = real(self)
    if row["epoch"] == 0:
        {change}
    return row
trainer.FoldTrainer._epoch = epoch
"""


def test_while_training_runs(
    reference: Path, tiny_dataset: Path, own_dataset: Path, tmp_path: Path, record: Callable[..., None]
) -> None:
    """The label of a validation case is edited: the network is not judged by a label it was not trained beside."""
    run = copy_run(reference, tmp_path / "fresh", "folds", "choice.json", "predictions", "report.html")
    moved(run, tiny_dataset, own_dataset)
    label, kept = own_dataset / "labelsTr" / "case_01.nii.gz", tmp_path / "kept.nii.gz"
    shutil.copy2(label, kept)
    other = own_dataset / "labelsTr" / "case_02.nii.gz"
    change = f"Path({str(label)!r}).write_bytes(Path({str(other)!r}).read_bytes())"
    said_in = tmp_path / "said"
    code, said = finish(run_command(own_dataset, run), said_in, before=CHANGE_WHILE_TRAINING.format(change=change))
    print(said[-1500:])
    scored = (run / "folds/3d_fullres/fold_0/scores.json").exists()
    good = code == 2 and "case_01" in said and "case_01.nii.gz" in said and not scored and is_one_message(said)
    shutil.copy2(kept, label)
    again, told = finish(run_command(own_dataset, run), said_in)
    print(told[-1500:])
    lost = differing(run, reference)
    note = "in the middle of training; put back, the same command ends with the same weights"
    record(ROW, trials=1, survived=int(good and again == 0), lost=len(lost), note=note)


def test_while_a_file_is_read(
    run: Path, own_dataset: Path, monkeypatch: pytest.MonkeyPatch, record: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Stamped, then replaced, then read: the store would hold what its record does not say."""
    from autoseg.preprocessing import populate

    shutil.rmtree(run / "store" / "3d_fullres")
    real = populate.preprocess_case

    def change(*given: object, **more: object) -> object:
        edit_label(own_dataset / "labelsTr" / "case_05.nii.gz")
        return real(*given, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(populate, "preprocess_case", change)
    code = main([*run_command(own_dataset, run), "--until", "preprocess"])
    said = capsys.readouterr().err
    print(said[-1500:])
    good = code == 2 and "case_05: its files have changed while they were read" in said
    good = good and not (run / "store" / "3d_fullres" / "case_05.json").exists()
    record(ROW, trials=1, survived=int(good), note="while it is read")


class JumpingClock:
    """The system's time with a jump of a day, back and forth, at every reading."""

    def __init__(self) -> None:
        self.real, self.count = time.time, 0

    def __call__(self) -> float:
        self.count += 1
        return self.real() + (-86400, 0, 86400)[self.count % 3]


def test_nothing_follows_the_clock(
    run: Path, own_dataset: Path, monkeypatch: pytest.MonkeyPatch, record: Callable[..., None]
) -> None:
    """A finished run stays finished, and a stored file with a time in the future or the past is judged by content."""
    before = {path: path.read_bytes() for path in run.rglob("*.npy")}
    clock = JumpingClock()
    monkeypatch.setattr(time, "time", clock)
    day = 86400
    for number, path in enumerate(sorted((own_dataset / "imagesTr").iterdir())):
        os.utime(path, (clock.real() + (-1) ** number * day,) * 2)
    code = main(run_command(own_dataset, run))
    kept = {path: path.read_bytes() for path in run.rglob("*.npy")} == before
    record(CLOCK, trials=1, survived=int(code == 0), lost=int(not kept), note="files of yesterday and tomorrow")


JUMPING = """
import time, datetime
real, count = time.time, [0]
def jumping():
    count[0] += 1
    return real() + (-86400, 0, 86400)[count[0] % 3]
time.time = jumping
class Jumping(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(jumping(), tz)
datetime.datetime = Jumping
"""


@pytest.mark.slow
def test_a_run_while_the_clock_jumps(
    reference: Path, tiny_dataset: Path, tmp_path: Path, record: Callable[..., None]
) -> None:
    from chaos_driver import like

    run = tmp_path / "run"
    like(reference, run)
    code, said = finish(run_command(tiny_dataset, run), tmp_path / "said", before=JUMPING)
    print(said[-1500:])
    lost = differing(run, reference)
    record(CLOCK, trials=1, survived=int(code == 0), lost=len(lost), note="a whole run")
    budgeted = [*run_command(tiny_dataset, tmp_path / "timed"), "--time-budget", "10m"]
    code, said = finish(budgeted, tmp_path / "said", before=JUMPING)
    print(said[-1500:])
    record(CLOCK, trials=1, survived=int(code == 0 and is_one_message(said)), note="with --time-budget")
