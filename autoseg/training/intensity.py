"""What augmentation does to intensities, many rows at a time: a row is one channel of one sample.

Every function takes B rows (``x_BZYX``, float32) and one parameter per row, and changes the rows in place. Sums over a
row are made in two steps, so that they do not depend on the number of threads.

Source: batchgeneratorsv2 0.3.6, whose transforms the tests compare with.
"""

import functools
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

SMALLEST_RANGE = 1e-7
"""Ranges and deviations below this are taken as this (a constant row stays constant). batchgeneratorsv2."""

KERNEL_SIGMAS = 6
"""A Gaussian kernel is this many sigmas and half a voxel wide, made an odd number. batchgeneratorsv2."""

BLOCK = 128
"""Voxels of an axis per matrix product. Measured 2026-11 on one core with AVX-512: up to 128 voxels the whole matrix is
faster than a pass for every diagonal, at 512 it takes twice as long."""

REACH = 3
"""How far from its diagonal a matrix may have entries: 3 for the blur, 2 for low resolution with zooms from 0.5."""


def add_noise(image_CZYX: Tensor, sigma: float, seed: int) -> None:
    """Add Gaussian noise to one sample, drawn on its device from ``seed``: to every voxel of every channel its own."""
    generator = torch.Generator(image_CZYX.device).manual_seed(seed)
    noise = torch.randn(image_CZYX.shape, generator=generator, device=image_CZYX.device, dtype=image_CZYX.dtype)
    image_CZYX.add_(noise, alpha=sigma)


def multiply(x_BZYX: Tensor, factors: Sequence[float]) -> None:
    """Change the brightness: multiply."""
    x_BZYX.mul_(_column(factors, x_BZYX))


def change_contrast(x_BZYX: Tensor, factors: Sequence[float]) -> None:
    """Stretch intensities about their mean, and clip them to the range they had."""
    low, high = x_BZYX.amin((1, 2, 3), keepdim=True), x_BZYX.amax((1, 2, 3), keepdim=True)
    factor, mean = _column(factors, x_BZYX), _mean(x_BZYX)
    x_BZYX.sub_(mean).mul_(factor).add_(mean)
    torch.minimum(torch.maximum(x_BZYX, low, out=x_BZYX), high, out=x_BZYX)


def change_gamma(x_BZYX: Tensor, gammas: Sequence[float], *, inverted: bool) -> None:
    """Raise intensities, scaled to 0 … 1, to a power; their mean and standard deviation stay.

    Args:
        x_BZYX: rows.
        gammas: powers.
        inverted: do it to the negative of the image, so that the bright end is stretched instead of the dark one.
    """
    if inverted:
        x_BZYX.neg_()
    low, high = x_BZYX.amin((1, 2, 3), keepdim=True), x_BZYX.amax((1, 2, 3), keepdim=True)
    value_range = high - low
    width = value_range.clamp(min=SMALLEST_RANGE)
    x_BZYX.sub_(low).div_(width)
    mean = _mean(x_BZYX)
    deviation = _deviation(x_BZYX, mean) * width
    mean = mean * width + low
    x_BZYX.log_().mul_(_column(gammas, x_BZYX)).exp_()  # five times as fast as pow on a CPU, equal to 1e-7
    new_mean = _mean(x_BZYX)
    new_deviation = (_deviation(x_BZYX, new_mean) * value_range).clamp(min=SMALLEST_RANGE)
    x_BZYX.sub_(new_mean).mul_(value_range * deviation / new_deviation).add_(mean)
    if inverted:
        x_BZYX.neg_()


