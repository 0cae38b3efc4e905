"""Compared folders as text: the table on the terminal, and the CSV."""

import csv
import io
import re
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from autoseg.evaluation.folder_text import WIDTH, interval_text, metric_table
from autoseg.evaluation.folders import evaluate_folders
from autoseg.evaluation.measure import tabulate
from autoseg.evaluation.metric_records import Interval
from autoseg.evaluation.protocols import find_protocol
from planners.labels import LabelClass, Labels

LABELS = Labels(
    classes=tuple(LabelClass(name=name, value=value) for name, value in (("background", 0), ("edge", 7), ("tip", 9)))
)


def write(path: Path, array: np.ndarray) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array), str(path))
    return array


def draw(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).choice(np.array((0, 7, 9), dtype=np.uint8), (4, 5, 6))


def lumps(seed: int) -> np.ndarray:
    """Two boxes of values 7 and 9 side by side."""
    rng = np.random.default_rng(seed)
    label = np.zeros((12, 14, 16), dtype=np.uint8)
    start = rng.integers(2, 4, 3)
    label[start[0] : start[0] + 7, start[1] : start[1] + 8, start[2] : start[2] + 5] = 7
    label[start[0] : start[0] + 7, start[1] : start[1] + 8, start[2] + 5 : start[2] + 9] = 9
    return label


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "predictions", tmp_path / "labels"


def test_text_has_a_row_per_structure_and_names_the_worst(folders: tuple[Path, Path]) -> None:
    for index in range(7):
        label = write(folders[1] / f"case_{index}.nii.gz", lumps(index))
        guess = label.copy()
        guess[:, :, : 5 + (index + 3) % 7] = 0
        write(folders[0] / f"case_{index}.nii.gz", guess)
    comparison = evaluate_folders(*folders, LABELS)
    lines = comparison.text().splitlines()
    assert lines[0] == "protocol default, 7 cases; means with 95 % intervals"
    assert all(len(line) <= WIDTH for line in lines)
    interval = comparison.table.by_structure[0][0]
    assert interval_text(interval) in next(line for line in lines if line.startswith("edge"))
    assert sum(line.startswith("mean ") for line in lines) == 2, "the columns need two blocks"
    worst = sorted(comparison.scores.cases, key=lambda row: row.mean_dice or 0)[:5]
    assert lines[-6] == "worst cases by mean Dice"
    assert [line.split()[0] for line in lines[-5:]] == [row.case for row in worst]
    assert any(re.search(r"found +missed", line) for line in lines)
    missed = [sum(row.empty[place] == "prediction" for row in comparison.table.cases) for place in (0, 1)]
    assert missed[0] > 1
    assert f"  edge: {missed[0]} cases without HD95, ASSD" in lines


def test_worst_is_what_the_first_metric_calls_worse(folders: tuple[Path, Path]) -> None:
    for index in range(3):
        label = write(folders[1] / f"case_{index}.nii.gz", lumps(0))
        guess = label.copy()
        guess[:, :, : 4 + index] = 0
        write(folders[0] / f"case_{index}.nii.gz", guess)
    for metric in ("hd95", "volume_error", "volume"):
        text = evaluate_folders(*folders, LABELS, metrics=[metric]).text()
        if metric == "volume":
            assert "worst" not in text, "a volume is neither good nor bad"
        else:
            assert text.splitlines()[-3].split()[0] == "case_2"


def test_table_of_no_case_is_a_table() -> None:
    lines = metric_table(tabulate([], ["tip"], find_protocol(None), ["dice", "hd95"])).splitlines()
    assert [line.split() for line in lines[2:]] == [
        ["structure", "Dice", "HD95", "[mm]", "found"],
        ["tip", "–", "–", "0"],
    ]


@pytest.mark.parametrize(
    ("interval", "text"),
    [
        (Interval(mean=0.9123, low=0.8904, high=0.931, num_cases=5), "0.912 (0.890–0.931)"),
        (Interval(mean=-1.0, low=-2.5, high=0.25, num_cases=5), "-1.000 (-2.500 … 0.250)"),
        (None, "–"),
    ],
)
def test_intervals_as_text(interval: Interval | None, text: str) -> None:
    assert interval_text(interval) == text


def test_csv_has_a_row_per_case_and_structure(folders: tuple[Path, Path]) -> None:
    for case in ("a", "b"):
        write(folders[1] / f"{case}.nii.gz", draw(0))
        write(folders[0] / f"{case}.nii.gz", draw(1) if case == "a" else 0 * draw(1))
    table = (comparison := evaluate_folders(*folders, LABELS)).table
    rows = list(csv.DictReader(io.StringIO(comparison.csv())))
    assert [(row["case"], row["structure"]) for row in rows] == [(c, s) for c in "ab" for s in ("edge", "tip")]
    for row, (case, place) in zip(rows, ((case, place) for case in table.cases for place in (0, 1)), strict=True):
        for index, name in enumerate(table.metrics):
            value = case.values[place][index]
            assert (float(row[name]) if row[name] else None) == value
        assert row["empty"] == case.empty[place]
        assert int(row["voxels_label"]) == case.counts[place][2]
    assert rows[2]["hd95"] == ""
    assert rows[2]["empty"] == "prediction"
