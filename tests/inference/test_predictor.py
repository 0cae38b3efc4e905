"""New images, in every form that users have them, become segmentations of the same form."""

import dataclasses
import json

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from image_files import random_array, write_volume

from autoseg.compute import Compute
from autoseg.data.io import image_from_array
from autoseg.errors import ModelError, OptionError
from autoseg.evaluation.postprocessing import Postprocessing
from autoseg.inference.predictor import Predictor, predict
from autoseg.run_folder import RunRecord
from planners.plan import Plan

CPU = Compute(device="cpu", precision="fp32", channels_last=False, threads=1, reasons=())


@pytest.fixture(autouse=True)
def no_probe(monkeypatch):
    """The device is known here; probing it takes time."""
    monkeypatch.setattr("autoseg.compute.choose", lambda *arguments, **options: CPU)


def test_every_form_of_an_image_gives_the_same_segmentation(make_run, tmp_path):
    run = make_run((8, 8, 8), axis_order=(2, 0, 1))
    array = random_array(9, 12, 14)
    image = write_volume(tmp_path / "image.nii.gz", array)
    from_array = predict(run.root, array, spacing_mm=(1.0, 1.0, 1.5))
    assert from_array.shape == (9, 12, 14)
    assert from_array.dtype == np.uint8
    assert set(np.unique(from_array)) <= {0, 127, 255}
    assert len(np.unique(from_array)) > 1
    opened = Predictor(run.root)
    from_sitk = predict(opened, image)
    assert isinstance(from_sitk, sitk.Image)
    assert from_sitk.GetOrigin() == image.GetOrigin()
    assert from_sitk.GetDirection() == image.GetDirection()
    assert from_sitk.GetSpacing() == image.GetSpacing()
    np.testing.assert_array_equal(sitk.GetArrayFromImage(from_sitk), from_array)
    for path in (tmp_path / "image.nii.gz", str(tmp_path / "image.nii.gz"), [tmp_path / "image.nii.gz"]):
        np.testing.assert_array_equal(sitk.GetArrayFromImage(predict(opened, path)), from_array)
    with_channel = predict(opened, array[None].astype(np.float32), spacing_mm=(1.0, 1.0, 1.5))
    np.testing.assert_array_equal(with_channel, from_array)


def test_2d_images(make_run, tmp_path):
    run = make_run((8, 8), num_channels=3)
    array = np.random.default_rng(0).integers(0, 255, (20, 17, 3), dtype=np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(array, isVector=True), str(tmp_path / "photo.png"))
    from_file = predict(run.root, tmp_path / "photo.png")
    assert from_file.GetSize() == (17, 20)
    from_array = predict(run.root, np.moveaxis(array, -1, 0), spacing_mm=(1, 1))
    assert from_array.shape == (20, 17)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(from_file), from_array)
    grey = make_run((8, 8), name="grey")
    assert predict(grey.root, array[..., 0]).shape == (20, 17)


def test_channels_in_files_of_their_own(make_run, tmp_path):
    opened = Predictor(make_run((8, 8, 8), num_channels=2).root)
    arrays = [random_array(8, 9, 10, seed=seed) for seed in range(2)]
    files = [tmp_path / "images" / f"a_000{index}.nii.gz" for index in range(2)]
    for file, array in zip(files, arrays, strict=True):
        write_volume(file, array)
    expected = predict(opened, np.stack(arrays), spacing_mm=(1.0, 1.0, 1.5))
    for given in (files, files[0]):
        np.testing.assert_array_equal(sitk.GetArrayFromImage(predict(opened, given)), expected)


def test_what_cannot_be_an_image(make_run):
    run = make_run((8, 8, 8))
    with pytest.raises(OptionError, match="says nothing of its spacing"):
        predict(run.root, random_array(4, 4, 4))
    with pytest.raises(OptionError, match="a dict is no image"):
        predict(run.root, {})
    with pytest.raises(OptionError, match="spacing_mm is for arrays"):
        predict(run.root, sitk.GetImageFromArray(random_array(4, 4, 4)), spacing_mm=(1, 1, 1))


def test_channels_must_be_those_of_the_model(make_run):
    predictor = Predictor(make_run((8, 8, 8), num_channels=2).root)
    with pytest.raises(ModelError, match=r"has 1 channel; .*run needs 2 \(c0, c1\)"):
        predictor.predict(image_from_array(random_array(5, 5, 5), (1, 1, 1)))


