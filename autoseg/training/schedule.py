"""Learning rate by epoch, and how a schedule bends: to a limit of time, or to the final anneal once validation stalls.

A polynomial decay that is begun anew from the rate where it stands, over the epochs that are left, is the old decay
with its rest stretched or shortened: (1 − p) = (1 − p₀) · (1 − (p − p₀) / (1 − p₀)). So one record, ``Bend``, serves
both, and the learning rate never jumps.
"""

import math
from dataclasses import dataclass

from planners.plan import Training

POLY_EXPONENT = 0.9  # Isensee et al. 2021, Methods; nnU-Net v2.8.1 PolyLRScheduler

ANNEAL_FRACTION = 0.1
"""Part of the planned epochs that the final anneal takes. Assumption: a decay to zero over the last tenth to fifth of
the steps reaches what a whole decay does (Hägele et al. 2024, on language models); that the rate should fall once
validation stalls is old practice (He et al. 2016, Section 3.4). Not measured on segmentation."""

LEAST_ANNEAL = 5
"""Epochs of the shortest final anneal (assumption: the smoothed Dice needs about as many to follow)."""


@dataclass(frozen=True, kw_only=True)
class Bend:
    """A schedule that goes another way than planned.

    Attributes:
        epoch: the first that goes the new way.
        rate: learning rate there; from there it falls to zero at ``end``.
        end: number of epochs after which training ends.
        planned: number of epochs of the plan that was bent. Where the plan has another now, the bend is void.
        annealing: it is the final anneal: a constant schedule falls too, and nothing makes it longer.
    """

    epoch: int
    rate: float
    end: int
    planned: int
    annealing: bool = False


def learning_rate(training: Training, epoch: int, bend: Bend | None = None) -> float:
    """Give the learning rate of an epoch: linear warm-up, then polynomial decay to zero (or constant).

    Args:
        training: ``learning_rate``, ``epochs``, ``schedule`` and ``warm_up`` (in epochs) are used.
        epoch: from 0.
        bend: of this schedule, or None where it goes as planned.
    """
    if epoch < training.warm_up:
        return training.learning_rate * (epoch + 1) / (training.warm_up + 1)
    start, end, rate = training.warm_up, training.epochs, training.learning_rate
    if bend is not None:
        start, end, rate = bend.epoch, bend.end, bend.rate
    if training.schedule == "constant" and not (bend is not None and bend.annealing):
        return rate
    passed = min((epoch - start) / max(end - start, 1), 1.0)
    return rate * (1 - passed) ** POLY_EXPONENT


def last_epoch(training: Training, bend: Bend | None) -> int:
    """Give the number of epochs after which training ends."""
    return training.epochs if bend is None else bend.end


def end_at(training: Training, bend: Bend | None, epoch: int, end: int) -> Bend | None:
    """Let a schedule end after another number of epochs.

    Args:
        training: the schedule as planned.
        bend: how it was bent before.
        epoch: the next to train; the rate goes on from its present value there. Warm-up is left as it is.
        end: number of epochs after which it shall end; at least those that are done are kept.

    Returns:
        The new bend. A final anneal becomes shorter, never longer, and a schedule at its end stays so: both have
        brought, or are about to bring, the rate to zero.
    """
    before = last_epoch(training, bend)
    annealing = bend is not None and bend.annealing
    end = max(end, epoch)
    if annealing:
        end = min(end, before)
    if epoch >= before or end == before:
        return bend
    start = max(epoch, training.warm_up)
    rate = learning_rate(training, start, bend)
    return Bend(epoch=start, rate=rate, end=end, planned=training.epochs, annealing=annealing)


def final_anneal(training: Training, bend: Bend | None, epoch: int) -> Bend:
    """Begin the last part of the schedule at once: from the present rate to zero.

    It takes ``ANNEAL_FRACTION`` of the planned epochs, at least ``LEAST_ANNEAL``, and no more than are left.

    Args:
        training: the schedule as planned.
        bend: how it was bent before.
        epoch: the next to train, not in the warm-up.
    """
    length = max(math.ceil(training.epochs * ANNEAL_FRACTION), LEAST_ANNEAL)
    end = min(epoch + length, last_epoch(training, bend))
    rate = learning_rate(training, epoch, bend)
    return Bend(epoch=epoch, rate=rate, end=end, planned=training.epochs, annealing=True)
