"""The comparison of all candidates of a run on its out-of-fold predictions.

Single configurations have been scored by their folds. Ensembles are judged from the logits that the folds have left:
each case is read once, and all ensembles with all weights are counted from it in one pass (``ensembles``). Only the
winner's predictions are read or made whole.
"""

import math
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from autoseg.data.io import open_image, open_label, output_ending, write_segmentation
from autoseg.data.parallel import MemoryGate, default_threads, for_each_case
from autoseg.evaluation.labelled_objects import read_label_layers
from autoseg.evaluation.overlap import (
    CasePrediction,
    CaseScore,
    Scores,
    case_score,
    collect,
    merge,
    structures_of,
)
from autoseg.evaluation.postprocessing import voxel_mm3
from autoseg.evaluation.selection import Choice, candidates_of, choose
from autoseg.evaluation.weights import Names, Weighted, Weights, fit_weights, weight_steps
from autoseg.inference.confidence import ConfidenceWatcher, WatchedCase
from autoseg.inference.ensembles import Ensemble, count_ensembles
from autoseg.inference.export import SLAB_BYTES, LogitsPart, segment
from autoseg.inference.kept_logits import KeptLogits
from autoseg.options import ALL_DATA
from autoseg.preprocessing.populate import store_name
from autoseg.preprocessing.store import Store
from autoseg.progress import track
from autoseg.run_folder import CaseFiles, FoldFolder, RunFolder, RunRecord
from autoseg.targets import Target, make_target
from autoseg.targets.instance_target import with_decode
from planners.plan import Plan

LOGITS_ENDING = ".logits"


def prediction_file(folder: FoldFolder, files: CaseFiles) -> Path:
    """Give the place of a validation case's prediction: the format of its image, or what can hold labels."""
    return folder.validation / f"{files.id}{output_ending(files.images[0])}"


def out_of_fold_file(run: RunFolder, files: CaseFiles) -> Path:
    """Give the place of a case's prediction by what was chosen, where the run keeps such (see ``RunFolder``)."""
    return run.out_of_fold / f"{files.id}{output_ending(files.images[0])}"


def logits_file(folder: FoldFolder, case_id: str) -> Path:
    """Give the place of a validation case's logits on the preprocessed grid (see ``kept_logits``)."""
    return folder.validation / f"{case_id}{LOGITS_ENDING}"


def read_label(files: CaseFiles, plan: Plan) -> np.ndarray:
    """Read a case's label as inner class indices z, y, x."""
    return read_label_and_spacing(files, plan)[0]


def read_label_and_spacing(files: CaseFiles, plan: Plan) -> tuple[np.ndarray, tuple[float, float, float]]:
    """Read a case's label as inner class indices z, y, x, and its spacing in mm."""
    layers, spacing_mm = read_label_layers(files, plan.labels)
    return layers[0], spacing_mm


def largest_slab(part: LogitsPart) -> int:
    """Give the bytes of a slab of logits: a single slice of many classes is larger than a slab is meant to be."""
    slices = [math.prod(shape[1:]) for shape in (part.grid.shape, part.grid.shape_after_crop)]
    return max(SLAB_BYTES, 4 * len(part.logits_KZYX) * max(slices))


