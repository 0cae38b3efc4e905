"""Bring images to the target spacing, and logits back from it.

Where voxels are strongly anisotropic, the coarse axis is treated on its own: interpolating over a distance of several
voxels in plane would mix slices that have little to do with each other. Each slice is resampled in plane, then slices
are taken over as they are (``order_through_plane`` 0).

Source: facts of nnU-Net v2.8.1 (spline orders, the rule for anisotropy, clipping to the input's range).
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from autoseg.errors import OptionError
from autoseg.preprocessing.largest import Between, between, is_offered, largest_upsampled
from autoseg.preprocessing.operators import axis_operator, nearest_samples, take
from planners.fingerprint import Shape
from planners.plan import Resampling


def separate_axis(current_mm: Sequence[float], new_mm: Sequence[float], threshold: float) -> int | None:
    """Decide which axis is resampled on its own.

    The current spacing decides if it is anisotropic, else the new one. No axis is separated where two axes share the
    largest spacing.

    Args:
        current_mm, new_mm: spacings before and after, z, y, x.
        threshold: anisotropic means that the largest spacing exceeds the smallest by more than this factor.

    Returns:
        The axis of the largest spacing, or None.
    """
    for spacing in (current_mm, new_mm):
        if max(spacing) / min(spacing) > threshold:
            # The ratio, not equality: it is 1 also for values that differ in the last bit, as in nnU-Net.
            largest = [axis for axis, value in enumerate(spacing) if max(spacing) / value == 1]
            return largest[0] if len(largest) == 1 else None
    return None


def resampled_shape(shape: Sequence[int], current_mm: Sequence[float], new_mm: Sequence[float]) -> Shape:
    """Give the number of voxels that cover the same extent at another spacing (at least one per axis)."""
    z, y, x = (max(1, round(old / new * count)) for old, new, count in zip(current_mm, new_mm, shape, strict=True))
    return z, y, x


def resample_image(
    image_CZYX: np.ndarray,
    new_shape: Sequence[int],
    current_mm: Sequence[float],
    new_mm: Sequence[float],
    resampling: Resampling,
) -> np.ndarray:
    """Resample an image to another grid over the same extent.

    Equal to ``skimage.transform.resize(order, mode="edge", anti_aliasing=False)`` per channel, or per slice of the
    separate axis, to about 2e-7 of the intensity range; the result stays within the range of its input.

    Args:
        image_CZYX: channels, z, y, x; float32 and finite.
        new_shape: voxels along z, y, x afterwards.
        current_mm, new_mm: spacings before and after; they only decide on a separate axis.
        resampling: spline orders and the anisotropy threshold.

    Returns:
        float32; the input itself where the shape stays.

    Raises:
        OptionError: a spline order is not offered.
    """
    if tuple(new_shape) == image_CZYX.shape[1:]:
        return image_CZYX.astype(np.float32, copy=False)
    separate = separate_axis(current_mm, new_mm, resampling.anisotropy_threshold)
    result = np.empty((len(image_CZYX), *new_shape), dtype=np.float32)
    for channel, target in zip(image_CZYX, result, strict=True):
        volume = np.ascontiguousarray(channel, dtype=np.float32)
        if separate is None:
            target[...] = _resize(volume, new_shape, resampling.image_order)
        else:
            target[...] = _resize_separately(volume, new_shape, separate, resampling)
    return result


class SlicesOnDemand(Protocol):
    """Logits that are not in memory: ``rows`` gives some slices, float32 (outputs, slices, y, x)."""

    shape: tuple[int, ...]

    def __len__(self) -> int:
        """Count the outputs."""

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Give the slices ``start`` to ``stop`` (exclusive)."""


