"""From logits back to the image: resampled, decoded and put in place slab by slab, never classes × full grid.

At full resolution only the integer map is held whole. Class probabilities, where the user wants them, go to the disk in
the same slabs: ``CASE.probabilities.npy``, float16, (output of the network, z, y, x) on the grid of the image as read.
``np.load(file, mmap_mode="r")`` opens it without reading it.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autoseg.errors import OptionError
from autoseg.preprocessing.label_resampling import resample_label
from autoseg.preprocessing.preprocess import CaseGrid, cropped_view, shape_as_read, uncrop_and_untranspose
from autoseg.preprocessing.resampling import LogitsResampler
from autoseg.targets import Target
from planners.plan import Plan, Resampling

SLAB_BYTES = 2**22  # measured 2026-11: fastest from 2**20 to 2**23, where a slab stays in the processor's cache
PROBABILITIES_ENDING = ".probabilities.npy"


@dataclass(frozen=True, kw_only=True)
class LogitsPart:
    """What the networks of one configuration say of one case.

    Attributes:
        logits_KZYX: float32, on ``grid.shape``, in the plan's axis order.
        grid: where they lie in the image.
        resampling: of the configuration.
    """

    logits_KZYX: np.ndarray
    grid: CaseGrid
    resampling: Resampling

    def onto(self, shape: Sequence[int], spacing_mm: Sequence[float]) -> LogitsResampler:
        """Look at the logits on another grid over the same extent."""
        return LogitsResampler(self.logits_KZYX, shape, self.grid.spacing_mm, spacing_mm, self.resampling)


def segment(
    parts: Sequence[LogitsPart],
    target: Target,
    plan: Plan,
    probabilities_file: Path | None = None,
    threads: int = 1,
) -> np.ndarray:
    """Decode the logits of one case on the grid of its image.

    Args:
        parts: one per configuration, of equal targets; several are averaged as probabilities.
        target: decodes; one that is not pointwise decodes whole, on the preprocessed grid of the first part.
        plan: gives the order of axes and the classes.
        probabilities_file: where to write the probabilities too (see above), or None.
        threads: slabs at a time.

    Returns:
        Inner class indices z, y, x of the image as read; 0 outside the crop.

    Raises:
        OptionError: probabilities are asked of a target that has none per voxel.
    """
    if not target.pointwise:
        if probabilities_file is not None:
            raise OptionError(f"target {target.name} has no probability per voxel; do not ask to save them")
        return _segment_whole(parts, target, plan)
    grid = parts[0].grid
    segmentation = np.zeros(shape_as_read(grid, plan.axis_order), dtype=np.min_scalar_type(plan.labels.num_classes))
    inside = cropped_view(segmentation, grid, plan.axis_order)
    resamplers = [part.onto(grid.shape_after_crop, grid.spacing_before_mm) for part in parts]
    num_outputs = len(parts[0].logits_KZYX)
    with _open_probabilities(probabilities_file, target, num_outputs, plan, grid) as probabilities:

        def work(slab: tuple[int, int]) -> None:
            place = slice(*slab)
            inside[place], values = decode_slab([item.slab(*slab) for item in resamplers], target, bool(probabilities))
            for volume, value in zip(probabilities, () if values is None else values, strict=True):
                volume[place] = value

        slabs = cut_slabs(grid.shape_after_crop, num_outputs)
        with ThreadPoolExecutor(max(1, min(threads, len(slabs)))) as pool:
            list(pool.map(work, slabs))
    return segmentation


def cut_slabs(shape: Sequence[int], num_outputs: int) -> list[tuple[int, int]]:
    """Cut a grid into slabs along its first axis (start, stop), each of about ``SLAB_BYTES`` of logits."""
    thickness = max(SLAB_BYTES // (4 * num_outputs * shape[1] * shape[2]), 1)
    return [(start, min(start + thickness, shape[0])) for start in range(0, shape[0], thickness)]


def decode_slab(
    logits: Sequence[np.ndarray], target: Target, with_probabilities: bool = False
) -> tuple[np.ndarray, np.ndarray | None]:
    """Decode one slab from the logits of every configuration; give its probabilities too where they are wanted."""
    if len(logits) == 1:
        return target.decode(logits[0]), target.probabilities(logits[0]) if with_probabilities else None
    mean = target.probabilities(logits[0])
    for item in logits[1:]:
        mean += target.probabilities(item)
    mean /= len(logits)
    return target.decode_probabilities(mean), mean if with_probabilities else None


def _segment_whole(parts: Sequence[LogitsPart], target: Target, plan: Plan) -> np.ndarray:
    """Decode whole on the crop of the image, and put the integer map in its place."""
    grid = parts[0].grid
    decoded = decode_whole(parts, target, grid.shape_after_crop, grid.spacing_before_mm)
    return uncrop_and_untranspose(decoded, grid, plan.axis_order)


def decode_whole(
    parts: Sequence[LogitsPart], target: Target, shape: Sequence[int], spacing_mm: Sequence[float]
) -> np.ndarray:
    """Average maps that do not decode voxel by voxel on the preprocessed grid of the first part, and decode there.

    Args:
        parts: one per configuration, of equal targets.
        target: decodes.
        shape, spacing_mm: of the grid to bring the integer map to; over the same extent.
    """
    grid, resampling = parts[0].grid, parts[0].resampling
    maps = np.mean([part.onto(grid.shape, grid.spacing_mm).slab(0, grid.shape[0]) for part in parts], axis=0)
    return resample_label(target.decode(maps), shape, grid.spacing_mm, spacing_mm, resampling)


@contextlib.contextmanager
def _open_probabilities(
    path: Path | None, target: Target, num_outputs: int, plan: Plan, grid: CaseGrid
) -> Iterator[list[np.ndarray]]:
    """Make the file of probabilities and give its volumes, each seen through the crop box and the order of axes.

    Outside the crop box is background. The file takes its name when all is written.
    """
    if path is None:
        yield []
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.tmp")
    outside = target.background_probabilities(num_outputs)
    shape = (num_outputs, *shape_as_read(grid, plan.axis_order))
    try:
        file = np.lib.format.open_memmap(unfinished, mode="w+", dtype=np.float16, shape=shape)
        if grid.shape_before_crop != grid.shape_after_crop:
            file[...] = np.reshape(outside, (-1, 1, 1, 1))
        yield [cropped_view(volume, grid, plan.axis_order) for volume in file]
        file.flush()
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
