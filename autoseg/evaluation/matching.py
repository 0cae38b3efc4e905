"""Matching: which objects of a prediction are which objects of its label, and the scores that follow.

Every score is counted from the ``Contingency`` of one image and given as ``Parts``: sums whose quotient is the score,
so that the scores of several images can be averaged, or their parts added up (pooled). Voxels are counted, so images
with two and three axes are alike, and the spacing does not matter.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from autoseg.evaluation.contingency import Contingency

UNIQUE_IOU = 0.5
"""Objects of one map do not overlap, so an object has at most one partner with a larger IoU. At exactly this IoU it may
have two, which are its halves. Source: Kirillov et al., Panoptic segmentation (2019), section 4.1."""

SPLIT_WEIGHT, MISSED_WEIGHT, INVENTED_WEIGHT = 5, 10, 1
"""Source: Matula et al., Cell tracking accuracy measurement based on comparison of acyclic oriented graphs (2015),
table 1; the weights of the Cell Tracking Challenge."""


class Parts(NamedTuple):
    """A score as a quotient; not defined where the bottom is 0."""

    top: float
    bottom: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Matches:
    """Objects of label and prediction that were found to be the same.

    Attributes:
        label_index, prediction_index: (t) matched pairs, as entries of the table's lists.
        iou: (t) their IoU.
        num_labelled, num_predicted: all objects.
    """

    label_index: np.ndarray
    prediction_index: np.ndarray
    iou: np.ndarray
    num_labelled: int
    num_predicted: int

    @property
    def tp(self) -> int:
        """Objects found."""
        return len(self.iou)

    @property
    def fp(self) -> int:
        """Objects invented: those of the prediction that are matched with none."""
        return self.num_predicted - self.tp

    @property
    def fn(self) -> int:
        """Objects missed: those of the label that are matched with none."""
        return self.num_labelled - self.tp


def match(table: Contingency, threshold: float, *, strict: bool = False) -> Matches:
    """Match as many pairs of objects as possible, each object once, with an IoU of at least a threshold.

    Pairs whose two objects have no other candidate are matched as they are; those are all above an IoU of 0.5. What is
    left (halves at exactly 0.5, anything at lower thresholds) is matched by Hopcroft and Karp's algorithm on the sparse
    candidates. Cellpose's assignment (cost −[IoU ≥ t] − IoU / (2 · min(n, m)) for all n · m pairs) finds equally many
    pairs, as its second term adds up to less than one pair; below 0.5 it may choose others among equally many.

    Args:
        table: of one image.
        threshold: above 0, at most 1.
        strict: whether the IoU has to exceed the threshold.

    Raises:
        ValueError: the threshold is no IoU.

    Source: Stringer et al., Cellpose (2021), methods; its public ``metrics.py``.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold {threshold} is no IoU; give one above 0, at most 1")
    candidates = np.flatnonzero(table.iou > threshold if strict else table.iou >= threshold)
    rows, columns = table.label_index[candidates], table.prediction_index[candidates]
    row_degree = np.bincount(rows, minlength=table.num_labelled)
    column_degree = np.bincount(columns, minlength=table.num_predicted)
    single = (row_degree[rows] == 1) & (column_degree[columns] == 1)
    chosen = np.concatenate([candidates[single], _assign(table, candidates[~single])])
    return Matches(
        label_index=table.label_index[chosen],
        prediction_index=table.prediction_index[chosen],
        iou=table.iou[chosen],
        num_labelled=table.num_labelled,
        num_predicted=table.num_predicted,
    )


def average_precision(table: Contingency, threshold: float) -> Parts:
    """Count the objects found among all: TP / (TP + FP + FN); 0 … 1, the field's "AP" of instances.

    Both empty: not defined. One empty: 0. Source: Stringer et al., Cellpose (2021), methods. It is no area under a
    curve of precision and recall, as there are no confidences.
    """
    found = match(table, threshold)
    return Parts(found.tp, found.tp + found.fp + found.fn)


def f1(table: Contingency, threshold: float) -> Parts:
    """Harmonic mean of precision and recall of objects: 2 TP / (2 TP + FP + FN); 0 … 1.

    Both empty: not defined. One empty: 0. Source: van Rijsbergen, Information Retrieval (1979), chapter 7.
    """
    found = match(table, threshold)
    return Parts(2 * found.tp, 2 * found.tp + found.fp + found.fn)


def precision(table: Contingency, threshold: float) -> Parts:
    """Part of the prediction's objects that are right: TP / (TP + FP). Prediction empty: not defined."""
    return Parts(match(table, threshold).tp, table.num_predicted)


def recall(table: Contingency, threshold: float) -> Parts:
    """Part of the label's objects that are found: TP / (TP + FN). Label empty: not defined."""
    return Parts(match(table, threshold).tp, table.num_labelled)


def panoptic_quality(table: Contingency) -> Parts:
    """Find and outline in one number: sum of the IoU of matches (IoU > 0.5) / (TP + FP/2 + FN/2) = SQ · RQ; 0 … 1.

    Both empty: not defined. One empty: 0. The published one of a dataset is the pooled one, averaged over classes.

    Source: Kirillov et al., Panoptic segmentation (2019), section 4.2.
    """
    found = match(table, UNIQUE_IOU, strict=True)
    return Parts(float(found.iou.sum()), found.tp + (found.fp + found.fn) / 2)


