"""The plan as text: every value with its reason beside it."""

import functools
import json
import math
import re
import textwrap
from collections.abc import Callable, Sequence
from itertools import groupby, zip_longest
from typing import Any

from planners.decision import AXES, axis_names, byte_size, millimetres, times
from planners.plan import Configuration, Plan
from planners.records import to_json

WIDTH = 110
"""Columns of the whole text."""

TITLE_WIDTH, VALUE_WIDTH = 16, 26
"""Columns of a row's title and of its value; the reason has the rest. Assumption."""

CHANGES = ("user", "out-of-memory", "time-budget", "carried-changed", "fine-tuning")
"""Rules of reasons that tell of a change to a finished plan."""

ORIGINS = (
    ("plan", "plan.json"),
    ("channels", "channels"),
    ("labels", "labels"),
    ("objects", "labels.instance_classes"),
    ("budget", "budget"),
)
"""What a plan was carried or put together from, and what was measured of objects: title and place of the reasons. A
plan of classes that was made here has none."""


def describe(plan: Plan) -> str:
    """Word a plan: per configuration one row per decision, value and reason side by side.

    Returns:
        Lines of at most :data:`WIDTH` columns, without a newline at the end.
    """
    lines = [
        *textwrap.wrap(_headline(plan), WIDTH, subsequent_indent="  "),
        *(line for title, about in ORIGINS for line in _origin(plan, title, about)),
        *_row("axis order", ", ".join(AXES[axis] for axis in plan.axis_order), _because(plan, "axis_order")),
        *_row("configurations", ", ".join(c.name for c in plan.configurations), _because(plan, "configurations")),
    ]
    for configuration in plan.configurations:
        lines += ["", *_describe_configuration(plan, configuration)]
    return "\n".join(lines)


def _origin(plan: Plan, title: str, about: str) -> list[str]:
    """Word where a plan comes from: as wide as a value and its reason together."""
    text = "; ".join(reason.because for reason in plan.reasons if reason.about == about)
    rows = zip_longest([title] if text else [], _wrap(text, WIDTH - 2 - TITLE_WIDTH), fillvalue="")
    return [f"  {left:<{TITLE_WIDTH}}{right}".rstrip() for left, right in rows]


def _headline(plan: Plan) -> str:
    channels, classes = ", ".join(channel.name for channel in plan.channels), ", ".join(plan.labels.names)
    ignored = "" if plan.labels.ignore is None else f", {plan.labels.ignore} ignored"
    return (
        f"{plan.dataset}: {plan.planner} planner for {byte_size(plan.budget.device_bytes)}; channels {channels}; "
        f"classes {classes}{ignored}"
    )


def _describe_configuration(plan: Plan, configuration: Configuration) -> list[str]:
    name, like = configuration.name, _described_before(plan, configuration)
    used, budget = byte_size(configuration.estimated_bytes), byte_size(plan.budget.device_bytes)
    used = f"about {used.removesuffix(budget[-3:])} of {budget}"
    lines = [f"{name:<{2 + TITLE_WIDTH + VALUE_WIDTH}}{used}"]
    rows = ROWS if configuration.previous is None else (INPUTS, *ROWS)
    if plan.labels.instance_classes:
        rows = tuple(row for one in ROWS for row in (object_rows(configuration) if one == TARGET else [one]))
    if _mirrors_with_care(configuration):
        rows = (*rows, MIRRORING)
    if like is not None:
        rows = tuple(row for row in rows if row[2](configuration) != row[2](like))
    for title, field, word in rows:
        lines += _row(title, word(configuration), _because(plan, f"{name}.{field}"))
    needed, _, parts = _because(plan, f"{name}.host_bytes").partition(": ")
    lines += _row("main memory", needed, parts) if needed and (like is None or configuration.previous) else []
    if like is not None:
        lines += _row("all else", f"as {like.name}", _because(plan, f"{name}.previous"))
    shown = {f"{name}.{field}" for _, field, _ in rows}
    for about in dict.fromkeys(reason.about for reason in plan.reasons if reason.rule in CHANGES):
        if about.startswith(f"{name}.") and about not in shown:
            lines += _change(about.removeprefix(f"{name}."), configuration, _because(plan, about))
    return lines


