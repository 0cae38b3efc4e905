"""Out of fold: candidates are compared as if each were segmented and scored by itself; what is chosen is measured."""

import contextlib
import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from ball_runs import ERRORS, FOLDS, LABELS, NAMES, make_ball_run, slow_scores, validate

from autoseg.data.io import open_label
from autoseg.evaluation.measure import measure_case
from autoseg.evaluation.metric_records import MetricTable
from autoseg.evaluation.overlap import CasePrediction, Scores, score_cases, structures_of
from autoseg.evaluation.postprocessing import apply
from autoseg.evaluation.protocols import find_protocol
from autoseg.evaluation.selection import Choice
from autoseg.evaluation.weights import Weighted, weight_steps
from autoseg.inference import comparison
from autoseg.inference.comparison import Comparison
from autoseg.inference.ensembles import Ensemble
from autoseg.inference.out_of_fold import choice_is_current, choose_for_run, read_label
from autoseg.run_folder import RunFolder, RunRecord
from planners.plan import Plan


@pytest.fixture
def run(make_configuration, tmp_path) -> RunFolder:
    """A run whose folds are validated, from made logits: the label and noise, which differs by configuration."""
    return make_ball_run(make_configuration, tmp_path)


def test_all_candidates_are_judged_in_one_pass_as_one_by_one(run, monkeypatch) -> None:
    reads: list[str] = []

    def noted(files, plan):
        reads.append(files.id)
        return read_label(files, plan)

    monkeypatch.setattr(comparison, "read_label", noted)
    record, plan = run.read(RunRecord, run.run_file), run.read(Plan, run.plan_file)
    ensembles = [("fine", "coarse"), ("coarse", "other"), NAMES]
    found = Comparison(run, record, plan)._judge(ensembles)
    assert sorted(reads) == list("abcdef"), "each label is read once, whatever the number of candidates"
    for names in ensembles:
        assert list(found[names]) == list(weight_steps(len(names)))
        for weights in (weight_steps(len(names))[0], weight_steps(len(names))[-1]):
            assert found[names][weights] == slow_scores(run, names, weights)


def test_memory_is_held_for_slabs_of_many_classes(run, monkeypatch) -> None:
    """A slab is never thinner than one slice, on the larger of the two grids."""
    comparing = Comparison(run, run.read(RunRecord, run.run_file), run.read(Plan, run.plan_file))
    (part,) = comparing.parts(("fine",), 0, "a")
    assert comparison.largest_slab(part) == comparison.SLAB_BYTES
    grid = dataclasses.replace(part.grid, shape=(4, 300, 200), shape_after_crop=(4, 512, 512))
    many = dataclasses.replace(part, grid=grid, logits_KZYX=np.broadcast_to(np.float32(0), (118, 4, 300, 200)))
    assert comparison.largest_slab(many) == 4 * 118 * 512 * 512
    grid = dataclasses.replace(part.grid, shape=(4, 512, 600), shape_after_crop=(4, 512, 512))
    assert comparison.largest_slab(dataclasses.replace(many, grid=grid)) == 4 * 118 * 512 * 600
    held: list[int] = []

    class Gate:
        def hold(self, needed: int) -> contextlib.AbstractContextManager[None]:
            held.append(needed)
            return contextlib.nullcontext()

    ensemble = Ensemble(members=(0, 1), weights=(0.5, 0.5))
    comparing._judge_case(("fine", "other"), [ensemble], (0, "a"), Gate())
    monkeypatch.setattr(comparison, "largest_slab", lambda part: 10**9)
    comparing._judge_case(("fine", "other"), [ensemble], (0, "a"), Gate())
    assert held[1] - held[0] == 12 * (10**9 - comparison.SLAB_BYTES)


def test_the_best_is_chosen_and_all_records_are_written(run) -> None:
    expected = slow_scores(run, NAMES, (0.4, 0.4, 0.2))
    equal = slow_scores(run, NAMES, (1 / 3,) * 3)
    choice = choose_for_run(run)
    assert [item.configurations for item in choice.candidates if len(set(item.weights)) == 1] == [
        ("fine",), ("coarse",), ("other",), ("fine", "coarse"), ("fine", "other"), ("coarse", "other"), NAMES
    ]  # fmt: skip
    assert choice.configurations == NAMES, "the mean of independent errors is best"
    assert choice.weights == (0.4, 0.4, 0.2), "and better with less of the worst"
    assert choice.mean_before == expected.mean_dice
    assert (expected.mean_dice or 0) > (equal.mean_dice or 1)
    assert (choice.mean_dice or 0) >= (choice.mean_before or 1)
    assert choice_is_current(run)
    assert run.read(Choice, run.choice_file) == choice
    assert run.read(Scores, run.scores_file).mean_dice == choice.mean_dice
    assert run.confidence_file.exists()
    assert len(list(run.out_of_fold.glob("*.nii.gz"))) == 6
    assert not list(run.root.rglob("*.logits")), "logits are deleted when nobody needs them any more"
    because = " ".join(reason.because for reason in choice.reasons)
    assert "of 9 candidates" in because
    assert (
        "fine + coarse + other (2 : 2 : 1), scored with weights fitted on the other folds (fold 0 2 : 2 : 1" in because
    )
    assert "not better than equal ones by more than luck" in because


