"""Where and how to compute: device, precision, memory format, threads. Chosen once by probing, kept in ``run.json``.

    device   precision               memory format   by
    cuda     bf16, else fp16         contiguous      what the GPU supports, and a convolution against float64
    mps      fp32                    contiguous
    cpu      fp32, or bf16 with AMX  channels-last   timing two convolutions each way

On a CPU the compiled operators of ``autoseg.native`` take part in the race where they can be built.
"""

import contextlib
import ctypes
import dataclasses
import gc
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeVar, get_args, runtime_checkable

import torch
from torch import Tensor, nn

from autoseg import native, room
from autoseg.determinism import WORDED, make_deterministic
from autoseg.errors import DeviceError, OptionError
from autoseg.native import measured
from autoseg.progress import warn

Precision = Literal["fp32", "bf16", "fp16"]
Placed = TypeVar("Placed", nn.Module, Tensor)

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

TOLERANCES = {"fp32": 1e-3, "bf16": 3e-2, "fp16": 5e-3}
"""Largest error of a convolution against float64 that passes as rounding, in units of the result's deviation. A wrong
kernel is off by 1. For fp32 it leaves room for TF32 (10 bits of mantissa). Assumption."""

PROBE = ((32, 32), (128, 12))
"""The timed convolutions, channels and edge of the patch: as in the first and the third stage of a 3D U-Net."""

FASTEST_FIRST = ("bf16", "fp32 compiled", "fp32")
"""What a CPU computes with where nothing is to be chosen by timing; bf16 takes part with AMX, or as asked."""

PROBE_ROUNDS = 5
"""Each way runs once per round and its fastest counts: other programs on the machine disturb all alike."""


DECISIVE = 1.2
"""A race is kept for other processes if the second took this much longer: load may turn a closer one. Assumption."""


@runtime_checkable
class _HasNative(Protocol):
    native: bool


@dataclass(frozen=True, kw_only=True)
class Compute:
    """How to compute.

    Attributes:
        device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        precision: of convolutions. Norm statistics, losses and weights are float32 always.
        channels_last: memory format of networks and images.
        threads: of the CPU.
        native: use the compiled operators of ``autoseg.native``.
        reasons: why, for people.
        deterministic: equal numbers from equal runs on a GPU too, where it may take longer; a CPU gives them anyway.
    """

    device: str
    precision: Precision
    channels_last: bool
    threads: int
    native: bool = False
    reasons: tuple[str, ...] = ()
    deterministic: bool = False


def choose(
    device: str = "auto", precision: str = "auto", *, deterministic: bool = False, recall: bool = False
) -> Compute:
    """Choose how to compute, by probing; takes a second.

    Args:
        device: ``auto``, or a torch device.
        precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``.
        deterministic: nothing is chosen by timing, and what a GPU computes can be repeated.
        recall: take what an earlier process has measured on this CPU, where that was decisive.

    Raises:
        DeviceError: the device is not there, cannot do that precision, or computes wrongly.
        OptionError: no such precision.
    """
    if precision not in ("auto", *get_args(Precision)):
        raise OptionError(f"no precision is named {precision!r} (known: auto, {', '.join(get_args(Precision))})")
    place, reason = _choose_device(device)
    torch.set_num_threads(count_threads())
    if deterministic:
        make_deterministic()
        chosen = _choose_cpu(precision, reason, timed=False) if place.type == "cpu" else choose(device, precision)
        return dataclasses.replace(chosen, deterministic=True, reasons=(*chosen.reasons, WORDED[place.type]))
    if place.type == "cuda":
        return _choose_cuda(place, precision, reason)
    if place.type == "cpu":
        return _choose_cpu(precision, reason, recall=recall)
    if precision not in ("auto", "fp32"):
        raise DeviceError(f"{place.type} trains in fp32 only here, not {precision}. Leave out --precision")
    reasons = (reason, f"fp32: lower precision is not proven on {place.type}")
    return Compute(
        device=str(place), precision="fp32", channels_last=False, threads=torch.get_num_threads(), reasons=reasons
    )


