"""Find the box that holds an image's content, so that empty air costs neither memory nor time.

A voxel counts as content where any channel differs from zero; holes inside (zeros that no path of face neighbours
connects with the outside) count as content too.
"""

import numpy as np

from planners.fingerprint import Shape

Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
"""Start and stop (exclusive) along z, y, x."""


def nonzero_mask(image_CZYX: np.ndarray) -> np.ndarray:
    """Mark the content of an image: voxels that differ from zero in any channel, and the holes they enclose.

    Args:
        image_CZYX: channels, z, y, x; any number type.

    Returns:
        bool, z, y, x.

    Source: facts of nnU-Net v2.8.1 (union over channels, holes filled with face neighbours in 3D).
    """
    mask = _union(image_CZYX)
    box = bounding_box(mask)
    if box is not None:
        fill_holes(mask[box_slices(box)])
    return mask


def nonzero_box(image_CZYX: np.ndarray) -> tuple[Box, np.ndarray]:
    """Find the smallest box around an image's content.

    Args:
        image_CZYX: channels, z, y, x; any number type.

    Returns:
        The box, and the mask of ``nonzero_mask`` inside it (bool z, y, x of the box's shape). An image of zeros keeps
        its full extent, with a mask that is False everywhere.
    """
    mask = _union(image_CZYX)
    box = bounding_box(mask)
    if box is None:
        return full_box(mask.shape), mask
    # A hole lies inside the box, and a zero on the box's face is connected with the outside: filling after
    # cropping gives the same mask as before, on fewer voxels.
    cropped = np.ascontiguousarray(mask[box_slices(box)])
    fill_holes(cropped)
    return box, cropped


def bounding_box(mask_ZYX: np.ndarray) -> Box | None:
    """Find the smallest box that holds every True voxel of a mask (z, y, x), or None where there is none."""
    ranges = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        found = np.flatnonzero(mask_ZYX.any(axis=others))
        if not len(found):
            return None
        ranges.append((int(found[0]), int(found[-1]) + 1))
    return ranges[0], ranges[1], ranges[2]


def full_box(shape: tuple[int, ...]) -> Box:
    """Give the box of a whole image of this shape (z, y, x)."""
    return (0, shape[0]), (0, shape[1]), (0, shape[2])


def box_slices(box: Box) -> tuple[slice, slice, slice]:
    """Turn a box into slices along z, y, x."""
    return slice(*box[0]), slice(*box[1]), slice(*box[2])


def box_shape(box: Box) -> Shape:
    """Give the number of voxels of a box along z, y, x."""
    return box[0][1] - box[0][0], box[1][1] - box[1][0], box[2][1] - box[2][0]


def fill_holes(mask_ZYX: np.ndarray) -> None:
    """Set to True, in place, each False voxel that no path of face neighbours connects with the array's border."""
    if min(mask_ZYX.shape) <= 2 or mask_ZYX[1:-1, 1:-1, 1:-1].all():
        return  # every False voxel lies on the border: nothing can be enclosed
    from scipy import ndimage

    components, count = ndimage.label(~mask_ZYX)
    enclosed = np.ones(count + 1, dtype=bool)
    for axis in range(3):
        for side in (0, -1):
            enclosed[np.unique(np.take(components, side, axis=axis))] = False
    enclosed[0] = False
    if enclosed.any():
        mask_ZYX |= enclosed[components]


def _union(image_CZYX: np.ndarray) -> np.ndarray:
    mask = image_CZYX[0] != 0
    for channel in image_CZYX[1:]:
        mask |= channel != 0
    return mask
