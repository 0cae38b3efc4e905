"""The fingerprint of ids: objects are counted and measured, classes come from their own map, all is kept per case."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK

from autoseg.data.dataset import DatasetSource, open_dataset
from autoseg.preprocessing import fingerprinting
from autoseg.preprocessing.fingerprinting import check_and_measure
from planners import records
from planners.decision import Decision
from planners.fingerprint import Fingerprint
from planners.plan import SizeScaling

NUM_CASES = 4
SPACING = (2.0, 0.5, 0.5)
CLASSES = {"background": 0, "cell": 4, "debris": 6, "ignore": 9}


def ids_of(case: int) -> tuple[np.ndarray, np.ndarray]:
    """Two touching boxes and one apart, of any numbering; debris without ids; an ignored corner. Ids and classes."""
    ids = np.zeros((8, 24, 20 + case), dtype=np.int32)
    ids[1:5, 2:8, 2:8] = 70_000
    ids[1:5, 8:14, 2:8] = 12
    ids[1:5, 2:8, 12:18] = 3 + case
    classes = np.where(ids > 0, CLASSES["cell"], 0).astype(np.uint8)
    classes[6:8, 2:4, 2:4] = CLASSES["debris"]
    classes[:, 20:, :] = CLASSES["ignore"]
    return ids, classes


def write(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    file = SimpleITK.GetImageFromArray(array)
    file.SetSpacing(SPACING[::-1])
    SimpleITK.WriteImage(file, str(path))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "cells"
    for case in range(NUM_CASES):
        ids, classes = ids_of(case)
        light = np.random.default_rng(case).normal(100 + 50 * (ids > 0), 5).astype(np.float32)
        write(root / f"imagesTr/c{case}_0000.nii.gz", light)
        write(root / f"labelsTr/c{case}.nii.gz", ids)
        write(root / f"labelsTr/classes/c{case}.nii.gz", classes)
    content = {"channel_names": {"0": "light"}, "labels": CLASSES, "instances": ["cell"]}
    (root / "dataset.json").write_text(json.dumps(content))
    return root


def measured(root: Path, folder: Path | None = None, **source: Any) -> Fingerprint:
    dataset = open_dataset(DatasetSource(dataset=root, **source))
    result, fingerprint = check_and_measure(dataset, folder, threads=2)
    assert fingerprint is not None, result.text()
    return fingerprint


def test_objects_are_measured_and_classes_counted(root: Path) -> None:
    fingerprint = measured(root)
    stats = fingerprint.instances
    assert stats is not None
    diameter = (4 * 6 * 6 * np.prod(SPACING) * 6 / np.pi) ** (1 / 3)
    assert [case.count for case in stats.cases] == [3] * NUM_CASES
    assert stats.diameters_mm == pytest.approx((diameter,) * 3, rel=1e-4)
    assert stats.touching_fraction == pytest.approx(2 / 3)
    assert stats.solidity == 1
    background = [8 * 20 * (20 + case) - 3 * 144 - 8 for case in range(NUM_CASES)]
    assert fingerprint.class_voxels == tuple((empty, 3 * 144, 8) for empty in background)
    assert stats.background_fraction == pytest.approx(
        sum(background) / (8 * 20 * sum(20 + c for c in range(NUM_CASES)))
    )
    assert len(fingerprint.size_features) == NUM_CASES
    assert records.from_json(Fingerprint, json.loads(records.dumps(fingerprint))) == fingerprint


def test_intensities_and_places_are_of_classes_not_of_ids(root: Path) -> None:
    fingerprint = measured(root)
    values = []
    for case in range(NUM_CASES):
        image = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(root / f"imagesTr/c{case}_0000.nii.gz")))
        classes = ids_of(case)[1]
        values.append(image[(classes == CLASSES["cell"]) | (classes == CLASSES["debris"])])
    intensities = fingerprint.channels[0].intensities
    assert intensities is not None
    assert intensities.mean == pytest.approx(np.concatenate(values).mean(), rel=1e-5)
    for case, (background, cell, debris) in enumerate(fingerprint.class_centers):
        classes = ids_of(case)[1]
        assert background is None
        for value, center in ((CLASSES["cell"], cell), (CLASSES["debris"], debris)):
            expected = (np.argwhere(classes == value).mean(axis=0) + 0.5) / classes.shape
            assert center == pytest.approx(expected, abs=1e-4)


def test_objects_are_kept_and_read_again(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tmp_path / "kept"
    first = measured(root, kept)
    assert first == measured(root)
    monkeypatch.setattr(fingerprinting, "measure_objects", lambda *given: pytest.fail("measured again"))
    assert measured(root, kept) == first
    monkeypatch.undo()
    monkeypatch.setattr(fingerprinting, "VERSION", 99)
    monkeypatch.setattr(fingerprinting, "size_features", lambda *given: (3.0,))
    assert measured(root, kept).size_features == ((3.0,),) * NUM_CASES, "other features are measured anew"
    monkeypatch.undo()
    next(kept.rglob("*.objects.npy")).write_bytes(b"cut off")
    assert measured(root, kept) == first
    ids, _ = ids_of(1)
    ids[ids == 12] = 70_000
    write(root / "labelsTr/c1.nii.gz", ids)
    changed = measured(root, kept).instances
    assert changed is not None
    assert [case.count for case in changed.cases] == [3, 2, 3, 3]


def test_the_check_counts_on_the_sizes_that_images_will_be_brought_to(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = open_dataset(DatasetSource(dataset=root))
    plain, _ = check_and_measure(dataset, None, threads=2)
    finer = Decision(value=SizeScaling(diameter_mm=8.0, weights=(0.0, 1.0), most=9.0), rule="", because="")
    monkeypatch.setattr(fingerprinting, "fit_scaling", lambda facts: finer)
    monkeypatch.setattr(fingerprinting, "size_features", lambda *given: (float(np.log(4.0)),))
    scaled, _ = check_and_measure(dataset, None, threads=2)
    assert scaled.store_bytes == pytest.approx(8 * plain.store_bytes, rel=1e-6)


def test_ids_that_nobody_declared_are_measured_as_objects(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    counts = [13, 17, 25, 30]
    for case, count in enumerate(counts):
        ids = np.zeros((1, 60, 60), dtype=np.uint16)
        for number, place in enumerate(rng.permutation(36)[:count], start=1):
            row, column = divmod(int(place), 6)
            ids[0, row * 10 + 1 : row * 10 + 7, column * 10 + 1 : column * 10 + 7] = number
        write(tmp_path / f"spots/imagesTr/c{case}_0000.nii.gz", rng.normal(ids > 0, 0.1).astype(np.float32))
        write(tmp_path / f"spots/labelsTr/c{case}.nii.gz", ids)
    fingerprint = measured(tmp_path / "spots", tmp_path / "kept")
    assert fingerprint.labels.instance_classes == ("object",)
    assert fingerprint.instances is not None
    assert [case.count for case in fingerprint.instances.cases] == counts
    assert fingerprint.instances.touching_fraction == 0
    assert fingerprint.class_voxels[0] == (3600 - 13 * 36, 13 * 36)
    assert measured(tmp_path / "spots", tmp_path / "kept") == fingerprint
    as_classes = measured(tmp_path / "spots", task="semantic")
    assert as_classes.instances is None
    assert as_classes.size_features == ()
