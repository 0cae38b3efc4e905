"""A device that runs out of memory in the middle of a training: simulated errors, real trainings on made-up cases."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from autoseg.compute import Compute
from autoseg.data.splits import Fold, Splits
from autoseg.errors import DeviceError, RunFolderError
from autoseg.evaluation.overlap import collect
from autoseg.inference.chain import Chain
from autoseg.inference.model import Selection, group_folds, load_networks
from autoseg.inference.sliding_window import predict_logits
from autoseg.planning import WRITTEN, write_by_program
from autoseg.preprocessing.locations import sample_locations
from autoseg.preprocessing.preprocess import CaseGrid, PreprocessedCase
from autoseg.preprocessing.store import Store
from autoseg.run_folder import RunFolder, RunRecord
from autoseg.training import folds, trainer
from autoseg.training.fold_record import FoldRecord
from autoseg.training.fold_state import read_progress
from autoseg.training.folds import fold_job, train_and_validate
from autoseg.training.step_downs import give_way
from autoseg.training.trainer import FoldTrainer
from planners import PLANNERS, Channel, Fingerprint, LabelClass, Labels, MemoryBudget, Plan, PlanError, records
from planners.edit import set_training, set_value
from planners.plan import Configuration

LABELS = Labels(classes=(LabelClass(name="background", value=0), LabelClass(name="ball", value=1)))
SHAPE = (16, 16, 16)
NAME = "3d_fullres"
COMPUTE = Compute(device="cpu", precision="fp32", channels_last=False, threads=1)
CASES = ("a", "b", "c")


def make_plan(batch_size: int, patch: str = "[16,16,16]") -> Plan:
    facts = Fingerprint(
        dataset="balls",
        channels=(Channel(name="MRI"),),
        labels=LABELS,
        num_cases=3,
        spacings_mm=((1.0, 1.0, 1.0),),
        shapes=(SHAPE,),
    )
    plan = PLANNERS["default"](facts, MemoryBudget())
    plan = set_value(set_value(plan, f"{NAME}.patch_size", patch), f"{NAME}.batch_size", str(batch_size))
    return set_training(plan, epochs=2, steps_per_epoch=2)


def fill(store: Store) -> None:
    for index, name in enumerate(CASES):
        rng = np.random.default_rng(index)
        label = (np.indices(SHAPE).sum(0) > 30).astype(np.int8)
        image = (label + rng.normal(0, 0.3, SHAPE))[None].astype(np.float32)
        box = ((0, 16), (0, 16), (0, 16))
        ones = (1.0, 1.0, 1.0)
        grid = CaseGrid(
            shape_before_crop=SHAPE,
            crop_box=box,
            shape_after_crop=SHAPE,
            spacing_before_mm=ones,
            shape=SHAPE,
            spacing_mm=ones,
        )
        case = PreprocessedCase(image_CZYX=image, labels_LZYX=label[None], grid=grid)
        store.write(name, case, digest=name, locations=sample_locations(label, LABELS))


@pytest.fixture
def make_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., RunFolder]:
    """Give a function that makes a run that is planned and preprocessed; validation is left out."""
    monkeypatch.setattr(folds, "validate_fold", lambda job, **options: collect((), ["ball"]))
    monkeypatch.setattr(trainer, "SAVE_INTERVAL_S", -1.0)  # every step is saved

    def make(batch_size: int = 4, patch: str = "[16,16,16]") -> RunFolder:
        run = RunFolder(tmp_path / "run")
        plan = make_plan(batch_size, patch)
        run.write(
            RunRecord(
                name="balls",
                dataset="nowhere",
                cases=(),
                started="now",
                configurations=(NAME,),
                folds=(0, 1),
                compute=records.to_json(COMPUTE),
                made_from={WRITTEN: records.digest(plan)},
            ),
            run.run_file,
        )
        run.write(plan, run.plan_file)
        parts = tuple(Fold(train=tuple(c for c in CASES if c != held), validation=(held,)) for held in CASES)
        run.write(Splits(folds=parts, source="test"), run.splits_file)
        fill(Store(run.store(NAME)))
        return run

    return make


class SmallDevice:
    """Lets steps through whose batch holds at most so many voxels, from some step on; notes all that were made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, most_voxels: int, after: int = 0) -> None:
        self.made: list[tuple[int, ...]] = []
        step = FoldTrainer.step

        def limited(trainer: FoldTrainer, batch: Any) -> Any:
            if len(self.made) >= after and batch.image[:, 0].numel() > most_voxels:
                raise torch.OutOfMemoryError("simulated")
            self.made.append(tuple(batch.image.shape))
            return step(trainer, batch)

        monkeypatch.setattr(FoldTrainer, "step", limited)


