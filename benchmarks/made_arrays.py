"""Images, labels and logits made in code. Not a script."""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

BLOB = 6  # voxels between the random numbers that smooth fields interpolate


def make_image(shape: Sequence[int]) -> np.ndarray:
    """Noise, one channel, float32."""
    return np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)


def make_label(num_labels: int, shape: Sequence[int]) -> np.ndarray:
    """Regions some voxels wide, as small integers."""
    rng = np.random.default_rng(1)
    noise = [ndimage.gaussian_filter(rng.normal(size=shape).astype(np.float32), 6) for _ in range(num_labels)]
    return np.argmax(noise, axis=0).astype(np.int8)


def smooth(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Random numbers with blobs some voxels wide, float32."""
    small = np.random.default_rng(seed).normal(size=(shape[0], *(-(-size // BLOB) + 1 for size in shape[1:])))
    zoomed = ndimage.zoom(small, (1, BLOB, BLOB, BLOB), order=1)
    return np.ascontiguousarray(zoomed[tuple(slice(size) for size in shape)] * 4, dtype=np.float32)


def make_logits(num_classes: int, shape: Sequence[int], seed: int = 2) -> np.ndarray:
    """Logits as networks give them: blobs some voxels wide, the winner far above zero, a border where two are near it.

    Each is a smooth random field minus the mean of the two highest there, so that rounding to float16 matters only
    where two classes are nearly equal.

    Returns:
        float16, the type in which nnU-Net sums its windows; (class, z, y, x).
    """
    coarse = [-(-size // BLOB) + 1 for size in shape]
    field = np.random.default_rng(seed).normal(size=(num_classes, *coarse)).astype(np.float32) * 4
    for axis, size in list(enumerate(shape))[1:]:
        field = along(field, axis + 1, np.arange(size) / BLOB)
    logits = np.empty((num_classes, *shape), dtype=np.float16)
    for z in range(shape[0]):  # by slices: classes × grid in float32 would be gigabytes
        part = along(field, 1, np.array([z / BLOB]))[:, 0]
        logits[:, z] = part - np.partition(part, -2, axis=0)[-2:].mean(axis=0)
    return logits


def along(array: np.ndarray, axis: int, places: np.ndarray) -> np.ndarray:
    """Interpolate linearly along one axis at fractional places, all within it."""
    low = places.astype(int)
    share = np.expand_dims((places - low).astype(np.float32), tuple(range(1, array.ndim - axis)))
    below, above = np.take(array, low, axis), np.take(array, np.minimum(low + 1, array.shape[axis] - 1), axis)
    return below + (above - below) * share


def text(shape: Sequence[int]) -> str:
    """Write a shape."""
    return "×".join(map(str, shape))
