"""Presets: the numbers in which U-Net planners differ, and the network that follows from them."""

import functools
import math
from dataclasses import dataclass
from itertools import accumulate

from planners.decision import axis_names, times
from planners.network_size import PLAIN_UNET, RESIDUAL_ENCODER_UNET
from planners.plan import GIGABYTE, Architecture, Output, Reason, Stage
from planners.topology import MIN_EDGE, Topology


@dataclass(frozen=True, kw_only=True)
class Scale:
    """What a preset does in 2D or in 3D.

    Attributes:
        reference_elements: feature-map elements of one patch that fit the preset's reference memory …
        reference_batch: … at this batch size.
        shrink_batch: batch size that must fit before the patch is left as it is: in 2D the default planner rather
            shrinks the batch to 2, the others the patch.
        max_features: widest feature map.
    """

    reference_elements: int
    reference_batch: int
    shrink_batch: int
    max_features: int


@dataclass(frozen=True, kw_only=True)
class Preset:
    """The numbers of one planner.

    Attributes:
        name: as in ``planners.PLANNERS``.
        family: as in ``networks.NETWORKS``.
        plane, volume: what it does in 2D and in 3D.
        reference_bytes: device memory that the reference elements belong to.
        base_features: width of the first stage; it doubles with every stage.
        encoder_blocks: per stage (convolutions, or residual blocks); the last entry holds for all deeper ones.
        decoder_blocks: convolutions of every decoder stage.
        max_dataset_fraction: a batch may hold at most this part of the dataset's voxels.
        min_batch: smallest batch.
    """

    name: str
    family: str
    plane: Scale
    volume: Scale
    reference_bytes: int
    base_features: int
    encoder_blocks: tuple[int, ...]
    decoder_blocks: int
    max_dataset_fraction: float
    min_batch: int

    def scale(self, dimensions: int) -> Scale:
        """The numbers for 2 or 3 dimensions."""
        return self.plane if dimensions == 2 else self.volume

    def element_budget(self, dimensions: int, device_bytes: int) -> float:
        """Feature-map elements of one patch that so much memory allows at the reference batch size."""
        share = (device_bytes / GIGABYTE) / (self.reference_bytes / GIGABYTE)
        return self.scale(dimensions).reference_elements * share

    def least_bytes(self, dimensions: int, elements: float) -> int:
        """The smallest whole number of bytes whose element budget reaches ``elements``."""
        least = math.floor(elements / self.scale(dimensions).reference_elements * self.reference_bytes)
        while self.element_budget(dimensions, least) < elements:
            least += 1
        return least


DEFAULT = Preset(
    name="default",
    family=PLAIN_UNET,
    plane=Scale(reference_elements=85_000_000, reference_batch=12, shrink_batch=2, max_features=512),
    volume=Scale(reference_elements=560_000_000, reference_batch=2, shrink_batch=2, max_features=320),
    reference_bytes=8 * GIGABYTE,
    base_features=32,
    encoder_blocks=(2,),
    decoder_blocks=2,
    max_dataset_fraction=0.05,
    min_batch=2,
)
"""The plain U-Net. Source of all numbers: nnU-Net v2.8.1, ``ExperimentPlanner``."""


def _residual(name: str, gigabytes: int, volume_elements: int, plane_elements: int) -> Preset:
    """Give a residual-encoder preset; they differ in the memory they are made for."""
    return Preset(
        name=name,
        family=RESIDUAL_ENCODER_UNET,
        plane=Scale(reference_elements=plane_elements, reference_batch=12, shrink_batch=12, max_features=512),
        volume=Scale(reference_elements=volume_elements, reference_batch=2, shrink_batch=2, max_features=320),
        reference_bytes=gigabytes * GIGABYTE,
        base_features=32,
        encoder_blocks=(1, 3, 4, 6),
        decoder_blocks=1,
        max_dataset_fraction=1.0,
        min_batch=2,
    )


RESENC_M = _residual("resenc-m", 8, 680_000_000, 135_000_000)
RESENC_L = _residual("resenc-l", 24, 2_100_000_000, 380_000_000)
RESENC_XL = _residual("resenc-xl", 40, 3_600_000_000, 560_000_000)
"""Residual-encoder U-Nets for 8, 24, 40 GB. Source of all numbers: Isensee et al. 2024, *nnU-Net Revisited* (MICCAI),
in nnU-Net v2.8.1 ``nnUNetPlannerResEncM``, ``L``, ``XL``. At an equal budget they differ by a few percent."""

