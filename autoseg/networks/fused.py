"""The compiled operators of ``autoseg.native`` as differentiable functions of tensors.

They take float32 (``norm_act`` bfloat16 as well) on the CPU, and work channels-last: whatever comes in another layout
is copied once. A 2D tensor is a 3D one with a single plane. What they compute is what torch's own operators compute,
to rounding; tests/networks/test_fused.py holds both side by side.
"""

import ctypes
import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from autoseg import native

LANES = 16
"""Channels that the compiled loops take at a time."""

MOST_SUMS = 2**26
"""Floats (256 MB) that the threads' own sums of one weight gradient may take; more threads than that stand idle for it.
Assumption."""

TRANSFORM_COST, KERNEL_COST = 20.0, 300.0
"""What it costs to transform one number of a tile, and one weight, in multiplications of the product between them.
Fitted to the seven shapes of the hippocampus plan (2 cores with AVX-512, benchmarks/train_step.py --layers)."""

READ_COST = 100.0
"""What it costs to read one transformed weight that is kept, in the same unit: as measured for prediction."""

Kept = dict[tuple[int, ...] | None, tuple[int, int, Tensor]]
"""Transformed weights of one convolution by tile, with the version of the weights they were made from; under None for
the plain sum."""


def available(x: Tensor) -> bool:
    """Whether the compiled operators can take this tensor."""
    return x.device.type == "cpu" and native.kernels().library is not None


