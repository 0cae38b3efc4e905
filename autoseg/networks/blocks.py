"""The parts of a U-Net: convolution with norm and activation, and upsampling beside a skip connection.

Each has one set of parameters and two ways to compute: torch's operators, and on a CPU the compiled ones of
``autoseg.native`` (``native`` is set by ``autoseg.compute.place``). Both give the same numbers to rounding.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from autoseg.networks import fused

EPSILON = 1e-5
"""Added to the variance (nnU-Net v2.8.1)."""

NEGATIVE_SLOPE = 0.01
"""Of the leaky ReLU (nnU-Net v2.8.1)."""

CONVOLUTION: dict[int, Any] = {2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED: dict[int, Any] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
NORM: dict[int, Any] = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}


class ConvBlock(nn.Module):
    """Convolution (padding (kernel - 1) / 2, with bias), instance norm (affine), leaky ReLU.

    Source: building block of nnU-Net v2 (Isensee et al. 2021).
    """

    def __init__(self, num_inputs: int, num_outputs: int, kernel: Sequence[int], stride: Sequence[int]) -> None:
        super().__init__()
        dimensions = len(kernel)
        padding = tuple((size - 1) // 2 for size in kernel)
        self.conv = CONVOLUTION[dimensions](num_inputs, num_outputs, tuple(kernel), tuple(stride), padding)
        self.norm = NORM[dimensions](num_outputs, eps=EPSILON, affine=True)
        self.native = False
        self._kept: fused.Kept = {}

    def forward(self, x: Tensor) -> Tensor:
        """(batch, inputs, [z,] y, x) -> (batch, outputs, the shape divided by the stride)."""
        if not (self.native and fused.available(x)):
            return nn.functional.leaky_relu(self.norm(self.conv(x)), NEGATIVE_SLOPE, inplace=True)
        weight, bias = self.conv.weight, self.conv.bias
        if _plain_float32(x) and bias is not None:
            x = fused.convolve(x, weight, bias, self.conv.stride, self._kept)
        else:
            x = self.conv(x)
        if weight.shape[0] % fused.LANES or x.dtype not in (torch.float32, torch.bfloat16):
            return nn.functional.leaky_relu(self.norm(x), NEGATIVE_SLOPE, inplace=True)
        return fused.norm_act(x, self.norm.weight, self.norm.bias, EPSILON, NEGATIVE_SLOPE)


class UpsampleJoin(nn.Module):
    """Transposed convolution with kernel = stride (with bias), concatenated with the skip: [upsampled, skip].

    Source: decoder of nnU-Net v2 (Isensee et al. 2021).
    """

    def __init__(self, num_inputs: int, num_outputs: int, stride: Sequence[int]) -> None:
        super().__init__()
        self.conv = TRANSPOSED[len(stride)](num_inputs, num_outputs, tuple(stride), tuple(stride))
        self.native = False

    def forward(self, coarse: Tensor, skip: Tensor) -> Tensor:
        """(batch, inputs, coarse shape), (batch, skips, fine shape) -> (batch, outputs + skips, fine shape)."""
        weight, bias = self.conv.weight, self.conv.bias
        aligned = all(channels % fused.LANES == 0 for channels in (*weight.shape[:2], skip.shape[1]))
        if self.native and aligned and bias is not None and fused.available(coarse) and _plain_float32(coarse):
            return fused.upsample_join(coarse, weight, bias, skip)
        return torch.cat((self.conv(coarse), skip), 1)


class Head(nn.Module):
    """Convolution with kernel 1 (with bias): features to logits."""

    def __init__(self, num_inputs: int, num_outputs: int, dimensions: int) -> None:
        super().__init__()
        self.conv = CONVOLUTION[dimensions](num_inputs, num_outputs, 1)
        self.native = False

    def forward(self, x: Tensor) -> Tensor:
        """(batch, inputs, [z,] y, x) -> (batch, outputs, [z,] y, x)."""
        if self.native and x.device.type == "cpu":  # a matrix product of voxels × channels; torch would copy them first
            return nn.functional.linear(x.movedim(1, -1), self.conv.weight.flatten(1), self.conv.bias).movedim(-1, 1)
        logits: Tensor = self.conv(x)
        return logits


def _plain_float32(x: Tensor) -> bool:
    return x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
