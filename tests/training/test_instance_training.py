"""Training towards each target of objects, on touching ellipses made in code: it learns, goes on, is looked after."""

import dataclasses
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from autoseg import pipeline
from autoseg.claims import Claims
from autoseg.compute import Compute
from autoseg.data.cases import Dataset
from autoseg.data.splits import Fold, Splits
from autoseg.evaluation.overlap import Scores, collect
from autoseg.options import RunOptions
from autoseg.planning import write_by_program
from autoseg.preprocessing import populate
from autoseg.preprocessing.locations import sample_locations
from autoseg.preprocessing.populate import store_name
from autoseg.preprocessing.preprocess import CaseGrid, PreprocessedCase
from autoseg.preprocessing.store import Store, StoredCase
from autoseg.run_folder import RunFolder, RunRecord
from autoseg.targets import TARGETS, boundary, make_target
from autoseg.targets.instance_encoding import encode_boundary
from autoseg.targets.instance_target import InstanceTarget
from autoseg.training import folds
from autoseg.training import overfit as overfitting
from autoseg.training.case_losses import measure_case_losses
from autoseg.training.collapse import collapse_text
from autoseg.training.estimate import measure_pace
from autoseg.training.fold_record import FoldRecord, identity
from autoseg.training.fold_state import read_progress
from autoseg.training.folds import fold_job
from autoseg.training.measure import measure_step
from autoseg.training.overfit import overfit, score_objects
from autoseg.training.trainer import FoldJob, FoldTrainer, Interrupted, train_fold
from autoseg.training.validation import case_logits
from planners import records
from planners.edit import set_value
from planners.fingerprint import Channel
from planners.labels import LabelClass, Labels
from planners.plan import Architecture, Configuration, MemoryBudget, Output, Plan, Stage
from planners.plan import Target as TargetRecord
from planners.records import PlanError

TARGETS_OF_OBJECTS = ("foreground", "boundary", "flow", "affinity")
LABELS = Labels(
    classes=tuple(LabelClass(name=name, value=value) for value, name in enumerate(("background", "disk"))),
    instance_classes=("disk",),
)
SHAPE = (1, 64, 64)
COMPUTE = Compute(device="cpu", precision="fp32", channels_last=False, threads=1, reasons=())
THREE_STAGES = Architecture(
    family="plain-unet",
    dimensions=2,
    stages=tuple(
        Stage(features=features, kernel=(3, 3), stride=(stride, stride), num_blocks=2)
        for features, stride in ((16, 1), (32, 2), (64, 2))
    ),
    num_decoder_blocks=(2, 2),
    outputs=(Output(stride=(1, 1), loss_weight=1.0),),
)
MakeJob = Callable[..., FoldJob]


def store_case(store: Store, seed: int, ids_YX: np.ndarray) -> StoredCase:
    """Store ids, and an image in which every object has a grey of its own."""
    rng = np.random.default_rng(seed)
    grey = np.concatenate([[0], rng.uniform(1, 2, int(ids_YX.max()))])
    image = grey[ids_YX] + rng.normal(0, 0.1, ids_YX.shape)
    layers = np.stack([ids_YX > 0, ids_YX]).astype(np.int16)[:, None]
    grid = CaseGrid(
        shape_before_crop=SHAPE,
        crop_box=((0, 1), (0, 64), (0, 64)),
        shape_after_crop=SHAPE,
        spacing_before_mm=(1.0, 1.0, 1.0),
        shape=SHAPE,
        spacing_mm=(1.0, 1.0, 1.0),
    )
    case = PreprocessedCase(image_CZYX=image[None, None].astype(np.float32), labels_LZYX=layers, grid=grid)
    return store.write(f"case_{seed}", case, f"digest {seed}", sample_locations(layers[0], LABELS))


