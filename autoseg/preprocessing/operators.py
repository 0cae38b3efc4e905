"""Bring one axis of an array to another number of samples: exactly, by small dense matrix products.

Spline interpolation with sample points in half-pixel centres is linear and separable, so resizing a volume is one
matrix per axis. Each row of such a matrix has few entries that matter (2 for linear, about 36 for cubic splines, whose
prefilter decays by 0.27 per sample), so it is kept as blocks of a few rows with just the columns they need.

Source: Unser, Aldroubi, Eden 1993, B-spline signal processing, part I (the prefilter's impulse response √3·(√3−2)^|k|).
"""

import contextlib
import functools
import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from autoseg.errors import OptionError

ORDERS = (0, 1, 3)
"""Spline orders that are offered: nearest, linear, cubic."""

BLOCK_ROWS = 32  # measured 2026-11: 16 to 64 rows are within 15 % of the fastest at 128×160×160 and 128×512×512
NEGLIGIBLE = 1e-9  # smaller weights would become denormals in float32 products, which are up to 20 times slower
POLE = math.sqrt(3.0) - 2.0
TAIL = 16  # samples on either side after which |POLE|^k < NEGLIGIBLE


@dataclass(frozen=True)
class Block:
    """Some rows of an operator: ``output[rows] = weights @ input[columns]``."""

    rows: slice
    columns: slice
    weights: np.ndarray


@dataclass(frozen=True)
class AxisOperator:
    """A linear map along one axis, from ``size_in`` samples to ``size_out`` (see ``axis_operator``)."""

    size_in: int
    size_out: int
    blocks: tuple[Block, ...]

    @property
    def first(self) -> int:
        """First input sample that the output needs."""
        return min(int(block.columns.start) for block in self.blocks)

    @property
    def last(self) -> int:
        """Last input sample that the output needs."""
        return max(int(block.columns.stop) for block in self.blocks) - 1

    @functools.cached_property
    def narrowed(self) -> "AxisOperator":
        """The same for an input that holds only the samples ``first`` to ``last``."""
        first = self.first
        blocks = (
            Block(block.rows, slice(block.columns.start - first, block.columns.stop - first), block.weights)
            for block in self.blocks
        )
        return AxisOperator(self.last - first + 1, self.size_out, tuple(blocks))

    def apply(self, array: np.ndarray, axis: int) -> np.ndarray:
        """Resample one axis.

        Args:
            array: float32, C-contiguous, ``size_in`` long along ``axis``.
            axis: which axis, counted from 0.

        Returns:
            A new float32 array, ``size_out`` long along ``axis``.
        """
        before, after = array.shape[:axis], array.shape[axis + 1 :]
        result = np.empty((*before, self.size_out, *after), dtype=np.float32)
        last = math.prod(after) == 1
        shape = (math.prod(before), -1) if last else (math.prod(before), -1, math.prod(after))
        source, target = array.reshape(shape), result.reshape(shape)
        with one_blas_thread():
            for block in self.blocks:
                if last:
                    np.matmul(source[:, block.columns], block.weights.T, out=target[:, block.rows])
                else:
                    np.matmul(block.weights, source[:, block.columns], out=target[:, block.rows])
        return result


@functools.lru_cache(maxsize=256)
def axis_operator(size_in: int, size_out: int, order: int, start: int = 0, stop: int | None = None) -> AxisOperator:
    """Build the operator that resizes one axis as ``skimage.transform.resize(mode="edge")`` does.

    Args:
        size_in: samples of the input.
        size_out: samples of the whole output; sample centres are aligned half-pixel to half-pixel.
        order: 0, 1 or 3.
        start, stop: which part of the output to compute (for work in slabs); default all.

    Raises:
        OptionError: the order is not offered.
    """
    if order not in ORDERS:
        raise OptionError(f"resampling order is {order}; choose one of {', '.join(map(str, ORDERS))}")
    positions = sample_positions(size_in, size_out)[start:stop]
    columns, weights = _taps(positions, order)
    columns = np.clip(columns, 0, size_in - 1)  # samples beyond the edge repeat the edge
    blocks = []
    for first in range(0, len(positions), BLOCK_ROWS):
        rows = slice(first, min(first + BLOCK_ROWS, len(positions)))
        blocks.append(_block(rows, columns[rows], weights[rows]))
    return AxisOperator(size_in, len(positions), tuple(blocks))


def sample_positions(size_in: int, size_out: int) -> np.ndarray:
    """Give the place of each output sample, counted in input samples (float64; may lie half a sample outside)."""
    return (size_in / size_out) * (np.arange(size_out) + 0.5) - 0.5


def nearest_samples(size_in: int, size_out: int) -> np.ndarray:
    """Give the input sample nearest to each output sample; half-way the higher one, as scipy.ndimage takes it."""
    positions = np.clip(sample_positions(size_in, size_out), 0, size_in - 1)
    return np.floor(positions + 0.5).astype(np.intp)


def take(array: np.ndarray, axis: int, index: np.ndarray) -> np.ndarray:
    """Pick samples along one axis; the array itself where that changes nothing."""
    if len(index) == array.shape[axis] and np.array_equal(index, np.arange(len(index))):
        return array
    return np.take(array, index, axis=axis)


def _taps(positions: np.ndarray, order: int) -> tuple[np.ndarray, np.ndarray]:
    if order == 0:
        return np.floor(positions + 0.5).astype(np.intp)[:, None], np.ones((len(positions), 1))
    whole = np.floor(positions).astype(np.intp)
    part = positions - whole
    if order == 1:
        return whole[:, None] + np.arange(2), np.stack([1 - part, part], axis=1)
    rest = 1 - part
    cubic = [rest**3, 4 - 6 * part**2 + 3 * part**3, 4 - 6 * rest**2 + 3 * rest**3, part**3]
    spline = np.stack(cubic, axis=1) / 6
    offsets = np.arange(-TAIL - 1, TAIL + 3)
    distance = np.abs(offsets[None] - np.arange(-1, 3)[:, None])
    return whole[:, None] + offsets, spline @ (math.sqrt(3.0) * POLE**distance)


def _block(rows: slice, columns: np.ndarray, weights: np.ndarray) -> Block:
    low, high = int(columns.min()), int(columns.max()) + 1
    dense = np.zeros((len(columns), high - low))
    np.add.at(dense, (np.arange(len(columns))[:, None], columns - low), weights)
    dense[np.abs(dense) < NEGLIGIBLE] = 0
    return Block(rows, slice(low, high), dense.astype(np.float32))


class _BlasLimit:
    """Counts who needs BLAS on one thread: the first one in sets it, the last one out restores what was before."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.holders = 0
        self.stack = contextlib.ExitStack()

    def enter(self) -> None:
        with self.lock:
            if self.holders == 0:
                self.stack.enter_context(_blas_controller().limit(limits=1, user_api="blas"))
            self.holders += 1

    def leave(self) -> None:
        with self.lock:
            self.holders -= 1
            if self.holders == 0:
                self.stack.close()


_LIMIT = _BlasLimit()


@contextlib.contextmanager
def one_blas_thread() -> Iterator[None]:
    """Keep numpy's matrix products on the calling thread while the body runs (for all threads of this process).

    The products here are small and cases are worked on side by side. Left to itself, OpenBLAS shares each small product
    among threads that wait for one another by spinning: 8 to 40 times slower on two cores that others use as well
    (measured 2026-11, 128×160×160 and 36×50×35).
    """
    _LIMIT.enter()
    try:
        yield
    finally:
        _LIMIT.leave()


@functools.cache
def _blas_controller() -> Any:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
