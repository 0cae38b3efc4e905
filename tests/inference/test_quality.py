"""Beside new predictions lies how good they are thought to be; it is kept, renewed and forgotten with them."""

import dataclasses
import json

import numpy as np
import pytest
import SimpleITK as sitk

from autoseg.compute import Compute
from autoseg.evaluation.confidence import Calibration, CaseConfidence, Confidence, Quality
from autoseg.inference import quality as quality_module
from autoseg.inference.predictor import Predictor, predict, predict_folder
from autoseg.run_folder import RunFolder, records_from
from planners.fingerprint import Channel, Fingerprint
from planners.plan import Plan

CPU = Compute(device="cpu", precision="fp32", channels_last=False, threads=1, reasons=())


@pytest.fixture(autouse=True)
def no_probe(monkeypatch):
    """The device is known here; probing it takes time."""
    monkeypatch.setattr("autoseg.compute.choose", lambda *arguments, **options: CPU)


@pytest.fixture
def run(make_run):
    """A run whose choice has a confidence and a fingerprint of volumes of 1 mm."""
    folder = make_run((8, 8, 8), choice={})
    plan = folder.read(Plan, folder.plan_file)
    calibrations = tuple(
        Calibration(name=name, rule="line", slope=1.0, offset=-1.0, low=-0.5, high=0.4, num_cases=30, error=0.021)
        for name in ("rim", "core", "mean")
    )
    confidence = Confidence(
        structures=("rim", "core"),
        configurations=("3d",),
        cases=(CaseConfidence(case="a", fold=0, expected_dice=(0.9, 0.8)),),
        bins=((), ()),
        calibrations=calibrations,
    )
    folder.write(confidence, folder.confidence_file)
    fingerprint = Fingerprint(
        dataset="test",
        channels=(Channel(name="c0"),),
        labels=plan.labels,
        num_cases=2,
        spacings_mm=((1.0, 1.0, 1.0),) * 2,
        shapes=((10, 12, 14),) * 2,
    )
    folder.write(fingerprint, folder.fingerprint_file)
    return folder


def write_image(folder, name, spacing=1.0, seed=0):
    folder.mkdir(exist_ok=True)
    image = sitk.GetImageFromArray((np.random.default_rng(seed).normal(size=(9, 12, 14)) * 90).astype(np.int16))
    image.SetSpacing((spacing,) * 3)
    sitk.WriteImage(image, str(folder / f"{name}.nii.gz"))


def test_every_case_is_rated(run, tmp_path, capsys):
    for seed, name in enumerate("abcde"):
        write_image(tmp_path / "images", name, spacing=0.4 if name == "c" else 1, seed=seed)
    predict_folder(run.root, tmp_path / "images", tmp_path / "out")
    found = records_from(Quality, tmp_path / "out" / "quality.json")
    assert [case.case for case in found.cases] == ["a", "b", "c", "d", "e"]
    assert found.error == 0.021
    assert "no label was seen" in found.meaning
    assert "single networks" in found.meaning
    calibration = run.read(Confidence, run.confidence_file).calibrations[0]
    for case in found.cases:
        assert [item.name for item in case.structures] == ["rim", "core"]
        for item in [item for item in case.structures if item.expected_dice is not None]:
            told = calibration.predict(item.expected_dice)
            assert (item.predicted_dice, item.low, item.high) == pytest.approx(tuple(told))
        mean = np.mean([item.predicted_dice for item in case.structures if item.predicted_dice is not None])
        assert case.mean.predicted_dice == pytest.approx(calibration.predict(mean).dice)
        assert case.mean.low < case.mean.predicted_dice < case.mean.high
        assert bool(case.warnings) == (case.case == "c")
    said = capsys.readouterr().err
    lowest = min(found.cases, key=lambda case: case.mean.predicted_dice)
    assert f"lowest {lowest.case} {lowest.mean.predicted_dice:.2f} (" in said
    assert "an estimate, no label was seen; off by 0.021 on average over 30 out-of-fold cases" in said
    assert "unlike the training cases: c: its spacing is z 0.4, y 0.4, x 0.4 mm" in said
    logged = [json.loads(line) for line in run.log_file.read_text().splitlines()]
    assert [(item["event"], item["case"]) for item in logged] == [("warning", "c")]


def test_it_stays_with_what_is_done_and_is_renewed_with_what_is_not(run, tmp_path):
    for seed, name in enumerate("ab"):
        write_image(tmp_path / "images", name, seed=seed)
    out = tmp_path / "out"
    predict_folder(run.root, tmp_path / "images", out)
    before = records_from(Quality, out / "quality.json")
    predict_folder(run.root, tmp_path / "images", out)
    assert records_from(Quality, out / "quality.json") == before
    half = dataclasses.replace(before, cases=before.cases[:1])  # killed before b's entry was written
    (out / "b.nii.gz").touch()
    run.write(half, out / "quality.json")
    predict_folder(run.root, tmp_path / "images", out)
    assert records_from(Quality, out / "quality.json") == before


def test_older_predictions_are_kept_and_said_not_to_be_judged(run, tmp_path, capsys):
    write_image(tmp_path / "images", "a")
    predict_folder(run.root, tmp_path / "images", tmp_path / "out")
    (tmp_path / "out" / "quality.json").unlink()
    for _ in range(2):
        capsys.readouterr()
        predict_folder(run.root, tmp_path / "images", tmp_path / "out")
        assert "1 of 1 images are segmented already" in capsys.readouterr().err
        (case,) = records_from(Quality, tmp_path / "out" / "quality.json").cases
        assert case.mean.expected_dice is None


