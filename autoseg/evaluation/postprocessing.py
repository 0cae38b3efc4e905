"""Postprocessing: remove what is not part of the largest component, where that is known to help.

A candidate rule is judged on all out-of-fold predictions. It needs no rewriting of them: each case is reduced once to
its *pieces* (connected voxels of one class), which pieces touch, and how they overlap the label. Every component of
every union of classes is a set of pieces that touch, so the effect of any sequence of rules follows from that table.
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from autoseg.evaluation.overlap import (
    CHUNK_VOXELS,
    AnyPrediction,
    CasePrediction,
    Scores,
    Structure,
    case_score,
    collect,
    joint_histogram,
    structures_of,
)
from autoseg.extensions import find
from planners.labels import Labels

if TYPE_CHECKING:
    from collections.abc import Callable

LARGEST_COMPONENT = "largest-component"
ALL_FOREGROUND = "all foreground"


@dataclass(frozen=True, kw_only=True)
class Postprocessing:
    """One rule, applied to the union of some classes.

    Attributes:
        rule: name in ``RULES``.
        name: for people: a class, a region, or ``all foreground``.
        classes: inner indices of the classes whose union the rule treats.
    """

    rule: str = LARGEST_COMPONENT
    name: str
    classes: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What a rule did to the out-of-fold predictions, on top of the rules accepted before it.

    Attributes:
        postprocessing: the rule.
        accepted: whether it is kept.
        mean_before, mean_after: mean foreground Dice.
        dice_before, dice_after: per structure.
        num_changed: cases in which it removed anything.
    """

    postprocessing: Postprocessing
    accepted: bool
    mean_before: float | None
    mean_after: float | None
    dice_before: tuple[float | None, ...]
    dice_after: tuple[float | None, ...]
    num_changed: int


