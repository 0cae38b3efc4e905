"""Folders: matched by name, every misfit listed at once, scores as if the arrays were given."""

import json
import re
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.data.parallel import MemoryGate
from autoseg.errors import DatasetError, OptionError
from autoseg.evaluation import folders as folders_module
from autoseg.evaluation.file_pairs import class_indices
from autoseg.evaluation.folders import evaluate_folders, value_table
from autoseg.evaluation.measure import measure_case, tabulate
from autoseg.evaluation.overlap import CasePrediction, score_cases, structures_of
from autoseg.evaluation.protocols import find_protocol
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
    assert comparison.text().startswith("protocol default, 3 cases")


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


def lumps(seed: int, shape: tuple[int, int, int] = (12, 14, 16)) -> np.ndarray:
    """Two boxes of values 7 and 9 side by side, as a label map of organs."""
    rng = np.random.default_rng(seed)
    label = np.zeros(shape, dtype=np.uint8)
    start = rng.integers(2, 4, 3)
    label[start[0] : start[0] + 7, start[1] : start[1] + 8, start[2] : start[2] + 5] = 7
    label[start[0] : start[0] + 7, start[1] : start[1] + 8, start[2] + 5 : start[2] + 9] = 9
    return label


def test_table_equals_measuring_the_arrays(folders: tuple[Path, Path]) -> None:
    """Spacing from the files, ignored voxels, classes with other values than their index, partly annotated cases."""
    predictions, labels = folders
    rows = []
    for index in range(4):
        label, guess = draw(index, (0, 7, 9, 200)), draw(50 + index)
        for folder, array in ((labels, label), (predictions, guess)):
            image = SimpleITK.GetImageFromArray(array)
            image.SetSpacing((0.5, 0.75, 2.0))
            folder.mkdir(exist_ok=True)
            SimpleITK.WriteImage(image, str(folder / f"case_{index}.nii.gz"))
        item = CasePrediction(f"case_{index}", LABELS.encode(label), LABELS.encode(guess), (1,) if index == 2 else None)
        rows.append(measure_case(item, structures_of(LABELS), (2.0, 0.75, 0.5), find_protocol(None), ignore_index=3))
    content = {
        "labels": {"background": 0, "edge": 7, "tip": 9, "ignore": 200},
        "labels_present": {"case_2": ["edge"]},
    }
    (labels.parent / "dataset.json").write_text(json.dumps(content))
    comparison = evaluate_folders(predictions, labels)
    assert comparison.table == tabulate(rows, structures_of(LABELS), find_protocol(None))
    assert comparison.table.cases[2].empty[1] == "not annotated"
    one_by_one = evaluate_folders(predictions, labels, threads=1)
    assert one_by_one == comparison