def test_folds_are_averaged_and_configurations_ensembled(make_run, make_choice):
    run = make_run((8, 8, 8), (8, 8), choice={"configurations": ("3d", "2d1")})
    both = Predictor(run.root)
    assert [(step.configuration.name, len(step.networks)) for step in both.chain.steps] == [("3d", 2), ("2d1", 2)]
    image = image_from_array(random_array(9, 12, 14), (1.0, 1.0, 1.0))
    parts = both.logits(both.read(image))
    mean = np.mean([torch.from_numpy(part.logits_KZYX).softmax(0).numpy() for part in parts], axis=0)
    assert (both.predict(image) == np.array([0, 127, 255])[mean.argmax(0)]).mean() > 0.999
    run.write(make_choice(("3d",), (1,)), run.choice_file)
    single = [Predictor(run.root)]
    run.write(make_choice(("3d",), (0,)), run.choice_file)
    single.append(Predictor(run.root))
    logits = [item.logits(item.read(image))[0].logits_KZYX for item in single]
    np.testing.assert_allclose(parts[0].logits_KZYX, np.mean(logits, axis=0), atol=1e-6)


def test_postprocessing_of_the_choice_is_applied(make_run):
    array = random_array(12, 14, 16)
    before = predict(make_run((8, 8, 8), choice={}).root, array, (1, 1, 1))
    value = int(np.unique(before)[-1])
    rule = Postprocessing(name="one class", classes=((0, 127, 255).index(value),))
    cleaned = make_run((8, 8, 8), choice={"postprocessing": (rule,)}, name="cleaned")
    after = predict(cleaned.root, array, (1, 1, 1))
    assert (before == value).sum() > (after == value).sum() > 0
    assert (after[before != value] == before[before != value]).all()
    assert not after[(before == value) & (after != value)].any()


def test_without_a_choice_the_first_trained_configuration_is_taken(make_run):
    run = make_run((8, 8), (8, 8, 8), folds=(0, 2, "all-data"))
    assert [path.parent.name for path in _weights(run, "2d")] == ["fold_0", "fold_2", "fold_all-data"]
    for path in _weights(run, "2d"):
        path.unlink()
    predictor = Predictor(run.root)
    assert predictor.selection.name == "3d1, 3 networks"
    assert "no choice.json" in predictor.selection.because
    assert "still in training" in predictor.selection.because
    (run.fold("3d1", 2).record).write_text(json.dumps({"finished": True}))
    finished = Predictor(run.root)
    assert finished.selection.name == "3d1, 1 network"
    assert "still" not in finished.selection.because


def _weights(run, name):
    return sorted((run.root / "folds" / name).glob("fold_*/weights_last.safetensors"))


def test_a_model_that_cannot_be_opened_says_why(make_run, tmp_path):
    with pytest.raises(ModelError, match="is no folder"):
        Predictor(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"holds no plan\.json"):
        Predictor(tmp_path / "empty")
    with pytest.raises(ModelError, match="no trained network"):
        Predictor(make_run((8, 8, 8), folds=(), name="untrained").root)
    run = make_run((8, 8, 8), choice={"folds": (0, 1, 2)})
    with pytest.raises(ModelError, match=r"fold_2.*missing"):
        Predictor(run.root)
    run.choice_file.unlink()
    plan = run.read(Plan, run.plan_file)
    changed = dataclasses.replace(
        plan.configurations[0].architecture,
        stages=tuple(
            dataclasses.replace(stage, features=stage.features * 2)
            for stage in plan.configurations[0].architecture.stages
        ),
    )
    configuration = dataclasses.replace(plan.configurations[0], architecture=changed)
    run.write(dataclasses.replace(plan, configurations=(configuration,)), run.plan_file)
    with pytest.raises(ModelError, match="do not fit the network"):
        Predictor(run.root)


def test_a_cpu_computes_as_it_was_trained(make_run):
    """A race that ends differently must not change the precision from one prediction to the next."""
    run = make_run((8, 8, 8))
    assert Predictor(run.root).compute == CPU
    trained = dataclasses.replace(CPU, channels_last=True, reasons=("measured",))
    run.write(RunRecord(name="x", dataset="x", cases=(), started="now", compute=vars(trained)), run.run_file)
    for device in ("auto", "cpu"):
        found = Predictor(run.root, device=device).compute
        assert dataclasses.replace(found, threads=1) == trained
    given = dataclasses.replace(CPU, reasons=("given",))
    assert Predictor(run.root, compute=given).compute is given
