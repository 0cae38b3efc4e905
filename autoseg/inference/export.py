"""From logits back to the image: resampled, decoded and put in place slab by slab, never classes × full grid.

At full resolution only the integer map is held whole. Class probabilities, where the user wants them, go to the disk in
the same slabs: ``CASE.probabilities.npy``, float16, (output of the network, z, y, x) on the grid of the image as read.
``np.load(file, mmap_mode="r")`` opens it without reading it.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autoseg import room
from autoseg.errors import OptionError
from autoseg.inference.instances import class_map, classes_on_grid, segment_objects
from autoseg.inference.logits_part import LogitsPart, average
from autoseg.preprocessing.label_resampling import resample_label
from autoseg.preprocessing.preprocess import CaseGrid, cropped_view, shape_as_read, uncrop_and_untranspose
from autoseg.preprocessing.resampling import LogitsResampler
from autoseg.targets import Target
from autoseg.targets.instance_target import InstanceTarget
from planners.plan import Plan

SLAB_BYTES = 2**22  # measured 2026-11: fastest from 2**20 to 2**23, where a slab stays in the processor's cache
LARGEST_PARTS = 8
"""Of the slices, per thread: the last to end keeps the others waiting, and each lays out two coarse slices anew."""

PROBABILITIES_ENDING = ".probabilities.npy"


@dataclass(frozen=True, kw_only=True)
class Slab:
    """Some slices of an image as they are decoded; axes in the plan's order.

    Attributes:
        start, stop: slices along the first axis of the image's crop box (stop exclusive).
        probabilities_KZYX: float32, what the slices were decoded from; valid only until the watcher returns.
        segmentation_ZYX: inner class indices, before postprocessing.
        grid: of the case.
        axis_order: the plan's.
    """

    start: int
    stop: int
    probabilities_KZYX: np.ndarray
    segmentation_ZYX: np.ndarray
    grid: CaseGrid
    axis_order: tuple[int, int, int]

    def look_at(self, array_ZYX: np.ndarray) -> np.ndarray:
        """Look at these slices in an array on the image's grid as read; what is written there stands in the array."""
        return cropped_view(array_ZYX, self.grid, self.axis_order)[self.start : self.stop]


Watcher = Callable[[Slab], None]
"""Is shown every slab once, in any order and from several threads; outside the crop box nothing is shown."""


def segment(
    parts: Sequence[LogitsPart],
    target: Target,
    plan: Plan,
    probabilities_file: Path | None = None,
    threads: int = 1,
    watch: Watcher | None = None,
) -> np.ndarray:
    """Decode the logits of one case on the grid of its image.

    Args:
        parts: one per configuration, of equal targets; several are averaged as probabilities, by their weights.
        target: decodes; one that is not pointwise decodes whole, on the preprocessed grid of the first part.
        plan: gives the order of axes and the classes.
        probabilities_file: where to write the probabilities too (see above), or None.
        threads: slabs at a time.
        watch: sees the probabilities of every slab; a target that is not pointwise shows none. It changes nothing.

    Returns:
        Inner class indices z, y, x of the image as read; 0 outside the crop. Of a target that finds objects their
        classes, not their ids: those are in ``instances.segment_objects``.

    Raises:
        OptionError: probabilities are asked of a target that has none per voxel.
    """
    if not target.pointwise:
        if probabilities_file is not None:
            check_probabilities(target)
        return _segment_whole(parts, target, plan)
    grid = parts[0].grid
    segmentation = np.zeros(shape_as_read(grid, plan.axis_order), dtype=np.min_scalar_type(plan.labels.num_classes))
    inside = cropped_view(segmentation, grid, plan.axis_order)
    resamplers = [part.onto(grid.shape_after_crop, grid.spacing_before_mm) for part in parts]
    if probabilities_file is None and watch is None and fill_with_largest(inside, resamplers, target, threads):
        return segmentation
    weights = [part.weight for part in parts]
    num_outputs = len(parts[0].logits_KZYX)
    with _open_probabilities(probabilities_file, target, num_outputs, plan, grid) as probabilities:

        def work(slab: tuple[int, int]) -> None:
            place, wanted = slice(*slab), bool(probabilities) or watch is not None
            inside[place], values = decode_slab([item.slab(*slab) for item in resamplers], target, wanted, weights)
            if values is None:
                return
            for volume, value in zip(probabilities, values, strict=False):  # no volumes where they are only watched
                volume[place] = value
            if watch is not None:
                watch(Slab(start=slab[0], stop=slab[1], probabilities_KZYX=values, segmentation_ZYX=inside[place],
                           grid=grid, axis_order=plan.axis_order))  # fmt: skip

        slabs = cut_slabs(grid.shape_after_crop, num_outputs)
        with ThreadPoolExecutor(max(1, min(threads, len(slabs)))) as pool:
            list(pool.map(work, slabs))
    return segmentation


