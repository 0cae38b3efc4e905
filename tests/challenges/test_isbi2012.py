"""ISBI 2012: slices become cases, probabilities become one stack."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autoseg.challenges import pack, prepare
from autoseg.data.dataset import DatasetSource, open_dataset
from autoseg.data.image import flat_geometry
from autoseg.data.io import open_image
from autoseg.data.io_write import write_values
from autoseg.errors import DatasetError
from autoseg.evaluation.overlap import structures_of

Make = Callable[[str, Path], Any]


def write_probabilities(folder: Path, tests: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Write what predict --save-probabilities does: (class, z, y, x) float16, cells first; gives those of the cells."""
    folder.mkdir(exist_ok=True)
    cells = {}
    for seed, (case, label) in enumerate(tests.items()):
        noise = np.random.default_rng(seed).uniform(0, 0.4, size=label.shape)
        cells[case] = np.where(label == 255, 1 - noise, noise).astype(np.float16)
        both = np.stack([cells[case], (1 - cells[case].astype(float)).astype(np.float16)])
        np.save(folder / f"{case}.probabilities.npy", both)
    return cells


def test_slices_are_cases(make_example: Make, tmp_path: Path) -> None:
    example = make_example("isbi2012", tmp_path / "raw")
    dataset = open_dataset(DatasetSource(dataset=prepare("isbi2012", example.root, tmp_path / "out")))
    assert dataset.labels is not None
    assert [(item.name, item.classes) for item in structures_of(dataset.labels)] == [("membrane", (1,))]
    stack = open_image([example.root / "train-volume.tif"]).read()[0]
    labels = open_image([example.root / "train-labels.tif"]).read()[0]
    for number, case in enumerate(dataset.cases):
        image = open_image(case.images)
        assert image.geometry.dimensions == 2
        np.testing.assert_array_equal(image.read()[0], stack[number : number + 1])
        assert case.label is not None
        np.testing.assert_array_equal(open_image([case.label]).read()[0], labels[number : number + 1])
    assert len(dataset.test_cases) == 3


@pytest.mark.parametrize("prepared", [False, True])
def test_packed_stack_holds_the_probability_of_no_membrane(make_example: Make, tmp_path: Path, prepared: bool) -> None:
    example = make_example("isbi2012", tmp_path / "raw")
    cells = write_probabilities(tmp_path / "predictions", example.tests)
    images = prepare("isbi2012", example.root, tmp_path / "out") if prepared else example.root
    stack = pack("isbi2012", tmp_path / "predictions", tmp_path / "submission", images)
    assert stack == tmp_path / "submission" / "isbi2012.tif"
    opened = open_image([stack])
    assert opened.dtype == np.float32
    expected = np.concatenate([cells[case] for case in sorted(cells)]).astype(np.float32)
    np.testing.assert_array_equal(opened.read()[0], expected)


def test_incomplete_or_wrong_stacks_are_refused(make_example: Make, tmp_path: Path) -> None:
    example = make_example("isbi2012", tmp_path / "raw")
    folder = tmp_path / "predictions"
    write_probabilities(folder, example.tests)
    np.save(folder / "test-00.probabilities.npy", np.zeros((2, 1, 5, 5), np.float16))
    np.save(folder / "test-01.probabilities.npy", np.full((2, 1, 12, 14), 0.7, np.float16))
    with pytest.raises(DatasetError) as raised:
        pack("isbi2012", folder, tmp_path / "a.tif", example.root)
    assert "case test-00: " in str(raised.value)
    assert "2×1×5×5" in str(raised.value)
    assert "case test-01: " in str(raised.value)
    (folder / "test-02.probabilities.npy").unlink()
    with pytest.raises(DatasetError, match=r"test-02\.probabilities\.npy"):
        pack("isbi2012", folder, tmp_path / "a.tif", example.root)
    write_probabilities(folder, example.tests)
    with pytest.raises(DatasetError, match=r"\.tif"):
        pack("isbi2012", folder, tmp_path / "a.zip", example.root)


def test_stacks_that_do_not_fit_are_refused(make_example: Make, tmp_path: Path) -> None:
    example = make_example("isbi2012", tmp_path / "raw")
    write_values(example.root / "train-labels.tif", np.full((3, 12, 14), 7, np.uint8), flat_geometry(known=False))
    with pytest.raises(DatasetError, match="holds the value 7"):
        prepare("isbi2012", example.root, tmp_path / "out")
    write_values(example.root / "train-labels.tif", np.zeros((2, 12, 14), np.uint8), flat_geometry(known=False))
    with pytest.raises(DatasetError, match="2×12×14"):
        prepare("isbi2012", example.root, tmp_path / "out2")
