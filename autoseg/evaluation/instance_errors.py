"""Errors of instances: which objects are right, and what went wrong with each of the others.

For pictures and tables that say more than a score. The objects that are not right here are those that AP and F1 count
as missed (label) and invented (prediction); merges and splits are told apart among them.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from autoseg.evaluation.contingency import Contingency
from autoseg.evaluation.matching import match

RIGHT, MISSED, INVENTED, MERGED, SPLIT = "right", "missed", "invented", "merged", "split"


@dataclass(frozen=True, kw_only=True, eq=False)
class ObjectErrors:
    """What happened to each object.

    Attributes:
        label: (n) per object of the label: ``right``, ``merged``, ``split`` or ``missed``.
        prediction: (m) per object of the prediction: ``right``, ``merged``, ``split`` or ``invented``.
        label_iou: (n) IoU with the partner it was matched with; where it has none, the highest with any; 0 where
            nothing meets it.
        surplus: (m) whether an object of the prediction is a piece (``split``) of one of the label that is right: the
            label says nothing of it.
    """

    label: np.ndarray
    prediction: np.ndarray
    label_iou: np.ndarray
    surplus: np.ndarray


class _Links(NamedTuple):
    """Pairs of objects by place in the lists of label and prediction."""

    label: np.ndarray
    prediction: np.ndarray


def find_errors(table: Contingency, threshold: float = 0.5) -> ObjectErrors:
    """Tell for each object whether it was found, and if not, why.

    - right: matched with an IoU of at least the threshold.
    - merged: an object of the prediction that covers more than half of two or more of the label, and those of them that
      are not matched with it.
    - split: an object of the prediction that lies by more than half in one of the label which is matched with another
      or holds two or more such; and such an object of the label if it is matched with none and not merged.
    - missed, invented: the rest of label and prediction.

    Args:
        table: of one image.
        threshold: above 0, at most 1.
    """
    found = match(table, threshold)
    label = np.full(table.num_labelled, MISSED, dtype="<U8")
    prediction = np.full(table.num_predicted, INVENTED, dtype="<U8")
    covers = _links(table, 2 * table.shared > table.label_sizes[table.label_index])
    lies_in = _links(table, 2 * table.shared > table.prediction_sizes[table.prediction_index])
    pieces = np.bincount(lies_in.label, minlength=table.num_labelled)
    is_matched = np.zeros(table.num_labelled, dtype=bool)
    is_matched[found.label_index] = True
    is_split = (pieces >= 2) | (is_matched & (pieces >= 1))
    label[pieces >= 2] = SPLIT
    prediction[lies_in.prediction[is_split[lies_in.label]]] = SPLIT
    merges = np.bincount(covers.prediction, minlength=table.num_predicted) >= 2
    label[covers.label[merges[covers.prediction]]] = MERGED
    prediction[merges] = MERGED
    label[found.label_index] = RIGHT
    prediction[found.prediction_index] = RIGHT
    best = np.zeros(table.num_labelled)
    np.maximum.at(best, table.label_index, table.iou)
    best[found.label_index] = found.iou
    surplus = np.zeros(table.num_predicted, dtype=bool)
    surplus[lies_in.prediction[is_matched[lies_in.label]]] = True
    return ObjectErrors(label=label, prediction=prediction, label_iou=best, surplus=surplus & (prediction == SPLIT))


def _links(table: Contingency, chosen: np.ndarray) -> _Links:
    return _Links(table.label_index[chosen], table.prediction_index[chosen])
