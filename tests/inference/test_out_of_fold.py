"""Out of fold: candidates are compared as if each were segmented and scored by itself; what is chosen is measured."""

import contextlib
import dataclasses
import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk

from autoseg.data.cases import Case
from autoseg.data.dataset import Dataset
from autoseg.data.io import open_image, open_label, write_segmentation
from autoseg.evaluation.measure import measure_case
from autoseg.evaluation.metric_records import MetricTable
from autoseg.evaluation.overlap import CasePrediction, Scores, score_cases, structures_of
from autoseg.evaluation.postprocessing import apply
from autoseg.evaluation.protocols import find_protocol
from autoseg.evaluation.selection import Choice
from autoseg.evaluation.weights import Weighted, weight_steps
from autoseg.inference import comparison, out_of_fold
from autoseg.inference.comparison import Comparison
from autoseg.inference.ensembles import Ensemble
from autoseg.inference.export import LogitsPart, segment
from autoseg.inference.kept_logits import KeptLogits, keep_logits
from autoseg.inference.out_of_fold import choice_is_current, choose_for_run, logits_file, prediction_file, read_label
from autoseg.preprocessing.populate import populate_store, store_name
from autoseg.preprocessing.store import Store
from autoseg.run_folder import CaseFiles, RunFolder, RunRecord
from autoseg.targets import make_target
from autoseg.training import folds
from planners.fingerprint import Channel
from planners.labels import LabelClass, Labels
from planners.plan import MemoryBudget, Plan

LABELS = Labels(classes=tuple(LabelClass(name=name, value=v) for name, v in (("air", 0), ("rim", 127), ("core", 255))))
NAMES = ("fine", "coarse", "other")
FOLDS = {0: ("a", "b", "c"), 1: ("d", "e", "f")}
ERRORS = {"fine": 1.5, "coarse": 2.0, "other": 2.5}


def write_case(folder: Path, name: str, seed: int) -> Case:
    """A ball in a ball, off centre."""
    rng = np.random.default_rng(seed)
    shape = (13 + seed % 2, 16, 15)
    center = [size / 2 + rng.uniform(-1, 1) for size in shape]
    distance = np.sqrt(sum((axis - middle) ** 2 for axis, middle in zip(np.indices(shape), center, strict=True)))
    label = np.select([distance < 3, distance < 5], [255, 127], 0).astype(np.uint8)
    image = (label / 100 + rng.normal(0, 0.3, shape)).astype(np.float32)
    paths = [folder / f"{name}_0000.nii.gz", folder / f"{name}.nii.gz"]
    for array, path in zip((image, label), paths, strict=True):
        written = sitk.GetImageFromArray(array)
        written.SetSpacing((1.0, 1.0, 1.25))
        sitk.WriteImage(written, str(path))
    return Case(id=name, images=(paths[0],), label=paths[1])


@pytest.fixture
def run(make_configuration, tmp_path) -> RunFolder:
    """A run whose folds are validated, from made logits: the label and noise, which differs by configuration."""
    folder = tmp_path / "data"
    folder.mkdir()
    cases = tuple(write_case(folder, name, seed) for seed, name in enumerate("abcdef"))
    plan = Plan(
        dataset="balls",
        planner="default",
        budget=MemoryBudget(),
        axis_order=(2, 0, 1),
        channels=(Channel(name="c0"),),
        labels=LABELS,
        configurations=(
            make_configuration((8, 8, 8), name="fine"),
            make_configuration((8, 8, 8), name="coarse", spacing_mm=(2.0, 2.0, 1.5)),
            make_configuration((8, 8, 8), name="other"),
        ),
    )
    dataset = Dataset(
        name="balls", root=folder, layout="by hand", channels=("c0",), labels=LABELS, cases=cases, file_ending=".nii.gz"
    )
    run = RunFolder(tmp_path / "run")
    files = tuple(CaseFiles(id=case.id, images=(str(case.images[0]),), label=str(case.label)) for case in cases)
    run.write(
        RunRecord(name="balls", dataset="x", cases=files, configurations=NAMES, folds=(0, 1), started="now"),
        run.run_file,
    )
    run.write(plan, run.plan_file)
    for name in dict.fromkeys(store_name(plan, name) for name in NAMES):
        populate_store(dataset, plan, plan.configuration(name), run.store(name), threads=1)
    for name, fold in itertools.product(NAMES, FOLDS):
        validate(run, plan, name, fold)
    return run


