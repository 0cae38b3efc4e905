"""The objects that a case's label holds, as predictions are compared with them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autoseg.evaluation.contingency import Contingency, contingency
from autoseg.inference.comparison import read_label_layers
from autoseg.run_folder import CaseFiles
from planners.fingerprint import Spacing
from planners.plan import Plan

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


def read_objects(files: CaseFiles, plan: Plan) -> LabelledObjects:
    """Read a case's label."""
    layers, spacing_mm = read_label_layers(files, plan)
    classes, ids = layers
    if plan.labels.ignore_index is not None:
        ids[classes == plan.labels.ignore_index] = IGNORED
    return LabelledObjects(classes=classes, ids=ids, spacing_mm=spacing_mm, annotated=files.annotated_classes)
