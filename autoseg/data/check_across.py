"""Problems that show only beside the declared labels and channels, and beside the other cases."""

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from autoseg.data.check_case import CaseFacts
from autoseg.data.check_instances import declare_instances, looks_like_ids
from autoseg.data.check_problem import Problem, count, problem
from autoseg.data.io import shape_text
from planners.labels import Labels
from planners.regions import membership, painted, painting, representatives

Annotated = Mapping[str, Sequence[int]]
"""Per partly labelled case, the inner indices of its annotated classes."""

FAR_SPACING = 5.0
"""A spacing this many times larger or smaller than the median is extreme (assumption; slice thickness in mixed CT
differs by up to 7, but then the cases scatter, see FAR_DEVIATIONS)."""

FAR_AXIS, FAR_VOXELS = 10.0, 20.0
"""The same for the voxels along an axis and for all voxels (assumption; 5 and 16 occur among the 244 images of DSB
2018)."""

FAR_DEVIATIONS = 4.0
"""And it lies this many robust standard deviations from the median, in logarithms: no outlier where all differ."""

SMALLEST_DEVIATION = 0.1
"""Robust standard deviation that is assumed at least: 10 %."""

SHOWN = 8
"""Names listed in one message."""


def check_channels(facts: Sequence[CaseFacts], channels: Sequence[str]) -> list[Problem]:
    """Compare the number of channels of each image with the dataset's."""
    problems = []
    for case in facts:
        if case.num_channels is None or case.num_channels == len(channels):
            continue
        kind = "missing-channel" if case.num_channels < len(channels) else "extra-channel"
        names = ", ".join(channels)
        found = f"image has {count(case.num_channels, 'channel')}, the dataset has {len(channels)} ({names})"
        item = problem(kind, case.id, found)
        problems.append(dataclasses.replace(item, stops=not case.test))
    return problems


def check_values(facts: Sequence[CaseFacts], labels: Labels) -> list[Problem]:
    """Compare the values of each label file with the declared ones."""
    problems = []
    declared = ", ".join(map(str, labels.values))
    fix = declare_instances(labels) if not labels.instance_classes and looks_like_ids(facts) else ""
    for case in facts:
        if case.label is None or case.label.looks_like_image:
            continue
        strange = [(value, voxels) for value, voxels in case.label.values if value not in labels.values]
        if case.label.unlisted:
            found = (
                f"{case.label.num_values:,} label values are more than is declared ({declared}) in {case.label_file}"
            )
            problems.append(problem("undeclared-label", case.id, found, fix))
        elif strange:
            shown = ", ".join(f"{value} ({count(voxels, 'voxel')})" for value, voxels in strange[:SHOWN])
            more = f" and {len(strange) - SHOWN} more" if len(strange) > SHOWN else ""
            found = f"label value {shown}{more} is not declared (declared: {declared}) in {case.label_file}"
            problems.append(problem("undeclared-label", case.id, found, fix))
    return problems


def check_present(facts: Sequence[CaseFacts], labels: Labels, annotated: Annotated) -> list[Problem]:
    """Look for classes in the label files of cases that were not annotated for them."""
    problems = []
    for case in facts:
        present = annotated.get(case.id)
        if case.test or present is None or case.label is None:
            continue
        voxels = dict(case.label.values)
        absent = [item for index, item in enumerate(labels.classes) if index not in present]
        strange = [f"{item.name} ({count(voxels[item.value], 'voxel')})" for item in absent if item.value in voxels]
        if strange:
            found = f"label holds {_listed(strange)}, which labels_present does not name ({case.label_file})"
            problems.append(problem("unannotated-label", case.id, found))
    return problems


def check_regions(labels: Labels) -> list[Problem]:
    """Look for classes that do not come back on the way labels → regions → labels."""
    if not labels.regions:
        return []
    problems, same, held = [], representatives(labels), [bool(column.any()) for column in membership(labels).T]
    nowhere = [] if held[0] else [name for name, some in zip(labels.names[1:], held[1:], strict=True) if not some]
    equal: dict[int, list[str]] = defaultdict(list)
    for index, first in enumerate(same):
        equal[first].append(labels.names[index])
    for first, names in equal.items():
        if len(names) > 1 and not (first == 0 and nowhere):
            found = f"{' and '.join(names)} are in the same regions"
            problems.append(problem("equal-classes", None, found))
    if nowhere:
        found = f"{_listed(nowhere)} {'is' if len(nowhere) == 1 else 'are'} in no region"
        problems.append(problem("class-without-region", None, found))
    turned = [(index, value) for index, value in enumerate(painted(labels)) if same[value] != same[index]]
    if turned and painting(labels) is not None:
        shown = _listed([f"{labels.names[index]} as {labels.names[value]}" for index, value in turned])
        problems.append(problem("region-order", None, f"regions_class_order paints {shown}"))
    return problems


def check_dimensions(facts: Sequence[CaseFacts]) -> list[Problem]:
    """Look for 2D images among volumes, and for volumes among 2D images."""
    known = [case for case in facts if case.dimensions is not None]
    counts = Counter(case.dimensions for case in known if not case.test) or Counter(case.dimensions for case in known)
    if len({case.dimensions for case in known}) < 2:
        return []
    usual, number = counts.most_common(1)[0]
    problems = []
    for case in known:
        if case.dimensions != usual:
            found = f"image is {case.dimensions}D, those of {number} of {count(counts.total(), 'case')} are {usual}D"
            item = problem("mixed-dimensions", case.id, found)
            problems.append(dataclasses.replace(item, stops=not case.test))
    return problems


