"""A word in time where this machine's main memory is smaller than what a plan needs of it."""

from collections.abc import Sequence

from autoseg.data.parallel import host_memory_bytes
from autoseg.progress import say
from planners.decision import byte_size
from planners.fingerprint import Fingerprint
from planners.host_memory import predict_host
from planners.plan import Plan


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
        item = plan.configuration(name)
        found = predict_host(item, plan, fingerprint)
        needed = max(found.total, found.loading + item.estimated_bytes) if on_cpu else found.total
        if needed > free:
            network = f"; the network's training {byte_size(item.estimated_bytes)}" if on_cpu else ""
            lines.append(
                f"  {name} may need {byte_size(needed)} of main memory, of which {byte_size(free)} are free here "
                f"({found.wording()}{network}). Stop other programs, or use a machine with more"
            )
    for line in lines:
        say(line)
    return tuple(lines)
