"""What a training step takes from a device's memory: measured on the device at hand, beside what was predicted.

On CUDA the allocator's own counters tell: bytes of tensors at the peak, and bytes reserved for them. On a CPU the
profiler reports every allocation and release of torch, in order; their running sum, above what lives before the step,
has the peak to the byte. Memory that libraries take for themselves is in neither.
"""

import contextlib
import dataclasses
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autoseg import compute as computing
from autoseg.compute import Compute
from autoseg.progress import say
from autoseg.run_folder import RunFolder
from autoseg.training.sampling import Batch
from autoseg.training.step_downs import keep_step_down
from autoseg.training.trainer import FoldJob, FoldTrainer
from planners.decision import byte_size
from planners.memory import configuration_bytes
from planners.plan import Plan
from planners.step_down import step_down

SHARE = 0.9
"""Part of the budget that a measured step may take: the rest is for the device's own context, for fragments, and for
the augmentation of the next batch."""

OBJECT_SIDE = 16
"""Voxels of the objects in a made-up label. Assumption: what encoding them holds hardly depends on it."""

MOST_STEPS_DOWN = 50
"""Assumption: more steps down than this mean that something else is wrong; the batch alone takes at most 25 from 60."""


@dataclass(frozen=True, kw_only=True)
class MeasuredStep:
    """One training step as it was.

    Attributes:
        peak_bytes: of tensors, at the moment when they were most; weights and momentum included.
        reserved_bytes: taken from the device by the allocator, fragments included; on a CPU equal to ``peak_bytes``.
        saved_bytes: kept by the forward pass for the backward pass, without weights.
        seconds: of the step, after one that warms up.
    """

    peak_bytes: int
    reserved_bytes: int
    saved_bytes: int
    seconds: float


Measure = Callable[[Plan, str, Compute], MeasuredStep]


def measure_step(plan: Plan, name: str, compute: Compute) -> MeasuredStep:
    """Make two training steps with random patches: the trainer's own step, network, target, loss and optimizer.

    The first step warms up (kernels are chosen, momentum comes to life) and counts what autograd keeps; the second is
    measured.

    Args:
        plan: holds the labels.
        name: of one of its configurations.
        compute: device and precision.

    Raises:
        torch.OutOfMemoryError: the device does not hold it. What was taken is free again.
    """
    computing.prepare(compute)
    trainer, batch = _trainer(plan, name, compute), _random_batch(plan, name, compute)
    try:
        saved = _count_saved(trainer, batch)
        watch = _watch_cuda if torch.device(compute.device).type == "cuda" else _watch_cpu
        peak, reserved, seconds = watch(trainer, batch)
    finally:
        del trainer, batch
        computing.free_device(compute)
    return MeasuredStep(peak_bytes=peak, reserved_bytes=reserved, saved_bytes=saved, seconds=seconds)


def fit_to_device(
    run: RunFolder, plan: Plan, names: Sequence[str], compute: Compute, measure: Measure | None = None
) -> Plan:
    """Step batch and patch down until a measured training step takes at most 0.9 of the budget, and say each step.

    A configuration of which a fold was begun already is left as it is: its trainings go on with what they have.

    Args:
        run: whose ``plan.json`` is written where something changed.
        plan: the run's.
        names: configurations to look at.
        compute: device and precision; without CUDA nothing is measured, unless ``measure`` is given.
        measure: how to measure; default: :func:`measure_step`.

    Returns:
        The plan that fits.

    Raises:
        PlanError: not even the smallest patch fits; the message names the least that was tried.
    """
    if measure is None and torch.device(compute.device).type != "cuda":
        return plan
    for name in names:
        if not run.is_begun(name):
            plan = _fit(run, plan, name, compute, measure or measure_step)
    return plan


def _fit(run: RunFolder, plan: Plan, name: str, compute: Compute, measure: Measure) -> Plan:
    allowed = math.floor(SHARE * plan.budget.device_bytes)
    for _ in range(MOST_STEPS_DOWN):
        try:
            found = measure(plan, name, compute).reserved_bytes
        except torch.OutOfMemoryError:
            found = None
        computing.free_device(compute)
        words = "the device ran out of memory" if found is None else f"a measured step takes {byte_size(found)}"
        if found is not None and found <= allowed:
            say(f"  {name}: {words} of {byte_size(plan.budget.device_bytes)}")
            return plan
        because = words if found is None else f"{words}, more than {SHARE:.0%} of {byte_size(plan.budget.device_bytes)}"
        plan = keep_step_down(run, plan, step_down(plan, name, because), name)
    return plan


