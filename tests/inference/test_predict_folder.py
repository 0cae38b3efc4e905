"""Folders of images become folders of segmentations: in their formats, once each, never mixed between models."""

import json
import locale
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from image_files import random_array, write_volume

from autoseg.compute import Compute
from autoseg.data.cases import Case
from autoseg.errors import AutosegError, ImageError, OptionError
from autoseg.inference import folder as folder_module
from autoseg.inference.predictor import Predictor, predict, predict_cases, predict_folder
from planners import records

CPU = Compute(device="cpu", precision="fp32", channels_last=False, threads=1, reasons=())


@pytest.fixture(autouse=True)
def no_probe(monkeypatch):
    """The device is known here; probing it takes time."""
    monkeypatch.setattr("autoseg.compute.choose", lambda *arguments, **options: CPU)


@pytest.fixture
def folder_of_images(tmp_path):
    """Four images of one channel, in several formats."""
    images = tmp_path / "images"
    for index, ending in enumerate((".nii.gz", ".nrrd", ".mha", ".tif")):
        write_volume(images / f"case{index}{ending}", random_array(8 + index, 10, 12, seed=index))
    return images


def test_a_folder_comes_back_in_its_formats(make_run, folder_of_images, tmp_path, capsys):
    run = make_run((8, 8, 8))
    output = tmp_path / "out"
    written = predict_folder(run.root, folder_of_images, output)
    assert [path.name for path in written] == ["case0.nii.gz", "case1.nrrd", "case2.mha", "case3.tif"]
    opened = Predictor(run.root)
    for path in written:
        image, segmentation = sitk.ReadImage(str(folder_of_images / path.name)), sitk.ReadImage(str(path))
        expected = predict(opened, folder_of_images / path.name)
        np.testing.assert_array_equal(sitk.GetArrayFromImage(segmentation), sitk.GetArrayFromImage(expected))
        assert segmentation.GetSize() == image.GetSize()
        np.testing.assert_allclose(segmentation.GetSpacing(), image.GetSpacing(), rtol=1e-6)
        np.testing.assert_allclose(segmentation.GetOrigin(), image.GetOrigin(), rtol=1e-6)
    assert "3d, 2 networks" in capsys.readouterr().err


def test_photographs_become_png(make_run, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    picture = np.random.default_rng(0).integers(0, 255, (30, 20, 3), dtype=np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(picture, isVector=True), str(images / "retina.jpg"))
    written = predict_folder(make_run((8, 8), num_channels=3).root, images, tmp_path / "out")
    assert [path.name for path in written] == ["retina.png"]
    assert sitk.ReadImage(str(written[0])).GetSize() == (20, 30)


def write_slice(path, pixels, number):
    image = sitk.GetImageFromArray(pixels[None])
    image.SetSpacing((0.8, 0.8, 1.0))
    uids = {"0008|0016": "1.2.840.10008.5.1.4.1.1.2", "0020|000d": "1.2", "0020|000e": "1.2.3"}
    place = {"0020|0032": f"1\\2\\{2.0 * number}", "0020|0037": "1\\0\\0\\0\\1\\0", "0020|0013": str(number)}
    for key, value in {**uids, **place, "0008|0060": "CT", "0008|0018": f"1.2.3.{number}"}.items():
        image.SetMetaData(key, value)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    writer.SetFileName(str(path))
    before = locale.setlocale(locale.LC_ALL)
    writer.Execute(image)
    locale.setlocale(locale.LC_ALL, before)  # GDCM's writer leaves the program in the locale C


def test_dicom_series_become_nifti(make_run, tmp_path):
    array = random_array(6, 12, 10)
    for patient in ("p1", "p2"):
        (tmp_path / "scans" / patient).mkdir(parents=True)
        for number, pixels in enumerate(array):
            write_slice(tmp_path / "scans" / patient / f"{9 - number}.dcm", pixels, number)
    run = make_run((4, 8, 8))
    written = predict_folder(run.root, tmp_path / "scans", tmp_path / "out")
    assert [path.name for path in written] == ["p1.nii.gz", "p2.nii.gz"]
    segmentation = sitk.ReadImage(str(written[0]))
    np.testing.assert_allclose(segmentation.GetSpacing(), (0.8, 0.8, 2.0), rtol=1e-6)
    expected = predict(run.root, array, spacing_mm=(2.0, 0.8, 0.8))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(segmentation), expected)
    one = predict_folder(run.root, tmp_path / "scans" / "p2", tmp_path / "one")
    assert [path.name for path in one] == ["p2.nii.gz"]


