"""What a choice leaves on the disk: kept, made again where it is missing, damaged or edited, and deleted when done."""

import dataclasses
import itertools
from types import SimpleNamespace

import pytest
from ball_runs import FOLDS, NAMES, make_ball_run, validate

from autoseg.evaluation.metric_records import MetricTable
from autoseg.inference import out_of_fold
from autoseg.inference.comparison import Comparison
from autoseg.inference.out_of_fold import choice_is_current, choose_for_run
from autoseg.run_folder import RunFolder, RunRecord
from autoseg.training import folds
from planners.plan import Plan


@pytest.fixture
def run(make_configuration, tmp_path) -> RunFolder:
    """A run whose folds are validated, from made logits: the label and noise, which differs by configuration."""
    return make_ball_run(make_configuration, tmp_path)


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
