"""Segmentations on disk compared: voxels that agree, and Dice against labels. Not a script."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from autoseg.evaluation.metrics import Counts, dice


def read(folder: Path, case: str, ending: str) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(folder / f"{case}{ending}")))


def agreement(first: Path, second: Path, cases: Sequence[str], ending: str) -> tuple[float, float]:
    """Give the part of the voxels that agree, in all cases and in the worst."""
    same = [read(first, case, ending) == read(second, case, ending) for case in cases]
    return sum(item.sum() for item in same) / sum(item.size for item in same), min(item.mean() for item in same)


def mean_dice(found: Path, labels: Path, cases: Sequence[str], dataset: Mapping[str, Any]) -> float:
    """Mean over cases and classes (or regions) of ``dataset.json``; a class that neither has does not count."""
    scores, ending = [], dataset["file_ending"]
    for case in cases:
        pair = read(found, case, ending), read(labels, case, ending)
        for name, values in dataset["labels"].items():
            if name in ("background", "ignore"):
                continue
            ours, label = (np.isin(array, values) for array in pair)
            scores.append(dice(Counts(int((ours & label).sum()), int(ours.sum()), int(label.sum()), 1.0)))
    return statistics.mean(score for score in scores if score is not None)
