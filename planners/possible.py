"""What makes the parts of a plan possible: network, training, scaling, options of targets. Checks never repair."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from planners.records import PlanError

if TYPE_CHECKING:
    from planners.plan import Architecture, SizeScaling, Training


def check_architecture(network: "Architecture", place: str) -> None:
    """Check what makes a network possible; ``place`` is where its record stands in the plan.

    Raises:
        PlanError: it is none.
    """
    if not network.stages:
        raise PlanError(f"{place}.stages is empty")
    if len(network.num_decoder_blocks) != len(network.stages) - 1:
        raise PlanError(f"{place}.num_decoder_blocks needs {len(network.stages) - 1} entries")
    if not 1 <= len(network.outputs) <= max(1, len(network.stages) - 1):
        raise PlanError(f"{place}.outputs has {len(network.outputs)} entries; needs one, at most one per decoder stage")
    for index, stage in enumerate(network.stages):
        if len(stage.stride) != network.dimensions or len(stage.kernel) != network.dimensions:
            raise PlanError(f"{place}.stages[{index}] needs a stride and a kernel of {network.dimensions} entries")
        if min(*stage.stride, *stage.kernel, stage.features, stage.num_blocks) < 1:
            raise PlanError(f"{place}.stages[{index}] holds a number below 1")
        if any(edge % 2 == 0 for edge in stage.kernel):
            raise PlanError(f"{place}.stages[{index}].kernel is {list(stage.kernel)}; possible are odd sizes: 1, 3, 5")
    if max(network.stages[0].stride) > 1:
        raise PlanError(
            f"{place}.stages[0].stride is {list(network.stages[0].stride)}; the first stage keeps the size: 1"
        )


def check_training(training: "Training", dimensions: int, place: str) -> None:
    """Check what makes a training possible; ``place`` is where its record stands in the plan.

    Raises:
        PlanError: it is none.
    """
    for name in ("epochs", "steps_per_epoch", "validation_steps"):
        if getattr(training, name) < 1:
            raise PlanError(f"{place}.{name} is {getattr(training, name)}; must be at least 1")
    if not 0 <= training.foreground_fraction <= 1:
        raise PlanError(f"{place}.foreground_fraction is {training.foreground_fraction}; must be between 0 and 1")
    for name in ("learning_rate", "weight_decay", "warm_up", "gradient_clip", "momentum_spans"):
        if getattr(training, name) < 0:
            raise PlanError(f"{place}.{name} is {getattr(training, name)}; must not be negative")
    if not 0 <= training.momentum < 1:
        raise PlanError(f"{place}.momentum is {training.momentum}; must be at least 0 and below 1")
    _check_mirroring(training, dimensions, place)
    if training.patience is not None and training.patience < 1:
        raise PlanError(f"{place}.patience is {training.patience}; must be at least 1, or null")


def check_scaling(scaling: "SizeScaling", place: str) -> None:
    """Check what makes a scaling to a common diameter possible; ``place`` is where its record stands in the plan.

    Raises:
        PlanError: it is none.
    """
    for name in ("diameter_mm", "least", "most"):
        if not is_above_zero(getattr(scaling, name)):
            raise PlanError(f"{place}.{name} is {getattr(scaling, name)}; must be a number above 0")
    if scaling.least > scaling.most:
        raise PlanError(f"{place}.least is {scaling.least}, above {place}.most ({scaling.most})")
    if not scaling.weights or not all(math.isfinite(weight) for weight in scaling.weights):
        raise PlanError(f"{place}.weights is {list(scaling.weights)}; needs a constant and a number per size feature")


def check_options(options: Mapping[str, Any], dimensions: int, place: str) -> None:
    """Check the values of what targets of objects may be told; which of it a target knows, it says itself.

    Args:
        options: of the target.
        dimensions: 2 or 3.
        place: how an option is called in a message, with ``{}`` for its name.

    Raises:
        PlanError: a value is impossible.
    """
    for name in ("diameter", "width", "weight"):
        if not is_above_zero(options.get(name, 1)):
            raise PlanError(f"{place.format(name)} is {options[name]!r}; give a number above 0")
    spacing = options.get("spacing", [1] * dimensions)
    if not isinstance(spacing, list | tuple) or len(spacing) != dimensions or not all(map(is_above_zero, spacing)):
        raise PlanError(f"{place.format('spacing')} is {spacing!r}; give {dimensions} numbers above 0")
    if not isinstance(options.get("dense", False), bool):
        raise PlanError(f"{place.format('dense')} is {options['dense']!r}; give true or false")
    decode = options.get("decode", {})
    if not isinstance(decode, Mapping):
        raise PlanError(f'{place.format("decode")} is {decode!r}; give settings by name, like {{"smallest": 20}}')
    for name, value in decode.items():
        if not is_number(value):
            raise PlanError(f"{place.format(f'decode.{name}')} is {value!r}; give a number")


def is_number(value: Any) -> bool:
    """Tell whether a value of a plan is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_above_zero(value: Any) -> bool:
    """Tell whether a value of a plan is a finite number above 0."""
    return is_number(value) and value > 0


def _check_mirroring(training: "Training", dimensions: int, place: str) -> None:
    if not set(training.mirror_axes) <= set(range(dimensions)):
        raise PlanError(f"{place}.mirror_axes is {list(training.mirror_axes)}; possible are {list(range(dimensions))}")
    if (training.mirror_swap_axis is None) == bool(training.mirror_swaps):
        raise PlanError(f"{place}.mirror_swaps and mirror_swap_axis go together: give both or neither")
    if training.mirror_swap_axis is not None and training.mirror_swap_axis not in training.mirror_axes:
        raise PlanError(
            f"{place}.mirror_swap_axis is {training.mirror_swap_axis}; possible: {list(training.mirror_axes)}"
        )
