"""What a training step holds in memory, by arithmetic.

Patch and batch are fitted to the budget by nnU-Net's own measure, the feature-map elements of ``network_size``: it is
coarse, but it makes the same decisions. The *bytes* here are our prediction of what a training step will hold at its
peak.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from planners.decision import byte_size
from planners.network_size import num_parameters, stage_maps
from planners.plan import Architecture

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


def step_bytes(
    architecture: Architecture, patch_size: Sequence[int], batch_size: int, num_input_channels: int, num_outputs: int
) -> StepBytes:
    """Predict what one training step holds at its peak, in mixed precision.

    Args:
        architecture: of a family in :data:`network_size.FAMILIES`.
        patch_size: divisible by the product of the strides.
        batch_size: patches per step.
        num_input_channels: channels of the image.
        num_outputs: channels of each output.
    """
    maps, voxels = stage_maps(architecture, patch_size), math.prod(patch_size)
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
