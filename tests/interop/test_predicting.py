"""What nnU-Net v2 trained segments images through the same door as a run; what is not taken over is told."""

import gc
import pickle
import re
import tempfile
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from autoseg.compute import Compute
from autoseg.errors import AutosegError, ModelError
from autoseg.inference.folder import PredictionsRecord
from autoseg.inference.model import digest_of
from autoseg.inference.opening import open_model
from autoseg.inference.predictor import Predictor, predict, predict_folder
from autoseg.inference.sharing import export_model
from autoseg.interop.as_run import write_as_run
from autoseg.networks import build_network, put_weights
from autoseg.run_folder import records_from

CPU = Compute(device="cpu", precision="fp32", channels_last=False, threads=1, reasons=())


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch) -> Path:
    """The folder of temporary folders; the device is known here."""
    monkeypatch.setattr("autoseg.compute.choose", lambda *arguments, **options: CPU)
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def images(tmp_path) -> Path:
    """Two images of two channels, named as nnU-Net names them."""
    folder, generator = tmp_path / "images", np.random.default_rng(0)
    folder.mkdir()
    for name in ("a_0000", "a_0001", "b_0000", "b_0001"):
        image = sitk.GetImageFromArray(generator.normal(size=(3, 20, 26)).astype(np.float32))
        image.SetSpacing((0.75, 0.5, 2.0))
        sitk.WriteImage(image, str(folder / f"{name}.nii.gz"))
    return folder


def test_a_model_folder_segments_a_folder(model, images, tmp_path, temporary, capsys):
    folder = model.write(("0", "1"))
    written = predict_folder(folder, images, tmp_path / "out")
    assert [path.name for path in written] == ["a.nii.gz", "b.nii.gz"]
    printed = capsys.readouterr().err
    assert "knows nothing of its training images: no Dice is predicted" in printed
    assert "2d, 2 networks (a model of nnU-Net v2, 2 folds averaged: checkpoint_final.pth)" in printed
    record = records_from(PredictionsRecord, tmp_path / "out" / "predictions.json")
    assert record.model == str(folder)
    assert record.facts["mirrored axes"] == "1"
    assert record.facts["patch size"] == "16, 24"
    assert not {"epochs", "learning rate", "augmentation", "epochs done"} & set(record.facts), "nobody knows them"
    assert len(np.unique(sitk.GetArrayFromImage(sitk.ReadImage(str(written[0]))))) > 1
    gc.collect()
    assert not list(temporary.iterdir())
    predict_folder(folder, images, tmp_path / "out")
    assert "2 of 2 images are segmented already; skipped" in capsys.readouterr().err
    model.weights["heads.0.conv.bias"].add_(1)
    with pytest.raises(AutosegError, match=rf"predictions of another model.*{re.escape(str(folder))}"):
        predict_folder(model.write(("0", "1")), images, tmp_path / "out")


def test_one_checkpoint_segments_as_its_folder_does(plain, images):
    folder = plain.write(("all",))
    whole = predict(folder, images / "a_0000.nii.gz")
    alone = predict(folder / "fold_all" / "checkpoint_final.pth", images / "a_0000.nii.gz")
    assert sitk.GetArrayFromImage(whole).tobytes() == sitk.GetArrayFromImage(alone).tobytes()