def test_among_networks_that_are_equally_good_weights_are_equal(run, monkeypatch) -> None:
    plan = run.read(Plan, run.plan_file)
    for name in NAMES:
        monkeypatch.setitem(ERRORS, name, 2.0)
    run.change_record(configurations=("fine", "other"))
    for name, fold in itertools.product(("fine", "other"), FOLDS):
        validate(run, plan, name, fold)
    choice = choose_for_run(run)
    assert [item.name for item in choice.candidates] == ["fine", "other", "fine + other"]
    assert choice.weights == (0.5, 0.5)
    assert choice.configurations == ("fine", "other")


def test_an_ensemble_with_weights_is_read_with_those_of_each_fold(run) -> None:
    by_fold = {0: (0.8, 0.2), 1: (1 / 3, 2 / 3)}
    names = ("coarse", "other")
    expected = {fold: slow_scores(run, names, weights) for fold, weights in by_fold.items()}
    judged = Comparison(run, run.read(RunRecord, run.run_file), run.read(Plan, run.plan_file))
    weighted = Weighted(
        configurations=names, weights=(0.5, 0.5), by_fold=by_fold, scores=expected[0], difference=None, accepted=True
    )
    found = {row.case: row for row in score_cases(judged.read(names, weighted), LABELS).cases}
    for fold, ids in FOLDS.items():
        for row in expected[fold].cases:
            assert (found[row.case] == row) == (row.case in ids)
    assert set(judged.watched) == set("abcdef")


def test_metrics_are_those_of_the_postprocessed_predictions(run) -> None:
    choice = choose_for_run(run)
    table = run.read(MetricTable, run.metrics_file)
    plan = run.read(Plan, run.plan_file)
    files = {item.id: item for item in run.read(RunRecord, run.run_file).cases}
    assert [row.case for row in table.cases] == list("abcdef")
    for row in table.cases:
        opened = open_label(Path(str(files[row.case].label)))
        written = LABELS.encode(open_label(run.out_of_fold / f"{row.case}.nii.gz").read()[0])
        item = CasePrediction(row.case, read_label(files[row.case], plan), apply(written, choice.postprocessing, 1.25))
        protocol = find_protocol("default")
        assert measure_case(item, structures_of(LABELS), opened.geometry.spacing_mm, protocol) == row
    column = table.metrics.index("dice")
    interval = table.mean[column]
    assert interval is not None
    assert interval.mean == pytest.approx(choice.mean_dice, abs=1e-12)
    assert choice.interval is not None
    assert (interval.low, interval.high) == pytest.approx((choice.interval.low, choice.interval.high), abs=1e-3)


def test_of_one_configuration_the_folds_predictions_are_measured(run) -> None:
    run.change_record(configurations=("other",))
    expected = slow_scores(run, ("other",), (1.0,))
    choice = choose_for_run(run)
    assert [item.name for item in choice.candidates] == ["other"]
    assert not run.out_of_fold.exists()
    assert run.metrics_file.exists()
    assert choice.mean_before == pytest.approx(expected.mean_dice, abs=1e-4), "from logits that were not quantised"


def test_from_one_fold_no_weights_are_tried(run) -> None:
    run.change_record(folds=(0,))
    choice = choose_for_run(run)
    assert choice.num_cases == 3
    assert not any(reason.about == "choice.weights" for reason in choice.reasons)


def test_configurations_with_other_targets_are_not_averaged(run) -> None:
    plan = run.read(Plan, run.plan_file)
    configurations = list(plan.configurations)
    configurations[1] = dataclasses.replace(
        configurations[1], target=dataclasses.replace(configurations[1].target, options={"x": 1})
    )
    run.write(dataclasses.replace(plan, configurations=tuple(configurations)), run.plan_file)
    choice = choose_for_run(run)
    names = {item.configurations for item in choice.candidates}
    assert names == {("fine",), ("coarse",), ("other",), ("fine", "other")}


def test_predictions_of_a_winning_ensemble_are_written_in_the_geometry_of_the_image(run) -> None:
    choose_for_run(run)
    written = sitk.ReadImage(str(run.out_of_fold / "a.nii.gz"))
    assert written.GetSpacing() == pytest.approx((1.0, 1.0, 1.25))
    assert set(np.unique(sitk.GetArrayFromImage(written))) <= {0, 127, 255}
