"""What one image needs of main memory, whole and in slabs, by arithmetic from its header; and which way it goes.

The sums are upper bounds as far as they can be known before the image is read: it is taken to have content everywhere.
Tests hold them against what is measured.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

from autoseg import room
from autoseg.data.image import Geometry, Image
from autoseg.data.io_guard import claimed_bytes
from autoseg.data.parallel import host_memory_bytes
from autoseg.data.region_writing import WRITERS, disk_bytes
from autoseg.data.regions import region_cost
from autoseg.data.slab_components import SLAB_VOXELS
from autoseg.errors import ImageError
from autoseg.evaluation.postprocessing import Postprocessing
from autoseg.inference.export import SLAB_BYTES
from autoseg.inference.passes import CPU_BATCH_VOXELS
from autoseg.inference.sliding_rows import CHUNK_BYTES, cut_bands
from autoseg.inference.windows import lay_windows
from autoseg.preprocessing.cropping import full_box
from autoseg.preprocessing.preprocess import CaseGrid, make_grid
from autoseg.preprocessing.rows import BLOCK_BYTES, needs_mask
from planners.decision import byte_size
from planners.plan import Configuration, Plan

SINGLE, NUMBER = 4, 4
"""Bytes of a float32, and of the number of a component."""

FEATURE_MAPS = 7
"""Maps as wide as the network's first stage that are alive at once where it is widest: skip, upsampled, joined, what a
convolution makes of them, and its working space."""

LOGITS_ALIVE = 2.5
"""Maps of logits alive at once: the sums, and what it takes to see that they are finite (``planners.host_memory``)."""

WORKING_BYTES = 2**27
"""Small arrays of reading, decoding and writing that do not grow with the image. Assumption."""

SLAB_COPIES = 10
"""Copies of the slice, or the few, that are decoded at a time, with their probabilities. Assumption."""

OBJECT_BYTES = 24
"""Per voxel, for ids of objects and the arrays they are found with. Assumption."""


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What an image needs, in bytes beside what the program holds already.

    Attributes:
        whole: read, preprocessed and predicted as one.
        slabs: in slabs.
        disk: of temporary files, in slabs.
        because: why slabs are not possible; empty where they are.
    """

    whole: int
    slabs: int
    disk: int = 0
    because: str = ""


@dataclass(frozen=True, kw_only=True)
class Member:
    """One step of a chain, as far as memory goes.

    Attributes:
        configurations: of its networks; several where the program stepped down between two trainings.
        kept: whether its logits stay until the image is decoded (a step that only feeds a cascade drops them).
        fed: whether it sees the segmentation of another.
        num_networks: that take part.
    """

    configurations: tuple[Configuration, ...]
    kept: bool
    fed: bool
    num_networks: int


class MemoryLimit:
    """How much main memory predictions may take."""

    def __init__(self, max_ram: int | None = None) -> None:
        """Set the limit.

        Args:
            max_ram: bytes that the whole process may hold; None: what the machine has to give.
        """
        self.max_ram = max_ram

    def now(self) -> "MemoryRoom":
        """Look at what may still be taken."""
        there, held = room.free_memory(), resident_bytes()
        if self.max_ram is None:
            free = host_memory_bytes()
            return MemoryRoom(free=free, most=free if there is None else there, held=held)
        left = self.max_ram - held
        free = left if there is None else min(left, there)
        return MemoryRoom(free=free, most=free, held=held, max_ram=self.max_ram)


@dataclass(frozen=True, kw_only=True)
class MemoryRoom:
    """What main memory may be taken, as it was at some moment, in bytes.

    Attributes:
        free: that is counted on.
        most: above which an image is refused: all that is free, where the user has set no limit.
        held: what the program held already.
        max_ram: the user's limit; None where there is none.
    """

    free: int
    most: int
    held: int
    max_ram: int | None = None

    def takes_whole(self, needs: Needs, name: str) -> bool:
        """Decide whether an image is worked on whole; else in slabs.

        Raises:
            ImageError: it fits in no way.
        """
        if needs.whole <= self.free:
            return True
        if not needs.because and needs.slabs <= self.most:
            return False
        if needs.whole <= self.most:
            return True
        if needs.because and self.max_ram is None:
            return True  # what is needed is an estimate, and nobody has asked for a promise
        slabs = f"in slabs {byte_size(needs.slabs)}" if not needs.because else f"and no slabs: {needs.because}"
        allowed = "the machine has" if self.max_ram is None else f"--max-ram {byte_size(self.max_ram)} leaves"
        raise ImageError(
            f"{name} needs {byte_size(needs.whole)} of main memory as a whole, {slabs}; {allowed} "
            f"{byte_size(max(self.most, 0))} beside the {byte_size(self.held)} that autoseg holds already. Allow more "
            "with --max-ram, crop the image, or use a machine with more memory"
        )


def check_start() -> None:
    """Refuse to begin where not even the smallest image fits.

    Some libraries end the process where they find no memory, without an error (OpenBLAS, at its first call).

    Raises:
        RoomError: hardly any main memory is left, by whichever limit.
    """
    free = room.free_memory()
    if free is not None and free < WORKING_BYTES:
        raise room.no_memory(MemoryError(), "beginning to predict", WORKING_BYTES)