def fill_with_largest(
    segmentation_ZYX: np.ndarray, resamplers: Sequence[LogitsResampler], target: Target, threads: int
) -> bool:
    """Write the largest of one configuration's logits into a segmentation, where only that is asked and it is compiled.

    Returns:
        Whether it was done; if not, slabs of logits must be decoded.
    """
    if not target.takes_largest or len(resamplers) > 1 or not resamplers[0].compares:
        return False
    threads = max(1, threads)
    num_slices = len(segmentation_ZYX)
    thickness = -(-num_slices // (LARGEST_PARTS * threads))

    def work(start: int) -> None:
        stop = min(start + thickness, num_slices)
        segmentation_ZYX[start:stop] = resamplers[0].largest(start, stop)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(0, num_slices, thickness)))
    return True


def check_probabilities(target: Target) -> None:
    """Refuse to save probabilities of a target that has none per voxel.

    Raises:
        OptionError: it has none.
    """
    if not target.pointwise:
        raise OptionError(f"target {target.name} has no probability per voxel; do not ask to save them")


def cut_slabs(shape: Sequence[int], num_outputs: int) -> list[tuple[int, int]]:
    """Cut a grid into slabs along its first axis (start, stop), each of about ``SLAB_BYTES`` of logits."""
    thickness = max(SLAB_BYTES // (4 * num_outputs * shape[1] * shape[2]), 1)
    return [(start, min(start + thickness, shape[0])) for start in range(0, shape[0], thickness)]


def decode_slab(
    logits: Sequence[np.ndarray],
    target: Target,
    with_probabilities: bool = False,
    weights: Sequence[float] = (),
) -> tuple[np.ndarray, np.ndarray | None]:
    """Decode one slab from the logits of every configuration; give its probabilities too where they are wanted."""
    if len(logits) == 1:
        return target.decode(logits[0]), target.probabilities(logits[0]) if with_probabilities else None
    mean = average((target.probabilities(item) for item in logits), weights or [1.0] * len(logits))
    return target.decode_probabilities(mean), mean if with_probabilities else None


def _segment_whole(parts: Sequence[LogitsPart], target: Target, plan: Plan) -> np.ndarray:
    """Decode whole on the crop of the image, and put the integer map in its place."""
    if isinstance(target, InstanceTarget):
        return class_map(segment_objects(parts, target, plan), plan.labels)
    grid = parts[0].grid
    decoded = decode_whole(parts, target, grid.shape_after_crop, grid.spacing_before_mm)
    return uncrop_and_untranspose(decoded, grid, plan.axis_order)


def decode_whole(
    parts: Sequence[LogitsPart], target: Target, shape: Sequence[int], spacing_mm: Sequence[float]
) -> np.ndarray:
    """Average maps that do not decode voxel by voxel on the preprocessed grid of the first part, and decode there.

    Gives classes, also of a target that finds objects.

    Args:
        parts: one per configuration, of equal targets.
        target: decodes.
        shape, spacing_mm: of the grid to bring the integer map to; over the same extent.
    """
    grid, resampling = parts[0].grid, parts[0].resampling
    if isinstance(target, InstanceTarget):
        return resample_label(classes_on_grid(parts, target), shape, grid.spacing_mm, spacing_mm, resampling)
    found = (part.onto(grid.shape, grid.spacing_mm).slab(0, grid.shape[0]).copy() for part in parts)
    maps = average(found, [part.weight for part in parts])
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
        room.reserve(unfinished, unfinished.stat().st_size, path)
        if grid.shape_before_crop != grid.shape_after_crop:
            file[...] = np.reshape(outside, (-1, 1, 1, 1))
        yield [cropped_view(volume, grid, plan.axis_order) for volume in file]
        file.flush()
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