def test_what_is_done_is_skipped(make_run, folder_of_images, tmp_path, capsys):
    run = make_run((8, 8, 8))
    output = tmp_path / "out"
    predict_folder(run.root, folder_of_images / "case0.nii.gz", output)
    marker = (output / "case0.nii.gz").read_bytes()[:-8] + b"modified"
    (output / "case0.nii.gz").write_bytes(marker)
    assert len(predict_folder(run.root, folder_of_images, output)) == 4
    assert (output / "case0.nii.gz").read_bytes() == marker
    assert "1 of 4 images are segmented already" in capsys.readouterr().err
    predict_folder(run.root, folder_of_images, output, overwrite=True)
    assert (output / "case0.nii.gz").read_bytes() != marker


def test_one_bad_image_does_not_stop_the_others(make_run, folder_of_images, tmp_path):
    (folder_of_images / "case1.nrrd").write_bytes(b"NRRD0004 but not really")
    write_volume(folder_of_images / "case4.nii.gz", random_array(6, 6, 6, 6))
    output = tmp_path / "out"
    with pytest.raises(ImageError) as caught:
        predict_folder(make_run((8, 8, 8)).root, folder_of_images, output)
    lines = str(caught.value).splitlines()
    assert lines[0] == "2 of 5 images could not be segmented; the others are done"
    assert lines[1].startswith("  case case1: ")
    assert "case1.nrrd" in lines[1]
    assert "6 channels" in lines[2]
    done = [path.name for path in sorted(output.glob("case*")) if path.suffix != ".json"]
    assert done == ["case0.nii.gz", "case2.mha", "case3.tif"]


def test_nothing_could_be_segmented(make_run, folder_of_images, tmp_path):
    with pytest.raises(ImageError, match=r"^none of 4 images could be segmented\n  case case0: .*needs 3"):
        predict_folder(make_run((8, 8, 8), num_channels=3).root, folder_of_images, tmp_path / "out")


def test_several_channels_and_a_missing_one(make_run, tmp_path):
    images = tmp_path / "images"
    for name in ("a_0000", "a_0001", "b_0000", "b_0001", "c_0000"):
        write_volume(images / f"{name}.nii.gz", random_array(8, 8, 8))
    with pytest.raises(ImageError, match="case c: channel 0001 is missing"):
        predict_folder(make_run((8, 8, 8), num_channels=2).root, images, tmp_path / "out")
    assert (tmp_path / "out" / "b.nii.gz").exists()


def test_another_model_does_not_mix_with_what_is_there(make_run, folder_of_images, tmp_path):
    first, second = make_run((8, 8, 8)), make_run((8, 8, 8), name="second", seed=7)
    output = tmp_path / "out"
    predict_folder(first.root, folder_of_images, output)
    before = (output / "case0.nii.gz").read_bytes()
    with pytest.raises(OptionError, match="holds 4 predictions of another model"):
        predict_folder(second.root, folder_of_images, output)
    assert (output / "case0.nii.gz").read_bytes() == before
    predict_folder(second.root, folder_of_images, output, overwrite=True)
    assert (output / "case0.nii.gz").read_bytes() != before
    record = records.from_json(folder_module.PredictionsRecord, json.loads((output / "predictions.json").read_text()))
    assert record.model == str(second.root)
    assert record.labels == {"air": 0, "rim": 127, "core": 255}


@pytest.fixture
def two_models(make_run, tmp_path):
    """Two models, and a folder that holds what the first made of case a; images of b and c are there too."""
    models = make_run((8, 8, 8)).root, make_run((8, 8, 8), name="second", seed=7).root
    for seed, name in enumerate("abc"):
        write_volume(tmp_path / "all" / f"{name}.nii.gz", random_array(8, 9, 10, seed=seed))
    predict_folder(models[0], tmp_path / "all" / "a.nii.gz", tmp_path / "out", save_probabilities=True)
    return models


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("named", [False, True])
def test_a_second_model_does_not_take_over_predictions_of_other_images(two_models, tmp_path, overwrite, named):
    """Its record would stand for them too, and they would be skipped as its own ever after."""
    output, (_, second) = tmp_path / "out", two_models
    if not named:  # killed before quality.json was written, or made by a program that wrote none
        (output / "quality.json").unlink()
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    with pytest.raises(OptionError, match=r"holds 1 predictions of another .*not of the images given \(a\.nii\.gz\)"):
        predict_folder(second, tmp_path / "all" / "b.nii.gz", output, overwrite=overwrite)
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before, "nothing is changed"
    predict_folder(second, tmp_path / "all", output, overwrite=True)
    expected = predict_folder(second, tmp_path / "all", tmp_path / "fresh")
    for path in expected:
        np.testing.assert_array_equal(
            *(sitk.GetArrayFromImage(sitk.ReadImage(str(item / path.name))) for item in (output, tmp_path / "fresh"))
        )
    assert not list(output.glob("*.npy")), "the first model's probabilities are gone with its segmentation"