def prepare(compute: Compute) -> None:
    """Set this process up for a choice made before: threads, memory, and whether the device is there at all.

    Raises:
        DeviceError: the device is not there.
    """
    place, _ = _choose_device(compute.device)
    torch.set_num_threads(compute.threads)
    if compute.deterministic:
        make_deterministic()
    elif place.type == "cuda":
        torch.backends.cudnn.benchmark = True  # patches have one shape: search the fastest algorithm once
    if place.type == "cpu":
        native.keep_memory()
        room.bound_to_group()
    if compute.native and native.kernels().library is None:
        why = native.kernels().reason
        warn(f"  compiled operators are not there ({why}): torch's own, slower, equal but for rounding")


def keep_memory(compute: Compute, keep: bool = True) -> None:
    """Where main memory is the device's: let freed memory be kept, or not (``native.keep_memory``)."""
    if torch.device(compute.device).type == "cpu":
        native.keep_memory(keep)


def autocast(compute: Compute) -> AbstractContextManager[object]:
    """Give the context in which a network runs in the chosen precision."""
    if compute.precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(torch.device(compute.device).type, DTYPES[compute.precision])


def place(thing: Placed, compute: Compute) -> Placed:
    """Bring a network or a tensor to the device, in the chosen memory format; tell a network which operators to use."""
    if isinstance(thing, Tensor):
        layout = _layout(thing.dim()) if compute.channels_last else torch.preserve_format
        return thing.to(compute.device, non_blocking=True, memory_format=layout)
    thing.to(compute.device)
    if compute.channels_last:
        for parameter in thing.parameters():
            parameter.data = parameter.data.to(memory_format=_layout(parameter.dim()))
    for part in thing.modules():
        if isinstance(part, _HasNative):
            part.native = compute.native
    return thing


def free_device(compute: Compute) -> None:
    """Give back the device's memory that nobody uses any more."""
    gc.collect()
    if torch.device(compute.device).type == "cuda":
        torch.cuda.empty_cache()


def count_threads() -> int:
    """Count the threads this process may use: OMP_NUM_THREADS, else torch's choice within affinity and cgroup."""
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    if asked.isdigit() and int(asked) > 0:
        return int(asked)
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(min(torch.get_num_threads(), allowed, _cgroup_quota() or allowed), 1)


def has_amx() -> bool:
    """Whether the CPU multiplies bf16 matrices in tiles (AMX)."""
    check = getattr(torch.cpu, "_is_amx_tile_supported", None)  # private in torch 2.13
    return bool(check and check())


def _choose_device(device: str) -> tuple[torch.device, str]:
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda"), f"cuda: {torch.cuda.get_device_name()}"
        if torch.backends.mps.is_available():
            return torch.device("mps"), "mps: the GPU of this Mac"
        return torch.device("cpu"), "cpu: no GPU that torch can use"
    try:
        found = torch.device(device)
    except RuntimeError as fault:
        raise DeviceError(f"no device is named {device!r}; say cpu, cuda, cuda:1 or mps") from fault
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    there = {"cpu": True, "cuda": (found.index or 0) < count, "mps": torch.backends.mps.is_available()}
    if found.type == "cuda" and 0 < count <= (found.index or 0):
        raise DeviceError(
            f"{device} is not there: this machine has {count} CUDA device{'s' * (count > 1)}, from cuda:0"
        )
    if not there.get(found.type, False):
        build = f"torch {torch.__version__}"
        raise DeviceError(
            f"{device} is not there ({build} sees none). Use --device cpu, or install a torch build for it"
        )
    return found, f"{found}: as asked"


