"""Choosing between targets: from made logits of folds to choice, objects out of fold and what became of them."""

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from autoseg.data.cases import Case
from autoseg.data.dataset import Dataset
from autoseg.data.image import Geometry
from autoseg.data.io import open_label, write_segmentation
from autoseg.errors import RunFolderError
from autoseg.evaluation.contingency import contingency
from autoseg.evaluation.decode_fitting import AS_PLANNED, FittedDecoding
from autoseg.evaluation.instance_folders import evaluate_instances
from autoseg.evaluation.instance_results import InstanceResults
from autoseg.evaluation.matching import f1
from autoseg.evaluation.overlap import Scores, score_cases
from autoseg.evaluation.selection import Choice
from autoseg.inference import instance_choice, out_of_fold
from autoseg.inference.chain import Chain
from autoseg.inference.comparison import Comparison, logits_file, read_label
from autoseg.inference.instance_choice import parts_of, write_chosen
from autoseg.inference.instances import segment_objects
from autoseg.inference.kept_logits import keep_logits
from autoseg.inference.logits_part import LogitsPart
from autoseg.inference.model import digest_of, select
from autoseg.inference.out_of_fold import choice_is_current, choose_for_run
from autoseg.options import ALL_DATA
from autoseg.preprocessing.populate import populate_store, store_name
from autoseg.preprocessing.store import Store
from autoseg.run_folder import CaseFiles, RunFolder, RunRecord
from autoseg.targets import TARGETS, make_target
from autoseg.targets.flow import FlowTarget
from autoseg.targets.instance_target import InstanceTarget
from planners.fingerprint import Channel
from planners.labels import LabelClass, Labels
from planners.plan import MemoryBudget, Plan
from planners.plan import Target as TargetRecord

LABELS = Labels(
    classes=(LabelClass(name="background", value=0), LabelClass(name="cell", value=1)), instance_classes=("cell",)
)
FOLDS: dict[int, tuple[str, ...]] = {0: ("a", "b", "c"), 1: ("d", "e", "f")}
NAMES = ("2d_boundary", "2d_flow")
SHAPE = (44, 40)


@pytest.fixture(autouse=True)
def few_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """One value per setting of a decoder is tried: what is offered is tested with the targets."""
    every = InstanceTarget.other_values

    def some(self, options, offered):
        return {name: values[:1] for name, values in every(self, options, offered).items()}

    monkeypatch.setattr(InstanceTarget, "other_values", some)


@pytest.fixture
def make_run(make_configuration, ellipses, tmp_path):
    """Give a function that makes a run whose folds are validated, from made logits."""

    def make(names=NAMES, noise=None, label=None, empty=()) -> RunFolder:
        folder = tmp_path / "data"
        folder.mkdir()
        cases = tuple(write_case(folder, ellipses, name, seed, name in empty) for seed, name in enumerate("abcdef"))
        plan = Plan(
            dataset="cells",
            planner="default",
            budget=MemoryBudget(),
            axis_order=(0, 1, 2),
            channels=(Channel(name="light"),),
            labels=LABELS,
            configurations=tuple(configuration(make_configuration, name) for name in names),
        )
        dataset = Dataset(
            name="cells", root=folder, layout="", channels=("light",), labels=LABELS, cases=cases, file_ending=".tif"
        )
        run = RunFolder(tmp_path / "run")
        files = tuple(CaseFiles(id=case.id, images=(str(case.images[0]),), label=str(case.label)) for case in cases)
        run.write(
            RunRecord(name="cells", dataset="x", cases=files, configurations=names, folds=(0, 1), started="now"),
            run.run_file,
        )
        run.write(plan, run.plan_file)
        for name in dict.fromkeys(store_name(plan, name) for name in names):
            populate_store(dataset, plan, plan.configuration(name), run.store(name), threads=1)
        for name, fold in itertools.product(names, FOLDS):
            validate(run, plan, name, fold, (noise or {}).get(name, 1.0))
        return run

    return make


def configuration(make_configuration, name: str):
    kind = name.split("_")[1]
    options = {"dimensions": 2, "diameter": 12.0}
    record = TargetRecord(name=kind, num_outputs=TARGETS[kind].num_outputs(LABELS, options), options=options)
    return make_configuration((16, 16), name=name, target=record, spacing_mm=(0.5, 0.5))


def write_case(folder: Path, ellipses, name: str, seed: int, is_empty: bool) -> Case:
    ids = ellipses(SHAPE, 10, 6.0, seed=seed)[None].astype(np.int32) * 3  # any numbering
    if is_empty:
        ids[:] = 0
    geometry = Geometry(spacing_mm=(999.0, 0.5, 0.5), dimensions=2)
    paths = [folder / f"{name}_0000.tif", folder / f"{name}.tif"]
    write_segmentation(paths[0], (ids > 0) * 100 + np.random.default_rng(seed).integers(1, 9, ids.shape), geometry)
    write_segmentation(paths[1], ids, geometry)
    return Case(id=name, images=(paths[0],), label=paths[1])


