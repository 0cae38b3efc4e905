"""Records of confidence: what a network expects of its own segmentation, and how far that is from what it is worth.

The *expected Dice* of a structure is the Dice that its predicted voxels would have if the probabilities were true:
2 · Σ p over the predicted voxels / (Σ p over the image + number of predicted voxels). Networks expect too much. On
cases whose label is known and which the network has not seen, ``dice_calibration`` learns how much too much, and how
uncertain that is; then a *predicted Dice* with an interval can be given for an image without a label.

Source: Li, Kamnitsas, Islam, Chen, Glocker 2022 (MICCAI), "Estimating model performance under domain shifts with
class-specific confidence scores" (Dice from probabilities, one calibration per class).
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from autoseg.evaluation.overlap import mean_of

NUM_BINS = 15
"""Bins of probability of a calibration curve. Source: Guo, Pleiss, Sun, Weinberger 2017, section 4."""

LEAST_PROBABILITY = 0.01
"""Voxels that are less probable than this are in no bin: millions of certain background voxels would make every error
of calibration vanish (assumption). What is counted depends on the network alone, never on the label."""

LEVEL = 0.9  # share of new cases whose Dice should lie within the interval
EDGE = 0.005
"""Dice is calibrated as log odds; nearer to 0 and 1 than this it is taken as this (assumption: half a percent)."""


@dataclass(frozen=True, kw_only=True)
class Bin:
    """One bin of a calibration curve.

    Attributes:
        count: voxels whose probability of the structure lies in the bin.
        confidence: sum of these probabilities.
        correct: how many of the voxels hold the structure in the label.
    """

    count: int
    confidence: float
    correct: int


EMPTY_BINS = (Bin(count=0, confidence=0.0, correct=0),) * NUM_BINS


@dataclass(frozen=True, kw_only=True)
class CaseConfidence:
    """What was expected of one case, and what it was worth.

    Attributes:
        case: its id.
        fold: whose network predicted it; it has not seen the case.
        expected_dice: per structure, before postprocessing; None where none of it was predicted.
        dice: per structure, after postprocessing; None where it is absent. Empty where it is not compared yet.
        mean_dice: over the structures.
        predicted_dice: per structure, by a calibration that knows no case of this fold; None where there is none.
        predicted_mean: the same for the mean.
    """

    case: str
    fold: int | str
    expected_dice: tuple[float | None, ...]
    dice: tuple[float | None, ...] = ()
    mean_dice: float | None = None
    predicted_dice: tuple[float | None, ...] = ()
    predicted_mean: float | None = None

    @property
    def mean_expected(self) -> float | None:
        """Mean over the structures that were predicted."""
        return mean_of(self.expected_dice)


class PredictedDice(NamedTuple):
    """The Dice that a new case is predicted to have; ``low`` and ``high`` are None where no interval is known."""

    dice: float
    low: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The way from the expected to the predicted Dice of one structure, or of the mean over them.

    Log odds of the predicted Dice = ``slope`` · log odds of the expected Dice + ``offset``. That of the mean starts
    from the mean over the structures of what is predicted for them (of what is expected, where nothing is).

    Attributes:
        name: the structure's, or ``mean``.
        rule: ``line``; ``shift`` for the mean, and where all cases expect the same (slope 1); ``none`` with fewer than
            3 cases: the predicted Dice is the expected one.
        slope, offset: see above; the slope is positive.
        low, high: what to add to the log odds for the ends of the interval; None where the cases are too few for one.
        num_cases: cases it was learnt from.
        num_missed: labelled cases in which none of the structure was predicted: their Dice is 0, and nothing in the
            prediction foretells it.
        error: mean absolute error of the predicted Dice out of fold: every case by a calibration that knows no case of
            its fold. None with fewer than 3 cases.
        error_of_constant: the same error, if every case were predicted to have the median of the other folds.
        coverage: share of the cases that lie in the interval of such a calibration; None where there is none.
    """

    name: str
    rule: str
    slope: float = 1.0
    offset: float = 0.0
    low: float | None = None
    high: float | None = None
    num_cases: int = 0
    num_missed: int = 0
    error: float | None = None
    error_of_constant: float | None = None
    coverage: float | None = None

    def predict(self, expected: float) -> PredictedDice:
        """Tell the Dice of a case from what the network expects of it."""
        middle = self.slope * log_odds(expected) + self.offset
        if self.low is None or self.high is None:
            return PredictedDice(dice=share(middle), low=None, high=None)
        return PredictedDice(dice=share(middle), low=share(middle + self.low), high=share(middle + self.high))

    def text(self) -> str:
        """Say how good the prediction is, in one line."""
        if self.error is None:
            return f"not calibrated ({self.num_cases} out-of-fold cases are too few): the networks' own expectation"
        text = f"off by {self.error:.3f} on average over {self.num_cases} out-of-fold cases"
        if self.error_of_constant is not None:
            text += f" ({self.error_of_constant:.3f} if every case were given the same"
            text += ", so it tells little of a single case)" if self.error >= self.error_of_constant else ")"
        return text + ("" if self.low is not None else "; too few cases for an interval")


