"""The parts of a U-Net: convolution with norm and activation, residual block, upsampling beside a skip connection.

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
POOLING: dict[int, Any] = {2: nn.functional.avg_pool2d, 3: nn.functional.avg_pool3d}


class ConvBlock(nn.Module):
    """Convolution (padding (kernel - 1) / 2), instance norm (affine), leaky ReLU.

    With ``slope`` 1 there is no activation; ``bias`` False leaves the convolution's shift to the norm.

    Source: building block of nnU-Net v2 (Isensee et al. 2021).
    """

    def __init__(
        self,
        num_inputs: int,
        num_outputs: int,
        kernel: Sequence[int],
        stride: Sequence[int],
        slope: float = NEGATIVE_SLOPE,
        bias: bool = True,
    ) -> None:
        super().__init__()
        dimensions = len(kernel)
        padding = tuple((size - 1) // 2 for size in kernel)
        self.conv = CONVOLUTION[dimensions](num_inputs, num_outputs, tuple(kernel), tuple(stride), padding, bias=bias)
        self.norm = NORM[dimensions](num_outputs, eps=EPSILON, affine=True)
        self.slope = slope
        self.native = False
        self._kept: fused.Kept = {}

    def forward(self, x: Tensor) -> Tensor:
        """(batch, inputs, [z,] y, x) -> (batch, outputs, the shape divided by the stride)."""
        if not (self.native and fused.available(x)):
            return self._normalize(self.conv(x))
        x = self._convolve(x)
        if x.shape[1] % fused.LANES or x.dtype not in (torch.float32, torch.bfloat16):
            return self._normalize(x)
        return fused.norm_act(x, self.norm.weight, self.norm.bias, EPSILON, self.slope)

    def _convolve(self, x: Tensor) -> Tensor:
        weight, bias = self.conv.weight, self.conv.bias
        if set(self.conv.kernel_size) | set(self.conv.stride) == {1}:
            return multiply(x, weight, bias)
        if _plain_float32(x) and bias is not None:
            return fused.convolve(x, weight, bias, self.conv.stride, self._kept)
        result: Tensor = self.conv(x)
        return result

    def _normalize(self, x: Tensor) -> Tensor:
        normalized: Tensor = self.norm(x)
        return normalized if self.slope == 1 else nn.functional.leaky_relu(normalized, self.slope, inplace=True)


class Shortcut(nn.Module):
    """The way past a residual block: average pooling with the stride, a projection where the width changes.

    The projection is a convolution with kernel 1, without bias, and a norm. Where neither is needed, the input itself.

    Source: He et al. 2019, "Bag of tricks" (ResNet-D), as in nnU-Net v2's residual encoder (Isensee et al. 2024).
    """

    def __init__(self, num_inputs: int, num_outputs: int, stride: Sequence[int]) -> None:
        super().__init__()
        ones = (1,) * len(stride)
        self.stride = tuple(stride)
        self.project = (
            ConvBlock(num_inputs, num_outputs, ones, ones, slope=1.0, bias=False) if num_inputs != num_outputs else None
        )
        self.native = False

    def forward(self, x: Tensor) -> Tensor:
        """(batch, inputs, [z,] y, x) -> (batch, outputs, the shape divided by the stride)."""
        if max(self.stride) > 1:
            by_axis = self.native and x.device.type == "cpu"
            x = average(x, self.stride) if by_axis else POOLING[len(self.stride)](x, self.stride, self.stride)
        return x if self.project is None else self.project(x)


class ResidualBlock(nn.Module):
    """Two convolutions with norm, the first activated; the shortcut is added, then leaky ReLU.

    Source: He et al. 2016; form of nnU-Net v2's residual encoder (Isensee et al. 2024).
    """

    def __init__(self, num_inputs: int, num_outputs: int, kernel: Sequence[int], stride: Sequence[int]) -> None:
        super().__init__()
        self.first = ConvBlock(num_inputs, num_outputs, kernel, stride)
        self.second = ConvBlock(num_outputs, num_outputs, kernel, (1,) * len(kernel), slope=1.0)
        self.shortcut = Shortcut(num_inputs, num_outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, inputs, [z,] y, x) -> (batch, outputs, the shape divided by the stride)."""
        total = self.second(self.first(x))
        total += self.shortcut(x)
        return nn.functional.leaky_relu(total, NEGATIVE_SLOPE, inplace=True)


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
        if self.native and x.device.type == "cpu":
            return multiply(x, self.conv.weight, self.conv.bias)
        logits: Tensor = self.conv(x)
        return logits


def multiply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve with kernel 1: a matrix product of voxels × channels. For channels-last on a CPU, where torch copies."""
    return nn.functional.linear(x.movedim(1, -1), weight.flatten(1), bias).movedim(-1, 1)


def average(x: Tensor, stride: Sequence[int]) -> Tensor:
    """Average over cells of the stride, axis by axis. For channels-last on a CPU, where torch takes ten times as long.

    Every edge must be divisible by the stride along it.
    """
    x = x.movedim(1, -1)
    for axis, step in enumerate(stride, start=1):
        if step > 1:
            x = x.unflatten(axis, (-1, step)).mean(axis + 1)
    return x.movedim(-1, 1)


def _plain_float32(x: Tensor) -> bool:
    return x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