def _described_before(plan: Plan, configuration: Configuration) -> Configuration | None:
    """Find the configuration that another is described against; None where there is none.

    A cascade's second stage is described against the first on its grid; one that finds objects, against the first of
    those with the same network on the same grid.
    """
    if plan.labels.instance_classes:
        grid = (configuration.spacing_mm, configuration.architecture)
        first = next(c for c in plan.configurations if (c.spacing_mm, c.architecture) == grid)
        return None if first is configuration else first
    if configuration.previous is None:
        return None
    alike = (c for c in plan.configurations if c.previous is None and c.spacing_mm == configuration.spacing_mm)
    return next(alike, None)


def _row(title: str, value: str, because: str) -> list[str]:
    values = _wrap(value, VALUE_WIDTH - 2)
    reasons = _wrap(because, WIDTH - 2 - TITLE_WIDTH - VALUE_WIDTH)
    rows = zip_longest([title], values, reasons, fillvalue="")
    return [f"  {left:<{TITLE_WIDTH}}{middle:<{VALUE_WIDTH}}{right}".rstrip() for left, middle, right in rows]


def _change(field: str, configuration: Configuration, because: str) -> list[str]:
    value: Any = to_json(configuration)
    for step in field.split("."):
        value = value[int(step)] if isinstance(value, list) else value[step]
    indent = " " * (2 + TITLE_WIDTH)
    text = f"{field} = {json.dumps(value)}: {because}"
    return textwrap.wrap(text, WIDTH, initial_indent=f"  {'changed':<{TITLE_WIDTH}}", subsequent_indent=indent)


def _wrap(text: str, width: int) -> list[str]:
    """Break into lines, but not within ``40 × 56 × 40`` or between a number and its unit."""
    glued = re.sub(r"(?<=\d) (?=[×%<>≥≤MGk]|mm\b)|(?<=[×<>≥≤]) (?=\d)", "\N{NO-BREAK SPACE}", text)
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in textwrap.wrap(glued, width)]


def _because(plan: Plan, about: str) -> str:
    """The reasons of one value: that of its last change, or those it was planned with."""
    found = [reason for reason in plan.reasons if reason.about == about]
    changes = [reason for reason in found if reason.rule in CHANGES]
    return "; ".join(reason.because for reason in changes[-1:] or found)


def _runs(values: Sequence[object]) -> str:
    """Word a list, equal neighbours once: ``32 64 128 256 512 ×4``."""
    parts = [(value, len(list(group))) for value, group in groupby(values)]
    return " ".join(f"{value}" if count == 1 else f"{value} ×{count}" for value, count in parts)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _word_tuples(tuples: Sequence[tuple[int, ...]]) -> str:
    return _runs([",".join(str(item) for item in entry) for entry in tuples])


def _word_inputs(configuration: Configuration) -> str:
    return ", ".join(part.name for part in configuration.inputs)


def _word_stages(configuration: Configuration) -> str:
    stages = configuration.architecture.stages
    return f"{len(stages)}: {_word_tuples([stage.stride for stage in stages])}"


def _word_blocks(configuration: Configuration) -> str:
    network = configuration.architecture
    return f"{_runs([stage.num_blocks for stage in network.stages])} down, {_runs(network.num_decoder_blocks)} up"


def _word_augmentation(configuration: Configuration) -> str:
    augmentation = configuration.training.augmentation
    if not augmentation.enabled:
        return "off"
    plane = " in plane" if augmentation.in_plane else ""
    return f"turns ±{math.degrees(augmentation.rotation_radians):.0f}°{plane}"


def _mirrors_with_care(configuration: Configuration) -> bool:
    training = configuration.training
    return bool(training.mirror_swaps) or len(training.mirror_axes) < configuration.dimensions


