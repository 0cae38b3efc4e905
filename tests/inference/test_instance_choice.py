"""Choosing between targets: from made logits of folds to choice, objects out of fold and what became of them."""

import dataclasses
import functools
from pathlib import Path

import numpy as np
import pytest
from cell_runs import FOLDS, LABELS, NAMES, comparison_of, make_cell_run, slow_f1, try_few_settings

from autoseg.data.io import open_label
from autoseg.errors import RunFolderError
from autoseg.evaluation.contingency import contingency
from autoseg.evaluation.instance_folders import evaluate_instances
from autoseg.evaluation.instance_results import InstanceResults
from autoseg.evaluation.matching import f1
from autoseg.evaluation.overlap import Scores
from autoseg.evaluation.selection import Choice
from autoseg.inference import out_of_fold
from autoseg.inference.chain import Chain
from autoseg.inference.comparison import logits_file
from autoseg.inference.instance_choice import write_chosen
from autoseg.inference.kept_logits import keep_logits
from autoseg.inference.model import digest_of, select
from autoseg.inference.out_of_fold import choice_is_current, choose_for_run
from autoseg.options import ALL_DATA
from autoseg.run_folder import RunFolder
from autoseg.targets import make_target
from planners.plan import Plan
from planners.plan import Target as TargetRecord


@pytest.fixture(autouse=True)
def few_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """One value per setting of a decoder is tried."""
    try_few_settings(monkeypatch)


@pytest.fixture
def make_run(make_configuration, ellipses, tmp_path):
    """Give a function that makes a run whose folds are validated."""
    return functools.partial(make_cell_run, make_configuration, ellipses, tmp_path)


def test_the_better_target_is_chosen_and_everything_is_written(make_run) -> None:
    run = make_run(noise={"2d_boundary": 3.0, "2d_flow": 1.0})
    expected = {name: slow_f1(run, name, {}) for name in NAMES}
    choice = choose_for_run(run)
    assert choice.configurations == ("2d_flow",)
    assert choice.criterion.startswith("mean F1@0.5")
    assert [item.name for item in choice.candidates] == list(NAMES), "different targets are not averaged"
    chosen = choice.candidates[1]
    assert choice.score == chosen.score
    assert (choice.interval, choice.decode) == (chosen.interval, chosen.decode)
    for item in choice.candidates:
        assert (item.score or 0) >= np.mean(list(expected[item.name].values())) - 1e-12, "as planned, or better"
        assert item.interval is not None
        assert item.interval.mean == pytest.approx(item.score)
        assert item.touching is not None
    assert choice_is_current(run)
    assert run.read(Choice, run.choice_file) == choice
    assert not list(run.root.rglob("*.logits"))
    assert not run.metrics_file.exists()
    assert not run.confidence_file.exists()
    assert run.read(Scores, run.scores_file).mean_dice == choice.mean_dice
    assert choice.num_cases == 6
    about = [reason.about for reason in choice.reasons]
    assert about == ["choice.configurations", "choice.touching", "choice.decode", "choice.decode"]
    assert "2d_flow: mean F1@0.5" in choice.reasons[0].because
    assert "against 2d_boundary" in choice.reasons[0].because
    assert "on the 5 images whose objects touch: 2d_boundary" in choice.reasons[1].because
    assert "components of the foreground of 2d_flow would give 0." in choice.reasons[1].because


def test_results_are_those_of_evaluating_the_files(make_run, tmp_path) -> None:
    """``instances.json`` says of the run what ``autoseg evaluate`` says of its files."""
    run = make_run(noise={"2d_boundary": 2.0, "2d_flow": 5.0})
    choice = choose_for_run(run)
    assert choice.configurations == ("2d_boundary",)
    results = run.read(InstanceResults, run.instances_file)
    labels = tmp_path / "labels"
    labels.mkdir()
    for name in "abcdef":
        (labels / f"{name}.tif").write_bytes((tmp_path / "data" / f"{name}.tif").read_bytes())
    assert results.comparison == evaluate_instances(run.out_of_fold, labels)
    assert [item.case for item in results.objects] == list("abcdef")
    for item, row in zip(results.objects, results.comparison.cases, strict=True):
        scores = row.scores[0]
        assert len(item.label_errors) == len(item.label_iou) == len(item.label_diameters) == scores.num_labelled
        assert len(item.prediction_errors) == len(item.prediction_diameters) == scores.num_predicted
        assert item.label_errors.count("right") == scores.found[0]
        ids = np.unique(open_label(labels / f"{item.case}.tif").read()[0], return_counts=True)[1][1:]
        np.testing.assert_allclose(item.label_diameters, np.sqrt(ids * 0.25 * 4 / np.pi), rtol=1e-5)
    mean = results.comparison.totals[0].metrics[results.comparison.metrics.index("f1@0.5")].mean
    assert mean is not None
    assert mean.mean == pytest.approx(np.mean(list(_of_files(run, labels).values())))


