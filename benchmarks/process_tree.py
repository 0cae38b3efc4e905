"""Memory and processor time of a process with all its descendants, from /proc. Not a script."""

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

PAGE_MB, TICKS = os.sysconf("SC_PAGE_SIZE") / 2**20, os.sysconf("SC_CLK_TCK")


class Tree:
    """Watches a process and its descendants: ``peak`` in MB since ``watch`` began, processor seconds until now."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.peak = 0.0

    def pids(self) -> list[int]:
        found, at = [self.pid], 0
        while at < len(found):
            with contextlib.suppress(OSError):
                for file in Path(f"/proc/{found[at]}/task").glob("*/children"):
                    found += map(int, file.read_text().split())
            at += 1
        return found

    def memory(self) -> float:
        private, shared = 0, 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                _, resident, common, *_ = map(int, Path(f"/proc/{pid}/statm").read_text().split())
                private, shared = private + resident - common, max(shared, common)
        return (private + shared) * PAGE_MB

    def cpu(self) -> float:
        ticks = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                ticks += sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15]))
        return ticks / TICKS

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        stop = threading.Event()

        def sample() -> None:
            while not stop.wait(0.02):
                self.peak = max(self.peak, self.memory())

        self.peak, thread = self.memory(), threading.Thread(target=sample)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
