"""Which map is the largest at every voxel of a finer grid, without the maps there: labels straight from logits.

Compiled (``native/largest.c``): the maps of a sample are laid side by side, so that sixteen are interpolated and
compared at a time; beside the labels, two slices of the coarse grid are held. Where there is no compiler, or the result
is wrong on a self-test, nothing is offered: then slices of all maps are resampled and compared (``resampling``).
"""

import ctypes
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from autoseg import native
from autoseg.preprocessing.operators import nearest_samples, sample_positions

LANES = 16
"""Maps at a time; ``native/gemm.h``."""

FEWEST = 6
"""Of fewer maps, comparing them one after the other is as fast (measured 2026-11: equal at 4 and 5 on AVX-512)."""

MOST = 2**16
"""Maps whose numbers fit the result."""


class Between(NamedTuple):
    """Per sample of a finer axis: the coarse ones on both sides (int32), and the way from low to high (float32)."""

    low: np.ndarray
    high: np.ndarray
    part: np.ndarray

    def cut(self, start: int, stop: int) -> "Between":
        """Take some of them."""
        return Between(*(column[start:stop] for column in self))


def between(size_in: int, size_out: int, order: int) -> Between:
    """Lay a finer axis over a coarse one, sample centres aligned half-pixel to half-pixel, edges repeated.

    Args:
        size_in, size_out: samples of both.
        order: 1 is linear, 0 takes the nearest sample.
    """
    if order == 0 or size_in == size_out:
        nearest = nearest_samples(size_in, size_out).astype(np.int32)
        return Between(nearest, nearest, np.zeros(size_out, np.float32))
    positions = sample_positions(size_in, size_out)
    whole = np.floor(positions)
    low, high = (np.clip(whole + step, 0, size_in - 1).astype(np.int32) for step in (0, 1))
    return Between(low, high, (positions - whole).astype(np.float32))


def is_offered(maps_KZYX: object) -> bool:
    """Tell whether ``largest_upsampled`` takes these maps, and is the faster way."""
    if not isinstance(maps_KZYX, np.ndarray) or not FEWEST <= len(maps_KZYX) < MOST:
        return False
    return maps_KZYX.dtype == np.float32 and maps_KZYX.flags.c_contiguous and _sound_kernel() is not None


def largest_upsampled(maps_KZYX: np.ndarray, axes: Sequence[Between]) -> np.ndarray:
    """Find the largest map at every voxel of a finer grid; of equals the first.

    Args:
        maps_KZYX: float32, finite; ``is_offered`` has said so.
        axes: of slices, rows and columns.

    Returns:
        uint16, slices × rows × columns: numbers of maps.
    """
    kernel = _sound_kernel()
    assert kernel is not None
    return _run(kernel, maps_KZYX, axes)


@functools.cache
def _sound_kernel() -> Callable[..., Any] | None:
    """Give the compiled function, if it finds on a few made maps what numpy finds."""
    library = native.kernels().library
    if library is None:
        return None
    rng = np.random.default_rng(0)
    maps = rng.permutation(37 * 2 * 3 * 19).astype(np.float32).reshape(37, 2, 3, 19)  # no two are equal
    axes = [between(*sizes, 1) for sizes in ((2, 2), (3, 5), (19, 19))]
    upper = axes[1].part[:, None]
    rows = (1 - upper) * maps[:, :, axes[1].low] + upper * maps[:, :, axes[1].high]
    found = _run(library.largest_upsampled, maps, axes)
    return library.largest_upsampled if np.array_equal(found, rows.argmax(axis=0)) else None


def _run(kernel: Callable[..., Any], maps_KZYX: np.ndarray, axes: Sequence[Between]) -> np.ndarray:
    shape = tuple(len(axis.low) for axis in axes)
    low, high, part = (np.concatenate([axis[column] for axis in axes]) for column in range(3))
    _, _, y, x = maps_KZYX.shape
    pitch = -(-len(maps_KZYX) // LANES) * LANES
    work, found = np.empty((2 * y * x + x) * pitch, np.float32), np.zeros(shape, np.uint16)
    sizes = (ctypes.c_int64 * 7)(*maps_KZYX.shape, *shape)
    pointers = (array.ctypes.data for array in (maps_KZYX, low, high, part, work, found))
    kernel(*pointers, sizes)
    return found
