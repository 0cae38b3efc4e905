"""Out-of-fold predictions: every case as the networks predict it that have not seen it; and the choice made from them.

Each fold leaves the predictions of its validation cases. Where several configurations are trained, or objects are told
apart, it leaves their logits too (``kept_logits``), so that ensembles can be judged and settings of decoders fitted;
they are deleted once the choice is made.
"""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoseg.data.io import open_label
from autoseg.data.parallel import MemoryGate, for_each_case
from autoseg.errors import RunFolderError
from autoseg.evaluation.confidence import Confidence
from autoseg.evaluation.instance_results import InstanceResults
from autoseg.evaluation.measure import ruler_for, tabulate
from autoseg.evaluation.metric_records import CaseMetrics, MetricTable
from autoseg.evaluation.overlap import CasePrediction, Scores
from autoseg.evaluation.postprocessing import apply, voxel_mm3
from autoseg.evaluation.protocols import find_protocol, structures_for
from autoseg.evaluation.selection import Choice, candidate_name
from autoseg.inference.comparison import (
    LOGITS_ENDING,
    Comparison,
    logits_file,
    out_of_fold_file,
    prediction_file,
    read_label,
    read_label_and_spacing,
)
from autoseg.inference.confidence import keep_confidence
from autoseg.inference.instance_choice import choose_instances, finds_objects
from autoseg.inference.instances import find_kept_map
from autoseg.inference.object_measures import measure_predictions
from autoseg.progress import say
from autoseg.run_folder import CaseFiles, RunFolder, RunRecord
from planners import records
from planners.plan import Plan

__all__ = ["choice_is_current", "choose_for_run", "logits_file", "prediction_file", "read_label"]

MADE_FROM = "choice.json"
METRICS = "metrics.json"
OLDER_LOGITS = "*.logits.npy"  # float16, as they were kept at first

MEASURING_BYTES = 60
"""Bytes per voxel of a case while it is measured: two maps of eight bytes while they are encoded, and the distance
transforms of the largest structure, should it fill the image. Assumption, on the safe side."""


def choose_for_run(run: RunFolder) -> Choice:
    """Compare all trained configurations and their ensembles out of fold, choose, and measure what was chosen.

    Writes ``choice.json``, ``scores.json``, ``confidence.json`` and ``metrics.json``; where objects are told apart
    ``choice.json``, ``scores.json`` (of their classes) and ``instances.json``. What was chosen from the very
    same folds is kept, and only what is missing or damaged is made; without its ``scores.json`` it is made anew.
    """
    record, plan = run.read(RunRecord, run.run_file), run.read(Plan, run.plan_file)
    made_from = _made_from(run, record)
    kept = _kept_scores(run, record, made_from)
    comparison = Comparison(run, record, plan)
    objects = finds_objects(comparison)
    if kept is not None:
        choice = run.read(Choice, run.choice_file)
        if not objects and len(choice.configurations) == 1 and not _is_whole(run, Confidence, run.confidence_file):
            keep_confidence(run, plan, choice, kept)
    else:
        choice, scores = choose_instances(comparison) if objects else comparison.choose()
        run.write(scores, run.scores_file)
        run.write(choice, run.choice_file)
        if not objects:
            watched = comparison.watched if len(choice.configurations) > 1 else None
            keep_confidence(run, plan, choice, scores, watched)
        # Only now: after a kill before this, all is made again, for which the logits are still there.
        # Both at once: an ensemble whose predictions nobody vouches for would never be measured.
        _note(run, {MADE_FROM: made_from, run.out_of_fold.name: choice.predictions_digest})
    for reason in choice.reasons:
        say(f"  {reason.about.removeprefix('choice.')}: {reason.because}")
        run.log("decision", about=reason.about, rule=reason.rule, because=reason.because)
    for ending in (f"*{LOGITS_ENDING}", OLDER_LOGITS):  # of all folds: also of those that the run trains no more
        for path in run.root.glob(f"folds/*/fold_*/validation/{ending}"):
            path.unlink()
    if objects:
        _measure_objects_if_missing(comparison, choice)
    else:
        _measure_if_missing(run, plan, choice)
    return choice


def choice_is_current(run: RunFolder) -> bool:
    """Tell whether ``choice.json`` was made from the very folds that the run trains now, as they are.

    Its ``scores.json`` must be there too: it is written with the choice, and ensembles are scored from logits that the
    folds leave only as long as the choice is not current.
    """
    record = run.read(RunRecord, run.run_file)
    try:
        made_from = _made_from(run, record)
    except FileNotFoundError:  # of a fold that is to be trained yet
        return False
    return _kept_scores(run, record, made_from) is not None


def _kept_scores(run: RunFolder, record: RunRecord, made_from: str) -> Scores | None:
    """Read the scores of a choice that was made from these very folds; None where it is to be made anew."""
    if not run.choice_file.exists() or record.made_from.get(MADE_FROM) != made_from:
        return None
    try:
        return run.read(Scores, run.scores_file)
    except RunFolderError:
        return None


