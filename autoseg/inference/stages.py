"""Work through cases with the reading of the next and the writing of the last going on meanwhile.

Three cases are in memory at most: one being read, one in the network, one being written. One bad case does not stop the
others.
"""

import functools
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from autoseg import room
from autoseg.errors import AutosegError, RoomError
from autoseg.progress import track

Case = TypeVar("Case")
Loaded = TypeVar("Loaded")
Result = TypeVar("Result")


def work_through(
    cases: Sequence[tuple[str, Case]],
    read: Callable[[Case], Loaded],
    work: Callable[[Loaded], Result],
    write: Callable[[Case, Result], None],
    what: str,
) -> dict[str, str]:
    """Read, work on and write every case: reading and writing each in a thread of their own, work in this one.

    Args:
        cases: pairs of case id and case.
        read: from the user's disk to what the network sees.
        work: the network.
        write: back to the disk.
        what: a phrase for the progress bar.

    Returns:
        What went wrong, by case id; the other cases are done.

    Raises:
        RoomError: the disk is full.
        Exception: our own bug in one of the cases, once the others are done.
    """
    faults = _Faults()
    with (
        ThreadPoolExecutor(1, thread_name_prefix="read") as reader,
        ThreadPoolExecutor(1, thread_name_prefix="write") as writer,
    ):
        ahead = _Pending(cases[0][0], reader.submit(read, cases[0][1])) if cases else None
        behind: _Pending[None] | None = None
        try:
            for index, (case_id, case) in enumerate(track(cases, len(cases), what)):
                loaded = faults.collect(ahead)
                following = cases[index + 1] if index + 1 < len(cases) else None
                ahead = _Pending(following[0], reader.submit(read, following[1])) if following else None
                result = faults.attempt(case_id, functools.partial(work, loaded)) if loaded is not None else None
                loaded = None
                faults.collect(behind)
                behind = _Pending(case_id, writer.submit(write, case, result)) if result is not None else None
                result = None  # or it would stay in memory while the next is worked on, written or not
            faults.collect(behind)
        finally:
            reader.shutdown(wait=False, cancel_futures=True)
    faults.raise_bug()
    return faults.found


class _Pending(Generic[Result]):
    """A case in another thread."""

    def __init__(self, case_id: str, future: "Future[Result]") -> None:
        self.case_id, self.future = case_id, future


class _Faults:
    """What went wrong, by case; a bug of ours is kept to be raised at the end."""

    def __init__(self) -> None:
        self.found: dict[str, str] = {}
        self.bug: Exception | None = None

    def attempt(self, case_id: str, action: Callable[[], Result]) -> Result | None:
        """Give what the action gives, or None after noting what went wrong."""
        try:
            return action()
        except RoomError:  # a disk that is full holds no other case either
            raise
        except Exception as fault:
            if room.is_no_disk(fault):
                raise RoomError(room.told(fault)) from fault
            text = room.told(fault)
            if text is None and not isinstance(fault, AutosegError | ValueError | OSError):
                fault.add_note(f"while predicting case {case_id}")
                self.bug = self.bug or fault
            self.found[case_id] = text or str(fault) or type(fault).__name__
        return None

    def collect(self, pending: "_Pending[Result] | None") -> Result | None:
        """Wait for a case in another thread."""
        return self.attempt(pending.case_id, pending.future.result) if pending else None

    def raise_bug(self) -> None:
        """Raise the first bug, if there was one."""
        if self.bug is not None:
            raise self.bug
