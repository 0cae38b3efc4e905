"""What a network costs, by arithmetic: feature-map elements, parameters, bytes of a training step.

Two measures, on purpose. The *elements* are nnU-Net's measure, by which patch and batch are fitted to the budget: it is
coarse, but it makes the same decisions. The *bytes* are our own prediction of what a training step will hold at
its peak; they inform and decide nothing.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from planners.decision import byte_size
from planners.plan import Architecture
from planners.records import PlanError

PLAIN_UNET = "plain-unet"
"""Blocks of convolution, instance norm, leaky ReLU, with skips; Ronneberger et al. 2015, Çiçek et al. 2016."""

FAMILIES = (PLAIN_UNET,)
"""Network families whose arithmetic stands in this file."""

HALF, SINGLE, INTEGER = 2, 4, 8
"""Bytes of a number in bf16 or fp16, in fp32, and of a label index in the loss (int64)."""

BYTES_PER_PARAMETER = 3 * SINGLE + HALF
"""Weight, gradient and momentum in fp32 (SGD), and the half-precision copy that autocast keeps. Computed."""

TENSORS_PER_BLOCK = 2
"""Half-precision tensors that a block keeps for the backward pass: the convolution's output (input of the norm) and the
block's output; the leaky ReLU works in place. Computed."""

LOSS_TENSORS = 4
"""fp32 tensors of K × voxels that the loss keeps: logits, log-softmax, softmax, one-hot label. Assumption."""

TRANSIENT_TENSORS = 3
"""Half-precision gradients alive at once where the backward pass starts, each as large as the largest feature map:
of a block's output, of its convolution, and the convolution's workspace. Assumption."""


@dataclass(frozen=True, kw_only=True)
class StepBytes:
    """Bytes held at the peak of one training step in mixed precision.

    Without what no arithmetic knows: the device's own context (0.3 to 0.6 GB with CUDA), the allocator's
    fragmentation, augmentation of the next batch. A step in fp32 holds twice the activations.

    Attributes:
        parameters: weights, gradients, momentum, half-precision copies.
        activations: feature maps kept for the backward pass, with the input.
        loss: logits of every output in fp32, and what the loss makes of them.
        transient: gradients and workspace at the start of the backward pass.
    """

    parameters: int
    activations: int
    loss: int
    transient: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.parameters + self.activations + self.loss + self.transient

    def wording(self) -> str:
        """Say what the total is made of."""
        return (
            f"{byte_size(self.activations)} activations, {byte_size(self.transient)} gradients, "
            f"{byte_size(self.parameters)} weights, {byte_size(self.loss)} loss"
        )


def feature_map_elements(architecture: Architecture, patch_size: Sequence[int], num_outputs: int) -> int:
    """Count the numbers in all convolution outputs for one patch, with the full-resolution output alone.

    Args:
        architecture: of a family in :data:`FAMILIES`.
        patch_size: divisible by the product of the strides.
        num_outputs: channels of the network's output.

    Source: nnU-Net v2.8.1 counts the same in an instantiated network; this is its closed form.
    """
    maps = _stage_maps(architecture, patch_size)
    encoder = sum(stage.num_blocks * size for stage, size in zip(architecture.stages, maps, strict=True))
    upsampled = sum(maps[:-1])
    decoder = sum(blocks * size for blocks, size in zip(architecture.num_decoder_blocks, maps, strict=False))
    return encoder + upsampled + decoder + num_outputs * math.prod(patch_size)


def num_parameters(architecture: Architecture, num_input_channels: int, num_outputs: int) -> int:
    """Count the trainable numbers of a network, the heads of all its outputs included.

    Args:
        architecture: of a family in :data:`FAMILIES`.
        num_input_channels: channels of the image.
        num_outputs: channels of each output.
    """
    _check_family(architecture)
    stages = architecture.stages
    encoder, channels = 0, num_input_channels
    for stage in stages:
        encoder += _blocks_parameters(stage.num_blocks, channels, stage.features, stage.kernel)
        channels = stage.features
    decoder = 0
    for stage, deeper, blocks in zip(stages, stages[1:], architecture.num_decoder_blocks, strict=False):
        decoder += deeper.features * stage.features * math.prod(deeper.stride) + stage.features
        decoder += _blocks_parameters(blocks, 2 * stage.features, stage.features, stage.kernel)
    heads = sum(stage.features * num_outputs + num_outputs for stage in stages[: len(architecture.outputs)])
    return encoder + decoder + heads


def step_bytes(
    architecture: Architecture, patch_size: Sequence[int], batch_size: int, num_input_channels: int, num_outputs: int
) -> StepBytes:
    """Predict what one training step holds at its peak, in mixed precision.

    Args:
        architecture: of a family in :data:`FAMILIES`.
        patch_size: divisible by the product of the strides.
        batch_size: patches per step.
        num_input_channels: channels of the image.
        num_outputs: channels of each output.
    """
    maps, voxels = _stage_maps(architecture, patch_size), math.prod(patch_size)
    blocks = [stage.num_blocks for stage in architecture.stages]
    for index, count in enumerate(architecture.num_decoder_blocks):
        blocks[index] += count
    kept = sum(TENSORS_PER_BLOCK * count * size for count, size in zip(blocks, maps, strict=True))
    concatenated = 2 * sum(maps[:-1])  # upsampled map and skip, copied side by side
    image = num_input_channels * voxels * (SINGLE + HALF)
    logits, labels = 0, 0
    for output in architecture.outputs:
        scored = voxels // math.prod(output.stride)
        logits += num_outputs * scored * (HALF + (LOSS_TENSORS * SINGLE if output.loss_weight else 0))
        labels += scored * INTEGER
    return StepBytes(
        parameters=BYTES_PER_PARAMETER * num_parameters(architecture, num_input_channels, num_outputs),
        activations=batch_size * (HALF * (kept + concatenated) + image),
        loss=batch_size * (logits + labels),
        transient=batch_size * TRANSIENT_TENSORS * HALF * max(maps),
    )


def _stage_maps(architecture: Architecture, patch_size: Sequence[int]) -> list[int]:
    """Numbers in one feature map of each stage, for one patch: features × voxels."""
    _check_family(architecture)
    size, maps = list(patch_size), []
    for stage in architecture.stages:
        size = [edge // stride for edge, stride in zip(size, stage.stride, strict=True)]
        maps.append(stage.features * math.prod(size))
    return maps


def _blocks_parameters(num_blocks: int, channels_in: int, channels_out: int, kernel: Sequence[int]) -> int:
    """Weights and bias of each convolution, scale and shift of each norm; only the first block sees ``channels_in``."""
    weights = (channels_in + (num_blocks - 1) * channels_out) * channels_out * math.prod(kernel)
    return weights + 3 * num_blocks * channels_out


def _check_family(architecture: Architecture) -> None:
    if architecture.family not in FAMILIES:
        raise PlanError(
            f"no memory arithmetic for networks of family {architecture.family!r} (known: {', '.join(FAMILIES)})"
        )
