"""Losses on regions, each predicted on its own: binary cross-entropy and soft Dice. Everything is computed in float32.

As in ``losses``, the gradient of all sums over voxels is written by hand: beside the probabilities only maps of one
number per voxel exist, whatever the number of regions.

Sources: Milletari et al. 2016 (Dice); nnU-Net v2.8.1 (both forms, with and without an ignore label).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import binary_cross_entropy_with_logits

from autoseg.targets.losses import Sums, mean_dice

RegionLoss = Callable[[Tensor, Tensor, Tensor | None, Tensor | None, bool], Tensor]
"""(logits B × R × space, found B × R × space bool, annotated voxels B × space or None, counted regions B × R or None,
Dice over the batch) → scalar."""


def cross_entropy(
    logits: Tensor, found: Tensor, annotated: Tensor | None, counted: Tensor | None, batch_dice: bool
) -> Tensor:
    """Average the binary cross-entropy; 0 where nothing counts."""
    return _mean_surprise(sum_region_voxels(logits, found, annotated), found, annotated, counted)


def dice(logits: Tensor, found: Tensor, annotated: Tensor | None, counted: Tensor | None, batch_dice: bool) -> Tensor:
    """Give minus the mean soft Dice over regions (and samples, unless sums run over the batch)."""
    return -_mean_dice(sum_region_voxels(logits, found, annotated), counted, batch_dice)


def dice_and_cross_entropy(
    logits: Tensor, found: Tensor, annotated: Tensor | None, counted: Tensor | None, batch_dice: bool
) -> Tensor:
    """Add both, each with weight 1; the optimum is −1."""
    sums = sum_region_voxels(logits, found, annotated)
    return _mean_surprise(sums, found, annotated, counted) - _mean_dice(sums, counted, batch_dice)


REGION_LOSSES: dict[str, RegionLoss] = {
    "dice+cross-entropy": dice_and_cross_entropy,
    "cross-entropy": cross_entropy,
    "dice": dice,
}
"""By the names of ``LOSSES``."""


def sum_region_voxels(logits: Tensor, found: Tensor, annotated: Tensor | None) -> Sums:
    """Add up what the losses need, per sample and region; ``surprise`` is (B, R) here."""
    weight = None if annotated is None else annotated.flatten(1).float()
    sums: tuple[Tensor, ...] = _SumRegionVoxels.apply(logits.flatten(2), found.flatten(2), weight)
    return Sums(*sums)


def _mean_surprise(sums: Sums, found: Tensor, annotated: Tensor | None, counted: Tensor | None) -> Tensor:
    """Average over what counts; where voxels may be ignored nnU-Net adds the regions up instead of averaging them."""
    num_samples, num_regions, *space = found.shape
    if annotated is None:
        voxels = sums.surprise.new_full((num_samples, 1), float(torch.Size(space).numel()))
    else:
        voxels = annotated.flatten(1).sum(1, keepdim=True).float()
    weight = torch.ones_like(sums.surprise) if counted is None else counted.to(sums.surprise)
    total = (sums.surprise * weight).sum() / (voxels * weight).sum().clamp(min=1)
    return total if annotated is None else total * num_regions


def _mean_dice(sums: Sums, counted: Tensor | None, batch_dice: bool) -> Tensor:
    return mean_dice(sums.overlap, sums.mass + sums.size, counted, batch_dice)


class _SumRegionVoxels(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits_BRV: Tensor, found_BRV: Tensor, weight_BV: Tensor | None) -> tuple[Tensor, ...]:
        probability = torch.empty_like(logits_BRV, dtype=torch.float32, memory_format=torch.contiguous_format)
        surprise, overlap, mass, size = (probability.new_zeros(logits_BRV.shape[:2]) for _ in range(4))
        for r in range(logits_BRV.shape[1]):
            logit, here = logits_BRV[:, r].float(), found_BRV[:, r].float()
            entropy = binary_cross_entropy_with_logits(logit, here, reduction="none")
            torch.sigmoid(logit, out=probability[:, r])
            if weight_BV is not None:
                entropy *= weight_BV
                here *= weight_BV
            surprise[:, r] = entropy.sum(1)
            size[:, r] = here.sum(1)
            overlap[:, r] = here.mul_(probability[:, r]).sum(1)
            mass[:, r] = (probability[:, r] if weight_BV is None else probability[:, r] * weight_BV).sum(1)
        ctx.save_for_backward(probability, found_BRV, weight_BV)
        ctx.dtype = logits_BRV.dtype
        ctx.mark_non_differentiable(size)
        return surprise, overlap, mass, size

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, surprise_BR: Tensor, overlap_BR: Tensor, mass_BR: Tensor, _: Any
    ) -> tuple[Tensor | None, ...]:
        # With p the probability and g the label: d p / d x = p (1 − p), and d surprise / d x = p − g.
        probability, found_BRV, weight_BV = ctx.saved_tensors
        gradient = torch.empty_like(probability, dtype=ctx.dtype)
        for r in range(probability.shape[1]):
            p, here = probability[:, r], found_BRV[:, r].float()
            slope = here * overlap_BR[:, r, None]
            slope += mass_BR[:, r, None]
            slope *= p * (1 - p)
            slope += (p - here).mul_(surprise_BR[:, r, None])
            if weight_BV is not None:
                slope *= weight_BV
            gradient[:, r] = slope
        return gradient, None, None