class LogitsResampler:
    """Logits on another grid, computed slab by slab so that they are never held whole at full resolution."""

    def __init__(
        self,
        logits_KZYX: np.ndarray | SlicesOnDemand,
        new_shape: Sequence[int],
        current_mm: Sequence[float],
        new_mm: Sequence[float],
        resampling: Resampling,
    ) -> None:
        """Prepare to resample.

        Args:
            logits_KZYX: outputs, z, y, x; float32 and finite; in memory, or slices on demand.
            new_shape: voxels along z, y, x afterwards.
            current_mm, new_mm: spacings before and after; they only decide on a separate axis.
            resampling: ``logits_order`` (0 or 1), ``order_through_plane`` of a separate axis (0 or 1), and the
                anisotropy threshold.

        Raises:
            OptionError: an order is neither 0 nor 1.
        """
        held = isinstance(logits_KZYX, np.ndarray)
        self.logits = np.ascontiguousarray(logits_KZYX, dtype=np.float32) if held else logits_KZYX
        self.shape: tuple[int, ...] = (len(logits_KZYX), *new_shape)
        self._orders = [resampling.logits_order] * 3
        separate = separate_axis(current_mm, new_mm, resampling.anisotropy_threshold)
        if separate is not None:
            self._orders[separate] = min(resampling.order_through_plane, 1)
        if not set(self._orders) <= {0, 1}:
            raise OptionError(f"logits_order is {resampling.logits_order}; choose 0 or 1")

    def slab(self, start: int, stop: int) -> np.ndarray:
        """Compute the slices ``start`` to ``stop`` (exclusive) of the result.

        Returns:
            float32, outputs × slices × y × x; a view of the logits where no axis changes.
        """
        sizes_in, sizes_out = self.logits.shape[1:], self.shape[1:]
        if sizes_in[0] == sizes_out[0]:
            slab, expand = self._rows(start, stop), None
        elif self._orders[0] == 0:
            needed, expand = np.unique(nearest_samples(sizes_in[0], sizes_out[0])[start:stop], return_inverse=True)
            slab = self._rows(needed[0], needed[-1] + 1)[:, needed - needed[0]]
        else:
            operator, expand = axis_operator(sizes_in[0], sizes_out[0], 1, start, stop), None
            if isinstance(self.logits, np.ndarray):
                slab = operator.apply(self.logits, 1)
            else:
                slab = operator.narrowed.apply(self.logits.rows(operator.first, operator.last + 1), 1)
        slab = resize_axes(slab, {1 + axis: (sizes_out[axis], self._orders[axis]) for axis in (1, 2)})
        return slab if expand is None else take(slab, 1, expand)

    @property
    def compares(self) -> bool:
        """Tell whether ``largest`` is offered here, and faster than ``slab`` and a comparison."""
        return is_offered(self.logits)

    def largest(self, start: int, stop: int) -> np.ndarray:
        """Find the largest output at each voxel of the slices ``start`` to ``stop``; of equals the first.

        Returns:
            uint16, slices × y × x: what a comparison of ``slab`` gives, but for outputs that differ by rounding.
        """
        assert isinstance(self.logits, np.ndarray), "ask compares first"
        slices, *others = self._between
        return largest_upsampled(self.logits, (slices.cut(start, stop), *others))

    @functools.cached_property
    def _between(self) -> tuple[Between, ...]:
        sizes = zip(self.logits.shape[1:], self.shape[1:], self._orders, strict=True)
        return tuple(between(*item) for item in sizes)

    def _rows(self, start: int, stop: int) -> np.ndarray:
        return self.logits[:, start:stop] if isinstance(self.logits, np.ndarray) else self.logits.rows(start, stop)


def _resize_separately(
    volume: np.ndarray, new_shape: Sequence[int], separate: int, resampling: Resampling
) -> np.ndarray:
    size, new_size = volume.shape[separate], new_shape[separate]
    in_plane = [size if axis == separate else new_shape[axis] for axis in range(3)]
    others = tuple(axis for axis in range(3) if axis != separate)
    if size == new_size or resampling.order_through_plane > 0:
        volume = _resize(volume, in_plane, resampling.image_order, others)
        return resize_axes(volume, {separate: (new_size, resampling.order_through_plane)})
    needed, expand = np.unique(nearest_samples(size, new_size), return_inverse=True)
    in_plane[separate] = len(needed)
    return take(_resize(take(volume, separate, needed), in_plane, resampling.image_order, others), separate, expand)


def _resize(
    volume: np.ndarray, new_shape: Sequence[int], order: int, clip_over: tuple[int, ...] = (0, 1, 2)
) -> np.ndarray:
    """Resize a volume and clip it to its range, taken over the axes ``clip_over``."""
    changes = {axis: (size, order) for axis, size in enumerate(new_shape)}
    if tuple(new_shape) == volume.shape or order == 0:
        return resize_axes(volume, changes)
    low, high = volume.min(axis=clip_over, keepdims=True), volume.max(axis=clip_over, keepdims=True)
    return within(volume, low, high, lambda shifted: resize_axes(shifted, changes))


def within(
    volume: np.ndarray, low: np.ndarray, high: np.ndarray, resized: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Resize a volume by a function that is linear, and clip what it gives to a range.

    Args:
        volume: float32, z, y, x.
        low, high: least and largest value, three axes, of length 1 or of the result's.
        resized: its weights add up to one.
    """
    middle = float(low.min()) / 2 + float(high.max()) / 2
    if abs(middle) > float(high.max()) - float(low.min()):
        # Values far from zero for their range would lose digits in float32; the operators' rows sum to one.
        shift = np.float32(middle)
        volume, low, high = volume - shift, low - shift, high - shift
    else:
        shift = np.float32(0)
    volume = resized(volume)
    np.clip(volume, low, high, out=volume)
    if shift:
        volume += shift
    return volume


def resize_axes(array: np.ndarray, changes: dict[int, tuple[int, int]]) -> np.ndarray:
    """Resize the axes named in ``changes`` (new size, order), the one that shrinks most first: least work.

    Nothing is clipped: cubic splines may leave the range of their input.
    """
    for axis in sorted(changes, key=lambda axis: changes[axis][0] / array.shape[axis]):
        new_size, order = changes[axis]
        size = array.shape[axis]
        if size == new_size or math.prod(array.shape) == 0:
            continue
        if order == 0:
            array = take(array, axis, nearest_samples(size, new_size))
        else:
            array = axis_operator(size, new_size, order).apply(np.ascontiguousarray(array), axis)
    return array
