"""A case preprocessed some slices at a time, from an image that is read in regions: never a float copy of the whole.

What ``preprocess_case`` measures of the whole image (its content, mean and deviation, the range that resampling clips
to) is measured first, slab by slab. Then any slices of the result can be made on demand, equal to its to rounding.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from autoseg.data.image import Image
from autoseg.data.slab_components import SlabComponents
from autoseg.errors import ImageError
from autoseg.preprocessing.cropping import Box, box_shape
from autoseg.preprocessing.looking import Looked, finite_channel
from autoseg.preprocessing.normalization import MEASURED_IN_PARTS, Spread, from_spread
from autoseg.preprocessing.preprocess import CaseGrid, make_grid
from autoseg.preprocessing.resampling_rows import RowsResampler
from planners.plan import Configuration, Plan

BLOCK_BYTES = 2**23
"""Bytes of stored voxels read at a time; two such blocks are kept. Assumption."""


class CroppedRows:
    """An image inside its crop box, axes in the plan's order, some slices at a time.

    Attributes:
        box: where the content lies, in the plan's order.
        shape: voxels of the box.
        shape_before_crop: voxels of the image.
    """

    def __init__(self, image: Image, looked: Looked, axis_order: Sequence[int]) -> None:
        self.image, self.looked, self.order = image, looked, tuple(axis_order)
        z, y, x = (looked.content[axis] for axis in axis_order)
        self.box: Box = (z, y, x)
        self.shape = box_shape(self.box)
        first, second, third = (image.shape[axis] for axis in axis_order)
        self.shape_before_crop = (first, second, third)
        row = image.num_channels * self.shape[1] * self.shape[2] * image.dtype.itemsize
        self.depth = max(BLOCK_BYTES // row, 1)
        self._blocks: dict[int, np.ndarray] = {}

    def channel(self, index: int, start: int, stop: int) -> np.ndarray:
        """Give slices ``start`` to ``stop`` of a channel: float32, finite, (slices, y, x)."""
        parts = []
        for number in range(start // self.depth, (stop - 1) // self.depth + 1):
            first = number * self.depth
            part = self._block(number)[index, max(start - first, 0) : stop - first]
            parts.append(finite_channel(part, self.looked.fill[index]))
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def slabs(self) -> Iterator[tuple[int, int]]:
        """Cut the slices into slabs as they are read."""
        return ((start, min(start + self.depth, self.shape[0])) for start in range(0, self.shape[0], self.depth))

    def _block(self, number: int) -> np.ndarray:
        """Give a block of slices in the stored type: (channels, slices, y, x)."""
        if number not in self._blocks:
            while len(self._blocks) > 1:
                self._blocks.pop(next(iter(self._blocks)))
            begin, end = self.box[0]
            first = begin + number * self.depth
            sides: list[tuple[int, int]] = [(0, 0)] * 3
            inside = ((first, min(first + self.depth, end)), *self.box[1:])
            for axis, side in zip(self.order, inside, strict=True):
                sides[axis] = side
            self._blocks[number] = self.image.read(tuple(sides)).transpose(0, *(1 + axis for axis in self.order))
        return self._blocks[number]


def inside_mask(cropped: CroppedRows) -> np.ndarray:
    """Mark the content inside the crop box as ``nonzero_box`` does: what is not zero, and the holes it encloses."""
    mask = np.zeros(cropped.shape, dtype=bool)
    for start, stop in cropped.slabs():
        for index in range(cropped.image.num_channels):
            mask[start:stop] |= cropped.channel(index, start, stop) != 0
    if min(mask.shape) <= 2 or mask[1:-1, 1:-1, 1:-1].all():
        return mask  # every False voxel lies on the border: nothing can be enclosed
    holes = SlabComponents(lambda start, stop: ~mask[start:stop], mask.shape, corners=False)
    enclosed = ~holes.is_open
    if enclosed.any():
        for start, stop, numbers, component in holes.slabs():
            mask[start:stop] |= enclosed[component][numbers]
    return mask


class PreparedRows:
    """A case as the network of one configuration sees it, some slices at a time.

    Attributes:
        grid: of the case.
    """

    def __init__(
        self, cropped: CroppedRows, mask: np.ndarray | None, spacing_mm: Sequence[float], plan: Plan,
        configuration: Configuration,
    ) -> None:  # fmt: skip
        """Measure what normalization and resampling must know of the whole.

        Args:
            cropped: the image.
            mask: of its content, where ``needs_mask`` says that the configuration needs it.
            spacing_mm: z, y, x as read.
            plan: gives the order of axes, the channels and their intensities.
            configuration: one of the plan's; ``fits_rows`` is true of it.

        Raises:
            ImageError, PlanError: as of ``preprocess_case``.
        """
        z, y, x = plan.axis_order
        spacing = (spacing_mm[z], spacing_mm[y], spacing_mm[x])
        self.grid: CaseGrid = make_grid(cropped.shape_before_crop, cropped.box, spacing, configuration)
        self.channels = [
            _Channel(cropped, index, mask, plan, configuration, self.grid) for index in range(len(plan.channels))
        ]

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Give slices ``start`` to ``stop`` (exclusive): float32, channels × slices × y × x."""
        return np.stack([channel.resampler.rows(start, stop) for channel in self.channels])


