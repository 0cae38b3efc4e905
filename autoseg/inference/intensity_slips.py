"""Intensities on a wrong scale that a wide room hides: told from the percentiles that the fingerprint keeps anyway.

The room around what the training spans (``familiarity``) is wide where training cases are few, for their range is
too narrow then. Three things can be told within it:

    slip        with a usual mistake undone (an offset of 1024, a factor of two, a turned sign), all percentiles are the
                training's, and as they stand they are not
    flat        clipped as the network sees it, the image is all but one value, which no training case was
    asymmetry   the distribution leans to the other side than in training: inverted, where a scale means nothing
"""

import numpy as np

SLIPS = (
    (1.0, 1024.0, "1024 too high, as if stored without their offset"),
    (1.0, -1024.0, "1024 too low, as if their offset was taken off twice"),
    (1.0, 1000.0, "1000 too high"),
    (1.0, -1000.0, "1000 too low"),
    (2.0, 0.0, "doubled"),
    (0.5, 0.0, "halved"),
    (-1.0, 0.0, "inverted"),
)
"""Mistakes with Hounsfield units: what was made of them (factor, summand), and in words."""

FITS, MISFITS = 0.25, 1.0
"""Widths of the training's range beyond which percentiles do not fit any more, and surely do not. Assumption: the one
allows for another patient, the other is far more than the difference of two scanners' air."""
FLAT_SHARE = 0.1
"""Of the least spread among training cases. Assumption: a patient differs by less than tenfold from all others."""
LEAST_LEAN = 0.1
"""Least width of the training's range of asymmetries, which lie between −1 and 1. Assumption."""


def slip(found: np.ndarray, trained: np.ndarray, unit: float) -> str | None:
    """Recognise a usual mistake with Hounsfield units.

    Args:
        found: percentiles of the image.
        trained: cases × the same percentiles.
        unit: least width of a range.

    Returns:
        What seems to have happened to the values, in words; None where they may be right, or are wrong otherwise.
    """
    low, high = trained.min(axis=0), trained.max(axis=0)
    width = np.maximum(high - low, unit)

    def misfit(values: np.ndarray) -> float:
        return float((np.maximum(low - values, values - high) / width).max())

    if misfit(found) <= MISFITS:
        return None
    for factor, summand, words in SLIPS:
        undone = (found - summand) / factor
        if misfit(undone if factor > 0 else undone[::-1]) <= FITS:
            return words
    return None


def is_flat(seen: np.ndarray, spanned: np.ndarray) -> bool:
    """Tell whether an image, as the network sees it, is all but one value.

    Args:
        seen: percentiles of the image, clipped as the network sees them.
        spanned: cases × the same of the training.
    """
    return bool(seen[-1] - seen[0] < FLAT_SHARE * (spanned[:, -1] - spanned[:, 0]).min())


def leans_otherwise(found: np.ndarray, trained: np.ndarray, room: float) -> tuple[float, float, float] | None:
    """Compare the asymmetry of a distribution with the training's.

    Args:
        found: the 5th, 25th, 50th, 75th and 95th percentile of the image.
        trained: cases × the same.
        room: on either side, in widths of the training's range.

    Returns:
        The image's asymmetry and the training's range, where it lies beyond its room on the other side of symmetry;
        None otherwise. −1: all weight is above the median … 1: all is below.
    """
    here, there = asymmetry(found[None]), asymmetry(trained)
    if not len(here) or not len(there):
        return None
    low, high = float(there.min()), float(there.max())
    beyond = room * max(high - low, LEAST_LEAN)
    middle = float(np.median(there))
    value = float(here[0])
    if low - beyond <= value <= high + beyond or value * middle >= 0:
        return None
    return value, low, high


def asymmetry(percentiles: np.ndarray) -> np.ndarray:
    """Give, per case that has any spread, how far the middle of the 5th and 95th percentile lies above the median."""
    low, _, middle, _, high = percentiles.T
    sound = high > low
    found: np.ndarray = (low + high - 2 * middle)[sound] / (high - low)[sound]
    return found
