"""Whether images are brought to a common diameter of their objects, and how that diameter is estimated.

The estimate is made from the image alone, in training as in prediction: a network that trains on true diameters and
predicts on estimated ones sees sizes in prediction that it never trained on.

The logarithm of an image's median diameter is its first size feature, which grows with the image, plus a weighted sum
of the others, which do not (``preprocessing.size_features``); ridge regression finds the weights. What the fit is worth
is what it says of images that it has not seen: of each from all others (leave-one-out, in closed form).
"""

import math
from collections.abc import Sequence

import numpy as np

from planners.decision import Decision
from planners.fingerprint import Fingerprint
from planners.plan import SizeScaling
from planners.records import PlanError

LEAST_SPREAD = 8.0
"""Images are rescaled only where their median diameters spread wider than this (95th / 5th percentile). The training's
own scaling covers a factor of 2, from 0.7 to 1.4. At a spread of 5.0 (Data Science Bowl 2018, 40 steps, 49 images out
of fold) rescaling lost 0.025 of F1@0.5 (0.008 to 0.043) and 0.09 of AP@0.9 (docs/log.md, 2026-11): what is shrunk
loses its outline. That it wins from 8 on is an assumption."""

LEFT_EXPONENT = 0.5
"""Images are rescaled only where at most this part of the spread, in octaves, is left by the estimate. Of the 244
images of the Data Science Bowl 2018, 0.41 is left (10 of them: 0.38, median of 500 draws). Where features and diameters
were dealt to each other at random, never less than 0.61, in 500 draws each of 10, 15, 30, 100, 244 images (2026-11)."""

LEAST_IMAGES = 10
"""Images with objects that a fit needs."""

RIDGE = 0.1
"""Penalty of the squared weights of the standardised features, per image. With 0.01, 0.03, 0.1, 0.3 the left-out
deviation of ln(diameter / estimate) is 0.178, 0.181, 0.185, 0.187 on the images above; where all images of equal shape
are left out together, mostly those of a microscope, 0.260, 0.258, 0.249, 0.235 (2026-11)."""

LIMITS = (0.25, 4.0)
"""No image is shrunk or enlarged beyond this. Nor beyond what the measured images ask for: the estimate of an image
unlike them, such as one without objects, can be any number."""

STEPS_PER_OCTAVE = 4
"""Factors are powers of 2 to a quarter: rounding noise changes no grid, and an image within 9 % of the common diameter
stays as it is. Rounding adds a deviation of 0.05 to a logarithm that the estimate knows to 0.2."""


def fit_scaling(fingerprint: Fingerprint) -> Decision[SizeScaling | None]:
    """Decide whether images are brought to a common diameter, and fit how it is estimated.

    Args:
        fingerprint: with instances and size features; images without objects, or without features, are passed over.

    Returns:
        The scaling, or None where the images stay as they are; the reason holds the numbers. The common diameter is the
        median of the images' medians, so that as few images as possible change much.

    Raises:
        PlanError: features and objects are not of the same images, or features differ in number.
    """
    features, diameters = _usable(fingerprint)
    if len(diameters) < LEAST_IMAGES:
        found = "one image" if len(diameters) == 1 else f"{len(diameters)} images"
        because = f"not rescaled: {found} with objects to learn the estimate of their diameter from (< {LEAST_IMAGES})"
        return Decision(value=None, rule="too-few-for-diameters", because=because)
    spread = spread_of(np.log(diameters))
    spreading = f"median diameters spread by a factor of {spread:.1f} (5th to 95th percentile)"
    found = f"of {len(diameters)} images the {spreading}"
    if spread <= LEAST_SPREAD:
        because = f"not rescaled: {found}, at most {LEAST_SPREAD:g}"
        return Decision(value=None, rule="diameters-alike", because=because)
    weights, missed = fit_ridge(features, np.log(diameters))
    left, allowed = spread_of(missed), spread**LEFT_EXPONENT
    if left > allowed:
        because = (
            f"not rescaled: {found}, but after dividing by what can be estimated from an image alone a factor of "
            f"{left:.1f} would be left (> √{spread:.1f} = {allowed:.1f})"
        )
        return Decision(value=None, rule="diameters-hard-to-estimate", because=because)
    common = float(np.median(diameters))
    because = (
        f"rescaled to {common:.3g} mm, the median of {len(diameters)} images: their {spreading}, "
        f"> {LEAST_SPREAD:g}; after dividing by what is estimated from an image alone a factor of {left:.1f} is left "
        f"(≤ √{spread:.1f} = {allowed:.1f}; each image estimated from all others)"
    )
    scaling = SizeScaling(
        diameter_mm=_rounded(common),
        weights=tuple(_rounded(weight) for weight in weights.tolist()),
        least=_rounded(max(LIMITS[0], common / float(diameters.max()))),
        most=_rounded(min(LIMITS[1], common / float(diameters.min()))),
    )
    return Decision(value=scaling, rule="common-diameter", because=because)