# ------------------------------------------------------------------------------------- predicted beside measured


@dataclass(frozen=True, kw_only=True)
class MeasuredRow:
    """One configuration, predicted and measured.

    Attributes:
        name: of the configuration.
        predicted_bytes: by the arithmetic, in this precision.
        measured_bytes: peak of a step; None where it could not be measured.
        seconds: of a step; None where it could not be measured, or was extended from smaller batches.
        note: how it was measured, or why it was not.
    """

    name: str
    predicted_bytes: int
    measured_bytes: int | None
    seconds: float | None
    note: str = ""


def measure_plan(
    plan: Plan, compute: Compute, names: Sequence[str] = (), measure: Measure = measure_step
) -> tuple[MeasuredRow, ...]:
    """Measure a training step of every configuration, for ``autoseg plan --measure``.

    On a CPU, where a whole batch takes long, batches of 1 and 2 are measured and extended linearly.

    Args:
        plan: what is planned.
        compute: device and precision.
        names: configurations; empty: all.
        measure: how to measure.
    """
    return tuple(_measure_row(plan, name, compute, measure) for name in names or [c.name for c in plan.configurations])


def _measure_row(plan: Plan, name: str, compute: Compute, measure: Measure) -> MeasuredRow:
    item = plan.configuration(name)
    cuda = torch.device(compute.device).type == "cuda"
    predicted = predict(plan, name, compute)
    say(f"  measuring {name} …")
    try:
        if cuda or item.batch_size <= 2:
            found = measure(plan, name, compute)
            return MeasuredRow(
                name=name, predicted_bytes=predicted, measured_bytes=found.peak_bytes, seconds=found.seconds
            )
        one, two = (measure(with_batch_size(plan, name, size), name, compute) for size in (1, 2))
    except (torch.OutOfMemoryError, MemoryError):
        note = "out of memory; run steps batch size, then patch size down until it fits"
        return MeasuredRow(name=name, predicted_bytes=predicted, measured_bytes=None, seconds=None, note=note)
    more = item.batch_size - 1
    return MeasuredRow(
        name=name,
        predicted_bytes=predicted,
        measured_bytes=one.peak_bytes + more * (two.peak_bytes - one.peak_bytes),
        seconds=None,
        note=f"extended linearly to batch size {item.batch_size} from 1 and 2",
    )


def predict(plan: Plan, name: str, compute: Compute) -> int:
    """Predict the peak of a training step, in bytes, for this precision and these operators."""
    half, scratch = compute.precision != "fp32", not compute.native  # the compiled operators copy nothing
    return configuration_bytes(plan.configuration(name), half=half, scratch=scratch).total


def with_batch_size(plan: Plan, name: str, batch_size: int) -> Plan:
    """Give the plan with another batch size of one configuration."""
    changed = tuple(
        dataclasses.replace(item, batch_size=batch_size) if item.name == name else item for item in plan.configurations
    )
    return dataclasses.replace(plan, configurations=changed)


def word_measured(rows: Sequence[MeasuredRow], compute: Compute) -> str:
    """Word the table of ``autoseg plan --measure``: predicted against measured, per configuration."""
    width = max(len(row.name) for row in rows)
    where = torch.cuda.get_device_name(compute.device) if compute.device.startswith("cuda") else compute.device
    lines = [
        f"memory of a training step on {where}, {compute.precision}",
        f"  {'':<{width}}  predicted   measured  difference  s/step",
    ]
    for row in rows:
        measured = "–" if row.measured_bytes is None else byte_size(row.measured_bytes)
        off = "–" if row.measured_bytes is None else f"{row.predicted_bytes / row.measured_bytes - 1:+.0%}"
        seconds = "–" if row.seconds is None else f"{row.seconds:.2f}"
        line = f"  {row.name:<{width}}  {byte_size(row.predicted_bytes):>9}  {measured:>9}  {off:>10}  {seconds:>6}"
        lines.append(f"{line}  {row.note}".rstrip())
    return "\n".join(lines)


# ------------------------------------------------------------------------------------------------------ measuring


def _trainer(plan: Plan, name: str, compute: Compute) -> FoldTrainer:
    item = plan.configuration(name)
    training = dataclasses.replace(item.training, initial_weights="")  # any weights take the same memory
    job = FoldJob(
        run=RunFolder(Path()),  # nothing is read from it or written to it
        plan=plan,
        configuration=dataclasses.replace(item, training=training),
        fold=0,
        train_cases=(),
        validation_cases=(),
        compute=compute,
    )
    return FoldTrainer(job)


