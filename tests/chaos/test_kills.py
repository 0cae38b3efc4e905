"""kill -9, SIGTERM and Ctrl-C at random moments of every stage: the same command goes on to the same end."""

import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from chaos_driver import Started, broken, final_state, finish, leftovers, like, run_command, start, unsaved_s
from chaos_table import Row

DONE = "\ndone in "
"""What the program says once all is written: a signal after that hits no run, only the end of the interpreter."""

STAGES = ("check", "plan", "preprocess", "train", "choose", "predict", "report")
KILLS = Row(
    key="1a",
    fault="`kill -9`, SIGTERM (a cluster's preemption), Ctrl-C",
    injected="a signal at a random moment of a random stage, again and again, until the run is through; then anew",
    promise="the same command goes on; final weights, choice and predictions are the same bit for bit; every record "
    "and every weight file can be read at any moment; SIGTERM and Ctrl-C end with how to go on",
)
SAVED = Row(
    key="1b",
    fault="`kill -9` in the middle of a long epoch",
    injected="SIGKILL in an epoch of 100,000 steps",
    promise="at most 60 s of training are made again",
)
SIGNALS = {
    signal.SIGKILL: (-signal.SIGKILL, ""),
    signal.SIGTERM: (143, "told to end"),
    signal.SIGINT: (130, "interrupted"),
}


class Harm:
    """One run folder after another, started and hurt."""

    def __init__(self, dataset: Path, reference: Path, folder: Path) -> None:
        self.dataset, self.reference, self.folder = dataset, reference, folder
        self.trials = self.survived = self.lost = self.finished = 0
        self.unsaved_s: list[float] = []
        self.faults: list[str] = []
        self.run = self._new()

    def hurt(self, stage: str, delay_s: float, number: int) -> None:
        """Start the program, send a signal some time after a stage has begun, and look at what it leaves."""
        began = time.time()
        started = start(run_command(self.dataset, self.run), self.folder)
        if started.wait_for(f"[{1 + STAGES.index(stage)}/"):
            time.sleep(delay_s)
        if started.process.poll() is None:
            self._signal(started, stage, number, began)
        elif started.process.returncode == 0:
            self._through()
        else:
            self._fault(f"does not go on ({started.process.returncode}): {started.text()[-400:]}", lost=1)

    def finish(self) -> None:
        """Bring the last run to its end."""
        code, said = finish(run_command(self.dataset, self.run), self.folder)
        if code:
            self._fault(f"does not go on ({code}): {said[-400:]}", lost=1)
        else:
            self._through()

    def _signal(self, started: Started, stage: str, number: int, began: float) -> None:
        unsaved = unsaved_s(self.run, began)
        code = started.stop(number)
        if DONE in started.text():  # the run was through before the signal came: no trial, and all must be there
            self._through()
            return
        self.trials += 1
        self.unsaved_s.append(unsaved)
        wanted, words = SIGNALS[signal.Signals(number)]
        said = started.text()
        faults = broken(self.run)
        if code != wanted or words not in said or "Traceback" in said:
            faults.append(f"exit code {code}, said {said[-400:]}")
        if faults:
            self._fault(f"{signal.Signals(number).name} in {stage}: {'; '.join(faults)}")
        else:
            self.survived += 1

    def _through(self) -> None:
        wanted, found = final_state(self.reference), final_state(self.run)
        different = [name for name in {**wanted, **found} if wanted.get(name) != found.get(name)]
        left = leftovers(self.run)
        self.finished += 1
        self.lost += len(different) + len(left)
        if different or left:
            self._fault(f"different in the end: {different}, left over: {left}")
        self.run = self._new()

    def _fault(self, text: str, lost: int = 0) -> None:
        self.lost += lost
        self.faults.append(text)
        print(text)

    def _new(self) -> Path:
        run = self.folder / f"Lauf {self.finished}"
        like(self.reference, run)
        return run

    def note(self) -> str:
        """Sum up."""
        return (
            f"{self.finished} runs brought to their end; at most {max(self.unsaved_s, default=0):.0f} s since the last "
            "durable write, the start of the program included" + "".join(f"; {fault}" for fault in self.faults[:3])
        )


def test_three_signals(tiny_dataset: Path, reference: Path, tmp_path: Path, record: Callable[..., None]) -> None:
    harm = Harm(tiny_dataset, reference, tmp_path)
    harm.hurt("preprocess", 0.2, signal.SIGKILL)
    harm.hurt("train", 0.5, signal.SIGTERM)
    harm.hurt("predict", 0.1, signal.SIGINT)
    harm.finish()
    record(KILLS, trials=harm.trials, survived=harm.survived, lost=harm.lost, note=harm.note())


@pytest.mark.slow
def test_many_signals(
    tiny_dataset: Path, reference: Path, tmp_path: Path, num_kills: int, record: Callable[..., None]
) -> None:
    began = time.monotonic()
    finish(run_command(tiny_dataset, tmp_path / "timed"), tmp_path)
    stage_s = (time.monotonic() - began) / len(STAGES)
    harm, chance = Harm(tiny_dataset, reference, tmp_path), np.random.default_rng(num_kills)
    while harm.trials < num_kills and len(harm.faults) < 10:
        number = list(SIGNALS)[int(chance.integers(3))]
        harm.hurt(STAGES[int(chance.integers(len(STAGES)))], float(chance.uniform(0, 1.5 * stage_s)), number)
    harm.finish()
    record(KILLS, trials=harm.trials, survived=harm.survived, lost=harm.lost, note=harm.note())


def kill_in_an_epoch(dataset: Path, reference: Path, folder: Path, interval_s: float | None) -> tuple[float, float]:
    """Kill a training in its only epoch; give the seconds since it was saved, and those it may be."""
    run = folder / "run"
    like(reference, run)
    long = run_command(dataset, run, "--steps-per-epoch", "100000", "--epochs", "1")
    before = "" if interval_s is None else f"import autoseg.training.trainer as t; t.SAVE_INTERVAL_S = {interval_s}"
    interval_s = 60.0 if interval_s is None else interval_s
    state = run / "folds" / "3d_fullres" / "fold_0" / "state.safetensors"
    started = start(long, folder, before=before)
    until = time.monotonic() + 600
    while not state.exists() and time.monotonic() < until:
        time.sleep(0.05)
    time.sleep(1.7 * interval_s)
    killed = time.time()
    started.stop(signal.SIGKILL)
    return killed - state.stat().st_mtime, interval_s


def test_a_long_epoch_is_saved_on_the_way(
    tiny_dataset: Path, reference: Path, tmp_path: Path, record: Callable[..., None]
) -> None:
    lost_s, interval_s = kill_in_an_epoch(tiny_dataset, reference, tmp_path, 1.0)
    allowed = interval_s + 5.0  # a step, and writing, on a busy machine
    record(
        SAVED,
        trials=1,
        survived=int(lost_s <= allowed),
        note=f"{lost_s:.1f} s lost where it saves every {interval_s:.0f} s",
    )


@pytest.mark.slow
def test_a_long_epoch_is_saved_every_minute(
    tiny_dataset: Path, reference: Path, tmp_path: Path, record: Callable[..., None]
) -> None:
    lost_s, interval_s = kill_in_an_epoch(tiny_dataset, reference, tmp_path, None)
    allowed = interval_s + 5.0
    record(
        SAVED,
        trials=1,
        survived=int(lost_s <= allowed),
        note=f"{lost_s:.1f} s lost where it saves every {interval_s:.0f} s",
    )
