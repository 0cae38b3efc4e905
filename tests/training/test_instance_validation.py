"""A validated fold leaves ids and classes of what it has found, the Dice of the classes, and logits to fit decoders."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from autoseg.data.image import Geometry
from autoseg.data.io import open_label, write_segmentation
from autoseg.inference.comparison import logits_file
from autoseg.inference.kept_logits import KeptLogits
from autoseg.preprocessing.preprocess import CaseGrid
from autoseg.run_folder import CaseFiles, FoldFolder, RunRecord
from autoseg.targets import TARGETS, make_target
from autoseg.training import folds, validation
from planners.fingerprint import Channel
from planners.labels import LabelClass, Labels
from planners.plan import Configuration, MemoryBudget, Plan
from planners.plan import Target as TargetRecord

LABELS = Labels(
    classes=(LabelClass(name="air", value=0), LabelClass(name="cell", value=100), LabelClass(name="vessel", value=200)),
    instance_classes=("cell",),
)


@pytest.mark.parametrize("name", ["boundary", "flow"])
def test_ids_classes_logits_and_dice(name: str, make_configuration: Callable[..., Configuration], tmp_path) -> None:
    ids, classes = np.zeros((2, 1, 32, 40), dtype=np.int32)
    for number, columns in ((1, slice(4, 14)), (2, slice(14, 24))):
        ids[0, 6:20, columns], classes[0, 6:20, columns] = number, 1
    classes[0, 22:30, 4:36] = 2
    job, case, files = _job(name, make_configuration, tmp_path, ids, classes)
    target = make_target(job.configuration.target, LABELS, job.configuration.training)
    (maps,), _ = target.encode(torch.from_numpy(np.stack([classes[0], ids[0]]))[None], [(1, 1)])
    if maps.is_floating_point():
        logits = torch.cat([maps[0, :2], 16 * maps[0, 2:] - 8])
    else:
        logits = 8 * torch.nn.functional.one_hot(maps[0], target.record.num_outputs).movedim(-1, 0).float()
    logits_KZYX = logits.numpy().astype(np.float32)[:, None]
    score, watched = validation._write_and_score(job, case, files, logits_KZYX.copy(), True)
    assert watched is None, "no confidence per voxel"
    assert score.dice == (1.0, 1.0)
    found = open_label(job.folder.validation / "a.tif").read()[0]
    assert len(np.unique(np.stack([found.ravel(), ids.ravel()]), axis=1).T) == 3, "two objects that touch, and no other"
    np.testing.assert_array_equal(open_label(job.folder.validation / "classes" / "a.tif").read()[0], 100 * classes)
    kept = KeptLogits(logits_file(job.folder, "a")).read()
    np.testing.assert_allclose(target.probabilities(kept), target.probabilities(logits_KZYX), atol=0.05)


def _job(name: str, make_configuration, folder: Path, ids: np.ndarray, classes: np.ndarray):
    """As much of a fold as writing and scoring a case asks for."""
    options = {"dimensions": 2, "diameter": 12.0}
    record = TargetRecord(name=name, num_outputs=TARGETS[name].num_outputs(LABELS, options), options=options)
    configuration = make_configuration((16, 16), target=record, name="2d")
    plan = Plan(
        dataset="cells",
        planner="default",
        budget=MemoryBudget(),
        axis_order=(0, 1, 2),
        channels=(Channel(name="light"),),
        labels=LABELS,
        configurations=(configuration,),
    )
    geometry = Geometry(spacing_mm=(999.0, 1.0, 1.0), dimensions=2)
    paths = [folder / "image.tif", folder / "labels" / "a.tif", folder / "labels" / "classes" / "a.tif"]
    for path, values in zip(paths, (classes + 1, 7 * ids, 100 * classes), strict=True):
        write_segmentation(path, values, geometry)
    shape, spacing = (1, 32, 40), geometry.spacing_mm
    grid = CaseGrid(
        shape_before_crop=shape,
        crop_box=((0, 1), (0, 32), (0, 40)),
        shape_after_crop=shape,
        spacing_before_mm=spacing,
        shape=shape,
        spacing_mm=spacing,
    )
    job = SimpleNamespace(plan=plan, configuration=configuration, folder=FoldFolder(folder / "fold"), fold=0)
    case = SimpleNamespace(id="a", grid=grid, annotated_classes=None)
    files = CaseFiles(id="a", images=(str(paths[0]),), label=str(paths[1]), classes=str(paths[2]))
    return job, case, files


def test_logits_are_kept_of_one_configuration_too(make_configuration: Callable[..., Configuration], tmp_path) -> None:
    """They are needed to fit the decoder; of classes they are needed for ensembles alone."""
    empty = np.zeros((2, 1, 32, 40), dtype=np.int32)
    job, _, _ = _job("boundary", make_configuration, tmp_path, *empty)
    record = RunRecord(name="x", dataset="x", cases=(), configurations=("2d",), folds=(0,), started="now")
    assert folds._is_judged(job, record)
    semantic = make_configuration((16, 16), name="2d")
    job.configuration = semantic
    assert not folds._is_judged(job, record)
    job.fold = 1
    assert not folds._is_judged(job, record)
