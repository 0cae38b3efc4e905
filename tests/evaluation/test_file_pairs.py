"""Pairs of files: values become places or are refused, within memory that is known beforehand."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from autoseg.data.io import open_label
from autoseg.errors import DatasetError
from autoseg.evaluation.file_pairs import Comparer, class_indices, integers, value_table
from autoseg.evaluation.folders import evaluate_folders
from autoseg.evaluation.measure import Ruler
from autoseg.evaluation.overlap import CHUNK_VOXELS
from autoseg.evaluation.protocols import find_protocol
from planners.labels import LabelClass, Labels


def write(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array), str(path))
    return path


@pytest.mark.parametrize("values", [(-1,), (7,), (0,), (0, 2, 1), (1, 0), (0, 1, 2), (-1, 0, 1)])
def test_values_become_their_places(values: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).choice(np.array(values), (3, 4, 5))
    np.testing.assert_array_equal(class_indices(array, values), np.vectorize(values.index)(array))


@pytest.mark.parametrize("dtype", [np.int32, np.float64])
def test_one_huge_value_takes_no_memory_for_those_below_it(tmp_path: Path, dtype: type) -> None:
    label = np.zeros((6, 7, 8), dtype=dtype)
    label[2:4, 2:5, 2:5] = 2147483647
    guess = np.roll(label, 1, axis=1)
    write(tmp_path / "labels" / "a.nii.gz", label)
    write(tmp_path / "predictions" / "a.nii.gz", guess)
    tracemalloc.start()
    class_indices(np.where(label > 0, 5_000_000, 0), (0, 5_000_000))  # a tuple of so many places takes 40 MB
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1e6
    scores = evaluate_folders(tmp_path / "predictions", tmp_path / "labels", metrics=["dice", "hd95"]).scores
    assert scores.structures == ("2147483647",)
    assert scores.mean_dice == pytest.approx(2 / 3)


@pytest.mark.parametrize("declared", [False, True])
def test_numbers_of_objects_are_no_classes(tmp_path: Path, declared: bool) -> None:
    labels = Labels(classes=(LabelClass(name="back", value=0), LabelClass(name="cell", value=1)))
    for index, name in enumerate(("good", "many")):
        label = np.arange(1100).reshape(1, 25, 44) * index + 0
        write(tmp_path / "labels" / f"{name}.nii.gz", label.astype(np.int32))
        write(tmp_path / "predictions" / f"{name}.nii.gz", np.zeros_like(label, dtype=np.int32))
    comparison = evaluate_folders(tmp_path / "predictions", tmp_path / "labels", labels if declared else None)
    (problem,) = comparison.problems
    assert "many.nii.gz holds more than 1024 different values" in problem
    assert "--task instance" in problem


def test_numbers_of_objects_that_differ_by_case_are_no_classes(tmp_path: Path) -> None:
    for index in range(3):
        label = (np.arange(600).reshape(1, 20, 30) + 600 * index).astype(np.int32)
        write(tmp_path / "labels" / f"{index}.nii.gz", label)
        write(tmp_path / "predictions" / f"{index}.nii.gz", label)
    with pytest.raises(DatasetError, match=r"all cases hold more than 1024 different values.*--task instance"):
        evaluate_folders(tmp_path / "predictions", tmp_path / "labels", metrics=["dice"])


def test_values_are_counted_over_several_chunks_as_at_once() -> None:
    random = np.random.default_rng(0)
    values = np.array([-70000, 0, 3, 2**40])
    label, guess = (random.choice(values[part], 2 * CHUNK_VOXELS + 77) for part in (slice(0, 3), slice(1, 4)))
    table = value_table("a", label, guess)
    assert (table.label_values, table.predicted_values) == ((-70000, 0, 3), (0, 3, 2**40))
    for row, value in enumerate(table.label_values):
        for column, other in enumerate(table.predicted_values):
            assert table.counts[row, column] == ((label == value) & (guess == other)).sum()


@pytest.mark.parametrize(("dtype", "scale"), [(np.uint8, 1), (np.int32, 9000), (np.float32, 1), (np.float32, 9000)])
def test_what_reading_and_counting_take_is_held_beforehand(tmp_path: Path, dtype: type, scale: int) -> None:
    """Maps of floats become int64, and large values are counted without sorting all voxels."""
    array = np.zeros((40, 256, 256), dtype=dtype)
    array[:, ::3] = scale
    opened = [open_label(write(tmp_path / f"{name}.nii", array)) for name in "ab"]
    comparer = Comparer(
        ruler=Ruler(protocol=find_protocol("default"), structures=(), measures=()), labels=None, declared_by=""
    )
    assert not comparer.ruler.needs_masks
    tracemalloc.start()
    maps = [integers(item.read()[0], tmp_path) for item in opened]
    value_table("a", *maps)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < comparer.needed_bytes(*opened) + 96 * CHUNK_VOXELS  # whatever the size: what counting a chunk takes
