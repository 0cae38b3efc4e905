"""Draw voxels of every class from a preprocessed label, for training patches that are sure to hold it.

Source: facts of nnU-Net v2.8.1 (which classes, how many voxels).
"""

import numpy as np

from planners.labels import Labels

ANNOTATED = 0
"""Key of the locations of all annotated voxels; there are some only where the labels have an ignore value."""

MIN_LOCATIONS = 10_000  # per class, or all its voxels; nnU-Net v2.8.1
LOCATION_FRACTION = 0.01  # of a class's voxels where that is more; nnU-Net v2.8.1
LOCATION_SEED = 1234  # nnU-Net v2.8.1 (the generator is another, so the voxels drawn differ)


def sample_locations(label_ZYX: np.ndarray, labels: Labels) -> dict[int, np.ndarray]:
    """Draw voxels of every class.

    Args:
        label_ZYX: the class layer: class indices, ``OUTSIDE``, the ignore index.
        labels: the plan's.

    Returns:
        Per foreground class index (or region position from 1), n × (z, y, x): all its voxels, or at least
        ``MIN_LOCATIONS`` of them, or ``LOCATION_FRACTION`` where that is more. Where voxels may be ignored, the key
        ``ANNOTATED`` has voxels that are not.
    """
    flat = np.ascontiguousarray(label_ZYX).reshape(-1)
    places = np.flatnonzero(flat > 0)
    values = flat[places]
    groups: dict[int, np.ndarray] = {}
    if labels.regions:
        for position, region in enumerate(labels.regions, start=1):
            indices = [labels.values.index(value) for value in region.values]
            groups[position] = places[np.isin(values, [index for index in indices if index > 0])]
    else:
        order = np.argsort(values, kind="stable")
        bounds = np.searchsorted(values[order], np.arange(1, labels.num_classes + 1))
        for index in range(1, labels.num_classes):
            groups[index] = places[order[bounds[index - 1] : bounds[index]]]
    if labels.ignore_index is not None:
        groups[ANNOTATED] = np.flatnonzero(flat != labels.ignore_index)
    generator = np.random.default_rng(LOCATION_SEED)
    return {key: _draw(generator, group, label_ZYX.shape) for key, group in sorted(groups.items())}


def _draw(generator: np.random.Generator, places: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    count = max(min(MIN_LOCATIONS, len(places)), int(np.ceil(LOCATION_FRACTION * len(places))))
    if count < len(places):
        places = places[generator.choice(len(places), count, replace=False, shuffle=False)]
    return np.stack(np.unravel_index(places, shape), axis=1)
