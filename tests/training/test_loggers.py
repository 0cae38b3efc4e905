"""Loggers: what they are given, and that none of them can stop a training."""

import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from autoseg.errors import OptionError
from autoseg.options import LOGGERS as NAMES
from autoseg.options import options_from
from autoseg.run_folder import RunFolder, RunRecord
from autoseg.training import loggers
from autoseg.training.folds import fold_job
from autoseg.training.loggers import LOGGERS, numbers_of, open_loggers
from autoseg.training.trainer import FoldTrainer

MakeRun = Callable[..., RunFolder]


class Recorder:
    """A logger that keeps what it is given, and fails where it is told to."""

    made: ClassVar[list["Recorder"]] = []

    def __init__(self, run: Any, folder: Any, configuration: Any) -> None:
        self.rows: list[tuple[int, dict[str, float]]] = []
        self.closed = False
        Recorder.made.append(self)

    def log(self, values: dict[str, float], epoch: int) -> None:
        self.rows.append((epoch, dict(values)))

    def close(self) -> None:
        self.closed = True


class Failing(Recorder):
    def log(self, values: dict[str, float], epoch: int) -> None:
        raise ConnectionError("no network")


@pytest.fixture
def asked(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> Callable[..., RunFolder]:
    Recorder.made = []

    def make(*names: str) -> RunFolder:
        run = make_run(epochs=2, steps_per_epoch=1, validation_steps=1)
        run.change_record(options={**run.read(RunRecord, run.run_file).options, "logger": list(names)})
        monkeypatch.setattr(loggers, "LOGGERS", {**LOGGERS, "recorder": Recorder, "failing": Failing})
        return run

    return make


def test_the_names_of_the_options_are_those_of_the_table() -> None:
    assert tuple(LOGGERS) == NAMES


def test_every_epoch_is_logged_and_the_logger_closed(asked: Callable[..., RunFolder]) -> None:
    FoldTrainer(fold_job(asked("recorder"), "tiny", 0)).run()
    (logger,) = Recorder.made
    assert [epoch for epoch, _ in logger.rows] == [1, 2]
    assert {"train_loss", "validation_loss", "learning_rate", "mean_dice", "dice/1", "dice/2"} <= set(logger.rows[0][1])
    assert logger.closed


def test_a_logger_that_fails_is_said_once_and_left_out(
    asked: Callable[..., RunFolder], capsys: pytest.CaptureFixture[str]
) -> None:
    run = asked("failing", "recorder")
    FoldTrainer(fold_job(run, "tiny", 0)).run()
    said = capsys.readouterr().err
    assert said.count("logger failing is left out from here (ConnectionError: no network); training goes on") == 1
    assert len(Recorder.made[1].rows) == 2, "the other one goes on"
    assert '"event": "logger"' in run.log_file.read_text()


@pytest.mark.parametrize("name", NAMES)
def test_a_package_that_is_missing_is_said_and_training_goes_on(
    name: str, asked: Callable[..., RunFolder], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    package = {"tensorboard": "torch.utils.tensorboard"}.get(name, name)
    monkeypatch.setitem(sys.modules, package, None)  # importing it raises
    run = asked(name)
    FoldTrainer(fold_job(run, "tiny", 0)).run()
    assert (
        f"logger {name} is not installed (pip install 'autoseg[{name}]'); training goes on" in capsys.readouterr().err
    )
    assert run.fold("tiny", 0).weights_last.exists()


def test_tensorboard_gets_one_folder_per_fold(asked: Callable[..., RunFolder], monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []

    class Writer:
        def __init__(self, folder: str) -> None:
            calls.append(("open", Path(folder).name, Path(folder).parent.name))

        def add_scalar(self, name: str, value: float, epoch: int) -> None:
            calls.append((name, value, epoch))

        def flush(self) -> None:
            pass

        def close(self) -> None:
            calls.append(("close",))

    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    FoldTrainer(fold_job(asked("tensorboard"), "tiny", 0)).run()
    assert calls[0] == ("open", "fold_0", "tiny")
    assert calls[-1] == ("close",)
    assert [epoch for name, _, epoch in calls[1:-1] if name == "train_loss"] == [1, 2]


def test_numbers_of_a_row() -> None:
    row = {
        "epoch": 3,
        "train_loss": 0.5,
        "dice": [0.1, None],
        "mean_dice": None,
        "annealing": False,
        "skipped_steps": 2,
    }
    assert numbers_of(row) == {"train_loss": 0.5, "dice/1": 0.1, "skipped_steps": 2.0}


def test_without_loggers_nothing_is_opened(make_run: MakeRun) -> None:
    run = make_run()
    with open_loggers(run, run.fold("tiny", 0), fold_job(run, "tiny", 0).configuration) as log:
        log({"epoch": 0, "train_loss": 1.0})


def test_an_unknown_logger_is_refused_before_anything_begins() -> None:
    with pytest.raises(OptionError, match="no logger is named 'tensorbord'; did you mean 'tensorboard'"):
        options_from("dataset", {"logger": "tensorbord"})
