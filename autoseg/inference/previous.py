"""The previous segmentation of a cascade: what one configuration has found, as an input of the next.

The logits go straight to the next configuration's preprocessed grid and are decoded there. Training, validation and
prediction take this one path, so that the network meets in use what it was trained with. The plans of nnU-Net's models
ask for another: decoded on the image's grid, resampled as a label. So nnU-Net predicts, and only so the answers agree.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from autoseg.inference.export import LogitsPart, cut_slabs, decode_slab, decode_whole, fill_with_largest
from autoseg.preprocessing.label_resampling import resample_label
from autoseg.preprocessing.preprocess import CaseGrid
from autoseg.targets import Target
from planners.fingerprint import Shape, Spacing
from planners.plan import Resampling


def previous_segmentation(
    parts: Sequence[LogitsPart],
    target: Target,
    grid: CaseGrid,
    threads: int = 1,
    by_label: Resampling | None = None,
) -> np.ndarray:
    """Decode the logits of a previous configuration on the grid of the one that it feeds.

    Args:
        parts: of the same case; several are averaged as probabilities.
        target: of the previous configuration.
        grid: of the configuration that is fed.
        threads: slabs at a time.
        by_label: decode on the image's grid and resample the labels so; None: decode on ``grid`` itself. See
            ``Configuration.previous_resampling``.

    Returns:
        Inner class indices z, y, x on ``grid.shape``, in the smallest unsigned type.
    """
    if by_label is None:
        return _decode(parts, target, grid.shape, grid.spacing_mm, threads)
    spacing_mm = grid.spacing_before_mm
    segmentation = _decode(parts, target, grid.shape_after_crop, spacing_mm, threads)
    return resample_label(segmentation, grid.shape, spacing_mm, grid.spacing_mm, by_label)


def _decode(parts: Sequence[LogitsPart], target: Target, shape: Shape, spacing_mm: Spacing, threads: int) -> np.ndarray:
    """Bring logits to a grid over the same extent and decode them there."""
    dtype = np.min_scalar_type(target.labels.num_classes - 1)
    if not target.pointwise:
        return decode_whole(parts, target, shape, spacing_mm).astype(dtype, copy=False)
    segmentation = np.empty(shape, dtype=dtype)
    resamplers = [part.onto(shape, spacing_mm) for part in parts]
    if fill_with_largest(segmentation, resamplers, target, threads):
        return segmentation

    def work(slab: tuple[int, int]) -> None:
        segmentation[slice(*slab)], _ = decode_slab([item.slab(*slab) for item in resamplers], target)

    with ThreadPoolExecutor(max(1, threads)) as pool:
        list(pool.map(work, cut_slabs(shape, len(parts[0].logits_KZYX))))
    return segmentation


def one_hot(segmentation: np.ndarray, num_classes: int) -> np.ndarray:
    """Turn a previous segmentation into input channels: one per foreground class, 1 where it was found.

    Args:
        segmentation: inner class indices, any shape.
        num_classes: background included.

    Returns:
        float32, (num_classes − 1, *shape).
    """
    classes = np.arange(1, num_classes).reshape(-1, *(1,) * segmentation.ndim)
    return (segmentation[None] == classes).astype(np.float32)
