"""The facts of several datasets as one, for a common plan: joint training, or one after the other."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from planners.fingerprint import Channel, Fingerprint, Intensities
from planners.joint_objects import join_instances
from planners.labels import LabelClass, Labels, Region
from planners.plan import Reason
from planners.records import PlanError

Value = TypeVar("Value")


def join(fingerprints: Sequence[Fingerprint]) -> Fingerprint:
    """Describe several datasets as one.

    Cases are put side by side. Channels must agree. Classes of equal name are one; a class keeps its value in the
    files unless an earlier dataset uses that value for another class. Intensities are pooled with one weight per
    case: mean and deviation exactly from their moments, minimum and maximum exactly, median and percentiles
    *approximately*, as the mean of the datasets' own. ``cropped_fraction`` is averaged likewise. For objects see
    ``joint_objects``.

    Args:
        fingerprints: at least one; each dataset has a name of its own.

    Raises:
        PlanError: two datasets do not fit together; the message names both.
    """
    first, *others = fingerprints
    for other in others:
        _check_fit(first, other)
    names = [item.dataset for item in fingerprints]
    if len(set(names)) != len(names):
        raise PlanError(f"two of the datasets have the same name: {', '.join(names)}. Rename one folder")
    labels = join_labels({item.dataset: item.labels for item in fingerprints})
    total = sum(item.num_cases for item in fingerprints)
    whole = all(item.case_ids for item in fingerprints)
    return Fingerprint(
        dataset=" + ".join(names),
        channels=tuple(_join_channel(fingerprints, index) for index in range(len(first.channels))),
        labels=labels,
        num_cases=total,
        case_ids=tuple(f"{item.dataset}/{case}" for item in fingerprints for case in item.case_ids) if whole else (),
        spacings_mm=tuple(spacing for item in fingerprints for spacing in item.spacings_mm),
        shapes=tuple(shape for item in fingerprints for shape in item.shapes),
        cropped_fraction=sum(item.num_cases * item.cropped_fraction for item in fingerprints) / total,
        class_voxels=_join_per_class([(item.labels, item.class_voxels) for item in fingerprints], labels),
        class_centers=_join_per_class([(item.labels, item.class_centers) for item in fingerprints], labels),
        orientations=_join_orientations(fingerprints),
        instances=join_instances(fingerprints),
        size_features=_join_features(fingerprints),
    )


def explain_join(fingerprints: Sequence[Fingerprint]) -> tuple[Reason, ...]:
    """Say what of the datasets was put together, and which classes had to take another value."""
    joined = join(fingerprints)
    cases = ", ".join(f"{item.dataset} {item.num_cases}" for item in fingerprints)
    new_values = {item.name: item.value for item in joined.labels.classes}
    moved = [
        f"{item.name} of {one.dataset} {item.value} → {new_values[item.name]}"
        for one in fingerprints
        for item in one.labels.classes
        if item.value != new_values[item.name]
    ]
    same = f"{joined.labels.num_classes} classes by name"
    pooled = (
        "one weight per case; mean, deviation and extremes exactly, median and percentiles as the mean of the datasets'"
    )
    return (
        Reason(about="plan.json", rule="joined", because=f"one plan for several datasets; cases: {cases}"),
        Reason(about="labels", rule="joined", because=f"{same}; new values: {'; '.join(moved)}" if moved else same),
        Reason(about="channels", rule="joined", because=f"intensities pooled with {pooled}"),
    )


def join_labels(labels: Mapping[str, Labels]) -> Labels:
    """Unite the labels of datasets, given by the datasets' names: classes, regions and instance classes by name."""
    first = next(iter(labels.values()))
    values: dict[str, int] = {}
    for one in labels.values():
        for item in one.classes:
            if item.name not in values:
                values[item.name] = _free(item.value, values.values())
    regions: dict[str, tuple[int, ...]] = {}
    for dataset, one in labels.items():
        if bool(one.regions) != bool(first.regions):
            raise PlanError(f"{next(iter(labels))} and {dataset}: only one declares regions. Declare the same in both")
        name_of = {item.value: item.name for item in one.classes}
        for region in one.regions:
            holds = tuple(values[name_of[value]] for value in region.values)
            if sorted(regions.setdefault(region.name, holds)) != sorted(holds):
                raise PlanError(f"region {region.name} of {dataset} holds other classes than before. Rename it")
    ignores = [one.ignore for one in labels.values() if one.ignore is not None]
    instances = dict.fromkeys(name for one in labels.values() for name in one.instance_classes)
    return Labels(
        classes=tuple(LabelClass(name=name, value=value) for name, value in values.items()),
        regions=tuple(Region(name=name, values=holds) for name, holds in regions.items()),
        region_values=first.region_values if len({_shape_of(one) for one in labels.values()}) == 1 else (),
        ignore=_free(ignores[0], values.values()) if ignores else None,
        instance_classes=tuple(instances),
    )


