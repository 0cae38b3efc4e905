"""Describe the intensities of a whole image by a few percentiles, so that a new image can be compared with old ones."""

import numpy as np

PERCENTILES = (5, 25, 50, 75, 95)
"""Tails further out hang on single bright vessels and on what scanners write outside the field of view."""

MOST_VOXELS = 10**5
"""Voxels looked at per channel: the 5th percentile is then right to within 0.07 percentiles (binomial)."""

SEED = 1234  # which voxels are looked at; equal for equal shapes


def image_percentiles(image_CZYX: np.ndarray) -> tuple[tuple[float, ...], ...]:
    """Measure ``PERCENTILES`` of every channel over its voxels that are finite and not zero.

    Args:
        image_CZYX: channels, z, y, x as read; any number type.

    Returns:
        Per channel its percentiles; zeros where it has no such voxel.
    """
    flat = image_CZYX.reshape(len(image_CZYX), -1)
    places = sampled_places(flat.shape[1])
    return percentiles_of(flat if places is None else flat[:, places])


def sampled_places(num_voxels: int) -> np.ndarray | None:
    """Choose the voxels that are looked at, counted through the image; None: all."""
    if num_voxels <= MOST_VOXELS:
        return None
    return np.random.default_rng(SEED).integers(0, num_voxels, MOST_VOXELS)


def percentiles_of(sample: np.ndarray) -> tuple[tuple[float, ...], ...]:
    """Measure the percentiles of some voxels, (channels, voxels), over those that are finite and not zero."""
    rows = []
    for channel in sample:
        values = channel[np.isfinite(channel) & (channel != 0)]
        found = np.percentile(values.astype(np.float64), PERCENTILES) if values.size else np.zeros(len(PERCENTILES))
        rows.append(tuple(float(f"{value:.6g}") for value in found))
    return tuple(rows)
