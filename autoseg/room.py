"""Main memory and disk: how much of them this process may take, and one message where they do not suffice.

Want of memory comes in many dresses: numpy raises a MemoryError, torch a RuntimeError, ITK an error of its own, the
loader of libraries an ImportError. Want of disk is an OSError, which may name no file and no number. Here they become
one error that says what was needed, what there is, by which limit, and what to do.
"""

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from autoseg.errors import RoomError
from planners.decision import byte_size

CONTROL_GROUPS = Path("/sys/fs/cgroup")
"""Where Linux shows the limits of containers and batch jobs."""

NO_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

NO_MEMORY = re.compile(
    r"can't allocate memory|cannot allocate memory|not enough memory|bad_alloc|failed to allocate|unable to allocate"
    r"|failed to map segment|can't start new thread",
    re.IGNORECASE,
)
"""How numpy, torch, ITK, C++ and the loader of libraries say that main memory ran out."""

NO_PRIMITIVE = "could not create a primitive"
"""oneDNN's words for want of memory, and for other wants: they count as the first where ``HARDLY_ANY`` is left."""

HARDLY_ANY = 2**25
"""Bytes: less is no room for a convolution's code and working space. Assumption; 0.4 to 9 MB were left where loading
a library failed, less where a convolution did (measured 2026-11)."""

NO_DEVICE_MEMORY = re.compile(
    r"(CUDA|HIP)( error:)? out of memory|(CUBLAS|CUDNN)_STATUS_ALLOC_FAILED|MPS backend out of memory", re.IGNORECASE
)
"""How a GPU's libraries say that its memory ran out, where torch does not raise its own error for it."""

SHORT_WRITE = re.compile(r"^\d+ requested and \d+ written$")
"""numpy's words for a full disk."""

ASKED = re.compile(r"tried to allocate (\d+) bytes|allocate ([\d.]+) ([KMGTPE]iB)", re.IGNORECASE)
UNITS = {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40, "pib": 2**50, "eib": 2**60}

THREAD_BYTES = 64 * 8 * 2**20
"""Stacks of threads that are yet to start: writable at once, hardly ever touched. Assumption: 64 of 8 MiB."""


@dataclass(frozen=True)
class Limit:
    """One limit of main memory.

    Attributes:
        whose: for people, with what to do about it.
        total_bytes: what may be taken in all.
        left_bytes: what is left of it now.
    """

    whose: str
    remedy: str
    total_bytes: int
    left_bytes: int


def memory_limits() -> list[Limit]:
    """List the limits of main memory that hold for this process, as they are now; empty where nothing tells."""
    return [*_process_limits(), *_group_limits(), *_machine_limit()]


def free_memory() -> int | None:
    """Give the bytes of main memory that this process can still take; None where nothing tells."""
    return min((max(limit.left_bytes, 0) for limit in memory_limits()), default=None)


def bound_to_group() -> None:
    """Let this process fail with an error, not be killed, where it takes more than its container or batch job may.

    The kernel kills what goes over a control group's limit, without a word. A limit of the process's own writable
    memory that comes first is an error that can be told. What is there already, touched or not, is not counted.
    """
    left = min((limit.left_bytes for limit in _group_limits()), default=None)
    if left is None:
        return
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        wanted = _status_bytes("VmData") + max(left, 0) + THREAD_BYTES
        if all(value == resource.RLIM_INFINITY or wanted < value for value in (soft, hard)):
            resource.setrlimit(resource.RLIMIT_DATA, (wanted, hard))


def told(fault: BaseException) -> str | None:
    """Say in one message what an error means that came from want of memory or disk; None of any other."""
    if is_no_disk(fault):
        name = getattr(fault, "filename", None)
        return str(no_disk(Path(name) if isinstance(name, str) else None, None, fault))
    if is_device_full(fault):
        first = str(fault).strip().splitlines()[0] if str(fault).strip() else "no more is said"
        return (
            f"the device's memory ran out ({first}). Stop other programs on it, or use --device cpu; the same command "
            "then goes on with what is done"
        )
    return str(no_memory(fault)) if is_no_memory(fault) else None


