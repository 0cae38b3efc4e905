"""Measures are kept per case: none is read twice, and what was changed, damaged or cut short is measured anew."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from organ_cases import NUM_CASES, make_organs, measured, opened, write_case

from autoseg.preprocessing import fingerprinting
from autoseg.preprocessing.fingerprinting import check_and_measure


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four cases of one channel in a frame of zeros, with a label of two classes and an ignored corner."""
    return make_organs(tmp_path)


def count_readings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    read: list[str] = []
    original = fingerprinting.examine_case

    def counted(case: Any, **options: Any) -> Any:
        read.append(case.id)
        return original(case, **options)

    monkeypatch.setattr(fingerprinting, "examine_case", counted)
    return read


def test_every_case_is_read_once(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = count_readings(monkeypatch)
    first = measured(root, tmp_path / "kept")
    assert sorted(read) == ["c0", "c1", "c2", "c3"]
    assert measured(root, tmp_path / "kept") == first
    assert len(read) == NUM_CASES


def test_an_interrupted_measurement_goes_on(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = measured(root, tmp_path / "kept")
    (tmp_path / "kept" / "train_c2.json").unlink()
    (tmp_path / "kept" / "train_c1.npy").write_bytes(b"half a fi")
    read = count_readings(monkeypatch)
    assert measured(root, tmp_path / "kept") == first
    assert sorted(read) == ["c1", "c2"]


def test_a_sample_that_never_reached_the_disk_is_measured_anew(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power cut a file may have its length and its first block, and zeros behind."""
    first = measured(root, tmp_path / "kept")
    sample = tmp_path / "kept" / "train_c1.npy"
    content = sample.read_bytes()
    sample.write_bytes(content[:128] + bytes(len(content) - 128))
    read = count_readings(monkeypatch)
    assert measured(root, tmp_path / "kept") == first
    assert read == ["c1"]


def test_a_changed_file_is_measured_anew_alone(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = measured(root, tmp_path / "kept")
    read = count_readings(monkeypatch)
    os.utime(root / "imagesTr/c0_0000.nii.gz", ns=(1, 1))  # touched, not changed
    write_case(root, 3, offset=5)
    second = measured(root, tmp_path / "kept")
    assert read == ["c3"]
    assert second.channels != first.channels
    assert second == measured(root)


def test_a_case_with_a_problem_is_not_passed_over_when_it_is_mended(root: Path, tmp_path: Path) -> None:
    label = root / "labelsTr/c1.nii.gz"
    shutil.copy(label, tmp_path / "good.nii.gz")
    label.write_bytes(label.read_bytes()[:60])
    assert check_and_measure(opened(root), tmp_path / "kept")[1] is None
    shutil.copy(tmp_path / "good.nii.gz", label)
    assert measured(root, tmp_path / "kept") == measured(root)


def test_other_labels_are_measured_anew(root: Path, tmp_path: Path) -> None:
    first = measured(root, tmp_path / "kept")
    labels = {"background": 0, "organ": 3, "vessel": 7, "corner": 9}
    (root / "dataset.json").write_text(json.dumps({"channel_names": {"0": "CT"}, "labels": labels}))
    second = measured(root, tmp_path / "kept")
    assert second.channels[0].intensities != first.channels[0].intensities
    assert second == measured(root)
