"""A small dataset of organs, and how the tests of its fingerprint open and measure it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK

from autoseg.data.dataset import Dataset, DatasetSource, open_dataset
from autoseg.preprocessing.fingerprinting import check_and_measure
from planners.fingerprint import Fingerprint

NUM_CASES = 4


def make_organs(folder: Path) -> Path:
    """Make four cases of one channel in a frame of zeros, with a label of two classes and an ignored corner."""
    root = folder / "organs"
    for name in ("imagesTr", "labelsTr"):
        (root / name).mkdir(parents=True)
    for case in range(NUM_CASES):
        write_case(root, case)
    labels = {"background": 0, "organ": 3, "vessel": 7, "ignore": 9}
    (root / "dataset.json").write_text(json.dumps({"channel_names": {"0": "CT"}, "labels": labels}))
    return root


def write_case(root: Path, case: int, offset: int = 0) -> None:
    rng = np.random.default_rng(case)
    image = np.zeros((8, 10 + case, 12), dtype=np.int16)
    image[1:, 2:, 3:] = rng.integers(1, 1000, size=(7, 8 + case, 9)) + offset
    label = np.zeros(image.shape, dtype=np.uint8)
    label[2:6, 3:8, 4:9] = 3
    label[3, 4, 5:8] = 7
    label[7, 8, 9:] = 9
    for array, path in ((image, f"imagesTr/c{case}_0000.nii.gz"), (label, f"labelsTr/c{case}.nii.gz")):
        file = SimpleITK.GetImageFromArray(array)
        file.SetSpacing((0.5, 0.6, 2.0 + case))
        SimpleITK.WriteImage(file, str(root / path))


def opened(root: Path) -> Dataset:
    return open_dataset(DatasetSource(dataset=root))


def measured(root: Path, folder: Path | None = None, **options: Any) -> Fingerprint:
    result, fingerprint = check_and_measure(opened(root), folder, threads=2, **options)
    assert fingerprint is not None, result.text()
    return fingerprint
