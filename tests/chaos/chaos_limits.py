"""Limits and places that tests of memory, disk and read-only folders inject; plain functions, as in chaos_driver."""

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from chaos_driver import final_state

ONE_MESSAGE = (
    "Traceback",
    "fault in autoseg",
    "DefaultCPUAllocator",
    "std::bad_alloc",
    "MemoryError",
    "Killed",
    "Errno",
)
"""What no message to a user may hold."""

FILES_OF = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({}, resource.RLIM_INFINITY))"
"""Statement: no file may be larger than so many bytes."""

MEMORY_OF = "import resource; resource.setrlimit(resource.RLIMIT_AS, ({}, resource.RLIM_INFINITY))"
"""Statement: so many bytes of address space."""

TIGHT = """
import resource
from autoseg import room
import {module} as place
def tightened(*given, _real=place.{name}, **more):
    taken = next(limit for limit in [int(line.split()[1]) * 1024 for line in open("/proc/self/status")
                                     if line.startswith("VmSize:")])
    resource.setrlimit(resource.RLIMIT_AS, (taken + {more}, resource.RLIM_INFINITY))
    return _real(*given, **more)
place.{name} = tightened
"""
"""Statements: from a call of ``module.name`` on, only ``more`` bytes beside what is taken then."""


def is_one_message(said: str) -> bool:
    """Tell whether what was said ends in a message for people, not in a traceback or a library's own words."""
    return not any(word in said for word in ONE_MESSAGE)


def differing(run: Path, reference: Path) -> list[str]:
    """List the results of two runs that are not the same, and print them."""
    found, wanted = final_state(run), final_state(reference)
    names = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
    print(f"differing: {names}")
    return names


def copy_run(reference: Path, run: Path, *without: str) -> Path:
    """Copy a run folder, leaving out some of its files or folders."""
    shutil.copytree(reference, run)
    for name in without:
        path = run / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return run


@functools.cache
def can_mount() -> str:
    """Say why this machine lets no user mount a file system of his own; empty where it does."""
    if shutil.which("unshare") is None:
        return "there is no unshare here"
    done = subprocess.run(
        ["unshare", "-rm", "mount", "-t", "tmpfs", "-o", "size=64k", "none", "/mnt"], capture_output=True, text=True
    )
    return done.stderr.strip() if done.returncode else ""


def finish_mounted(
    mounts: Sequence[str], arguments: Sequence[str], environment: Mapping[str, str] | None = None, *, code: str = ""
) -> tuple[int, str]:
    """Run ``autoseg ARGUMENTS`` with mounts that no other process sees; give exit code and what it said.

    Args:
        mounts: arguments of ``mount``, each as one text; ``ro FOLDER`` makes a folder read-only.
        arguments: of autoseg; with ``code``, of Python.
        environment: variables set beside this process's own.
        code: Python to run in place of autoseg.
    """
    lines = []
    for item in mounts:
        if item.startswith("ro "):
            folder = item.removeprefix("ro ")
            lines += [f'mount --bind "{folder}" "{folder}"', f'mount -o remount,ro,bind "{folder}"']
        else:
            lines.append(f"mount {item}")
    program = [sys.executable, "-c", code] if code else [sys.executable, "-m", "autoseg"]
    script = " && ".join([*lines, 'exec "$@"'])
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, "sh", *program, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
    )
    return done.returncode, done.stdout
