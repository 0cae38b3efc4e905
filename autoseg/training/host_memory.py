"""A word in time where this machine's main memory is smaller than what a plan needs of it."""

from collections.abc import Sequence
from dataclasses import replace

from autoseg import room
from autoseg.data.parallel import HOST_FRACTION, host_memory_bytes
from autoseg.errors import RoomError
from autoseg.progress import warn
from planners.decision import byte_size
from planners.fingerprint import Fingerprint
from planners.host_memory import PROGRAM, predict_host, training_bytes
from planners.plan import Configuration, Plan

SURE = 0.8
"""Part of what a training on a CPU is predicted to take that it takes for sure: the prediction is within a quarter of
what was measured, and a training that might just fit is not refused."""


def warn_if_short(
    plan: Plan, fingerprint: Fingerprint, names: Sequence[str], *, on_cpu: bool, free_bytes: int | None = None
) -> tuple[str, ...]:
    """Say which configurations need more main memory than is free, within the limits of containers.

    Args:
        plan: the run's.
        fingerprint: of its dataset.
        names: configurations to look at.
        on_cpu: the networks train in main memory too.
        free_bytes: main memory that may be used; default: most of what is free now.

    Returns:
        The lines that were said.
    """
    free = host_memory_bytes() if free_bytes is None else free_bytes
    lines = []
    for name in names:
        found = predict_host(plan.configuration(name), plan, fingerprint)
        needed = max(found.total, found.training) if on_cpu else found.total
        if needed > free:
            lines.append(
                f"  {name} may need {byte_size(needed)} of main memory, of which {byte_size(free)} are free here "
                f"({found.wording()}). Stop other programs, or use a machine with more"
            )
    for line in lines:
        warn(line)
    return tuple(lines)


def refuse_if_short(plan: Plan, names: Sequence[str], *, half: bool, free_bytes: int | None = None) -> None:
    """Stop before a training on this CPU is begun that main memory surely does not hold: it would be killed.

    Args:
        plan: the run's.
        names: configurations that are to be trained.
        half: convolutions compute in bfloat16.
        free_bytes: main memory that is free, within all limits; default: as it is now; where nothing tells, all passes.

    Raises:
        RoomError: one does not fit; the message names the largest batch that would.
    """
    free = room.free_memory() if free_bytes is None else free_bytes
    if free is None:
        return
    there = free + PROGRAM  # which is running, and has taken its part already
    with_ids = bool(plan.labels.instance_classes)
    for item in map(plan.configuration, names):
        needed = training_bytes(item, with_ids=with_ids, half=half)
        if SURE * needed <= there:
            continue
        size = _largest_batch(item, PROGRAM + HOST_FRACTION * free, with_ids=with_ids, half=half)
        smaller = f"a smaller batch (--set {item.name}.batch_size={size})" if size else "a smaller plan (--budget)"
        raise RoomError(
            f"training {item.name} on this CPU needs about {byte_size(needed)} of main memory, and there are "
            f"{byte_size(there)}. Stop other programs, use a machine with more, or take {smaller}"
        )


def _largest_batch(item: Configuration, free: float, *, with_ids: bool, half: bool) -> int:
    """Give the largest smaller batch that fits; 0 where none does."""
    for size in range(item.batch_size - 1, 0, -1):
        if training_bytes(replace(item, batch_size=size), with_ids=with_ids, half=half) <= free:
            return size
    return 0