def is_device_full(fault: BaseException) -> bool:
    """Tell whether an error means that the memory of a GPU ran out."""
    if type(fault).__name__ == "OutOfMemoryError":
        return True
    return isinstance(fault, RuntimeError) and bool(NO_DEVICE_MEMORY.search(str(fault)))


def is_no_memory(fault: BaseException) -> bool:
    """Tell whether an error means that main memory ran out; a device's own memory is another matter."""
    if isinstance(fault, MemoryError):
        return True
    if isinstance(fault, OSError) and fault.errno == errno.ENOMEM:
        return True
    if is_device_full(fault) or not isinstance(fault, RuntimeError | ImportError | OSError):
        return False
    return bool(NO_MEMORY.search(str(fault))) or (NO_PRIMITIVE in str(fault) and _is_used_up())


def _is_used_up() -> bool:
    left = free_memory()
    return left is not None and left < HARDLY_ANY


def is_no_disk(fault: BaseException) -> bool:
    """Tell whether an error means that a disk, a quota or the largest size of a file was reached."""
    if not isinstance(fault, OSError):
        return False
    return fault.errno in NO_DISK or (fault.errno is None and bool(SHORT_WRITE.match(str(fault))))


def no_memory(fault: BaseException, doing: str = "", needed: int | None = None) -> RoomError:
    """Make the error of main memory that ran out.

    Args:
        fault: what was raised.
        doing: what was done, such as ``training 3d_fullres fold 0``; empty: not said.
        needed: bytes that it takes by our estimate, where there is one.
    """
    limit = min(memory_limits(), key=lambda item: item.left_bytes, default=None)
    asked = _asked(str(fault))
    parts = [f"main memory ran out{f' while {doing}' if doing else ''}"]
    if needed is not None:
        parts.append(f"it needs about {byte_size(needed)}")
    if asked is not None:
        parts.append(f"the last request was for {byte_size(asked)}")
    if limit is not None:
        parts.append(f"{limit.whose} allows {byte_size(limit.total_bytes)}, {byte_size(max(limit.left_bytes, 0))} left")
    remedy = "Give it more memory" if limit is None else limit.remedy
    return RoomError(f"{'; '.join(parts)}. {remedy}; the same command then goes on with what is done")


def no_disk(path: Path | None, needed: int | None, fault: BaseException | None = None) -> RoomError:
    """Make the error of a file that does not fit where it should go.

    Args:
        path: the file; None where it is not known.
        needed: its bytes; None where they are not known.
        fault: what was raised.
    """
    where = "a file" if path is None else str(path)
    need = "" if needed is None else f"it needs up to {byte_size(needed)}, "
    number = getattr(fault, "errno", None)
    largest = largest_file()
    if largest is not None and (number == errno.EFBIG or (needed or 0) > largest):
        found = f"{need}a file may have {byte_size(largest)} at most (ulimit -f, or the file system's own limit)"
        remedy = "Raise that limit, or name another folder"
    else:
        free = None if path is None else free_disk(path)
        there = "" if free is None else f"{byte_size(free)} are free in {path.parent if path else ''}"
        why = "your quota is used up" if number == errno.EDQUOT else "the disk is full"
        found = f"{why} ({need}{there})".replace(", )", ")").replace(" ()", "")
        remedy = "Free space there, or name another folder"
    return RoomError(
        f"{where} cannot be written: {found}. {remedy}; what is done is kept, and the same command then goes on"
    )


def is_short(path: Path, needed: int) -> bool:
    """Tell whether a file of so many bytes would not fit where it should go."""
    free, largest = free_disk(path), largest_file()
    return (free is not None and needed > free) or (largest is not None and needed > largest)


def check_disk(folder: Path, needed: int, what: str) -> None:
    """Refuse to begin what the disk surely cannot hold.

    Raises:
        RoomError: more is needed than is free.
    """
    free = free_disk(folder / "any")
    if free is not None and needed > free:
        raise RoomError(
            f"{what} needs about {byte_size(needed)} of disk, and {byte_size(free)} are free in {folder}. Free space "
            "there, or name another folder (--out); the same command then goes on"
        )