def test_only_what_is_asked_for_is_measured(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    write(folders[1] / "a.nii.gz", draw(0))
    write(folders[0] / "a.nii.gz", draw(1))
    everything = evaluate_folders(*folders, LABELS)
    monkeypatch.setattr("autoseg.evaluation.measure.make_pairs", lambda *_: pytest.fail("no mask is needed"))
    quick = evaluate_folders(*folders, LABELS, metrics=["dice", "recall"])
    assert quick.table.metrics == ("dice", "recall")
    assert quick.scores == everything.scores
    assert [row[0] for row in quick.table.by_structure] == [row[0] for row in everything.table.by_structure]
    with pytest.raises(OptionError, match="did you mean 'dice'"):
        evaluate_folders(*folders, LABELS, metrics=["dcie"])


def test_values_that_a_case_does_not_hold_are_absent_there(folders: tuple[Path, Path]) -> None:
    for case, values in (("a", (0, 7)), ("b", (0, 9)), ("c", (0,))):
        write(folders[1] / f"{case}.nii.gz", draw(0, values))
        write(folders[0] / f"{case}.nii.gz", draw(1, values))
    table = evaluate_folders(*folders).table
    assert table.structures == ("7", "9")
    assert [row.empty for row in table.cases] == [("", "both"), ("both", ""), ("both", "both")]
    absent = dict(zip(table.metrics, table.cases[2].values[0], strict=True))
    assert absent == {"dice": None, "iou": None, "hd95": None, "assd": None, "nsd@1": None, "volume_error": 0.0}
    kits = evaluate_folders(*folders, protocol="nnunet", metrics=["dice", "nsd"])
    assert kits.table.protocol == "nnunet"


def test_lowest_value_is_background_where_there_is_no_0(folders: tuple[Path, Path]) -> None:
    write(folders[1] / "a.nii.gz", draw(0, (3, 7)))
    write(folders[0] / "a.nii.gz", draw(1, (3, 7)))
    comparison = evaluate_folders(*folders)
    assert comparison.table.structures == comparison.scores.structures == ("7",)


def test_protocol_brings_its_own_structures(folders: tuple[Path, Path]) -> None:
    """Without a dataset.json the protocol's values are the classes; a value that it does not know is named."""
    for case, values in (("good", (0, 1, 2, 3)), ("strange", (0, 1, 4))):
        write(folders[1] / f"{case}.nii.gz", draw(0, (0, 1, 2, 3)))
        write(folders[0] / f"{case}.nii.gz", draw(1, values))
    comparison = evaluate_folders(*folders, protocol="kits23")
    assert comparison.table.structures == ("kidney and mass", "mass", "tumor")
    assert comparison.scores.structures == comparison.table.structures
    assert "strange.nii.gz holds the value 4; protocol kits23 knows 0, 1, 2, 3" in comparison.problems[0]
    for sentence in (*find_protocol("kits23").unknown, *find_protocol("kits23").differs):
        assert sentence in comparison.text()
    (folders[1].parent / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "a": 1, "b": 2, "c": 3}}))
    flare = evaluate_folders(*folders, protocol="flare22")
    assert flare.table.structures == ("liver", "right kidney", "spleen")
    assert "also measures pancreas (4)" in flare.text()


def test_decathlon_task_is_told_by_the_dataset(folders: tuple[Path, Path]) -> None:
    write(folders[1] / "a.nii.gz", draw(0))
    write(folders[0] / "a.nii.gz", draw(1))
    with pytest.raises(OptionError, match=r"another tolerance in each task(.|\n)*msd-hippocampus"):
        evaluate_folders(*folders, protocol="msd")
    assert evaluate_folders(*folders, protocol="msd", metrics=["dice", "nsd@2"]).table.protocol == "msd"
    content = {"name": "HepaticVessel", "labels": {"0": "background", "7": "vessel", "9": "tumour"}}
    (folders[1].parent / "dataset.json").write_text(json.dumps(content))
    assert evaluate_folders(*folders, protocol="msd").table.protocol == "msd-hepatic-vessel"


def test_one_message_names_each_perturbed_case(folders: tuple[Path, Path]) -> None:
    """Moved by one voxel, missing, in another geometry, with an unknown value: each by name, in one text."""
    predictions, labels = folders
    names = ("fine", "moved", "missing", "elsewhere", "stranger")
    for seed, name in enumerate(names):
        label = write(labels / f"{name}.nii.gz", lumps(seed))
        guess = label.copy()
        guess[2, 2:4, 4:6] = 0
        if name == "moved":
            guess = np.roll(label, 1, axis=2)
        if name == "stranger":
            guess[5, 5, 5] = 4
        if name != "missing":
            write(predictions / f"{name}.nii.gz", guess, origin=3.0 if name == "elsewhere" else 0.0)
    comparison = evaluate_folders(predictions, labels, LABELS)
    text = comparison.text()
    assert "compared, but look at:" in text
    assert re.search(
        r"moved: the prediction fits its label better .* one voxel down along x: Dice 0\.\d\d\d → 1\.000", text
    )
    assert "2 cases compared, 3 cases not:" in text
    assert "no prediction for 1 case (missing)" in text
    assert "elsewhere.nii.gz lie 3.0 voxels apart in space" in text
    assert "stranger.nii.gz holds the value 4; declared are 0, 7, 9, 200" in text
    assert "fine:" not in text
    assert [row.case for row in comparison.table.cases] == ["fine", "moved"]
    assert comparison.scores.cases[1].mean_dice < comparison.scores.cases[0].mean_dice


