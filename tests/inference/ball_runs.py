"""Runs of three configurations, whose folds are validated, from made logits; and a slow way to score them."""

import itertools
import json
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from autoseg.data.cases import Case
from autoseg.data.dataset import Dataset
from autoseg.data.io import open_image, write_segmentation
from autoseg.evaluation.overlap import Scores, score_cases
from autoseg.inference.export import LogitsPart, segment
from autoseg.inference.kept_logits import KeptLogits, keep_logits
from autoseg.inference.out_of_fold import logits_file, prediction_file, read_label
from autoseg.preprocessing.populate import populate_store, store_name
from autoseg.preprocessing.store import Store
from autoseg.run_folder import CaseFiles, RunFolder, RunRecord
from autoseg.targets import make_target
from planners.fingerprint import Channel
from planners.labels import LabelClass, Labels
from planners.plan import MemoryBudget, Plan

LABELS = Labels(classes=tuple(LabelClass(name=name, value=v) for name, v in (("air", 0), ("rim", 127), ("core", 255))))
NAMES = ("fine", "coarse", "other")
FOLDS = {0: ("a", "b", "c"), 1: ("d", "e", "f")}
ERRORS = {"fine": 1.5, "coarse": 2.0, "other": 2.5}


def write_case(folder: Path, name: str, seed: int) -> Case:
    """A ball in a ball, off centre."""
    rng = np.random.default_rng(seed)
    shape = (13 + seed % 2, 16, 15)
    center = [size / 2 + rng.uniform(-1, 1) for size in shape]
    distance = np.sqrt(sum((axis - middle) ** 2 for axis, middle in zip(np.indices(shape), center, strict=True)))
    label = np.select([distance < 3, distance < 5], [255, 127], 0).astype(np.uint8)
    image = (label / 100 + rng.normal(0, 0.3, shape)).astype(np.float32)
    paths = [folder / f"{name}_0000.nii.gz", folder / f"{name}.nii.gz"]
    for array, path in zip((image, label), paths, strict=True):
        written = sitk.GetImageFromArray(array)
        written.SetSpacing((1.0, 1.0, 1.25))
        sitk.WriteImage(written, str(path))
    return Case(id=name, images=(paths[0],), label=paths[1])


def make_ball_run(make_configuration, root: Path) -> RunFolder:
    """Make a run whose folds are validated, from made logits: the label and noise, which differs by configuration."""
    folder = root / "data"
    folder.mkdir()
    cases = tuple(write_case(folder, name, seed) for seed, name in enumerate("abcdef"))
    plan = Plan(
        dataset="balls",
        planner="default",
        budget=MemoryBudget(),
        axis_order=(2, 0, 1),
        channels=(Channel(name="c0"),),
        labels=LABELS,
        configurations=(
            make_configuration((8, 8, 8), name="fine"),
            make_configuration((8, 8, 8), name="coarse", spacing_mm=(2.0, 2.0, 1.5)),
            make_configuration((8, 8, 8), name="other"),
        ),
    )
    dataset = Dataset(
        name="balls", root=folder, layout="by hand", channels=("c0",), labels=LABELS, cases=cases, file_ending=".nii.gz"
    )
    run = RunFolder(root / "run")
    files = tuple(CaseFiles(id=case.id, images=(str(case.images[0]),), label=str(case.label)) for case in cases)
    run.write(
        RunRecord(name="balls", dataset="x", cases=files, configurations=NAMES, folds=(0, 1), started="now"),
        run.run_file,
    )
    run.write(plan, run.plan_file)
    for name in dict.fromkeys(store_name(plan, name) for name in NAMES):
        populate_store(dataset, plan, plan.configuration(name), run.store(name), threads=1)
    for name, fold in itertools.product(NAMES, FOLDS):
        validate(run, plan, name, fold)
    return run


def validate(run: RunFolder, plan: Plan, name: str, fold: int) -> None:
    """Leave what the validation of a fold leaves."""
    folder, configuration = run.fold(name, fold), plan.configuration(name)
    folder.validation.mkdir(parents=True, exist_ok=True)
    files = {item.id: item for item in run.read(RunRecord, run.run_file).cases}
    scored = []
    for index, case_id in enumerate(FOLDS[fold]):
        rng = np.random.default_rng([NAMES.index(name), fold, index])
        stored = Store(run.store(store_name(plan, name))).open(case_id)
        label = np.maximum(np.array(stored.labels[0]), 0)
        truth = 4.0 * (label[None] == np.arange(3).reshape(-1, 1, 1, 1))
        logits = (truth + rng.normal(0, ERRORS[name], truth.shape)).astype(np.float32)
        target = make_target(configuration.target, LABELS, configuration.training)
        keep_logits(logits_file(folder, case_id), logits, relative=True)
        part = LogitsPart(logits_KZYX=logits, grid=stored.grid, resampling=configuration.resampling)
        segmentation = segment([part], target, plan)
        geometry = open_image([Path(path) for path in files[case_id].images]).geometry
        write_segmentation(prediction_file(folder, files[case_id]), LABELS.decode(segmentation), geometry)
        scored.append((case_id, read_label(files[case_id], plan), segmentation))
    run.write(score_cases(scored, LABELS), folder.scores)
    folder.record.write_text(json.dumps({"name": name, "fold": fold}))


def slow_scores(run: RunFolder, names: tuple[str, ...], weights: tuple[float, ...]) -> Scores:
    """Segment every case by one ensemble, and score it."""
    plan, cases = run.read(Plan, run.plan_file), []
    files = {item.id: item for item in run.read(RunRecord, run.run_file).cases}
    configurations = [plan.configuration(name) for name in names]
    for fold, ids in FOLDS.items():
        for case_id in ids:
            parts = [
                LogitsPart(
                    logits_KZYX=KeptLogits(logits_file(run.fold(item.name, fold), case_id)).read(),
                    grid=Store(run.store(store_name(plan, item.name))).open(case_id).grid,
                    resampling=item.resampling,
                    weight=weight,
                )
                for item, weight in zip(configurations, weights, strict=True)
            ]
            target = make_target(configurations[0].target, LABELS, configurations[0].training)
            cases.append((case_id, read_label(files[case_id], plan), segment(parts, target, plan)))
    return score_cases(cases, LABELS)
