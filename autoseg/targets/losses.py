"""Losses on dense class maps. Everything is computed in float32, whatever the network's precision.

Softmax is taken once, and the gradient of all sums over voxels is written by hand: beside the probabilities only maps
of one number per voxel exist, no one-hot label, no gradient per class.

In a sample where some classes were not annotated, background may be any of them: its probability is the sum over them
and itself, and they count in no Dice (the marginal loss of partial supervision).

Sources: Milletari et al. 2016 (Dice); Isensee et al. 2021, Methods; forms and constants of nnU-Net v2.8.1; Shi et al.
2021 (marginal loss).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

SMOOTH = 1e-5  # keeps the Dice of an absent class finite; nnU-Net v2.8.1
LEAST = 1e-8  # the denominator's floor; nnU-Net v2.8.1
Loss = Callable[[Tensor, Tensor, Tensor | None, Tensor | None, bool], Tensor]
"""(logits B × K × space, classes B × space int64, annotated voxels B × space or None, annotated classes B × K or None,
Dice over the batch) → scalar. A voxel's class is annotated in its sample."""


def cross_entropy(
    logits: Tensor, classes: Tensor, annotated: Tensor | None, known: Tensor | None, batch_dice: bool
) -> Tensor:
    """Average the cross-entropy over the annotated voxels; 0 where there is none."""
    return _mean_surprise(sum_voxels(logits, classes, annotated, known))


def dice(logits: Tensor, classes: Tensor, annotated: Tensor | None, known: Tensor | None, batch_dice: bool) -> Tensor:
    """Give minus the mean soft Dice over foreground classes (and samples, unless sums run over the batch)."""
    return -_mean_dice(sum_voxels(logits, classes, annotated, known), known, batch_dice)


def dice_and_cross_entropy(
    logits: Tensor, classes: Tensor, annotated: Tensor | None, known: Tensor | None, batch_dice: bool
) -> Tensor:
    """Add both, each with weight 1; the optimum is −1."""
    sums = sum_voxels(logits, classes, annotated, known)
    return _mean_surprise(sums) - _mean_dice(sums, known, batch_dice)


LOSSES: dict[str, Loss] = {
    "dice+cross-entropy": dice_and_cross_entropy,
    "cross-entropy": cross_entropy,
    "dice": dice,
}


class Sums(NamedTuple):
    """What the losses are made of: sums over the annotated voxels of each sample.

    Attributes:
        surprise: minus the log-probability of the voxel's class, (B,).
        overlap: the probability of class k where the class is k, (B, K).
        mass: the probability of class k, (B, K).
        size: voxels of class k, (B, K); no gradient.
    """

    surprise: Tensor
    overlap: Tensor
    mass: Tensor
    size: Tensor


def sum_voxels(logits: Tensor, classes: Tensor, annotated: Tensor | None, known: Tensor | None = None) -> Sums:
    """Add up what the losses need; arguments as for ``Loss``."""
    weight = None if annotated is None else annotated.flatten(1).float()
    hidden = () if known is None else tuple(_hidden_classes(row) for row in known.tolist())
    sums: tuple[Tensor, ...] = _SumVoxels.apply(logits.flatten(2), classes.flatten(1), weight, hidden)
    return Sums(*sums)


def mean_dice(both: Tensor, either: Tensor, counted: Tensor | None, batch_dice: bool) -> Tensor:
    """Average the soft Dice over what counts.

    Args:
        both, either: overlap, and mass + size, B × things.
        counted: which of them count; None: all. Where none does, the result is 0.
        batch_dice: whether to add up over the batch first.
    """
    if counted is None:
        if batch_dice:
            both, either = both.sum(0), either.sum(0)
        return ((2 * both + SMOOTH) / (either + SMOOTH).clamp(min=LEAST)).mean()
    weight = counted.to(both)
    both, either = both * weight, either * weight
    if batch_dice:
        both, either, weight = both.sum(0), either.sum(0), weight.amax(0)
    ratio = (2 * both + SMOOTH) / (either + SMOOTH).clamp(min=LEAST)
    return (ratio * weight).sum() / weight.sum().clamp(min=1)