def resident_bytes() -> int:
    """Give the main memory that this process holds; 0 where the system does not tell."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def whole_bytes(image: Image, plan: Plan, members: Sequence[Member], *, each: bool, objects: bool) -> int:
    """Estimate what an image takes as a whole: its reading, the network, or its writing, whichever is most.

    Args:
        image: opened.
        plan: gives the order of axes.
        members: the steps of the chain.
        each: what every network says alone is kept, too.
        objects: objects are told apart.
    """
    voxels, channels = math.prod(image.shape), image.num_channels
    grids = [grid_of(image.shape, image.geometry, plan, item.configurations[0]) for item in members]
    kinds = {
        (grid.shape, item.configurations[0].normalization): grid for item, grid in zip(members, grids, strict=True)
    }
    prepared = sum(SINGLE * channels * math.prod(grid.shape) for grid in kinds.values())
    # Stored numbers, float32, mask and numbers of its holes, one channel normalized and resampled.
    largest = max(math.prod(grid.shape) for grid in grids)
    reading = claimed_bytes(image) * 2 + voxels * (SINGLE * channels + 2 + NUMBER) + 3 * SINGLE * max(voxels, largest)
    kept, most = 0.0, 0.0
    for item, grid in zip(members, grids, strict=True):
        maps = item.configurations[0].target.num_outputs
        covered = max(math.prod(lay_windows(grid.shape, own).extent) for own in item.configurations)
        running = SINGLE * covered * (channels + 1 + LOGITS_ALIVE * maps) + covered * item.fed
        alone = covered * maps * (SINGLE + 2) * item.num_networks if each and item.kept else 0
        network = max(network_bytes(own) for own in item.configurations)
        most = max(most, kept + running + alone + network)
        kept += SINGLE * covered * maps + alone if item.kept else 0
    writing = kept + voxels * (OBJECT_BYTES if objects else 12)
    return int(WORKING_BYTES + max(reading + prepared, prepared + most, writing))


def slab_bytes(
    image: Image, plan: Plan, members: Sequence[Member], rules: Sequence[Postprocessing], ending: str
) -> tuple[int, int]:
    """Estimate what an image takes in slabs: bytes of main memory, and of temporary files.

    Args:
        image, plan, members: as of ``whole_bytes``.
        rules: of postprocessing.
        ending: of the file that is written; empty where the result is an array.
    """
    voxels, source = math.prod(image.shape), region_cost(image)
    masked = any(needs_mask(own) for item in members for own in item.configurations)
    stored = min(BLOCK_BYTES, claimed_bytes(image))
    blocks = stored * (3 + 3 * SINGLE // min(image.dtype.itemsize, SINGLE))
    total = source.held + voxels * masked + blocks + WORKING_BYTES
    network = 0
    for item in members:
        grid = grid_of(image.shape, image.geometry, plan, item.configurations[0])
        plane = SINGLE * math.prod(grid.shape[1:])
        total += (math.prod(grid.shape) + 1) * item.fed
        for own in item.configurations:
            layout = lay_windows(grid.shape, own)
            depth = max(band[-1] - band[0] for band in cut_bands(layout))
            area = SINGLE * math.prod(layout.extent[1:])
            total += area * own.target.num_outputs * (depth + layout.output[0])
            inside = SINGLE * math.prod(layout.padded[1:]) * (depth + layout.patch[0])
            total += inside * (image.num_channels + item.fed)
            network = max(network, network_bytes(own))
        # Slices in the making: resampling sees up to 36 around them; those that are decoded.
        prepared = SINGLE * image.num_channels * math.prod(grid.shape)
        making = min(max(CHUNK_BYTES, image.num_channels * plane), prepared)
        resampled = grid.shape != grid.shape_after_crop
        making += 36 * SINGLE * _largest_plane(image, plan) * resampled
        decoding = max(SLAB_BYTES, SINGLE * item.configurations[0].target.num_outputs * _largest_plane(image, plan))
        total += 4 * making + SLAB_COPIES * decoding
    streamed = ending in WRITERS and not rules
    labels = 0 if streamed else voxels * (1 if ending in WRITERS else 4)
    numbering = 3 * NUMBER * max(SLAB_VOXELS, _largest_plane(image, plan)) if rules or masked else 0
    disk = disk_bytes(ending, voxels * plan.labels.file_dtype.itemsize) if ending in WRITERS else 0
    opening = source.loading - source.held
    return int(max(total + labels + max(network, numbering), source.held + opening + WORKING_BYTES)), source.disk + disk


def network_bytes(configuration: Configuration) -> int:
    """Estimate the feature maps of one batch of windows, float32, at their widest."""
    patch = math.prod(configuration.patch_size)
    batch = max(CPU_BATCH_VOXELS // patch, 1)
    features = FEATURE_MAPS * configuration.architecture.stages[0].features
    outputs = 3 * configuration.target.num_outputs + configuration.num_input_channels
    return SINGLE * batch * patch * (features + outputs)


def grid_of(shape: Sequence[int], geometry: Geometry, plan: Plan, configuration: Configuration) -> CaseGrid:
    """Work out the grid of an image whose content fills it."""
    z, y, x = plan.axis_order
    ordered, spacing = (shape[z], shape[y], shape[x]), geometry.spacing_mm
    return make_grid(ordered, full_box(ordered), (spacing[z], spacing[y], spacing[x]), configuration)


def _largest_plane(image: Image, plan: Plan) -> int:
    return math.prod(image.shape[axis] for axis in plan.axis_order[1:])
