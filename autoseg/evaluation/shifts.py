"""Shifts: find predictions that would fit their label much better if they were moved by one voxel.

A volume written with an axis off by one has the right shape and geometry, so nothing is wrong with it that could be
refused; its scores are merely lower. That is worth a hint, not an error: the case is scored as it is.
"""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from autoseg.evaluation.file_pairs import ValueTable

GOOD_ENOUGH = 0.98  # assumption: above, no shift is worth a word
REMAINING_ERROR = 0.5  # assumption: a shift is named where it takes away half of what Dice lacks
AXES = ("z", "y", "x")


def find_shift(label_ZYX: np.ndarray, prediction_ZYX: np.ndarray, table: "ValueTable") -> str:
    """Say whether moving a prediction by one voxel along one axis would at least halve what its Dice lacks.

    Dice is that of all foreground: voxels of equal value other than 0.

    Args:
        label_ZYX, prediction_ZYX: integers, equal shapes.
        table: their counts.

    Returns:
        A sentence, or nothing.
    """
    rows = np.array([value != 0 for value in table.label_values])
    columns = np.array([value != 0 for value in table.predicted_values])
    num_labelled, num_predicted = int(table.counts[rows].sum()), int(table.counts[:, columns].sum())
    if not num_labelled or not num_predicted:
        return ""
    same = {value: index for index, value in enumerate(table.predicted_values)}
    num_equal = sum(
        int(table.counts[row, same[value]]) for row, value in enumerate(table.label_values) if value and value in same
    )
    dice = 2 * num_equal / (num_labelled + num_predicted)
    if dice >= GOOD_ENOUGH:
        return ""
    counts = _moved(label_ZYX, prediction_ZYX)
    (axis, step), best = max(counts.items(), key=lambda item: item[1])
    moved_dice = 2 * best / (num_labelled + num_predicted)
    if 1 - moved_dice > REMAINING_ERROR * (1 - dice):
        return ""
    direction = "up" if step > 0 else "down"
    return (
        f"the prediction fits its label better when moved by one voxel {direction} along {AXES[axis]}: Dice "
        f"{dice:.3f} → {moved_dice:.3f}. It is scored as it is; check how it was written"
    )


def _moved(label_ZYX: np.ndarray, prediction_ZYX: np.ndarray) -> dict[tuple[int, int], int]:
    """Per axis and step: foreground voxels that would be equal if the prediction were moved by that step."""
    counts = {}
    for axis, size in enumerate(label_ZYX.shape):
        if size < 2:
            continue
        behind, before = (tuple(slice(None) if a != axis else part for a in range(3)) for part in _ends())
        counts[(axis, 1)] = _equal(label_ZYX[behind], prediction_ZYX[before])
        counts[(axis, -1)] = _equal(label_ZYX[before], prediction_ZYX[behind])
    return counts or {(0, 1): 0}


def _ends() -> tuple[slice, slice]:
    return slice(1, None), slice(None, -1)


def _equal(label_ZYX: np.ndarray, prediction_ZYX: np.ndarray) -> int:
    """Count equal foreground voxels slice by slice: the temporaries stay small."""
    return sum(
        int(np.count_nonzero((one == other) & (one != 0))) for one, other in zip(label_ZYX, prediction_ZYX, strict=True)
    )
