"""Where a training patch lies in its case.

A part of the patches is *forced* onto foreground: a class is chosen among those the case holds, then one of its stored
voxels, and the patch is centred there. The others lie anywhere, or, where parts of the case are to be ignored, around
a voxel that is annotated. Patches may reach beyond the image, so that its border is seen as often as its middle.

Source: nnU-Net v2.8.1, its data loader; but at batch size 1, where that never forces a patch, one is forced with the
probability that larger batches come near to.
"""

from collections.abc import Sequence

import numpy as np

from autoseg.preprocessing.locations import ANNOTATED
from autoseg.preprocessing.store import StoredCase
from autoseg.training.spatial import PatchFrame, Shape


def is_forced(rng: np.random.Generator, index: int, batch_size: int, foreground_fraction: float) -> bool:
    """Tell whether a sample is forced onto foreground: the last ones of a batch are, without chance; alone, by chance.

    Args:
        rng: the sample's own generator.
        index: the sample's place in the batch.
        batch_size: samples in the batch.
        foreground_fraction: the part of the samples to force.
    """
    if batch_size == 1:
        return bool(rng.random() < foreground_fraction)
    return index >= round(batch_size * (1 - foreground_fraction))


def draw_corner(rng: np.random.Generator, case: StoredCase, frame: PatchFrame, forced: bool) -> Shape:
    """Draw the first voxel of a loader patch.

    Args:
        rng: the sample's own generator.
        case: whose shape and locations count.
        frame: the sizes.
        forced: whether to centre it on foreground; without foreground in the case it lies anywhere.

    Returns:
        z, y, x in voxels of the case; may be negative.
    """
    low, high = corner_range(case.shape, frame)
    voxel = _draw_voxel(rng, case, forced)
    if voxel is None:
        corner = [int(value) for value in rng.integers(low, high, endpoint=True)]
    else:
        sizes = zip(low, voxel, frame.loader, strict=True)
        corner = [max(first, int(place) - size // 2) for first, place, size in sizes]
    return (corner[0], corner[1], corner[2])


def corner_range(shape: Sequence[int], frame: PatchFrame) -> tuple[list[int], list[int]]:
    """Give the lowest and the highest first voxel of a loader patch, per axis.

    The patch in its middle stays within the image, or holds all of it where the image is smaller.
    """
    low, high = [], []
    for size, patch, loader in zip(shape, frame.patch, frame.loader, strict=True):
        padding = max(loader - patch, loader - size)
        low.append(-padding // 2)
        high.append(size + padding // 2 + padding % 2 - loader)
    return low, high


def _draw_voxel(rng: np.random.Generator, case: StoredCase, forced: bool) -> np.ndarray | None:
    classes = case.present_classes if forced else ()
    key = classes[int(rng.integers(len(classes)))] if classes else ANNOTATED
    count = case.num_locations(key)
    return case.locations(key)[int(rng.integers(count))] if count else None
