"""Losses on dense class maps. Everything is computed in float32, whatever the network's precision."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

SMOOTH = 1e-5  # keeps the Dice of an absent class finite; nnU-Net v2.8.1
Loss = Callable[[Tensor, Tensor, Tensor | None, bool], Tensor]
"""(logits B × K × space, classes B × space int64, annotated B × space or None, Dice over the batch) → scalar."""


def cross_entropy(logits: Tensor, classes: Tensor, annotated: Tensor | None, batch_dice: bool) -> Tensor:
    """Average the cross-entropy over the annotated voxels; 0 where there is none."""
    return _mean_nll(functional.log_softmax(logits.float(), dim=1), classes, annotated)


def dice(logits: Tensor, classes: Tensor, annotated: Tensor | None, batch_dice: bool) -> Tensor:
    """Give minus the mean soft Dice over foreground classes (and samples, unless sums run over the batch)."""
    return _minus_dice(functional.softmax(logits.float(), dim=1), classes, annotated, batch_dice)


def dice_and_cross_entropy(logits: Tensor, classes: Tensor, annotated: Tensor | None, batch_dice: bool) -> Tensor:
    """Add both, each with weight 1; the optimum is −1.

    Source: Isensee et al. 2021, Methods; the forms of nnU-Net v2.8.1.
    """
    log_probabilities = functional.log_softmax(logits.float(), dim=1)
    overlap = _minus_dice(log_probabilities.exp(), classes, annotated, batch_dice)
    return _mean_nll(log_probabilities, classes, annotated) + overlap


LOSSES: dict[str, Loss] = {
    "dice+cross-entropy": dice_and_cross_entropy,
    "cross-entropy": cross_entropy,
    "dice": dice,
}


def _mean_nll(log_probabilities: Tensor, classes: Tensor, annotated: Tensor | None) -> Tensor:
    if annotated is None:
        return functional.nll_loss(log_probabilities, classes)
    each = functional.nll_loss(log_probabilities, classes, reduction="none")
    return (each * annotated).sum() / annotated.sum().clamp(min=1)


def _minus_dice(probabilities: Tensor, classes: Tensor, annotated: Tensor | None, batch_dice: bool) -> Tensor:
    """Count class by class: no one-hot map of classes × voxels is ever made."""
    axes = tuple(range(0 if batch_dice else 1, classes.dim()))
    ratios = []
    for index, probability in enumerate(probabilities.unbind(1)):
        if index == 0:
            continue
        here = classes == index
        if annotated is not None:
            here, probability = here & annotated, probability * annotated
        both = (probability * here).sum(axes)
        either = probability.sum(axes) + here.sum(axes)
        ratios.append((2 * both + SMOOTH) / (either + SMOOTH).clamp(min=1e-8))
    return -torch.stack(ratios).mean()
