"""What a network costs, counted: feature-map elements and parameters, by arithmetic for every family.

The *elements* are nnU-Net's measure, by which patch and batch are fitted to the budget. ``memory`` has the bytes of a
training step.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

from planners.plan import Architecture, Stage
from planners.records import PlanError

PLAIN_UNET = "plain-unet"
"""Blocks of convolution, instance norm, leaky ReLU, with skips; Ronneberger et al. 2015, Çiçek et al. 2016."""

RESIDUAL_ENCODER_UNET = "residual-encoder-unet"
"""A stem block, then residual blocks of two convolutions down (He et al. 2016; their skips as in ResNet-D, He et al.
2019: average pooling, then a projection), plain blocks up. Source: nnU-Net v2 (Isensee et al. 2024)."""

FAMILIES = (PLAIN_UNET, RESIDUAL_ENCODER_UNET)
"""Network families whose arithmetic stands in this file."""


def feature_map_elements(architecture: Architecture, patch_size: Sequence[int], num_outputs: int) -> int:
    """Count the numbers in all convolution outputs for one patch, with the full-resolution output alone.

    Args:
        architecture: of a family in :data:`FAMILIES`.
        patch_size: divisible by the product of the strides.
        num_outputs: channels of the network's output.

    Source: nnU-Net v2.8.1 counts the same in an instantiated network; this is its closed form.
    """
    maps = stage_maps(architecture, patch_size)
    encoder = sum(count * size for count, size in zip(encoder_maps(architecture), maps, strict=True))
    upsampled = sum(maps[:-1])
    decoder = sum(blocks * size for blocks, size in zip(architecture.num_decoder_blocks, maps, strict=False))
    return encoder + upsampled + decoder + num_outputs * math.prod(patch_size)


def encoder_maps(architecture: Architecture) -> list[int]:
    """Count the maps that each encoder stage makes: one per convolution, one per skip that is pooled or projected."""
    _check_family(architecture)
    if architecture.family == PLAIN_UNET:
        return [stage.num_blocks for stage in architecture.stages]
    counts = [1 + 2 * architecture.stages[0].num_blocks]  # the stem is stage 0's; no skip changes its shape there
    for before, stage in pairwise(architecture.stages):
        changed = before.features != stage.features or max(stage.stride) > 1
        counts.append(2 * stage.num_blocks + changed)
    return counts


def num_parameters(architecture: Architecture, num_input_channels: int, num_outputs: int) -> int:
    """Count the trainable numbers of a network, the heads of all its outputs included.

    Args:
        architecture: of a family in :data:`FAMILIES`.
        num_input_channels: channels of the image.
        num_outputs: channels of each output.
    """
    _check_family(architecture)
    stages = architecture.stages
    count = _plain_encoder if architecture.family == PLAIN_UNET else _residual_encoder
    encoder, decoder = count(stages, num_input_channels), 0
    for stage, deeper, blocks in zip(stages, stages[1:], architecture.num_decoder_blocks, strict=False):
        decoder += deeper.features * stage.features * math.prod(deeper.stride) + stage.features
        decoder += _blocks_parameters(blocks, 2 * stage.features, stage.features, stage.kernel)
    heads = sum(stage.features * num_outputs + num_outputs for stage in stages[: max(len(architecture.outputs), 1)])
    return encoder + decoder + heads


def stage_maps(architecture: Architecture, patch_size: Sequence[int]) -> list[int]:
    """Numbers in one feature map of each stage, for one patch: features × voxels."""
    _check_family(architecture)
    size, maps = list(patch_size), []
    for stage in architecture.stages:
        size = [edge // stride for edge, stride in zip(size, stage.stride, strict=True)]
        maps.append(stage.features * math.prod(size))
    return maps


def _plain_encoder(stages: Sequence[Stage], channels: int) -> int:
    total = 0
    for stage in stages:
        total += _blocks_parameters(stage.num_blocks, channels, stage.features, stage.kernel)
        channels = stage.features
    return total


def _residual_encoder(stages: Sequence[Stage], channels: int) -> int:
    """The stem, and per stage twice as many convolutions as blocks and, where the width changes, a projection.

    A projection is a 1 × 1 convolution without bias and a norm; a skip that is pooled only has no parameters.
    """
    total = _blocks_parameters(1, channels, stages[0].features, stages[0].kernel)
    channels = stages[0].features
    for stage in stages:
        total += _blocks_parameters(2 * stage.num_blocks, channels, stage.features, stage.kernel)
        if channels != stage.features:
            total += channels * stage.features + 2 * stage.features
        channels = stage.features
    return total


def _blocks_parameters(num_blocks: int, channels_in: int, channels_out: int, kernel: Sequence[int]) -> int:
    """Weights and bias of each convolution, scale and shift of each norm; only the first block sees ``channels_in``."""
    weights = (channels_in + (num_blocks - 1) * channels_out) * channels_out * math.prod(kernel)
    return weights + 3 * num_blocks * channels_out


def _check_family(architecture: Architecture) -> None:
    if architecture.family not in FAMILIES:
        raise PlanError(
            f"no memory arithmetic for networks of family {architecture.family!r} (known: {', '.join(FAMILIES)})"
        )
