"""Out-of-fold predictions: every case as the network predicts it that has not seen it; and the choice made from them.

Each fold leaves the predictions of its validation cases. Where several configurations are trained it leaves their
logits too (float16, on the preprocessed grid), so that ensembles of two can be judged; they are deleted once the choice
is made.
"""

import itertools
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from autoseg.data.io import open_image, open_label, output_ending, write_segmentation
from autoseg.evaluation.overlap import CasePrediction, Scores, collect, merge, score_cases, structures_of
from autoseg.evaluation.selection import Choice, Names, candidates_of, choose
from autoseg.inference.export import LogitsPart, segment
from autoseg.preprocessing.populate import store_name
from autoseg.preprocessing.store import Store
from autoseg.progress import say, track
from autoseg.run_folder import CaseFiles, FoldFolder, RunFolder, RunRecord
from autoseg.targets import make_target
from planners import records
from planners.plan import Plan

ALL_DATA = "all-data"
MADE_FROM = "choice.json"


def prediction_file(folder: FoldFolder, files: CaseFiles) -> Path:
    """Give the place of a validation case's prediction: the format of its image, or what can hold labels."""
    return folder.validation / f"{files.id}{output_ending(files.images[0])}"


def logits_file(folder: FoldFolder, case_id: str) -> Path:
    """Give the place of a validation case's logits, float16 (K, z, y, x) on the preprocessed grid."""
    return folder.validation / f"{case_id}.logits.npy"


def read_label(files: CaseFiles, plan: Plan) -> np.ndarray:
    """Read a case's label as inner class indices z, y, x."""
    assert files.label is not None, "only labelled cases are validated"
    return plan.labels.encode(open_label(Path(files.label)).read()[0])


def choose_for_run(run: RunFolder) -> Choice:
    """Compare all trained configurations and pairs out of fold, choose, and write ``choice.json`` and ``scores.json``.

    What was chosen from the very same folds is kept.
    """
    record, plan = run.read(RunRecord, run.run_file), run.read(Plan, run.plan_file)
    made_from = _made_from(run, record)
    if run.choice_file.exists() and record.made_from.get(MADE_FROM) == made_from:
        choice = run.read(Choice, run.choice_file)
    else:
        choice = _Comparison(run, record, plan).choose()
        made = {**run.read(RunRecord, run.run_file).made_from, MADE_FROM: made_from}
        run.change_record(made_from=made)
    for reason in choice.reasons:
        say(f"  {reason.about.removeprefix('choice.')}: {reason.because}")
        run.log("decision", about=reason.about, rule=reason.rule, because=reason.because)
    for name, fold in itertools.product(record.configurations, record.folds):
        for path in run.fold(name, fold).validation.glob("*.logits.npy"):
            path.unlink()
    return choice


def choice_is_current(run: RunFolder) -> bool:
    """Tell whether ``choice.json`` was made from the very folds that the run trains now, as they are."""
    record = run.read(RunRecord, run.run_file)
    try:
        made_from = _made_from(run, record)
    except FileNotFoundError:  # of a fold that is to be trained yet
        return False
    return run.choice_file.exists() and record.made_from.get(MADE_FROM) == made_from


def _made_from(run: RunFolder, record: RunRecord) -> str:
    folds = [
        [name, fold, run.fold(name, fold).record.read_text(encoding="utf-8")]
        for name, fold in itertools.product(record.configurations, record.folds)
    ]
    return records.digest(folds)


class _Comparison:
    """The candidates of one run, and how to read what each of them predicts out of fold."""

    def __init__(self, run: RunFolder, record: RunRecord, plan: Plan) -> None:
        self.run, self.record, self.plan = run, record, plan
        self.files = {files.id: files for files in record.cases}
        self.folds = [fold for fold in record.folds if fold != ALL_DATA]

    def choose(self) -> Choice:
        """Score every candidate, choose, and keep choice and scores."""
        scores: dict[Names, Scores] = {}
        shutil.rmtree(self.run.out_of_fold, ignore_errors=True)  # of an earlier choice
        for names in candidates_of(self.record.configurations):
            scores[names] = self._single_scores(names[0]) if len(names) == 1 else self._pair_scores(names)
        choice, after = choose(scores, self.read, self.plan.labels, self.record.folds)
        self.run.write(after, self.run.scores_file)
        self.run.write(choice, self.run.choice_file)
        return choice

    def read(self, names: Names) -> Iterator[CasePrediction]:
        """Read the winner's out-of-fold predictions, one case at a time; those of a pair are written on the way."""
        return self._read_single(names[0]) if len(names) == 1 else self._keep(self._read_pair(names))

    def _keep(self, cases: Iterable[CasePrediction]) -> Iterator[CasePrediction]:
        """Write what only this comparison computes, before postprocessing as in the folds, to be looked at later."""
        for case in cases:
            case_id, segmentation = case.case, case.prediction
            files = self.files[case_id]
            geometry = open_image([Path(path) for path in files.images]).geometry
            path = self.run.out_of_fold / f"{case_id}{output_ending(files.images[0])}"
            write_segmentation(path, self.plan.labels.decode(segmentation), geometry)
            yield case

    def _single_scores(self, name: str) -> Scores:
        parts = [self.run.read(Scores, self.run.fold(name, fold).scores) for fold in self.folds]
        return merge(parts) if parts else collect((), [item.name for item in structures_of(self.plan.labels)])

    def _pair_scores(self, names: Names) -> Scores:
        total = sum(len(part) for part in self._cases(names[0]).values())
        return score_cases(track(self._read_pair(names), total, f"ensemble {' + '.join(names)}"), self.plan.labels)

    def _cases(self, name: str) -> Mapping[int | str, Sequence[str]]:
        return {
            fold: [row.case for row in self.run.read(Scores, self.run.fold(name, fold).scores).cases]
            for fold in self.folds
        }

    def _read_single(self, name: str) -> Iterator[CasePrediction]:
        for fold, cases in self._cases(name).items():
            for case_id in cases:
                files = self.files[case_id]
                predicted = open_label(prediction_file(self.run.fold(name, fold), files)).read()[0]
                label = read_label(files, self.plan)
                yield CasePrediction(case_id, label, self.plan.labels.encode(predicted), files.annotated_classes)

    def _read_pair(self, names: Names) -> Iterator[CasePrediction]:
        for fold, cases in self._cases(names[0]).items():
            for case_id in cases:
                parts = [self._part(name, fold, case_id) for name in names]
                configuration = self.plan.configuration(names[0])
                target = make_target(configuration.target, self.plan.labels, configuration.training)
                files = self.files[case_id]
                segmentation = segment(parts, target, self.plan)
                yield CasePrediction(case_id, read_label(files, self.plan), segmentation, files.annotated_classes)

    def _part(self, name: str, fold: int | str, case_id: str) -> LogitsPart:
        return LogitsPart(
            logits_KZYX=np.load(logits_file(self.run.fold(name, fold), case_id)).astype(np.float32),
            grid=Store(self.run.store(store_name(self.plan, name))).open(case_id).grid,
            resampling=self.plan.configuration(name).resampling,
        )
