"""Send hostile files to one worker process after another; tell what was refused well from faults, crashes and hangs."""

import json
import os
import random
import select
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
WORKER = Path(__file__).with_name("hostile_worker.py")
LIMIT_S = 10.0  # of computing, per input
SILENT_S = 60.0  # until it counts as hanging: it may wait for its turn on a busy machine
START_S = 120.0  # for the worker to load its libraries on a busy machine
MOST_LETTERS = 2000  # of a message that a person reads
COUNT_VARIABLE = "AUTOSEG_HOSTILE_COUNT"


@dataclass(frozen=True)
class Ending:
    """How one job ended: ``taken``, ``refused``, ``fault``, ``crash`` or ``hang``."""

    end: str
    kind: str = ""
    says: str = ""
    where: str = ""
    noise: str = ""
    seconds: float = 0.0

    @property
    def complaint(self) -> str:
        """What is wrong with it; empty where the input was taken, or refused in one line."""
        if self.end not in ("taken", "refused"):
            return f"{self.end} {self.kind}: {self.says}\n{self.where}"
        if self.noise:
            return f"{self.end}, but a library printed: {self.noise[:300]}"
        if self.end == "refused" and (not self.says or "\n" in self.says or "\r" in self.says):
            return f"the message is not one line: {self.says!r}"
        if len(self.says) > MOST_LETTERS:
            return f"the message has {len(self.says)} letters: {self.says[:200]!r}"
        if self.seconds > LIMIT_S:
            return f"{self.seconds:.1f} s"
        return ""


class Worker:
    """A process that is used again until it crashes or hangs."""

    def __init__(self, *jobs: str) -> None:
        self.jobs = jobs
        self.process: subprocess.Popen[bytes] | None = None

    def do(self, job: str, given: Any) -> Ending:
        """Do one job: its name, and the path or the command line it is given."""
        process = self.process if self.process is not None and self.process.poll() is None else None
        fresh = process is None
        if process is None:
            process = self._start()
        assert process.stdin is not None
        process.stdin.write(json.dumps({"job": job, "given": given}).encode() + b"\n")
        process.stdin.flush()
        line = self._line(process, START_S if fresh else SILENT_S)
        if line is None:
            self.stop()
            return Ending("hang", says=f"no answer for {SILENT_S} s")
        if not line:
            code = process.wait()
            self.stop()
            return Ending("crash", kind=signal.Signals(-code).name if code < 0 else str(code))
        return Ending(**json.loads(line))

    def stop(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None

    def _start(self) -> "subprocess.Popen[bytes]":
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONFAULTHANDLER": ""}
        self.process = subprocess.Popen(
            [sys.executable, str(WORKER), *self.jobs],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0, env=environment,
        )  # fmt: skip
        return self.process

    @staticmethod
    def _line(process: "subprocess.Popen[bytes]", seconds: float) -> bytes | None:
        """One line, ``b""`` where the process has ended, None where it is silent for too long."""
        assert process.stdout is not None
        if not select.select([process.stdout], [], [], seconds)[0]:
            return None
        line = process.stdout.readline()
        return line if line.endswith(b"\n") else b""


@dataclass
class Findings:
    """What a number of hostile inputs led to."""

    endings: Counter[str] = field(default_factory=Counter)
    complaints: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    slowest: float = 0.0

    def note(self, name: str, content: bytes, ending: Ending) -> None:
        """Count an ending; of complaints that begin alike keep the first with its input."""
        self.endings[ending.end] += 1
        self.slowest = max(self.slowest, ending.seconds)
        if ending.complaint:
            key = ending.where.strip().splitlines()[-2:] if ending.where else [ending.complaint[:60]]
            self.complaints.setdefault(" ".join(key), (f"{name}: {ending.complaint}", content))

    def __str__(self) -> str:
        shown = [f"{text}\n    input: {content[:160]!r}" for text, content in list(self.complaints.values())[:20]]
        return "\n".join([f"{dict(self.endings)}, slowest {self.slowest:.1f} s", *shown])


def attack(
    worker: Worker, folder: Path, job: str, name: str, inputs: Iterable[bytes], dirty: Callable[[], set[str]]
) -> Findings:
    """Give a worker one content after another under one file name.

    Args:
        worker: which does the job.
        folder: where the file is laid.
        job: of the worker.
        name: of the file.
        inputs: contents.
        dirty: names of what lies where nothing may be written; it must stay as it is.
    """
    found, path, before = Findings(), folder / name, dirty()
    for content in inputs:
        path.write_bytes(content)
        ending = worker.do(job, str(path))
        found.note(name, content, ending)
        after = dirty()
        if after != before:
            found.complaints.setdefault("written", (f"{name}: left behind {sorted(after ^ before)[:3]}", content))
            before = after
    return found


def wanted_count(default: int = 300) -> int:
    """How many inputs per kind of file: few, or as many as the variable says (the long form)."""
    return int(os.environ.get(COUNT_VARIABLE, default))


def seeded(*parts: object) -> random.Random:
    """Give a generator that depends on nothing but these words."""
    return random.Random("/".join(map(str, parts)))
