"""This machine: versions, GPU and driver, known faults of cuDNN, processor, limits, compiler, a convolution checked."""

import contextlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy
import torch

from autoseg import __version__, compute, native, room
from autoseg.doctor.finding import Finding, disk
from autoseg.errors import AutosegError
from autoseg.provenance import processor_name
from planners.decision import byte_size

FEW_FILES = 256
"""Open files that a process may have. Assumption: maps of a store's cases are opened and closed, so few are open at
once; libraries and worker processes need some dozens."""
FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "sve", "bf16")
"""Features of a processor, as Linux names them, that its convolutions gain from."""
ASK_DRIVER_S = 20.0  # assumption: a driver that needs longer for its version is not well


@dataclass(frozen=True, kw_only=True)
class Cuda:
    """What is known of CUDA here.

    Attributes:
        built: the CUDA version that torch was built with; None: built without.
        available: whether torch can use a GPU.
        has_gpu: whether the system shows an NVIDIA GPU or its driver.
        driver: the newest CUDA version that the driver knows, such as ``12.4``; empty where it does not answer.
        fault: what torch says when it is asked for the GPU and cannot.
        hidden: ``CUDA_VISIBLE_DEVICES`` where it is set.
        cudnn: its version as a number, such as 91002 for 9.10.2; None where there is none.
        torch: its version.
    """

    built: str | None
    available: bool
    has_gpu: bool
    driver: str = ""
    fault: str = ""
    hidden: str | None = None
    cudnn: int | None = None
    torch: str = torch.__version__


def examine_machine() -> tuple[Finding, ...]:
    """Look at versions, GPU, processor, limits and disk; a convolution is checked against float64 on the way."""
    found = [_versions(), *judge_cuda(look_for_cuda()), _processor(), _threads(), _compiler()]
    try:
        chosen = compute.choose()
        found += [Finding(title="computing", text=reason) for reason in chosen.reasons]
        error = compute.convolution_error(torch.device(chosen.device), chosen.precision)
        limit = compute.TOLERANCES[chosen.precision]
        text = f"a 3D convolution in {chosen.precision} differs from float64 by {error:.1e} (allowed {limit:.0e})"
        found.append(Finding(title="self-test", text=text, is_bad=error > limit))
    except AutosegError as fault:
        found.append(Finding(title="computing", text=str(fault), is_bad=True))
    return (*found, *_memory(), *_limits(), disk(Path.cwd()), _temporary())


def look_for_cuda() -> Cuda:
    """Ask torch, the driver and the system about NVIDIA GPUs."""
    available, fault = torch.cuda.is_available(), ""
    if torch.version.cuda and not available:
        try:
            torch.cuda.init()
        except (RuntimeError, AssertionError) as reason:
            fault = str(reason).splitlines()[0]
    driver = ""
    if shutil.which("nvidia-smi") is not None:
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            done = subprocess.run(["nvidia-smi"], capture_output=True, text=True, timeout=ASK_DRIVER_S, check=True)
            version = re.search(r"CUDA Version:\s*([\d.]+)", done.stdout)
            driver = version[1] if version else ""
    return Cuda(
        built=torch.version.cuda,
        available=available,
        has_gpu=bool(driver) or Path("/proc/driver/nvidia/version").exists(),
        driver=driver,
        fault=fault,
        hidden=os.environ.get("CUDA_VISIBLE_DEVICES"),
        cudnn=torch.backends.cudnn.version() if torch.version.cuda else None,
    )


def judge_cuda(cuda: Cuda) -> list[Finding]:
    """Say whether torch, driver and GPU fit together, and which faults of these versions are known."""
    found = [Finding(title="GPU", text=text, is_bad=bad) for text, bad in [_match(cuda)] if text]
    if cuda.available:
        found += [Finding(title="cuDNN", text=text, is_bad=True) for text in known_faults(cuda.torch, cuda.cudnn)]
    return found


def _match(cuda: Cuda) -> tuple[str, bool]:
    if cuda.available:
        version = "" if cuda.cudnn is None else f", cuDNN {_cudnn_text(cuda.cudnn)}"
        knows = f"; the driver knows up to {cuda.driver}" if cuda.driver else ""
        return f"torch can use it; torch is built for CUDA {cuda.built}{version}{knows}", False
    if cuda.hidden is not None and cuda.hidden.strip() in ("", "-1"):
        return "hidden: CUDA_VISIBLE_DEVICES is empty. Unset it to compute on a GPU", False
    if cuda.built is None:
        if not cuda.has_gpu or torch.version.hip:
            return ("none of NVIDIA here; torch is built without CUDA", False) if not torch.version.hip else ("", False)
        told = f" (its driver knows CUDA {cuda.driver})" if cuda.driver else ""
        return f"there is one{told}, but torch is built without CUDA. Install a CUDA build: pytorch.org", True
    if not cuda.has_gpu:
        return f"none here that answers (nvidia-smi); torch is built for CUDA {cuda.built}", False
    if cuda.driver and _numbers(cuda.driver)[0] < _numbers(cuda.built)[0]:
        text = f"the driver is too old: it knows CUDA {cuda.driver}, torch is built for {cuda.built}"
        return f"{text}. Update the driver, or install a torch build for CUDA {cuda.driver}", True
    why = cuda.fault or "torch does not say why"
    return f"there is one, but torch (built for CUDA {cuda.built}) cannot use it: {why}. Look at nvidia-smi", True