def free_disk(path: Path) -> int | None:
    """Give the bytes that are free where a file is to be written; None where the system does not tell."""
    folder = next((item for item in path.absolute().parents if item.is_dir()), None)
    try:
        return None if folder is None else shutil.disk_usage(folder).free
    except OSError:
        return None


def reserve(path: Path, num_bytes: int, named: Path | None = None) -> None:
    """Take the disk space of a file that is written through memory later, where a full disk would kill the process.

    Args:
        path: the file, which is there.
        num_bytes: that it will have.
        named: the name that it will have, for the message.

    Raises:
        RoomError: the disk does not hold it.
    """
    if not hasattr(os, "posix_fallocate") or num_bytes == 0:
        return
    handle = os.open(path, os.O_RDWR)
    try:
        os.posix_fallocate(handle, 0, num_bytes)
    except OSError as fault:
        if is_no_disk(fault):
            raise no_disk(named or path, num_bytes, fault) from fault
    finally:  # a file system that cannot reserve is used as it is
        os.close(handle)


def _asked(text: str) -> int | None:
    found = ASKED.search(text)
    if found is None:
        return None
    return int(found[1]) if found[1] else int(float(found[2]) * UNITS[found[3].lower()])


def largest_file() -> int | None:
    """Give the bytes that a file may have by the limit of this process (``ulimit -f``); None where there is none."""
    try:
        import resource
    except ImportError:
        return None
    soft = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return None if soft == resource.RLIM_INFINITY else soft


def _process_limits() -> Iterator[Limit]:
    try:
        import resource
    except ImportError:  # Windows
        return
    rows = (
        ("RLIMIT_AS", "VmSize", "the limit of address space (ulimit -v)", "Raise it"),
        ("RLIMIT_DATA", "VmData", "the limit of writable memory (ulimit -d, or the container's)", "Give it more"),
    )
    for name, used, whose, remedy in rows:
        soft = resource.getrlimit(getattr(resource, name))[0]
        if soft != resource.RLIM_INFINITY:
            yield Limit(whose, remedy, soft, soft - _status_bytes(used))


def _status_bytes(name: str) -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return 0


def _machine_limit() -> Iterator[Limit]:
    whose, remedy = "this machine", "Stop other programs, or use a machine with more"
    with contextlib.suppress(OSError, ValueError, IndexError, KeyError):
        rows = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        total, left = (int(rows[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
        yield Limit(whose, remedy, total, left)
        return
    with contextlib.suppress(OSError, ValueError, AttributeError):
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        yield Limit(whose, remedy, total, total // 2)  # no word on what is free: assume half


def _group_limits() -> Iterator[Limit]:
    """Give the limits that control groups (version 1 or 2) set for this process: its own, and those above it.

    Files that the kernel keeps in memory and can drop count as used there, so they are added back.
    """
    names = {"memory.max": "memory.current", "memory.limit_in_bytes": "memory.usage_in_bytes"}
    for folder in dict.fromkeys(_group_folders()):
        for limit, used in names.items():
            with contextlib.suppress(OSError, ValueError):  # absent, or "max"
                total = int((folder / limit).read_text())
                left = total - int((folder / used).read_text())
                stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                left += int(stat.get("total_inactive_file", stat.get("inactive_file", 0)))
                if total < 2**62:  # version 1 says "no limit" so
                    yield Limit("the container or batch job", "Ask for more memory for it", total, left)


def _group_folders() -> Iterator[Path]:
    """Give the folders of the groups of this process, and of those above: a limit holds for all below it."""
    roots = (CONTROL_GROUPS, CONTROL_GROUPS / "memory", CONTROL_GROUPS / "unified")
    yield from roots
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "memory" not in controllers.split(","):
                continue
            for root in roots:
                folder = root / path.lstrip("/")
                yield from (folder, *(item for item in folder.parents if item.is_relative_to(root)))
