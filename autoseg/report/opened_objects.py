"""Opened objects: a case's image, and the objects of its label and of its prediction, each with its fate."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from autoseg.errors import AutosegError
from autoseg.evaluation.instance_errors import find_errors
from autoseg.report.material import Material
from autoseg.report.object_facts import KINDS
from autoseg.report.opened import find_case

if TYPE_CHECKING:
    from autoseg.data.image import Image


@dataclass(frozen=True, eq=False)
class OpenedObjects:
    """An opened case.

    Attributes:
        image: opened.
        label, prediction: ids (z, y, x), numbered without gaps; 0 is none, and where nothing is annotated.
        label_kinds, prediction_kinds: per id (0 first) what became of the object, as its place in ``KINDS``; -1 of
            background, of what does not count, and of all where there is no prediction.
        surplus: per predicted id whether it is a piece of a labelled object that is right.
        configurations: whose prediction it is; empty where there is none.
        as_chosen: whether it was decoded as ``choice.json`` says.
    """

    image: "Image"
    label: np.ndarray
    prediction: np.ndarray
    label_kinds: np.ndarray
    prediction_kinds: np.ndarray
    surplus: np.ndarray
    configurations: tuple[str, ...]
    as_chosen: bool = True


def open_objects(material: Material, case: str, *, needs_prediction: bool = True) -> OpenedObjects:
    """Read a case.

    Raises:
        AutosegError: a file is not there, cannot be read, or does not fit the others.
        PlanError: a class value is not declared.
    """
    from autoseg.data.io import open_image
    from autoseg.evaluation.labelled_objects import IGNORED, read_objects, read_prediction

    files, found, labels = find_case(material, case, needs_prediction=needs_prediction)
    label = read_objects(files, labels)
    ids = label.numbered
    prediction = np.zeros_like(ids)
    kinds = np.full(int(ids.max(initial=0)) + 1, -1, dtype=np.int8), np.full(1, -1, dtype=np.int8)
    surplus = np.zeros(1, dtype=bool)
    if found is not None:
        prediction, classes = read_prediction(found[1], labels)
        if prediction.shape != ids.shape:
            raise AutosegError(f"{found[1].name} has another shape than the label.")
        table = label.compare(prediction, classes)
        errors = find_errors(table)
        kinds = (
            _kinds(table.label_ids, errors.label, len(kinds[0])),
            _kinds(table.prediction_ids, errors.prediction, len(classes)),
        )
        surplus = np.zeros(len(classes), dtype=bool)
        surplus[table.prediction_ids] = errors.surplus
        prediction[label.ids == IGNORED] = 0
    return OpenedObjects(
        image=open_image([Path(name) for name in files.images]),
        label=ids,
        prediction=prediction,
        label_kinds=kinds[0],
        prediction_kinds=kinds[1],
        surplus=surplus,
        configurations=found[0] if found is not None else (),
        as_chosen=found is None or found[1].parent == material.run.out_of_fold,
    )


def _kinds(ids: np.ndarray, kinds: np.ndarray, count: int) -> np.ndarray:
    places = np.full(count, -1, dtype=np.int8)
    for place, kind in enumerate(KINDS):
        places[ids[kinds == kind]] = place
    return places
