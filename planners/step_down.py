"""One step down: what to give up where a training step does not fit the device after all.

The order: the batch down to two patches, then the patch, and a batch of one last. A smaller batch keeps the network, so
a training goes on with its weights; a smaller patch takes context away and often changes the network; with a batch of
one no patch can be kept for foreground and one for the rest, and every gradient is that of a single patch. Two is what
nnU-Net's planner never goes below.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from planners.decision import byte_size, times
from planners.fitting import shorten_longest
from planners.memory import configuration_bytes, explain_bytes
from planners.network_size import FAMILIES
from planners.plan import Architecture, Configuration, Plan, Reason, Stage
from planners.presets import DEFAULT, build_architecture
from planners.records import PlanError
from planners.topology import Topology

RULE = "out-of-memory"

USUAL_LEAST_BATCH = 2
"""The smallest batch of nnU-Net's planners."""

BATCH_PART = 8
"""A step takes this part of the batch, at least one patch. Assumption: a batch that just does not fit loses little, and
ten steps take one of 60 to 14."""


def step_down(plan: Plan, name: str, because: str = "the device ran out of memory") -> Plan:
    """Make one configuration smaller by one step; everything else stays.

    Args:
        plan: stays as it is.
        name: of the configuration.
        because: what happened, for the reason.

    Returns:
        The changed plan; it is predicted to take fewer bytes. Reasons of rule ``out-of-memory`` say what changed.

    Raises:
        PlanError: nothing is left to give up; the message names the least that was tried.
    """
    item = plan.configuration(name)
    if item.batch_size > USUAL_LEAST_BATCH:
        batch_size = max(item.batch_size - math.ceil(item.batch_size / BATCH_PART), USUAL_LEAST_BATCH)
        return _with_batch_size(plan, item, batch_size, because)
    smaller = _smaller_patch(item)
    if smaller is not None:
        return _with_patch(plan, item, smaller, because)
    if item.batch_size > 1:
        return _with_batch_size(plan, item, 1, because)
    raise PlanError(
        f"{name} does not fit: {because} even with one patch of {times(item.patch_size)} voxels at a time, the least "
        f"that is possible (predicted: {byte_size(item.estimated_bytes)}). Stop other programs on the device, use one "
        "with more memory, or train with --device cpu"
    )


def _with_batch_size(plan: Plan, item: Configuration, batch_size: int, because: str) -> Plan:
    reason = Reason(about=f"{item.name}.batch_size", rule=RULE, because=f"{because} with {item.batch_size}")
    return _put(plan, replace(item, batch_size=batch_size), reason)


def _with_patch(plan: Plan, item: Configuration, smaller: Configuration, because: str) -> Plan:
    place = item.name
    former = f"{because} with {times(item.patch_size)}, batch size {item.batch_size}"
    reasons = [Reason(about=f"{place}.patch_size", rule=RULE, because=former)]
    if smaller.architecture != item.architecture:
        again = "found again for the smaller patch"
        fields = ("stages.stride", "stages.kernel", "stages.features", "stages.num_blocks", "outputs")
        reasons += [Reason(about=f"{place}.architecture.{field}", rule=RULE, because=again) for field in fields]
    return _put(plan, smaller, *reasons)


def _put(plan: Plan, changed: Configuration, *reasons: Reason) -> Plan:
    """Put a configuration in its place, with new bytes; the latest step of each value is the one whose reason stays."""
    step = configuration_bytes(changed) if changed.architecture.family in FAMILIES else None
    about = f"{changed.name}.estimated_bytes"
    if step is not None:
        changed = replace(changed, estimated_bytes=step.total)
        decision = explain_bytes(step, plan.budget)
        reasons = (*reasons, Reason(about=about, rule=decision.rule, because=decision.because))
    replaced = {(reason.about, reason.rule) for reason in reasons}
    kept = tuple(reason for reason in plan.reasons if (reason.about, reason.rule) not in replaced)
    configurations = tuple(changed if item.name == changed.name else item for item in plan.configurations)
    return replace(plan, configurations=configurations, reasons=(*kept, *reasons))


def _smaller_patch(item: Configuration) -> Configuration | None:
    """Shorten the patch by the planner's own rule until it is predicted to take less; None where it cannot."""
    if item.architecture.family not in FAMILIES:
        return None
    now = configuration_bytes(item).total
    for found in _shorter(item):
        output_size = found.patch_size if item.output_size == item.patch_size else item.output_size
        network = continue_network(item.architecture, found)
        smaller = replace(item, patch_size=found.patch_size, output_size=output_size, architecture=network)
        if configuration_bytes(smaller).total < now:
            return smaller
    return None


def _shorter(item: Configuration) -> Iterator[Topology]:
    """Give ever smaller patches with their strides and kernels, while the network has a decoder."""
    found, seen = topology_of(item), {item.patch_size}
    while True:
        step = shorten_longest(item.spacing_mm, item.median_shape, found)
        if step is None:
            return
        found = step[1]
        if len(found.strides) < 2 or found.patch_size in seen:
            return
        seen.add(found.patch_size)
        yield found


def topology_of(item: Configuration) -> Topology:
    """Read strides, kernels and patch off a configuration."""
    strides = tuple(stage.stride for stage in item.architecture.stages)
    divisor = tuple(math.prod(stride[axis] for stride in strides) for axis in range(item.dimensions))
    kernels = tuple(stage.kernel for stage in item.architecture.stages)
    return Topology(strides=strides, kernels=kernels, divisor=divisor, patch_size=item.patch_size)


def continue_network(former: Architecture, found: Topology) -> Architecture:
    """Build the network of a topology with the widths and blocks that a former one has at the same stages.

    A stage beyond the former network's last goes on as its last two do: doubled, or wide enough already.
    """
    skeleton = build_architecture(DEFAULT, found)
    stages = tuple(
        replace(stage, features=_features(former.stages, index), num_blocks=_at(former.stages, index).num_blocks)
        for index, stage in enumerate(skeleton.stages)
    )
    decoder = former.num_decoder_blocks
    blocks = tuple(decoder[min(index, len(decoder) - 1)] if decoder else 1 for index in range(len(stages) - 1))
    outputs = skeleton.outputs if len(former.outputs) > 1 else skeleton.outputs[:1]
    if len(outputs) == 1:
        outputs = (replace(outputs[0], loss_weight=1.0),)
    return replace(former, stages=stages, num_decoder_blocks=blocks, outputs=outputs)


def _features(stages: Sequence[Stage], index: int) -> int:
    if index < len(stages):
        return stages[index].features
    widest = DEFAULT.scale(len(stages[0].stride)).max_features
    doubled = len(stages) > 1 and stages[-1].features == 2 * stages[-2].features
    return min(stages[-1].features * 2, widest) if doubled else stages[-1].features


def _at(stages: Sequence[Stage], index: int) -> Stage:
    return stages[min(index, len(stages) - 1)]
