"""Run differences: runs are found, their facts compared, and what is not known is said."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autoseg.data.splits import Fold, Splits
from autoseg.evaluation.postprocessing import Postprocessing
from autoseg.evaluation.run_differences import RunDifferences, differences, origin_of
from autoseg.evaluation.run_facts import Makers, facts_of_run
from autoseg.evaluation.selection import Choice
from autoseg.run_folder import CaseFiles, RunFolder, RunRecord
from planners import records
from planners.fingerprint import Channel
from planners.labels import LabelClass, Labels
from planners.plan import Configuration, MemoryBudget, Plan

CASES = ("case_a", "case_b", "case_c", "case_d")
HALVES = (Fold(train=CASES[:2], validation=CASES[2:]), Fold(train=CASES[2:], validation=CASES[:2]))
MakeRun = Callable[..., RunFolder]


@pytest.fixture
def make_run(tmp_path: Path, make_configuration: Callable[..., Configuration]) -> MakeRun:
    """Give a function that writes the records of a run, without training anything."""

    def make(
        name: str, folds: tuple[int | str, ...] = (0,), splits: tuple[Fold, ...] = HALVES, **fields: Any
    ) -> RunFolder:
        run = RunFolder(tmp_path / name)
        of_choice = ("postprocessing", "configurations", "decode", "decode_by_part")
        chosen = {item: fields.pop(item) for item in of_choice if item in fields}
        configuration = make_configuration((8, 8, 8), **{"epochs": 5, **fields})
        other = dataclasses.replace(configuration, name="other")
        plan = Plan(
            dataset="hippocampus",
            planner="default",
            budget=MemoryBudget(),
            axis_order=(0, 1, 2),
            channels=(Channel(name="MRI"),),
            labels=Labels(classes=(LabelClass(name="background", value=0), LabelClass(name="tumour", value=3))),
            configurations=(configuration, other),
        )
        files = tuple(CaseFiles(id=case, images=(f"{case}.nii.gz",)) for case in CASES)
        record = RunRecord(name="hippocampus", dataset="data", cases=files, started="now", versions={"autoseg": "1"})
        run.write(plan, run.plan_file)
        run.write(record, run.run_file)
        run.write(Splits(folds=splits, source="test"), run.splits_file)
        run.write(_choice(folds, **chosen), run.choice_file)
        for fold in folds:
            run.fold("tiny", fold).root.mkdir(parents=True)
            run.fold("tiny", fold).progress.write_text('{"epoch": 0}\n{"epoch": 1}\n')
        _predict(run.predictions, CASES)
        return run

    return make


def _choice(folds: tuple[int | str, ...], **fields: Any) -> Choice:
    empty: dict[str, Any] = {
        "configurations": ("tiny",),
        "postprocessing": (),
        "structures": ("tumour",),
        "num_cases": 4,
        "mean_dice": 0.5,
        "mean_iou": 0.4,
        "dice": (0.5,),
        "candidates": (),
        "trials": (),
        "reasons": (),
    }
    return Choice(folds=folds, **{**empty, **fields})


def _predict(folder: Path, cases: tuple[str, ...], record: dict[str, Any] | None = None) -> Path:
    folder.mkdir(parents=True)
    for case in cases:
        (folder / f"{case}.nii.gz").write_bytes(b"")
    if record is not None:
        (folder / "predictions.json").write_text(json.dumps(record))
    return folder


def unequal(found: RunDifferences) -> dict[str, tuple[str | None, str | None]]:
    return {item.name: (item.first, item.second) for item in found.differing}


def test_equal_runs_differ_in_nothing(make_run: MakeRun) -> None:
    found = differences(make_run("one").predictions, make_run("two").predictions)
    assert found.differing == ()
    assert {"channels", "labels", "epochs", "mirrored axes", "trained on", "budget", "folds"} <= set(found.same)
    assert "Nothing that is known differs between the two runs" in found.text()


def test_every_usual_reason_is_named(make_run: MakeRun) -> None:
    first = make_run("one")
    rule = Postprocessing(rule="remove-small", name="tumour", classes=(1,), size_mm3=12.5)
    second = make_run("two", folds=(0, 1), epochs=50, mirror_axes=(), seed=7, batch_size=4, postprocessing=(rule,))
    plan = second.read(Plan, second.plan_file)
    changed = dataclasses.replace(plan, channels=(Channel(name="T2"),), budget=MemoryBudget(device_bytes=4 * 10**9))
    second.write(changed, second.plan_file)
    found = unequal(differences(first.predictions, second.predictions))
    assert found["epochs"] == ("5", "50")
    assert found["mirrored axes"] == ("0, 1, 2", "none")
    assert found["folds"] == ("0", "0, 1")
    assert found["channels"] == ("MRI", "T2")
    assert found["budget"] == ("8 GB", "4 GB")
    assert found["seed"] == ("0", "7")
    assert found["batch size"] == ("2", "4")
    assert found["postprocessing"] == ("none", "remove-small of tumour (12.5 mm³)")
    assert {name for name in found if name not in ("trained on", "validated on")} == {
        *("epochs", "mirrored axes", "folds", "channels", "budget", "seed", "batch size", "postprocessing")
    }


def test_settings_of_decoders_are_told(make_run: MakeRun) -> None:
    fitted = {"decode": {"foreground": 0.4}, "decode_by_part": {"0": {}, "1": {"foreground": 0.3, "smallest": 12}}}
    first, second = make_run("one", folds=(0, 1), **fitted), make_run("two", folds=(0, 1))
    found = unequal(differences(first.predictions, second.predictions))
    assert found == {"objects found with": ("foreground 0.4", None)}
    for run in (first, second):
        _predict(run.out_of_fold, CASES)
    found = unequal(differences(first.out_of_fold, second.out_of_fold))
    assert found == {"objects found with": ("fold 0: as planned; fold 1: foreground 0.3, smallest 12", None)}


def test_cases_are_told_apart_though_they_are_equally_many(make_run: MakeRun) -> None:
    other = (Fold(train=("case_b", "case_d"), validation=("case_a", "case_c")),)
    found = differences(make_run("one").predictions, make_run("two", splits=other).predictions)
    first, second = unequal(found)["trained on"]
    assert first is not None
    assert second is not None
    assert first.startswith("2 cases (")
    assert second.startswith("2 cases (")
    assert "trained on in A alone: 1 case (case_a)" in found.text()
    assert "trained on in B alone: 1 case (case_d)" in found.text()


def test_predictions_of_training_cases_are_warned_of(make_run: MakeRun) -> None:
    run = make_run("one", folds=(0, 1))
    _predict(run.fold("tiny", 0).validation, HALVES[0].validation)
    found = differences(run.predictions, run.fold("tiny", 0).validation)
    assert found.first.seen == CASES  # an ensemble of both folds has seen every case
    assert found.second.seen == ()
    assert "Careful: A was trained on 4 cases" in found.text()
    assert "Careful: B" not in found.text()


def test_out_of_fold_predictions_of_a_run_have_seen_nothing(make_run: MakeRun) -> None:
    rule = Postprocessing(name="all foreground", classes=(1,))
    run = make_run("one", folds=(0, 1), postprocessing=(rule,), configurations=("tiny", "other"))
    origin = origin_of(_predict(run.out_of_fold, CASES))
    assert origin.seen == ()
    assert origin.facts["folds"] == "the one that has not seen the case"
    assert origin.facts["postprocessing"] == "none"  # they are kept as before postprocessing
    assert origin.facts["configurations"] == "tiny + other"
    assert origin.facts["tiny: epochs"] == origin.facts["other: epochs"] == "5"


def test_validation_of_a_fold_is_of_that_fold(make_run: MakeRun) -> None:
    run = make_run("one", folds=(0, 1))
    folder = _predict(run.fold("tiny", 1).validation, HALVES[1].validation)
    origin = origin_of(folder)
    assert (origin.facts["folds"], origin.trained, origin.validated) == ("1", CASES[2:], CASES[:2])
    assert origin.facts["epochs done"] == "2"


def test_what_a_fold_was_trained_with_counts_not_what_the_plan_says_now(make_run: MakeRun) -> None:
    run = make_run("one", folds=(0, 1))
    configuration = run.read(Plan, run.plan_file).configurations[0]
    run.write(dataclasses.replace(configuration, batch_size=1), run.fold("tiny", 1).configuration)
    assert facts_of_run(run).facts["batch size"] == "2 / 1"
    assert facts_of_run(run, Makers(configurations=("tiny",), folds=(1,))).facts["batch size"] == "1"


def test_all_data_has_seen_every_case(make_run: MakeRun) -> None:
    run = make_run("one", folds=("all-data",))
    origin = origin_of(run.predictions)
    assert (origin.trained, origin.facts["validated on"]) == (CASES, "none")


def test_a_folder_elsewhere_names_its_model(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("one")
    folder = _predict(tmp_path / "elsewhere", ("case_c", "case_x"), {"model": str(run.root)})
    origin = origin_of(folder)
    assert origin.run == str(run.root)
    assert origin.facts["epochs"] == "5"
    assert origin.seen == ()
    assert origin_of(folder / "case_c.nii.gz") == origin


def test_facts_that_were_kept_hold_when_the_run_has_changed_or_gone(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("one")
    kept = {**facts_of_run(run).facts, "epochs": "3"}
    folder = _predict(tmp_path / "elsewhere", CASES, {"model": str(run.root), "networks": "tiny", "facts": kept})
    changed = origin_of(folder)
    assert changed.facts["epochs"] == "3"
    assert changed.notes == ("the run has changed since it made them (epochs); told is how it was",)
    shutil.rmtree(run.root)
    gone = origin_of(folder)
    assert gone.facts == kept
    assert "where no run is now" in gone.how


def test_an_older_record_says_the_little_it_knows(tmp_path: Path) -> None:
    record = {"model": "/gone", "digest": "x", "networks": "3d_fullres, 5 networks", "labels": {"background": 0}}
    origin = origin_of(_predict(tmp_path / "old", CASES, record))
    assert origin.facts == {"configurations": "3d_fullres, 5 networks", "labels": "background = 0"}


def test_without_a_run_it_is_said_and_nothing_invented(make_run: MakeRun, tmp_path: Path) -> None:
    found = differences(make_run("one").predictions, _predict(tmp_path / "foreign", CASES))
    assert found.second.facts == {}
    assert f"B: no run found: {tmp_path / 'foreign'} lies in no run folder" in found.text()
    assert "What differs between the two runs cannot be told." in found.text()
    assert origin_of(tmp_path / "absent").facts == {}


@pytest.mark.parametrize("content", ["{", "[1]", "\x00", '{"model": 5, "facts": [1], "labels": 3}'])
def test_a_broken_record_is_noted(tmp_path: Path, content: str) -> None:
    folder = _predict(tmp_path / "broken", CASES)
    (folder / "predictions.json").write_text(content)
    origin = origin_of(folder)
    assert origin.facts == {}
    assert origin.notes or "where no run is now" in origin.how


@pytest.mark.parametrize("name", ["plan.json", "run.json", "splits.json", "choice.json"])
def test_a_broken_run_tells_what_is_left(make_run: MakeRun, name: str) -> None:
    run = make_run("one")
    (run.root / name).write_text("{")
    origin = origin_of(run.predictions)
    assert any(name in note for note in origin.notes)
    assert name in differences(run.predictions, run.predictions).text()
    assert name == "plan.json" or origin.facts["channels"] == "MRI"


def test_before_anything_is_chosen_the_first_trained_configuration_counts(make_run: MakeRun) -> None:
    run = make_run("one", folds=(0, 1))
    run.choice_file.unlink()
    for fold in (0, 1):
        run.fold("tiny", fold).weights_last.write_bytes(b"")
    facts = facts_of_run(run).facts
    assert (facts["configurations"], facts["folds"]) == ("tiny", "0, 1")


def test_it_is_a_record(make_run: MakeRun) -> None:
    found = differences(make_run("one").predictions, make_run("two", epochs=9).predictions)
    assert records.from_json(RunDifferences, records.to_json(found)) == found
