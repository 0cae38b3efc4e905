"""Lock files: two programs never work on one thing, a killed one never stands in the way, and who holds it is said.

The lock is the system's own (``flock``; byte ranges on Windows) and ends with its process, however that ends. What
stands in the file is for people alone: host, process, since when, command. Where a file system offers no locks, the
process named in the file is asked for instead; of another machine's processes nothing is known then.
"""

import contextlib
import datetime
import errno
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from autoseg.errors import RunFolderError
from autoseg.progress import say

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

POLL_S = 0.5  # assumption: who waits for hours does not mind half a second
GRACE_S = 1.0  # assumption: a lock that is only looked at, or held for one short write, is free again sooner
WINDOWS_BYTE = 1 << 30  # locked instead of the whole file, so that others can read who holds it
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}
"""What file systems without locks answer."""


class InUseError(RunFolderError):
    """Another process works on it."""


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Who holds a lock, for people; ``about`` is what the holder wrote beside it."""

    host: str
    pid: int
    since: str
    command: str
    about: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} (since {self.since}: {self.command})"


def this_process(about: dict[str, Any] | None = None) -> Holder:
    """Describe this process as a holder."""
    since = datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    program = Path(sys.argv[0])
    command = shlex.join([program.parent.name if program.name == "__main__.py" else program.name, *sys.argv[1:]])
    return Holder(host=platform.node(), pid=os.getpid(), since=since, command=command, about=about or {})


@contextlib.contextmanager
def hold(
    path: Path,
    *,
    wait: bool = False,
    about: dict[str, Any] | None = None,
    remove: bool = False,
) -> Iterator[bool]:
    """Hold a lock file while the body runs.

    Args:
        path: the lock file; it is made, and what it locks is its folder.
        wait: wait until it is free instead of giving up; once it is said for whom.
        about: kept in the file beside who holds it.
        remove: delete the file in the end, and the folder too if it was made for it and nothing came into it.

    Yields:
        Whether it had to wait.

    Raises:
        InUseError: another process holds it; the message names it.
    """
    is_new = not path.parent.exists()
    file, waited = _take(path, wait)
    _HELD.add(file)
    try:
        file.seek(0)
        file.truncate()
        file.write(json.dumps(vars(this_process(about)), ensure_ascii=False))
        file.flush()
        yield waited
    finally:
        if remove:
            with contextlib.suppress(OSError):
                path.unlink()
                if is_new:
                    path.parent.rmdir()
        _HELD.discard(file)
        file.close()


def holder_of(path: Path) -> Holder | None:
    """Give who holds a lock file now; None where nobody does, or there is no such file."""
    try:
        file = path.open("r+", encoding="utf-8")
    except OSError:
        return None
    with file:
        return None if _try(file, path) else written_in(path) or _unknown()


def written_in(path: Path) -> Holder | None:
    """Give who held a lock file last, whether it lives or not; None where that cannot be read."""
    try:
        return Holder(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def mark_in_use(file: int) -> None:
    """Mark an open file as in use until it is closed: ``is_in_use`` tells it, also to other processes."""
    if sys.platform != "win32":
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)


def is_in_use(path: Path) -> bool:
    """Tell whether a process has marked a file as in use, or that cannot be known.

    Raises:
        OSError: there is no such file, or it cannot be opened.
    """
    if sys.platform == "win32":
        return False  # what is open cannot be deleted there
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


_HELD: set[TextIO] = set()


def _forget_after_fork() -> None:
    """Close, in a forked child, what its parent holds: the child would hold it on after the parent's death."""
    for file in _HELD:
        with contextlib.suppress(OSError):
            os.close(file.fileno())
    _HELD.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)


def _take(path: Path, wait: bool) -> tuple[TextIO, bool]:
    began, waited = time.monotonic(), False
    while True:
        file = _open(path)
        if _try(file, path) and _is_the_file(file, path):
            return file, waited
        file.close()
        if time.monotonic() - began < GRACE_S:
            time.sleep(GRACE_S / 50)
            continue
        holder = written_in(path) or _unknown()
        if not wait:
            raise InUseError(
                f"{path.parent} is in use by {holder}. Wait until it has finished (--wait does), or stop it"
            )
        if not waited:
            say(f"  waiting for {holder}, which works on {path.parent}")
        waited = True
        time.sleep(POLL_S)


def _open(path: Path) -> TextIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a+", encoding="utf-8")
    except OSError as fault:  # the lock file is nothing a user knows of: name its folder
        raise OSError(fault.errno, f"{fault.strerror}: nothing can be written there", str(path.parent)) from fault


def _try(file: TextIO, path: Path) -> bool:
    """Take the lock, or tell that another has it."""
    try:
        if sys.platform == "win32":
            file.seek(WINDOWS_BYTE)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as fault:
        return fault.errno in NO_LOCKS and not _seems_held(path)
    return True


def _is_the_file(file: TextIO, path: Path) -> bool:
    """Tell whether the open file still is the one under this name: its last holder may have deleted it."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False


def _seems_held(path: Path) -> bool:
    holder = written_in(path)
    if holder is None or holder.host != platform.node() or holder.pid == os.getpid():
        return False
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _unknown() -> Holder:
    """Stand for a holder that has not written its name yet, or of another version of the program."""
    return Holder(host="this or another machine", pid=0, since="a moment ago", command="autoseg")
