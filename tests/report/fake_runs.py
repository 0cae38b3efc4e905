"""A run folder as a finished run leaves it, made without training: records, curves, images, predictions."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK
from scipy import ndimage

from autoseg.evaluation.case_losses import CaseLoss, CaseLosses
from autoseg.evaluation.confidence import NUM_BINS, Bin, CaseConfidence, Confidence
from autoseg.evaluation.dice_calibration import calibrate
from autoseg.evaluation.metric_records import CaseMetrics, Interval, MetricTable
from autoseg.evaluation.overlap import CasePrediction, Scores, score_cases
from autoseg.evaluation.selection import Names, candidates_of, choose
from autoseg.run_folder import CaseFiles, RunFolder, RunRecord
from planners import PLANNERS, Channel, Fingerprint, LabelClass, Labels, MemoryBudget

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
    measured: bool = True
    seed: int = 0
    better: float = 1.0
    reads: list[Names] = field(default_factory=list)

    def case_ids(self) -> list[str]:
        return [f"case_{index:03d}" for index in range(self.num_cases)]

    def make(self, root: Path) -> RunFolder:
        run, data = RunFolder(root / "run"), root / "data"
        fingerprint = self.fingerprint()
        run.write(fingerprint, run.fingerprint_file)
        run.write(PLANNERS["default"](fingerprint, MemoryBudget()), run.plan_file)
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
            for case, _, segmentation, *_ in self.read(choice.configurations):
                write_map(run.out_of_fold / f"{case}.nii.gz", segmentation)
        run.write(after, run.scores_file)
        if self.measured:
            self.measure(run, after, choice.configurations)
        for stage, seconds in (("check", 3.2), ("preprocess", 41.0), ("train", 5210.0), ("choose", 17.5)):
            run.log("stage", name=stage, seconds=seconds)
        run.log("non-finite-loss", fold="3d_fullres fold 0", cases="case_001")
        return run

    def fingerprint(self) -> Fingerprint:
        z, y, x = self.shape
        return Fingerprint(
            dataset=self.name,
            channels=(Channel(name="MRI"),),
            labels=self.labels,
            num_cases=self.num_cases,
            case_ids=tuple(self.case_ids()),
            spacings_mm=(SPACING,) * self.num_cases,
            shapes=tuple((z, y + index % 3, x) for index in range(self.num_cases)),
        )

    def measure(self, run: RunFolder, scores: Scores, configurations: Names) -> None:
        """Write the records that follow the choice: metrics, confidence, the losses of all cases."""
        run.write(make_metrics(scores), run.metrics_file)
        cases = [
            CaseConfidence(
                case=row.case,
                fold=index % self.num_folds,
                expected_dice=tuple(
                    None if value is None else 0.55 + 0.4 * value + 0.02 * math.sin(7 * index) for value in row.dice
                ),
                dice=row.dice,
                mean_dice=row.mean_dice,
            )
            for index, row in enumerate(scores.cases)
        ]
        calibrations, predicted = calibrate(scores.structures, cases)
        confidence = Confidence(
            structures=scores.structures,
            configurations=configurations,
            cases=predicted,
            bins=tuple(make_bins(0.6 + 0.1 * (index % 4)) for index in range(len(scores.structures))),
            calibrations=calibrations,
        )
        run.write(confidence, run.confidence_file)
        for name in self.configurations:
            for fold in range(self.num_folds):
                rows = [
                    CaseLoss(
                        case=row.case,
                        loss=-0.9 + 0.05 * fold + 0.6 * (1 - (row.mean_dice or 0.0)),
                        part="validation" if index % self.num_folds == fold else "train",
                    )
                    for index, row in enumerate(scores.cases)
                ]
                losses = CaseLosses(cases=tuple(sorted(rows, key=lambda row: -row.loss)), patches_per_case=4)
                run.write(losses, run.fold(name, fold).case_losses)

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
        rng = np.random.default_rng(1000 + index + 100 * self.seed)
        label = self.draw(index)[1]
        error = min(ERRORS.get(name, 0.6) for name in names) * (0.9 if len(names) > 1 else 1.0)
        strength = error / self.better * (0.4 + 2.2 * index / self.num_cases)
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
            (case, label, guess) for i, (case, label, guess, *_) in enumerate(self.read((name,))) if i in validation
        ]
        run.write(score_cases(cases, self.labels), folder.scores)
        for case, _, guess in cases:
            self.keep(folder.validation, case, guess)

    def keep(self, folder: Path, case: str, guess: np.ndarray) -> None:
        write_map(folder / f"{case}.nii.gz", guess)


def make_metrics(scores: Scores) -> MetricTable:
    """Metrics of plausible size: the worse the Dice, the further the surfaces lie apart."""
    names = ("dice", "hd95", "assd", "nsd", "boundary_iou", "volume_error", "relative_volume_error")

    def values(dice: float | None) -> tuple[float | None, ...]:
        if dice is None:
            return (None,) * len(names)
        error = 1 - dice
        return dice, 40 * error**1.5, 9 * error, dice**0.5, dice**2, -9000 * error**2, -error / 2

    cases = tuple(
        CaseMetrics(case=row.case, values=tuple(map(values, row.dice)), empty=("",) * len(row.dice))
        for row in scores.cases
    )
    by_structure = tuple(
        tuple(spread([case.values[place][column] for case in cases]) for column in range(len(names)))
        for place in range(len(scores.structures))
    )
    means = tuple(spread([values(row.mean_dice)[column] for row in scores.cases]) for column in range(len(names)))
    return MetricTable(
        protocol="default",
        metrics=names,
        structures=scores.structures,
        cases=cases,
        by_structure=by_structure,
        mean=means,
    )


def spread(values: Sequence[float | None]) -> Interval | None:
    """A mean with two standard errors around it: faster than the bootstrap."""
    present = np.array([value for value in values if value is not None])
    if not present.size:
        return None
    mean, error = float(present.mean()), 2 * float(present.std()) / math.sqrt(present.size)
    return Interval(mean=mean, low=mean - error, high=mean + error, num_cases=present.size)


def make_bins(truth: float) -> tuple[Bin, ...]:
    """A calibration curve of networks that are too sure of what they say: right with ``truth`` times what they say."""
    counts = [20_000 + 4_000 * (index - NUM_BINS // 2) ** 2 for index in range(NUM_BINS)]
    means = [(index + 0.5) / NUM_BINS for index in range(NUM_BINS)]
    rows = zip(counts, means, strict=True)
    return tuple(Bin(count=n, confidence=n * p, correct=round(n * p * (truth + (1 - truth) * p))) for n, p in rows)


def write_map(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = SimpleITK.GetImageFromArray(array[0] if path.suffix == ".tif" and array.shape[0] == 1 else array)
    if path.suffix == ".gz":
        image.SetSpacing(SPACING[::-1])
    SimpleITK.WriteImage(image, str(path))
    return path
