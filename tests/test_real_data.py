"""The whole job, briefly, on real datasets of every kind: 2D and 3D, grey, RGB and two channels, odd label values.

What is asked is that it works and that what comes back fits what went in, not that it is accurate after so few steps.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from PIL import Image

from autoseg.cli import main
from autoseg.data.dataset import DatasetSource, open_dataset
from autoseg.evaluation.overlap import Scores, score_case
from autoseg.run_folder import RunFolder, RunRecord
from autoseg.targets import make_target
from autoseg.targets.losses import LOSSES
from planners.fingerprint import Fingerprint
from planners.plan import Plan, Target, Training

pytestmark = [pytest.mark.data, pytest.mark.slow]

BRIEF = ["--epochs", "1", "--steps-per-epoch", "2", "--folds", "0", "--device", "cpu"]


BRATS_CLASSES = {"background": 0, "necrosis": 1, "edema": 2, "non-enhancing": 3, "enhancing": 4}
BRATS_REGIONS = {"background": 0, "WT": [1, 2, 3, 4], "TC": [1, 3, 4], "ET": [4]}


def read_picture(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.array(picture)


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


def lay_out_drive_with_ignore(source: Path, target: Path, ignore: int, annotator: int, num_cases: int = 4) -> Path:
    """An nnU-Net folder of DRIVE photographs whose label outside the field of view is the ignore label.

    Args:
        source: DRIVE.
        target: the folder; is made.
        ignore: value of the ignore label.
        annotator: seed of what this annotator drew outside the field of view, before it was ignored.
        num_cases: photographs to take.
    """
    for name in ("imagesTr", "labelsTr"):
        (target / name).mkdir(parents=True)
    rng = np.random.default_rng(annotator)
    for path in sorted((source / "training" / "images").glob("*.tif"))[:num_cases]:
        number = path.name.split("_")[0]
        drawn = read_picture(source / "training" / "1st_manual" / f"{number}_manual1.gif")
        outside = read_picture(source / "training" / "mask" / f"{number}_training_mask.gif") == 0
        drawn[outside] = rng.choice(np.array([0, 255], dtype=np.uint8), outside.sum())
        drawn[outside] = ignore
        Image.fromarray(drawn).save(target / "labelsTr" / f"{number}.png")
        Image.fromarray(read_picture(path)).save(target / "imagesTr" / f"{number}_0000.png")
    labels = {"background": 0, "vessel": 255, "ignore": ignore}
    content = {"channel_names": {"0": "red", "1": "green", "2": "blue"}, "labels": labels, "numTraining": num_cases}
    (target / "dataset.json").write_text(json.dumps({**content, "file_ending": ".png"}))
    return target


def lay_out_brats(source: Path, target: Path, labels: dict[str, Any] = BRATS_CLASSES) -> Path:
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


def test_brats_as_regions(data_folder: Path, tmp_path: Path) -> None:
    source = data_folder / "brats2015_deepmedic"
    folder, run = lay_out_brats(source, tmp_path / "brats", BRATS_REGIONS), tmp_path / "run"
    choose = ["--budget", "1GB", "--configurations", "3d_fullres", "--set", "*.training.mirror_axes=[]"]
    assert main(["run", str(folder), "--out", str(run), *BRIEF, *choose]) == 0
    check_run(run, 1)
    plan = RunFolder(run).read(Plan, run / "plan.json")
    assert [item.name for item in plan.labels.regions] == ["WT", "TC", "ET"]
    assert {item.value for item in plan.labels.classes} == {0, 1, 2, 3, 4}
    assert all((item.target.name, item.target.num_outputs) == ("regions", 3) for item in plan.configurations)
    scores = RunFolder(run).read(Scores, run / "scores.json")
    assert scores.structures == ("WT", "TC", "ET")
    (row,) = scores.cases
    assert row.num_labelled[0] > row.num_labelled[1] > row.num_labelled[2] > 0
    prediction = next(path for path in (run / "predictions").iterdir() if path.name.endswith(".nii.gz"))
    image = folder / "imagesTs" / prediction.name.replace(".nii.gz", "_0000.nii.gz")
    check_prediction(prediction, image, {0, 1, 2, 3, 4})


def test_drive_outside_the_field_of_view_counts_nowhere(data_folder: Path, tmp_path: Path) -> None:
    """Two annotators who differ outside the field of view, and ignore it by another value each, train the same."""
    settings = ["--set", "2d.batch_size=2", "--set", "2d.patch_size=[256,256]", "--precision", "fp32"]
    runs = []
    for annotator, ignore in ((1, 128), (2, 7)):
        folder = lay_out_drive_with_ignore(
            data_folder / "drive_retina", tmp_path / f"drive_{ignore}", ignore, annotator
        )
        run = tmp_path / f"run_{ignore}"
        if runs:  # equal runs need equal choices of how to compute, which are made by timing
            assert main(["run", str(folder), "--out", str(run), "--until", "check"]) == 0
            made = {"compute": runs[0].read(RunRecord, runs[0].run_file).made_from["compute"]}
            compute = runs[0].read(RunRecord, runs[0].run_file).compute
            RunFolder(run).change_record(compute=compute, made_from=made)
        assert main(["run", str(folder), "--out", str(run), *BRIEF, *settings]) == 0
        runs.append(RunFolder(run))
    one, two = (run.fold("2d", 0) for run in runs)
    for name in ("weights_last", "weights_best"):
        assert getattr(one, name).read_bytes() == getattr(two, name).read_bytes()
    rows = [json.loads(fold.progress.read_text().splitlines()[-1]) for fold in (one, two)]
    for key in ("train_loss", "validation_loss", "dice"):
        assert rows[0][key] == rows[1][key], key
    scores = [run.read(Scores, run.scores_file) for run in runs]
    assert scores[0] == scores[1]
    counted = scores[0].cases[0]
    pixels = read_picture(next((data_folder / "drive_retina" / "training" / "images").glob("*.tif")))[..., 0].size
    assert counted.tp[0] + counted.fp[0] + counted.fn[0] + counted.tn[0] < 0.75 * pixels
    fingerprints = [run.read(Fingerprint, run.fingerprint_file) for run in runs]
    assert fingerprints[0].channels == fingerprints[1].channels


def test_no_gradient_and_no_metric_outside_the_field_of_view(data_folder: Path, tmp_path: Path) -> None:
    folder = lay_out_drive_with_ignore(data_folder / "drive_retina", tmp_path / "drive", 128, 1, num_cases=1)
    labels = open_dataset(DatasetSource(dataset=folder)).labels
    assert labels is not None
    label = labels.encode(read_picture(next((folder / "labelsTr").iterdir())))
    ignored = torch.from_numpy(label == labels.ignore_index)
    assert 0.2 < ignored.float().mean() < 0.5
    for loss in LOSSES:
        training = Training(loss=loss, mirror_axes=(0, 1))
        target = make_target(Target(name="semantic", num_outputs=2), labels, training)
        maps, weights = target.encode(torch.from_numpy(label)[None, None], [(1, 1)])
        logits = torch.randn(1, 2, *label.shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
        value = target.loss([logits], maps, weights, [1.0])
        (gradient,) = torch.autograd.grad(value, logits)
        assert gradient[0][:, ignored].abs().max() == 0
        assert (gradient[0][:, ~ignored] != 0).float().mean() > 0.99
        other = torch.where(ignored, 5 * torch.randn_like(logits), logits.detach())
        assert target.loss([other], maps, weights, [1.0]) == value.detach()
    stored = torch.from_numpy(label)[None, None]
    for a, b in zip(target.counts(logits.detach(), stored), target.counts(other, stored), strict=True):
        assert torch.equal(a, b)
    one, two = (item[0].argmax(dim=0).numpy() for item in (logits, other))
    assert not np.array_equal(one, two)
    assert score_case("a", label, one, labels) == score_case("a", label, two, labels)