PRESETS = (DEFAULT, RESENC_M, RESENC_L, RESENC_XL)
"""All presets, as ``planners.PLANNERS`` names them."""


def build_architecture(preset: Preset, topology: Topology) -> Architecture:
    """Make the network of a topology."""
    return _build(preset, topology.strides, topology.kernels)


def explain_architecture(preset: Preset, topology: Topology, place: str) -> tuple[Reason, ...]:
    """Say why the network of a topology is as it is.

    Args:
        preset: as it was built with.
        topology: as it was built from.
        place: where the architecture stands in the plan.
    """
    widest = preset.scale(len(topology.divisor)).max_features
    blocks, decoder_blocks = "convolutions per encoder stage", "convolutions per decoder stage"
    if preset.family == RESIDUAL_ENCODER_UNET:
        blocks = "residual blocks of two convolutions per encoder stage, after a stem of one"
    outputs = "halved from output to output, the coarsest 0; together 1"
    if len(topology.strides) == 2:
        outputs = "two stages have one decoder output, which carries the whole loss"
    because = (
        ("family", "preset", f"the network of the {preset.name} planner"),
        ("stages.stride", "halve-while-alike", _why_strides(topology)),
        ("stages.kernel", "kernel-when-alike", _why_kernels(topology)),
        ("stages.features", "double-features", f"{preset.base_features}, doubled at every stage up to {widest}"),
        ("stages.num_blocks", "preset", blocks),
        ("num_decoder_blocks", "preset", decoder_blocks),
        ("outputs", "halve-loss-weights", outputs),
    )
    return tuple(Reason(about=f"{place}.{field}", rule=rule, because=text) for field, rule, text in because)


@functools.lru_cache(maxsize=256)  # the search for a patch asks for few networks, many times
def _build(preset: Preset, strides: tuple[tuple[int, ...], ...], kernels: tuple[tuple[int, ...], ...]) -> Architecture:
    widest = preset.scale(len(strides[0])).max_features
    stages = tuple(
        Stage(
            features=min(widest, preset.base_features * 2**index),
            kernel=kernel,
            stride=stride,
            num_blocks=preset.encoder_blocks[min(index, len(preset.encoder_blocks) - 1)],
        )
        for index, (stride, kernel) in enumerate(zip(strides, kernels, strict=True))
    )
    return Architecture(
        family=preset.family,
        dimensions=len(strides[0]),
        stages=stages,
        num_decoder_blocks=(preset.decoder_blocks,) * (len(stages) - 1),
        outputs=supervise(strides),
    )


def supervise(strides: tuple[tuple[int, ...], ...]) -> tuple[Output, ...]:
    """One output per decoder stage (or for a single stage), the finest first; strides are counted from the patch."""
    weights = [0.5**index for index in range(max(len(strides) - 1, 1))]
    if len(weights) > 1:
        weights[-1] = 0.0  # a single output keeps its weight: nnU-Net v2.8.1 divides 0 by 0 there
    total = accumulate(strides, lambda before, stride: tuple(a * b for a, b in zip(before, stride, strict=True)))
    return tuple(
        Output(stride=stride, loss_weight=weight / sum(weights)) for stride, weight in zip(total, weights, strict=False)
    )


def _why_strides(topology: Topology) -> str:
    deepest = [size // divisor for size, divisor in zip(topology.patch_size, topology.divisor, strict=True)]
    exceptions = ""
    for axis, name in enumerate(axis_names(len(deepest))):
        halved = [str(index + 1) for index, stride in enumerate(topology.strides) if stride[axis] == 2]
        if len(halved) < len(topology.strides) - 1:
            exceptions += f"; {name} at stages {', '.join(halved)} only" if halved else f"; {name} never"
    alike = " and its spacing is under twice the smallest" if exceptions else ""
    return f"halved while an edge keeps {MIN_EDGE} voxels{alike} (deepest: {times(deepest)}){exceptions}"


def _why_kernels(topology: Topology) -> str:
    flat = [sum(kernel[axis] == 1 for kernel in topology.kernels) for axis in range(len(topology.divisor))]
    if not any(flat):
        return "3 everywhere: no spacing is twice the smallest"
    names = axis_names(len(flat))
    parts = [f"{names[axis]} in the first {count}" for axis, count in enumerate(flat) if count]
    return f"1 along {' and '.join(parts)} stages, while its spacing is twice the smallest or more; else 3"