def validate(run: RunFolder, plan: Plan, name: str, fold: int) -> None:
    """Leave what the validation of a fold leaves."""
    folder, configuration = run.fold(name, fold), plan.configuration(name)
    folder.validation.mkdir(parents=True, exist_ok=True)
    files = {item.id: item for item in run.read(RunRecord, run.run_file).cases}
    scored = []
    for index, case_id in enumerate(FOLDS[fold]):
        rng = np.random.default_rng([NAMES.index(name), fold, index])
        stored = Store(run.store(store_name(plan, name))).open(case_id)
        label = np.maximum(np.array(stored.labels[0]), 0)
        truth = 4.0 * (label[None] == np.arange(3).reshape(-1, 1, 1, 1))
        logits = (truth + rng.normal(0, ERRORS[name], truth.shape)).astype(np.float32)
        target = make_target(configuration.target, LABELS, configuration.training)
        keep_logits(logits_file(folder, case_id), logits, relative=True)
        part = LogitsPart(logits_KZYX=logits, grid=stored.grid, resampling=configuration.resampling)
        segmentation = segment([part], target, plan)
        geometry = open_image([Path(path) for path in files[case_id].images]).geometry
        write_segmentation(prediction_file(folder, files[case_id]), LABELS.decode(segmentation), geometry)
        scored.append((case_id, read_label(files[case_id], plan), segmentation))
    run.write(score_cases(scored, LABELS), folder.scores)
    folder.record.write_text(json.dumps({"name": name, "fold": fold}))


def slow_scores(run: RunFolder, names: tuple[str, ...], weights: tuple[float, ...]) -> Scores:
    """Segment every case by one ensemble, and score it."""
    plan, cases = run.read(Plan, run.plan_file), []
    files = {item.id: item for item in run.read(RunRecord, run.run_file).cases}
    configurations = [plan.configuration(name) for name in names]
    for fold, ids in FOLDS.items():
        for case_id in ids:
            parts = [
                LogitsPart(
                    logits_KZYX=KeptLogits(logits_file(run.fold(item.name, fold), case_id)).read(),
                    grid=Store(run.store(store_name(plan, item.name))).open(case_id).grid,
                    resampling=item.resampling,
                    weight=weight,
                )
                for item, weight in zip(configurations, weights, strict=True)
            ]
            target = make_target(configurations[0].target, LABELS, configurations[0].training)
            cases.append((case_id, read_label(files[case_id], plan), segment(parts, target, plan)))
    return score_cases(cases, LABELS)


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


def test_logits_of_folds_that_are_no_longer_trained_are_deleted_too(run) -> None:
    run.change_record(configurations=("fine", "other"), folds=(0,))
    older = run.fold("gone", 3).validation / "a.logits.npy"
    older.parent.mkdir(parents=True)
    older.touch()
    elsewhere = run.root / "notes" / "a.logits"
    elsewhere.parent.mkdir()
    elsewhere.touch()
    choose_for_run(run)
    assert list(run.root.rglob("*.logits*")) == [elsewhere]


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


def test_a_second_time_nothing_is_judged_again_and_what_is_missing_is_made(run, monkeypatch) -> None:
    choose_for_run(run)
    before = {path: path.read_bytes() for path in (run.choice_file, run.scores_file, run.metrics_file)}

    def refuse(*_):
        raise AssertionError("judged again")

    monkeypatch.setattr(Comparison, "choose", refuse)
    monkeypatch.setattr(out_of_fold, "_measure", refuse)
    choose_for_run(run)
    monkeypatch.undo()
    monkeypatch.setattr(Comparison, "choose", refuse)
    run.metrics_file.unlink()
    choose_for_run(run)
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("content", ['{"protocol": "defau', ""])
def test_damaged_measures_of_a_choice_are_made_again(run, content: str, monkeypatch, capsys) -> None:
    choose_for_run(run)
    before = run.metrics_file.read_bytes()
    run.metrics_file.write_text(content)
    monkeypatch.setattr(Comparison, "choose", None)  # what was chosen stays so
    capsys.readouterr()
    choose_for_run(run)
    assert run.metrics_file.read_bytes() == before
    assert "metrics.json is damaged; it is made again" in capsys.readouterr().err