@dataclass(frozen=True, kw_only=True)
class Confidence:
    """Confidence of a fold (``folds/*/fold_*/confidence.json``) or of what was chosen (``RUN/confidence.json``).

    Attributes:
        structures: names of what is scored.
        configurations: whose probabilities were averaged.
        cases: sorted by id.
        bins: per structure, the calibration curve over all cases (see ``calibration``).
        level: share of new cases whose Dice the intervals should hold.
        calibrations: per structure, then of the mean; empty for a fold.
        calibration_errors: per structure, the expected calibration error of its bins; None where they are empty.
        folds: of what was chosen; empty for a fold, and in files of programs that kept neither folds nor weights.
        weights: of the configurations, as they were chosen; only their ratio counts. Empty: all alike.
    """

    structures: tuple[str, ...]
    configurations: tuple[str, ...]
    cases: tuple[CaseConfidence, ...]
    bins: tuple[tuple[Bin, ...], ...]
    level: float = LEVEL
    calibrations: tuple[Calibration, ...] = ()
    calibration_errors: tuple[float | None, ...] = ()
    folds: tuple[int | str, ...] = ()
    weights: tuple[float, ...] = ()

    def is_of(self, configurations: Sequence[str], folds: Collection[int | str], weights: Sequence[float]) -> bool:
        """Tell whether it was learnt from an ensemble, as far as the file says: older ones name configurations only."""
        if self.configurations != tuple(configurations):
            return False
        if not self.folds:
            return True
        same_folds = {str(fold) for fold in self.folds} == {str(fold) for fold in folds}
        own, given = (_shares(item, len(configurations)) for item in (self.weights, weights))
        return same_folds and np.allclose(own, given, rtol=0, atol=1e-6)

    @property
    def of_mean(self) -> Calibration | None:
        """The calibration of the mean, where there is one."""
        return self.calibrations[-1] if self.calibrations else None


def _shares(weights: Sequence[float], count: int) -> np.ndarray:
    """Give the part that each of some configurations has of their mean."""
    given = np.array(weights if len(weights) == count else [1.0] * count)
    shares: np.ndarray = given / given.sum()
    return shares


def add_bins(parts: Sequence[Sequence[Sequence[Bin]]]) -> tuple[tuple[Bin, ...], ...]:
    """Add the bins of several folds or cases, structure by structure."""
    return tuple(
        tuple(
            Bin(
                count=sum(item.count for item in same),
                confidence=math.fsum(item.confidence for item in same),
                correct=sum(item.correct for item in same),
            )
            for same in zip(*structure, strict=True)
        )
        for structure in zip(*parts, strict=True)
    )


def log_odds(dice: float | np.ndarray) -> np.ndarray:
    """Give ln(d / (1 − d)), with d kept ``EDGE`` away from 0 and 1."""
    kept = np.clip(dice, EDGE, 1 - EDGE)
    odds: np.ndarray = np.log(kept / (1 - kept))
    return odds


def share(odds: float | np.ndarray) -> float:
    """Undo ``log_odds``."""
    return float(1 / (1 + np.exp(-odds)))


@dataclass(frozen=True, kw_only=True)
class StructureQuality:
    """How good one structure of a new case is thought to be.

    Attributes:
        name: the structure's, or ``mean``.
        expected_dice: what the networks expect; None where none of it was found.
        predicted_dice: calibrated; None where no calibration is known, or none of it was found.
        low, high: ends of the interval; None where none is known.
    """

    name: str
    expected_dice: float | None = None
    predicted_dice: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class CaseQuality:
    """How good the prediction of a new case is thought to be.

    Attributes:
        case: its id.
        mean: over the structures that were found.
        structures: each of them.
        warnings: where the image lies outside what the networks were trained on.
    """

    case: str
    mean: StructureQuality
    structures: tuple[StructureQuality, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Quality:
    """``quality.json`` beside predictions: how good each is thought to be. An estimate; no label was seen.

    Attributes:
        meaning: how to read the numbers, in words.
        error: mean absolute error of the predicted mean Dice, out of fold; None where it is not known.
        level: share of the cases whose Dice the intervals should hold.
        cases: sorted by id.
    """

    meaning: str
    error: float | None = None
    level: float = LEVEL
    cases: tuple[CaseQuality, ...] = ()
