"""Memory and processor time of a process with all its descendants, from /proc. Not a script."""

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

SHARE, LONGEST_S = 0.05, 0.25
"""Of one core that sampling may take; what lives shorter than the other may be missed."""

PAGE_MB, TICKS = os.sysconf("SC_PAGE_SIZE") / 10**6, os.sysconf("SC_CLK_TCK")


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
        """Resident memory in MB (10⁶ bytes); where there are several processes, pages they share are counted once."""
        pids, kib = self.pids(), 0
        if len(pids) == 1:  # the cheaper file, read without a walk through the page tables
            with contextlib.suppress(OSError):
                return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * PAGE_MB
        for pid in pids:
            with contextlib.suppress(OSError, IndexError):
                kib += int(Path(f"/proc/{pid}/smaps_rollup").read_text().partition("Pss:")[2].split()[0])
        return kib * 1024 / 10**6

    def cpu(self) -> float:
        ticks = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                ticks += sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15]))
        return ticks / TICKS

    @contextlib.contextmanager
    def watch(self, every: float = 0.02) -> Iterator[None]:
        """Sample the memory while the block runs, ``every`` so many seconds, or as seldom as keeps it cheap.

        Walking the page tables of many processes takes time; it must not slow down what is measured.
        """
        stop = threading.Event()

        def sample() -> None:
            wait = every
            while not stop.wait(wait):
                began = time.thread_time()
                self.peak = max(self.peak, self.memory())
                wait = max(every, min((time.thread_time() - began) / SHARE, LONGEST_S))

        self.peak, thread = self.memory(), threading.Thread(target=sample)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