def test_a_record_that_cannot_be_read_is_another_models(two_models, tmp_path):
    (tmp_path / "out" / "predictions.json").write_text("{")
    with pytest.raises(OptionError, match=r"holds 1 predictions.*predictions\.json cannot be read\).*--overwrite"):
        predict_folder(two_models[1], tmp_path / "all" / "a.nii.gz", tmp_path / "out")


def test_files_beside_images_are_not_taken_for_predictions(two_models, tmp_path):
    """Images may lie in the output folder under other names; what else lies there is the user's."""
    output, (first, second) = tmp_path / "both", two_models
    for name in ("a_0000", "other"):
        write_volume(output / f"{name}.nii.gz", random_array(8, 9, 10))
    before = (output / "other.nii.gz").read_bytes()
    for model in (first, second):
        predict_folder(model, output / "a_0000.nii.gz", output, overwrite=True)
    assert (output / "other.nii.gz").read_bytes() == before


def test_older_predictions_of_a_run_make_way_and_files_of_others_stay(make_run, folder_of_images, capsys):
    run = make_run((8, 8, 8))
    cases = [Case(id=name, images=(folder_of_images / "case0.nii.gz",)) for name in ("kept", "gone")]
    predict_cases(run, cases, run.predictions)
    (run.predictions / "mine.nii.gz").write_bytes(b"a user's")
    make_run((8, 8, 8), seed=5)
    predict_cases(run, cases[:1], run.predictions)
    assert sorted(path.name for path in run.predictions.glob("*.nii.gz")) == ["kept.nii.gz", "mine.nii.gz"]
    assert (run.predictions / "mine.nii.gz").read_bytes() == b"a user's"
    said = capsys.readouterr().err
    assert "1 older predictions of images that are not given any more are removed" in said
    assert "left as they are: mine.nii.gz" in said
    assert [item["case"] for item in json.loads((run.predictions / "quality.json").read_text())["cases"]] == ["kept"]


def test_images_are_never_replaced(make_run, folder_of_images):
    before = (folder_of_images / "case0.nii.gz").read_bytes()
    with pytest.raises(OptionError, match="predictions would replace them"):
        predict_folder(make_run((8, 8, 8)).root, folder_of_images, folder_of_images, overwrite=True)
    assert (folder_of_images / "case0.nii.gz").read_bytes() == before


def test_test_cases_are_predicted_anew_when_the_model_has_changed(make_run, folder_of_images, tmp_path):
    run = make_run((8, 8, 8))
    cases = [Case(id="named", images=(folder_of_images / "case0.nii.gz",))]
    assert predict_cases(run, cases, run.predictions) == [run.predictions / "named.nii.gz"]
    before = (run.predictions / "named.nii.gz").stat().st_mtime_ns
    predict_cases(run, cases, run.predictions)
    assert (run.predictions / "named.nii.gz").stat().st_mtime_ns == before
    make_run((8, 8, 8), seed=5)
    predict_cases(run, cases, run.predictions)
    assert (run.predictions / "named.nii.gz").stat().st_mtime_ns > before


def test_probabilities_lie_beside_the_segmentation(make_run, folder_of_images, tmp_path):
    run, output = make_run((8, 8, 8)), tmp_path / "out"
    predict_folder(run.root, folder_of_images, output)
    predict_folder(run.root, folder_of_images, output, save_probabilities=True)
    for path in output.glob("case*.npy"):
        probabilities = np.load(path, mmap_mode="r")
        segmentation = sitk.GetArrayFromImage(
            predict(run.root, next(folder_of_images.glob(path.name.split(".")[0] + ".*")))
        )
        assert probabilities.shape == (3, *segmentation.shape)
        agree = np.array([0, 127, 255])[probabilities.argmax(0)] == segmentation
        assert agree.mean() > 0.99  # float16 makes ties
    assert len(list(output.glob("case*.npy"))) == 4


def test_errors_are_those_that_the_command_line_prints(make_run, tmp_path):
    run = make_run((8, 8, 8))
    with pytest.raises(AutosegError, match="does not exist"):
        predict_folder(run.root, tmp_path / "absent", tmp_path / "out")
    assert not Path(tmp_path / "out").exists()
