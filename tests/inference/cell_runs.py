"""Runs of two targets that tell objects apart, whose folds are validated, from made logits; and a slow way to judge."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from autoseg.data.cases import Case
from autoseg.data.dataset import Dataset
from autoseg.data.image import Geometry
from autoseg.data.io import open_label, write_segmentation
from autoseg.evaluation.contingency import contingency
from autoseg.evaluation.matching import f1
from autoseg.evaluation.overlap import score_cases
from autoseg.inference.comparison import Comparison, logits_file, read_label
from autoseg.inference.instances import segment_objects
from autoseg.inference.kept_logits import keep_logits
from autoseg.preprocessing.populate import populate_store, store_name
from autoseg.preprocessing.store import Store
from autoseg.run_folder import CaseFiles, RunFolder, RunRecord
from autoseg.targets import TARGETS, make_target
from autoseg.targets.flow import FlowTarget
from autoseg.targets.instance_target import InstanceTarget
from planners.fingerprint import Channel
from planners.labels import LabelClass, Labels
from planners.plan import MemoryBudget, Plan
from planners.plan import Target as TargetRecord

LABELS = Labels(
    classes=(LabelClass(name="background", value=0), LabelClass(name="cell", value=1)), instance_classes=("cell",)
)
FOLDS: dict[int, tuple[str, ...]] = {0: ("a", "b", "c"), 1: ("d", "e", "f")}
NAMES = ("2d_boundary", "2d_flow")
SHAPE = (44, 40)


def try_few_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """One value per setting of a decoder is tried: what is offered is tested with the targets."""
    every = InstanceTarget.other_values

    def some(self, options, offered):
        return {name: values[:1] for name, values in every(self, options, offered).items()}

    monkeypatch.setattr(InstanceTarget, "other_values", some)


def make_cell_run(make_configuration, ellipses, root: Path, names=NAMES, noise=None, empty=()) -> RunFolder:
    """Make a run whose folds are validated, from made logits."""
    folder = root / "data"
    folder.mkdir()
    cases = tuple(write_case(folder, ellipses, name, seed, name in empty) for seed, name in enumerate("abcdef"))
    plan = Plan(
        dataset="cells",
        planner="default",
        budget=MemoryBudget(),
        axis_order=(0, 1, 2),
        channels=(Channel(name="light"),),
        labels=LABELS,
        configurations=tuple(configuration(make_configuration, name) for name in names),
    )
    dataset = Dataset(
        name="cells", root=folder, layout="", channels=("light",), labels=LABELS, cases=cases, file_ending=".tif"
    )
    run = RunFolder(root / "run")
    files = tuple(CaseFiles(id=case.id, images=(str(case.images[0]),), label=str(case.label)) for case in cases)
    run.write(
        RunRecord(name="cells", dataset="x", cases=files, configurations=names, folds=(0, 1), started="now"),
        run.run_file,
    )
    run.write(plan, run.plan_file)
    for name in dict.fromkeys(store_name(plan, name) for name in names):
        populate_store(dataset, plan, plan.configuration(name), run.store(name), threads=1)
    for name, fold in itertools.product(names, FOLDS):
        validate(run, plan, name, fold, (noise or {}).get(name, 1.0))
    return run


def configuration(make_configuration, name: str):
    kind = name.split("_")[1]
    options = {"dimensions": 2, "diameter": 12.0}
    record = TargetRecord(name=kind, num_outputs=TARGETS[kind].num_outputs(LABELS, options), options=options)
    return make_configuration((16, 16), name=name, target=record, spacing_mm=(0.5, 0.5))


def write_case(folder: Path, ellipses, name: str, seed: int, is_empty: bool) -> Case:
    ids = ellipses(SHAPE, 10, 6.0, seed=seed)[None].astype(np.int32) * 3  # any numbering
    if is_empty:
        ids[:] = 0
    geometry = Geometry(spacing_mm=(999.0, 0.5, 0.5), dimensions=2)
    paths = [folder / f"{name}_0000.tif", folder / f"{name}.tif"]
    write_segmentation(paths[0], (ids > 0) * 100 + np.random.default_rng(seed).integers(1, 9, ids.shape), geometry)
    write_segmentation(paths[1], ids, geometry)
    return Case(id=name, images=(paths[0],), label=paths[1])


def validate(run: RunFolder, plan: Plan, name: str, fold: int, noise: float) -> None:
    """Leave what the validation of a fold leaves: logits of a network that is right but for noise, and Dice."""
    folder, item = run.fold(name, fold), plan.configuration(name)
    folder.validation.mkdir(parents=True, exist_ok=True)
    target = make_target(item.target, LABELS, item.training)
    files = {item.id: item for item in run.read(RunRecord, run.run_file).cases}
    scored = []
    for index, case_id in enumerate(FOLDS[fold]):
        stored = Store(run.store(store_name(plan, name))).open(case_id)
        label = torch.from_numpy(np.array(stored.labels).astype(np.int64)).movedim(1, 0)
        (maps,), _ = target.encode(label, [(1, 1)])
        if not maps.is_floating_point():
            logits = 6 * torch.nn.functional.one_hot(maps, target.record.num_outputs).movedim(-1, 1).float()
        else:
            first = 2 if isinstance(target, FlowTarget) else 0
            logits = torch.cat([maps[:, :first], 8 * maps[:, first:] - 4], dim=1)
        rng = np.random.default_rng([NAMES.index(name) if name in NAMES else 9, fold, index])
        drawn = (logits.movedim(0, 1).numpy() + rng.normal(0, noise, (len(logits[0]), 1, *SHAPE))).astype(np.float32)
        keep_logits(logits_file(folder, case_id), drawn, relative=target.relative)
        classes = read_label(files[case_id], plan)
        scored.append((case_id, classes, classes))
    run.write(score_cases(scored, LABELS), folder.scores)
    folder.record.write_text(json.dumps({"name": name, "fold": fold, "noise": noise}))


def comparison_of(run: RunFolder) -> Comparison:
    return Comparison(run, run.read(RunRecord, run.run_file), run.read(Plan, run.plan_file))


def slow_f1(run: RunFolder, name: str, decode: dict[str, object]) -> dict[str, float]:
    """Segment every case by itself and compare it with its label file."""
    comparison, found = comparison_of(run), {}
    for fold, ids in FOLDS.items():
        for case_id in ids:
            target = comparison.target(name, decode)
            objects = segment_objects(comparison.parts((name,), fold, case_id), target, comparison.plan)
            label = open_label(Path(str(comparison.files[case_id].label))).read()[0]
            parts = f1(contingency(label, objects.ids), 0.5)
            found[case_id] = parts.top / parts.bottom
    return found