def known_faults(torch_version: str, cudnn: int | None) -> list[str]:
    """Name what is known to be slow or wrong with 3D convolutions in these versions, and what to do.

    Args:
        torch_version: such as ``2.9.1+cu128``.
        cudnn: as a number, such as 91002; None: there is none.

    Source: pytorch issues 163539 (wrong bf16), 166122 (slow), 167024 (TF32).
    """
    if cudnn is None:
        return []
    name, found = f"cuDNN {_cudnn_text(cudnn)}", []
    if _numbers(torch_version)[:2] == [2, 9] and cudnn < 91500:
        found.append(
            f"torch {torch_version} with {name}: 3D convolutions in mixed precision are about four times slower "
            "(pytorch#166122). Install torch 2.10 or newer, or nvidia-cudnn-cu12>=9.15"
        )
    if cudnn == 91002:
        found.append(
            f"{name}: wrong results of large 3D convolutions in bf16 (pytorch#163539). "
            "Install nvidia-cudnn-cu12>=9.15, or train with --precision fp16"
        )
    if 91002 <= cudnn < 91500:
        found.append(
            f"{name}: 3D convolutions in TF32 may be wrong (pytorch#167024). Install nvidia-cudnn-cu12>=9.15; "
            "autoseg leaves TF32 of torch as it is"
        )
    return found


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version.partition("+")[0])] or [0]


def _cudnn_text(version: int) -> str:
    """Write cuDNN's number as people do: since 9.0 it is major × 10000 + minor × 100 + patch, before 1000."""
    major, rest = divmod(version, 10000) if version >= 90000 else divmod(version, 1000)
    return f"{major}.{rest // 100}.{rest % 100}"


def _versions() -> Finding:
    parts = [f"autoseg {__version__}", f"Python {platform.python_version()}", f"torch {torch.__version__}"]
    parts.append(f"numpy {numpy.__version__}")
    parts += [f"{name} {metadata.version(name)}" for name in ("scipy", "SimpleITK")]
    return Finding(title="versions", text=f"{', '.join(parts)}, {platform.system()} {platform.machine()}")


def _processor() -> Finding:
    flags = set[str]()
    with contextlib.suppress(OSError):
        rows = [line.split(":", 1) for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines()]
        known = {row[0].strip(): row[1].strip() for row in rows if len(row) == 2}
        flags = set((known.get("flags") or known.get("Features") or "").split())
    there = [flag for flag in FLAGS if flag in flags]
    absent = [title for title, flag in (("AVX-512", "avx512f"), ("AMX", "amx_bf16")) if flag not in flags]
    told = f"{', '.join(there)}{'; no ' if there else 'no '}{' and no '.join(absent)}" if absent else ", ".join(there)
    if not flags:
        told = "features not known here"
    kind = torch.backends.cpu.get_cpu_capability()
    return Finding(
        title="processor", text=f"{processor_name()}: {told}; torch uses {kind}{', AMX' if compute.has_amx() else ''}"
    )


def _threads() -> Finding:
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = os.environ.get("OMP_NUM_THREADS")
    told = f" (OMP_NUM_THREADS={asked})" if asked else ""
    threads = compute.count_threads()
    text = f"{threads} for computing{told}; {allowed} of {os.cpu_count()} cores are allowed"
    many = threads > allowed
    return Finding(
        title="threads", text=text + ("; more threads than cores only wait: unset it" if many else ""), is_bad=many
    )


def _compiler() -> Finding:
    found = native.kernels()
    if found.library is not None:
        return Finding(title="kernels", text=f"{found.reason}, kept in {native.cache_folder()}")
    slower = "training and prediction on the CPU use torch's own, slower operators"
    return Finding(title="kernels", text=f"none: {found.reason}; {slower}")


def _memory() -> list[Finding]:
    limits = room.memory_limits()
    if not limits:
        return [Finding(title="main memory", text="the system does not say how much there is")]
    return [
        Finding(
            title="main memory",
            text=f"{item.whose} allows {byte_size(item.total_bytes)}, {byte_size(max(item.left_bytes, 0))} left",
            is_bad=item.left_bytes <= 0,
        )
        for item in limits
    ]


def _limits() -> list[Finding]:
    """Look at the limits of this process (``ulimit``) and at shared memory."""
    found = []
    with contextlib.suppress(ImportError):  # Windows has none of them
        import resource

        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        few = files != resource.RLIM_INFINITY and files < FEW_FILES
        told = f"at most {files} (ulimit -n)" if files != resource.RLIM_INFINITY else "no limit"
        advice = f"; raise it to {FEW_FILES} or more" if few else ""
        found.append(Finding(title="open files", text=told + advice, is_bad=few))
    largest = room.largest_file()
    if largest is not None:
        text = f"a file may have {byte_size(largest)} at most (ulimit -f); weights and stores may need more"
        found.append(Finding(title="file size", text=text, is_bad=True))
    shared = Path("/dev/shm")
    if shared.is_dir():
        text = f"{byte_size(shutil.disk_usage(shared).total)} in {shared}; autoseg does not depend on it"
        found.append(Finding(title="shared memory", text=text))
    return found


def _temporary() -> Finding:
    """Try the folder of temporary files, in which models are unpacked."""
    try:
        folder = Path(tempfile.gettempdir())
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"1")
        return Finding(title="temporary", text=f"{byte_size(shutil.disk_usage(folder).free)} free in {folder}")
    except OSError as fault:
        text = f"no folder for temporary files can be written ({fault}). Name one with TMPDIR"
        return Finding(title="temporary", text=text, is_bad=True)