def convolve(x: Tensor, weight: Tensor, bias: Tensor, stride: Sequence[int], kept: Kept) -> Tensor:
    """Convolve with padding (kernel - 1) / 2, by Winograd's filtering where that pays.

    Else by torch where a gradient is needed, and where none is by one matrix product of what surrounds each voxel:
    torch reorders weights at every call, and takes twice as long for one image as for each of several.

    Args:
        x: (batch, inputs, [z,] y, x), float32 on the CPU.
        weight: (outputs, inputs, [kz,] ky, kx).
        bias: (outputs,).
        stride: per axis.
        kept: belongs to this convolution alone; spares the transform of unchanged weights where no gradient is needed.
    """
    num_outputs, num_inputs = weight.shape[:2]
    again = torch.is_grad_enabled()
    tiles = None
    if set(stride) == {1} and num_inputs % LANES == num_outputs % LANES == 0:
        per_weight = KERNEL_COST if again else READ_COST
        tiles = choose_tiles(_shape(x), _three(weight.shape[2:]), num_inputs, num_outputs, per_weight)
    if again and tiles is not None:
        return _apply(_Winograd, x, weight, bias, tiles)
    if again or num_outputs % LANES:
        function = torch.nn.functional.conv3d if x.dim() == 5 else torch.nn.functional.conv2d
        return function(x, weight, bias, tuple(stride), tuple((size - 1) // 2 for size in weight.shape[2:]))
    version, place = weight._version, weight.data_ptr()
    if kept.get(tiles, (None, None))[:2] != (version, place):
        spread = _spread(weight, 1, 0)
        kept[tiles] = version, place, _pack(spread) if tiles is None else _transform(spread, tiles)
    if tiles is None:
        return _direct(_last(x), kept[tiles][2], weight, bias, stride)
    return _filter(_last(x), kept[tiles][2], bias, tiles, num_outputs)


def choose_tiles(
    shape: Sequence[int], kernel: Sequence[int], num_inputs: int, num_outputs: int, per_weight: float = KERNEL_COST
) -> tuple[int, ...] | None:
    """Choose Winograd's tile (outputs per axis: 1, 2 or 4), or None where the plain sum is cheaper or the only way.

    Args:
        shape: batch, z, y, x.
        kernel: z, y, x.
        num_inputs, num_outputs: channels.
        per_weight: what a transformed weight costs, in multiplications.
    """
    if not set(kernel) <= {1, 3} or 3 not in kernel:
        return None
    choices = list(itertools.product(*((2, 4) if size == 3 else (1,) for size in kernel)))
    costs = {tiles: _cost(shape, tiles, num_inputs, num_outputs, per_weight) for tiles in choices}
    best = min(choices, key=lambda tiles: costs[tiles])
    plain = math.prod(shape) * math.prod(kernel) * num_inputs * num_outputs
    return best if costs[best] < plain else None


def norm_act(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float, slope: float) -> Tensor:
    """Instance normalization, then leaky ReLU. Where no gradient is needed x itself is overwritten and returned.

    Args:
        x: (batch, channels, [z,] y, x), float32 or bfloat16; channels a multiple of 16.
        weight, bias: (channels,), float32.
        epsilon: added to the variance.
        slope: of the negative part.
    """
    if torch.is_grad_enabled():
        return _apply(_NormAct, x, weight, bias, epsilon, slope)
    x = _last(x)
    _normalize(x, x, weight, bias, epsilon, slope)
    return x


def upsample_join(coarse: Tensor, weight: Tensor, bias: Tensor, skip: Tensor) -> Tensor:
    """Transposed convolution whose stride is its kernel, followed by the skip's channels in the same tensor.

    Args:
        coarse: (batch, inputs, [z,] y, x), float32; all numbers of channels are multiples of 16.
        weight: (inputs, outputs, [kz,] ky, kx).
        bias: (outputs,).
        skip: (batch, skips, [z kz,] y ky, x kx).
    """
    return _apply(_UpsampleJoin, coarse, weight, bias, skip)


class _Winograd(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, tiles: tuple[int, ...]) -> Tensor:
        x = _last(x)
        ctx.save_for_backward(x, weight)
        ctx.tiles = tiles
        return _filter(x, _transform(_spread(weight, 1, 0), tiles), bias, tiles, weight.shape[0])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        gradient, tiles = _last(gradient), ctx.tiles
        num_outputs, num_inputs = weight.shape[:2]
        image = None
        if ctx.needs_input_grad[0]:
            turned = weight.flip(tuple(range(2, weight.dim())))
            image = _filter(gradient, _transform(_spread(turned, 0, 1), tiles), None, tiles, num_inputs)
        size = _components(tiles) * num_inputs * _padded(num_outputs) + num_outputs
        threads = _threads(size)
        weights, bias = x.new_empty(weight.numel()), x.new_empty(num_outputs)
        sizes = _longs(*_shape(x), num_inputs, num_outputs, *tiles)
        _call("winograd_weights", x, gradient, x.new_empty(threads * size), weights, bias, sizes, threads)
        return image, _gather(weights, weight, 1, 0), bias, None


class _UpsampleJoin(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, coarse: Tensor, weight: Tensor, bias: Tensor, skip: Tensor) -> Tensor:
        coarse, skip = _last(coarse), _last(skip)
        ctx.save_for_backward(coarse, weight)
        ctx.sizes = _longs(*_shape(coarse), *weight.shape[:2], *_three(weight.shape[2:]), skip.shape[1])
        joined = _empty(skip, (skip.shape[0], weight.shape[1] + skip.shape[1], *skip.shape[2:]))
        _call("upsample_forward", coarse, _spread(weight, 0, 1), bias, skip, joined, ctx.sizes, _threads())
        return joined

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        coarse, weight = ctx.saved_tensors
        gradient, num_outputs = _last(gradient), weight.shape[1]
        image = _empty(coarse, coarse.shape)
        _call("upsample_coarse", gradient, _spread(weight, 1, 0), image, ctx.sizes, _threads())
        total = coarse.new_empty(weight.numel() + num_outputs)
        threads = _threads(total.numel())
        _call(
            "upsample_weights", coarse, gradient, coarse.new_empty(threads * total.numel()), total, ctx.sizes, threads
        )
        weights, bias = total.split([weight.numel(), num_outputs])
        return image, _gather(weights, weight, 0, 1), bias, gradient[:, num_outputs:]


class _NormAct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, epsilon: float, slope: float) -> Tensor:
        x = _last(x)
        result = _empty(x, x.shape)
        mean, rate = _normalize(x, result, weight, bias, epsilon, slope)
        ctx.save_for_backward(x, weight, bias, mean, rate)
        ctx.slope = slope
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, rate = ctx.saved_tensors
        batch, channels, *_ = x.shape
        voxels = math.prod(x.shape[2:])
        gradient, pitch = _rows(gradient)
        image, weights, biases = _empty(x, x.shape), torch.empty_like(weight), torch.empty_like(bias)
        means = weight.new_empty(2, channels)
        name = "norm_backward_bf16" if x.dtype == torch.bfloat16 else "norm_backward_float"
        arguments = x, gradient, pitch, weight, bias, mean, rate, image, weights, biases, _sums(x), means
        _call(name, *arguments, batch, voxels, channels, ctx.slope, _threads())
        return image, weights, biases, None, None


def _apply(function: Any, *arguments: Any) -> Tensor:
    result: Tensor = function.apply(*arguments)
    return result


def _cost(shape: Sequence[int], tiles: Sequence[int], num_inputs: int, num_outputs: int, per_weight: float) -> float:
    num_tiles = shape[0] * math.prod(-(-size // tile) for size, tile in zip(shape[1:], tiles, strict=True))
    products = num_tiles * num_inputs * num_outputs
    transforms = TRANSFORM_COST * num_tiles * (num_inputs + num_outputs)
    return _components(tiles) * (products + transforms + per_weight * num_inputs * num_outputs)


def _transform(weight: Tensor, tiles: tuple[int, ...]) -> Tensor:
    """Weights with the kernel's axes first, then inputs and outputs -> packed matrices, one per component."""
    num_inputs, num_outputs = weight.shape[-2:]
    kernel = weight.new_empty(_components(tiles) * num_inputs * _padded(num_outputs))
    _call("winograd_kernel", weight, kernel, _longs(1, 1, 1, 1, num_inputs, num_outputs, *tiles), _threads())
    return kernel


def _pack(weight: Tensor) -> Tensor:
    """Weights with the kernel's axes first, then inputs and outputs -> one packed matrix."""
    num_outputs = weight.shape[-1]
    depth = weight.numel() // num_outputs
    kernel = weight.new_empty(depth * _padded(num_outputs))
    _call("direct_kernel", weight, kernel, depth, num_outputs)
    return kernel


def _direct(x: Tensor, kernel: Tensor, weight: Tensor, bias: Tensor, stride: Sequence[int]) -> Tensor:
    num_outputs, num_inputs, *edges = weight.shape
    sizes = zip(x.shape[2:], edges, stride, strict=True)
    result = _empty(
        x, (x.shape[0], num_outputs, *((size + (k - 1) // 2 * 2 - k) // step + 1 for size, k, step in sizes))
    )
    given = _longs(*_shape(x), num_inputs, num_outputs, *_three(edges), *_three(stride))
    _call("direct_forward", x, kernel, bias, result, given, _threads())
    return result


def _filter(x: Tensor, kernel: Tensor, bias: Tensor | None, tiles: tuple[int, ...], num_outputs: int) -> Tensor:
    result = _empty(x, (x.shape[0], num_outputs, *x.shape[2:]))
    sizes = _longs(*_shape(x), x.shape[1], num_outputs, *tiles)
    _call("winograd_forward", x, kernel, bias, result, sizes, _threads())
    return result


def _normalize(
    x: Tensor, to: Tensor, weight: Tensor, bias: Tensor, epsilon: float, slope: float
) -> tuple[Tensor, Tensor]:
    """Fill ``to``; give the mean and the inverse deviation, (batch, channels) each."""
    batch, channels, *_ = x.shape
    mean, rate = weight.new_empty(batch, channels), weight.new_empty(batch, channels)
    name = "norm_forward_bf16" if x.dtype == torch.bfloat16 else "norm_forward_float"
    sizes = batch, math.prod(x.shape[2:]), channels
    _call(name, x, weight, bias, to, mean, rate, _sums(x), *sizes, epsilon, slope, _threads())
    return mean, rate


def _call(name: str, *arguments: Any) -> None:
    function = getattr(native.kernels().library, name)
    function(*(item.data_ptr() if isinstance(item, Tensor) else item for item in arguments))


def _threads(private: int = 0) -> int:
    """Threads for a loop in which each keeps ``private`` floats of its own."""
    threads = torch.get_num_threads()
    return max(min(threads, MOST_SUMS // private), 1) if private else threads


def _sums(x: Tensor) -> Tensor:
    """Work space of the norm: two sums per chunk and channel."""
    library = native.kernels().library
    assert library is not None
    return torch.empty(library.norm_chunks(math.prod(x.shape[2:])), 2, x.shape[1])


def _components(tiles: Sequence[int]) -> int:
    return math.prod(1 if tile == 1 else tile + 2 for tile in tiles)


def _padded(channels: int) -> int:
    """Columns of a packed matrix: the compiled code fills its last panel up."""
    return -(-channels // (2 * LANES)) * 2 * LANES


def _longs(*values: int) -> Any:
    return (ctypes.c_int64 * len(values))(*values)


def _three(values: Sequence[int]) -> tuple[int, ...]:
    return (1,) * (3 - len(values)) + tuple(values)


def _shape(x: Tensor) -> tuple[int, ...]:
    """Batch, z, y, x."""
    return x.shape[0], *_three(x.shape[2:])


def _last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last_3d if x.dim() == 5 else torch.channels_last)


def _rows(x: Tensor) -> tuple[Tensor, int]:
    """The tensor, and the numbers from voxel to voxel: more than its channels where it is part of a joined one."""
    pitch = x.stride(-1)
    voxels = [pitch * math.prod(x.shape[axis + 1 :]) for axis in range(2, x.dim())]
    joined = (pitch * math.prod(x.shape[2:]), 1, *voxels)
    return (x, pitch) if pitch >= x.shape[1] and x.stride() == joined else (_last(x), x.shape[1])


def _empty(like: Tensor, shape: Sequence[int]) -> Tensor:
    layout = torch.channels_last_3d if len(shape) == 5 else torch.channels_last
    return torch.empty(tuple(shape), dtype=like.dtype, device=like.device, memory_format=layout)


def _spread(weight: Tensor, *channels: int) -> Tensor:
    """Kernel axes first, then the two channel axes in the given order."""
    return weight.detach().permute(*range(2, weight.dim()), *channels).contiguous()


def _gather(weights: Tensor, like: Tensor, *channels: int) -> Tensor:
    """The way back from ``_spread``, for a gradient."""
    order = (*range(2, like.dim()), *channels)
    spread = weights.view([like.shape[axis] for axis in order])
    return spread.permute([order.index(axis) for axis in range(like.dim())])