def _made_from(run: RunFolder, record: RunRecord) -> str:
    folds = [
        [name, fold, run.fold(name, fold).record.read_text(encoding="utf-8")]
        for name, fold in itertools.product(record.configurations, record.folds)
    ]
    return records.digest(folds)


def _note(run: RunFolder, digests: Mapping[str, str]) -> None:
    run.change_record(made_from={**run.read(RunRecord, run.run_file).made_from, **digests})


def _is_whole(run: RunFolder, kind: type[Any], file: Path) -> bool:
    """Tell whether a record that can be made again is there and can be read; one that cannot is named."""
    if not file.exists():
        return False
    try:
        run.read(kind, file)
    except RunFolderError:
        say(f"  {file.name} is damaged; it is made again")
        return False
    return True


def _measure_if_missing(run: RunFolder, plan: Plan, choice: Choice) -> None:
    """Write ``metrics.json`` of the chosen predictions, unless it was made from the very same choice."""
    record = run.read(RunRecord, run.run_file)
    digest = records.digest(
        [record.made_from.get(MADE_FROM), choice.configurations, choice.weights, choice.postprocessing]
    )
    if record.made_from.get(METRICS) == digest and _is_whole(run, MetricTable, run.metrics_file):
        return
    comparison = Comparison(run, record, plan)
    places = _chosen_predictions(comparison, choice)
    absent = [case for case, (path, _) in places.items() if not path.exists()]
    kept = record.made_from.get(run.out_of_fold.name) == choice.predictions_digest
    of_this = len(choice.configurations) == 1 or kept
    if absent or not of_this or not places:
        run.metrics_file.unlink(missing_ok=True)
        if places:
            name = candidate_name(choice.configurations, choice.weights)
            say(f"  {METRICS}: not made; the out-of-fold predictions of {name} are not kept")
        return
    run.write(_measure(plan, choice, places), run.metrics_file)
    _note(run, {METRICS: digest})


def _measure_objects_if_missing(comparison: Comparison, choice: Choice) -> None:
    """Write ``instances.json`` of the chosen predictions, unless it was made from the very same choice."""
    run, file = comparison.run, comparison.run.instances_file
    made_from = run.read(RunRecord, run.run_file).made_from
    wanted = choice.predictions_digest
    digest = records.digest([made_from.get(MADE_FROM), wanted])
    if made_from.get(file.name) == digest and _is_whole(run, InstanceResults, file):
        return
    cases = {case_id: comparison.files[case_id] for ids in comparison.cases().values() for case_id in ids}
    places = {case_id: (find_kept_map(out_of_fold_file(run, files)), files) for case_id, files in cases.items()}
    whole = made_from.get(run.out_of_fold.name) == wanted and all(path.exists() for path, _ in places.values())
    if not whole or not places:
        file.unlink(missing_ok=True)
        if places:
            name = candidate_name(choice.configurations, choice.weights)
            say(f"  {file.name}: not made; the out-of-fold predictions of {name}, as chosen, are not kept")
        return
    run.write(measure_predictions(comparison.plan, places), file)
    _note(run, {file.name: digest})


def _chosen_predictions(comparison: Comparison, choice: Choice) -> dict[str, tuple[Path, CaseFiles]]:
    """Find the out-of-fold predictions of what was chosen, before postprocessing, per case with its files."""
    run, found = comparison.run, {}
    for fold, cases in comparison.cases().items():
        for case_id in cases:
            files = comparison.files[case_id]
            path = prediction_file(run.fold(choice.configurations[0], fold), files)
            if len(choice.configurations) > 1:
                path = out_of_fold_file(run, files)
            found[case_id] = path, files
    return found


def _measure(plan: Plan, choice: Choice, places: dict[str, tuple[Path, CaseFiles]]) -> MetricTable:
    protocol = find_protocol("default")
    structures, _ = structures_for(protocol, plan.labels)
    ruler = ruler_for(structures, protocol)

    def work(item: tuple[Path, CaseFiles], gate: MemoryGate) -> CaseMetrics:
        path, files = item
        opened = open_label(path)
        shape = opened.shape
        with gate.hold(MEASURING_BYTES * int(shape[0]) * int(shape[1]) * int(shape[2])):
            label, spacing = read_label_and_spacing(files, plan)
            voxel = voxel_mm3(label.shape, spacing)
            prediction = apply(plan.labels.encode(opened.read()[0]), choice.postprocessing, voxel)
            case = CasePrediction(files.id, label, prediction, files.annotated_classes, voxel)
            return ruler.measure(case, spacing, plan.labels.ignore_index)

    rows = for_each_case(work, places.items(), "measuring out-of-fold predictions")
    return tabulate(rows.values(), structures, protocol)
