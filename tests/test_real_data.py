"""The whole job, briefly, on real datasets of every kind: 2D and 3D, grey, RGB and two channels, odd label values.

What is asked is that it works and that what comes back fits what went in, not that it is accurate after so few steps.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from autoseg.cli import main

pytestmark = [pytest.mark.data, pytest.mark.slow]

BRIEF = ["--epochs", "1", "--steps-per-epoch", "2", "--folds", "0", "--device", "cpu"]


def lay_out_drive(source: Path, target: Path, num_test: int = 2) -> Path:
    """Two plain folders from DRIVE's: photographs and their GIF labels match by number; the last are for testing."""
    for name in ("images", "labels", "test"):
        (target / name).mkdir(parents=True)
    photographs = sorted((source / "training" / "images").glob("*.tif"))
    for path in photographs[:-num_test]:
        number = path.name.split("_")[0]
        shutil.copy(path, target / "images" / f"{number}.tif")
        shutil.copy(source / "training" / "1st_manual" / f"{number}_manual1.gif", target / "labels" / f"{number}.gif")
    for path in photographs[-num_test:]:
        shutil.copy(path, target / "test" / path.name)
    return target


def lay_out_brats(source: Path, target: Path) -> Path:
    """A Decathlon-like nnU-Net folder: FLAIR and T1c, zero outside the brain mask; the labels as they are (float32)."""
    for name in ("imagesTr", "labelsTr", "imagesTs"):
        (target / name).mkdir(parents=True)
    patients = sorted(path for part in ("train", "validation") for path in (source / part).iterdir() if path.is_dir())
    for patient in patients:
        mask = sitk.Cast(sitk.ReadImage(str(patient / "brainmask.nii.gz")), sitk.sitkFloat32)
        for channel, name in enumerate(("Flair", "T1c")):
            image = sitk.ReadImage(str(patient / f"{name}_subtrMeanDivStd.nii.gz"), sitk.sitkFloat32)
            mask.CopyInformation(image)
            sitk.WriteImage(image * mask, str(target / "imagesTr" / f"{patient.name}_{channel:04d}.nii.gz"))
        shutil.copy(patient / "OTMultiClass.nii.gz", target / "labelsTr" / f"{patient.name}.nii.gz")
    for channel in range(2):
        shutil.copy(target / "imagesTr" / f"{patients[0].name}_{channel:04d}.nii.gz", target / "imagesTs")
    labels = {"background": 0, "necrosis": 1, "edema": 2, "non-enhancing": 3, "enhancing": 4}
    content = {"channel_names": {"0": "FLAIR", "1": "T1c"}, "labels": labels, "numTraining": len(patients)}
    (target / "dataset.json").write_text(json.dumps({**content, "file_ending": ".nii.gz"}))
    return target


def check_prediction(prediction: Path, image: Path, values: set[int]) -> None:
    found, original = sitk.ReadImage(str(prediction)), sitk.ReadImage(str(image))
    assert found.GetSize() == original.GetSize()
    np.testing.assert_allclose(found.GetSpacing(), original.GetSpacing(), rtol=1e-6)
    np.testing.assert_allclose(found.GetOrigin(), original.GetOrigin(), atol=1e-4)
    np.testing.assert_allclose(found.GetDirection(), original.GetDirection(), atol=1e-6)
    assert set(np.unique(sitk.GetArrayFromImage(found)).tolist()) <= values


def check_run(run: Path, num_predictions: int) -> None:
    for name in ("choice.json", "report.html", "plan.json", "scores.json"):
        assert (run / name).stat().st_size > 0
    assert (run / "report.html").stat().st_size < 3e6
    pictures = [path for path in (run / "predictions").iterdir() if path.suffix != ".json"]
    assert len(pictures) == num_predictions


def test_isbi_slices_with_label_values_0_and_255(data_folder: Path, tmp_path: Path) -> None:
    source, run = data_folder / "isbi2012_em", tmp_path / "run"
    folders = ["--images", str(source / "train/image"), "--labels", str(source / "train/label")]
    test = tmp_path / "test"
    test.mkdir()
    for name in ("0.png", "1.png"):
        shutil.copy(source / "test" / name, test)
    settings = ["--set", "2d.batch_size=2", "--set", "2d.patch_size=[256,256]"]
    assert main(["run", *folders, "--test", str(test), "--out", str(run), *BRIEF, *settings]) == 0
    check_run(run, 2)
    for name in ("0.png", "1.png"):
        check_prediction(run / "predictions" / name, test / name, {0, 255})


def test_drive_photographs_in_colour(data_folder: Path, tmp_path: Path) -> None:
    folder, run = lay_out_drive(data_folder / "drive_retina", tmp_path / "drive"), tmp_path / "run"
    settings = ["--set", "2d.batch_size=2", "--set", "2d.patch_size=[256,256]"]
    arguments = ["--images", str(folder / "images"), "--labels", str(folder / "labels"), "--test", str(folder / "test")]
    assert main(["run", *arguments, "--out", str(run), *BRIEF, *settings]) == 0
    check_run(run, 2)
    for image in (folder / "test").iterdir():
        prediction = np.array(Image.open(run / "predictions" / image.name))
        assert prediction.shape == np.array(Image.open(image)).shape[:2]
        assert set(np.unique(prediction).tolist()) <= {0, 255}


def test_brats_with_two_channels_and_float_labels(data_folder: Path, tmp_path: Path) -> None:
    folder, run = lay_out_brats(data_folder / "brats2015_deepmedic", tmp_path / "brats"), tmp_path / "run"
    choose = ["--budget", "1GB", "--configurations", "3d_fullres"]
    assert main(["run", str(folder), "--out", str(run), *BRIEF, *choose]) == 0
    check_run(run, 1)
    plan = json.loads((run / "plan.json").read_text())
    assert all(all(item["use_mask_for_norm"]) for item in plan["configurations"])
    prediction = next(path for path in (run / "predictions").iterdir() if path.name.endswith(".nii.gz"))
    image = folder / "imagesTs" / prediction.name.replace(".nii.gz", "_0000.nii.gz")
    check_prediction(prediction, image, {0, 1, 2, 3, 4})
