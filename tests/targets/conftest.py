"""How two maps of objects agree; shared by the tests of targets of instances."""

from collections.abc import Callable

import numpy as np
import pytest

from autoseg.targets.object_maps import number_objects


def overlaps(wanted: np.ndarray, found: np.ndarray) -> np.ndarray:
    """IoU of every object wanted (rows) with every object found."""
    first, rows = number_objects(wanted)
    second, columns = number_objects(found)
    pairs = first.ravel().astype(np.int64) * (columns + 1) + second.ravel()
    table = np.bincount(pairs, minlength=(rows + 1) * (columns + 1)).reshape(rows + 1, columns + 1).astype(float)
    table /= table.sum(0) + table.sum(1)[:, None] - table
    return table[1:, 1:]


def _precision(wanted: np.ndarray, found: np.ndarray, threshold: float) -> tuple[float, float]:
    """AP = TP / (TP + FP + FN) and F1 at a threshold of 0.5 or more; 1 where there is nothing to find."""
    table = overlaps(wanted, found)
    tp = (table > threshold).sum() if table.size else 0
    wrong = sum(table.shape) - 2 * tp
    return (tp / (tp + wrong), 2 * tp / (2 * tp + wrong)) if tp + wrong else (1.0, 1.0)


def _same_objects(first: np.ndarray, second: np.ndarray) -> bool:
    """Tell whether two maps hold the same objects, whatever their numbers."""
    pairs = np.unique(np.stack([first.ravel(), second.ravel()]), axis=1)
    one_to_one = all(len(np.unique(row)) == pairs.shape[1] for row in pairs)
    return one_to_one and bool(((first > 0) == (second > 0)).all())


@pytest.fixture(scope="session")
def precision() -> Callable[..., object]:
    """Give a function for AP and F1 at a threshold."""
    return _precision


@pytest.fixture(scope="session")
def same_objects() -> Callable[..., object]:
    """Give a function that compares maps whatever their numbers."""
    return _same_objects
