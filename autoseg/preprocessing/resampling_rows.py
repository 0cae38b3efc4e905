"""Resample a volume slice by slice along its first axis, from a source that gives slices on demand.

The operators are those of ``resampling``: their support along an axis is narrow, so that some slices of the result need
some slices of the source. What ``resample_image`` clips to, the range of the whole volume, must be known before.
"""

from collections.abc import Callable, Sequence

import numpy as np

from autoseg.preprocessing.operators import axis_operator, nearest_samples, take
from autoseg.preprocessing.resampling import resize_axes, separate_axis, within
from planners.plan import Resampling

Rows = Callable[[int, int], np.ndarray]
"""Gives the slices start to stop (exclusive) of a volume: float32 (slices, y, x)."""


class RowsResampler:
    """A volume on another grid, some slices at a time; equal to ``resample_image`` to rounding."""

    def __init__(
        self,
        rows: Rows,
        shape: Sequence[int],
        new_shape: Sequence[int],
        current_mm: Sequence[float],
        new_mm: Sequence[float],
        resampling: Resampling,
    ) -> None:
        """Prepare to resample.

        Args:
            rows: of the source, finite.
            shape, new_shape: voxels along z, y, x before and after.
            current_mm, new_mm: spacings before and after; they only decide on a separate axis.
            resampling: spline orders and the anisotropy threshold.

        Attributes:
            clip_over: axes over which the range must be known before the first slice (``set_range``); none where each
                slice has its own, or nothing is clipped.
        """
        self._source, self._shape, self._new_shape = rows, tuple(shape), tuple(new_shape)
        self._order, self._through = resampling.image_order, resampling.order_through_plane
        self._separate = separate_axis(current_mm, new_mm, resampling.anisotropy_threshold)
        others = [axis for axis in range(3) if axis != self._separate]
        self._clips = self._order > 0 and any(self._shape[axis] != self._new_shape[axis] for axis in others)
        self.clip_over: tuple[int, ...] = tuple(others) if self._clips and 0 in others else ()
        self._range: tuple[np.ndarray, np.ndarray] | None = None

    def set_range(self, low: np.ndarray, high: np.ndarray) -> None:
        """Tell least and largest value of the source, over ``clip_over`` (kept as axes of length 1)."""
        self._range = low, high

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Compute the slices ``start`` to ``stop`` (exclusive) of the result: float32, slices × y × x."""
        if self._shape == self._new_shape:
            return self._source(start, stop).astype(np.float32, copy=False)
        if self._separate == 0:
            return self._along(start, stop, self._through, self._slices)
        if self._separate is None:
            sizes = {axis: (self._new_shape[axis], self._order) for axis in (1, 2)}
            return self._clipped(start, stop, lambda part: resize_axes(part, sizes), np.arange(0))
        return self._beside(start, stop, self._separate)

    def _beside(self, start: int, stop: int, axis: int) -> np.ndarray:
        """Treat an axis in plane on its own, after the others."""
        size, new_size, other = self._shape[axis], self._new_shape[axis], 3 - axis
        in_plane = {other: (self._new_shape[other], self._order)}
        if size == new_size or self._through > 0:
            found = self._clipped(start, stop, lambda part: resize_axes(part, in_plane), np.arange(0))
            return resize_axes(found, {axis: (new_size, self._through)})
        needed, expand = np.unique(nearest_samples(size, new_size), return_inverse=True)
        found = self._clipped(
            start, stop, lambda part: resize_axes(np.ascontiguousarray(take(part, axis, needed)), in_plane), needed
        )
        return take(found, axis, expand)

    def _clipped(
        self, start: int, stop: int, in_plane: Callable[[np.ndarray], np.ndarray], needed: np.ndarray
    ) -> np.ndarray:
        """Resize along the first axis and in plane, and clip to the range of the whole; ``needed``: of its own axis."""
        if not self._clips:
            return self._along(start, stop, self._order, lambda first, last: in_plane(self._source(first, last)))
        assert self._range is not None, "the range is measured before"
        low, high = self._range
        if len(needed) and self._separate is not None:
            low, high = (take(item, self._separate, needed) for item in (low, high))
        if self._shape[0] == self._new_shape[0]:
            return within(self._source(start, stop), low, high, in_plane)
        operator = axis_operator(self._shape[0], self._new_shape[0], self._order, start, stop)
        part = self._source(operator.first, operator.last + 1)

        def resized(shifted: np.ndarray) -> np.ndarray:
            if self._new_shape[0] > self._shape[0]:  # first what makes less of it
                return operator.narrowed.apply(np.ascontiguousarray(in_plane(shifted)), 0)
            return in_plane(operator.narrowed.apply(np.ascontiguousarray(shifted), 0))

        return within(part, low, high, resized)

    def _slices(self, start: int, stop: int) -> np.ndarray:
        """Resize source slices in plane alone, each clipped to its own range."""
        part = self._source(start, stop)
        if not self._clips:
            return resize_axes(part, {axis: (self._new_shape[axis], self._order) for axis in (1, 2)})
        sizes = {axis: (self._new_shape[axis], self._order) for axis in (1, 2)}
        low, high = part.min(axis=(1, 2), keepdims=True), part.max(axis=(1, 2), keepdims=True)
        return within(part, low, high, lambda shifted: resize_axes(shifted, sizes))

    def _along(self, start: int, stop: int, order: int, rows: Rows) -> np.ndarray:
        """Resize along the first axis without clipping, from slices that are resized in plane already."""
        size, new_size = self._shape[0], self._new_shape[0]
        if size == new_size:
            return rows(start, stop)
        if order == 0:
            nearest = nearest_samples(size, new_size)[start:stop]
            first = int(nearest[0])
            return take(rows(first, int(nearest[-1]) + 1), 0, nearest - first)
        operator = axis_operator(size, new_size, order, start, stop)
        return operator.narrowed.apply(np.ascontiguousarray(rows(operator.first, operator.last + 1)), 0)