def _choose_cuda(place: torch.device, precision: str, reason: str) -> Compute:
    supported = torch.cuda.is_bf16_supported(including_emulation=False)
    wanted: list[Precision] = ["bf16", "fp16", "fp32"] if supported else ["fp16", "fp32"]
    if precision != "auto":
        wanted = [item for item in get_args(Precision) if item == precision]
    reasons = [reason]
    for item in wanted:
        error = convolution_error(place, item)
        if error <= TOLERANCES[item]:
            why = "as asked" if precision != "auto" else "the GPU has it" if item != "fp32" else "the only right one"
            reasons.append(f"{item}: {why}; a convolution agrees with float64 to {error:.0e}")
            return Compute(
                device=str(place),
                precision=item,
                channels_last=False,
                threads=torch.get_num_threads(),
                reasons=tuple(reasons),
            )
        reasons.append(f"not {item}: a convolution is off by {error:.0e} of its size")
    raise DeviceError(
        f"{place} computes wrongly ({'; '.join(reasons[1:])}). Known causes: cuDNN 9.10 to 9.14, torch 2.9. "
        "Update torch, or use --device cpu"
    )


def convolution_error(place: torch.device, precision: Precision) -> float:
    """Compare a 3D convolution on a device with float64 on the CPU: largest error over the result's deviation.

    Some releases of cuDNN give wrong results for large shapes in half precision (pytorch#163539, #167024).
    """
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(2, 32, 24, 32, 24, generator=generator)
    weight = torch.randn(32, 32, 3, 3, 3, generator=generator) / 30
    exact = nn.functional.conv3d(image.double(), weight.double(), padding=1)
    given = [item.to(place, DTYPES[precision]) for item in (image, weight)]
    return _largest_error(nn.functional.conv3d(given[0], given[1], padding=1), exact)


def _choose_cpu(precision: str, reason: str, *, timed: bool = True, recall: bool = False) -> Compute:
    if precision == "fp16":
        raise DeviceError("cpu trains in fp32 or bf16, not fp16. Leave out --precision")
    bf16 = precision == "bf16" or (precision == "auto" and has_amx())
    times, notes = _raced(bf16, recall=recall)
    if precision != "auto":
        times = {name: value for name, value in times.items() if name.startswith(precision)}
    best = min(times, key=lambda name: times[name] if timed else FASTEST_FIRST.index(name))
    built = native.kernels().library is not None and "compiled" not in notes
    return Compute(
        device="cpu",
        precision="bf16" if best == "bf16" else "fp32",
        channels_last=True,
        threads=torch.get_num_threads(),
        native=best == "fp32 compiled" or (best == "bf16" and built),
        reasons=(reason, _explain(best, precision, times, notes) if timed else f"{best}, channels-last: not timed"),
    )


def _explain(best: str, precision: str, times: dict[str, float], notes: dict[str, str]) -> str:
    shown = ", ".join(f"{name} {1000 * value:.1f} ms" for name, value in times.items())
    why = "as asked" if precision != "auto" else "the fastest here"
    notes = dict(notes) if has_amx() or precision != "auto" else {**notes, "bf16": "no AMX"}
    left_out = "".join(f"; {name}: {note}" for name, note in notes.items())
    return f"{best}, channels-last: {why} (two convolutions: {shown}{left_out})"


def _raced(bf16: bool, *, recall: bool) -> tuple[dict[str, float], dict[str, str]]:
    """Give the race's seconds and notes: of an earlier process, if they may be recalled, else of a race now."""
    library, why = native.kernels()
    built = why if library is None else getattr(library, "_name", why)
    facts = (PROBE, torch.__version__, torch.get_num_threads(), built, bf16)
    found = measured.recall(facts) if recall else None
    if found is not None:
        return found["times"], found["notes"]
    times, notes = _race(bf16)
    native.give_back_memory()  # the race has touched 60 MB that a prediction would carry along (measured 2026-11)
    first, *others = sorted(times.values())
    if others and DECISIVE * first <= others[0]:
        measured.remember(facts, {"times": times, "notes": notes})
    return times, notes


