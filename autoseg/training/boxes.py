"""Boxes of stored cases: read with what lies around the image, and padded where they are interpolated.

A case is read as its arrays: the image, the label layers, and for a cascade one more layer, the previous segmentation.
"""

from collections.abc import Sequence

import numpy as np
import torch

from autoseg.preprocessing.preprocess import OUTSIDE
from autoseg.preprocessing.store import StoredCase
from autoseg.training.spatial import MARGIN, Box, PaddedBox, PatchFrame, Shape

Arrays = tuple[np.ndarray, ...]
"""Channels × space (the image), then layers × space as often as there are."""


def map_arrays(case: StoredCase, *, with_previous: bool) -> Arrays:
    """Map the arrays of a case.

    Args:
        case: from the store.
        with_previous: add the previous segmentation; where there is none yet it is all background, which is enough to
            measure a training step before the previous configuration is trained.
    """
    if not with_previous:
        return case.image, case.labels
    if case.previous is None:
        return case.image, case.labels, np.broadcast_to(np.uint8(0), (1, *case.shape))
    return case.image, case.labels, case.previous.array[None]


def read_box(arrays: Arrays, box: Box, image_CZYX: np.ndarray, label_LZYX: np.ndarray) -> None:
    """Read a box of a case; what lies outside becomes 0 in the image and ``OUTSIDE`` in all layers.

    Args:
        arrays: of the case.
        box: (start, stop) per axis in voxels of the case; may lie outside.
        image_CZYX, label_LZYX: of the box's size; written to.
    """
    inside = clipped(box, arrays[0].shape[1:], range(3))
    target: list[slice] = [slice(None)]
    source: list[slice] = [slice(None)]
    for (start, _), (low, high) in zip(box, inside, strict=True):
        target.append(slice(low - start, high - start))
        source.append(slice(low, high))
    if inside != box:
        image_CZYX[:] = 0
        label_LZYX[:] = OUTSIDE
    if any(low >= high for low, high in inside):
        return
    image_CZYX[tuple(target)] = arrays[0][tuple(source)]
    first = 0
    for layers in arrays[1:]:
        label_LZYX[first : first + len(layers)][tuple(target)] = layers[tuple(source)]
        first += len(layers)


def read_padded_box(
    arrays: Arrays, box: Box, corner: Shape, frame: PatchFrame, matrix: np.ndarray, *, flipped: bool, pinned: bool
) -> PaddedBox:
    """Read a box that a patch is interpolated from.

    Args:
        arrays: of the case.
        box: what the patch needs, in voxels of the case.
        corner: first voxel of the loader patch.
        frame: the sizes.
        matrix: see ``spatial.affine_matrix``.
        flipped: mirror axis 0, which a 2 × 2 matrix leaves alone.
        pinned: in memory that a GPU reads by itself.
    """
    turned = range(frame.first_axis, 3)
    box = clipped(box, arrays[0].shape[1:], turned)
    before = [MARGIN[0] if axis in turned else 0 for axis in range(3)]
    after = [MARGIN[1] if axis in turned else 0 for axis in range(3)]
    size = [a + stop - start + b for a, (start, stop), b in zip(before, box, after, strict=True)]
    dtype = torch_type(arrays[1].dtype)  # that of the labels holds every class, and every id
    image = torch.zeros((len(arrays[0]), *size), dtype=torch.float32, pin_memory=pinned)
    label = torch.full((num_layers(arrays), *size), OUTSIDE, dtype=dtype, pin_memory=pinned)
    inner = [slice(None), *(slice(a, length - b) for a, b, length in zip(before, after, size, strict=True))]
    if flipped:
        inner[1] = slice(None, None, -1)
    read_box(arrays, box, image.numpy()[tuple(inner)], label.numpy()[tuple(inner)])
    center = []
    for axis in turned:
        middle = corner[axis] + (frame.loader[axis] - 1) / 2
        center.append(middle - box[axis][0] + before[axis])
    return PaddedBox(image_CZYX=image, label_LZYX=label, matrix=matrix, center=tuple(center))


def torch_type(dtype: np.dtype) -> torch.dtype:
    """Give torch's type of the same name."""
    return torch.from_numpy(np.empty(0, dtype)).dtype


def num_layers(arrays: Arrays) -> int:
    """Count the layers after the image."""
    return sum(len(layers) for layers in arrays[1:])


def shifted(box: Box, corner: Shape) -> Box:
    """Count a box from where its corner is counted from."""
    z, y, x = ((start + first, stop + first) for (start, stop), first in zip(box, corner, strict=True))
    return (z, y, x)


def clipped(box: Box, shape: Sequence[int], axes: Sequence[int]) -> Box:
    """Keep what lies within the image along some axes; nothing is left as an empty range at its border."""
    parts = list(box)
    for axis in axes:
        start, stop = (min(max(value, 0), shape[axis]) for value in box[axis])
        parts[axis] = (start, stop)
    return (parts[0], parts[1], parts[2])
