"""How large: the largest patch whose network fits the budget, and the batch that fills it.

Source: nnU-Net (Isensee et al. 2021, supplementary note 2); the steps are those of nnU-Net v2.8.1.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from planners.decision import Decision, axis_names, percent, quantity, times
from planners.geometry import first_patch
from planners.network_size import encoder_maps, feature_map_elements
from planners.plan import Architecture, MemoryBudget
from planners.presets import Preset, build_architecture
from planners.records import PlanError
from planners.topology import MIN_EDGE, Topology, topology


class MisfitError(PlanError):
    """No patch fits. ``least_bytes`` is the smallest budget that would do, or None where no budget helps."""

    def __init__(self, message: str, least_bytes: int | None) -> None:
        super().__init__(message)
        self.least_bytes = least_bytes


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What patch and batch must keep to.

    Attributes:
        preset: the network's numbers.
        budget: memory there is.
        num_labels: entries of the label table, which nnU-Net's measure takes for the number of outputs.
    """

    preset: Preset
    budget: MemoryBudget
    num_labels: int

    def allowed(self, dimensions: int) -> float:
        """Feature-map elements of one patch that the budget allows at the preset's reference batch size."""
        return self.preset.element_budget(dimensions, self.budget.device_bytes)

    def needed(self, elements: int, dimensions: int) -> float:
        """The same measure for a network with so many elements per patch, at the smallest batch that must fit."""
        scale = self.preset.scale(dimensions)
        return elements / scale.reference_batch * scale.shrink_batch


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A patch and its network.

    Attributes:
        topology: with the patch size.
        architecture: the network.
        elements: feature-map elements of one patch.
        shrunk: the axis of every shrinking step that led here.
        first: size the search began with, before padding.
    """

    topology: Topology
    architecture: Architecture
    elements: int
    shrunk: tuple[int, ...]
    first: tuple[float, ...]

    @property
    def patch_size(self) -> tuple[int, ...]:
        """Voxels of the patch."""
        return self.topology.patch_size

    @property
    def dimensions(self) -> int:
        """2 or 3."""
        return len(self.patch_size)


def candidates(limits: Limits, spacing_mm: Sequence[float], median_shape: Sequence[float]) -> Iterator[Fit]:
    """Give ever smaller patches, beginning with the first one, while the network has a decoder.

    Each step shortens the axis that is longest against the median shape (the last of equals) by what the patch must
    be divisible by after the step. An axis of one voxel is passed over.

    Args:
        limits: whose preset and labels count; the budget does not.
        spacing_mm: target spacing, two or three entries.
        median_shape: at that spacing, as many entries.
    """
    first = first_patch(spacing_mm, median_shape)
    found, shrunk = topology(spacing_mm, first), tuple[int, ...]()
    seen: set[tuple[int, ...]] = set()
    while len(found.strides) > 1 and found.patch_size not in seen:
        seen.add(found.patch_size)
        architecture = build_architecture(limits.preset, found)
        elements = feature_map_elements(architecture, found.patch_size, limits.num_labels)
        yield Fit(topology=found, architecture=architecture, elements=elements, shrunk=shrunk, first=first)
        step = shorten_longest(spacing_mm, median_shape, found)
        if step is None:
            return
        shrunk, found = (*shrunk, step[0]), step[1]


def fit_patch(limits: Limits, spacing_mm: Sequence[float], median_shape: Sequence[float]) -> Fit:
    """Find the largest patch whose network fits the budget. Arguments as for :func:`candidates`.

    Raises:
        MisfitError: the images are too small for a network of two stages, or no patch fits the budget.
    """
    dimensions, least = len(spacing_mm), math.inf
    for fit in candidates(limits, spacing_mm, median_shape):
        needed = limits.needed(fit.elements, dimensions)
        if needed <= limits.allowed(dimensions):
            return fit
        least = min(least, needed)
    if math.isinf(least):
        raise MisfitError(
            f"the median shape {times(median_shape)} is too small for a network of two stages, which takes "
            f"{2 * MIN_EDGE} voxels along two axes of like spacing or {3 * MIN_EDGE} along one",
            None,
        )
    least_bytes = limits.preset.least_bytes(dimensions, least)
    raise MisfitError(f"its smallest network needs a budget of {least_bytes:,} bytes", least_bytes)


def most_voxels(limits: Limits, dimensions: int) -> float:
    """Give an upper bound of the voxels of any patch that fits: those whose finest maps alone would fill the budget."""
    edge = 2 * MIN_EDGE  # two stages; the finest is the same in all networks of a preset
    network = build_architecture(limits.preset, topology((1.0,) * dimensions, (edge,) * dimensions))
    maps = encoder_maps(network)[0] + 1 + network.num_decoder_blocks[0]
    scale, finest = limits.preset.scale(dimensions), maps * network.stages[0].features + limits.num_labels
    return limits.allowed(dimensions) / scale.shrink_batch * scale.reference_batch / finest


def explain_patch(fit: Fit, limits: Limits) -> Decision[tuple[int, ...]]:
    """Word how a patch came about."""
    scale = limits.preset.scale(fit.dimensions)
    needed, allowed = limits.needed(fit.elements, fit.dimensions), limits.allowed(fit.dimensions)
    sums = f"{scale.shrink_batch} patches: {quantity(needed)} of {quantity(allowed)} elements"
    padded = f"up to multiples of {times(fit.topology.divisor)}"
    if not fit.shrunk:
        because = f"{times(fit.first)}, {padded}; {sums}"
        return Decision(value=fit.patch_size, rule="first-patch-fits", because=because)
    names = axis_names(fit.dimensions)
    counts = ", ".join(f"{names[axis]} {fit.shrunk.count(axis)}×" for axis in sorted(set(fit.shrunk)))
    because = (
        f"from {times(fit.first)}, {padded}; shortened {counts}, always the axis longest against the median shape; "
        f"{sums}"
    )
    return Decision(value=fit.patch_size, rule="shorten-longest-axis", because=because)


def choose_batch_size(fit: Fit, limits: Limits, dataset_voxels: float) -> Decision[int]:
    """Fill the budget with patches, but let no batch hold too much of the dataset.

    Args:
        fit: patch and network.
        limits: budget and reference numbers.
        dataset_voxels: voxels of the median case times number of training cases (of whole volumes also in 2D).
    """
    preset, allowed = limits.preset, limits.allowed(fit.dimensions)
    reference = preset.scale(fit.dimensions).reference_batch
    fills = round(allowed / fit.elements * reference)
    cap = round(dataset_voxels * preset.max_dataset_fraction / math.prod(fit.patch_size))
    part = f"{percent(preset.max_dataset_fraction)} of the dataset's {quantity(dataset_voxels)} voxels"
    if min(fills, cap) <= preset.min_batch:
        short = f"memory holds {fills}" if fills <= cap else f"{part} are {cap} patch{'es' * (cap != 1)}"
        return Decision(value=preset.min_batch, rule="minimum-batch", because=f"the minimum; {short}")
    if cap < fills:
        return Decision(value=cap, rule="dataset-fraction", because=f"{part}; memory holds {fills}")
    because = f"memory: {quantity(allowed)} elements / {quantity(fit.elements)} per patch × {reference}"
    return Decision(value=fills, rule="fill-budget", because=because)


def shorten_longest(
    spacing_mm: Sequence[float], median_shape: Sequence[float], found: Topology
) -> tuple[int, Topology] | None:
    """Take one step: the axis that gave way and what is left; None where no axis can be shortened.

    Args:
        spacing_mm: target spacing, two or three entries.
        median_shape: at that spacing, as many entries.
        found: the patch, with what it must be divisible by.
    """
    patch = found.patch_size
    relative = [size / median for size, median in zip(patch, median_shape, strict=True)]
    for axis in sorted(range(len(patch)), key=lambda axis: (relative[axis], axis), reverse=True):
        step = found.divisor[axis]
        trial = topology(spacing_mm, _shorten(patch, axis, step))
        if trial.divisor[axis] != step:
            step = trial.divisor[axis]
            trial = topology(spacing_mm, _shorten(patch, axis, step))
        if patch[axis] > step:
            return axis, trial
    return None


def _shorten(patch: Sequence[int], axis: int, by: int) -> tuple[int, ...]:
    return tuple(size - by if index == axis else size for index, size in enumerate(patch))
