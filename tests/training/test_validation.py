"""A validated fold leaves what its network expects of its predictions, counted as a prediction would count it."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from autoseg.evaluation.confidence import Confidence
from autoseg.inference.confidence import ConfidenceWatcher
from autoseg.inference.export import LogitsPart, segment
from autoseg.networks import build_network, save_weights
from autoseg.preprocessing.store import StoredCase
from autoseg.run_folder import CaseFiles, RunFolder
from autoseg.targets import make_target
from autoseg.training import validation
from autoseg.training.folds import fold_job
from autoseg.training.trainer import FoldJob
from autoseg.training.validation import case_logits, trained_network, validate_fold
from planners.plan import Plan


@pytest.fixture
def job(make_run: Callable[..., RunFolder], tmp_path: Path) -> FoldJob:
    """A fold with untrained weights whose cases have files."""
    run = make_run()
    random, files = np.random.default_rng(0), []
    for index in range(4):
        paths = [tmp_path / f"{kind}_{index}.nii.gz" for kind in ("image", "label")]
        label = random.integers(0, 3, (10, 12, 8)).astype(np.uint8)
        sitk.WriteImage(sitk.GetImageFromArray(random.normal(size=(10, 12, 8)).astype(np.float32)), str(paths[0]))
        sitk.WriteImage(sitk.GetImageFromArray(label), str(paths[1]))
        files.append(CaseFiles(id=f"case_{index}", images=(str(paths[0]),), label=str(paths[1])))
    run.change_record(cases=tuple(files))
    (configuration,) = run.read(Plan, run.plan_file).configurations
    network = build_network(configuration.architecture, 1, 3, seed=3)
    save_weights(run.fold("tiny", 0).weights_last, network, {"step": "0"})
    return fold_job(run, "tiny", 0)


def test_what_the_network_expects_is_kept(job: FoldJob) -> None:
    scores = validate_fold(job, keep_logits=False)
    kept = job.run.read(Confidence, job.folder.confidence)
    assert kept.structures == scores.structures
    assert kept.configurations == ("tiny",)
    assert [(case.case, case.fold) for case in kept.cases] == [(row.case, 0) for row in scores.cases]
    assert not kept.calibrations
    target = make_target(job.configuration.target, job.plan.labels, job.configuration.training)
    for stored, case in zip(job.validation_cases, kept.cases, strict=True):
        logits = case_logits(job, trained_network(job), stored)
        watcher = ConfidenceWatcher(target, job.plan.labels)
        part = LogitsPart(logits_KZYX=logits, grid=stored.grid, resampling=job.configuration.resampling)
        segment([part], target, job.plan, watch=watcher)
        assert watcher.result().expected_dice == case.expected_dice
    assert any(value is not None for case in kept.cases for value in case.expected_dice)
    assert all(sum(item.count for item in bins) for bins in kept.bins)


def test_a_target_without_probabilities_leaves_none(job: FoldJob, monkeypatch: pytest.MonkeyPatch) -> None:
    validate_fold(job, keep_logits=False)
    assert job.folder.confidence.exists()
    semantic = make_target(job.configuration.target, job.plan.labels, job.configuration.training)

    class Whole(type(semantic)):  # type: ignore[misc]
        pointwise = False

    def make(*arguments: object) -> Whole:
        return Whole(semantic.record, semantic.labels, semantic.training)

    monkeypatch.setattr(validation, "make_target", make)
    scores = validate_fold(dataclasses.replace(job), keep_logits=False)
    assert len(scores.cases) == 2
    assert not job.folder.confidence.exists()  # the earlier one was of another target


def results_of(job: FoldJob) -> dict[str, bytes]:
    files = [job.folder.scores, job.folder.confidence, *job.folder.validation.iterdir()]
    return {path.name: path.read_bytes() for path in files}


def test_a_stop_costs_only_the_case_at_hand(job: FoldJob, monkeypatch: pytest.MonkeyPatch) -> None:
    validate_fold(job, keep_logits=True)
    whole = results_of(job)
    for path in (job.folder.scores, job.folder.confidence, *job.folder.validation.iterdir()):
        path.unlink()
    first, second = (case.id for case in job.validation_cases)
    asked: list[str] = []

    def stops_at_the_second(job: FoldJob, network: Any, case: StoredCase) -> np.ndarray:
        asked.append(case.id)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return case_logits(job, network, case)

    monkeypatch.setattr(validation, "case_logits", stops_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        validate_fold(job, keep_logits=True)
    assert not job.folder.scores.exists()
    validate_fold(job, keep_logits=True)
    assert asked == [first, second, second]
    assert results_of(job) == whole
    assert not (job.folder.root / "validated").exists()

    asked.clear()
    with pytest.raises(KeyboardInterrupt):
        validate_fold(job, keep_logits=True)
    (configuration,) = job.run.read(Plan, job.run.plan_file).configurations
    other = build_network(configuration.architecture, 1, 3, seed=4)
    save_weights(job.folder.weights_last, other, {"step": "0"})
    validate_fold(job, keep_logits=True)
    assert asked == [first, second, first, second]
    assert results_of(job) != whole
