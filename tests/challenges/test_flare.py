"""FLARE 2022 and 2023: two ways to unpack, scans of equal names, and classes that were not annotated."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import surface_distance

from autoseg.challenges import prepare, score
from autoseg.challenges.base import OfficialCase
from autoseg.challenges.flare import ORGANS, annotated_2023
from autoseg.data.dataset import DatasetSource, open_dataset
from autoseg.data.io import open_image, write_segmentation
from autoseg.errors import DatasetError

Make = Callable[[str, Path], Any]

TOLERANCES_MM = (5, 3, 3, 5, 2, 2, 2, 2, 2, 3, 5, 7, 3, 2)
"""Of NSD, by label value. Source: github.com/JunMa11/FLARE, FLARE23/FLARE23_DSC_NSD_Eval.py."""


def test_the_small_archive_of_2022_is_enough(make_example: Make, tmp_path: Path) -> None:
    example = make_example("flare22", tmp_path / "raw")
    small = tmp_path / "small" / "FLARE22Train"
    shutil.copytree(example.root / "Training" / "FLARE22_LabeledCase50", small)
    for number, raw in enumerate((small, small.parent)):
        dataset = open_dataset(DatasetSource(dataset=prepare("flare22", raw, tmp_path / f"out{number}")))
        assert [case.id for case in dataset.cases] == example.train
        assert not dataset.test_cases


def test_tuning_scans_are_the_test_images(
    make_example: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Tuning and Testing hold different scans under the same names."""
    example = make_example("flare22", tmp_path / "raw")
    out = prepare("flare22", example.root, tmp_path / "out")
    case = "FLARETs_0001"
    assert (out / "imagesTs" / f"{case}_0000.nii.gz").resolve() == (
        example.root / "Tuning" / "images" / f"{case}_0000.nii.gz"
    ).resolve()
    assert (out / "labelsTs" / f"{case}.nii.gz").exists()
    assert "Testing are left out" in capsys.readouterr().err


def test_a_scan_without_its_label_is_named(make_example: Make, tmp_path: Path) -> None:
    example = make_example("flare22", tmp_path / "raw")
    (example.root / "Training" / "FLARE22_LabeledCase50" / "images" / "FLARE22_Tr_0050_0000.nii.gz").unlink()
    with pytest.raises(DatasetError, match=r"case FLARE22_Tr_0050: .* has no image"):
        prepare("flare22", example.root, tmp_path / "out")


def test_classes_that_a_file_does_not_hold_are_not_annotated(make_example: Make, tmp_path: Path) -> None:
    example = make_example("flare23", tmp_path / "raw")
    out = prepare("flare23", example.root, tmp_path / "out")
    dataset = open_dataset(DatasetSource(dataset=out))
    assert dataset.labels is not None
    value_of = [item.value for item in dataset.labels.classes]
    annotated = {
        case.id: {value_of[index] for index in case.annotated_classes} - {0}
        for case in dataset.cases
        if case.annotated_classes is not None
    }
    assert annotated == {
        "FLARE23_0001": {1, 2, 3, 4, 13},
        "FLARE23_0002": {14},
    }
    for case in dataset.cases:
        assert case.label is not None
        values = set(np.unique(open_image([case.label]).read()).tolist()) - {0}
        assert values == annotated.get(case.id, set(range(1, 15)))


def test_unreadable_labels_are_all_named(make_example: Make, tmp_path: Path) -> None:
    example = make_example("flare23", tmp_path / "raw")
    for case in ("FLARE23_0001", "FLARE23_0003"):
        (example.root / "labelsTr2200" / f"{case}.nii.gz").write_bytes(b"no image")
    with pytest.raises(DatasetError) as raised:
        prepare("flare23", example.root, tmp_path / "out")
    assert "FLARE23_0001" in str(raised.value)
    assert "FLARE23_0003" in str(raised.value)


def test_names_of_2023_without_the_channel_number(make_example: Make, tmp_path: Path) -> None:
    example = make_example("flare23", tmp_path / "raw")
    for folder in ("imagesTr2200", "validation"):
        for path in (example.root / folder).iterdir():
            path.rename(path.with_name(path.name.replace("_0000", "")))
    dataset = open_dataset(DatasetSource(dataset=prepare("flare23", example.root, tmp_path / "out")))
    assert [case.id for case in dataset.cases] == example.train
    assert [case.id for case in dataset.test_cases] == sorted(example.tests)


def test_annotated_classes_come_in_the_order_of_their_values(make_example: Make, tmp_path: Path) -> None:
    example = make_example("flare23", tmp_path / "raw")
    label = example.root / "labelsTr2200" / "FLARE23_0003.nii.gz"
    cases = [OfficialCase(id="b", images=(), label=label), OfficialCase(id="a", images=(), label=None)]
    assert annotated_2023(cases) == {"b": [*ORGANS, "tumor"]}


@pytest.mark.filterwarnings("ignore:.*scipy.ndimage.*:DeprecationWarning")  # surface-distance 0.1
@pytest.mark.parametrize(("name", "organs"), [("flare22", 13), ("flare23", 14)])
def test_scores_are_the_organisers(name: str, organs: int, make_example: Make, tmp_path: Path) -> None:
    """Against their rules with DeepMind's surface distances; 5, 6 and 10 count in their labelled slices alone."""
    example = make_example(name, tmp_path / "raw")
    label, prediction = tubes(organs)
    write_segmentation(tmp_path / "labels" / "a.nii.gz", label, example.geometry)
    write_segmentation(tmp_path / "predictions" / "a.nii.gz", prediction, example.geometry)
    table = score(name, tmp_path / "predictions", tmp_path / "labels").table
    assert (table.metrics, len(table.structures)) == (("dice", "nsd"), organs)
    for value, found in enumerate(table.cases[0].values, start=1):
        expected = official(label == value, prediction == value, value, name, example.geometry.spacing_mm)
        assert found == pytest.approx(expected, rel=1e-6), table.structures[value - 1]


def tubes(organs: int) -> tuple[np.ndarray, np.ndarray]:
    """Make organs that run through the slices; predicted shifted and longer, absent, invented, or far off."""
    label, prediction = np.zeros((2, 14, 24, 60), dtype=np.uint8)
    for value in range(1, organs + 1):
        start = 4 * value
        label[3:11, 4:18, start : start + 3] = value
        prediction[1:12, 5 + value % 3 : 19, start : start + 3] = value
    label[label == 9] = 0
    prediction[prediction == 8] = 0
    prediction[prediction == 11] = 0
    prediction[10, 17:22, 44:47] = 11
    for array in (label, prediction):
        array[array == 12] = 0
    return label, prediction


def official(label: np.ndarray, prediction: np.ndarray, value: int, name: str, spacing: Any) -> tuple[float, float]:
    """Give Dice and NSD of one organ by the rules of the organisers' script; axes z, y, x."""
    if not label.any() and not prediction.any():
        return 1, 1
    if not label.any() or not prediction.any():
        return 0, 0
    if value in (5, 6, 10):
        slices = np.flatnonzero(label.any(axis=(1, 2)))
        label, prediction = label[slices[0] : slices[-1]], prediction[slices[0] : slices[-1]]
    dice = 2 * (label & prediction).sum() / (label.sum() + prediction.sum())
    if name == "flare23" and dice < 0.1:
        return dice, 0
    distances = surface_distance.compute_surface_distances(label, prediction, spacing)
    return dice, surface_distance.compute_surface_dice_at_tolerance(distances, TOLERANCES_MM[value - 1])