def _word_mirroring(configuration: Configuration) -> str:
    training, names = configuration.training, axis_names(configuration.dimensions)
    swapped = "" if training.mirror_swap_axis is None else f"; {names[training.mirror_swap_axis]} exchanges sides"
    return (", ".join(names[axis] for axis in training.mirror_axes) or "off") + swapped


def object_rows(configuration: Configuration) -> list["Row"]:
    """List what is shown of a target that finds objects: its options, and the common size of the objects."""
    options = configuration.target.options
    rows: list[Row] = [("target", "target.name", lambda c: f"{c.target.name}, {_count(c.target.num_outputs, 'map')}")]
    for name in options:
        if name not in ("dimensions", "spacing", "decode"):
            rows.append((name, f"target.options.{name}", functools.partial(_word_option, name)))
    if "decode" in options:
        rows.append(("decoding", "target.options.decode.smallest", _word_decoding))
    rows.append(("common size", "scaling", _word_scaling))
    return rows


def _word_option(name: str, configuration: Configuration) -> str:
    value = configuration.target.options.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or name == "weight":
        return json.dumps(value)
    return f"{value:.3g} voxel{'s' * (value != 1)}"


def _word_decoding(configuration: Configuration) -> str:
    decode = configuration.target.options.get("decode", {})
    return ", ".join(f"{name} {value}" for name, value in decode.items())


def _word_scaling(configuration: Configuration) -> str:
    scaling = configuration.scaling
    return "no" if scaling is None else f"{scaling.diameter_mm:.3g} mm, {scaling.least:.2g} to {scaling.most:.2g} times"


Row = tuple[str, str, Callable[[Configuration], str]]

INPUTS: Row = ("inputs", "inputs", _word_inputs)
"""Shown of a configuration that sees more than the image."""

MIRRORING: Row = ("mirroring", "training.mirror_axes", _word_mirroring)
"""Shown of a configuration that does not just mirror along every axis."""

TARGET: Row = ("target", "target.num_outputs", lambda c: c.target.name)

ROWS: tuple[Row, ...] = (
    ("spacing", "spacing_mm", lambda c: millimetres(c.spacing_mm)),
    ("median shape", "median_shape", lambda c: times(c.median_shape)),
    ("patch size", "patch_size", lambda c: times(c.patch_size)),
    ("batch size", "batch_size", lambda c: str(c.batch_size)),
    ("memory", "estimated_bytes", lambda c: byte_size(c.estimated_bytes)),
    ("network", "architecture.family", lambda c: c.architecture.family),
    ("stages", "architecture.stages.stride", _word_stages),
    ("kernels", "architecture.stages.kernel", lambda c: _word_tuples([s.kernel for s in c.architecture.stages])),
    ("features", "architecture.stages.features", lambda c: _runs([s.features for s in c.architecture.stages])),
    ("blocks", "architecture.stages.num_blocks", _word_blocks),
    ("outputs", "architecture.outputs", lambda c: _runs([f"{o.loss_weight:.2g}" for o in c.architecture.outputs])),
    TARGET,
    ("normalization", "normalization", lambda c: _runs(c.normalization)),
    ("statistics", "use_mask_for_norm", lambda c: "inside the mask" if any(c.use_mask_for_norm) else "whole image"),
    ("resampling", "resampling", lambda c: f"orders {c.resampling.image_order}, {c.resampling.label_order}"),
    ("augmentation", "training.augmentation.rotation_radians", _word_augmentation),
    ("Dice sums", "training.batch_dice", lambda c: "over the batch" if c.training.batch_dice else "per patch"),
    ("training", "training", lambda c: f"{c.training.epochs} × {c.training.steps_per_epoch} steps"),
    ("validation", "training.validation_steps", lambda c: _count(c.training.validation_steps, "step") + " per epoch"),
)
"""What is shown of a configuration: title, field whose reason stands beside it, wording. The rest is in the file."""
