"""Bring intensities to a scale that networks train on, one channel at a time.

Every function takes a finite float32 volume, a mask (or None) and the dataset's intensity statistics (or None), and
gives a new finite float32 volume of the same shape.

Source: the formulas are facts of nnU-Net v2.8.1.
"""

import functools
import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from autoseg.errors import ImageError
from planners.fingerprint import Intensities
from planners.records import PlanError

Normalization = Callable[[np.ndarray, np.ndarray | None, Intensities | None], np.ndarray]

EPSILON = 1e-8  # smallest divisor, as in nnU-Net v2.8.1; a constant image becomes zeros

PART_VALUES = 1 << 20  # summed at a time; 8 MB in float64


def zscore(image_ZYX: np.ndarray, mask_ZYX: np.ndarray | None, intensities: Intensities | None) -> np.ndarray:
    """Subtract the image's mean and divide by its deviation; with a mask, measured and changed only inside it."""
    inside = image_ZYX if mask_ZYX is None else image_ZYX[mask_ZYX]
    if not inside.size:
        return image_ZYX.astype(np.float32)
    mean, deviation = _moments(inside)
    if mask_ZYX is None:
        return _scale(image_ZYX, mean, deviation)
    result = image_ZYX.astype(np.float32)
    result[mask_ZYX] = _scale(inside, mean, deviation)
    return result


def ct(image_ZYX: np.ndarray, mask_ZYX: np.ndarray | None, intensities: Intensities | None) -> np.ndarray:
    """Clip to the dataset's foreground percentiles 0.5 and 99.5, then z-score with the dataset's mean and deviation.

    Raises:
        PlanError: the plan holds no intensities for the channel.
    """
    if intensities is None:
        raise PlanError(
            "normalization 'ct' needs the channel's intensities, and the plan holds none. "
            "Measure the dataset (autoseg plan DATASET), or choose 'zscore'"
        )
    clipped = np.clip(image_ZYX, np.float32(intensities.percentile_00_5), np.float32(intensities.percentile_99_5))
    return _scale(clipped, np.float32(intensities.mean), np.float32(max(intensities.std, EPSILON)))


def none(image_ZYX: np.ndarray, mask_ZYX: np.ndarray | None, intensities: Intensities | None) -> np.ndarray:
    """Leave intensities as they are."""
    return image_ZYX.astype(np.float32)


def rescale_0_1(image_ZYX: np.ndarray, mask_ZYX: np.ndarray | None, intensities: Intensities | None) -> np.ndarray:
    """Map the image's minimum to 0 and its maximum to 1."""
    if not image_ZYX.size:
        return image_ZYX.astype(np.float32)
    low, high = np.float32(image_ZYX.min()), np.float32(image_ZYX.max())
    return _scale(image_ZYX, low, np.float32(max(float(high) - float(low), EPSILON)))


def rgb_0_1(image_ZYX: np.ndarray, mask_ZYX: np.ndarray | None, intensities: Intensities | None) -> np.ndarray:
    """Divide 8-bit colours by 255.

    Raises:
        ImageError: a value lies outside 0 … 255.
    """
    if image_ZYX.size and (image_ZYX.min() < 0 or image_ZYX.max() > 255):
        raise ImageError(
            f"values from {image_ZYX.min():g} to {image_ZYX.max():g} are no 8-bit colours (0 to 255), which the "
            "channel's name promises. Rename the channel in dataset.json (to 'zscore', for example), or convert the "
            "image"
        )
    return _scale(image_ZYX, np.float32(0), np.float32(255))


NORMALIZATIONS: Mapping[str, Normalization] = {
    "zscore": zscore,
    "ct": ct,
    "none": none,
    "rescale-0-1": rescale_0_1,
    "rgb-0-1": rgb_0_1,
}
"""By the name that stands in ``Configuration.normalization``."""

POINTWISE = ("ct", "none", "rgb-0-1")
"""Those that look at each voxel alone."""

MEASURED_IN_PARTS = ("zscore", "rescale-0-1", *POINTWISE)
"""Those that can be applied to parts of a volume, once the whole is measured (``from_spread``)."""

USES_INTENSITIES = ("ct",)
"""Those whose result depends on the dataset's intensities: a new measurement makes their stored cases stale."""


class Spread:
    """Mean, deviation and range of values that come in parts."""

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0, 0.0, 0.0
        self.low, self.high = math.inf, -math.inf

    def add(self, values: np.ndarray) -> None:
        """Add a part: finite float32, any shape.

        Source: Chan, Golub, LeVeque 1983, the pairwise update of sums of squares.
        """
        if not values.size:
            return
        mean, squares = _squares(values)
        count, apart = self.count + values.size, mean - self.mean
        self.squares += squares + apart**2 * self.count * values.size / count
        self.mean += apart * values.size / count
        self.count = count
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))

    @property
    def deviation(self) -> float:
        """Standard deviation, at least EPSILON."""
        return max(math.sqrt(self.squares / self.count), EPSILON)


def from_spread(
    name: str, spread: Spread, intensities: Intensities | None
) -> Callable[[np.ndarray, np.ndarray | None], np.ndarray] | None:
    """Give a normalization of any part of a volume, where the whole is measured already.

    Args:
        name: as in ``NORMALIZATIONS``.
        spread: of the whole volume; for ``zscore`` with a mask, of what lies inside it.
        intensities: of the dataset.

    Returns:
        A function of a part and of its mask, equal to the normalization of the whole to rounding; None where the
        normalization is none of those in this file: nobody knows what it measures.

    Raises:
        ImageError, PlanError: as of the normalization.
    """
    if name == "zscore":
        return functools.partial(_zscore_by, spread)
    if name == "rescale-0-1":
        low, high = np.float32(spread.low), np.float32(spread.high)
        return lambda part, mask: _scale(part, low, np.float32(max(float(high) - float(low), EPSILON)))
    if name not in POINTWISE:
        return None
    function = NORMALIZATIONS[name]
    function(np.array([spread.low, spread.high], dtype=np.float32)[: spread.count], None, intensities)  # refuses here
    return lambda part, mask: function(part, mask, intensities)


def _zscore_by(spread: Spread, part: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    if not spread.count:
        return part.astype(np.float32)
    mean, deviation = np.float32(spread.mean), np.float32(spread.deviation)
    scaled = _scale(part, mean, deviation)
    return scaled if mask is None else np.where(mask, scaled, part)


def _moments(values: np.ndarray) -> tuple[np.float32, np.float32]:
    """Give mean and deviation (at least EPSILON), summed in float64 a slice at a time so that no large copy is made."""
    mean, squares = _squares(values)
    return np.float32(mean), np.float32(max(math.sqrt(squares / values.size), EPSILON))


def _squares(values: np.ndarray) -> tuple[float, float]:
    """Give the mean, and the sum of squared distances from it."""
    mean = float(values.mean(dtype=np.float64))
    return mean, sum(float(np.square(part - mean, dtype=np.float64).sum()) for part in _parts(values))


def _parts(values: np.ndarray) -> Iterator[np.ndarray]:
    if values.ndim > 1:
        yield from values
        return
    for first in range(0, values.size, PART_VALUES):
        yield values[first : first + PART_VALUES]


def _scale(image: np.ndarray, offset: np.float32, divisor: np.float32) -> np.ndarray:
    result = np.subtract(image, offset, dtype=np.float32)
    result /= divisor
    return result
