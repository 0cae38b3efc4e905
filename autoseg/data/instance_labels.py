"""Which classes hold instances: what ``dataset.json`` and the user say, and the maps of classes beside the ids."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from autoseg.data.cases import Case
from autoseg.data.folders import list_images, some
from autoseg.data.io import image_stem
from autoseg.data.tasks import INSTANCE, SEMANTIC
from autoseg.errors import DatasetError
from planners.labels import LabelClass, Labels
from planners.records import quoted, short

CLASSES = "classes"
"""Folder of the maps of classes, inside that of the ids."""

OBJECT_LABELS = Labels(
    classes=(LabelClass(name="background", value=0), LabelClass(name="object", value=1)), instance_classes=("object",)
)
"""Of a dataset whose ids nobody has named."""


def with_instances(labels: Labels | None, content: Mapping[str, Any], path: Path, task: str) -> Labels | None:
    """Give the labels with their classes of instances.

    Args:
        labels: as declared; None where they are not.
        content: of ``dataset.json``.
        path: of ``dataset.json``, for messages.
        task: as asked for, one of TASKS.

    Returns:
        The labels as they were where no class has instances.

    Raises:
        DatasetError: ``instances`` is written otherwise, names what is no class, or contradicts the task.
    """
    declared = content.get("instances")
    if declared in (None, False, []):
        return _all_with_instances(labels, path) if task == INSTANCE else labels
    if task == SEMANTIC:
        raise DatasetError(
            f"{path} declares instances, and --task semantic asks for classes alone. Take instances out of it, or "
            "leave --task out"
        )
    if declared is True:
        return _all_with_instances(labels, path)
    if not isinstance(declared, list) or not all(isinstance(name, str) for name in declared):
        raise DatasetError(
            f'{path}: instances is {quoted(declared)}. List the classes whose objects are told apart, like ["cell"], '
            "or write true for all"
        )
    if labels is None:
        raise DatasetError(
            f"{path}: instances names {some(declared)}, but no labels are declared. Declare them, like "
            f'"labels": {{"background": 0, "{short(declared[0])}": 1}}'
        )
    foreground = labels.names[1:]
    strange = [name for name in declared if name not in foreground]
    if strange:
        raise DatasetError(
            f"{path}: instances names {some(strange)}; classes with objects may be {some(foreground)}. Correct the name"
        )
    return _checked(replace(labels, instance_classes=tuple(name for name in foreground if name in declared)), path)


def task_of(labels: Labels | None, asked: str) -> str:
    """Give a dataset's task: what its labels say, else what was asked for."""
    if labels is None:
        return asked
    return INSTANCE if labels.instance_classes else SEMANTIC


def _all_with_instances(labels: Labels | None, path: Path) -> Labels:
    return OBJECT_LABELS if labels is None else _checked(replace(labels, instance_classes=labels.names[1:]), path)


def _checked(labels: Labels, path: Path) -> Labels:
    if labels.regions:
        raise DatasetError(
            f"{path}: objects are told apart within classes, and {labels.regions[0].name} is a region of several. "
            "Declare classes that do not overlap"
        )
    if labels.num_classes == 2 and labels.ignore == 0:
        raise DatasetError(
            f"{path}: 0 is the ignore label, and in a map of ids 0 is no object. Mark what is not annotated with "
            "another value, such as -1"
        )
    return labels


def needs_class_map(labels: Labels) -> bool:
    """Tell whether a map of ids needs a map of classes beside it: where there is more than one class."""
    return bool(labels.instance_classes) and labels.num_classes > 2


def with_class_maps(cases: Sequence[Case], labels: Labels | None) -> tuple[Case, ...]:
    """Join each case's map of classes: the one that its table names, or that lies in ``classes/`` beside its label.

    Where ids alone tell everything, or the labels are no ids, no map is needed and none is kept. Of one class and an
    ignore label the map tells what is not annotated; a case without one has the ignore label among its ids.

    Raises:
        DatasetError: a folder ``classes/`` holds no images, or two of one name.
    """
    if labels is None or not (needs_class_map(labels) or (labels.instance_classes and labels.ignore is not None)):
        return tuple(replace(case, classes=None) for case in cases)
    folders = {case.label.parent / CLASSES for case in cases if case.label is not None}
    listed = {folder: list_images(folder, series=False)[0] for folder in folders if folder.is_dir()}
    return tuple(
        case
        if case.label is None or case.classes is not None
        else replace(case, classes=listed.get(case.label.parent / CLASSES, {}).get(image_stem(case.label)))
        for case in cases
    )
