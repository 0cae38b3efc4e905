"""Folders: matched by name, every misfit listed at once, scores as if the arrays were given."""

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.errors import DatasetError
from autoseg.evaluation.folders import evaluate_folders, value_table
from autoseg.evaluation.overlap import score_cases
from planners.labels import LabelClass, Labels

LABELS = Labels(
    classes=tuple(LabelClass(name=name, value=value) for name, value in (("background", 0), ("edge", 7), ("tip", 9))),
    ignore=200,
)


def write(path: Path, array: np.ndarray, origin: float = 0.0) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = SimpleITK.GetImageFromArray(array)
    image.SetOrigin((origin,) * image.GetDimension())
    SimpleITK.WriteImage(image, str(path))
    return array


def draw(seed: int, values: tuple[int, ...] = (0, 7, 9)) -> np.ndarray:
    return np.random.default_rng(seed).choice(np.array(values, dtype=np.uint8), (4, 5, 6))


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "predictions", tmp_path / "labels"


def test_scores_equal_those_of_the_arrays(folders: tuple[Path, Path]) -> None:
    predictions, labels = folders
    cases = []
    for index in range(3):
        label = write(labels / f"case_{index}.nii.gz", draw(index, (0, 7, 9, 200)))
        guess = write(predictions / f"case_{index}.mha", draw(100 + index))
        cases.append((f"case_{index}", LABELS.encode(label), LABELS.encode(guess)))
    comparison = evaluate_folders(predictions, labels, LABELS)
    assert comparison.problems == ()
    assert comparison.scores == score_cases(cases, LABELS)
    assert comparison.text().splitlines()[0].startswith("structure")


def test_names_come_from_the_dataset_beside_the_labels(folders: tuple[Path, Path]) -> None:
    predictions, labels = folders
    write(labels / "a.nii.gz", draw(0))
    write(predictions / "a.nii.gz", draw(1))
    (labels.parent / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "rim": 7, "top": 9}}))
    assert evaluate_folders(predictions, labels).scores.structures == ("rim", "top")


def test_classes_that_a_case_has_not_been_annotated_for_do_not_count(folders: tuple[Path, Path]) -> None:
    predictions, labels = folders
    for case in ("a", "b"):
        write(labels / f"{case}.nii.gz", draw(0, (0, 7)) if case == "b" else draw(0))
        write(predictions / f"{case}.nii.gz", draw(1))
    content = {"labels": {"background": 0, "rim": 7, "top": 9}, "labels_present": {"b": ["rim"]}}
    (labels.parent / "dataset.json").write_text(json.dumps(content))
    scores = evaluate_folders(predictions, labels).scores
    assert [row.dice[1] for row in scores.cases][1] is None
    assert scores.dice[1] == scores.cases[0].dice[1]
    assert scores.num_absent == (0, 1)
    alone = evaluate_folders(predictions / "b.nii.gz", labels / "b.nii.gz").scores
    assert alone.dice[1] is None


def test_without_names_every_value_is_a_class(folders: tuple[Path, Path]) -> None:
    predictions, labels = folders
    write(labels / "a.nii.gz", draw(0, (0, 7)))
    write(predictions / "a.nii.gz", draw(1, (0, 9)))
    scores = evaluate_folders(predictions, labels).scores
    assert scores.structures == ("7", "9")
    assert scores.dice == (0.0, 0.0)


def test_two_files_are_compared_whatever_their_names(folders: tuple[Path, Path]) -> None:
    label = write(folders[1] / "truth.nii.gz", draw(0))
    write(folders[0] / "guess.nii.gz", label)
    comparison = evaluate_folders(folders[0] / "guess.nii.gz", folders[1] / "truth.nii.gz")
    assert comparison.scores.mean_dice == 1.0
    assert comparison.problems == ()


def test_every_misfit_is_listed_and_the_rest_scored(folders: tuple[Path, Path]) -> None:
    predictions, labels = folders
    for name in ("good", "missing", "smaller", "shifted", "fraction", "strange", "twice"):
        write(labels / f"{name}.nii.gz", draw(0))
    for name in ("good", "extra"):
        write(predictions / f"{name}.nii.gz", draw(1))
    write(predictions / "smaller.nii.gz", draw(1)[1:])
    write(predictions / "shifted.nii.gz", draw(1), origin=2.0)
    write(predictions / "fraction.nii.gz", draw(1).astype(np.float32) + 0.5)
    write(predictions / "strange.nii.gz", draw(1, (0, 8)))
    write(predictions / "twice.nii.gz", draw(1))
    write(predictions / "twice.mha", draw(1))
    (predictions / "broken.nii.gz").write_bytes(b"no image")
    write(labels / "broken.nii.gz", draw(0))
    (predictions / "notes.txt").write_text("not an image")
    comparison = evaluate_folders(predictions, labels, LABELS)
    assert [row.case for row in comparison.scores.cases] == ["good"]
    text = "\n".join(comparison.problems)
    for part in (
        "no prediction for 1 case (missing)",
        "no label for 1 case (extra)",
        "has shape 3×5×6",
        "2.0 voxels apart",
        "fraction.nii.gz holds fractions",
        "strange.nii.gz holds the value 8; declared are 0, 7, 9, 200",
        "twice: two files of one name",
        "broken.nii.gz",
    ):
        assert part in text
    assert len(comparison.problems) == 8
    assert comparison.without_prediction == ("missing",)
    assert comparison.without_label == ("extra",)
    assert comparison.num_left_out == 8
    assert "1 case compared, 8 cases not:" in comparison.text()
    assert "--json" not in comparison.text()


def test_of_many_missing_cases_a_few_are_named_and_the_record_has_all(folders: tuple[Path, Path]) -> None:
    names = [f"case_{index:03d}" for index in range(12)]
    label = draw(0)
    for name in names:
        write(folders[1] / f"{name}.nii.gz", label)
    write(folders[0] / "case_004.nii.gz", label)
    comparison = evaluate_folders(*folders, LABELS)
    (problem,) = comparison.problems
    assert "11 cases (case_000, case_001, case_002, case_003, case_005 and 6 more)" in problem
    assert comparison.without_prediction == tuple(name for name in names if name != "case_004")
    assert comparison.num_left_out == 11
    assert comparison.text().endswith("(--json names every case)")


def test_nothing_to_compare_is_an_error(folders: tuple[Path, Path]) -> None:
    write(folders[1] / "a.nii.gz", draw(0))
    with pytest.raises(DatasetError, match=r"predictions does not exist"):
        evaluate_folders(*folders)
    folders[0].mkdir()
    with pytest.raises(DatasetError, match=r"can be compared(.|\n)*no prediction for 1 case \(a\)"):
        evaluate_folders(*folders)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), low=st.integers(-3, 2), scale=st.sampled_from([1, 90, 5000]))
def test_table_of_values_equals_counting(seed: int, low: int, scale: int) -> None:
    rng = np.random.default_rng(seed)
    label, guess = (rng.integers(low, low + 4, (3, 4, 5)) * scale for _ in range(2))
    table = value_table("a", label, guess)
    assert table.label_values == tuple(np.unique(label).tolist())
    assert table.predicted_values == tuple(np.unique(guess).tolist())
    for row, value in enumerate(table.label_values):
        for column, other in enumerate(table.predicted_values):
            assert table.counts[row, column] == ((label == value) & (guess == other)).sum()
