"""Momentum that suits the length of a training, and how a saved training goes on with another one.

Momentum m averages over the last 1 / (1 − m) steps and multiplies the step by as much.
"""

import dataclasses

import torch

from autoseg.training.fold_state import Counters
from planners.plan import Training

LEAST_SPAN = 10
"""Steps: momentum is not lowered below 0.9 (measured 2026-11 on hippocampus: 0.9 and 0.95 train 500 steps alike)."""


def fit_momentum(training: Training) -> Training:
    """Lower the momentum of a training of few steps, and raise its learning rate by as much.

    At 0.99 a training of 500 steps spends its first hundred gathering speed, and the last hundreds cannot follow the
    falling rate. The step that is taken in the long run, rate / (1 − m), stays.

    Args:
        training: as planned; from ``momentum_spans / (1 − momentum)`` steps on (2500 by default) it stays as it is.

    Returns:
        The training with the momentum and the learning rate to use.

    Source: own measurement 2026-11, hippocampus (``docs/log.md``): mean Dice after 500 steps.
    """
    span = 1 / (1 - training.momentum)
    steps = training.epochs * training.steps_per_epoch
    if training.momentum_spans == 0 or steps >= training.momentum_spans * span or span <= LEAST_SPAN:
        return training
    shorter = max(steps / training.momentum_spans, LEAST_SPAN)
    rate = training.learning_rate * span / shorter
    return dataclasses.replace(training, momentum=round(1 - 1 / shorter, 9), learning_rate=round(rate, 9))


def momentum_text(planned: Training, used: Training) -> str:
    """Say which momentum is used instead of the planned one; empty where it is the planned one."""
    if used.momentum == planned.momentum:
        return ""
    return (
        f"{used.epochs * used.steps_per_epoch} steps are few: momentum {used.momentum:.3g} with learning rate "
        f"{used.learning_rate:.3g} instead of {planned.momentum:g} with {planned.learning_rate:g}"
    )


def carry_over(counters: Counters, optimizer: torch.optim.Optimizer, planned: Training, used: Training) -> bool:
    """Let a saved training go on with another momentum (its length has changed): steps stay as large as they were.

    What has gathered, g / (1 − m) for a steady gradient g, is brought to the new momentum, and a bent schedule's rate.

    Args:
        counters: as saved; their momentum becomes the used one. Those of older versions name none: the planned one.
        optimizer: with what has gathered; changed in place.
        planned, used: the training as planned, and with the momentum that suits its length.

    Returns:
        Whether anything had to be changed.
    """
    before = planned.momentum if counters.momentum is None else counters.momentum
    counters.momentum = used.momentum
    if before == used.momentum:
        return False
    factor = (1 - before) / (1 - used.momentum)
    for state in optimizer.state.values():
        if state.get("momentum_buffer") is not None:
            state["momentum_buffer"].mul_(factor)
    if counters.bend is not None:
        counters.bend = dataclasses.replace(counters.bend, rate=counters.bend.rate / factor)
    return True
