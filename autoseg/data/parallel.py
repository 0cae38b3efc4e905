"""Work on many cases side by side within the machine's memory; one bad case does not stop the others.

Threads, not processes: numpy, scipy and the resampling release the interpreter's lock, nothing is copied between
processes, and there is no second start-up. A case enters when the memory it is expected to need is free.
"""

import contextlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from typing import TypeVar

from autoseg import room
from autoseg.errors import AutosegError, DatasetError, RoomError
from autoseg.progress import say, track
from planners.records import PlanError

Item = TypeVar("Item")
Result = TypeVar("Result")

HOST_FRACTION = 0.8  # assumption: leaves room for the file cache and for errors of the estimates
MAX_THREADS = 16  # assumption: beyond this, reading files is the limit
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
        RoomError: the disk is full; what is done is done.
    """
    pairs = list(cases)
    gate = MemoryGate(host_bytes if host_bytes is not None else host_memory_bytes())
    executor = ThreadPoolExecutor(_startable(max(1, threads or default_threads()), what), thread_name_prefix="case")
    futures = {executor.submit(work, item, gate): case_id for case_id, item in pairs}
    try:
        results, faults, short = _collect(futures, what)
    except BaseException:
        gate.close()
        executor.shutdown(wait=False, cancel_futures=True)
        raise
    executor.shutdown()
    if short:
        again = {case_id: item for case_id, item in pairs if case_id in short}
        more, missed = _one_at_a_time(work, again, gate, what)
        results, faults = {**results, **more}, {**faults, **missed}
    if faults:
        lines = "\n".join(f"  case {case_id}: {faults[case_id]}" for case_id in sorted(faults))
        raise DatasetError(f"{what}: {len(faults)} of {len(pairs)} cases failed, the others are done\n{lines}")
    return {case_id: results[case_id] for case_id, _ in pairs}


def _startable(wanted: int, what: str) -> int:
    """Give how many threads the system lets start now, at least one; say where that is fewer than wanted."""
    end, started = threading.Event(), []
    with contextlib.suppress(RuntimeError, MemoryError):  # a limit of processes or memory
        for _ in range(wanted):
            thread = threading.Thread(target=end.wait, daemon=True)
            thread.start()
            started.append(thread)
    end.set()
    for thread in started:
        thread.join()
    if len(started) < wanted:
        say(f"  {what}: the system lets {len(started)} of {wanted} workers start; going on with fewer")
    return max(1, len(started))


def _one_at_a_time(
    work: Callable[[Item, MemoryGate], Result], cases: dict[str, Item], gate: MemoryGate, what: str
) -> tuple[dict[str, Result], dict[str, str]]:
    """Try cases for which memory did not suffice beside others once more, each alone; give results and faults."""
    say(f"  {what}: memory did not suffice for {', '.join(cases)} beside others; once more, one at a time")
    results: dict[str, Result] = {}
    faults: dict[str, str] = {}
    for case_id, item in cases.items():
        try:
            results[case_id] = work(item, gate)
        except Exception as fault:
            faults[case_id] = _fault_of_user(fault) or room.told(fault) or ""
            if not faults[case_id]:
                raise
    return results, faults


def _collect(futures: dict[Future[Result], str], what: str) -> tuple[dict[str, Result], dict[str, str], set[str]]:
    """Wait for all; give results, what is wrong with cases, and the cases for which memory did not suffice.

    Raises:
        RoomError: the disk is full, so there is no use in going on with other cases.
    """
    results: dict[str, Result] = {}
    faults: dict[str, str] = {}
    short: set[str] = set()
    bug: Exception | None = None
    for future in track(as_completed(futures), len(futures), what):
        case_id = futures[future]
        try:
            results[case_id] = future.result()
        except Exception as fault:
            text = _fault_of_user(fault)
            if text is not None:
                faults[case_id] = text
            elif room.is_no_memory(fault):
                short.add(case_id)
            else:  # our own bug: the other cases are finished first, then it is raised as it is
                fault.add_note(f"while {what}, case {case_id}")
                bug = bug or fault
    if bug is not None:
        raise bug
    return results, faults, short


def _fault_of_user(fault: Exception) -> str | None:
    """Say what the user can mend about one case; None of a bug, and where memory did not suffice.

    Raises:
        RoomError: the disk is full.
    """
    if isinstance(fault, RoomError):
        raise fault
    if room.is_no_disk(fault):
        raise RoomError(room.told(fault)) from fault
    if isinstance(fault, AutosegError | PlanError | OSError) and not room.is_no_memory(fault):
        return str(fault) or type(fault).__name__
    return None


def default_threads() -> int:
    """Give the number of processors this process may use, at most ``MAX_THREADS``."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(available, MAX_THREADS)


def host_memory_bytes() -> int:
    """Give the main memory that may be used now: a fraction of what is free, within all limits (``autoseg.room``)."""
    free = room.free_memory()
    return UNKNOWN_HOST_BYTES if free is None else int(HOST_FRACTION * free)