@dataclass(frozen=True)
class PieceTable:
    """All that a rule may ask about one case.

    Attributes:
        case: its id.
        histogram: joint histogram of label and prediction as predicted.
        classes: (P,) class of each piece.
        sizes: (P,) its voxels, ignored ones too.
        touching: (E, 2) pairs of pieces that touch (26 neighbours; 8 in 2D); never of one class.
        overlap_piece, overlap_class, overlap_voxels: voxels of a piece that lie on a class of the label.
        annotated: the classes the case has been annotated for; None: all.
    """

    case: str
    histogram: np.ndarray
    classes: np.ndarray
    sizes: np.ndarray
    touching: np.ndarray
    overlap_piece: np.ndarray
    overlap_class: np.ndarray
    overlap_voxels: np.ndarray
    annotated: Sequence[int] | None = None

    def keep_largest(self, kept: np.ndarray, classes: Sequence[int]) -> np.ndarray:
        """Give the pieces (P,) bool left of those in ``kept`` after the rule was applied to ``classes``."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        within = kept & np.isin(self.classes, list(classes))
        if not within.any():
            return kept
        first, second = self.touching[within[self.touching].all(axis=1)].T
        shape = (len(within), len(within))
        graph = coo_array((np.ones(len(first), dtype=bool), (first, second)), shape=shape)
        component = connected_components(graph, directed=False)[1]
        sizes = np.bincount(component, weights=self.sizes * within)
        return kept & ~(within & (sizes[component] < sizes.max()))

    def histogram_with(self, kept: np.ndarray) -> np.ndarray:
        """Give the joint histogram after the pieces that are not ``kept`` became background."""
        removed = ~kept[self.overlap_piece]
        rows, voxels = self.overlap_class[removed], self.overlap_voxels[removed]
        histogram = self.histogram.copy()
        np.subtract.at(histogram, (rows, self.classes[self.overlap_piece[removed]]), voxels)
        np.add.at(histogram, (rows, np.zeros_like(rows)), voxels)
        return histogram


def keep_largest_component(segmentation: np.ndarray, classes: Sequence[int]) -> np.ndarray:
    """Keep the largest component of the union of some classes; what else they cover becomes background.

    Args:
        segmentation: inner class indices (z, y, x).
        classes: inner indices; neighbours are all 26 voxels around (8 in 2D).

    Returns:
        A new map of the same type. Components of equal, largest size are all kept.

    Source: Isensee et al. 2021 (postprocessing); ties as in nnU-Net v2.8.1.
    """
    from scipy import ndimage

    result = segmentation.copy()
    mask = _is_one_of(segmentation, classes)
    box = _bounding_box(mask)
    components, count = ndimage.label(mask[box], structure=np.ones((3,) * mask.ndim))
    if count > 1:
        sizes = np.zeros(count + 1, dtype=np.int64)
        for plane in components:  # plane by plane: indexing makes copies of eight bytes a voxel
            sizes += np.bincount(plane.reshape(-1), minlength=count + 1)
        small = sizes < sizes[1:].max()
        small[0] = False
        for plane, part in zip(components, result[box], strict=True):
            part[small[plane]] = 0
    return result


RULES: "dict[str, Callable[[np.ndarray, Sequence[int]], np.ndarray]]" = {LARGEST_COMPONENT: keep_largest_component}


def apply(segmentation: np.ndarray, rules: Sequence[Postprocessing]) -> np.ndarray:
    """Apply the accepted rules in their order.

    Args:
        segmentation: inner class indices (z, y, x).
        rules: as in ``Choice.postprocessing``.

    Raises:
        OptionError: a rule's name is not known.
    """
    for item in rules:
        segmentation = find(RULES, "postprocessing", item.rule)(segmentation, item.classes)
    return segmentation


def piece_table(
    case: str, label: np.ndarray, prediction: np.ndarray, labels: Labels, annotated: Sequence[int] | None = None
) -> PieceTable:
    """Reduce one case to what the rules need; arguments as of ``overlap.score_case``."""
    histogram = joint_histogram(label, prediction, labels.num_classes, labels.ignore_index)
    box = _bounding_box(prediction != 0)
    label, prediction = label[box], prediction[box].astype(np.min_scalar_type(labels.num_classes))
    pieces, classes = _find_pieces(prediction, labels.num_classes)
    overlap_piece, overlap_class, overlap_voxels, sizes = _overlaps(pieces, label, len(classes), labels)
    return PieceTable(
        case=case,
        histogram=histogram,
        classes=classes,
        sizes=sizes,
        touching=_touching(prediction, pieces, len(classes)),
        overlap_piece=overlap_piece,
        overlap_class=overlap_class,
        overlap_voxels=overlap_voxels,
        annotated=annotated,
    )


def choose_postprocessing(
    cases: Iterable[AnyPrediction], labels: Labels
) -> tuple[tuple[Postprocessing, ...], tuple[Trial, ...], Scores]:
    """Find the rules that help, from out-of-fold predictions.

    First the largest component of all foreground: kept where the mean Dice rises and that of no structure falls. Then,
    where there are several structures, each in its order: kept where its own Dice rises. Structures that are absent
    everywhere before or after a rule are left out of the comparison.

    Args:
        cases: read once; one is held in memory at a time.
        labels: the classes of the dataset.

    Returns:
        The accepted rules, all trials, and the scores with the accepted rules applied.

    Source: nnU-Net v2.8.1 (``determine_postprocessing``), in its order and with its conditions.
    """
    structures = structures_of(labels)
    found = (CasePrediction(*case) for case in cases)
    state = _State([piece_table(*item[:3], labels, item.annotated) for item in found], structures)
    foreground = tuple(sorted({index for item in structures for index in item.classes if index}))
    trials = [state.attempt(Postprocessing(name=ALL_FOREGROUND, classes=foreground), watched=None)]
    if len(structures) > 1:
        for index, structure in enumerate(structures):
            classes = tuple(one for one in structure.classes if one)  # a region may hold background
            if classes:
                trials.append(state.attempt(Postprocessing(name=structure.name, classes=classes), watched=index))
    accepted = tuple(trial.postprocessing for trial in trials if trial.accepted)
    return accepted, tuple(trials), state.scores


class _State:
    """The predictions as the rules accepted so far leave them."""

    def __init__(self, tables: Sequence[PieceTable], structures: Sequence[Structure]) -> None:
        self.tables, self.structures = tables, structures
        self.kept = [np.ones(len(table.classes), dtype=bool) for table in tables]
        self.scores = self._score(self.kept)

    def attempt(self, rule: Postprocessing, watched: int | None) -> Trial:
        """Try a rule and keep its effect if it helps: for the structure ``watched``, or for all where None."""
        kept = [table.keep_largest(mask, rule.classes) for table, mask in zip(self.tables, self.kept, strict=True)]
        before, after = self.scores, self._score(kept)
        watched_indices = range(len(self.structures)) if watched is None else [watched]
        pairs = [(before.dice[index], after.dice[index]) for index in watched_indices]
        trial = Trial(
            postprocessing=rule,
            accepted=_helps([(b, a) for b, a in pairs if b is not None and a is not None]),
            mean_before=before.mean_dice,
            mean_after=after.mean_dice,
            dice_before=before.dice,
            dice_after=after.dice,
            num_changed=sum(not np.array_equal(a, b) for a, b in zip(kept, self.kept, strict=True)),
        )
        if trial.accepted:
            self.kept, self.scores = kept, after
        return trial

    def _score(self, kept: Sequence[np.ndarray]) -> Scores:
        rows = [
            case_score(table.case, table.histogram_with(mask), self.structures, table.annotated)
            for table, mask in zip(self.tables, kept, strict=True)
        ]
        return collect(rows, [item.name for item in self.structures])


def _helps(pairs: Sequence[tuple[float, float]]) -> bool:
    """Some Dice rises and none falls: then, and only then, the mean rises and none falls."""
    return any(after > before for before, after in pairs) and all(after >= before for before, after in pairs)


def _is_one_of(segmentation: np.ndarray, classes: Sequence[int]) -> np.ndarray:
    table = np.zeros(max(int(segmentation.max(initial=0)), *classes) + 1, dtype=bool)
    table[list(classes)] = True
    mask = np.empty(segmentation.shape, dtype=bool)
    for plane, part in zip(segmentation, mask, strict=True):
        part[...] = table[plane]
    return mask


def _bounding_box(mask: np.ndarray) -> tuple[slice, ...]:
    box = []
    for axis in range(mask.ndim):
        present = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        box.append(slice(int(present[0]), int(present[-1]) + 1) if present.size else slice(0, 0))
    return tuple(box)


def _find_pieces(prediction: np.ndarray, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Number the connected voxels of each class from 1 on; give the map (int32) and the class of each piece."""
    from scipy import ndimage

    pieces = np.zeros(prediction.shape, dtype=np.int32)
    classes: list[np.ndarray] = [np.zeros(0, dtype=np.int64)]
    structure, count = np.ones((3,) * prediction.ndim), 0
    boxes = ndimage.find_objects(prediction, max_label=num_classes - 1) if prediction.size else []
    for index, box in enumerate(boxes, start=1):
        if box is None:
            continue
        mask = prediction[box] == index
        found, number = ndimage.label(mask, structure=structure)
        pieces[box][mask] = found[mask] + count
        classes.append(np.full(number, index, dtype=np.int64))
        count += number
    return pieces, np.concatenate(classes)


