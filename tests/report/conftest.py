"""A run folder as a finished run leaves it, made without training: records, curves, images, predictions."""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
from scipy import ndimage

from autoseg.evaluation.overlap import CasePrediction, score_cases
from autoseg.evaluation.selection import Names, candidates_of, choose
from autoseg.run_folder import CaseFiles, RunFolder, RunRecord
from planners import PLANNERS, Channel, Fingerprint, LabelClass, Labels, MemoryBudget, Plan

LABELS = Labels(
    classes=tuple(LabelClass(name=name, value=i) for i, name in enumerate(("background", "anterior", "posterior")))
)
SPACING = (1.5, 1.0, 1.0)
ERRORS = {"2d": 1.6, "3d_fullres": 1.2}


@dataclass(frozen=True, kw_only=True)
class FakeRun:
    """What to make: enough for a page with every section, small enough for a test."""

    num_cases: int = 10
    num_folds: int = 2
    num_epochs: int = 40
    configurations: tuple[str, ...] = ("2d", "3d_fullres")
    shape: tuple[int, int, int] = (14, 30, 26)
    labels: Labels = LABELS
    warnings: tuple[str, ...] = ("case_003: image is constant in 2 of 14 slices; look at it.",)
    name: str = "Hippocampus <demo>"
    options: dict[str, Any] = field(default_factory=dict)
    annotated: dict[str, tuple[int, ...]] = field(default_factory=dict)
    annealed_from: int | None = None
    fold_record: dict[str, Any] = field(default_factory=dict)
    keep_pair: bool = True
    reads: list[Names] = field(default_factory=list)

    def case_ids(self) -> list[str]:
        return [f"case_{index:03d}" for index in range(self.num_cases)]

    def make(self, root: Path) -> RunFolder:
        run, data = RunFolder(root / "run"), root / "data"
        plan = self.plan()
        run.write(plan, run.plan_file)
        files = []
        for index, case in enumerate(self.case_ids()):
            image, label = self.draw(index)
            paths = [
                write_map(data / "imagesTr" / f"{case}_0000.nii.gz", image),
                write_map(data / "labelsTr" / f"{case}.nii.gz", label),
            ]
            files.append(
                CaseFiles(
                    id=case, images=(str(paths[0]),), label=str(paths[1]), annotated_classes=self.annotated.get(case)
                )
            )
        run.write(self.record(data, tuple(files)), run.run_file)
        for name in self.configurations:
            for fold in range(self.num_folds):
                self.train(run, name, fold)
        scores = {names: score_cases(self.read(names), self.labels) for names in candidates_of(self.configurations)}
        choice, after = choose(scores, self.read, self.labels, range(self.num_folds))
        run.write(choice, run.choice_file)
        if self.keep_pair and len(choice.configurations) > 1:
            for case, _, segmentation, _ in self.read(choice.configurations):
                write_map(run.out_of_fold / f"{case}.nii.gz", segmentation)
        run.write(after, run.scores_file)
        for stage, seconds in (("check", 3.2), ("preprocess", 41.0), ("train", 5210.0), ("choose", 17.5)):
            run.log("stage", name=stage, seconds=seconds)
        run.log("non-finite-loss", fold="3d_fullres fold 0", cases="case_001")
        return run

    def plan(self) -> Plan:
        z, y, x = self.shape
        fingerprint = Fingerprint(
            dataset=self.name,
            channels=(Channel(name="MRI"),),
            labels=self.labels,
            num_cases=self.num_cases,
            case_ids=tuple(self.case_ids()),
            spacings_mm=(SPACING,) * self.num_cases,
            shapes=tuple((z, y + index % 3, x) for index in range(self.num_cases)),
        )
        return PLANNERS["default"](fingerprint, MemoryBudget())

    def record(self, data: Path, cases: tuple[CaseFiles, ...]) -> RunRecord:
        return RunRecord(
            name=self.name,
            dataset=str(data),
            cases=cases,
            configurations=self.configurations,
            folds=tuple(range(self.num_folds)),
            options={"epochs": self.num_epochs, "device": "auto", "plan": None, **self.options},
            compute={
                "device": "cpu",
                "precision": "bf16",
                "channels_last": True,
                "threads": 2,
                "reasons": ["bf16: 2.1 times as fast as fp32 here (AMX)", "channels last: 1.2 times as fast"],
            },
            versions={"python": "3.11.9", "autoseg": "0.1.0", "torch": "2.13.0"},
            hardware={"system": "Linux x86_64", "cores": "2", "gpus": "none"},
            started="2026-08-01T09:30:00+02:00",
            seed=1,
            warnings=self.warnings,
        )

    def draw(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """An image and its label: an ellipsoid of two halves in noise."""
        rng = np.random.default_rng(index)
        z, y, x = np.ogrid[tuple(slice(0, size) for size in self.shape)]
        centre = [size // 2 + rng.uniform(-2, 2) * (size > 1) for size in self.shape]
        radius = [size * rng.uniform(0.24, 0.34) for size in self.shape]
        inside = sum(((axis - c) / r) ** 2 for axis, c, r in zip((z, y, x), centre, radius, strict=True)) < 1
        label = np.where(inside, np.where(y < centre[1], 1, 2), 0).astype(np.uint8)
        image = ndimage.gaussian_filter(rng.normal(0, 60, self.shape) + 90.0 * label + 20 * np.sin(x / 5), 0.8)
        return image.astype(np.float32), label

    def segment(self, index: int, names: Names) -> np.ndarray:
        """A prediction that is worse for late cases, with a speck that postprocessing removes."""
        rng = np.random.default_rng(1000 + index)
        label = self.draw(index)[1]
        error = min(ERRORS.get(name, 0.6) for name in names) * (0.9 if len(names) > 1 else 1.0)
        strength = error * (0.4 + 2.2 * index / self.num_cases)
        shifts = ndimage.gaussian_filter(rng.normal(0, 1, (3, *self.shape)), (0, 2, 2, 2)) * 6 * strength
        shifts[[size == 1 for size in self.shape]] = 0
        places = np.indices(self.shape) + shifts
        segmentation = ndimage.map_coordinates(label, places, order=0).astype(np.uint8)
        segmentation[0, :2, :2] = 1
        return segmentation

    def read(self, names: Names) -> Iterator[CasePrediction]:
        for index, case in enumerate(self.case_ids()):
            yield CasePrediction(case, self.draw(index)[1], self.segment(index, names), self.annotated.get(case))

    def train(self, run: RunFolder, name: str, fold: int) -> None:
        folder = run.fold(name, fold)
        validation = [index for index in range(self.num_cases) if index % self.num_folds == fold]
        rows, ema, rng = [], None, np.random.default_rng(fold)
        for epoch in range(self.num_epochs):
            done = 1 - math.exp(-6 * (epoch + 1) / self.num_epochs)
            dice = [
                round(0.9 * done - 0.05 * i + 0.02 * float(rng.normal()), 4) for i in range(self.labels.num_classes - 1)
            ]
            mean = sum(dice) / len(dice)
            ema = mean if ema is None else 0.9 * ema + 0.1 * mean
            rows.append(
                {
                    "epoch": epoch, "learning_rate": 0.01, "train_loss": 1 - 1.8 * done + 0.03 * float(rng.normal()),
                    "validation_loss": 1 - 1.7 * done + 0.05 * float(rng.normal()), "dice": dice, "mean_dice": mean,
                    "ema_dice": ema, "seconds": 26.0 + fold, "step_seconds": 0.104, "data_wait_fraction": 0.02,
                }
            )  # fmt: skip
            if self.annealed_from is not None:
                rows[-1]["annealing"] = epoch >= self.annealed_from
        folder.root.mkdir(parents=True)
        folder.record.write_text(json.dumps(self.fold_record))
        folder.progress.write_text("".join(json.dumps(row) + "\n" for row in rows))
        cases = [
            (case, label, guess) for i, (case, label, guess, _) in enumerate(self.read((name,))) if i in validation
        ]
        run.write(score_cases(cases, self.labels), folder.scores)
        for case, _, guess in cases:
            write_map(folder.validation / f"{case}.nii.gz", guess)


def write_map(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = SimpleITK.GetImageFromArray(array)
    image.SetSpacing(SPACING[::-1])
    SimpleITK.WriteImage(image, str(path))
    return path


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., RunFolder]:
    """Make a run folder; keywords are the fields of ``FakeRun``."""
    return lambda **fields: FakeRun(**fields).make(tmp_path)
