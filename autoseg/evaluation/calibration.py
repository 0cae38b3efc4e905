"""Calibration: whether what a network gives 80 % is right 80 % of the time, counted in bins that add up over cases.

**What is counted.** Each structure by itself (*classwise*, Nixon et al. 2019): its probability in a voxel against
whether the label holds it there. That exists for overlapping regions too, and a rare structure is not outvoted by
common ones; the error of all structures is the mean of theirs. For maps of exclusive classes there is also *top-label*
(Guo et al. 2017): the highest probability against whether that class is right.

**Where.** Over all voxels, background swamps everything: where 99 % of the voxels are far from the structure and surely
not it, the error is near 0 whatever happens at its border. So by default those voxels count in which the structure is
*in question*: its probability is at least ``LEAST_PROBABILITY``. They are chosen by the probability alone. Choosing
them by the label as well (label or prediction hold the structure) would make a perfectly calibrated network look bad:
of the voxels with probability 0.1, only the tenth that is labelled would be let in.

Source: Guo et al., On Calibration of Modern Neural Networks (2017), section 2; Nixon et al., Measuring Calibration in
Deep Learning (2019), section 3.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from autoseg.evaluation.confidence import LEAST_PROBABILITY, NUM_BINS, Bin
from autoseg.evaluation.overlap import CHUNK_VOXELS, mean_of

Bins = tuple[Bin, ...]
"""``NUM_BINS`` bins of equal width from 0 to 1. Each holds its lower end, the last one both. ``confidence.add_bins``
adds those of slabs, cases and folds."""

Where = Literal["in question", "all"]


class CurvePoint(NamedTuple):
    """One bin of a calibration curve: mean probability, part that is right, voxels."""

    confidence: float
    correct: float
    num_voxels: int


def bin_structure(
    probability: np.ndarray,
    is_there: np.ndarray,
    annotated: np.ndarray | None = None,
    where: Where = "in question",
) -> Bins:
    """Count the probabilities of one structure against its label (*classwise*).

    Args:
        probability: of the structure, 0 to 1, any shape.
        is_there: bool, same shape: whether the label holds the structure.
        annotated: bool, same shape: False where the label says nothing (ignore label); None: everywhere True.
        where: which voxels count: ``in question`` (see the module) or ``all``.

    Raises:
        ValueError: the shapes differ.
    """
    return _binned(probability, is_there, annotated, LEAST_PROBABILITY if where == "in question" else -math.inf)


def bin_top_label(
    probabilities: np.ndarray,
    label: np.ndarray,
    annotated: np.ndarray | None = None,
    where: Where = "in question",
) -> Bins:
    """Count the highest of the probabilities of exclusive classes against whether that class is right (*top-label*).

    Args:
        probabilities: (classes, …), background first; they add up to 1.
        label: class indices, shape without the first axis.
        annotated: bool, as the label: False where it says nothing; None: everywhere True.
        where: ``in question``: foreground of any kind has at least ``LEAST_PROBABILITY`` together; or ``all``.

    Raises:
        ValueError: the shapes differ.
    """
    if where == "in question":
        questioned = probabilities[0] <= 1 - LEAST_PROBABILITY
        annotated = questioned if annotated is None else annotated & questioned
    return _binned(probabilities.max(axis=0), probabilities.argmax(axis=0) == label, annotated, -math.inf)


def calibration_curve(bins: Sequence[Bin]) -> tuple[CurvePoint, ...]:
    """Give the points of the calibration curve, lowest probability first; bins without a voxel are left out."""
    found = [item for item in bins if item.count]
    return tuple(CurvePoint(item.confidence / item.count, item.correct / item.count, item.count) for item in found)


def expected_calibration_error(bins: Sequence[Bin]) -> float | None:
    """Average how far, bin by bin, the mean probability lies from the part that is right, weighted by voxels.

    Args:
        bins: of one structure, or of the top label; of a case, or of many together.

    Returns:
        0 (calibrated) to 1; None where no voxel was counted.

    Source: Guo et al. 2017, equation 3.
    """
    total = sum(item.count for item in bins)
    return math.fsum(abs(item.confidence - item.correct) for item in bins) / total if total else None


def mean_calibration_error(structures: Sequence[Sequence[Bin]]) -> float | None:
    """Average the expected calibration errors of structures; None where none of them has a voxel that counts.

    Source: Nixon et al. 2019, section 3 (static calibration error; there over all classes, here over the foreground).
    """
    return mean_of(expected_calibration_error(bins) for bins in structures)


def _binned(probability: np.ndarray, right: np.ndarray, annotated: np.ndarray | None, least: float) -> Bins:
    if probability.shape != right.shape or (annotated is not None and annotated.shape != right.shape):
        raise ValueError(f"probability has shape {probability.shape}, label has {right.shape}")
    sums = np.zeros((3, NUM_BINS))
    flat, agrees = probability.reshape(-1), right.reshape(-1)
    said = None if annotated is None else annotated.reshape(-1)
    for start in range(0, flat.size, CHUNK_VOXELS):
        part = slice(start, start + CHUNK_VOXELS)
        counted = flat[part] >= least
        if said is not None:
            counted &= said[part]
        chosen = np.flatnonzero(counted)
        values = flat[part][chosen].astype(np.float64)
        place = np.clip((values * NUM_BINS).astype(np.intp), 0, NUM_BINS - 1)
        for row, weights in enumerate((None, values, agrees[part][chosen].astype(np.float64))):
            sums[row] += np.bincount(place, weights=weights, minlength=NUM_BINS)
    return tuple(
        Bin(count=int(count), confidence=float(confidence), correct=int(correct))
        for count, confidence, correct in sums.T
    )
