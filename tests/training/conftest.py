"""Stored cases for the tests of sampling and augmentation, and runs that are ready to train."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from autoseg.compute import Compute
from autoseg.data.splits import Fold, Splits
from autoseg.planning import write_by_program
from autoseg.preprocessing.locations import sample_locations
from autoseg.preprocessing.populate import store_name
from autoseg.preprocessing.preprocess import CaseGrid, PreprocessedCase
from autoseg.preprocessing.store import Store, StoredCase
from autoseg.run_folder import RunFolder, RunRecord
from planners import records
from planners.fingerprint import Channel
from planners.labels import LabelClass, Labels
from planners.plan import Configuration, MemoryBudget, Plan


@pytest.fixture(autouse=True)
def quiet(one_thread: None) -> None:
    """All tests here compute on one thread."""


@pytest.fixture
def make_case(tmp_path: Path) -> Callable[..., StoredCase]:
    """Give a function that stores a random smooth image with labels from −1 to ``num_classes`` − 1, and given ids."""

    def make(
        shape: tuple[int, int, int],
        *,
        seed: int = 0,
        num_channels: int = 1,
        num_classes: int = 3,
        ignore: bool = False,
        label: np.ndarray | None = None,
        ids: np.ndarray | None = None,
    ) -> StoredCase:
        rng = np.random.default_rng(seed)
        image = rng.standard_normal((num_channels, *shape)).astype(np.float32)
        if label is None:
            smooth = ndimage.gaussian_filter(rng.standard_normal(shape), 2)
            edges = np.quantile(smooth, np.linspace(0, 1, num_classes + 2)[1:-1])
            label = np.digitize(smooth, edges).astype(np.int8) - 1
        values = range(num_classes)
        labels = Labels(
            classes=tuple(LabelClass(name=str(value), value=value) for value in values),
            ignore=num_classes if ignore else None,
        )
        grid = CaseGrid(
            shape_before_crop=shape,
            crop_box=((0, shape[0]), (0, shape[1]), (0, shape[2])),
            shape_after_crop=shape,
            spacing_before_mm=(1.0, 1.0, 1.0),
            shape=shape,
            spacing_mm=(1.0, 1.0, 1.0),
        )
        layers = label[None] if ids is None else np.stack([label.astype(ids.dtype), ids])
        case = PreprocessedCase(image_CZYX=image, labels_LZYX=layers, grid=grid)
        return Store(tmp_path / "store").write(f"case_{seed}", case, "digest", sample_locations(label, labels))

    return make


@pytest.fixture
def make_run(
    make_configuration: Callable[..., Configuration], make_case: Callable[..., StoredCase], tmp_path: Path
) -> Callable[..., RunFolder]:
    """Give a function that makes a run ready to train: records and four stored cases for two folds, tiny networks."""

    def make(
        folder: str = "run", names: tuple[str, ...] = ("tiny",), folds: tuple[int, ...] = (0,), **training: Any
    ) -> RunFolder:
        run = RunFolder(tmp_path / folder)
        made = [make_case((10, 12, 8), seed=seed) for seed in range(4)]
        configurations = tuple(make_configuration((8, 8, 8), name=name, **training) for name in names)
        classes = tuple(LabelClass(name=str(value), value=value) for value in range(3))
        plan = Plan(
            dataset="toy",
            planner="default",
            budget=MemoryBudget(),
            axis_order=(0, 1, 2),
            channels=(Channel(name="MRI"),),
            labels=Labels(classes=classes),
            configurations=configurations,
        )
        shutil.copytree(made[0].folder, run.store(store_name(plan, names[0])), dirs_exist_ok=True)
        halves = [tuple(case.id for case in made[half : half + 2]) for half in (0, 2)]
        both = (Fold(train=halves[1], validation=halves[0]), Fold(train=halves[0], validation=halves[1]))
        run.write(Splits(folds=both, source="test"), run.splits_file)
        compute = Compute(device="cpu", precision="fp32", channels_last=False, threads=1, reasons=())
        record = RunRecord(
            name="toy",
            dataset="/toy",
            cases=(),
            started="now",
            configurations=names,
            folds=folds,
            compute=records.to_json(compute),
        )
        run.write(record, run.run_file)
        write_by_program(run, plan)
        return run

    return make
