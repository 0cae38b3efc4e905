"""A cascade predicts by itself: what feeds it runs first, once, and leaves nothing but its segmentation."""

import dataclasses

import numpy as np
import pytest
import torch

from autoseg.compute import Compute
from autoseg.data.io import image_from_array
from autoseg.errors import ModelError
from autoseg.evaluation.selection import Choice
from autoseg.inference import chain as chaining
from autoseg.inference.model import digest_of, select
from autoseg.inference.predictor import Predictor
from autoseg.inference.previous import previous_segmentation
from autoseg.inference.sliding_window import predict_each, predict_logits
from autoseg.networks import build_network, save_weights
from autoseg.preprocessing.preprocess import preprocess_case
from autoseg.run_folder import RunFolder
from planners.fingerprint import Channel
from planners.labels import LabelClass, Labels
from planners.plan import Input, MemoryBudget, Plan

CPU = Compute(device="cpu", precision="fp32", channels_last=False, threads=1, reasons=())
LABELS = Labels(classes=tuple(LabelClass(name=name, value=v) for name, v in (("air", 0), ("rim", 127), ("core", 255))))
IMAGE = image_from_array(
    (np.random.default_rng(0).normal(size=(13, 15, 14)) * 100).round().astype(np.int16), (1.0, 1.0, 1.0)
)


@pytest.fixture(autouse=True)
def no_probe(monkeypatch):
    """The device is known here; probing it takes time."""
    monkeypatch.setattr("autoseg.compute.choose", lambda *arguments, **options: CPU)


@pytest.fixture
def ran(monkeypatch):
    """Names of the configurations in the order in which they were run."""
    names = []

    def noted(networks, image, configuration, *others):
        names.append(configuration.name)
        return predict_each(networks, image, configuration, *others)

    monkeypatch.setattr(chaining, "predict_each", noted)
    return names


@pytest.fixture
def run(make_configuration, tmp_path):
    """A run of four configurations: low → mid → high, and one that stands alone; two folds each."""

    def fed(name, previous, patch, **fields):
        inputs = (Input(channels=1), Input(kind="previous", name=previous, channels=2))
        return make_configuration(patch, name=name, inputs=inputs, previous=previous, **fields)

    configurations = (
        make_configuration((8, 8, 8), name="alone"),
        make_configuration((8, 8, 8), name="low", spacing_mm=(2.0, 2.0, 2.0)),
        fed("mid", "low", (8, 8, 8)),
        fed("high", "mid", (8, 8), spacing_mm=(0.8, 0.8)),
    )
    plan = Plan(
        dataset="test",
        planner="default",
        budget=MemoryBudget(),
        axis_order=(1, 0, 2),
        channels=(Channel(name="c0"),),
        labels=LABELS,
        configurations=configurations,
    )
    run = RunFolder(tmp_path / "run")
    run.write(plan, run.plan_file)
    for number, item in enumerate(configurations):
        for fold in range(2):
            network = build_network(item.architecture, item.num_input_channels, 3, seed=10 * number + fold)
            save_weights(run.fold(item.name, fold).weights_last, network, {"step": "0"})
    return run


def choose(run, *names, folds=(0, 1)):
    nothing = {"mean_dice": None, "mean_iou": None, "dice": (), "candidates": (), "trials": (), "reasons": ()}
    choice = Choice(
        configurations=names, folds=folds, postprocessing=(), structures=("rim", "core"), num_cases=2, **nothing
    )
    run.write(choice, run.choice_file)


def by_hand(run, name, image, folds=(0, 1)):
    """The slow way: every step of the chain for itself."""
    plan = run.read(Plan, run.plan_file)
    configuration = plan.configuration(name)
    case = preprocess_case(image.read(), image.geometry.spacing_mm, plan, configuration)
    previous = None
    if configuration.previous is not None:
        part, target = by_hand(run, configuration.previous, image)
        previous = torch.from_numpy(previous_segmentation([part], target, case.grid))
    trained = (configuration, tuple(run.fold(name, fold) for fold in folds))
    networks = chaining.load_networks(*trained, CPU)
    tensor = torch.from_numpy(case.image_CZYX)
    logits = predict_logits(networks, tensor, configuration, CPU, previous_ZYX=previous)
    target = chaining.make_target(configuration.target, plan.labels, configuration.training)
    return chaining.LogitsPart(logits_KZYX=logits.numpy(), grid=case.grid, resampling=configuration.resampling), target