class Comparison:
    """The candidates of one run, and how to read what each of them predicts out of fold.

    Attributes:
        watched: once an ensemble has been read: what it expects of each case, where its target has probabilities.
    """

    def __init__(self, run: RunFolder, record: RunRecord, plan: Plan) -> None:
        """Gather the run's folds; nothing is read yet but the scores they have left."""
        self.run, self.record, self.plan = run, record, plan
        self.files = {files.id: files for files in record.cases}
        self.folds = [fold for fold in record.folds if fold != ALL_DATA]
        self.watched: dict[str, WatchedCase] = {}

    def choose(self) -> tuple[Choice, Scores]:
        """Score every candidate and choose; the predictions of a winning ensemble are written on the way."""
        shutil.rmtree(self.run.out_of_fold, ignore_errors=True)  # of an earlier choice
        names = [item for item in candidates_of(self.record.configurations) if self.can_be_averaged(item)]
        scores: dict[Names, Scores] = {item: self.single_scores(item[0]) for item in names if len(item) == 1}
        ensembles = [item for item in names if len(item) > 1]
        judged = self._judge(ensembles) if ensembles else {}
        scores |= {item: next(iter(judged[item].values())) for item in ensembles}
        fold_of = {case: fold for fold, cases in self.cases().items() for case in cases}
        fitted = (fit_weights(item, found, fold_of) for item, found in judged.items() if len(found) > 1)
        weighted = [item for item in fitted if item is not None]
        return choose(scores, self.read, self.plan.labels, self.record.folds, weighted)

    def read(self, names: Names, weighted: Weighted | None = None) -> Iterator[CasePrediction]:
        """Read a candidate's out-of-fold predictions, one case at a time; those of an ensemble are kept on the way."""
        if len(names) == 1:
            return self._read_single(names[0])
        return self._read_ensemble(names, {} if weighted is None else weighted.by_fold)

    def cases(self) -> Mapping[int | str, list[str]]:
        """List the cases that each fold has validated."""
        name = self.record.configurations[0]
        return {
            fold: [row.case for row in self.run.read(Scores, self.run.fold(name, fold).scores).cases]
            for fold in self.folds
        }

    def target(self, name: str, decode: Mapping[str, Any] | None = None) -> Target:
        """Make the target of a configuration, with other settings of its decoder where any are given."""
        configuration = self.plan.configuration(name)
        return make_target(with_decode(configuration.target, decode or {}), self.plan.labels, configuration.training)

    def parts(self, names: Names, fold: int | str, case_id: str, weights: Weights = ()) -> list[LogitsPart]:
        """Open the logits that a fold of some configurations has left of a case.

        Raises:
            RunFolderError: a file is missing or damaged.
        """
        return [
            LogitsPart(
                logits_KZYX=KeptLogits(logits_file(self.run.fold(name, fold), case_id)),
                grid=Store(self.run.store(store_name(self.plan, name))).open(case_id).grid,
                resampling=self.plan.configuration(name).resampling,
                weight=weight,
            )
            for name, weight in zip(names, weights or (1.0,) * len(names), strict=True)
        ]

    def can_be_averaged(self, names: Names) -> bool:
        """Tell whether configurations have equal targets."""
        return all(self.plan.configuration(name).target == self.plan.configuration(names[0]).target for name in names)

    def single_scores(self, name: str) -> Scores:
        """Read the scores that the folds of a configuration have left."""
        parts = [self.run.read(Scores, self.run.fold(name, fold).scores) for fold in self.folds]
        return merge(parts) if parts else collect((), [item.name for item in structures_of(self.plan.labels)])

    def _judge(self, ensembles: list[Names]) -> dict[Names, dict[Weights, Scores]]:
        """Score ensembles with every step of their weights, equal ones first; each case is read once."""
        several = len(self.folds) > 1  # weights that no other fold can judge are not tried
        steps = {names: weight_steps(len(names))[: None if several else 1] for names in ensembles}
        every = tuple(dict.fromkeys(name for names in ensembles for name in names))
        wanted = [
            Ensemble(members=tuple(map(every.index, names)), weights=weights)
            for names, found in steps.items()
            for weights in found
        ]

        def work(item: tuple[int | str, str], gate: MemoryGate) -> list[CaseScore]:
            return self._judge_case(every, wanted, item, gate)

        pairs = [(case, (fold, case)) for fold, cases in self.cases().items() for case in cases]
        rows = list(for_each_case(work, pairs, f"comparing {len(ensembles)} ensembles").values()) if pairs else []
        names = [item.name for item in structures_of(self.plan.labels)]
        scores = iter([collect((row[place] for row in rows), names) for place in range(len(wanted))])
        return {item: {weights: next(scores) for weights in found} for item, found in steps.items()}

    def _judge_case(
        self, names: Names, wanted: list[Ensemble], item: tuple[int | str, str], gate: MemoryGate
    ) -> list[CaseScore]:
        fold, case_id = item
        parts, files = self.parts(names, fold, case_id), self.files[case_id]
        voxels = math.prod(parts[0].grid.shape_before_crop)
        # A label of eight bytes a voxel while it is encoded, twice; per configuration a slab and its steps of work.
        with gate.hold(16 * voxels + sum(6 * largest_slab(part) for part in parts)):
            label = read_label(files, self.plan)
            histograms = count_ensembles(parts, wanted, self.target(names[0]), self.plan, label)
        structures = structures_of(self.plan.labels)
        return [case_score(case_id, found, structures, files.annotated_classes) for found in histograms]

    def _read_single(self, name: str) -> Iterator[CasePrediction]:
        for fold, cases in self.cases().items():
            for case_id in cases:
                predicted = open_label(prediction_file(self.run.fold(name, fold), self.files[case_id])).read()[0]
                yield self._case(case_id, self.plan.labels.encode(predicted))

    def _read_ensemble(self, names: Names, weights: Mapping[int | str, Weights]) -> Iterator[CasePrediction]:
        target, self.watched = self.target(names[0]), {}
        pairs = [(fold, case) for fold, cases in self.cases().items() for case in cases]
        for fold, case_id in track(pairs, len(pairs), f"ensemble {' + '.join(names)}"):
            files = self.files[case_id]
            label, spacing = read_label_and_spacing(files, self.plan)
            watcher = ConfidenceWatcher(target, self.plan.labels, label, files.annotated_classes)
            parts = self.parts(names, fold, case_id, weights.get(fold, ()))
            watch = watcher if target.pointwise else None
            segmentation = segment(parts, target, self.plan, threads=default_threads(), watch=watch)
            if target.pointwise:
                self.watched[case_id] = watcher.result()
            self._keep(files, segmentation)
            voxel = voxel_mm3(label.shape, spacing)
            yield CasePrediction(case_id, label, segmentation, files.annotated_classes, voxel)

    def _case(self, case_id: str, prediction: np.ndarray) -> CasePrediction:
        files = self.files[case_id]
        label, spacing = read_label_and_spacing(files, self.plan)
        return CasePrediction(case_id, label, prediction, files.annotated_classes, voxel_mm3(label.shape, spacing))

    def _keep(self, files: CaseFiles, segmentation: np.ndarray) -> None:
        """Write what only this comparison computes, before postprocessing as in the folds, to be looked at later."""
        geometry = open_image([Path(path) for path in files.images]).geometry
        write_segmentation(out_of_fold_file(self.run, files), self.plan.labels.decode(segmentation), geometry)
