"""Judging targets before one is chosen: which images count, in which part, and what their objects are worth."""

import dataclasses
import functools

import numpy as np
import pytest
import SimpleITK as sitk
from cell_runs import FOLDS, NAMES, comparison_of, make_cell_run, slow_f1, try_few_settings

from autoseg.evaluation.decode_fitting import AS_PLANNED, FittedDecoding
from autoseg.evaluation.instance_results import InstanceResults
from autoseg.inference import instance_choice
from autoseg.inference.comparison import logits_file
from autoseg.inference.instance_choice import parts_of
from autoseg.inference.kept_logits import keep_logits
from autoseg.inference.logits_part import LogitsPart
from autoseg.inference.out_of_fold import choose_for_run
from autoseg.run_folder import RunRecord


@pytest.fixture(autouse=True)
def few_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """One value per setting of a decoder is tried."""
    try_few_settings(monkeypatch)


@pytest.fixture
def make_run(make_configuration, ellipses, tmp_path):
    """Give a function that makes a run whose folds are validated."""
    return functools.partial(make_cell_run, make_configuration, ellipses, tmp_path)


def test_a_fast_judge_gives_the_numbers_of_a_slow_one(make_run) -> None:
    run = make_run()
    comparison = comparison_of(run)
    for name in NAMES:
        judge = instance_choice._Judge(comparison, (name,), instance_choice._Seen())
        settings = [AS_PLANNED, (("foreground", 0.3),), (("foreground", 0.7), ("smallest", 40))]
        found = judge.score(settings, list("abcdef"))
        for setting in settings:
            assert dict(found[setting]) == slow_f1(run, name, dict(setting))


def test_empty_images_are_judged_by_what_is_invented_in_them(make_run) -> None:
    run = make_run(("2d_boundary",), noise={"2d_boundary": 0.0}, empty="ad")
    comparison = comparison_of(run)
    (part,) = comparison.parts(("2d_boundary",), 0, "a")
    seen = instance_choice._Seen()
    judge = instance_choice._Judge(comparison, ("2d_boundary",), seen)
    assert set(judge.score([AS_PLANNED], list("abcdef"))[AS_PLANNED].values()) == {1.0}
    assert seen.empty == {"a", "d"}
    logits = part.logits_KZYX.read()  # type: ignore[union-attr]
    logits[1, 0, 5:15, 5:15] += 20
    keep_logits(logits_file(run.fold("2d_boundary", 0), "a"), logits, relative=True)
    assert judge.score([AS_PLANNED], ["a"])[AS_PLANNED] == {"a": 0.0}
    choice = choose_for_run(run)
    assert choice.num_cases == 6
    assert choice.score == pytest.approx(5 / 6)
    assert "(2 of them labelled without objects" in choice.reasons[0].because


def test_images_without_objects_are_right_where_nothing_is_found(make_run) -> None:
    run = make_run(("2d_boundary",), noise={"2d_boundary": 0.0}, empty="abcdef")
    choice = choose_for_run(run)
    assert (choice.score, choice.decode) == (1.0, {})
    assert "6 of them labelled without objects" in choice.reasons[0].because
    results = run.read(InstanceResults, run.instances_file)
    assert all(item.label_errors == () for item in results.objects)


def test_components_are_as_large_as_objects_must_be(make_run) -> None:
    """Specks count against neither: what is compared is how objects are told apart."""
    run = make_run(("2d_boundary",), noise={"2d_boundary": 0.0})
    comparison = comparison_of(run)
    for fold, ids in FOLDS.items():
        for case_id in ids:
            (part,) = comparison.parts(("2d_boundary",), fold, case_id)
            logits = part.logits_KZYX.read()  # type: ignore[union-attr]
            background = logits.argmax(axis=0) == 0
            speckled = np.zeros_like(background)
            speckled[:, ::4, ::4] = True
            logits[1][speckled & background] += 30
            keep_logits(logits_file(run.fold("2d_boundary", fold), case_id), logits, relative=True)
    judge = instance_choice._Judge(comparison, ("2d_boundary",), instance_choice._Seen())
    judge.score([AS_PLANNED], list("abcdef"))
    plain = judge.score_components(FittedDecoding(values={}, planned={}))
    larger = FittedDecoding(values={}, planned={}, by_part={0: {"smallest": 10}, 1: {"smallest": 10}})
    without = judge.score_components(larger)
    assert set(plain) == judge.seen.touching
    assert np.mean(list(without.values())) > np.mean(list(plain.values())) + 0.1


def test_cases_whose_objects_nobody_annotated_are_not_judged(make_run) -> None:
    run = make_run(("2d_boundary",))
    record = run.read(RunRecord, run.run_file)
    cases = tuple(
        dataclasses.replace(item, annotated_classes=(0,) if item.id == "c" else None) for item in record.cases
    )
    run.change_record(cases=cases)
    assert "c" not in parts_of(comparison_of(run))
    assert choose_for_run(run).num_cases == 5
    assert (run.out_of_fold / "c.tif").exists()


def test_one_fold_is_halved_and_groups_stay_together(make_run) -> None:
    run = make_run(("2d_boundary",))
    assert parts_of(comparison_of(run)) == {case: fold for fold, ids in FOLDS.items() for case in ids}
    record = run.read(RunRecord, run.run_file)
    grouped = tuple(dataclasses.replace(item, group="one" if item.id in "ac" else None) for item in record.cases)
    run.change_record(folds=(0,), cases=grouped)
    assert parts_of(comparison_of(run)) == {"a": "half 1", "b": "half 2", "c": "half 1"}
    assert choose_for_run(run).num_cases == 3


def test_parts_of_a_case_are_those_of_its_fold(make_run) -> None:
    run = make_run()
    (part,) = comparison_of(run).parts(("2d_flow",), 1, "d")
    assert isinstance(part, LogitsPart)
    written = sitk.ReadImage(str(run.read(RunRecord, run.run_file).cases[3].label))
    assert part.grid.shape_before_crop[1:] == tuple(reversed(written.GetSize()))