def _hidden_classes(known: list[bool]) -> tuple[int, ...]:
    """List background and the classes that may hide in it; empty where every class is annotated."""
    return () if all(known) else (0, *(k for k, is_known in enumerate(known) if k and not is_known))


def _mean_surprise(sums: Sums) -> Tensor:
    return sums.surprise.sum() / sums.size.sum().clamp(min=1)


def _mean_dice(sums: Sums, known: Tensor | None, batch_dice: bool) -> Tensor:
    counted = None if known is None else known[:, 1:]
    return mean_dice(sums.overlap[:, 1:], (sums.mass + sums.size)[:, 1:], counted, batch_dice)


class _SumVoxels(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits_BKV: Tensor, class_BV: Tensor, weight_BV: Tensor | None, hidden: tuple[tuple[int, ...], ...]
    ) -> tuple[Tensor, ...]:
        probability = torch.log_softmax(logits_BKV.float().contiguous(), 1)
        surprise = probability.gather(1, class_BV.unsqueeze(1)).squeeze(1).neg_()
        shares = [_merge_background(probability[b], class_BV[b], surprise[b], some) for b, some in enumerate(hidden)]
        probability.exp_()
        chosen = probability.gather(1, class_BV.unsqueeze(1)).squeeze(1)
        mass = probability.sum(2) if weight_BV is None else torch.bmm(probability, weight_BV.unsqueeze(2)).squeeze(2)
        overlap, size = torch.zeros_like(mass), torch.zeros_like(mass)
        for k in range(logits_BKV.shape[1]):
            here = (class_BV == k).float()
            if weight_BV is not None:
                here *= weight_BV
            size[:, k] = here.sum(1)
            overlap[:, k] = here.mul_(chosen).sum(1)
        if weight_BV is not None:
            surprise *= weight_BV
        ctx.save_for_backward(probability, chosen, class_BV, weight_BV, *shares)
        ctx.hidden = hidden
        ctx.dtype = logits_BKV.dtype
        ctx.mark_non_differentiable(size)
        return surprise.sum(1), overlap, mass, size

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, surprise_B: Tensor, overlap_BK: Tensor, mass_BK: Tensor, _: Any
    ) -> tuple[Tensor | None, ...]:
        # With p the probabilities and c the voxel's class: d p_j / d x_k = p_j ([j = k] − p_k), and
        # d surprise / d x_k = p_k − [k = c]; in background that may hide classes, p_k − (share of k in their sum).
        probability, chosen, class_BV, weight_BV, *shares = ctx.saved_tensors
        at_class = chosen * overlap_BK.gather(1, class_BV)
        mean = torch.bmm(mass_BK.unsqueeze(1), probability).squeeze(1) + at_class
        gradient = (mass_BK + surprise_B.unsqueeze(1)).unsqueeze(2) - mean.unsqueeze(1)
        gradient *= probability
        gradient.scatter_add_(1, class_BV.unsqueeze(1), (at_class - surprise_B.unsqueeze(1)).unsqueeze(1))
        for b, (some, share) in enumerate(zip(ctx.hidden, shares, strict=True)):
            if some:
                lost = (class_BV[b] == 0) * surprise_B[b]
                gradient[b, 0] += lost
                for k, part in zip(some, share, strict=True):
                    gradient[b, k] -= lost * part
        if weight_BV is not None:
            gradient *= weight_BV.unsqueeze(1)
        return gradient.to(ctx.dtype), None, None, None


def _merge_background(log_KV: Tensor, classes: Tensor, surprise: Tensor, some: tuple[int, ...]) -> Tensor | None:
    """Let background's probability be the sum over ``some`` in a sample's surprise; give their shares of that sum."""
    if not some:
        return None
    share = log_KV[list(some)]
    merged = share.logsumexp(0)
    surprise.copy_(torch.where(classes == 0, -merged, surprise))
    return share.sub_(merged).exp_()
