"""Say what is going on: one line at a time, or a bar with a finish time for what takes over two seconds.

Everything here goes to standard error; results go to standard output and are printed by the command line alone.
"""

import contextlib
import datetime
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress

Item = TypeVar("Item")

SILENT_S = 2.0  # assumption: what is done sooner needs no bar
PLAIN_INTERVAL_S = 10.0  # assumption: a log file with a line every ten seconds is still readable


Listener = Callable[[str, str], None]
"""Is given the kind of what is said (``note``, ``warning``) and its text."""

_listeners: list[Listener] = []


def say(text: str = "", kind: str = "note") -> None:
    """Print one line to standard error, and tell it to all who listen."""
    print(text, file=sys.stderr, flush=True)
    for listener in tuple(_listeners):
        listener(kind, text)


def warn(text: str) -> None:
    """Say what may make a result worse or wrong: it is kept apart in a run's log and report."""
    say(text, "warning")


@contextlib.contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Tell a listener all that is said in this process while the body runs."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def track(items: Iterable[Item], total: int, what: str) -> Iterator[Item]:
    """Pass the items through and show how far they are, with the time at which the last will be done.

    Args:
        items: any iterable; may yield in any order.
        total: how many will come.
        what: a short phrase in front of the numbers, such as ``preprocessing 3d_fullres``.
    """
    tick = meter(total, what)
    try:
        for item in items:
            yield item
            tick(1)
    finally:
        tick(0)


def meter(total: int, what: str, interval_s: float = PLAIN_INTERVAL_S) -> "Callable[[int], None]":
    """Give a function to call with the number of steps just done; call it with 0 at the very end.

    Args:
        total: how many steps there are.
        what: a short phrase in front of the numbers.
        interval_s: seconds between two lines where the output is no terminal.
    """
    return _Bar(total, what) if sys.stderr.isatty() else _Lines(total, what, interval_s)


def finish_time(seconds: float) -> str:
    """Say when something that needs ``seconds`` more will be done, with the day where that is not today."""
    now = datetime.datetime.now()
    end = now + datetime.timedelta(seconds=seconds)
    return end.strftime("%H:%M:%S" if end.date() == now.date() else "%a %d %b %H:%M")


def duration(seconds: float) -> str:
    """Write a duration for people: ``4.2 s``, ``3 min 20 s``, ``5 h 12 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{int(seconds // 60)} min {int(seconds % 60)} s"
    return f"{minutes // 60} h {minutes % 60} min"


class _Lines:
    """Plain lines for a log file: one every few seconds, none for what is done sooner."""

    def __init__(self, total: int, what: str, interval_s: float) -> None:
        self.total, self.what, self.done = total, what, 0
        self.interval_s = interval_s
        self.start = self.last = time.monotonic()
        self.shown = False

    def __call__(self, steps: int) -> None:
        self.done += steps
        now = time.monotonic()
        spent = now - self.start
        if steps == 0:
            if self.shown:
                say(f"  {self.what}: {self.done}/{self.total} in {duration(spent)}")
            return
        if spent > SILENT_S and (now - self.last > self.interval_s) and self.done < self.total:
            left = spent / self.done * (self.total - self.done)
            say(f"  {self.what}: {self.done}/{self.total}, done at {finish_time(left)}")
            self.last, self.shown = now, True


class _Bar:
    """A bar on a terminal; it appears after two seconds and goes away when done."""

    def __init__(self, total: int, what: str) -> None:
        self.total, self.what, self.done = total, what, 0
        self.start = time.monotonic()
        self.progress: Progress | None = None

    def __call__(self, steps: int) -> None:
        self.done += steps
        spent = time.monotonic() - self.start
        if steps == 0:
            if self.progress is not None:
                self.progress.stop()
                say(f"  {self.what}: {self.done}/{self.total} in {duration(spent)}")
            return
        if self.progress is None and spent > SILENT_S:
            self._open()
        if self.progress is not None:
            left = spent / self.done * (self.total - self.done)
            self.progress.update(self.progress.task_ids[0], completed=self.done, end=finish_time(left))

    def _open(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self.progress = Progress(
            TextColumn("  {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("done at {task.fields[end]}"),
            console=Console(stderr=True),
            transient=True,
        )
        self.progress.add_task(self.what, total=self.total, completed=self.done, end="…")
        self.progress.start()