def test_another_model_forgets_what_the_first_has_said(run, make_run, tmp_path):
    for name in "ab":
        write_image(tmp_path / "images", name)
    predict_folder(run.root, tmp_path / "images", tmp_path / "out")
    (tmp_path / "images" / "b.nii.gz").unlink()
    (tmp_path / "out" / "b.nii.gz").unlink()
    other = make_run((8, 8, 8), choice={}, name="other", seed=9)
    predict_folder(other.root, tmp_path / "images", tmp_path / "out", overwrite=True)
    found = records_from(Quality, tmp_path / "out" / "quality.json")
    assert found.error is None
    assert "no calibration" in found.meaning
    judged = {case.case: case.mean for case in found.cases}
    assert judged.keys() == {"a"}
    assert judged["a"].predicted_dice is None
    assert judged["a"].expected_dice is not None


def test_a_confidence_of_another_choice_is_not_used(run, make_choice, make_run, tmp_path):
    confidence = run.read(Confidence, run.confidence_file)
    run.write(dataclasses.replace(confidence, configurations=("2d",)), run.confidence_file)
    assert Predictor(run.root).judge.confidence is None
    run.confidence_file.write_text("{")
    assert Predictor(run.root).judge.confidence is None


def test_a_confidence_of_other_folds_or_weights_is_not_used(make_run, make_choice, run, tmp_path, capsys):
    kept = dataclasses.replace(run.read(Confidence, run.confidence_file), folds=(0, 1))
    run.write(kept, run.confidence_file)
    assert Predictor(run.root).judge.confidence == kept
    run.write(make_choice(folds=(1,)), run.choice_file)
    capsys.readouterr()
    assert Predictor(run.root).judge.confidence is None
    assert "no Dice is predicted: confidence.json was learnt from other configurations, folds or weights" in (
        capsys.readouterr().err
    )
    both = make_run((8, 8, 8), (8, 8), choice={"configurations": ("3d", "2d1")}, name="both")
    kept = dataclasses.replace(kept, configurations=("3d", "2d1"), weights=(0.5, 0.5))
    both.write(kept, both.confidence_file)
    assert Predictor(both.root).judge.confidence == kept
    choice = make_choice(("3d", "2d1"))
    for weights, used in (((2.0, 2.0), True), ((0.75, 0.25), False)):
        both.write(dataclasses.replace(choice, weights=weights), both.choice_file)
        assert (Predictor(both.root).judge.confidence is not None) == used
    both.write(dataclasses.replace(kept, weights=(3.0, 1.0)), both.confidence_file)
    assert Predictor(both.root).judge.confidence is not None


def test_an_older_confidence_names_configurations_only(run):
    text = json.loads(run.confidence_file.read_text())
    del text["folds"], text["weights"]
    run.confidence_file.write_text(json.dumps(text))
    assert Predictor(run.root).judge.confidence is not None


def test_without_records_it_says_nothing(make_run, tmp_path, capsys):
    folder = make_run((8, 8, 8), choice={})
    write_image(tmp_path / "images", "a", spacing=0.4)
    predict_folder(folder.root, tmp_path / "images", tmp_path / "out")
    (case,) = records_from(Quality, tmp_path / "out" / "quality.json").cases
    assert case.warnings == ()
    assert case.mean.predicted_dice is None
    assert "predicted Dice" not in capsys.readouterr().err


def test_a_single_image_is_warned_of_too(run, capsys):
    image = np.random.default_rng(0).normal(size=(9, 12, 14))
    predict(run.root, image, (1.0, 1.0, 1.0))
    assert "unlike" not in capsys.readouterr().err
    predict(run.root, image, (0.2, 1.0, 1.0))
    assert "unlike the training cases: the image: its spacing is z 0.2 mm" in capsys.readouterr().err


def test_a_model_that_cannot_be_written_to_predicts(run, tmp_path, monkeypatch):
    write_image(tmp_path / "images", "a", spacing=0.4)

    def refuse(self, event, **fields):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(RunFolder, "log", refuse)
    predict_folder(run.root, tmp_path / "images", tmp_path / "out")
    assert records_from(Quality, tmp_path / "out" / "quality.json").cases[0].warnings


def test_the_file_is_written_while_cases_come(run, tmp_path, monkeypatch):
    monkeypatch.setattr(quality_module, "WRITE_EVERY_S", 0.0)
    for name in "abc":
        write_image(tmp_path / "images", name)
    sizes = []
    original = quality_module.write_atomic

    def noted(path, content):
        sizes.append(len(json.loads(content)["cases"]))
        original(path, content)

    monkeypatch.setattr(quality_module, "write_atomic", noted)
    predict_folder(run.root, tmp_path / "images", tmp_path / "out")
    assert sizes == [0, 1, 2, 3, 3]


def test_of_many_unfamiliar_images_the_first_are_said(run, tmp_path, capsys):
    for name in "abcdefg":
        write_image(tmp_path / "images", name, spacing=0.4)
    predict_folder(run.root, tmp_path / "images", tmp_path / "out")
    said = capsys.readouterr().err
    assert said.count("unlike the training cases: ") == 5
    assert "2 more images are unlike the training cases; see" in said
    assert all(case.warnings for case in records_from(Quality, tmp_path / "out" / "quality.json").cases)
