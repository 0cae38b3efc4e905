"""Look at an image slab by slab before it is preprocessed: its range, where its content is, what its voxels tell."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from autoseg.data.image import Image
from autoseg.preprocessing.cropping import Box, bounding_box, full_box
from autoseg.preprocessing.image_percentiles import percentiles_of, sampled_places

LOOK_BYTES = 2**26
"""Bytes of stored voxels that are looked at in one go. Assumption."""


@dataclass(frozen=True, kw_only=True)
class Looked:
    """What was seen of an image; axes as read.

    Attributes:
        lowest, highest: per channel as read; not a number where a voxel is none.
        fill: per channel what non-finite voxels become (see ``preprocess.finite``); None where all are finite.
        content: the smallest box around all that is not zero, in any channel; the whole image where all is zero.
        percentiles: per channel, as ``image_percentiles`` gives them.
    """

    lowest: tuple[float, ...]
    highest: tuple[float, ...]
    fill: tuple[np.float32 | None, ...]
    content: Box
    percentiles: tuple[tuple[float, ...], ...]


def look_at(image: Image) -> Looked:
    """Read an image once, slab by slab; twice where it holds voxels that are not finite."""
    channels = range(image.num_channels)
    low, high = np.full(len(channels), np.inf), np.full(len(channels), -np.inf)
    least, strange = [np.float32(np.inf)] * len(channels), [False] * len(channels)
    content, sampled = _Content(image.shape), _Sample(image)
    for start, slab in _slabs(image):
        sampled.take(start, slab)
        content.add(start, slab)
        for index, part in enumerate(slab):
            low[index], high[index] = np.minimum(low[index], part.min()), np.maximum(high[index], part.max())
            if part.dtype.kind == "f":
                single = as_float32(part)
                good = np.isfinite(single)
                strange[index] |= not good.all()
                least[index] = min(least[index], single.min(where=good, initial=np.float32(np.inf)))
    fill = tuple((value if np.isfinite(value) else np.float32(0)) if odd else None
                 for value, odd in zip(least, strange, strict=True))  # fmt: skip
    if any(strange):
        content = _Content(image.shape)
        for start, slab in _slabs(image):
            content.add(start, np.stack([finite_channel(part, value) for part, value in zip(slab, fill, strict=True)]))
    return Looked(
        lowest=tuple(low.tolist()),
        highest=tuple(high.tolist()),
        fill=fill,
        content=content.box(),
        percentiles=sampled.percentiles(),
    )


def as_float32(values: np.ndarray) -> np.ndarray:
    """Round to float32; what is beyond it becomes infinite."""
    with np.errstate(over="ignore"):
        return values.astype(np.float32, copy=False)


def finite_channel(values: np.ndarray, fill: np.float32 | None) -> np.ndarray:
    """Give a part of a channel as float32, its non-finite voxels replaced."""
    single = as_float32(values)
    return single if fill is None else np.where(np.isfinite(single), single, fill)


def _slabs(image: Image) -> Iterator[tuple[int, np.ndarray]]:
    depth = max(LOOK_BYTES // (image.num_channels * math.prod(image.shape[1:]) * image.dtype.itemsize), 1)
    _, height, length = image.shape
    for start in range(0, image.shape[0], depth):
        yield start, image.read(((start, min(start + depth, image.shape[0])), (0, height), (0, length)))


class _Content:
    """The box around what is not zero, from slabs: which planes, rows and columns hold any."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.held = [np.zeros(size, dtype=bool) for size in shape]

    def add(self, start: int, slab: np.ndarray) -> None:
        for part in slab:
            full = (as_float32(part) if part.dtype == np.float64 else part) != 0
            self.held[0][start : start + len(full)] |= full.any(axis=(1, 2))
            seen = full.any(axis=0)
            self.held[1] |= seen.any(axis=1)
            self.held[2] |= seen.any(axis=0)

    def box(self) -> Box:
        planes, rows, columns = self.held
        shape = tuple(len(item) for item in self.held)
        ends = [bounding_box(item[:, None, None]) for item in (planes, rows, columns)]
        if any(end is None for end in ends):
            return full_box(shape)
        z, y, x = (end[0] for end in ends if end is not None)
        return z, y, x


class _Sample:
    """The voxels that ``image_percentiles`` would look at, taken from slabs."""

    def __init__(self, image: Image) -> None:
        self.plane = math.prod(image.shape[1:])
        count = image.shape[0] * self.plane
        places = sampled_places(count)
        self.places = None if places is None else np.sort(places)
        self.parts: list[np.ndarray] = []

    def take(self, start: int, slab: np.ndarray) -> None:
        flat = slab.reshape(len(slab), -1)
        if self.places is None:
            self.parts.append(flat.copy())
            return
        first = start * self.plane
        ends = np.searchsorted(self.places, [first, first + flat.shape[1]])
        self.parts.append(flat[:, self.places[slice(*ends)] - first])

    def percentiles(self) -> tuple[tuple[float, ...], ...]:
        return percentiles_of(np.concatenate(self.parts, axis=1))
