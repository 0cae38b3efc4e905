"""Main memory that it takes to keep what every network says alone, for the maps of uncertainty.

All networks of a configuration see a window at once where memory holds a float32 map of sums for each of them. Where it
does not, they run one after the other, after the pass that gives their mean: one float32 map at a time, at the price of
seeing every window twice. What is kept of each is float16 in both ways, and the same bit for bit.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from autoseg.data.parallel import host_memory_bytes
from autoseg.errors import ImageError
from planners.decision import byte_size

SUMS, KEPT = 4, 2  # bytes of a voxel: float32 and float16


@dataclass(frozen=True, kw_only=True)
class EachNetwork:
    """The maps of one configuration's networks for one image.

    Attributes:
        num_networks: whose logits are kept.
        num_groups: runs that they are averaged from (see ``chain.Step``).
        voxels: of one map: the number of outputs × what the windows cover.
    """

    num_networks: int
    num_groups: int = 1
    voxels: int

    @property
    def together(self) -> int:
        """Bytes with all networks at once: their sums, the mean's, and the first that is rounded."""
        return self.voxels * (SUMS * (1 + self.num_networks) + KEPT)

    @property
    def kept(self) -> int:
        """Bytes of what stays: the mean, and each rounded."""
        return self.voxels * (SUMS + KEPT * self.num_networks)

    @property
    def in_turn(self) -> int:
        """Bytes with one network after the other: the sums of one beside what stays."""
        return self.kept + self.voxels * SUMS * (1 if self.num_groups == 1 else 3)


def fits_together(maps: EachNetwork) -> bool:
    """Tell whether the main memory that is free now holds the sums of all networks at once."""
    return maps.together <= host_memory_bytes()


def check_room(steps: Iterable[EachNetwork], *, sums_on_host: bool) -> None:
    """Refuse an image whose maps do not fit even with one network after the other.

    Args:
        steps: the configurations of the ensemble, in the order in which they run.
        sums_on_host: the device has no memory of its own for the sums.

    Raises:
        ImageError: main memory is too small; the message says how much is needed and how much is free.
    """
    kept, needed, networks = 0, 0, 0
    for step in steps:
        needed = max(needed, kept + (step.in_turn if sums_on_host else step.kept))
        kept, networks = kept + step.kept, networks + step.num_networks
    free = host_memory_bytes()
    if needed > free:
        raise ImageError(
            f"maps of uncertainty from {networks} networks need {byte_size(needed)} of main memory for this image, "
            f"of which {byte_size(free)} are free. Leave --uncertainty out, or stop other programs"
        )
