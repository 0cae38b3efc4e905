"""Being told to end: Ctrl-C, and the SIGTERM of a cluster that takes its node back.

Both unwind the program, so that what it began is put away and it says how to go on. What a signal finds half-done is
lost, as by a kill, and a kill loses little: every file is written whole or not at all.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

GRACE_S = 20.0
"""How long threads may keep a process that was told to end. Assumption: clusters kill after 30 s or more."""


class Stopped(KeyboardInterrupt):
    """The process was told to end by a signal."""

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__(number)
        self.number = number

    @property
    def exit_code(self) -> int:
        """128 and the number of the signal, as shells have it."""
        return 128 + self.number


def say_at_once(text: str) -> None:
    """Print a line from a signal handler, which may have interrupted another print."""
    with contextlib.suppress(OSError):
        os.write(2, f"{text}\n".encode(errors="backslashreplace"))


@contextlib.contextmanager
def stoppable(farewell: str) -> Iterator[None]:
    """Raise ``Stopped`` in the main thread where SIGTERM or Ctrl-C comes while the body runs.

    Ctrl-C too: where Python's own KeyboardInterrupt leaves code that was given to ``exec`` as a text (imports do that),
    ``python -m`` dies of SIGINT in the end although it was caught; of the classes derived from it Python takes no note.
    A Ctrl-C that is ignored or handled by the caller stays so.

    Args:
        farewell: is said where threads keep the process for longer than ``GRACE_S`` and it ends without them.

    Yields:
        Nothing; in another thread than the main one, which gets no signals, nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    left = threading.Event()

    def end_hard() -> None:
        if left.is_set() and threading.main_thread().is_alive():
            return  # the body was left in time, and whoever called it from Python goes on with something else
        say_at_once(farewell)
        os._exit(Stopped(signal.SIGTERM).exit_code)

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(number, lambda *_: None)  # some clusters send it more than once
        last = threading.Timer(GRACE_S, end_hard)
        last.daemon = True
        last.start()
        raise Stopped(number)

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise Stopped(number)

    before = signal.signal(signal.SIGTERM, stop)
    own_interrupt = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if own_interrupt:
        signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        left.set()
        if own_interrupt:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)