def check_classes(
    facts: Sequence[CaseFacts], labels: Labels, partly: Annotated | None = None, *, declared: bool = False
) -> list[Problem]:
    """Look for classes that few cases show, and for values that number objects.

    Args:
        facts: of all cases.
        labels: declared or found.
        partly: cases that were not annotated for every class; they do not lack the others.
        declared: whether the labels are declared.
    """
    annotated = [case for case in facts if case.label is not None and not case.label.looks_like_image]
    if not annotated:
        return []
    present = Counter(value for case in annotated for value, _ in (case.label.values if case.label else ()))
    foreground = list(labels.classes[1:])
    if labels.instance_classes and (labels.num_classes == 2 or not any(present[item.value] for item in foreground)):
        return []  # check_objects names the maps without objects
    if not any(present[item.value] for item in foreground):
        return [problem("no-foreground", None, f"{count(len(annotated), 'label file')} hold background alone")]
    numbers = "" if labels.instance_classes else looks_like_ids(annotated)
    if numbers:
        return [problem("instance-like-labels", None, numbers, declare_instances(labels) if declared else "")]
    partly = partly or {}
    asked = Counter(
        index for case in annotated for index in partly.get(case.id, range(labels.num_classes)) if not case.test
    )
    rare = [item for index, item in enumerate(foreground, start=1) if 2 * present[item.value] < asked[index]]
    if not rare:
        return []
    shown = ", ".join(f"{item.name} (in {present[item.value]})" for item in rare[:SHOWN])
    more = f" and {len(rare) - SHOWN} more" if len(rare) > SHOWN else ""
    found = f"of {len(annotated)} cases, less than half show {shown}{more}"
    return [problem("rare-class", None, found)]


def check_sizes(facts: Sequence[CaseFacts]) -> list[Problem]:
    """Look for voxels and images that are far larger or smaller than the others."""
    cases = [case for case in facts if case.shape is not None and case.spacing_mm is not None]
    if len(cases) < 3:
        return []
    spacings = np.array([case.spacing_mm for case in cases], dtype=float)
    shapes = np.array([case.shape for case in cases], dtype=float)
    problems = []
    for index in np.flatnonzero(_far(spacings, FAR_SPACING).any(axis=1)):
        found = f"voxels of {_mm(spacings[index])} mm, median {_mm(np.median(spacings, axis=0))} mm"
        problems.append(problem("extreme-spacing", cases[index].id, found))
    voxels = shapes.prod(axis=1, keepdims=True)
    for index in np.flatnonzero(_far(shapes, FAR_AXIS).any(axis=1) | _far(voxels, FAR_VOXELS)[:, 0]):
        median = shape_text([int(value) for value in np.median(shapes, axis=0)])
        found = f"image has {shape_text(cases[index].shape or ())} voxels, median {median}"
        problems.append(problem("extreme-size", cases[index].id, found))
    return problems


def _far(values: np.ndarray, ratio: float) -> np.ndarray:
    """Mark entries (cases × axes) that lie far from the median of their column."""
    logs = np.log(values)
    apart = np.abs(logs - np.median(logs, axis=0))
    deviation = 1.4826 * np.median(apart, axis=0)  # of a normal distribution, from the median absolute deviation
    return (apart >= np.log(ratio) - 1e-9) & (apart > FAR_DEVIATIONS * np.maximum(deviation, SMALLEST_DEVIATION))


def check_orientations(facts: Sequence[CaseFacts]) -> list[Problem]:
    """Look for cases whose axes run in other directions than those of most."""
    known = [case for case in facts if case.orientation is not None]
    counts = Counter(case.orientation for case in known)
    if len(counts) < 2:
        return []
    usual, number = counts.most_common(1)[0]
    return [
        problem(
            "mixed-orientations",
            case.id,
            f"axes z, y, x run to {'-'.join(case.orientation or '')}, "
            f"those of {number} of {count(len(known), 'case')} to {'-'.join(usual or '')}",
        )
        for case in known
        if case.orientation != usual
    ]


def check_duplicates(facts: Sequence[CaseFacts]) -> list[Problem]:
    """Look for equal images under different names."""
    same: dict[str, list[CaseFacts]] = defaultdict(list)
    for case in facts:
        if case.image is not None and any(value is None for value in case.image.constant):
            same[case.image.digest].append(case)
    problems = []
    for cases in same.values():
        first = cases[0]
        for other in cases[1:]:
            split = not first.test and not other.test and first.group != other.group
            kind = "duplicate-across-groups" if split else "duplicate-image"
            found = f"holds the same image as {_named(first)}"
            item = problem(kind, other.id, found + (f", group {other.group}" if split else ""))
            problems.append(dataclasses.replace(item, other=first.id))
    return problems


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _named(case: CaseFacts) -> str:
    group = "" if case.group is None else f" (group {case.group})"
    return f"{'test image' if case.test else 'case'} {case.id}{group}"


def _mm(spacing: np.ndarray) -> str:
    return " × ".join(f"{value:.4g}" for value in spacing)