def test_a_validation_batch_is_encoded_once(make_job: "MakeJob", monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = list[int]()

    def encode(ids: np.ndarray, *settings: Any) -> np.ndarray:
        encoded.append(1)
        return encode_boundary(ids, *settings)

    monkeypatch.setattr(boundary, "encode_boundary", encode)
    trainer = FoldTrainer(make_job("boundary"))
    trainer.validate(0)
    assert len(encoded) == 2, "one batch of two patches"


def test_other_options_than_a_target_has_stop_before_preprocessing(
    make_job: "MakeJob", monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job("boundary")
    options = {**job.configuration.target.options, "width": "wide"}
    item = dataclasses.replace(job.configuration, target=dataclasses.replace(job.configuration.target, options=options))
    job.run.write(dataclasses.replace(job.plan, configurations=(item,)), job.run.plan_file)
    dataset = Dataset(
        name="disks", root=Path("/disks"), layout="", channels=("grey",), labels=LABELS, cases=(), file_ending=""
    )
    monkeypatch.setattr(populate, "populate_store", lambda *given: pytest.fail("preprocessed"))
    claims = Claims(job.run.root, ((), ()))
    with pytest.raises(PlanError, match="width of target boundary is 'wide'; give a number above 0"):
        pipeline._preprocess(pipeline.Work(dataset=dataset, options=RunOptions(), run=job.run, claims=claims))


def test_other_settings_of_the_decoder_cost_a_validation_and_no_training(
    make_job: "MakeJob", monkeypatch: pytest.MonkeyPatch
) -> None:
    job, made = make_job("boundary"), list[str]()
    monkeypatch.setattr(folds, "train_fold", lambda job: made.append("trained"))
    monkeypatch.setattr(folds, "measure_case_losses", lambda job: None)
    monkeypatch.setattr(folds, "choice_is_current", lambda run: True)

    def validate(job: FoldJob, *, keep_logits: bool) -> Scores:
        made.append(f"validated with {job.configuration.target.options.get('decode')}")
        scores = collect((), ["disk"])
        job.run.write(scores, job.folder.scores)
        return scores

    monkeypatch.setattr(folds, "validate_fold", validate)
    for setting in ('{"smallest": 5}', '{"smallest": 5}', '{"smallest": 9}'):
        plan = set_value(job.run.read(Plan, job.run.plan_file), "2d_boundary.target.options.decode", setting)
        write_by_program(job.run, plan)
        folds.train_and_validate(job.run, "2d_boundary", 0)
    assert made == ["trained", "validated with {'smallest': 5}", "validated with {'smallest': 9}"]
    record = job.run.read(FoldRecord, job.folder.record)
    older = identity(records.to_json(plan.configuration("2d_boundary")), None, with_decode=True)[0]
    job.run.write(dataclasses.replace(record, configuration=older, decode=""), job.folder.record)
    folds.train_and_validate(job.run, "2d_boundary", 0)
    assert len(made) == 3, "folds of before stay valid"


@pytest.fixture
def make_job(
    tmp_path: Path, make_configuration: Callable[..., Configuration], ellipses: Callable[..., np.ndarray]
) -> MakeJob:
    """Give a function that makes a fold of one target ready to train: four cases, two of them to train on."""

    def make(name: str, folder: str = "run", **training: Any) -> FoldJob:
        run = RunFolder(tmp_path / folder)
        options = {"dimensions": 2, "diameter": 14.0}
        record = TargetRecord(name=name, num_outputs=TARGETS[name].num_outputs(LABELS, options), options=options)
        settings = {"epochs": 2, "steps_per_epoch": 3, "validation_steps": 1, "batch_size": 2, **training}
        configuration = make_configuration((64, 64), name=f"2d_{name}", target=record, **settings)
        plan = Plan(
            dataset="disks",
            planner="default",
            budget=MemoryBudget(),
            axis_order=(0, 1, 2),
            channels=(Channel(name="grey"),),
            labels=LABELS,
            configurations=(configuration,),
        )
        store = Store(run.store(store_name(plan, configuration.name)))
        ids = [store_case(store, seed, ellipses((64, 64), 18, 8.0, seed)).id for seed in range(4)]
        fold = Fold(train=tuple(ids[:2]), validation=tuple(ids[2:]))
        run.write(Splits(folds=(fold,), source="test"), run.splits_file)
        run.write(
            RunRecord(
                name="disks",
                dataset="/disks",
                cases=(),
                started="now",
                configurations=(configuration.name,),
                folds=(0,),
                compute=records.to_json(COMPUTE),
            ),
            run.run_file,
        )
        write_by_program(run, plan)
        return fold_job(run, configuration.name, 0)

    return make


@pytest.mark.parametrize("name", TARGETS_OF_OBJECTS)
def test_a_stopped_training_goes_on_bit_for_bit(name: str, make_job: MakeJob) -> None:
    whole = make_job(name, "whole")
    train_fold(whole)
    job = make_job(name, "stopped")
    trainer = FoldTrainer(job)
    step, done = trainer.step, []

    def counted(batch: Any) -> float | None:
        done.append(batch)
        if len(done) == 4:
            signal.raise_signal(signal.SIGINT)
        return step(batch)

    trainer.step = counted  # type: ignore[method-assign]
    with pytest.raises(Interrupted):
        trainer.run()
    assert all(batch.encoded is not None for batch in done), "encoded while the batch was prepared"
    train_fold(job)
    first, second = (load_file(item.folder.weights_last) for item in (whole, job))
    assert all(torch.equal(first[key], second[key]) for key in first)
    keys = ("train_loss", "validation_loss", "dice", "ema_dice")
    rows = [[{key: row[key] for key in keys} for row in read_progress(item.folder)] for item in (whole, job)]
    assert rows[0] == rows[1]
    assert all(0 <= row["data_wait_fraction"] <= 1 for row in read_progress(job.folder))


@pytest.mark.parametrize("name", TARGETS_OF_OBJECTS)
def test_the_loss_falls(name: str, make_job: MakeJob) -> None:
    trainer = FoldTrainer(make_job(name, learning_rate=0.05))
    source = trainer.source(trainer.job.train_cases, augment=False)
    losses = [trainer.step(batch) for batch in trainer.batches(source, 0, range(12))]
    assert None not in losses
    assert np.mean(losses[-3:]) < np.mean(losses[:3]) - 0.05  # type: ignore[arg-type]


@pytest.mark.parametrize("name", TARGETS_OF_OBJECTS)
def test_what_looks_after_a_training_knows_objects(
    name: str, make_job: MakeJob, capsys: pytest.CaptureFixture[str]
) -> None:
    job = make_job(name, epochs=1, steps_per_epoch=2)
    FoldTrainer(job).run()
    said = capsys.readouterr().err
    question = "undecided between" if name in ("foreground", "boundary") else "of a network without an opinion"
    assert f"; {question}" in said
    assert "far off" not in said
    found = measure_case_losses(job)
    assert len(found.cases) == 4
    assert all(np.isfinite(item.loss) for item in found.cases)
    pace = measure_pace(job)
    assert min(pace.step, pace.validation_step, pace.window, pace.voxel) > 0
    assert measure_step(job.plan, job.configuration.name, COMPUTE).peak_bytes > 64 * 64 * 4


def test_an_undecided_network_of_vectors_points_nowhere(make_job: MakeJob) -> None:
    """Half of 25 for every axis that a vector of length 5 has, and ln 2 for the yes-or-no question."""
    trainer = FoldTrainer(make_job("flow", loss="cross-entropy"))
    batch = trainer.source(trainer.job.train_cases, augment=False).batch(0, 0)
    assert batch.encoded is not None
    (maps,), _ = batch.encoded
    outputs = [torch.zeros_like(maps)]
    found = float(trainer.target.loss(outputs, [maps], [None], [1.0]))
    directed = float(maps[:, :2].square().sum(1).gt(0).float().mean())
    assert found == pytest.approx(0.5 * 25 * directed / 2 + np.log(2), rel=1e-4)


def test_a_collapse_names_objects() -> None:
    assert "has predicted nothing of any object, though the labels hold objects" in collapse_text(
        "f", 3, finds_objects=True
    )


def test_objects_are_scored_by_their_ids_and_not_as_classes(make_job: MakeJob) -> None:
    case = make_job("flow").train_cases[0]
    labels = np.array(case.labels[1], dtype=np.int32)
    target = FoldTrainer(make_job("flow")).target
    highest, count = int(labels.max()), len(np.unique(labels)) - 1
    shuffled = np.where(labels > 0, highest + 1 - labels, 0)
    assert score_objects(case, shuffled, target) == 1, "the numbers do not matter"
    assert score_objects(case, np.where(labels == 1, 0, labels), target) == pytest.approx(
        2 * (count - 1) / (2 * count - 1)
    )
    one = (labels > 0).astype(np.int32)
    assert score_objects(case, one, target) == 0, "all in one piece is no object found"


def test_two_cases_learnt_by_heart_are_scored_by_objects(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job = make_job("boundary")
    stored = {case.id: case for case in job.train_cases}
    target = make_target(job.configuration.target, LABELS, job.configuration.training)

    def perfect(job: FoldJob, network: torch.nn.Module, case: StoredCase) -> np.ndarray:
        label = torch.from_numpy(np.array(stored[case.id].labels[:, 0]))[None]
        (maps,), _ = target.encode(label, [(1, 1)])
        return 8 * torch.nn.functional.one_hot(maps, 3).movedim(-1, 1)[0][:, None].float().numpy()

    monkeypatch.setattr(overfitting, "case_logits", perfect)
    monkeypatch.setattr(overfitting, "STEPS_PER_ROUND", 1)
    found = overfit(job.run)
    assert found.score > 0.9
    assert found.is_learnt
    assert "2d_boundary: F1 of objects at an IoU of 0.5 " in found.text()
    assert "F1 of objects" in capsys.readouterr().err

    monkeypatch.setattr(overfitting, "case_logits", lambda *_: np.zeros((3, *SHAPE), np.float32))
    found = overfit(job.run, most_rounds=1)
    assert found.score == 0
    assert "above 0.9 was expected" in found.text()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["boundary", "flow"])
def test_objects_that_touch_are_learnt_apart(name: str, make_job: MakeJob) -> None:
    job = make_job(name, learning_rate=0.05, momentum=0.9, schedule="constant", batch_size=4, architecture=THREE_STAGES)
    trainer = FoldTrainer(job)
    target = trainer.target
    assert isinstance(target, InstanceTarget)
    source = trainer.source(job.train_cases, augment=False)
    for batch in trainer.batches(source, 0, range(200)):
        trainer.step(batch)
    trainer.network.eval()
    job = dataclasses.replace(
        job,
        configuration=dataclasses.replace(
            job.configuration, training=dataclasses.replace(job.configuration.training, mirror_axes=())
        ),
    )
    scores = [
        score_objects(case, target.decode(case_logits(job, trainer.network, case)), target) for case in job.train_cases
    ]
    assert min(score for score in scores if score is not None) > 0.9, scores