def _of_files(run: RunFolder, labels: Path) -> dict[str, float]:
    found = {}
    for path in sorted(run.out_of_fold.glob("*.tif")):
        parts = f1(contingency(open_label(labels / path.name).read()[0], open_label(path).read()[0]), 0.5)
        found[path.stem] = parts.top / parts.bottom
    return found


def test_settings_that_help_on_the_other_folds_are_taken(make_run, monkeypatch) -> None:
    """A network that is never sure of its foreground: half is too much to ask."""
    run = make_run(("2d_boundary",), noise={"2d_boundary": 0.3})
    plan = run.read(Plan, run.plan_file)
    for fold, ids in FOLDS.items():
        for case_id in ids:
            (part,) = comparison_of(run).parts(("2d_boundary",), fold, case_id)
            logits = part.logits_KZYX.read()  # type: ignore[union-attr]
            logits[0] += 6.6  # background takes what is less than sure
            keep_logits(logits_file(run.fold("2d_boundary", fold), case_id), logits, relative=True)
    before = np.mean(list(slow_f1(run, "2d_boundary", {}).values()))
    choice = choose_for_run(run)
    assert choice.decode
    assert (choice.score or 0) > before
    assert choice.reasons[-1].rule == "fitted"
    assert "judged on each, better than as planned by" in choice.reasons[-1].because
    target = make_target(plan.configurations[0].target, LABELS, plan.configurations[0].training)
    assert set(choice.decode) <= set(target.decode_choices())  # type: ignore[attr-defined]
    assert set(choice.decode_by_part) == {"0", "1"}
    assert f1_of_results(run) == pytest.approx(choice.score, abs=1e-12), "the page tells what was judged"
    with_them = _of_files(run, Path(str(comparison_of(run).files["a"].label)).parent)
    assert np.mean(list(with_them.values())) > before, "files are written with the chosen settings"


def f1_of_results(run: RunFolder) -> float:
    """The mean F1 that ``instances.json`` tells."""
    comparison = run.read(InstanceResults, run.instances_file).comparison
    mean = comparison.totals[0].metrics[comparison.metrics.index("f1@0.5")].mean
    assert mean is not None
    return mean.mean


def test_every_image_is_written_with_the_settings_of_the_other_folds(make_run) -> None:
    """Settings fitted on all images have seen its label."""
    run = make_run(("2d_boundary",))
    planned = {case_id: len(np.unique(ids)) for case_id, ids in _written(run, {}, {}).items()}
    by_part = {"0": {"smallest": 10**6}, "1": {}}
    found = _written(run, {"smallest": 10**6}, by_part)
    assert all(not found[case_id].any() for case_id in FOLDS[0])
    assert all(len(np.unique(found[case_id])) == planned[case_id] > 1 for case_id in FOLDS[1])


def _written(run: RunFolder, decode: dict[str, object], by_part: dict[str, dict[str, object]]) -> dict[str, np.ndarray]:
    comparison = comparison_of(run)
    plain = choice_of("2d_boundary", decode=decode, decode_by_part=by_part)
    write_chosen(comparison, plain)
    return {path.stem: open_label(path).read()[0] for path in run.out_of_fold.glob("*.tif")}


def choice_of(name: str, **fields) -> Choice:
    return Choice(
        configurations=(name,), folds=(0, 1), postprocessing=(), structures=("cell",), num_cases=6, mean_dice=None,
        mean_iou=None, dice=(None,), candidates=(), trials=(), reasons=(), **fields,
    )  # fmt: skip


