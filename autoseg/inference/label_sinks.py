"""Where the labels of an image go that is decoded slab by slab: into its file at once, or into a map in memory."""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np

from autoseg.data.image import Geometry
from autoseg.data.io import image_ending, write_segmentation
from autoseg.data.region_writing import WRITERS, RegionWriter
from autoseg.evaluation.postprocessing import Postprocessing, voxel_mm3
from autoseg.evaluation.postprocessing_slabs import apply_in_slabs
from autoseg.preprocessing.preprocess import CaseGrid, cropped_view, shape_as_read
from planners.labels import Labels
from planners.plan import Plan

BUFFER_BYTES = 2**24
"""Labels that are gathered before they are written: where the order of axes differs, each writing touches all planes of
the file. Assumption."""


class StreamedLabels:
    """Labels that are written as they come. As a context the file is finished at the end, or removed."""

    def __init__(self, path: Path, plan: Plan, grid: CaseGrid, geometry: Geometry) -> None:
        """Begin the file; outside the crop box is background."""
        self.labels, self.grid, self.order = plan.labels, grid, plan.axis_order
        self.writer = RegionWriter(
            path, image_ending(path), shape_as_read(grid, self.order), geometry, self.labels.file_dtype
        )
        self._rows: list[np.ndarray] = []
        self._start = self._stop = 0
        background = self.labels.decode(np.zeros((), dtype=np.uint8))
        if background != 0 and grid.shape_before_crop != grid.shape_after_crop:
            _fill(self.writer, background)

    def put(self, start: int, stop: int, classes_ZYX: np.ndarray) -> None:
        """Take the slices ``start`` to ``stop`` of the crop, inner indices; they come in order."""
        self._rows.append(self.labels.decode(classes_ZYX))
        self._stop = stop
        if sum(item.nbytes for item in self._rows) >= BUFFER_BYTES:
            self._flush()

    def _flush(self) -> None:
        if not self._rows:
            return
        begin = self.grid.crop_box[0][0]
        inside = ((begin + self._start, begin + self._stop), *self.grid.crop_box[1:])
        box = [(0, 0)] * 3
        for axis, side in zip(self.order, inside, strict=True):
            box[axis] = side
        values = self._rows[0] if len(self._rows) == 1 else np.concatenate(self._rows)
        self.writer.put(tuple(box), values.transpose(np.argsort(self.order)))
        self._rows, self._start = [], self._stop

    def __enter__(self) -> "StreamedLabels":
        """Begin."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish the file, or remove it."""
        try:
            if kind is None:
                self._flush()
        except BaseException:
            self.writer.abandon()
            raise
        self.writer.__exit__(kind, fault, trace)


class HeldLabels:
    """Labels that are gathered in memory, in the smallest type, because rules or the format need them all.

    Attributes:
        classes_ZYX: inner indices on the image's grid as read; postprocessed once the context has ended.
    """

    def __init__(
        self, path: Path | None, plan: Plan, grid: CaseGrid, geometry: Geometry, rules: Sequence[Postprocessing]
    ) -> None:
        """Begin a map of background; ``path`` is None where no file is wanted."""
        self.path, self.labels, self.grid, self.geometry, self.rules = path, plan.labels, grid, geometry, rules
        smallest = np.min_scalar_type(plan.labels.num_classes)
        self.classes_ZYX = np.zeros(shape_as_read(grid, plan.axis_order), dtype=smallest)
        self._inside = cropped_view(self.classes_ZYX, grid, plan.axis_order)

    def put(self, start: int, stop: int, classes_ZYX: np.ndarray) -> None:
        """Take the slices ``start`` to ``stop`` of the crop, inner indices."""
        self._inside[start:stop] = classes_ZYX

    def __enter__(self) -> "HeldLabels":
        """Begin."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Apply the rules and write the file."""
        if kind is not None:
            return
        grid = self.grid
        apply_in_slabs(self.classes_ZYX, self.rules, voxel_mm3(grid.shape_before_crop, grid.spacing_before_mm))
        if self.path is None:
            return
        if image_ending(self.path) not in WRITERS:
            write_segmentation(self.path, self.labels.decode(self.classes_ZYX), self.geometry)
            return
        shape = self.classes_ZYX.shape
        with RegionWriter(
            self.path, image_ending(self.path), shape, self.geometry, self.labels.file_dtype
        ) as writer:  # fmt: skip
            for row in range(shape[0]):
                writer.put(
                    ((row, row + 1), (0, shape[1]), (0, shape[2])), decoded(self.classes_ZYX[row], self.labels)[None]
                )


def decoded(classes: np.ndarray, labels: Labels) -> np.ndarray:
    """Give the user's values of some inner indices."""
    return labels.decode(classes)


def open_sink(
    path: Path | None, plan: Plan, grid: CaseGrid, geometry: Geometry, rules: Sequence[Postprocessing]
) -> StreamedLabels | HeldLabels:
    """Write at once where nothing needs the whole map."""
    if path is None or rules or image_ending(path) not in WRITERS:
        return HeldLabels(path, plan, grid, geometry, rules)
    return StreamedLabels(path, plan, grid, geometry)


def _fill(writer: RegionWriter, value: np.ndarray) -> None:
    depth, height, length = writer.shape
    plane = np.full((1, height, length), value, dtype=writer.dtype)
    for row in range(depth):
        writer.put(((row, row + 1), (0, height), (0, length)), plane)
