"""How many times finer than planned an image's grid is made, so that its objects have the planned diameter.

It is asked of the image alone, in the same way in training and in prediction (``planners.diameter`` fits the estimate).
"""

from collections.abc import Sequence

import numpy as np

from autoseg.preprocessing.size_features import size_features
from planners.diameter import scale_of
from planners.plan import Configuration


def image_scale(image_CZYX: np.ndarray, spacing_mm: Sequence[float], configuration: Configuration) -> float:
    """Give the factor by which an image is enlarged, beyond the planned spacing.

    Args:
        image_CZYX: channels, z, y, x as read, before cropping and normalization; any number type. In another order of
            axes other planes would be looked at than when the fingerprint was taken.
        spacing_mm: z, y, x as read.
        configuration: its ``scaling`` holds common diameter, weights and limits.

    Returns:
        1.0 where the configuration has no scaling or the image shows nothing; else a power of 2 ** (1 /
        ``STEPS_PER_OCTAVE``) within the limits: 2.0 makes the grid twice as fine.

    Raises:
        PlanError: the plan has weights for other features than these.
    """
    if configuration.scaling is None:
        return 1.0
    features = size_features(image_CZYX, spacing_mm)
    if not features:
        return 1.0
    return scale_of(features, configuration.scaling, configuration.name)