def segmentation_quality(table: Contingency) -> Parts:
    """Mean IoU of the matches of ``panoptic_quality``. No match: not defined. Source: as there."""
    found = match(table, UNIQUE_IOU, strict=True)
    return Parts(float(found.iou.sum()), found.tp)


def recognition_quality(table: Contingency) -> Parts:
    """F1 of objects at an IoU above 0.5. Both empty: not defined; one empty: 0. Source: as ``panoptic_quality``."""
    found = match(table, UNIQUE_IOU, strict=True)
    return Parts(found.tp, found.tp + (found.fp + found.fn) / 2)


def seg(table: Contingency) -> Parts:
    """Mean IoU of the label's objects with the one object that covers more than half of them; 0 where none does.

    Objects of the prediction that cover none cost nothing, and one may count for several. 0 … 1.

    Label empty: not defined. Prediction empty: 0. The challenge pools the images of a video.

    Source: Maška et al., A benchmark for comparison of cell tracking algorithms (2014), section 2.3.1.
    """
    return Parts(float(table.iou[_covering(table)].sum()), table.num_labelled)


def det(table: Contingency) -> Parts:
    """Say how little has to be mended to have the label's objects: 1 − min(cost, cost of all by hand) / cost by hand.

    An object of the label is found where one of the prediction covers more than half of it. Cost: 10 for each object
    missed, 1 for each of the prediction that covers none, 5 for each cut between objects that the same one covers. By
    hand: 10 for each object of the label. 0 … 1; the top of the parts may be negative, which stands for 0.

    Label empty: not defined. Prediction empty: 0. The challenge pools the images of a video.

    Source: Matula et al., Cell tracking accuracy measurement based on comparison of acyclic oriented graphs (2015);
    Cell Tracking Challenge, evaluation methodology: AOGM-D.
    """
    covering = _covering(table)
    num_covered = np.bincount(table.prediction_index[covering], minlength=table.num_predicted)
    num_cuts = int(np.maximum(num_covered - 1, 0).sum())
    cost = (
        SPLIT_WEIGHT * num_cuts
        + MISSED_WEIGHT * (table.num_labelled - int(covering.sum()))
        + INVENTED_WEIGHT * int((num_covered == 0).sum())
    )
    by_hand = MISSED_WEIGHT * table.num_labelled
    return Parts(by_hand - cost, by_hand)


def aggregated_jaccard(table: Contingency) -> Parts:
    """IoU of all objects together: each of the label with its best partner, and what is left of the prediction.

    Partner: the object of the prediction with the highest IoU, of equal ones that with the lowest id; one may be the
    partner of several, and its voxels are then punished twice. Top: voxels shared by partners. Bottom: voxels in either
    of them, those of objects without partner, and those of the prediction's objects that are nobody's partner. 0 … 1.

    Both empty: not defined. One empty: 0. Cellpose's ``aggregated_jaccard_index`` is another score: each object is
    partner once, and the bottom is the union of the foregrounds.

    Source: Kumar et al., A dataset and a technique for generalized nuclear segmentation (2017), algorithm 1.
    """
    order = np.lexsort((table.prediction_index, -table.iou, table.label_index))
    partnered, first = np.unique(table.label_index[order], return_index=True)
    best = order[first]
    alone = np.ones(table.num_labelled, dtype=bool)
    alone[partnered] = False
    unused = np.ones(table.num_predicted, dtype=bool)
    unused[table.prediction_index[best]] = False
    left = table.label_sizes[alone].sum() + table.prediction_sizes[unused].sum()
    return Parts(int(table.shared[best].sum()), int(table.unions[best].sum() + left))


def count_error(table: Contingency) -> Parts:
    """Objects of the prediction minus objects of the label; always defined, negative: too few."""
    return Parts(table.num_predicted - table.num_labelled, 1)


def count_difference(table: Contingency) -> Parts:
    """Difference between the numbers of objects, without its sign; always defined."""
    return Parts(abs(table.num_predicted - table.num_labelled), 1)


def _covering(table: Contingency) -> np.ndarray:
    """Which pairs share more than half of the label's object: at most one for each object."""
    return 2 * table.shared > table.label_sizes[table.label_index]


def _assign(table: Contingency, candidates: np.ndarray) -> np.ndarray:
    """Choose as many of some pairs as possible so that no object is in two of them."""
    if candidates.size == 0:
        return candidates
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import maximum_bipartite_matching

    rows, row = np.unique(table.label_index[candidates], return_inverse=True)
    columns, column = np.unique(table.prediction_index[candidates], return_inverse=True)
    shape = (len(rows), len(columns))
    places = row.astype(np.int32), column.astype(np.int32)  # scipy before 1.15 matches these alone
    graph = coo_array((np.ones(len(candidates), dtype=np.int8), places), shape=shape).tocsr()
    partner = maximum_bipartite_matching(graph, perm_type="column")
    return candidates[partner[row] == column]
