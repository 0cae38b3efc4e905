"""A job is a command line: run several here, one per GPU. A cluster would start the very same commands.

The GPUs are asked from the driver's own tool, so that a plan can be made without importing torch.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue

from autoseg.errors import AutosegError
from autoseg.progress import say

MEBIBYTE = 2**20
QUERY = ("nvidia-smi", "--query-gpu=index,memory.total", "--format=csv,noheader,nounits")


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One graphics card: its number and its memory."""

    index: str
    memory_bytes: int


@dataclass(frozen=True, kw_only=True)
class Job:
    """One piece of work as a command line, such as ``autoseg train runs/x 3d_fullres 0``."""

    name: str
    command: tuple[str, ...]


def visible_gpus() -> tuple[Gpu, ...]:
    """List the NVIDIA cards this process may use; empty where there is none or the driver does not answer."""
    if shutil.which(QUERY[0]) is None:
        return ()
    try:
        answer = subprocess.run(QUERY, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    rows = [line.split(",") for line in answer.splitlines() if line.count(",") == 1]
    found = [Gpu(index=i.strip(), memory_bytes=int(m) * MEBIBYTE) for i, m in rows if m.strip().isdigit()]
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is None:
        return tuple(found)
    wanted = [part.strip() for part in allowed.split(",")]
    return tuple(gpu for gpu in found if gpu.index in wanted)


def autoseg_command(*arguments: str) -> tuple[str, ...]:
    """Give the command line that runs a verb with this very Python."""
    return (sys.executable, "-m", "autoseg", *arguments)


def run_jobs(jobs: Sequence[Job], devices: Sequence[str]) -> None:
    """Run the jobs, at most one on each device at a time; one that fails does not stop the others.

    Where this process is told to end, so are they, and it waits until they have saved what they have.

    Args:
        jobs: run in this order as devices become free.
        devices: values for ``CUDA_VISIBLE_DEVICES``.

    Raises:
        AutosegError: some failed; the message names each with the last line it wrote.
    """
    free: SimpleQueue[str] = SimpleQueue()
    for device in devices:
        free.put(device)
    running: list[subprocess.Popen[str]] = []
    with ThreadPoolExecutor(max_workers=len(devices)) as pool:
        try:
            faults = [fault for fault in pool.map(lambda job: _run_one(job, free, running), jobs) if fault]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in running:
                process.terminate()
            raise
    if faults:
        raise AutosegError("\n  ".join([f"{len(faults)} of {len(jobs)} jobs failed", *faults]))


def _run_one(job: Job, free: "SimpleQueue[str]", running: "list[subprocess.Popen[str]]") -> str | None:
    device = free.get()
    say(f"  {job.name}: started on GPU {device}")
    try:
        with tempfile.TemporaryFile("w+") as output:
            environment = {**os.environ, "CUDA_VISIBLE_DEVICES": device}
            done = subprocess.Popen(job.command, stdout=output, stderr=output, env=environment, text=True)
            running.append(done)
            done.wait()
            running.remove(done)
            output.seek(0)
            lines = [line.strip() for line in output if line.strip()]
    finally:
        free.put(device)
    say(f"  {job.name}: {'done' if done.returncode == 0 else 'failed'}")
    if done.returncode == 0:
        return None
    return f"{job.name} (exit code {done.returncode}): {lines[-1] if lines else 'no output'}"