def test_a_kill_before_the_end_makes_all_again(run, monkeypatch) -> None:
    """Confidence is the last that is made: without it logits are still there, and the choice does not count."""

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(out_of_fold, "keep_confidence", stop)
    with pytest.raises(KeyboardInterrupt):
        choose_for_run(run)
    monkeypatch.undo()
    assert not choice_is_current(run)
    assert len(list(run.root.rglob("*.logits"))) == 18
    choose_for_run(run)
    assert choice_is_current(run)
    assert run.confidence_file.exists()


@pytest.mark.parametrize(
    ("how", "names"), [("deleted", NAMES[:2]), ("damaged", ("other",)), ("replaced", ("other",))], ids=str
)
def test_without_its_scores_a_choice_is_made_again(run, names: tuple[str, ...], how: str, monkeypatch) -> None:
    run.change_record(configurations=names)
    choice = choose_for_run(run)
    before = {path: path.read_bytes() for path in (run.choice_file, run.scores_file, run.metrics_file)}
    damages = {"deleted": lambda path: path.unlink(), "damaged": lambda path: path.write_text('{"structures": [')}
    damages.get(how, lambda path: path.write_text('{"protocol": "default"}'))(run.scores_file)
    assert not choice_is_current(run)
    # The folds leave their logits again where they are needed for judging.
    monkeypatch.setattr(folds, "NextStages", lambda _: SimpleNamespace(are_complete=lambda: True))
    for name, fold in itertools.product(names, FOLDS):
        cases = [SimpleNamespace(id=case) for case in FOLDS[fold]]
        job, record = fold_job_of(run, name, fold, cases), SimpleNamespace(validated=2, epochs=2, decode="")
        assert folds._needs_validation(job, record, len(names) > 1) is (len(names) > 1)
        if len(names) > 1:
            validate(run, run.read(Plan, run.plan_file), name, fold)
            assert not folds._needs_validation(job, record, True)
    assert choose_for_run(run) == choice
    assert {path: path.read_bytes() for path in before} == before
    assert choice_is_current(run)


def fold_job_of(run: RunFolder, name: str, fold: int, cases: list[SimpleNamespace]) -> SimpleNamespace:
    """What tells whether a fold needs validation."""
    own = run.read(Plan, run.plan_file).configuration(name)
    return SimpleNamespace(run=run, folder=run.fold(name, fold), validation_cases=cases, configuration=own)


@pytest.mark.parametrize("writes", [1, 2])
def test_a_kill_after_any_note_loses_no_metrics(run, monkeypatch, writes: int) -> None:
    change, left = RunFolder.change_record, [writes]

    def killed_after(self, **changes):
        change(self, **changes)
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "change_record", killed_after)
    with pytest.raises(KeyboardInterrupt):
        choose_for_run(run)
    monkeypatch.undo()
    assert choice_is_current(run)
    assert len(choose_for_run(run).configurations) > 1
    assert run.read(MetricTable, run.metrics_file).mean[0] is not None


def test_a_choice_that_a_person_edits_is_measured_anew_where_its_predictions_are_kept(run, capsys) -> None:
    choice = choose_for_run(run)
    run.write(dataclasses.replace(choice, configurations=("fine",), weights=(1.0,), postprocessing=()), run.choice_file)
    choose_for_run(run)
    mean = run.read(MetricTable, run.metrics_file).mean[0]
    single = Comparison(run, run.read(RunRecord, run.run_file), run.read(Plan, run.plan_file)).single_scores("fine")
    assert mean is not None
    assert mean.mean == pytest.approx(single.mean_dice)
    edited = dataclasses.replace(choice, configurations=("fine", "other"), weights=(0.5, 0.5))
    run.write(edited, run.choice_file)
    choose_for_run(run)
    assert not run.metrics_file.exists()
    assert "the out-of-fold predictions of fine + other are not kept" in capsys.readouterr().err


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