def test_a_digest_tells_settings_of_other_folds_apart() -> None:
    same = {"decode": {"foreground": 0.4}}
    first = choice_of("2d_boundary", **same, decode_by_part={"0": {"foreground": 0.3}})
    second = choice_of("2d_boundary", **same, decode_by_part={"0": {"foreground": 0.4}})
    assert len({item.predictions_digest for item in (first, second, choice_of("2d_boundary", **same))}) == 3


def test_networks_of_equal_targets_are_averaged(make_run) -> None:
    run = make_run(("2d_boundary", "fine_boundary"), noise={"2d_boundary": 2.5, "fine_boundary": 2.5})
    choice = choose_for_run(run)
    assert [item.name for item in choice.candidates] == ["2d_boundary", "fine_boundary", "2d_boundary + fine_boundary"]
    assert choice.configurations == ("2d_boundary", "fine_boundary"), "the mean of independent errors is best"
    assert choice.weights == (0.5, 0.5)
    assert choice.candidates[2].mean_dice is None, "no fold has scored the average"
    assert choice.mean_dice is not None


def test_a_second_time_nothing_is_decoded_and_what_is_missing_is_made(make_run, monkeypatch) -> None:
    run = make_run()
    choose_for_run(run)
    files = (run.choice_file, run.scores_file, run.instances_file)
    before = {path: path.read_bytes() for path in files}

    def refuse(*_):
        raise AssertionError("judged again")

    monkeypatch.setattr(out_of_fold, "choose_instances", refuse)
    run.instances_file.unlink()
    choose_for_run(run)
    monkeypatch.setattr(out_of_fold, "measure_predictions", refuse)
    choose_for_run(run)
    assert {path: path.read_bytes() for path in files} == before


def test_an_edited_choice_has_no_results(make_run, capsys) -> None:
    run = make_run()
    choice = choose_for_run(run)
    run.write(dataclasses.replace(choice, decode={"foreground": 0.45}), run.choice_file)
    choose_for_run(run)
    assert not run.instances_file.exists()
    assert "as chosen, are not kept" in capsys.readouterr().err


def test_without_validation_the_first_configuration_is_taken(make_run) -> None:
    run = make_run()
    run.fold("2d_boundary", 0).root.rename(run.fold("2d_boundary", ALL_DATA).root)
    run.fold("2d_flow", 0).root.rename(run.fold("2d_flow", ALL_DATA).root)
    run.change_record(folds=(ALL_DATA,))
    choice = choose_for_run(run)
    assert choice.configurations == ("2d_boundary",)
    assert choice.score is None
    assert choice.decode == {}
    assert "no case has out-of-fold predictions" in choice.reasons[0].because
    assert not run.instances_file.exists()


def test_configurations_of_both_kinds_are_not_compared(make_run) -> None:
    run = make_run()
    plan = run.read(Plan, run.plan_file)
    first = dataclasses.replace(plan.configurations[0], target=TargetRecord(name="semantic", num_outputs=2))
    run.write(dataclasses.replace(plan, configurations=(first, plan.configurations[1])), run.plan_file)
    with pytest.raises(RunFolderError, match="2d_flow find objects, 2d_boundary do not"):
        choose_for_run(run)


def test_a_model_decodes_as_it_was_chosen(make_run) -> None:
    run = make_run(("2d_boundary",))
    choice = choose_for_run(run)
    plan = run.read(Plan, run.plan_file)
    from autoseg import compute
    from autoseg.networks import build_network, save_weights

    for fold in FOLDS:
        item = plan.configurations[0]
        save_weights(run.fold("2d_boundary", fold).weights_last, build_network(item.architecture, 1, 3), {"step": "0"})
    run.write(dataclasses.replace(choice, decode={}), run.choice_file)
    plain = select(run, plan)
    run.write(dataclasses.replace(choice, decode={"foreground": 0.35}), run.choice_file)
    selection = select(run, plan)
    assert selection.decode == {"foreground": 0.35}
    assert digest_of(selection, plan) != digest_of(plain, plan)
    (step,) = Chain(plan, selection, compute.choose("cpu", "fp32")).steps
    assert step.target.options.foreground == 0.35  # type: ignore[attr-defined]
