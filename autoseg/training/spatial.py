"""Rotation, scaling and mirroring of a patch: which box of the case it needs, and its voxels from that box.

A patch is cut from the middle of a larger *loader patch*, which leaves room for rotated corners. Voxel ``i`` of the
patch comes from ``matrix @ (i − (size − 1) / 2)`` around the loader patch's centre; what would come from outside the
loader patch, or outside the case, is 0 in the image and ``OUTSIDE`` in the label.

Images are interpolated linearly. A label is the class with the largest interpolated share; shares are compared in half
precision, so that even odds are recognised as such, and then the nearest voxel decides.

Written for processors with caches: output is made in chunks, neighbours are fetched by shifted views of the flat
source, and only voxels whose neighbours differ take part in the vote. The tests hold it equal to ``grid_sample``.

Source: rules and the size of the loader patch as in nnU-Net v2.8.1 and batchgeneratorsv2 0.3.6.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from planners.plan import Configuration

ROOM_FOR_SCALING = 0.85
"""The loader patch is larger by 1 / this; larger scales reach beyond it. nnU-Net v2.8.1."""

MARGIN = (1, 2)
"""Voxels of padding before and after a box that is interpolated: one that can be drawn in, one so that the neighbour of
the last place exists too."""

CHUNK = 2**17
"""Voxels made at a time on a processor. Measured 2026-11 on one core of a Xeon with 2 MB of second-level cache: the
neighbours of 96³ places are fetched fastest from 2^16 to 2^17 at a time, and a tenth slower all at once."""

SHARE_SCALE = 1000.0
"""Shares are multiplied by this before half precision, whose steps near one half are then 0.0005. batchgeneratorsv2."""

Shape = tuple[int, int, int]
Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


@dataclass(frozen=True, kw_only=True)
class PatchFrame:
    """The sizes around one patch of a configuration, in voxels z, y, x.

    Attributes:
        patch: what the network sees.
        loader: the patch with room for rotation; equal to ``patch`` where nothing is augmented.
        planar: rotation and scaling leave axis 0 alone (2D, and strongly anisotropic 3D patches).
    """

    patch: Shape
    loader: Shape
    planar: bool

    @classmethod
    def of(cls, configuration: Configuration, *, augment: bool) -> "PatchFrame":
        """Give the frame of a configuration's patches, with or without room for augmentation."""
        augmentation = configuration.training.augmentation
        patch = configuration.patch_shape
        planar = configuration.dimensions == 2 or augmentation.in_plane
        loader = loader_shape(patch, augmentation.rotation_radians, planar) if augment else patch
        return cls(patch=patch, loader=loader, planar=planar)

    @property
    def first_axis(self) -> int:
        """The first axis that takes part in rotation and scaling."""
        return 1 if self.planar else 0


def loader_shape(patch: Shape, rotation_radians: float, planar: bool) -> Shape:
    """Give the size of the loader patch: room for a patch turned by the largest angle about one axis, and scaled.

    Source: nnU-Net v2.8.1, ``get_patch_size`` (the corner of the patch is turned, at most by 90 degrees).
    """
    angle = min(math.pi / 2, abs(rotation_radians))
    cosine, sine = math.cos(angle), math.sin(angle)
    turned = np.array(patch, dtype=float)
    for first, second in ((1, 2),) if planar else ((1, 2), (2, 0), (0, 1)):
        turned[first] = max(turned[first], abs(cosine * patch[first] + sine * patch[second]))
        turned[second] = max(turned[second], abs(cosine * patch[second] - sine * patch[first]))
    enlarged = [int(size / ROOM_FOR_SCALING) for size in turned]
    return (patch[0] if planar else enlarged[0], enlarged[1], enlarged[2])


def affine_matrix(angles: Sequence[float], scale: float, mirror: Sequence[int] = ()) -> np.ndarray:
    """Give the matrix from offsets in the patch to offsets in the loader patch.

    Args:
        angles: radians about axes 0, 1, 2; or one angle in the plane of two axes.
        scale: voxels of the case per voxel of the patch; above 1 shrinks what is seen.
        mirror: axes along which the patch is mirrored, counted within the matrix.

    Returns:
        float64, 3 × 3 or 2 × 2, acting on columns of offsets.
    """
    if len(angles) == 1:
        matrix = scale * _rotation(2, 0, 1, angles[0])
    else:
        about_z, about_y, about_x = angles
        matrix = _rotation(3, 0, 1, about_x) @ _rotation(3, 2, 0, about_y) @ _rotation(3, 1, 2, about_z) * scale
    matrix[:, list(mirror)] *= -1
    return matrix


