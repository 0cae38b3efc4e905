"""Processes that are measured: kept loaded and asked again and again, or run once from start to end. Not a script."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from process_tree import Tree
from turns import Row

TAIL = 3000  # letters of a log that are shown where something has failed


class Server:
    """A process that keeps what one way needs loaded, and works on request; the other side is ``work_loop.serve``."""

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> None:
        self.log = log
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, **(environment or {})},
            )
        self.tree = Tree(self.process.pid)
        self.expect("ready")

    def expect(self, answer: str) -> dict[str, float]:
        assert self.process.stdout is not None
        found, _, more = self.process.stdout.readline().strip().partition(" ")
        if found != answer:
            self.close()  # ends it, if it has not ended by itself
            raise ProcessError(f"{self.log.stem} has failed:\n{self.log.read_text()[-TAIL:]}")
        return json.loads(more) if more else {}

    def ask(self, job: Any) -> Row:
        """Have one job done.

        Returns:
            Wall and processor seconds, peak MB of the process tree, and what the process says of itself, which goes
            before what was measured from outside.
        """
        assert self.process.stdin is not None
        spent, start = self.tree.cpu(), time.monotonic()
        with self.tree.watch():
            self.process.stdin.write(json.dumps(job) + "\n")
            self.process.stdin.flush()
            said = self.expect("done")
            wall = time.monotonic() - start
        return {"wall": wall, "cpu": self.tree.cpu() - spent, "memory": self.tree.peak, **said}

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


class ProcessError(Exception):
    """A measured process has ended; the text has the end of its log."""


def run_once(command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None, line: str = "") -> Row:
    """Run a process from start to end: wall and processor seconds, peak MB of it with its descendants.

    Args:
        command: what is run.
        log: takes what it prints.
        environment: set beside what is set already.
        line: its whole input.
    """
    start = time.monotonic()
    with log.open("w") as file:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=file,
            text=True,
            env={**os.environ, **(environment or {})},
        )
    tree = Tree(process.pid)
    assert process.stdin is not None
    process.stdin.write(line)
    process.stdin.close()
    with tree.watch():
        _, status, usage = os.wait4(process.pid, 0)  # with what it has waited for itself
        wall = time.monotonic() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise ProcessError(f"{' '.join(map(str, command))} has failed:\n{log.read_text()[-TAIL:]}")
    return {"wall": wall, "cpu": usage.ru_utime + usage.ru_stime, "memory": tree.peak}


def autoseg_command(*words: str) -> list[str]:
    """Give the command line that starts autoseg with this interpreter."""
    return [sys.executable, "-m", "autoseg", *words]
