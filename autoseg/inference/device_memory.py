"""How a GPU's memory is shared between the maps of an image and the network's batch.

It is arithmetic, but for ``bound_device``, so that what is decided can be tested without a device.
"""

from autoseg.errors import OptionError
from planners.decision import byte_size

SUMS_FRACTION = 0.5
"""Assumption: at most half of the free memory for image and sums, the rest for the network."""

BYTES_PER_VOXEL = 400
"""Memory of a network's feature maps per voxel of its batch, in half precision: 3 GB for 2²³ voxels. Assumption, see
``passes.GPU_BATCH_VOXELS``."""


def sums_fit(needed: int, free: int, limit: int | None = None) -> bool:
    """Tell whether image and sums may lie on the device.

    Args:
        needed: their bytes.
        free: bytes that are free on the device.
        limit: bytes that may be used at all (``--max-vram``); None: all that are free.
    """
    return needed < SUMS_FRACTION * (free if limit is None else min(free, limit))


def batch_voxels_within(limit: int, usual: int) -> int:
    """Give the voxels of a batch that fit the memory which may be used beside the sums; at most the usual number.

    Args:
        limit: bytes that may be used at all.
        usual: voxels where there is no limit.
    """
    return max(min(usual, int((1 - SUMS_FRACTION) * limit / BYTES_PER_VOXEL)), 1)


def bound_device(device: str, limit: int | None) -> None:
    """Keep torch from taking more of a GPU's memory than a limit.

    Args:
        device: such as ``cuda:1``; of others nothing is bounded.
        limit: bytes; None: no limit.

    Raises:
        OptionError: the limit is less than the networks hold already.
    """
    if limit is None or not device.startswith("cuda"):
        return
    import torch

    held = torch.cuda.memory_allocated(device)
    if limit <= held:
        raise OptionError(
            f"--max-vram {byte_size(limit)} is less than the {byte_size(held)} of the networks alone. Give more, or "
            "predict with --device cpu"
        )
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(memory_fraction(limit, total), device)


def memory_fraction(limit: int, total: int) -> float:
    """Give the part of a device's memory that torch may use, for ``torch.cuda.set_per_process_memory_fraction``."""
    return min(limit / total, 1.0)
