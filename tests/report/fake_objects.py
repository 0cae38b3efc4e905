"""A run that tells objects apart, made without training: pictures of disks, and predictions with planted errors."""

import dataclasses
import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
from fake_runs import SPACING, FakeRun, write_map
from scipy import ndimage

from autoseg.evaluation.contingency import contingency
from autoseg.evaluation.instance_errors import find_errors
from autoseg.evaluation.instance_folders import evaluate_instances
from autoseg.evaluation.instance_results import CaseObjectFacts, InstanceResults
from autoseg.evaluation.metric_records import Interval
from autoseg.evaluation.overlap import score_cases
from autoseg.evaluation.selection import Candidate, Choice, Names
from autoseg.run_folder import CaseFiles, RunFolder
from planners import PLANNERS, Channel, Fingerprint, LabelClass, Labels, MemoryBudget
from planners.fingerprint import CaseObjects, InstanceStats
from planners.plan import Plan, Reason

OBJECT_LABELS = Labels(
    classes=(LabelClass(name="background", value=0), LabelClass(name="nucleus", value=1)), instance_classes=("nucleus",)
)
DECODE = {"foreground": 0.4, "seed": 0.1, "smallest": 12}


@dataclass(frozen=True, kw_only=True)
class FakeObjects(FakeRun):
    """A run that tells objects apart: coloured images of disks, and predictions with errors of every kind."""

    num_cases: int = 6
    num_epochs: int = 5
    configurations: tuple[str, ...] = ("2d_boundary", "2d_flow")
    shape: tuple[int, int, int] = (1, 96, 128)
    labels: Labels = OBJECT_LABELS
    warnings: tuple[str, ...] = ()
    name: str = "nuclei"
    ending: str = ".png"
    at_once: int = 2
    decoded: bool = True

    def make(self, root: Path) -> RunFolder:
        run, data = RunFolder(root / "run"), root / "data"
        fingerprint = self.fingerprint()
        run.write(fingerprint, run.fingerprint_file)
        run.write(self.plan(fingerprint), run.plan_file)
        files = []
        for index, case in enumerate(self.case_ids()):
            image, ids = self.pair(index)
            paths = (
                write_picture(data / "images" / f"{case}{self.ending}", image),
                write_map(data / "labels" / f"{case}.tif", ids),
            )
            files.append(CaseFiles(id=case, images=(str(paths[0]),), label=str(paths[1])))
            if self.decoded:
                write_map(run.out_of_fold / f"{case}.tif", self.spoiled(index))
        run.write(self.record(data, tuple(files)), run.run_file)
        for name in self.configurations:
            for fold in range(self.num_folds):
                self.train(run, name, fold)
        run.write(self.chosen(), run.choice_file)
        run.change_record(made_from={run.out_of_fold.name: self.chosen().predictions_digest})
        if self.measured:
            run.write(self.results(run.out_of_fold, data / "labels"), run.instances_file)
        return run

    def fingerprint(self) -> Fingerprint:
        counts = [len(np.unique(self.pair(index)[1])) - 1 for index in range(self.num_cases)]
        flat = self.shape[0] == 1
        spacing = (999.0, 1.0, 1.0) if flat else SPACING
        return dataclasses.replace(
            super().fingerprint(),
            channels=tuple(Channel(name=name) for name in (("red", "green", "blue") if flat else ("signal",))),
            spacings_mm=(spacing,) * self.num_cases,
            instances=InstanceStats(
                cases=tuple(CaseObjects(count=n, diameter_mm=12.0 + 2 * i) for i, n in enumerate(counts)),
                diameters_mm=(9.5, 14.2, 21.0),
                solidity=0.957,
                elongation=1.21,
                touching_fraction=0.184,
                background_fraction=0.74,
            ),
            size_features=tuple((float(index), 1.0) for index in range(self.num_cases)),
        )

    def plan(self, fingerprint: Fingerprint) -> Plan:
        return PLANNERS["default"](fingerprint, MemoryBudget())

    def pair(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """An image (z, y, x, or y, x, 3 colours where it is flat) and the ids of its objects, some of which touch."""
        return draw_objects(self.shape, index)

    def spoiled(self, index: int) -> np.ndarray:
        return spoil_objects(self.shape, index, index * self.at_once // 2)

    def draw(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        image, ids = self.pair(index)
        return image, (ids > 0).astype(np.uint8)

    def segment(self, index: int, names: Names) -> np.ndarray:
        return (self.spoiled(index) > 0).astype(np.uint8)

    def keep(self, folder: Path, case: str, guess: np.ndarray) -> None:
        write_map(folder / f"{case}.tif", self.spoiled(self.case_ids().index(case)))

    def chosen(self) -> Choice:
        scores = score_cases(self.read(self.configurations[:1]), self.labels)
        candidates = tuple(
            Candidate(
                name=name,
                configurations=(name,),
                mean_dice=scores.mean_dice,
                mean_iou=scores.mean_iou,
                dice=scores.dice,
                interval=Interval(mean=score, low=score - 0.05, high=score + 0.04, num_cases=self.num_cases),
                score=score,
                decode=decode,
                touching=Interval(mean=score - 0.1, low=score - 0.2, high=score, num_cases=3),
            )
            for name, score, decode in zip(
                self.configurations, (0.871, 0.853), (DECODE, {"foreground": 0.5, "largest_error": 0.8}), strict=False
            )
        )
        best = candidates[0]
        because = "mean F1@0.5 0.871 against 0.853 of 2d_flow out of fold"
        return Choice(
            configurations=best.configurations,
            folds=tuple(range(self.num_folds)),
            postprocessing=(),
            structures=scores.structures,
            num_cases=self.num_cases,
            criterion="mean F1@0.5 of objects over out-of-fold images",
            mean_dice=best.mean_dice,
            mean_iou=best.mean_iou,
            dice=best.dice,
            candidates=candidates,
            trials=(),
            reasons=(Reason(about="choice.configurations", rule="best-f1", because=because),),
            interval=best.interval,
            score=best.score,
            decode=best.decode,
        )

    def results(self, predictions: Path, labels: Path) -> InstanceResults:
        """Measure the predictions as they lie on the disk; without any, those that would."""
        if not predictions.exists():
            raise ValueError("nothing was decoded, so nothing can be measured")
        objects = []
        for index, case in enumerate(self.case_ids()):
            table = contingency(self.pair(index)[1], self.spoiled(index))
            errors = find_errors(table)
            objects.append(
                CaseObjectFacts(
                    case=case,
                    label_diameters=tuple((4 * table.label_sizes / np.pi) ** 0.5),
                    label_iou=tuple(errors.label_iou.tolist()),
                    label_errors=tuple(errors.label.tolist()),
                    prediction_diameters=tuple((4 * table.prediction_sizes / np.pi) ** 0.5),
                    prediction_errors=tuple(errors.prediction.tolist()),
                    surplus=int(errors.surplus.sum()),
                )
            )
        comparison = evaluate_instances(predictions, labels, threads=1)
        return InstanceResults(comparison=comparison, objects=tuple(objects))


@functools.cache
def draw_objects(shape: tuple[int, int, int], index: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw disks of even brightness, and number them with gaps."""
    rng = np.random.default_rng(index)
    ids = np.zeros(shape, dtype=np.uint16)
    places = np.indices(shape)
    for value in range(1, 11 + 3 * index):
        middle = [rng.uniform(0, size) if size > 1 else 0.0 for size in shape]
        away = sum((place - start) ** 2 for place, start in zip(places, middle, strict=True))
        ids[(away < rng.uniform(5, 9) ** 2) & (ids == 0)] = 40 * value
    light = ndimage.gaussian_filter((ids > 0) * 90.0 + rng.normal(0, 20, ids.shape), (0, 1, 1)) + 20
    if shape[0] > 1:
        return light.astype(np.float32), ids
    colours = np.stack([light * factor for factor in (0.4, 0.7, 1.0)], axis=-1)[0]
    return np.clip(colours, 0, 255).astype(np.uint8), ids


@functools.cache
def spoil_objects(shape: tuple[int, int, int], index: int, strength: int) -> np.ndarray:
    return spoil(draw_objects(shape, index)[1], np.random.default_rng(100 + index), strength)


def spoil(ids: np.ndarray, rng: np.random.Generator, strength: int) -> np.ndarray:
    """Plant errors into a map of ids (z, y, x): so many neighbours merged, cut in three, left out, invented each."""
    found = ids.astype(np.int32)
    for _ in range(strength):
        values = np.unique(found[found > 0])
        if len(values) < 5:
            break
        first, cut, gone = rng.choice(values, 3, replace=False)
        others = (found > 0) & ~np.isin(found, (first, cut, gone))
        near = ndimage.binary_dilation(found == first, iterations=3) & others
        if near.any():
            found[found == found[near][0]] = first
        places = np.nonzero(found == cut)
        third = np.searchsorted(np.quantile(places[2], (0.34, 0.67)), places[2])
        for piece in (1, 2):
            found[tuple(axis[third == piece] for axis in places)] = found.max() + 1
        found[found == gone] = 0
        middle = [rng.integers(0, size) for size in found.shape]
        away = sum((np.indices(found.shape)[axis] - middle[axis]) ** 2 for axis in range(3))
        found[(away < 25) & (found == 0) & (ids == 0)] = found.max() + 1
    return found.astype(np.uint16)


def write_picture(path: Path, image: np.ndarray) -> Path:
    """Write a coloured picture (y, x, 3), or a volume (z, y, x)."""
    if image.ndim == 3 and image.shape[-1] == 3:
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(image).save(path)
        return path
    return write_map(path, image)
