"""Start the real program on a dataset of a few tiny cases, hurt it, and see whether the end is the same.

Every function here is plain; tests import what they need: ``from chaos_driver import start, finish, final_state``.
"""

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from autoseg.data.image import Geometry
from autoseg.data.io import write_segmentation
from autoseg.run_folder import RunFolder, RunRecord

PATCH = "[8,16,16]"
NARROW = [item for stage in range(3) for item in ("--set", f"3d_fullres.architecture.stages[{stage}].features=4")]
TINY = ["--epochs", "2", "--steps-per-epoch", "2", "--budget", "1GB", "--device", "cpu", "--precision", "fp32"]
TINY += ["--configurations", "3d_fullres", "--set", f"3d_fullres.patch_size={PATCH}", *NARROW]
"""Options with which a whole run takes some seconds: one configuration, two epochs of two steps."""

TIMEOUT_S = 900.0  # of one process: a hang is a fault too; a run takes 5 s of one quiet core


def make_tiny_dataset(folder: Path, *, num_cases: int = 5, num_tests: int = 2) -> Path:
    """Write a dataset of bright balls in noise, two classes, 10 × 20 × 20 voxels, with images to predict."""
    places = np.indices((10, 20, 20))
    for number in range(num_cases + num_tests):
        rng = np.random.default_rng([7, number])
        centre = rng.uniform(0.4, 0.6, 3) * np.array([10, 20, 20])
        distance = np.sqrt(
            (((places - centre[:, None, None, None]) / np.array([0.5, 1, 1])[:, None, None, None]) ** 2).sum(0)
        )
        label = ((distance < 7).astype(np.uint8)) + (distance < 4)
        image = np.round(200 * label + rng.normal(300, 60, label.shape)).astype(np.int16)
        name = f"case_{number + 1:02d}" if number < num_cases else f"new_{number - num_cases + 1:02d}"
        geometry = Geometry(spacing_mm=(2.0, 1.0, 1.0))
        where = "imagesTr" if number < num_cases else "imagesTs"
        write_segmentation(folder / where / f"{name}_0000.nii.gz", image, geometry)
        if number < num_cases:
            write_segmentation(folder / "labelsTr" / f"{name}.nii.gz", label, geometry)
    content = {
        "name": "Balls",
        "channel_names": {"0": "T1"},
        "labels": {"background": 0, "shell": 1, "core": 2},
        "numTraining": num_cases,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def run_command(dataset: Path, run: Path, *more: str) -> list[str]:
    """Give the arguments of ``autoseg`` for a tiny run of fold 0."""
    return ["run", str(dataset), "--out", str(run), *TINY, *(() if "--folds" in more else ("--folds", "0")), *more]


@dataclass
class Started:
    """A process of the program, and what it says."""

    process: "subprocess.Popen[str]"
    output: Path
    began: float = field(default_factory=time.monotonic)

    def text(self) -> str:
        """Give all that was said so far."""
        return self.output.read_text(encoding="utf-8", errors="replace")

    def wait(self, timeout_s: float = TIMEOUT_S) -> int:
        """Wait for the end and give the exit code; a process that hangs is killed, and that is a fault."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"hangs: {' '.join(map(str, self.process.args))}\n{self.text()[-2000:]}") from None

    def wait_for(self, words: str, timeout_s: float = TIMEOUT_S) -> bool:
        """Wait until it has said these words; False where it ended without."""
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            ended = self.process.poll() is not None
            if words in self.text():
                return True
            if ended:
                return False
            time.sleep(0.01)
        raise AssertionError(f"has not said {words!r} in {timeout_s} s:\n{self.text()[-2000:]}")

    def stop(self, number: int = signal.SIGKILL) -> int:
        """Send a signal and wait for the end."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)
        return self.wait()


def start(
    arguments: Sequence[str], folder: Path, *, environment: Mapping[str, str] | None = None, before: str = ""
) -> Started:
    """Start ``python -m autoseg ARGUMENTS``.

    Args:
        arguments: of autoseg.
        folder: for the file of what it says; not the run folder.
        environment: variables set beside this process's own.
        before: Python statements run in the process before the program, to inject a fault.
    """
    folder.mkdir(parents=True, exist_ok=True)
    output = folder / f"output_{time.monotonic_ns()}.txt"
    command = [sys.executable, "-m", "autoseg", *arguments]
    if before:
        command = [
            sys.executable,
            "-c",
            f"{before}\nimport sys\nfrom autoseg.cli import main\nsys.exit(main())",
            *arguments,
        ]
    with output.open("w") as file:
        process = subprocess.Popen(
            command,
            stdout=file,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
        )
    return Started(process, output)


def finish(arguments: Sequence[str], folder: Path, **more: object) -> tuple[int, str]:
    """Run ``autoseg ARGUMENTS`` to its end; give exit code and what it said. Takes what ``start`` takes."""
    started = start(arguments, folder, **more)  # type: ignore[arg-type]
    return started.wait(), started.text()


def like(reference: Path, run: Path) -> None:
    """Make the start of a run folder that computes as the reference does.

    Which of several ways to compute is taken is decided by timing them at the first start, and equal results need
    equal ways. All else is the run's own to make.
    """
    record = RunFolder(reference).read(RunRecord, reference / "run.json")
    made_from = {"compute": record.made_from["compute"]}
    folder = RunFolder(run)
    folder.write(
        RunRecord(name=record.name, dataset=record.dataset, cases=record.cases, test_cases=record.test_cases,
                  compute=record.compute, made_from=made_from, started=record.started), folder.run_file,
    )  # fmt: skip


def final_state(run: Path) -> dict[str, str]:
    """Give a digest of every file that is a result: weights, predictions, choice, scores, plan, folds."""
    patterns = ("folds/*/fold_*/weights_*.safetensors", "folds/*/fold_*/validation/*.nii.gz", "predictions/*.nii.gz")
    names = ("choice.json", "scores.json", "confidence.json", "metrics.json", "plan.json", "splits.json")
    names += ("fingerprint.json",)
    files = [path for pattern in patterns for path in run.glob(pattern)] + [run / name for name in names]
    found = [path for path in files if path.exists()]
    return {str(path.relative_to(run)): hashlib.blake2b(path.read_bytes()).hexdigest()[:16] for path in sorted(found)}


def leftovers(folder: Path) -> list[str]:
    """List files that were begun and never finished: hidden files other than locks."""
    hidden = (path for path in folder.rglob(".*") if path.is_file() and not path.name.endswith(".lock"))
    return sorted(str(path.relative_to(folder)) for path in hidden)


def broken(run: Path) -> list[str]:
    """List JSON records that cannot be read and weights that are cut off: what must never be, whenever it is killed."""
    from safetensors import SafetensorError, safe_open

    faults = []
    for path in (path for path in run.rglob("*") if path.is_file() and not path.name.startswith(".")):
        try:
            if path.suffix == ".json":
                json.loads(path.read_text(encoding="utf-8"))
            elif path.suffix == ".jsonl":
                lines = path.read_text(encoding="utf-8").splitlines()
                lines = lines[: -1 if path.name == "log.jsonl" else None]  # torn by a kill
                [json.loads(line) for line in lines if line]
            elif path.suffix == ".safetensors":
                with safe_open(path, framework="np") as file:
                    list(file.keys())
        except FileNotFoundError:
            continue
        except (ValueError, SafetensorError) as fault:
            faults.append(f"{path.relative_to(run)}: {fault}")
    return faults


def unsaved_s(run: Path, began: float) -> float:
    """Give the seconds since something durable was last written into a run folder (or since the process began).

    This is an upper bound of the work that a kill at this moment undoes.

    Args:
        run: the run folder.
        began: ``time.time()`` at which the process was started.
    """
    newest = began
    for path in run.rglob("*"):
        with contextlib.suppress(OSError):
            if path.is_file() and not path.name.startswith(".") and path.name != "log.jsonl":
                newest = max(newest, path.stat().st_mtime)
    return max(time.time() - newest, 0.0)
