"""How deep a U-Net goes: which axes are halved at which stage, and with which kernels, from spacing and patch size.

Source: nnU-Net (Isensee et al. 2021, supplementary note 2); the order of tests is that of nnU-Net v2.8.1.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

MIN_EDGE = 4
"""Voxels that every axis of the deepest feature map keeps, where it was halved at all (nnU-Net v2)."""

SPACING_FACTOR = 2.0
"""Axes are treated alike while their spacings differ by less than this factor (nnU-Net v2; exactly 2 is too much)."""


@dataclass(frozen=True, kw_only=True)
class Topology:
    """The skeleton of a U-Net.

    Attributes:
        strides: per stage, per axis; all ones at the first stage.
        kernels: per stage, per axis: 1 or 3.
        divisor: product of the strides, per axis.
        patch_size: the size asked for, rounded up to multiples of the divisor.
    """

    strides: tuple[tuple[int, ...], ...]
    kernels: tuple[tuple[int, ...], ...]
    divisor: tuple[int, ...]
    patch_size: tuple[int, ...]


def topology(spacing_mm: Sequence[float], size: Sequence[float]) -> Topology:
    """Find strides and kernels.

    An axis is halved while its edge allows (:data:`MIN_EDGE`) and its spacing is within :data:`SPACING_FACTOR` of
    the smallest among the axes that can still be halved. Its kernel is 1 until its spacing comes within that factor
    of the smallest of all axes, and 3 from then on; the deepest stage has 3 everywhere.

    Args:
        spacing_mm: two or three entries, in the plan's axis order.
        size: the patch to start from, as many entries; a half counts as the next whole voxel after halving.
    """
    spacing, edge = list(spacing_mm), list(size)
    axes = range(len(spacing))
    kernel = [1] * len(spacing)
    strides, kernels = [(1,) * len(spacing)], []
    while halved := _axes_to_halve(spacing, edge):
        finest = min(spacing)
        kernel = [3 if kernel[axis] == 3 or spacing[axis] / finest < SPACING_FACTOR else 1 for axis in axes]
        kernels.append(tuple(kernel))
        strides.append(tuple(2 if axis in halved else 1 for axis in axes))
        for axis in halved:
            spacing[axis] *= 2
            edge[axis] = math.ceil(edge[axis] / 2)
    kernels.append((3,) * len(spacing))
    divisor = tuple(math.prod(stride[axis] for stride in strides) for axis in axes)
    return Topology(
        strides=tuple(strides),
        kernels=tuple(kernels),
        divisor=divisor,
        patch_size=tuple(math.ceil(size[axis] / divisor[axis]) * divisor[axis] for axis in axes),
    )


def _axes_to_halve(spacing: Sequence[float], edge: Sequence[float]) -> list[int]:
    large = [axis for axis in range(len(edge)) if edge[axis] >= 2 * MIN_EDGE]
    if not large:
        return []
    finest = min(spacing[axis] for axis in large)
    alike = [axis for axis in large if spacing[axis] / finest < SPACING_FACTOR]
    if len(alike) == 1 and edge[alike[0]] < 3 * MIN_EDGE:
        return []  # one short axis alone is not worth a stage
    return alike
