"""Scores of instance maps for the benchmarks beside this file: per image, and over the images whose objects touch.

Not a script. Everything is measured with autoseg's own metrics, file against file or map against map.
"""

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autoseg.data.cases import Case
from autoseg.data.dataset import read_case
from autoseg.data.io import open_label
from autoseg.data.label_layers import read_layers
from autoseg.data.splits import Splits
from autoseg.evaluation.contingency import contingency
from autoseg.evaluation.matching import average_precision, f1
from autoseg.inference.comparison import prediction_file
from autoseg.run_folder import CaseFiles, RunFolder, RunRecord
from planners.labels import Labels
from planners.plan import Plan

MUCH = 0.2  # an image counts as one whose objects touch where at least this share of them has a neighbour


@dataclass(frozen=True, kw_only=True)
class ImageScore:
    """One image: AP and F1 at an IoU of 0.5 (None where neither map holds an object), and its touching objects."""

    case: str
    ap: float | None
    f1: float | None
    touching: float


def run_cases(run: RunFolder, fold: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Give the ids of a fold's training and validation cases."""
    found = run.read(Splits, run.splits_file).folds[fold]
    return found.train, found.validation


def case_files(run: RunFolder) -> dict[str, CaseFiles]:
    """Give the files of every case of a run."""
    return {item.id: item for item in run.read(RunRecord, run.run_file).cases}


def read_ids(files: CaseFiles, labels: Labels) -> np.ndarray:
    """Read the ids of a case's objects, z, y, x."""
    case = Case(
        id=files.id,
        images=tuple(Path(item) for item in files.images),
        label=None if files.label is None else Path(files.label),
        classes=None if files.classes is None else Path(files.classes),
    )
    _, label = read_case(case)
    if label is None:
        raise ValueError(f"{files.id} has no label")
    return read_layers(label, None if case.classes is None else open_label(case.classes), labels)[1]


def score(case: str, label_ids: np.ndarray, predicted_ids: np.ndarray) -> ImageScore:
    """Compare two maps of ids."""
    table = contingency(label_ids, predicted_ids)
    parts = average_precision(table, 0.5), f1(table, 0.5)
    ap, both = (item.top / item.bottom if item.bottom else None for item in parts)
    return ImageScore(case=case, ap=ap, f1=both, touching=touching_share(label_ids))


def touching_share(ids: np.ndarray) -> float:
    """Give the share of the objects that have a voxel beside another object's; 0 where there is none."""
    names = np.unique(ids)
    touching: set[int] = set()
    for axis in range(ids.ndim):
        first, second = (ids.take(range(*ends), axis) for ends in ((0, ids.shape[axis] - 1), (1, ids.shape[axis])))
        meet = (first != second) & (first > 0) & (second > 0)
        touching |= {*np.unique(first[meet]).tolist(), *np.unique(second[meet]).tolist()}
    return len(touching) / max(int((names > 0).sum()), 1)


def score_fold(run: RunFolder, configuration: str, fold: int) -> list[ImageScore]:
    """Score the validation predictions of one fold as they lie there: decoded with the plan's settings."""
    labels, files = run.read(Plan, run.plan_file).labels, case_files(run)
    scores = []
    for case in run_cases(run, fold)[1]:
        predicted = open_label(prediction_file(run.fold(configuration, fold), files[case])).read()[0]
        scores.append(score(case, read_ids(files[case], labels), predicted))
    return scores


def fold_seconds(run: RunFolder, configuration: str, fold: int) -> tuple[float, float]:
    """Give how long a fold was trained, and how long its validation took."""
    folder = run.fold(configuration, fold)
    rows = [json.loads(line) for line in folder.progress.read_text().splitlines()]
    return sum(row["seconds"] for row in rows), json.loads(folder.record.read_text()).get("validation_s") or 0.0


def mean(values: Sequence[float | None]) -> str:
    """Word the mean of the values there are."""
    found = [value for value in values if value is not None]
    return f"{statistics.fmean(found):.4f}" if found else "–"


def table(rows: Mapping[str, Sequence[ImageScore]], more: Mapping[str, str] | None = None) -> str:
    """Lay out means over all images and over those whose objects touch, a row per way; ``more`` ends each row."""
    subsets: dict[str, Callable[[ImageScore], bool]] = {
        "all": lambda item: True,
        "any touch": lambda item: item.touching > 0,
        f"≥ {MUCH:.0%} touch": lambda item: item.touching >= MUCH,
    }
    some = next(iter(rows.values()))
    counts = {name: sum(map(within, some)) for name, within in subsets.items()}
    heads = [f"{name} ({counts[name]})" for name in subsets]
    lines = [f"{'':34} {'F1@0.5':^41}  {'AP@0.5':^41}", f"{'':34} " + "  ".join(f"{head:>13}" for head in heads * 2)]
    for name, scores in rows.items():
        cells = [
            mean([getattr(item, metric) for item in scores if within(item)])
            for metric in ("f1", "ap")
            for within in subsets.values()
        ]
        lines.append(f"{name:34} " + "  ".join(f"{cell:>13}" for cell in cells) + f"  {(more or {}).get(name, '')}")
    return "\n".join(lines)