@pytest.mark.parametrize(("axis", "step"), [(0, 1), (1, -1), (2, 1)])
def test_a_shift_is_named_whichever_way(folders: tuple[Path, Path], axis: int, step: int) -> None:
    label = write(folders[1] / "a.nii.gz", lumps(0))
    write(folders[0] / "a.nii.gz", np.roll(label, -step, axis=axis))
    (hint,) = evaluate_folders(*folders, LABELS, metrics=["dice"]).hints
    assert f"one voxel {'up' if step > 0 else 'down'} along {'zyx'[axis]}" in hint


def test_errors_that_are_no_shift_give_no_hint(folders: tuple[Path, Path]) -> None:
    for seed, name in enumerate(("noise", "small", "nothing", "flat")):
        label = lumps(seed) if name != "flat" else lumps(seed)[4:5]
        guess = {"noise": draw(seed), "small": label * (np.indices(label.shape)[1] % 2 == 0), "nothing": 0 * label}
        write(folders[1] / f"{name}.nii.gz", label if name != "noise" else draw(seed + 50))
        write(folders[0] / f"{name}.nii.gz", guess.get(name, label * (np.indices(label.shape)[2] < 9)))
    assert evaluate_folders(*folders, LABELS).hints == ()


def test_memory_bounds_how_many_are_open(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one case alone fits the memory, no second one is read beside it, whatever the threads."""
    for index in range(6):
        write(folders[1] / f"{index}.nii.gz", lumps(index))
        write(folders[0] / f"{index}.nii.gz", lumps(index))
    inside, most, lock = 0, 0, threading.Lock()
    hold = MemoryGate.hold

    def watched(self: MemoryGate, num_bytes: int):
        class Guard:
            def __enter__(self) -> None:
                nonlocal inside, most
                self.held = hold(gate, num_bytes)
                self.held.__enter__()
                with lock:
                    inside += 1
                    most = max(most, inside)

            def __exit__(self, *args: object) -> None:
                nonlocal inside
                with lock:
                    inside -= 1
                self.held.__exit__(None, None, None)

        gate = self
        return Guard()

    monkeypatch.setattr(MemoryGate, "hold", watched)
    monkeypatch.setattr("autoseg.data.parallel.host_memory_bytes", lambda: 12 * 14 * 16 * 40)
    assert evaluate_folders(*folders, LABELS, threads=4).scores.mean_dice == 1.0
    assert most == 1


def test_a_case_that_does_not_fit_is_named(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    for case in ("a", "b"):
        write(folders[1] / f"{case}.nii.gz", draw(0))
        write(folders[0] / f"{case}.nii.gz", draw(1))
    compare = folders_module.Comparer.compare

    def fails(self: object, case: str, *args: object):
        if case == "b":
            raise MemoryError
        return compare(self, case, *args)

    monkeypatch.setattr(folders_module.Comparer, "compare", fails)
    comparison = evaluate_folders(*folders, LABELS)
    assert comparison.problems == ("b: does not fit the memory that is free",)


def test_what_no_case_can_be_measured_by_is_one_error(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for case in ("a", "b"):
        write(folders[1] / f"{case}.nii.gz", draw(0))
        write(folders[0] / f"{case}.nii.gz", draw(1))
    monkeypatch.setitem(sys.modules, "skimage.morphology", None)
    with pytest.raises(OptionError, match=r"^the metric cldice needs scikit-image"):
        evaluate_folders(*folders, LABELS, metrics=["cldice"])


@pytest.mark.parametrize("values", [(0, 1, 2, 3), (0, 7, 9, 200), (-5, 0, 3), (0, 70000), (5, 0, 2)])
def test_values_become_their_places(values: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).choice(np.array(values), (3, 4, 5))
    expected = np.vectorize(values.index)(array)
    np.testing.assert_array_equal(class_indices(array, values), expected)


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
