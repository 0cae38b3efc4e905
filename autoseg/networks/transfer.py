"""Weights of a trained network as the start of another: matched by name, fitted where channels or classes differ."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import torch
from torch import Tensor

from autoseg.errors import ModelError
from autoseg.networks import build_network
from planners.decision import times
from planners.plan import Configuration, Plan

Key = tuple[str, str, int]
"""One channel: kind of input, name in lower case, and which of those with this name it is."""

SHOWN = 4
"""How many names a reason lists."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """What became of one group of parameters: a convolution with its norm, an upsampling, a head.

    Attributes:
        name: beginning of the parameters' names, such as ``encoder.0.1``.
        status: ``matched``: the source's numbers; ``adapted``: the source's, brought to other channels or classes;
            ``new``: drawn from the seed.
        because: what differs; empty where all matches.
    """

    name: str
    status: Literal["matched", "adapted", "new"]
    because: str = ""


def match_weights(
    weights: Mapping[str, Tensor], source: Plan, source_name: str, target: Plan, target_name: str
) -> tuple[dict[str, Tensor], tuple[Row, ...]]:
    """Make the start of a network out of the weights of another.

    Input channels are matched by name (those of a previous segmentation by class), heads by class or region. A channel
    that the source does not know gets the mean of the source's channels, and all are scaled by the ratio of their
    numbers, so that the response to the same image in every channel stays; a kind of input that the source does not
    have starts at zero, so that the network does what it did. A class that the source does not know, and whatever has
    another shape, is drawn from the target's seed.

    Args:
        weights: the source's, by parameter name.
        source, source_name: the plan and the configuration that the weights belong to.
        target, target_name: the plan and the configuration that is to be trained.

    Returns:
        The target's weights, complete, and one row per group of parameters in their order.

    Raises:
        ModelError: nothing of the source fits.
        PlanError: a plan has no configuration of that name.
    """
    given, wanted = source.configuration(source_name), target.configuration(target_name)
    outputs = wanted.target.num_outputs
    start = build_network(wanted.architecture, wanted.num_input_channels, outputs, wanted.training.seed).state_dict()
    channels = _channel_keys(source, given), _channel_keys(target, wanted)
    classes = _output_names(source, given), _output_names(target, wanted)
    entrance = next(name for name, value in start.items() if value.dim() > 2)
    rows = []
    for group, names in _groups(start).items():
        found = {name: weights[name] for name in names if name in weights}
        before = {name: start[name] for name in names}
        if len(found) < len(names):
            family = given.architecture.family
            other = f"; it is a {family}" if family != wanted.architecture.family else ""
            fitted, row = before, Row(name=group, status="new", because=f"the source has no such part{other}")
        elif group.startswith("heads."):
            fitted, row = _fit_head(group, found, before, classes)
        elif entrance in names:
            fitted, row = _fit_entrance(group, found, before, channels)
        else:
            fitted, row = _fit(group, found, before)
        start.update(fitted)
        rows.append(row)
    if all(row.status == "new" for row in rows):
        raise ModelError(
            f"nothing of {source_name} of {source.dataset} fits {target_name} of {target.dataset}: {rows[0].because}. "
            "Make the plan like the source's (autoseg plan DATASET --like RUN)"
        )
    return {name: value.float().contiguous() for name, value in start.items()}, tuple(rows)


def describe_match(rows: Sequence[Row]) -> str:
    """Word the rows of :func:`match_weights` as a short table: stages of equal fate on one line."""
    entries: list[tuple[str, str, str, str]] = []  # part, stage or what is within it, status, because
    for stage, members in groupby(rows, key=lambda row: row.name.split(".")[:2]):
        own = list(members)
        if len({(row.status, row.because) for row in own}) == 1:
            entries.append((stage[0], stage[1] if len(stage) > 1 else "", own[0].status, own[0].because))
        else:
            entries += [(stage[0], row.name.removeprefix(f"{stage[0]}."), row.status, row.because) for row in own]
    lines = []
    for (part, status, because), run in groupby(entries, key=lambda item: (item[0], item[2], item[3])):
        places = [item[1] for item in run]
        reach = places[0] if len(places) == 1 else f"{places[0]} – {places[-1]}"
        lines.append(f"  {part + ' ' + reach:<28} {status:<8} {because}".rstrip())
    return "\n".join(lines)


def _groups(start: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Parameters that belong together: a trained norm is worth nothing behind a new convolution."""
    groups: dict[str, list[str]] = {}
    for name in start:
        groups.setdefault(name.rsplit(".", 2)[0], []).append(name)
    return groups


def _fit(group: str, found: dict[str, Tensor], before: dict[str, Tensor]) -> tuple[dict[str, Tensor], Row]:
    for name, value in before.items():
        if found[name].shape != value.shape:
            return before, Row(name=group, status="new", because=_difference(found[name], value))
    return found, Row(name=group, status="matched")


