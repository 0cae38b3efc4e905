"""Material: what a run folder holds for its page. A piece that is missing is noted, never an error."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from autoseg.errors import AutosegError
from autoseg.evaluation.case_losses import CaseLosses
from autoseg.evaluation.confidence import Confidence
from autoseg.evaluation.instance_results import InstanceResults
from autoseg.evaluation.metric_records import MetricTable
from autoseg.evaluation.overlap import Scores, merge
from autoseg.evaluation.selection import Choice, candidate_name
from autoseg.log import read_log, read_rows
from autoseg.run_folder import FoldFolder, RunFolder, RunRecord
from planners.fingerprint import Fingerprint
from planners.plan import Plan

Record = TypeVar("Record")


@dataclass(frozen=True, kw_only=True)
class FoldMaterial:
    """One trained fold of one configuration: its files, its rows per epoch, its scores, losses, ``fold.json``."""

    configuration: str
    fold: str
    folder: FoldFolder
    rows: tuple[dict[str, Any], ...]
    scores: Scores | None
    losses: CaseLosses | None
    record: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Material:
    """Everything the page is made of.

    Attributes:
        run: the run folder.
        record, fingerprint, plan, choice: None where the file is missing or cannot be read.
        metrics, confidence: of what was chosen, likewise.
        instances: the objects that it found, likewise; None where none are told apart.
        folds: in the order of configurations, then folds.
        scores: out-of-fold scores of the best there is, or None.
        scored: what ``scores`` belong to, for people.
        log: rows of ``log.jsonl``.
        missing: what is not there and what would make it.
    """

    run: RunFolder
    record: RunRecord | None
    fingerprint: Fingerprint | None
    plan: Plan | None
    choice: Choice | None
    metrics: MetricTable | None
    confidence: Confidence | None
    instances: InstanceResults | None = None
    folds: tuple[FoldMaterial, ...]
    scores: Scores | None
    scored: str
    log: tuple[dict[str, Any], ...]
    missing: tuple[str, ...]

    @property
    def finds_objects(self) -> bool:
        """Whether the run tells objects apart, not classes alone."""
        return self.plan is not None and bool(self.plan.labels.instance_classes)

    @property
    def configurations(self) -> tuple[str, ...]:
        """Names of the configurations with a trained fold, in order."""
        return tuple(dict.fromkeys(item.configuration for item in self.folds))

    @property
    def planned(self) -> tuple[str, ...]:
        """Names of the configurations that are trained, or are to be."""
        return self.configurations or (self.record.configurations if self.record is not None else ())

    @property
    def fold_of_case(self) -> dict[str, str]:
        """In which fold each case was validated."""
        return {row.case: item.fold for item in self.folds if item.scores is not None for row in item.scores.cases}


def gather(run: RunFolder) -> Material:
    """Read all records of a run that are there."""
    missing: list[str] = []
    record = _read(run, RunRecord, run.run_file, "written when a run starts", missing)
    fingerprint = _read(run, Fingerprint, run.fingerprint_file, "written when the dataset is measured", missing)
    plan = _read(run, Plan, run.plan_file, "written by the plan stage", missing)
    choice = _read(run, Choice, run.choice_file, "written after the folds are trained", missing)
    objects, made = plan is not None and bool(plan.labels.instance_classes), "written with the choice"
    metrics = _read(run, MetricTable, run.metrics_file, "" if objects else made, missing)
    confidence = _read(run, Confidence, run.confidence_file, "" if objects else made, missing)
    instances = _read(run, InstanceResults, run.instances_file, made if objects else "", missing)
    folds = _folds(run, plan, missing)
    scores, scored = _scores(run, choice, folds, missing)
    if objects:  # nothing is corrected after decoding
        scored = scored.removesuffix(", before postprocessing")
    return Material(
        run=run,
        record=record,
        fingerprint=fingerprint,
        plan=plan,
        choice=choice,
        metrics=metrics,
        confidence=confidence,
        instances=instances,
        folds=folds,
        scores=scores,
        scored=scored,
        log=read_log(run.log_file),
        missing=tuple(missing),
    )


def read_object(path: Path) -> dict[str, Any]:
    """Read a file of one JSON object; empty where it is missing or damaged."""
    try:
        value = json.loads(path.read_text(errors="replace"))
    except (OSError, json.JSONDecodeError):
        return {}
    return value if isinstance(value, dict) else {}


def _read(run: RunFolder, kind: type[Record], path: Path, made: str, missing: list[str]) -> Record | None:
    """Read a record; where it is not there, say so, but for a record that this run need not have (``made`` empty)."""
    if not path.exists():
        if made:
            missing.append(f"{path.relative_to(run.root)} is not there; it is {made}.")
        return None
    try:
        return run.read(kind, path)
    except AutosegError as fault:
        missing.append(str(fault))
        return None


def _folds(run: RunFolder, plan: Plan | None, missing: list[str]) -> tuple[FoldMaterial, ...]:
    planned = [item.name for item in plan.configurations] if plan is not None else []
    found = sorted((run.root / "folds").glob("*/fold_*"), key=lambda path: _order(path, planned))
    folds = []
    for path in found:
        fold = path.name.removeprefix("fold_")
        folder = run.fold(path.parent.name, fold)
        rows = read_rows(folder.progress)
        if not rows:
            missing.append(f"{folder.progress.relative_to(run.root)} holds no finished epoch yet.")
        scores = None
        if fold != "all-data":
            scores = _read(run, Scores, folder.scores, "written when the fold is trained", missing)
        losses = None
        if folder.case_losses.exists():  # folds trained before there were any have none; the page says so once
            losses = _read(run, CaseLosses, folder.case_losses, "written when the fold is trained", missing)
        made = FoldMaterial(
            configuration=path.parent.name,
            fold=fold,
            folder=folder,
            rows=rows,
            scores=scores,
            losses=losses,
            record=read_object(folder.record),
        )
        folds.append(made)
    if not folds:
        missing.append("folds/ holds no trained fold; it is filled by the training stage.")
    return tuple(folds)


def _order(path: Path, planned: list[str]) -> tuple[int, str, int, str]:
    configuration, fold = path.parent.name, path.name.removeprefix("fold_")
    place = planned.index(configuration) if configuration in planned else len(planned)
    return place, configuration, int(fold) if fold.isdigit() else 1 << 30, fold


def _scores(
    run: RunFolder, choice: Choice | None, folds: tuple[FoldMaterial, ...], missing: list[str]
) -> tuple[Scores | None, str]:
    """Take the scores of the choice; without them those of one configuration, before postprocessing."""
    if choice is not None and run.scores_file.exists():
        scores = _read(run, Scores, run.scores_file, "written with the choice", missing)
        if scores is not None:
            rules = ", after postprocessing" if choice.postprocessing else ""
            return scores, candidate_name(choice.configurations, choice.weights) + rules
    wanted = [*(choice.configurations if choice is not None else ()), *(item.configuration for item in folds)]
    for name in wanted:
        parts = [item.scores for item in folds if item.configuration == name and item.scores is not None]
        if len({part.structures for part in parts}) == 1:
            return merge(parts), f"{name}, before postprocessing"
    return None, ""
