"""Presets of speed: what they leave out is what they say, and predictions of two of them do not mix."""

import dataclasses

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from autoseg.command_line import build_parser
from autoseg.compute import Compute
from autoseg.data.io import image_from_array
from autoseg.errors import AutosegError, OptionError
from autoseg.inference.folder import PredictionsRecord
from autoseg.inference.model import at_speed, digest_of, load_networks
from autoseg.inference.predictor import Predictor, predict, predict_folder
from autoseg.inference.sliding_window import WindowOptions, predict_logits
from autoseg.inference.speed import BEST, SPEEDS, find_speed
from autoseg.run_folder import records_from

CPU = Compute(device="cpu", precision="fp32", channels_last=False, threads=1, reasons=())
ARRAY = (np.random.default_rng(0).normal(size=(11, 13, 14)) * 100).round().astype(np.int16)
IMAGE = image_from_array(ARRAY, (1.0, 1.0, 1.0))


@pytest.fixture(autouse=True)
def no_probe(monkeypatch):
    """The device is known here; probing it takes time."""
    monkeypatch.setattr("autoseg.compute.choose", lambda *arguments, **options: CPU)


@pytest.mark.parametrize("name", list(SPEEDS))
def test_a_preset_can_be_used(name):
    speed = SPEEDS[name]
    assert speed.name == name
    assert 0 < speed.step <= 1
    assert speed.max_folds is None or speed.max_folds > 0
    assert speed.because
    assert find_speed(name) is speed


def test_presets_go_from_much_work_to_little():
    work = [(speed.mirror, -speed.step, speed.max_folds or 1000) for speed in SPEEDS.values()]
    assert work == sorted(work, reverse=True)
    assert len(set(work)) == len(work)


def test_the_command_line_knows_them_all():
    parser = build_parser()
    for name in SPEEDS:
        assert parser.parse_args(["predict", "model", "images", "out", "--speed", name]).speed == name
    assert parser.parse_args(["predict", "model", "images", "out"]).speed == BEST.name
    with pytest.raises(SystemExit):
        parser.parse_args(["predict", "model", "images", "out", "--speed", "fastest"])


def test_best_is_what_windows_do_unasked():
    assert (BEST.mirror, BEST.step, BEST.max_folds) == (WindowOptions().mirror, WindowOptions().step, None)


@pytest.mark.parametrize("speed", SPEEDS.values(), ids=list(SPEEDS))
def test_a_prediction_equals_its_windows_by_hand(make_run, speed):
    run = make_run((8, 8, 8), choice={})
    predictor = Predictor(run.root, speed=speed.name)
    prepared = predictor.read(IMAGE)
    (part,) = predictor.logits(prepared)
    item = predictor.plan.configuration("3d")
    folds = [run.fold("3d", fold) for fold in (0, 1)][: speed.max_folds]
    image = torch.from_numpy(prepared[0].image_CZYX)
    options = WindowOptions(mirror=speed.mirror, step=speed.step)
    expected = predict_logits(load_networks(item, folds, CPU), image, item, CPU, options)
    np.testing.assert_array_equal(np.asarray(part.logits_KZYX), expected.numpy())


def test_every_preset_gives_another_prediction_and_the_usual_one_is_best(make_run):
    run = make_run((8, 8, 8), choice={})
    usual = Predictor(run.root)
    prepared = usual.read(IMAGE)
    found = [np.asarray(Predictor(run.root, speed=name).logits(prepared)[0].logits_KZYX) for name in SPEEDS]
    np.testing.assert_array_equal(np.asarray(usual.logits(prepared)[0].logits_KZYX), found[list(SPEEDS).index("best")])
    for index, item in enumerate(found):
        assert all(not np.array_equal(item, other) for other in found[:index])


def test_what_feeds_others_is_cut_alike(make_run):
    whole = Predictor(make_run((8, 8, 8), choice={}).root).selection
    fed = dataclasses.replace(whole, previous=whole.folds)
    cut = at_speed(fed, dataclasses.replace(BEST, max_folds=1))
    assert [len(folds) for _, folds in (*cut.folds, *cut.previous)] == [1, 1]
    assert at_speed(fed, BEST) == fed


def test_the_digest_and_the_name_tell_speeds_apart(make_run):
    run = make_run((8, 8, 8), choice={})
    opened = {name: Predictor(run.root, speed=name) for name in SPEEDS}
    digests = {name: digest_of(item.selection, item.plan) for name, item in opened.items()}
    assert len(set(digests.values())) == len(SPEEDS)
    unnamed = Predictor(run.root)
    assert digests["best"] == digest_of(unnamed.selection, unnamed.plan)
    assert unnamed.selection.name == "3d, 2 networks"
    assert opened["balanced"].selection.name == "3d, 2 networks, balanced"
    assert opened["fast"].selection.name == "3d, 1 network, fast"


def test_predictions_of_two_speeds_do_not_mix(make_run, tmp_path, capsys):
    run = make_run((8, 8, 8), choice={})
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    sitk.WriteImage(sitk.GetImageFromArray(ARRAY), str(images / "a.nii.gz"))
    predict_folder(run.root, images, out, speed="fast")
    assert SPEEDS["fast"].text in capsys.readouterr().err
    record = records_from(PredictionsRecord, out / "predictions.json")
    assert record.facts["speed"] == SPEEDS["fast"].text
    assert record.networks == "3d, 1 network, fast"
    with pytest.raises(AutosegError, match=r"another model.*3d, 1 network, fast.*--overwrite"):
        predict_folder(run.root, images, out)
    predict_folder(run.root, images, out, speed="fast")
    assert "segmented already" in capsys.readouterr().err
    predict_folder(run.root, images, out, overwrite=True)
    assert "speed" not in records_from(PredictionsRecord, out / "predictions.json").facts


def test_an_image_alone_can_be_fast_too(make_run):
    run = make_run((8, 8, 8), choice={})
    found = predict(run.root, ARRAY, (1, 1, 1), speed="fast")
    np.testing.assert_array_equal(found, Predictor(run.root, speed="fast").predict(IMAGE))
    assert (found != predict(run.root, ARRAY, (1, 1, 1))).any()


def test_an_unknown_speed_is_told(make_run):
    with pytest.raises(OptionError, match=r"no speed is named 'fats'; did you mean 'fast'\? \(known: balanced"):
        Predictor(make_run((8, 8, 8)).root, speed="fats")