def _fit_entrance(
    group: str, found: dict[str, Tensor], before: dict[str, Tensor], channels: tuple[list[Key], list[Key]]
) -> tuple[dict[str, Tensor], Row]:
    """Bring the first convolution, the one tensor here whose second dimension counts channels, to other channels."""
    entrance = next(name for name, value in before.items() if value.dim() > 2)
    weight, given, wanted = found[entrance], *channels
    if weight.shape[1] != len(given):
        raise ModelError(f"{entrance} takes {weight.shape[1]} channels, its plan names {len(given)}. Is it that plan?")
    columns = torch.stack([_column(weight, key, given, wanted) for key in wanted], dim=1)
    fitted, row = _fit(group, {**found, entrance: columns}, before)
    if row.status == "new" or given == wanted:
        return fitted, row
    return fitted, Row(name=group, status="adapted", because=_why_channels(given, wanted))


def _column(weight: Tensor, key: Key, given: list[Key], wanted: list[Key]) -> Tensor:
    """One channel's weights, (outputs, [kz,] ky, kx)."""
    alike = [index for index, other in enumerate(given) if other[0] == key[0]]
    if not alike:
        return torch.zeros_like(weight[:, 0])
    column = weight[:, given.index(key)] if key in given else weight[:, alike].mean(1)
    same_kind = [other for other in wanted if other[0] == key[0]]
    return column if set(same_kind) <= set(given) else column * (len(alike) / len(same_kind))


def _why_channels(given: list[Key], wanted: list[Key]) -> str:
    kinds = {key[0] for key in given}
    known = [key[1] for key in wanted if key in given]
    mean = [key[1] for key in wanted if key not in given and key[0] in kinds]
    zero = [key[1] for key in wanted if key[0] not in kinds]
    left = [key[1] for key in given if key not in wanted]
    parts = (
        (known, "as in the source"),
        (mean, "from the mean of its channels"),
        (zero, "from zero"),
        (left, "unused"),
    )
    return "; ".join(f"{_list(names)} {what}" for names, what in parts if names)


def _fit_head(
    group: str, found: dict[str, Tensor], before: dict[str, Tensor], classes: tuple[list[str], list[str]]
) -> tuple[dict[str, Tensor], Row]:
    given, wanted = classes
    first = next(iter(before))
    if found[first].shape[1:] != before[first].shape[1:]:
        return before, Row(name=group, status="new", because=_difference(found[first], before[first]))
    if given == wanted:
        return found, Row(name=group, status="matched")
    known = [name for name in wanted if name in given]
    if not known:
        return before, Row(name=group, status="new", because=f"the source does not know {_list(wanted)}")
    to, of = [wanted.index(name) for name in known], [given.index(name) for name in known]
    fitted = {name: value.clone() for name, value in before.items()}
    for name, value in fitted.items():
        value[to] = found[name][of].to(value)
    new, left = ([name for name in names if name not in known] for names in (wanted, given))
    parts = ((known, "as in the source"), (new, "new"), (left, "unused"))
    because = "; ".join(f"{_list(names)} {what}" for names, what in parts if names)
    return fitted, Row(name=group, status="adapted", because=because)


def _channel_keys(plan: Plan, configuration: Configuration) -> list[Key]:
    """Name every channel of the network's input."""
    keys: list[Key] = []
    names = {"image": [channel.name for channel in plan.channels], "previous": list(plan.labels.names[1:])}
    for part in configuration.inputs:
        known = names.get(part.kind, [])
        for index in range(part.channels):
            name = known[index].casefold() if index < len(known) else str(index)
            keys.append((part.kind, name, sum(key[:2] == (part.kind, name) for key in keys)))
    return keys


def _output_names(plan: Plan, configuration: Configuration) -> list[str]:
    """Name every channel of the network's output: regions or classes; else target and number."""
    for names in ([region.name for region in plan.labels.regions], list(plan.labels.names)):
        if len(names) == configuration.target.num_outputs:
            return [name.casefold() for name in names]
    return [f"{configuration.target.name} {index}" for index in range(configuration.target.num_outputs)]


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _difference(found: Tensor, wanted: Tensor) -> str:
    """Word two shapes that differ: (channels, channels, kernel), or the length of a shift."""
    parts = [(value.shape[:2], value.shape[2:]) for value in (found, wanted)]
    (channels, kernel), (wanted_channels, wanted_kernel) = parts
    if kernel != wanted_kernel:
        return f"kernel {times(kernel)} in the source, {times(wanted_kernel)} here"
    return f"{times(channels)} channels in the source, {times(wanted_channels)} here"
