"""Work on many cases side by side within the machine's memory; one bad case does not stop the others.

Threads, not processes: numpy, scipy and the resampling release the interpreter's lock, nothing is copied between
processes, and there is no second start-up. A case enters when the memory it is expected to need is free.
"""

import contextlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import TypeVar

from autoseg.errors import AutosegError, DatasetError
from autoseg.progress import track
from planners.records import PlanError

Item = TypeVar("Item")
Result = TypeVar("Result")

HOST_FRACTION = 0.8  # assumption: leaves room for the file cache and for errors of the estimates
MAX_THREADS = 16  # assumption: beyond this, reading files is the limit
CONTROL_GROUPS = Path("/sys/fs/cgroup")  # where Linux shows the limits of containers and batch jobs
UNKNOWN_HOST_BYTES = 4 * 10**9  # assumption, for systems that do not tell


class MemoryGate:
    """Lets work in while the bytes it is expected to need fit the total; what never fits goes in alone."""

    def __init__(self, total_bytes: int) -> None:
        self.total_bytes = total_bytes
        self._used = 0
        self._closed = False
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def hold(self, num_bytes: int) -> Iterator[None]:
        """Wait until ``num_bytes`` are free, and hold them while the body runs."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not self._used or self._used + num_bytes <= self.total_bytes)
            if self._closed:
                raise InterruptedError("stopped while waiting for memory")
            self._used += num_bytes
        try:
            yield
        finally:
            with self._changed:
                self._used -= num_bytes
                self._changed.notify_all()

    def close(self) -> None:
        """Turn away all who wait."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


def for_each_case(
    work: Callable[[Item, MemoryGate], Result],
    cases: Iterable[tuple[str, Item]],
    what: str,
    threads: int | None = None,
    host_bytes: int | None = None,
) -> dict[str, Result]:
    """Do something with every case, several at a time.

    Args:
        work: called with a case and the gate; it holds the memory it needs while it needs it.
        cases: pairs of case id and case.
        what: for the progress bar and the error, such as ``preprocessing 3d_fullres``.
        threads: cases at a time; default: the processors this process may use.
        host_bytes: memory for all of them together; default: ``host_memory_bytes()``.

    Returns:
        What ``work`` gave, by case id, in the order of ``cases``.

    Raises:
        DatasetError: some cases failed; the message lists all of them. The others are done.
    """
    pairs = list(cases)
    gate = MemoryGate(host_bytes if host_bytes is not None else host_memory_bytes())
    executor = ThreadPoolExecutor(max(1, threads or default_threads()), thread_name_prefix="case")
    futures = {executor.submit(work, item, gate): case_id for case_id, item in pairs}
    try:
        results, faults = _collect(futures, what)
    except BaseException:
        gate.close()
        executor.shutdown(wait=False, cancel_futures=True)
        raise
    executor.shutdown()
    if faults:
        lines = "\n".join(f"  case {case_id}: {faults[case_id]}" for case_id in sorted(faults))
        raise DatasetError(f"{what}: {len(faults)} of {len(pairs)} cases failed, the others are done\n{lines}")
    return {case_id: results[case_id] for case_id, _ in pairs}


def _collect(futures: dict[Future[Result], str], what: str) -> tuple[dict[str, Result], dict[str, str]]:
    results: dict[str, Result] = {}
    faults: dict[str, str] = {}
    bug: Exception | None = None
    for future in track(as_completed(futures), len(futures), what):
        case_id = futures[future]
        try:
            results[case_id] = future.result()
        except (AutosegError, PlanError, OSError, MemoryError) as fault:
            faults[case_id] = str(fault) or type(fault).__name__
        except Exception as fault:  # our own bug: the other cases are finished first, then it is raised as it is
            fault.add_note(f"while {what}, case {case_id}")
            bug = bug or fault
    if bug is not None:
        raise bug
    return results, faults


def default_threads() -> int:
    """Give the number of processors this process may use, at most ``MAX_THREADS``."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(available, MAX_THREADS)


def host_memory_bytes() -> int:
    """Give the main memory that may be used now: a fraction of what is free, within the limits of containers."""
    free = [value for value in (_available_bytes(), *_container_bytes()) if value is not None]
    return int(HOST_FRACTION * min(free)) if free else UNKNOWN_HOST_BYTES


def _available_bytes() -> int | None:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2  # no word on what is free: assume half
    return None


def _container_bytes() -> Iterator[int | None]:
    """Give what is left below each limit that a control group (version 1 or 2) sets for this process.

    Files that the kernel keeps in memory and can drop count as used there, so they are added back.
    """
    names = {"memory.max": "memory.current", "memory.limit_in_bytes": "memory.usage_in_bytes"}
    for folder in _group_folders():
        for limit, used in names.items():
            with contextlib.suppress(OSError, ValueError):  # absent, or "max"
                left = int((folder / limit).read_text()) - int((folder / used).read_text())
                stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                yield left + int(stat.get("total_inactive_file", stat.get("inactive_file", 0)))


def _group_folders() -> Iterator[Path]:
    yield from (CONTROL_GROUPS, CONTROL_GROUPS / "memory")
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers in ("", "memory"):
                yield CONTROL_GROUPS / controllers / path.lstrip("/")