class _Channel:
    """One channel, normalized and resampled on demand."""

    def __init__(
        self, cropped: CroppedRows, index: int, mask: np.ndarray | None, plan: Plan, configuration: Configuration,
        grid: CaseGrid,
    ) -> None:  # fmt: skip
        self.cropped, self.index = cropped, index
        self.mask = mask if configuration.use_mask_for_norm[index] else None
        name, channel = configuration.normalization[index], plan.channels[index]
        masked = self.mask if name == "zscore" else None  # the others measure the whole box
        spread = Spread()
        for start, stop in cropped.slabs():
            part = cropped.channel(index, start, stop)
            spread.add(part if masked is None else part[masked[start:stop]])
        try:
            normalize = from_spread(name, spread, channel.intensities)
        except ImageError as fault:
            raise ImageError(f"channel {index} ({channel.name}): {fault}") from fault
        assert normalize is not None, "fits_rows is asked before"
        self.normalize = normalize
        self.resampler = RowsResampler(
            self.rows, cropped.shape, grid.shape, grid.spacing_before_mm, grid.spacing_mm, configuration.resampling
        )
        if self.resampler.clip_over:
            self.resampler.set_range(*self._range(self.resampler.clip_over))

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Give normalized slices before resampling."""
        mask = None if self.mask is None else self.mask[start:stop]
        return self.normalize(self.cropped.channel(self.index, start, stop), mask)

    def _range(self, axes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Find least and largest normalized value over some axes, the first among them."""
        low: np.ndarray | None = None
        high: np.ndarray | None = None
        for start, stop in self.cropped.slabs():
            part = self.rows(start, stop)
            below, above = part.min(axis=axes, keepdims=True), part.max(axis=axes, keepdims=True)
            low = below if low is None else np.minimum(low, below)
            high = above if high is None else np.maximum(high, above)
        assert low is not None
        assert high is not None
        return low, high


def needs_mask(configuration: Configuration) -> bool:
    """Tell whether a normalization looks at the mask of an image's content."""
    pairs = zip(configuration.normalization, configuration.use_mask_for_norm, strict=True)
    return any(name == "zscore" and masked for name, masked in pairs)


def why_no_rows(configuration: Configuration) -> str | None:
    """Say why a configuration cannot be preprocessed some slices at a time; None where it can."""
    if configuration.scaling is not None:
        return "images are brought to a common size of their objects"
    strange = [name for name in configuration.normalization if name not in MEASURED_IN_PARTS]
    return f"what its normalization {strange[0]} measures is not known" if strange else None


def mask_bytes(shape: Sequence[int], configurations: Sequence[Configuration]) -> int:
    """Bytes of the mask that stays in memory, where any of some configurations needs it."""
    return math.prod(shape) if any(needs_mask(item) for item in configurations) else 0