def blur(x_BZYX: Tensor, sigmas: Sequence[Sequence[float]]) -> None:
    """Blur with a Gaussian of one sigma (voxels) per row and axis z, y, x; the image is mirrored at its border."""
    for axis in range(3):
        size = x_BZYX.shape[axis + 1]
        if size > 1:
            kernels = np.stack([gaussian_kernel(row[axis]) for row in sigmas])
            taps = _tap_operators(size, kernels.shape[1] // 2)
            operators = np.einsum("rt,tij->rij", kernels.astype(np.float32), taps)
            _apply_operators(x_BZYX, axis, operators)


def gaussian_kernel(sigma: float, half: int = 3) -> np.ndarray:
    """Give a normalized Gaussian about ``KERNEL_SIGMAS`` sigmas wide, with zeros around it up to 2 × half + 1."""
    places = np.arange(-half, half + 1)
    reach = int((KERNEL_SIGMAS * sigma + 0.5) // 2)
    assert reach <= half, f"a sigma of {sigma} needs a wider kernel than {2 * half + 1}"
    values = np.exp(-0.5 * (places / sigma) ** 2) * (np.abs(places) <= reach)
    return values / values.sum()


def lower_resolution(x_BZYX: Tensor, zooms: Sequence[Sequence[float]], flipped: Sequence[Sequence[int]]) -> None:
    """Sample with fewer voxels (the nearest one) and bring back to size (linearly).

    Args:
        x_BZYX: rows.
        zooms: per row and axis z, y, x, the part of the voxels that is kept.
        flipped: per row, the axes along which it is mirrored already. The nearest voxel is chosen as in the row before.
    """
    for axis in range(3):
        size = x_BZYX.shape[axis + 1]
        kept = [max(1, round(size * zoom[axis])) for zoom in zooms]
        if any(count != size for count in kept):
            chosen = zip(kept, flipped, strict=True)
            operators = [low_resolution_operator(size, count, axis in axes) for count, axes in chosen]
            _apply_operators(x_BZYX, axis, np.stack(operators))


@functools.lru_cache(maxsize=256)
def low_resolution_operator(size: int, kept: int, flipped: bool) -> np.ndarray:
    """Give the size × size matrix that keeps ``kept`` of ``size`` voxels and interpolates back.

    Source: PyTorch's ``interpolate``, modes ``nearest-exact`` and ``linear`` without aligned corners.
    """
    ratio = np.float32(size) / np.float32(kept)
    nearest = np.minimum(np.floor((np.arange(kept, dtype=np.float32) + np.float32(0.5)) * ratio), size - 1).astype(int)
    places = np.clip((np.arange(size) + 0.5) * kept / size - 0.5, 0, kept - 1)
    below = np.minimum(np.floor(places).astype(int), max(kept - 2, 0))
    part = places - below
    operator = np.zeros((size, size), dtype=np.float32)
    rows = np.arange(size)
    operator[rows, nearest[below]] += 1 - part
    operator[rows, nearest[np.minimum(below + 1, kept - 1)]] += part
    return operator[::-1, ::-1].copy() if flipped else operator


@functools.lru_cache(maxsize=8)
def _tap_operators(size: int, half: int) -> np.ndarray:
    """Give per tap of a kernel the size × size matrix that fetches the neighbour there, mirrored at the ends."""
    period = 2 * (size - 1)
    operators = np.zeros((2 * half + 1, size, size), dtype=np.float32)
    rows = np.arange(size)
    for tap in range(2 * half + 1):
        place = np.abs(rows + tap - half) % period
        operators[tap, rows, np.minimum(place, period - place)] = 1
    return operators


def _apply_operators(x_BZYX: Tensor, axis: int, operators: np.ndarray) -> None:
    """Multiply every row along one axis by its own matrix, which is 0 farther than ``REACH`` off its diagonal."""
    matrices = torch.from_numpy(operators).to(x_BZYX.device)
    rows, size = len(x_BZYX), x_BZYX.shape[axis + 1]
    result = torch.empty_like(x_BZYX)
    for first in range(0, size, BLOCK):
        last = min(first + BLOCK, size)
        low, high = max(0, first - REACH), min(size, last + REACH)
        block, part = matrices[:, first:last, low:high], x_BZYX.narrow(axis + 1, low, high - low)
        target = result.narrow(axis + 1, first, last - first)
        if axis == 0:
            target.copy_((block @ part.reshape(rows, high - low, -1)).reshape(target.shape))
        elif axis == 1:
            target.copy_(block[:, None] @ part)
        else:
            target.copy_((part.reshape(rows, -1, high - low) @ block.mT).reshape(target.shape))
    x_BZYX.copy_(result)


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device).reshape(-1, 1, 1, 1)


def _mean(x_BZYX: Tensor) -> Tensor:
    return x_BZYX.mean((2, 3), keepdim=True).mean(1, keepdim=True)


def _deviation(x_BZYX: Tensor, mean: Tensor) -> Tensor:
    """Give the standard deviation of every row (of a sample: over n − 1)."""
    planes = torch.linalg.vector_norm(x_BZYX - mean, dim=(2, 3), keepdim=True)
    total = torch.linalg.vector_norm(planes, dim=1, keepdim=True)
    return total / math.sqrt(max(math.prod(x_BZYX.shape[1:]) - 1, 1))
