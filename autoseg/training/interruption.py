"""Being asked to stop: Ctrl-C and a polite kill end a training after its step, with its state saved.

A cluster that takes its node back sends SIGTERM, some of them twice, and SIGKILL half a minute later.
"""

import signal
import threading
from types import FrameType
from typing import Any

from autoseg.stopping import Stopped, say_at_once


class Interrupted(Stopped):
    """Ctrl-C was pressed or the process was asked to end; the state is saved."""


class Interruption:
    """While it is entered, SIGINT and SIGTERM set ``asked``; another Ctrl-C stops at once."""

    def __init__(self) -> None:
        self.asked = False
        self.number: int = signal.SIGINT
        self.before: dict[int, Any] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.before[number] = signal.signal(number, self._note)

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def raise_if_asked(self) -> None:
        """End the training here.

        Raises:
            Interrupted: it was asked for.
        """
        if self.asked:
            raise Interrupted(self.number)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT:
            raise Stopped(number)
        if self.asked:
            return
        self.asked, self.number = True, number
        say_at_once("  finishing this step and saving (Ctrl-C once more to stop at once) …")
