"""A cascade from its first stage to a prediction: every network sees the same previous segmentation everywhere."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from autoseg.compute import Compute
from autoseg.data.cases import Case
from autoseg.data.dataset import Dataset
from autoseg.data.io import open_image
from autoseg.data.splits import Fold, Splits
from autoseg.errors import RunFolderError
from autoseg.evaluation.overlap import Scores
from autoseg.inference import chain as chaining
from autoseg.inference.model import Selection
from autoseg.inference.out_of_fold import choose_for_run
from autoseg.inference.predictor import predict_cases
from autoseg.inference.previous import previous_segmentation
from autoseg.planning import training_order
from autoseg.preprocessing.populate import populate_store, store_name
from autoseg.preprocessing.previous import find_previous, previous_file
from autoseg.run_folder import CaseFiles, RunFolder, RunRecord
from autoseg.training.cascade import cases_of_fold, check_previous, open_cases
from autoseg.training.folds import fold_job, train_and_validate
from autoseg.training.validation import case_logits, trained_network
from planners import records
from planners.edit import set_training
from planners.fingerprint import Channel
from planners.labels import LabelClass, Labels
from planners.plan import Input, MemoryBudget, Plan

CPU = Compute(device="cpu", precision="fp32", channels_last=False, threads=1, reasons=())
LABELS = Labels(classes=tuple(LabelClass(name=name, value=v) for name, v in (("air", 0), ("rim", 127), ("core", 255))))
IDS = ("a", "b", "c", "d")
SPLITS = Splits(
    folds=(Fold(train=("a", "b"), validation=("c", "d")), Fold(train=("c", "d"), validation=("a", "b"))), source="test"
)
NAMES, FOLDS = ("coarse", "cascade"), (0, 1)


def write_case(folder: Path, name: str, seed: int) -> Case:
    """A ball in a ball, off centre."""
    rng = np.random.default_rng(seed)
    shape = (15 + seed, 18, 17)
    center = [size / 2 + rng.uniform(-2, 2) for size in shape]
    distance = np.sqrt(sum((axis - middle) ** 2 for axis, middle in zip(np.indices(shape), center, strict=True)))
    label = np.select([distance < 3, distance < 6], [255, 127], 0).astype(np.uint8)
    image = (label / 100 + rng.normal(0, 0.3, shape)).astype(np.float32)
    paths = [folder / f"{name}_0000.nii.gz", folder / f"{name}.nii.gz"]
    for array, path in zip((image, label), paths, strict=True):
        written = sitk.GetImageFromArray(array)
        written.SetSpacing((1.0, 1.0, 1.25))
        sitk.WriteImage(written, str(path))
    return Case(id=name, images=(paths[0],), label=paths[1])


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    cases = tuple(write_case(folder, name, seed) for seed, name in enumerate(IDS))
    return Dataset(
        name="balls",
        root=folder,
        layout="by hand",
        channels=("c0",),
        labels=LABELS,
        cases=cases,
        file_ending=".nii.gz",
    )


@pytest.fixture(scope="module")
def plan(make_configuration):
    """The full resolution (not trained), a coarse stage, and the cascade on the grid of the full resolution."""
    length = {"epochs": 1, "steps_per_epoch": 2, "validation_steps": 1}
    inputs = (Input(channels=1), Input(kind="previous", name="coarse", channels=2))
    return Plan(
        dataset="balls",
        planner="default",
        budget=MemoryBudget(),
        axis_order=(2, 0, 1),
        channels=(Channel(name="c0"),),
        labels=LABELS,
        configurations=(
            make_configuration((16, 16, 16), name="full", **length),
            make_configuration(
                (8, 8, 8), name="coarse", spacing_mm=(2.0, 2.0, 2.0), **length | {"steps_per_epoch": 25}
            ),
            make_configuration((16, 16, 16), name="cascade", inputs=inputs, previous="coarse", **length),
        ),
    )


def prepare_run(root: Path, plan: Plan, dataset: Dataset, splits: Splits = SPLITS) -> RunFolder:
    run = RunFolder(root)
    cases = tuple(CaseFiles(id=case.id, images=(str(case.images[0]),), label=str(case.label)) for case in dataset.cases)
    compute = records.to_json(CPU)
    record = RunRecord(
        name="balls", dataset="x", cases=cases, configurations=NAMES, folds=FOLDS, compute=compute, started="now"
    )
    run.write(record, run.run_file)
    run.write(plan, run.plan_file)
    run.write(splits, run.splits_file)
    for name in dict.fromkeys(store_name(plan, name) for name in NAMES):
        populate_store(dataset, plan, plan.configuration(name), run.store(name), threads=1)
    return run


def train(run: RunFolder, names=NAMES, folds=FOLDS) -> None:
    plan = run.read(Plan, run.plan_file)
    for name, fold in training_order(plan, names, folds, 2):
        train_and_validate(run, name, fold)


@pytest.fixture(scope="module")
def trained(plan, dataset, tmp_path_factory):
    run = prepare_run(tmp_path_factory.mktemp("runs") / "run", plan, dataset)
    train(run)
    return run


@pytest.fixture
def copy(trained, tmp_path):
    return RunFolder(Path(shutil.copytree(trained.root, tmp_path / "copy")))


def origins(run: RunFolder) -> dict[str, str]:
    found = {case_id: find_previous(run.store("cascade"), case_id) for case_id in IDS}
    return {case_id: item.record.origin.weights for case_id, item in found.items() if item is not None}


def test_every_case_has_what_a_network_found_that_had_not_seen_it(trained):
    assert sorted(path.name for path in trained.store("full").glob("*.image.npy")) == [f"{i}.image.npy" for i in IDS]
    assert not list(trained.store("cascade").glob("*.image.npy"))
    for case_id, fold in {"a": 1, "b": 1, "c": 0, "d": 0}.items():
        found = find_previous(trained.store("cascade"), case_id)
        assert (found.record.origin.configuration, found.record.origin.fold) == ("coarse", fold)
        (case,) = open_cases(trained, trained.read(Plan, trained.plan_file), "cascade", [case_id])
        assert found.array.shape == case.shape
        assert case.previous == found


def test_training_and_prediction_see_the_same_previous_segmentation(trained, plan, dataset, monkeypatch):
    """Exactly, voxel for voxel: from the store, and from the image file through the chain of the predictor."""
    seen = []

    def noted(*arguments):
        seen.append(previous_segmentation(*arguments))
        return seen[-1]

    monkeypatch.setattr(chaining, "previous_segmentation", noted)
    for case, fold in zip(dataset.cases, (1, 1, 0, 0), strict=True):
        selection = Selection(
            folds=((plan.configuration("cascade"), (trained.fold("cascade", fold),)),),
            previous=((plan.configuration("coarse"), (trained.fold("coarse", fold),)),),
            postprocessing=(),
            because="",
        )
        chain = chaining.Chain(plan, selection, CPU)
        image = open_image(case.images)
        (part,) = chain.logits(chain.preprocess(image.read(), image.geometry.spacing_mm))
        np.testing.assert_array_equal(seen[-1], np.load(previous_file(trained.store("cascade"), case.id)))
        assert len(np.unique(seen[-1])) > 1, "a network that finds nothing would agree with anything"
        job = fold_job(trained, "cascade", fold)
        stored = next(item for item in job.validation_cases if item.id == case.id)
        np.testing.assert_array_equal(part.logits_KZYX, case_logits(job, trained_network(job), stored))


def test_validation_sees_the_previous_segmentation(trained):
    job = fold_job(trained, "cascade", 0)
    network, (first, second) = trained_network(job), job.validation_cases
    assert first.shape != second.shape
    (low,) = (dataclasses.replace(first.previous, path=trained.root / "zeros.npy"),)
    low.path.write_bytes(bytes(low.record.num_bytes))
    assert not np.array_equal(case_logits(job, network, first), case_logits(job, network, first.with_previous(low)))


def test_first_stage_and_cascade_are_judged_and_predict(copy, dataset, tmp_path):
    choice = choose_for_run(copy)
    assert [item.configurations for item in choice.candidates] == [("coarse",), ("cascade",), ("coarse", "cascade")]
    assert choice.num_cases == 4
    for names in (("cascade",), ("coarse", "cascade")):
        copy.write(dataclasses.replace(choice, configurations=names), copy.choice_file)
        written = predict_cases(copy, dataset.cases[:2], tmp_path / "+".join(names))
        for path, case in zip(written, dataset.cases, strict=False):
            segmentation = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
            assert segmentation.shape == sitk.GetArrayFromImage(sitk.ReadImage(str(case.images[0]))).shape
            assert set(np.unique(segmentation)) <= {0, 127, 255}


def test_done_twice_nothing_changes(copy):
    before = {path: path.read_bytes() for path in copy.root.rglob("*.*") if "lock" not in path.name}
    train(copy)
    assert {path: path.read_bytes() for path in before} == before


def test_a_missing_previous_segmentation_is_made_anew(copy):
    expected = previous_file(copy.store("cascade"), "c").read_bytes()
    shutil.rmtree(copy.store("cascade"))
    with pytest.raises(
        RunFolderError, match=r"cascade fold 1 needs .* missing for 4 of 4 \(c, d, a …\). Train all folds"
    ):
        train_and_validate(copy, "cascade", 1)
    train(copy)
    assert previous_file(copy.store("cascade"), "c").read_bytes() == expected


def test_more_training_of_the_first_stage_is_noticed(copy, capsys):
    plan = copy.read(Plan, copy.plan_file)
    before = origins(copy)
    longer = set_training(plan, epochs=2)
    coarse_only = tuple(
        longer.configuration("coarse") if item.name == "coarse" else item for item in plan.configurations
    )
    copy.write(dataclasses.replace(plan, configurations=coarse_only), copy.plan_file)
    train_and_validate(copy, "coarse", 0)
    after = origins(copy)
    assert {case_id for case_id in IDS if before[case_id] != after[case_id]} == {"c", "d"}
    message = r"cascade fold 1 was trained with other segmentations of coarse .* \(--epochs 2 or more\)"
    with pytest.raises(RunFolderError, match=message):
        train_and_validate(copy, "cascade", 1)
    copy.write(longer, copy.plan_file)
    train(copy)
    assert "from here on with newer segmentations of coarse" in capsys.readouterr().err
    for name in NAMES:
        assert copy.read(Scores, copy.fold(name, 1).scores).cases


def test_older_previous_segmentations_are_not_trained_on(copy):
    coarse = copy.fold("coarse", 0).weights_last
    shutil.copy(copy.fold("coarse", 1).weights_last, coarse)
    with pytest.raises(
        RunFolderError, match=r"coarse has been trained further since it segmented 2 of 4 cases \(c, d\)"
    ):
        check_previous(fold_job(copy, "cascade", 0))
    coarse.unlink()
    check_previous(fold_job(copy, "cascade", 0))  # the network may be gone; what it found is there


def test_any_folds_of_the_users_serve_every_case():
    def fold(train, validation):
        return Fold(train=tuple(train), validation=tuple(validation))

    usual = Splits(folds=(fold("bc", "a"), fold("ac", "b"), fold("ab", "c")), source="test")
    assert [cases_of_fold(usual, number) for number in range(3)] == [("a",), ("b",), ("c",)]
    twice = Splits(folds=(fold("bc", "a"), fold("c", "ab")), source="test")
    assert [set(cases_of_fold(twice, number)) for number in range(2)] == [{"a", "c"}, {"b"}]
    one = Splits(folds=(fold("abc", "abc"),), source="test")
    assert set(cases_of_fold(one, 0)) == set("abc")


def test_a_case_that_no_fold_validates_is_segmented_all_the_same(plan, dataset, tmp_path, capsys):
    splits = Splits(folds=(Fold(train=("a", "b", "c"), validation=("d",)),), source="by hand")
    run = prepare_run(tmp_path / "run", plan, dataset, splits)
    run.change_record(folds=(0,))
    train_and_validate(run, "coarse", 0)
    assert set(origins(run)) == set(IDS)
    assert "segments 3 cases for cascade that no fold validates" in capsys.readouterr().err
    assert [row.case for row in run.read(Scores, run.fold("coarse", 0).scores).cases] == ["d"]
    train_and_validate(run, "cascade", 0)