def validate(run: RunFolder, plan: Plan, name: str, fold: int, noise: float) -> None:
    """Leave what the validation of a fold leaves: logits of a network that is right but for noise, and Dice."""
    folder, item = run.fold(name, fold), plan.configuration(name)
    folder.validation.mkdir(parents=True, exist_ok=True)
    target = make_target(item.target, LABELS, item.training)
    files = {item.id: item for item in run.read(RunRecord, run.run_file).cases}
    scored = []
    for index, case_id in enumerate(FOLDS[fold]):
        stored = Store(run.store(store_name(plan, name))).open(case_id)
        label = torch.from_numpy(np.array(stored.labels).astype(np.int64)).movedim(1, 0)
        (maps,), _ = target.encode(label, [(1, 1)])
        if not maps.is_floating_point():
            logits = 6 * torch.nn.functional.one_hot(maps, target.record.num_outputs).movedim(-1, 1).float()
        else:
            first = 2 if isinstance(target, FlowTarget) else 0
            logits = torch.cat([maps[:, :first], 8 * maps[:, first:] - 4], dim=1)
        rng = np.random.default_rng([NAMES.index(name) if name in NAMES else 9, fold, index])
        drawn = (logits.movedim(0, 1).numpy() + rng.normal(0, noise, (len(logits[0]), 1, *SHAPE))).astype(np.float32)
        keep_logits(logits_file(folder, case_id), drawn, relative=target.relative)
        classes = read_label(files[case_id], plan)
        scored.append((case_id, classes, classes))
    run.write(score_cases(scored, LABELS), folder.scores)
    folder.record.write_text(json.dumps({"name": name, "fold": fold, "noise": noise}))


def comparison_of(run: RunFolder) -> Comparison:
    return Comparison(run, run.read(RunRecord, run.run_file), run.read(Plan, run.plan_file))


def slow_f1(run: RunFolder, name: str, decode: dict[str, object]) -> dict[str, float]:
    """Segment every case by itself and compare it with its label file."""
    comparison, found = comparison_of(run), {}
    for fold, ids in FOLDS.items():
        for case_id in ids:
            target = comparison.target(name, decode)
            objects = segment_objects(comparison.parts((name,), fold, case_id), target, comparison.plan)
            label = open_label(Path(str(comparison.files[case_id].label))).read()[0]
            parts = f1(contingency(label, objects.ids), 0.5)
            found[case_id] = parts.top / parts.bottom
    return found


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


def test_a_fast_judge_gives_the_numbers_of_a_slow_one(make_run) -> None:
    run = make_run()
    comparison = comparison_of(run)
    for name in NAMES:
        judge = instance_choice._Judge(comparison, (name,), instance_choice._Seen())
        settings = [AS_PLANNED, (("foreground", 0.3),), (("foreground", 0.7), ("smallest", 40))]
        found = judge.score(settings, list("abcdef"))
        for setting in settings:
            assert dict(found[setting]) == slow_f1(run, name, dict(setting))


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


def test_one_fold_is_halved_and_groups_stay_together(make_run) -> None:
    run = make_run(("2d_boundary",))
    assert parts_of(comparison_of(run)) == {case: fold for fold, ids in FOLDS.items() for case in ids}
    record = run.read(RunRecord, run.run_file)
    grouped = tuple(dataclasses.replace(item, group="one" if item.id in "ac" else None) for item in record.cases)
    run.change_record(folds=(0,), cases=grouped)
    assert parts_of(comparison_of(run)) == {"a": "half 1", "b": "half 2", "c": "half 1"}
    assert choose_for_run(run).num_cases == 3


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


def test_images_without_objects_are_right_where_nothing_is_found(make_run) -> None:
    run = make_run(("2d_boundary",), noise={"2d_boundary": 0.0}, empty="abcdef")
    choice = choose_for_run(run)
    assert (choice.score, choice.decode) == (1.0, {})
    assert "6 of them labelled without objects" in choice.reasons[0].because
    results = run.read(InstanceResults, run.instances_file)
    assert all(item.label_errors == () for item in results.objects)


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


def test_parts_of_a_case_are_those_of_its_fold(make_run) -> None:
    run = make_run()
    (part,) = comparison_of(run).parts(("2d_flow",), 1, "d")
    assert isinstance(part, LogitsPart)
    written = sitk.ReadImage(str(run.read(RunRecord, run.run_file).cases[3].label))
    assert part.grid.shape_before_crop[1:] == tuple(reversed(written.GetSize()))
