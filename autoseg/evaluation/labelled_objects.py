"""The objects that a case's label holds, those that were predicted, and how the two are compared.

Everyone who compares out-of-fold predictions with labels does it by this: judging, measuring, and the page.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autoseg.data.instance_labels import CLASSES
from autoseg.data.io import open_label
from autoseg.data.label_layers import as_predicted, read_layers
from autoseg.evaluation.contingency import Contingency, contingency, object_classes
from autoseg.run_folder import CaseFiles
from planners.fingerprint import Spacing
from planners.labels import Labels

IGNORED = 2**31 - 1
"""Id of voxels that are not annotated: the largest of int32. Objects are numbered from 1, so none is called that."""


@dataclass(frozen=True, kw_only=True)
class LabelledObjects:
    """A label, on the image's grid as read.

    Attributes:
        classes: inner class indices z, y, x.
        ids: numbers 1, 2, … of the objects, 0 for none, ``IGNORED`` where not annotated; int32.
        spacing_mm: z, y, x.
        annotated: the classes the case has been annotated for; None: all.
    """

    classes: np.ndarray
    ids: np.ndarray
    spacing_mm: Spacing
    annotated: Sequence[int] | None

    @property
    def numbered(self) -> np.ndarray:
        """The ids alone: 0 where not annotated."""
        return self.ids if self.ids.max(initial=0) < IGNORED else np.where(self.ids == IGNORED, 0, self.ids)

    def compare(self, ids: np.ndarray, classes: np.ndarray) -> Contingency:
        """Count how predicted objects lie on those of the label.

        Objects of classes that the case has not been annotated for are left out.

        Args:
            ids: predicted, on the same grid.
            classes: per id (0 first) its inner class index.
        """
        table = contingency(self.ids, ids, IGNORED)
        if self.annotated is None:
            return table
        counted = np.isin(classes[table.prediction_ids], list(self.annotated))
        return table.keep(np.ones(table.num_labelled, dtype=bool), counted)


def read_label_layers(files: CaseFiles, labels: Labels) -> tuple[np.ndarray, Spacing]:
    """Read a case's label as layers (see ``read_layers``), and its spacing in mm."""
    assert files.label is not None, "only labelled cases are validated"
    opened = open_label(Path(files.label))
    classes = None if files.classes is None else open_label(Path(files.classes))
    return read_layers(opened, classes, labels), opened.geometry.spacing_mm


def read_objects(files: CaseFiles, labels: Labels) -> LabelledObjects:
    """Read a case's label.

    Raises:
        DatasetError, PlanError, ImageError: as of ``read_layers``.
    """
    layers, spacing_mm = read_label_layers(files, labels)
    classes, ids = layers
    if labels.ignore_index is not None:
        ids[classes == labels.ignore_index] = IGNORED
    return LabelledObjects(classes=classes, ids=ids, spacing_mm=spacing_mm, annotated=files.annotated_classes)


def read_prediction(path: Path, labels: Labels) -> tuple[np.ndarray, np.ndarray]:
    """Read predicted objects: ids z, y, x, numbered 1, 2, … without gaps, and per id (0 first) its inner class index.

    Raises:
        DatasetError, PlanError, ImageError: a file is damaged or holds something else.
    """
    opened = open_label(classes_file(path)) if labels.num_classes > 2 else None
    classes, ids = read_layers(open_label(path), opened, as_predicted(labels))
    wanted = np.arange(1, int(ids.max(initial=0)) + 1)
    found = object_classes(ids, classes, wanted) if len(wanted) else wanted
    return ids, np.concatenate([[0], found])


def classes_file(path: Path) -> Path:
    """Give the place of the map of classes that goes with a map of ids."""
    return path.parent / CLASSES / path.name