def test_a_plan_may_ask_for_the_previous_segmentation_by_label(run, monkeypatch):
    plan, asked = run.read(Plan, run.plan_file), []
    original = previous_segmentation

    def noted(*arguments):
        asked.append(arguments[4])
        return original(*arguments)

    monkeypatch.setattr(chaining, "previous_segmentation", noted)
    mid = plan.configuration("mid")
    inputs = (mid.inputs[0], dataclasses.replace(mid.inputs[1], through="segmentation"))
    changed = tuple(dataclasses.replace(mid, inputs=inputs) if i == mid else i for i in plan.configurations)
    choose(run, "high")
    before = Predictor(run.root)
    before.predict(IMAGE)
    run.write(dataclasses.replace(plan, configurations=changed), run.plan_file)
    after = Predictor(run.root)
    after.predict(IMAGE)
    assert asked == [None, None, mid.resampling, None], "low → mid, mid → high"
    assert digest_of(before.selection, before.plan) != digest_of(after.selection, after.plan)


@pytest.mark.parametrize(("name", "order"), [("mid", ["low", "mid"]), ("high", ["low", "mid", "high"])])
def test_a_cascade_runs_what_feeds_it_first(run, ran, name, order):
    choose(run, name)
    predictor = Predictor(run.root)
    (part,) = predictor.logits(predictor.read(IMAGE), "case")
    assert ran == order
    expected, _ = by_hand(run, name, IMAGE)
    np.testing.assert_array_equal(part.logits_KZYX, expected.logits_KZYX)
    assert part.grid == expected.grid
    assert predictor.predict(IMAGE).shape == IMAGE.shape


def test_a_stage_that_two_members_share_runs_once(run, ran):
    choose(run, "high", "alone", "mid", "low")
    predictor = Predictor(run.root)
    parts = predictor.logits(predictor.read(IMAGE))
    assert sorted(ran) == ["alone", "high", "low", "mid"]
    for name, part in zip(("high", "alone", "mid", "low"), parts, strict=True):
        np.testing.assert_array_equal(part.logits_KZYX, by_hand(run, name, IMAGE)[0].logits_KZYX)


def test_as_a_member_a_stage_has_the_folds_of_the_choice(run, ran):
    """All folds of a stage feed the next, whatever folds are chosen."""
    choose(run, "mid", "low", folds=(1,))
    predictor = Predictor(run.root)
    parts = predictor.logits(predictor.read(IMAGE))
    assert ran == ["low", "mid", "low"]
    for name, part in zip(("mid", "low"), parts, strict=True):
        np.testing.assert_array_equal(part.logits_KZYX, by_hand(run, name, IMAGE, (1,))[0].logits_KZYX)


def test_steps_that_preprocess_alike_share_the_image(run):
    choose(run, "mid", "alone")
    predictor = Predictor(run.root)
    prepared = dict(
        zip((step.configuration.name for step in predictor.chain.steps), predictor.read(IMAGE), strict=True)
    )
    assert prepared["mid"] is prepared["alone"]
    assert prepared["low"].grid.shape != prepared["mid"].grid.shape


def test_people_are_told_of_all_networks(run):
    choose(run, "high", folds=(0,))
    assert Predictor(run.root).selection.name == "high, 1 network, after low → mid, 4 networks"
    choose(run, "alone")
    assert Predictor(run.root).selection.name == "alone, 2 networks"


def test_the_first_trained_configuration_may_be_a_cascade(run):
    plan = run.read(Plan, run.plan_file)
    order = sorted(plan.configurations, key=lambda item: item.name, reverse=True)  # mid, low, high, alone
    run.write(dataclasses.replace(plan, configurations=tuple(order)), run.plan_file)
    assert Predictor(run.root).selection.name == "mid, 2 networks, after low, 2 networks"
    for fold in range(2):
        run.fold("low", fold).weights_last.unlink()
    with pytest.raises(ModelError, match="mid needs the segmentation of low, of which no fold is trained"):
        Predictor(run.root)


def test_finished_folds_alone_feed_where_there_are_any(run):
    choose(run, "mid")
    run.fold("low", 1).record.write_text('{"finished": true}')
    assert Predictor(run.root).selection.name == "mid, 2 networks, after low, 1 network"


def test_the_digest_knows_the_networks_that_feed(run):
    plan = run.read(Plan, run.plan_file)
    choose(run, "mid")
    before, alone = digest_of(select(run, plan), plan), plan.configuration("alone")
    save_weights(run.fold("alone", 0).weights_last, build_network(alone.architecture, 1, 3, seed=77), {"step": "0"})
    assert digest_of(select(run, plan), plan) == before
    low = plan.configuration("low")
    save_weights(run.fold("low", 0).weights_last, build_network(low.architecture, 1, 3, seed=77), {"step": "0"})
    after = digest_of(select(run, plan), plan)
    assert after != before
    changed = dataclasses.replace(low, training=dataclasses.replace(low.training, mirror_axes=(0,)))
    others = tuple(changed if item.name == "low" else item for item in plan.configurations)
    other_plan = dataclasses.replace(plan, configurations=others)
    assert digest_of(select(run, other_plan), other_plan) != after