def scale_of(features: Sequence[float], scaling: SizeScaling, name: str) -> float:
    """Give the factor by which an image is enlarged to bring its objects to the common diameter.

    Args:
        features: of the image, as ``preprocessing.size_features`` gives them; not empty.
        scaling: common diameter, weights and limits.
        name: of what it belongs to, for the message.

    Returns:
        A power of 2 ** (1 / ``STEPS_PER_OCTAVE``) within the limits: 2.0 makes the grid twice as fine.

    Raises:
        PlanError: the weights are for other features than these.
    """
    if len(scaling.weights) != 1 + len(features):
        raise PlanError(
            f"{name}: scaling.weights has {len(scaling.weights)} entries; this version needs {1 + len(features)} "
            "(a constant and one per size feature). Make the plan again"
        )
    logarithm = scaling.weights[0] + math.fsum(w * f for w, f in zip(scaling.weights[1:], features, strict=True))
    steps = round(STEPS_PER_OCTAVE * (math.log2(scaling.diameter_mm) - logarithm / math.log(2)))
    lowest = math.ceil(STEPS_PER_OCTAVE * math.log2(scaling.least) - 1e-6)
    highest = math.floor(STEPS_PER_OCTAVE * math.log2(scaling.most) + 1e-6)
    return float(2.0 ** (max(lowest, min(steps, highest)) / STEPS_PER_OCTAVE))


def fit_ridge(features: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fit values to features, the first with weight 1, the others by ridge regression.

    Args:
        features: n × k.
        values: n.

    Returns:
        A constant and k weights; and per value, how far it is above what a fit to all others gives for it (with the
        features' standardisation, and so the penalty, of all).
    """
    first, others = features[:, 0], features[:, 1:]
    middle, deviation = others.mean(axis=0), others.std(axis=0)
    varies = deviation > 1e-9 * np.maximum(1.0, np.abs(middle))
    divisor = np.where(varies, deviation, 1.0)
    standard = np.where(varies, (others - middle) / divisor, 0.0)
    wanted = values - first
    penalised = standard.T @ standard + RIDGE * len(values) * np.eye(others.shape[1])
    solved = np.linalg.solve(penalised, standard.T)
    weights = solved @ (wanted - wanted.mean()) / divisor
    constant = wanted.mean() - middle @ weights
    leverage = 1 / len(values) + np.einsum("ik,ki->i", standard, solved)
    missed = (wanted - constant - others @ weights) / (1 - leverage)
    return np.concatenate([[constant, 1.0], weights]), missed


def spread_of(logarithms: Sequence[float] | np.ndarray) -> float:
    """Give the 95th / the 5th percentile of numbers whose natural logarithms are given."""
    low, high = np.percentile(logarithms, (5, 95))
    return float(np.exp(high - low))


def _usable(fingerprint: Fingerprint) -> tuple[np.ndarray, np.ndarray]:
    """Give features (n × k) and median diameters (n, mm) of the images that have both."""
    cases = fingerprint.instances.cases if fingerprint.instances is not None else ()
    if fingerprint.size_features and len(cases) != len(fingerprint.size_features):
        raise PlanError(
            f"fingerprint knows objects of {len(cases)} images and size features of {len(fingerprint.size_features)}; "
            "measure the dataset again"
        )
    pairs = [
        (features, case.diameter_mm)
        for case, features in zip(cases, fingerprint.size_features, strict=False)  # none at all, or one each
        if case.diameter_mm is not None and features
    ]
    lengths = sorted({len(features) for features, _ in pairs})
    if len(lengths) > 1:
        raise PlanError(
            f"fingerprint holds {' and '.join(map(str, lengths))} size features of an image; measure the dataset again"
        )
    return np.array([features for features, _ in pairs], dtype=float), np.array([diameter for _, diameter in pairs])


def _rounded(value: float) -> float:
    return float(f"{value:.9g}")
