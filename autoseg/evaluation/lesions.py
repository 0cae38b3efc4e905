"""Lesions: connected components of one structure, which of them were found, and how well each was segmented.

A case's Dice is ruled by its largest lesion. Here every lesion counts the same: those that were missed and those that
were invented too. A *lesion* is a connected component of the label or of the prediction; with ``lesion_dilation`` all
parts of the label that touch once they have been grown by so many voxels are one lesion (the label itself stays as it
is). A lesion of the label and one of the prediction *meet* where they share a voxel, the label's grown where it was.

Lesions of the label that are not larger than ``lesion_min_mm3`` do not count, and neither do lesions of the prediction
that meet no others: they are no mistake.
"""

import functools
from dataclasses import dataclass

import numpy as np

from autoseg.evaluation.metric_options import FULL, MetricOptions
from autoseg.evaluation.pairs import MARGIN, Pair, make_pair

DILATION_CONNECTIVITY = 2
"""Growing goes to voxels that share a face or an edge. Source: BraTS 2023, as ``lesion_wise``."""

ROUNDING = 1e-6  # relative; spacings come from headers in float32, and a volume at the limit must not pass it by that

Box = tuple[slice, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Lesions:
    """The lesions of a pair, numbered from 1, and which of them meet.

    Attributes:
        label_map, prediction_map: int32, shape of the pair: the number of the lesion, 0 where there is none.
        label_sizes, prediction_sizes: voxels per lesion; entry i is lesion i + 1.
        meetings: (k, 2) lesions that meet, as entries of the two lists above: label, prediction.
        shared: (k) voxels that those have in common, which are none where only the grown lesion was met.
    """

    label_map: np.ndarray
    prediction_map: np.ndarray
    label_sizes: np.ndarray
    prediction_sizes: np.ndarray
    meetings: np.ndarray
    shared: np.ndarray

    @functools.cached_property
    def label_boxes(self) -> list[Box]:
        """Where each lesion of the label lies."""
        return _boxes(self.label_map)

    @functools.cached_property
    def prediction_boxes(self) -> list[Box]:
        """Where each lesion of the prediction lies."""
        return _boxes(self.prediction_map)


@dataclass(frozen=True, kw_only=True)
class LesionWise:
    """Lesion-wise scores of one structure in one case.

    Attributes:
        dice, hd95: means over all lesions that count; those missed or invented have Dice 0 and the penalty as HD95.
            None where no lesion counts.
        lesion_dice, lesion_hd95: per lesion of the label that counts.
        num_missed: how many of those meet no lesion of the prediction.
        num_invented: lesions of the prediction that meet none of the label.
    """

    dice: float | None
    hd95: float | None
    lesion_dice: tuple[float, ...]
    lesion_hd95: tuple[float, ...]
    num_missed: int
    num_invented: int


def find_lesions(pair: Pair, options: MetricOptions | None = None) -> Lesions:
    """Tell the lesions of a pair apart, and find which of them meet.

    Args:
        pair: masks of one structure.
        options: ``connectivity`` and ``lesion_dilation``.
    """
    from scipy import ndimage

    options = options or MetricOptions()
    dimensions = pair.label.ndim
    structure = ndimage.generate_binary_structure(dimensions, dimensions if options.connectivity == FULL else 1)
    grown = pair.label
    if options.lesion_dilation and pair.has_label:
        growth = ndimage.generate_binary_structure(dimensions, min(DILATION_CONNECTIVITY, dimensions))
        grown = ndimage.binary_dilation(pair.label, growth, iterations=options.lesion_dilation)
    grown_map, num_labelled = _components(grown, structure)
    prediction_map, num_predicted = _components(pair.prediction, structure)
    label_map = grown_map if grown is pair.label else np.where(pair.label, grown_map, 0)
    meetings, shared = _met(label_map, prediction_map, num_predicted)
    if grown is not pair.label:
        wider, _ = _met(grown_map, prediction_map, num_predicted)
        counts = np.zeros(len(wider), dtype=np.int64)
        counts[np.searchsorted(wider, meetings)] = shared  # both are sorted, and the wider list holds the other
        meetings, shared = wider, counts
    return Lesions(
        label_map=label_map,
        prediction_map=prediction_map,
        label_sizes=np.bincount(label_map.reshape(-1), minlength=num_labelled + 1)[1:],
        prediction_sizes=np.bincount(prediction_map.reshape(-1), minlength=num_predicted + 1)[1:],
        meetings=np.stack(np.divmod(meetings, num_predicted + 1), axis=1) - 1,
        shared=shared,
    )


def lesion_recall(pair: Pair, options: MetricOptions) -> float | None:
    """Part of the label's lesions that were detected. None where the label has no lesion that counts.

    A lesion is detected where a lesion of the prediction meets it; stricter with ``lesion_overlap`` (more than this
    fraction of it is predicted) or ``lesion_iou``. Heeds ``connectivity``, ``lesion_min_mm3``, ``lesion_dilation``.

    Source: Kuijf et al., WMH segmentation challenge (2019), section II-D (any overlap).
    """
    detected, counts, _, _ = _detected(pair, options)
    return _part(detected, counts)


def lesion_precision(pair: Pair, options: MetricOptions) -> float | None:
    """Part of the prediction's lesions that are right. None where the prediction has no lesion that counts.

    A lesion of the prediction is right where it meets one of the label; stricter with ``lesion_overlap`` (more than
    this fraction of it is labelled) or ``lesion_iou``. Heeds what ``lesion_recall`` heeds.
    """
    _, _, right, counts = _detected(pair, options)
    return _part(right, counts)


def lesion_f1(pair: Pair, options: MetricOptions) -> float | None:
    """Harmonic mean of lesion recall and precision; 0 where one of them is 0, or where only one side has lesions.

    None where neither label nor prediction has a lesion that counts. Heeds what ``lesion_recall`` heeds.

    Source: Kuijf et al., WMH segmentation challenge (2019), section II-D.
    """
    detected, label_counts, right, prediction_counts = _detected(pair, options)
    recall, precision = _part(detected, label_counts), _part(right, prediction_counts)
    if recall is None and precision is None:
        return None
    if not recall or not precision:
        return 0.0
    return 2 * recall * precision / (recall + precision)


def lesion_dice(pair: Pair, options: MetricOptions) -> float | None:
    """Mean Dice over lesions, as ``lesion_wise`` defines it. None where neither side has a lesion that counts."""
    lesions = lesions_of(pair, options)
    dice = _dice(lesions)[_counted(pair, lesions, options)]
    num = dice.size + len(_invented(lesions))
    return float(dice.sum() / num) if num else None


def lesion_hd95(pair: Pair, options: MetricOptions) -> float | None:
    """Mean HD95 over lesions in mm, as ``lesion_wise`` defines it. None where neither side has a lesion that counts."""
    return lesion_wise(pair, options).hd95


def lesion_wise(pair: Pair, options: MetricOptions) -> LesionWise:
    """Score every lesion by itself, as BraTS 2023 does.

    Each lesion of the label is compared with all lesions of the prediction that meet it, taken together: Dice and HD95
    (``surface.hd95``). One that none meets counts Dice 0 and the penalty as HD95; so does each lesion of the prediction
    that meets none, whatever its size. A lesion of the prediction that meets several counts with each of them.

    Args:
        pair: masks of one structure.
        options: ``connectivity``, ``lesion_min_mm3``, ``lesion_dilation``, ``lesion_penalty_mm``.

    Source: https://github.com/rachitsaluja/BraTS-2023-Metrics (``brats_metrics.py``, commit 0c603fc): 26 neighbours;
    dilation by 3 voxels (GLI, SSA, PED) or 1 (MEN, MET); lesions up to 50 mm³ (MET: 2) left out; penalty 374 mm; Dice 1
    and HD95 0 mm where no lesion counts, which here is the protocol's to say.
    """
    lesions = lesions_of(pair, options)
    counted = _counted(pair, lesions, options)
    num_invented = len(_invented(lesions))
    dice = _dice(lesions)[counted]
    distances = np.array(
        [_distance(pair, lesions, index, options) for index in np.flatnonzero(counted).tolist()], dtype=np.float64
    )
    num = dice.size + num_invented
    met = np.bincount(lesions.meetings[:, 0], minlength=len(lesions.label_sizes)) > 0
    return LesionWise(
        dice=float(dice.sum() / num) if num else None,
        hd95=float((distances.sum() + num_invented * options.lesion_penalty_mm) / num) if num else None,
        lesion_dice=tuple(dice.tolist()),
        lesion_hd95=tuple(distances.tolist()),
        num_missed=int((counted & ~met).sum()),
        num_invented=num_invented,
    )


def lesions_of(pair: Pair, options: MetricOptions) -> Lesions:
    """Give the lesions of a pair; those of the default options are found once and kept with it."""
    if options.connectivity == FULL and options.lesion_dilation == 0:
        return pair.lesions
    return find_lesions(pair, options)


def _components(mask: np.ndarray, structure: np.ndarray) -> tuple[np.ndarray, int]:
    from scipy import ndimage

    if mask.size == 0:
        return np.zeros(mask.shape, dtype=np.int32), 0
    return ndimage.label(mask, structure)


def _boxes(numbered: np.ndarray) -> list[Box]:
    from scipy import ndimage

    return [box for box in ndimage.find_objects(numbered) if box is not None]


def _met(label_map: np.ndarray, prediction_map: np.ndarray, num_predicted: int) -> tuple[np.ndarray, np.ndarray]:
    """Lesions that share voxels, as label × (num_predicted + 1) + prediction, sorted; and how many voxels."""
    both = np.flatnonzero((label_map > 0) & (prediction_map > 0))
    codes = label_map.reshape(-1)[both].astype(np.int64) * (num_predicted + 1) + prediction_map.reshape(-1)[both]
    return np.unique(codes, return_counts=True)


def _counted(pair: Pair, lesions: Lesions, options: MetricOptions) -> np.ndarray:
    """Which lesions of the label count."""
    return lesions.label_sizes * pair.voxel_mm3 > options.lesion_min_mm3 * (1 + ROUNDING)


def _invented(lesions: Lesions) -> np.ndarray:
    """Lesions of the prediction that meet none, as entries of its list."""
    met = np.bincount(lesions.meetings[:, 1], minlength=len(lesions.prediction_sizes))
    return np.flatnonzero(met == 0)


def _dice(lesions: Lesions) -> np.ndarray:
    """Dice of every lesion of the label with all that meets it."""
    num, label_index, prediction_index = len(lesions.label_sizes), *lesions.meetings.T
    shared = np.bincount(label_index, weights=lesions.shared, minlength=num)
    met = np.bincount(label_index, weights=lesions.prediction_sizes[prediction_index], minlength=num)
    return 2 * shared / (lesions.label_sizes + met)


def _detected(pair: Pair, options: MetricOptions) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Per lesion of the label: whether it is detected, and whether it counts; the same of the prediction."""
    lesions = lesions_of(pair, options)
    label_index, prediction_index = lesions.meetings.T
    label_sizes, prediction_sizes, shared = lesions.label_sizes, lesions.prediction_sizes, lesions.shared
    counts = _counted(pair, lesions, options)
    detected, right = np.zeros(len(label_sizes), dtype=bool), np.zeros(len(prediction_sizes), dtype=bool)
    if options.lesion_overlap:
        covered = np.bincount(label_index, weights=shared, minlength=len(label_sizes))
        detected = covered > options.lesion_overlap * label_sizes
        labelled = np.bincount(prediction_index, weights=shared, minlength=len(prediction_sizes))
        right = labelled > options.lesion_overlap * prediction_sizes
    else:
        union = label_sizes[label_index] + prediction_sizes[prediction_index] - shared
        matching = shared > options.lesion_iou * union if options.lesion_iou else np.ones(len(union), dtype=bool)
        detected[label_index[matching]] = True
        right[prediction_index[matching]] = True
    meets_any, meets_counted = np.zeros_like(right), np.zeros_like(right)
    meets_any[prediction_index] = True
    meets_counted[prediction_index[counts[label_index]]] = True
    return detected, counts, right, meets_counted | ~meets_any


def _part(chosen: np.ndarray, counts: np.ndarray) -> float | None:
    return float(chosen[counts].mean()) if counts.any() else None


def _distance(pair: Pair, lesions: Lesions, index: int, options: MetricOptions) -> float:
    """HD95 of one lesion of the label with all that meets it; the penalty where nothing does."""
    from autoseg.evaluation.surface import hd95

    meeting = lesions.meetings[lesions.meetings[:, 0] == index, 1]
    if meeting.size == 0:
        return options.lesion_penalty_mm
    boxes = [lesions.label_boxes[index], *(lesions.prediction_boxes[other] for other in meeting)]
    box = tuple(
        slice(max(min(part.start for part in parts) - MARGIN, 0), max(part.stop for part in parts) + MARGIN)
        for parts in zip(*boxes, strict=True)
    )
    chosen = np.zeros(len(lesions.prediction_sizes) + 1, dtype=bool)
    chosen[meeting + 1] = True
    part = make_pair(lesions.label_map[box] == index + 1, chosen[lesions.prediction_map[box]], pair.spacing_mm)
    distance = hd95(part, options)
    assert distance is not None  # both sides hold voxels
    return distance