def test_the_weights_are_the_checkpoints(plain):
    predictor = Predictor(plain.write())
    (network,) = predictor.chain.steps[0].networks
    item = predictor.plan.configuration("2d")
    expected = build_network(item.architecture, 2, 3)
    put_weights(expected, plain.weights, "test")
    x = torch.randn(1, 2, 16, 24, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(network(x)[0], expected.eval()(x)[0])


def test_a_cascade_needs_its_first_stage(plain, images, tmp_path):
    second = plain.beside("2d_cascade")
    file = second.write() / "fold_0" / "checkpoint_final.pth"
    with pytest.raises(ModelError, match="networks of 2d are not there: put the model folder of 2d"):
        Predictor(second.folder)
    with pytest.raises(ModelError, match="give the model folder, not one checkpoint, with that of 2d"):
        Predictor(file)
    plain.write(("0", "1"))
    predictor = Predictor(second.folder)
    assert predictor.selection.name == "2d_cascade, 1 network, after 2d, 2 networks"
    before = digest_of(predictor.selection, predictor.plan)
    assert sitk.GetArrayFromImage(predict(predictor, images / "a_0000.nii.gz")).shape == (3, 20, 26)
    done = export_model(second.folder, tmp_path / "back", "nnunet")
    assert [path.name.split("__")[-1] for path in done.paths] == ["2d", "2d_cascade"]
    assert "a cascade: nnU-Net predicts with 2d first" in done.notes[0]
    again = Predictor(done.paths[1])
    assert digest_of(again.selection, again.plan) == before, "there and back it is the same model"


def test_a_bundle_of_it_is_the_same_model(plain, tmp_path, capsys):
    folder = plain.write(("0", "1"))
    done = export_model(folder, tmp_path / "model.autoseg")
    original, shared = Predictor(folder), Predictor(done.paths[0])
    assert "the model was shared without its calibration" in capsys.readouterr().err
    assert shared.selection.because == original.selection.because
    assert shared.opened.facts() == original.opened.facts()
    assert digest_of(shared.selection, shared.plan) == digest_of(original.selection, original.plan)


def test_digests_are_stable_and_openings_leave_nothing(plain, temporary):
    folder = plain.write(("0", "1"))
    opened = [open_model(folder), open_model(folder)]
    digests = {digest_of(selection, plan) for plan, selection in (item.select() for item in opened)}
    assert len(digests) == 1
    assert len(list(temporary.iterdir())) == 2
    del opened
    gc.collect()
    assert not list(temporary.iterdir())


def test_folds_are_averaged_as_nnunet_does(plain, tmp_path):
    plain.write(("0", "10", "2", "all"))
    made = write_as_run(plain.folder, tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run" / "folds" / "2d").iterdir()) == [
        "fold_0",
        "fold_10",
        "fold_2",
    ]
    assert "not averaged with the others: fold_all-data of 2d" in made.notes
    (plain.folder / "fold_2" / "checkpoint_final.pth").rename(plain.folder / "fold_2" / "checkpoint_latest.pth")
    made = write_as_run(plain.folder, tmp_path / "fewer")
    assert made.because == "a model of nnU-Net v2, 2 folds averaged: checkpoint_final.pth"
    assert "not averaged with the others: fold_2 of 2d, fold_all-data of 2d" in made.notes


def test_what_is_not_taken_over_is_told(plain, tmp_path):
    folder = plain.write(name="checkpoint_best.pth")
    place = folder / "crossval_results_folds_0_1_2_3_4"
    place.mkdir()
    (place / "postprocessing.pkl").write_bytes(pickle.dumps(1))
    made = write_as_run(folder, tmp_path / "run")
    assert made.notes[1:] == (
        "2d has no checkpoint_final.pth: its training was not finished",
        "its postprocessing.pkl is not applied: a pickle could run anything",
    )


def test_images_that_nnunet_turns_are_refused(plain):
    plain.plans["image_reader_writer"] = "NibabelIOWithReorient"
    with pytest.raises(ModelError, match="turns to one orientation"):
        Predictor(plain.write())


def test_folders_around_and_inside_a_model_point_to_it(plain, tmp_path):
    folder = plain.write()
    with pytest.raises(ModelError, match=f"holds models of nnU-Net v2. Give one of them: {re.escape(str(folder))}"):
        Predictor(tmp_path)
    with pytest.raises(ModelError, match=f"is one fold of a model of nnU-Net v2. Give {re.escape(str(folder))}"):
        Predictor(folder / "fold_0")


def test_a_model_that_cannot_be_opened_leaves_nothing(plain, temporary, monkeypatch):
    folder = plain.write()
    (folder / "fold_0" / "checkpoint_final.pth").write_bytes(b"no checkpoint")
    with pytest.raises(ModelError, match=r"checkpoint_final\.pth cannot be"):
        open_model(folder)
    assert not list(temporary.iterdir())
    plain.write()

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("autoseg.interop.as_run.write_atomic", full)
    with pytest.raises(ModelError, match=rf"{re.escape(str(folder))} cannot be opened: No space left.*TMPDIR"):
        open_model(folder)
    assert not list(temporary.iterdir())


def test_messages_name_what_the_user_gave(plain, tmp_path):
    folder = plain.write()
    predictor = Predictor(folder)
    with pytest.raises(ModelError, match=rf"1 channel; {re.escape(str(folder))} needs 2 \(CT, PET\)"):
        predict(predictor, np.zeros((3, 8, 8)), spacing_mm=(1, 1, 1))
    opened = open_model(folder)
    opened.run.plan_file.write_text("{")
    with pytest.raises(AutosegError, match=rf"{re.escape(str(folder))}/plan.json is not JSON"):
        opened.select()