def _overlaps(
    pieces: np.ndarray, label: np.ndarray, num_pieces: int, labels: Labels
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Count how pieces lie on the label: piece, class and voxels of each pair, and all voxels of each piece."""
    sizes = np.zeros(num_pieces, dtype=np.int64)
    keys, counts = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    planes = max(1, CHUNK_VOXELS // max(pieces[:1].size, 1))
    for start in range(0, len(pieces), planes):
        some = pieces[start : start + planes]
        inside = some > 0
        piece, under = some[inside].astype(np.int64) - 1, label[start : start + planes][inside].astype(np.int64)
        sizes += np.bincount(piece, minlength=num_pieces)
        if labels.ignore_index is not None:
            piece, under = piece[under != labels.ignore_index], under[under != labels.ignore_index]
        found, number = np.unique(piece * labels.num_classes + under, return_counts=True)
        keys.append(found)
        counts.append(number)
    pairs, place = np.unique(np.concatenate(keys), return_inverse=True)
    voxels = np.zeros(len(pairs), dtype=np.int64)
    np.add.at(voxels, place.reshape(-1), np.concatenate(counts))
    return pairs // labels.num_classes, pairs % labels.num_classes, voxels, sizes


def _touching(prediction: np.ndarray, pieces: np.ndarray, num_pieces: int) -> np.ndarray:
    """List the pairs (E, 2) of pieces that touch, each once, numbered from 0."""
    keys = [np.zeros(0, dtype=np.int64)]
    if num_pieces > 1:
        for offset in itertools.product((-1, 0, 1), repeat=prediction.ndim):
            if offset <= (0,) * prediction.ndim:
                continue  # the opposite direction finds the same pairs
            here = tuple(
                slice(max(-step, 0), size - max(step, 0)) for step, size in zip(offset, prediction.shape, strict=True)
            )
            there = tuple(
                slice(max(step, 0), size - max(-step, 0)) for step, size in zip(offset, prediction.shape, strict=True)
            )
            first, second = prediction[here], prediction[there]
            differ = (first != second) & (first != 0) & (second != 0)
            low, high = np.sort(np.stack([pieces[here][differ], pieces[there][differ]]).astype(np.int64) - 1, axis=0)
            keys.append(np.unique(low * num_pieces + high))
    found = np.unique(np.concatenate(keys))
    return np.stack([found // max(num_pieces, 1), found % max(num_pieces, 1)], axis=1)
