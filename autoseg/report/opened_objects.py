"""Opened objects: a case's image, and the objects of its label and of its prediction, each with its fate."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from autoseg.errors import AutosegError
from autoseg.evaluation.contingency import contingency
from autoseg.evaluation.instance_errors import find_errors
from autoseg.report.material import Material
from autoseg.report.object_facts import KINDS
from autoseg.report.opened import case_files, find_prediction, read_label

if TYPE_CHECKING:
    from autoseg.data.image import Image


@dataclass(frozen=True, eq=False)
class OpenedObjects:
    """An opened case.

    Attributes:
        image: opened.
        label, prediction: ids (z, y, x), numbered without gaps; 0 is none.
        label_kinds, prediction_kinds: per id (0 first) what became of the object, as its place in ``KINDS``; -1 of
            background, and of all where there is no prediction.
        configurations: whose prediction it is; empty where there is none.
        as_chosen: whether it was decoded with the chosen settings.
    """

    image: "Image"
    label: np.ndarray
    prediction: np.ndarray
    label_kinds: np.ndarray
    prediction_kinds: np.ndarray
    configurations: tuple[str, ...]
    as_chosen: bool = True


def open_objects(material: Material, case: str, *, needs_prediction: bool = True) -> OpenedObjects:
    """Read a case.

    Raises:
        AutosegError: a file is not there, cannot be read, or does not fit the others.
        PlanError: a class value is not declared.
    """
    from autoseg.data.io import open_image

    files = case_files(material, case)
    found = find_prediction(material, case)
    if material.plan is None or (found is None and needs_prediction):
        raise AutosegError("its prediction is not in the run folder.")
    labels = material.plan.labels
    classes, label = read_label(labels, Path(files.label or ""), None if files.classes is None else Path(files.classes))
    prediction = np.zeros_like(label)
    label_kinds = prediction_kinds = None
    if found is not None:
        prediction = read_label(labels, found[1])[1]
        if prediction.shape != label.shape:
            raise AutosegError(f"{found[1].name} has another shape than the label.")
        if labels.ignore_index is not None:
            prediction[classes == labels.ignore_index] = 0
        table = contingency(label, prediction)
        errors = find_errors(table)
        label_kinds = _kinds(table.label_ids, errors.label, int(label.max(initial=0)))
        prediction_kinds = _kinds(table.prediction_ids, errors.prediction, int(prediction.max(initial=0)))
    nothing = np.full(int(label.max(initial=0)) + 1, -1, dtype=np.int8)
    return OpenedObjects(
        image=open_image([Path(name) for name in files.images]),
        label=label,
        prediction=prediction,
        label_kinds=nothing if label_kinds is None else label_kinds,
        prediction_kinds=nothing[:1] if prediction_kinds is None else prediction_kinds,
        configurations=found[0] if found is not None else (),
        as_chosen=found is None or found[1].parent == material.run.out_of_fold,
    )


def _kinds(ids: np.ndarray, kinds: np.ndarray, highest: int) -> np.ndarray:
    places = np.full(highest + 1, -1, dtype=np.int8)
    for place, kind in enumerate(KINDS):
        places[ids[kinds == kind]] = place
    return places