def fold_record(run: RunFolder, fold: int) -> FoldRecord:
    return run.read(FoldRecord, run.fold(NAME, fold).record)


def planned(run: RunFolder) -> Configuration:
    return run.read(Plan, run.plan_file).configuration(NAME)


def test_memory_that_runs_out_costs_a_step_down_and_no_work(
    make_run: Callable[..., RunFolder], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(batch_size=4)
    device = SmallDevice(monkeypatch, most_voxels=2 * 16**3, after=3)
    train_and_validate(run, NAME, 0)
    assert [size[0] for size in device.made] == [4, 4, 4, 2]  # the step that failed alone is made again
    assert planned(run).batch_size == 2
    record = fold_record(run, 0)
    assert record.finished
    assert record.step_down == "batch size 3 → 2"
    assert [row["epoch"] for row in read_progress(run.fold(NAME, 0))] == [0, 1]
    printed = capsys.readouterr().err
    assert "3d_fullres: the device ran out of memory with 4; batch size 4 → 3 from here on" in printed
    assert "3d_fullres fold 0: batch size 4 → 3; going on with the weights saved last" in printed
    assert run.read(RunRecord, run.run_file).made_from[WRITTEN] == records.digest(run.read(Plan, run.plan_file))


def test_folds_that_are_trained_stay_valid_and_later_ones_are_smaller(
    make_run: Callable[..., RunFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(batch_size=4)
    train_and_validate(run, NAME, 0)
    device = SmallDevice(monkeypatch, most_voxels=3 * 16**3)
    train_and_validate(run, NAME, 1)
    assert [size[0] for size in device.made] == [3] * 4
    before = fold_record(run, 0)
    train_and_validate(run, NAME, 0)
    assert dataclasses.replace(fold_record(run, 0), validation_s=before.validation_s) == before
    assert len(device.made) == 4
    assert fold_job(run, NAME, 0).configuration.batch_size == 4
    assert fold_job(run, NAME, 1).configuration.batch_size == 3
    assert fold_job(run, NAME, 2).configuration.batch_size == 3


def test_another_change_is_still_refused(make_run: Callable[..., RunFolder], monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(batch_size=4)
    SmallDevice(monkeypatch, most_voxels=3 * 16**3)
    train_and_validate(run, NAME, 0)
    write_by_program(run, set_value(run.read(Plan, run.plan_file), f"{NAME}.training.learning_rate", "0.5"))
    with pytest.raises(RunFolderError, match="was trained with another configuration"):
        train_and_validate(run, NAME, 0)


def test_a_smaller_patch_changes_the_network_and_begins_anew(
    make_run: Callable[..., RunFolder], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(batch_size=2)
    train_and_validate(run, NAME, 0)
    first = planned(run)
    device = SmallDevice(monkeypatch, most_voxels=2 * 16 * 16 * 8, after=1)
    train_and_validate(run, NAME, 1)
    smaller = planned(run)
    assert smaller.batch_size == 2
    assert smaller.architecture != first.architecture
    assert device.made[0][2:] == (16, 16, 16)
    assert [size[2:] for size in device.made[1:]] == [smaller.patch_size] * 4  # all four steps
    assert "the network has changed with the patch, so its training starts anew" in capsys.readouterr().err

    train_and_validate(run, NAME, 0)  # trained and kept with its own network
    assert fold_job(run, NAME, 0).configuration == first
    groups = group_folds(smaller, [run.fold(NAME, 0), run.fold(NAME, 1)])
    assert [own.patch_size for own, _ in groups] == [first.patch_size, smaller.patch_size]
    for own, part in groups:
        (network,) = load_networks(own, part, COMPUTE)
        assert network(torch.zeros(1, 1, *own.patch_size))[0].shape[2:] == own.patch_size
    check_chain(run, groups)


def check_chain(run: RunFolder, groups: Any) -> None:
    """Prediction averages the logits of both folds, each seen through its own patch and network."""
    plan, case = run.read(Plan, run.plan_file), Store(run.store(NAME)).open("a")
    prepared = PreprocessedCase(image_CZYX=np.array(case.image), labels_LZYX=None, grid=case.grid)
    part = (plan.configuration(NAME), (run.fold(NAME, 0), run.fold(NAME, 1)))
    chain = Chain(plan, Selection(folds=(part,), postprocessing=(), because="test"), COMPUTE)
    (found,) = chain.logits([prepared])
    image = torch.from_numpy(prepared.image_CZYX)
    alone = [predict_logits(load_networks(own, part, COMPUTE), image, own, COMPUTE).numpy() for own, part in groups]
    assert not np.allclose(alone[0], alone[1], atol=1e-3)
    np.testing.assert_allclose(found.logits_KZYX, (alone[0] + alone[1]) / 2, atol=1e-5)


def test_a_fold_begun_with_another_network_goes_on_with_it(
    make_run: Callable[..., RunFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One fold was interrupted; another has made the patch smaller since. What was begun is not thrown away."""
    run = make_run(batch_size=2)

    class StoppedError(Exception):
        pass

    count = []
    step = FoldTrainer.step

    def stopping(trainer: FoldTrainer, batch: Any) -> Any:
        if len(count) == 3:
            raise StoppedError
        count.append(1)
        return step(trainer, batch)

    with monkeypatch.context() as patch:
        patch.setattr(FoldTrainer, "step", stopping)
        with pytest.raises(StoppedError):
            train_and_validate(run, NAME, 0)
    first = planned(run)
    with monkeypatch.context() as patch:
        SmallDevice(patch, most_voxels=2 * 16 * 16 * 8)
        train_and_validate(run, NAME, 1)
    assert planned(run) != first
    device = SmallDevice(monkeypatch, most_voxels=10**9)
    train_and_validate(run, NAME, 0)
    assert [size[2:] for size in device.made] == [first.patch_size]  # the one step that was missing
    assert fold_record(run, 0).finished


def test_it_gives_up_after_some_tries(make_run: Callable[..., RunFolder], monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(batch_size=9)
    monkeypatch.setattr(folds, "MOST_STEPS_DOWN", 3)
    SmallDevice(monkeypatch, most_voxels=0)
    with pytest.raises(DeviceError, match="cpu ran out of memory 3 times, the last time with batch size 5"):
        train_and_validate(run, NAME, 0)


def test_where_nothing_is_left_the_least_that_was_tried_is_named(
    make_run: Callable[..., RunFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(batch_size=2)
    monkeypatch.setattr(folds, "MOST_STEPS_DOWN", 100)
    SmallDevice(monkeypatch, most_voxels=0)
    with pytest.raises(PlanError, match=r"3d_fullres does not fit: .* one patch of .* Stop other programs"):
        train_and_validate(run, NAME, 0)


def test_of_two_processes_one_steps_down(make_run: Callable[..., RunFolder]) -> None:
    run = make_run(batch_size=4)
    tried = planned(run)
    once = give_way(run, tried, "the device ran out of memory")
    assert give_way(run, tried, "the device ran out of memory") == once
    assert once.configuration(NAME).batch_size == 3
    assert dataclasses.replace(once.configuration(NAME), batch_size=4, estimated_bytes=tried.estimated_bytes) == tried