def _race(bf16: bool) -> tuple[dict[str, float], dict[str, str]]:
    """Time the probe's convolutions each way; give the seconds, and why some did not take part."""
    total: dict[str, float] = {}
    notes: dict[str, str] = {}
    for channels, edge in PROBE:
        generator = torch.Generator().manual_seed(0)
        image = torch.randn(1, channels, edge, edge, edge, generator=generator)
        weight = torch.randn(channels, channels, 3, 3, 3, generator=generator) / (27 * channels) ** 0.5
        image, weight = (item.contiguous(memory_format=_layout(5)) for item in (image, weight))
        for name, seconds in _time(_ways(image, weight, bf16, notes)).items():
            total[name] = total.get(name, 0.0) + seconds
    if "compiled" in notes:
        total.pop("fp32 compiled", None)
    return total, notes


def _ways(image: Tensor, weight: Tensor, bf16: bool, notes: dict[str, str]) -> dict[str, Callable[[], Tensor]]:
    """The ways to compute one convolution; what cannot take part is noted."""
    ways: dict[str, Callable[[], Tensor]] = {"fp32": lambda: nn.functional.conv3d(image, weight, padding=1)}
    compiled = _compiled_convolution(image, weight)
    if compiled is None:
        notes["compiled"] = native.kernels().reason
    elif _largest_error(compiled(), ways["fp32"]()) > TOLERANCES["fp32"]:
        notes["compiled"] = "wrong on a self-test"
    else:
        ways["fp32 compiled"] = compiled
    if bf16:
        half = image.bfloat16(), weight.bfloat16()
        ways["bf16"] = lambda: nn.functional.conv3d(*half, padding=1)
    return ways


def _compiled_convolution(image: Tensor, weight: Tensor) -> Callable[[], Tensor] | None:
    """The compiled convolution of two fixed tensors, weights transformed each time, as a training step does."""
    library = native.kernels().library
    if library is None:
        return None
    channels, edge = image.shape[1], image.shape[-1]
    spread, result = weight.permute(2, 3, 4, 1, 0).contiguous(), torch.empty_like(image)
    kernel = torch.empty(6**3 * channels**2)
    sizes = (ctypes.c_int64 * 9)(1, edge, edge, edge, channels, channels, 4, 4, 4)

    def run() -> Tensor:
        threads = torch.get_num_threads()
        library.winograd_kernel(spread.data_ptr(), kernel.data_ptr(), sizes, threads)
        library.winograd_forward(image.data_ptr(), kernel.data_ptr(), None, result.data_ptr(), sizes, threads)
        return result

    return run


def _time(runs: dict[str, Callable[[], Tensor]]) -> dict[str, float]:
    """Seconds of the fastest run of each, after a first one that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    with torch.inference_mode():
        for _ in range(PROBE_ROUNDS + 1):
            for name, run in runs.items():
                started = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - started)
    return {name: min(values[1:]) for name, values in seconds.items()}


def _largest_error(found: Tensor, exact: Tensor) -> float:
    return float((found.to("cpu", torch.float64) - exact.double()).abs().max() / exact.double().std())


def _layout(dimensions: int) -> torch.memory_format:
    return {4: torch.channels_last, 5: torch.channels_last_3d}.get(dimensions, torch.preserve_format)


def _cgroup_quota() -> int | None:
    """CPUs that the container may use, rounded up, or None where it has no limit."""
    for name in ("cpu.max", "cpu/cpu.cfs_quota_us"):
        try:
            words = (Path("/sys/fs/cgroup") / name).read_text().split()
            period = words[1] if len(words) > 1 else (Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us")).read_text()
            quota = int(words[0])
            return -(-quota // int(period)) if quota > 0 else None
        except (OSError, ValueError, IndexError):
            continue
    return None