def _random_batch(plan: Plan, name: str, compute: Compute) -> Batch:
    item = plan.configuration(name)
    generator = torch.Generator().manual_seed(0)
    size = (item.batch_size, item.num_input_channels, *item.patch_size)
    image = torch.randn(size, generator=generator)
    label_size = (item.batch_size, 1, *item.patch_size)
    label = torch.randint(plan.labels.num_classes, label_size, generator=generator, dtype=torch.int16)
    if plan.labels.instance_classes:
        label = _with_objects(label)
    return Batch(image=image.to(compute.device), label=label.to(compute.device), case_ids=("random",) * item.batch_size)


def _with_objects(label_BLYX: Tensor) -> Tensor:
    """Give a label of squares that touch, each an object of one class or background: two layers, int32."""
    space = label_BLYX.shape[2:]
    ids = torch.zeros(space, dtype=torch.int32)
    for axis, size in enumerate(space):
        place = torch.arange(size, dtype=torch.int32) // OBJECT_SIDE
        ids = ids * (size // OBJECT_SIDE + 1) + place.view(-1, *(1,) * (len(space) - axis - 1))
    classes = label_BLYX[:, 0].flatten(1)[:, ids.flatten().long()].view(len(label_BLYX), *space)
    return torch.stack([classes.int(), (ids + 1) * (classes > 0)], dim=1)


def _count_saved(trainer: FoldTrainer, batch: Batch) -> int:
    """Make a step and add up the storages that autograd keeps; weights and the copies of weights are not counted."""
    counter = SavedBytes(trainer.network)
    with torch.autograd.graph.saved_tensors_hooks(counter.pack, counter.unpack):
        trainer.step(batch)
    return counter.total


class SavedBytes:
    """Adds up the storages that autograd keeps, each once; for ``torch.autograd.graph.saved_tensors_hooks``."""

    def __init__(self, network: torch.nn.Module) -> None:
        self.seen = {_storage(parameter) for parameter in network.parameters()}
        self.shapes = {parameter.shape for parameter in network.parameters() if parameter.dim() > 1}
        self.alive: list[Tensor] = []  # a storage's address is its name only while it lives
        self.total = 0

    def pack(self, tensor: Tensor) -> Tensor:
        """Count a tensor that is kept."""
        if _storage(tensor) not in self.seen and tensor.shape not in self.shapes:
            self.seen.add(_storage(tensor))
            self.alive.append(tensor.detach())
            self.total += tensor.untyped_storage().nbytes()
        return tensor

    def unpack(self, tensor: Tensor) -> Tensor:
        """Give it back; from here on nothing needs to be kept for counting."""
        self.alive.clear()
        return tensor


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _watch_cuda(trainer: FoldTrainer, batch: Batch) -> tuple[int, int, float]:
    device = torch.device(trainer.compute.device)
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()  # the first step has tried kernels whose work space is not needed again
    torch.cuda.reset_peak_memory_stats(device)
    started = time.perf_counter()
    trainer.step(batch)
    torch.cuda.synchronize(device)
    seconds = time.perf_counter() - started
    return torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device), seconds


def _watch_cpu(trainer: FoldTrainer, batch: Batch) -> tuple[int, int, float]:
    """Watch torch's allocations; what lives before the step is counted by its tensors."""
    trainer.optimizer.zero_grad(set_to_none=True)
    before = [*trainer.network.parameters(), *trainer.network.buffers(), batch.image, batch.label]
    before += [value for state in trainer.optimizer.state.values() for value in state.values() if _is_tensor(value)]
    resident = sum({_storage(tensor): tensor.untyped_storage().nbytes() for tensor in before}.values())
    profile = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True)
    with _quiet():
        profile.start()
    started = time.perf_counter()
    trainer.step(batch)
    seconds = time.perf_counter() - started
    with _quiet():
        profile.stop()
    peak = resident + largest_sum(profile)
    return peak, peak, seconds


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what libraries write to standard error by themselves off the terminal (the profiler says when it starts)."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)


def largest_sum(profile: Any) -> int:
    """Add up the allocations and releases of a profile in their order; give the largest sum there was."""
    events = profile.profiler.kineto_results.events()  # no public list holds releases beside allocations
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    total = most = 0
    for _, change in changes:
        total += change
        most = max(most, total)
    return most