def _shape_of(labels: Labels) -> object:
    """What must be equal for the declared painting of regions to serve the union as well."""
    return labels.classes, labels.regions, labels.region_values


def _free(value: int, taken: Collection[int]) -> int:
    """Give the value itself, or where it is taken the next one above all that are."""
    return value if value not in taken else max(taken) + 1


def _join_per_class(
    parts: Sequence[tuple[Labels, Sequence[Sequence[Value | None]]]], labels: Labels
) -> tuple[tuple[Value | None, ...], ...]:
    """Bring what was measured per case and class into the order of the common labels.

    A class that a dataset does not know is None there: nobody has annotated it. Nothing at all where a dataset has not
    been measured.
    """
    if not all(rows for _, rows in parts):
        return ()
    joined = []
    for own, rows in parts:
        places = [own.names.index(name) if name in own.names else None for name in labels.names]
        joined += [tuple(None if place is None else row[place] for place in places) for row in rows]
    return tuple(joined)


def _join_orientations(fingerprints: Sequence[Fingerprint]) -> tuple[str | None, ...]:
    if not any(item.orientations for item in fingerprints):
        return ()
    silent = [item.orientations or (None,) * len(item.shapes) for item in fingerprints]
    return tuple(orientation for item in silent for orientation in item)


def _join_features(fingerprints: Sequence[Fingerprint]) -> tuple[tuple[float, ...], ...]:
    if not all(item.size_features for item in fingerprints):
        return ()
    return tuple(features for item in fingerprints for features in item.size_features)


def _check_fit(first: Fingerprint, other: Fingerprint) -> None:
    pair = f"{first.dataset} and {other.dataset}"
    if bool(first.labels.instance_classes) != bool(other.labels.instance_classes):
        raise PlanError(f"{pair}: only one of them tells objects apart. Declare `instances` in both, or in none")
    names, others = ([channel.name for channel in item.channels] for item in (first, other))
    if names != others:
        raise PlanError(
            f"{pair} have different channels ({', '.join(names)}; {', '.join(others)}). A common plan needs the same "
            "channels in the same order; name them alike in both dataset.json"
        )
    background, other_background = (item.labels.classes[0].name for item in (first, other))
    if background != other_background:
        raise PlanError(f"{pair} call their background {background} and {other_background}. Name it alike in both")


def _join_channel(fingerprints: Sequence[Fingerprint], index: int) -> Channel:
    channel = fingerprints[0].channels[index]
    known = [
        (item.num_cases, statistics)
        for item in fingerprints
        if (statistics := item.channels[index].intensities) is not None
    ]
    return replace(channel, intensities=_pool(known) if known else None)


def _pool(known: Sequence[tuple[int, Intensities]]) -> Intensities:
    """Pool intensities with one weight per case."""
    total = sum(weight for weight, _ in known)

    def mean_of(values: Sequence[float]) -> float:
        return sum(weight * value for (weight, _), value in zip(known, values, strict=True)) / total

    mean = mean_of([item.mean for _, item in known])
    square = mean_of([item.std**2 + (item.mean - mean) ** 2 for _, item in known])
    return Intensities(
        mean=mean,
        median=mean_of([item.median for _, item in known]),
        std=math.sqrt(square),
        minimum=min(item.minimum for _, item in known),
        maximum=max(item.maximum for _, item in known),
        percentile_00_5=mean_of([item.percentile_00_5 for _, item in known]),
        percentile_99_5=mean_of([item.percentile_99_5 for _, item in known]),
    )