def _rotation(size: int, first: int, second: int, angle: float) -> np.ndarray:
    matrix = np.eye(size)
    matrix[first, first] = matrix[second, second] = math.cos(angle)
    matrix[first, second], matrix[second, first] = -math.sin(angle), math.sin(angle)
    return matrix


def needed_box(matrix: np.ndarray | None, frame: PatchFrame) -> Box:
    """Give the box that a patch is made from, counted from the first voxel of its loader patch.

    Args:
        matrix: see ``affine_matrix``, or None where the patch is cut out as it is.
        frame: the sizes.

    Returns:
        (start, stop) per axis, within the loader patch.
    """
    middle = [size // 2 - part // 2 for size, part in zip(frame.loader, frame.patch, strict=True)]
    box = [(start, start + part) for start, part in zip(middle, frame.patch, strict=True)]
    if matrix is not None:
        first = frame.first_axis
        half = np.abs(matrix) @ ((np.array(frame.patch[first:]) - 1) / 2)
        for axis, reach in enumerate(half, start=first):
            size = frame.loader[axis]
            low, high = (size - 1) / 2 - reach, (size - 1) / 2 + reach
            fuzz = 1e-3  # places are computed in single precision later
            box[axis] = (max(0, math.floor(low - fuzz)), min(size, math.floor(high + fuzz) + 2))
    return (box[0], box[1], box[2])


@dataclass(frozen=True, kw_only=True)
class PaddedBox:
    """What a rotated or scaled patch is made from.

    Attributes:
        image_CZYX: float32; along every axis of the matrix padded with zeros by ``MARGIN``.
        label_LZYX: integers on the same voxels, padded with ``OUTSIDE``. Where the matrix is 2 × 2, axis z of both has
            the length of the patch and is not padded.
        matrix: see ``affine_matrix``.
        center: where the patch's centre lies, in voxels of the padded box; one number per axis of the matrix.
    """

    image_CZYX: Tensor
    label_LZYX: Tensor
    matrix: np.ndarray
    center: tuple[float, ...]


def resample(box: PaddedBox, image_CZYX: Tensor, label_LZYX: Tensor) -> None:
    """Make a patch from a padded box by interpolation, on the device of the patch.

    Args:
        box: the source.
        image_CZYX, label_LZYX: the patch, contiguous float32 and integers that hold the box's labels; written to.
    """
    dimensions = len(box.matrix)
    source = box.image_CZYX.shape[-dimensions:]
    strides = [math.prod(source[axis + 1 :]) for axis in range(dimensions)]
    device, size = image_CZYX.device, math.prod(source)
    image = box.image_CZYX.to(device, non_blocking=True).reshape(-1, size)
    label = box.label_LZYX.to(device, non_blocking=True)
    codes, label = _agreeing_blocks(label, dimensions).reshape(-1, size), label.reshape(-1, size)
    out_image, out_label = image_CZYX.view(len(image), -1), label_LZYX.view(len(label), -1)
    pieces: list[tuple[Tensor, ...]] = []
    for first, index, fractions in _places(box, image_CZYX.shape[-dimensions:], device):
        last = first + len(index)
        out_image[:, first:last] = _interpolate(image, index, fractions, strides)
        found = codes.index_select(1, index)
        out_label[:, first:last] = found
        layers, voxels = (found == torch.iinfo(codes.dtype).min).nonzero(as_tuple=True)
        parts = [fraction.index_select(0, voxels) for fraction in fractions]
        pieces.append((layers, voxels + first, index.index_select(0, voxels) + layers * size, *parts))
    layers, voxels, index, *fractions = (torch.cat(items) for items in zip(*pieces, strict=True))
    if len(voxels):
        out_label[layers, voxels] = _vote(label.flatten(), index, fractions, strides).to(out_label.dtype)


def _places(box: PaddedBox, shape: Sequence[int], device: torch.device) -> Iterator[tuple[int, Tensor, list[Tensor]]]:
    """Give per chunk its first voxel, and per voxel its lowest neighbour (flat) and the way beyond it per axis."""
    source = box.image_CZYX.shape[-len(shape) :]
    offsets = [torch.arange(size, dtype=torch.float32, device=device) - (size - 1) / 2 for size in shape]
    rest = [offset.reshape(-1, *(1,) * (len(shape) - axis - 1)) for axis, offset in enumerate(offsets)]
    bases = []  # per source axis: the part of the place that is the same in all rows of the chunk
    for row, middle in zip(box.matrix.tolist(), box.center, strict=True):
        bases.append(
            sum((rest[axis] * row[axis] for axis in range(1, len(shape))), torch.tensor(middle, device=device))
        )
    per_row = math.prod(shape[1:])
    rows = max(1, CHUNK // per_row) if device.type == "cpu" else shape[0]
    for first in range(0, shape[0], rows):
        index = None
        fractions = []
        for axis, (base, size) in enumerate(zip(bases, source, strict=True)):
            place = (rest[0][first : first + rows] * float(box.matrix[axis, 0]) + base).flatten()
            place.clamp_(0, size - sum(MARGIN) + 1)
            below = place.floor()
            fractions.append(place.sub_(below))
            whole = below.to(torch.int32)
            index = whole if index is None else index.mul_(size).add_(whole)
        assert index is not None
        yield first * per_row, index, fractions


def _interpolate(flat: Tensor, index: Tensor, fractions: Sequence[Tensor], strides: Sequence[int]) -> Tensor:
    """Interpolate linearly between the 4 or 8 neighbours of every place."""

    def between(axis: int, offset: int) -> Tensor:
        if axis == len(strides):
            return flat[:, offset:].index_select(1, index) if len(flat) == 1 else flat.index_select(1, index + offset)
        low, high = between(axis + 1, offset), between(axis + 1, offset + strides[axis])
        return low.lerp_(high, fractions[axis])

    return between(0, 0)


def _agreeing_blocks(label_LZYX: Tensor, dimensions: int) -> Tensor:
    """Give per voxel the label that it shares with all neighbours above it, or the type's minimum where they differ."""
    low = high = label_LZYX
    for axis in range(-dimensions, 0):
        size = label_LZYX.shape[axis] - 1
        low = torch.minimum(low.narrow(axis, 0, size), low.narrow(axis, 1, size))
        high = torch.maximum(high.narrow(axis, 0, size), high.narrow(axis, 1, size))
    mixed = torch.iinfo(label_LZYX.dtype).min
    codes = torch.full_like(label_LZYX, mixed)
    inner = codes
    for axis in range(-dimensions, 0):
        inner = inner.narrow(axis, 0, inner.shape[axis] - 1)
    inner.copy_(low.masked_fill_(low != high, mixed))
    return codes


def _vote(label: Tensor, index: Tensor, fractions: Sequence[Tensor], strides: Sequence[int]) -> Tensor:
    """Give the label with the largest share of every place; where it is even, the nearest voxel's, else the lowest."""
    dimensions = len(strides)
    corners = list(itertools.product((0, 1), repeat=dimensions))
    offsets = [sum(stride for stride, up in zip(strides, corner, strict=True) if up) for corner in corners]
    values = torch.stack([label[offset:].index_select(0, index) for offset in offsets])
    nearest_index = index.clone()
    for way, stride in zip(fractions, strides, strict=True):
        nearest_index.add_(way > 0.5, alpha=stride)
    nearest = label.index_select(0, nearest_index)
    low, high = values.amin(0), values.amax(0)
    is_high = values == high
    share = is_high.float()
    for way in fractions:  # the first axis is the slowest in the order of corners
        share = share[: len(share) // 2].lerp_(share[len(share) // 2 :], way)
    share = _rounded(share[0])
    winner = torch.where(share > SHARE_SCALE / 2, high, low)
    winner = torch.where(share == SHARE_SCALE / 2, nearest, winner)
    several = (is_high | (values == low)).all(0).logical_not_().nonzero().squeeze(1)
    if len(several):
        ways = [way.index_select(0, several) for way in fractions]
        winner[several] = _vote_of_several(values[:, several], nearest[several], ways)
    return winner


def _vote_of_several(values: Tensor, nearest: Tensor, fractions: Sequence[Tensor]) -> Tensor:
    """Do as ``_vote`` where more than two labels meet, given the neighbours' labels (corners × places)."""
    weights = []
    for corner in itertools.product((0, 1), repeat=len(fractions)):
        parts = [way if up else 1 - way for way, up in zip(fractions, corner, strict=True)]
        weights.append(math.prod(parts[1:], start=parts[0]))
    shares = torch.stack(weights)
    winner, best = values[0], torch.full_like(shares[0], -1)
    share_of_nearest = torch.zeros_like(best)
    for candidate in values:
        share = _rounded(shares.mul(values == candidate).sum(0))
        wins = (share > best) | ((share == best) & (candidate < winner))
        winner, best = torch.where(wins, candidate, winner), torch.where(wins, share, best)
        share_of_nearest = torch.where(nearest == candidate, share, share_of_nearest)
    return torch.where(share_of_nearest == best, nearest, winner)


def _rounded(share: Tensor) -> Tensor:
    return (share * SHARE_SCALE).half().float()
