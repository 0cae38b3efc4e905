"""The run's plan is made, kept, made again or left to the user, each when it should."""

import dataclasses
from pathlib import Path

import pytest

from autoseg import planning
from autoseg.errors import OptionError, RunFolderError
from autoseg.options import RunOptions, parse_bytes, parse_folds
from autoseg.run_folder import RunFolder, RunRecord
from planners import records
from planners.fingerprint import Channel, Fingerprint
from planners.labels import LabelClass, Labels
from planners.plan import Plan

LABELS = Labels(classes=(LabelClass(name="background", value=0), LabelClass(name="tumour", value=255)))
FINGERPRINT = Fingerprint(
    dataset="toy",
    channels=(Channel(name="MRI"),),
    labels=LABELS,
    num_cases=20,
    spacings_mm=((1.0, 1.0, 1.0),),
    shapes=((40, 48, 40),),
)
OPTIONS = RunOptions(budget_bytes=8 * 10**9, device="cpu")


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    folder.write(RunRecord(name="toy", dataset="/toy", cases=(), started="now"), folder.run_file)
    return folder


def test_made_once_and_kept(run: RunFolder) -> None:
    first = planning.decide(run, FINGERPRINT, OPTIONS)
    written = run.plan_file.read_bytes()
    assert planning.decide(run, FINGERPRINT, OPTIONS) == first
    assert run.plan_file.read_bytes() == written


def test_made_again_when_its_sources_change(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    first = planning.decide(run, FINGERPRINT, OPTIONS)
    smaller = dataclasses.replace(OPTIONS, budget_bytes=10**8)
    second = planning.decide(run, FINGERPRINT, smaller)
    assert second.budget.device_bytes == 10**8
    assert second != first
    assert "planned anew" in capsys.readouterr().err


def test_more_epochs_change_the_epochs_alone(run: RunFolder) -> None:
    first = planning.decide(run, FINGERPRINT, dataclasses.replace(OPTIONS, epochs=10))
    second = planning.decide(run, FINGERPRINT, dataclasses.replace(OPTIONS, epochs=20))
    for a, b in zip(first.configurations, second.configurations, strict=True):
        assert a.training.epochs == 10
        assert dataclasses.replace(b, training=dataclasses.replace(b.training, epochs=10)) == a


def test_edited_by_hand_is_kept_and_said(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    plan = planning.decide(run, FINGERPRINT, OPTIONS)
    text = run.plan_file.read_text()
    run.plan_file.write_text(text.replace('"foreground_fraction": 0.33', '"foreground_fraction": 0.5'))
    kept = planning.decide(run, FINGERPRINT, OPTIONS)
    assert {item.training.foreground_fraction for item in kept.configurations} == {0.5}
    assert planning.BY_HAND in kept.reasons
    assert "edited by hand; kept" in capsys.readouterr().err
    again = planning.decide(run, FINGERPRINT, dataclasses.replace(OPTIONS, budget_bytes=10**8))
    assert again.budget == plan.budget, "an edited plan is never replaced"


def test_edited_plan_for_other_labels_is_refused(run: RunFolder) -> None:
    planning.decide(run, FINGERPRINT, OPTIONS)
    run.plan_file.write_text(
        run.plan_file.read_text().replace('"foreground_fraction": 0.33', '"foreground_fraction": 0.5')
    )
    other = Labels(classes=(*LABELS.classes, LabelClass(name="cyst", value=3)))
    with pytest.raises(RunFolderError, match="labels or channels have changed"):
        planning.decide(run, dataclasses.replace(FINGERPRINT, labels=other), OPTIONS)


def test_a_kill_between_the_two_writes_is_no_edit(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    planning.decide(run, FINGERPRINT, OPTIONS)
    write = RunFolder.write

    def killed(self: RunFolder, record: object, path: Path) -> None:
        if path == self.plan_file:
            raise KeyboardInterrupt
        write(self, record, path)

    smaller = dataclasses.replace(OPTIONS, budget_bytes=10**8)
    monkeypatch.setattr(RunFolder, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        planning.decide(run, FINGERPRINT, smaller)
    monkeypatch.undo()
    assert planning.decide(run, FINGERPRINT, smaller).budget.device_bytes == 10**8
    assert "by hand" not in capsys.readouterr().err


def test_a_given_plan_is_taken_where_it_fits(run: RunFolder, tmp_path: Path) -> None:
    plan = planning.make_plan(FINGERPRINT, OPTIONS)
    file = tmp_path / "given.json"
    file.write_text(records.dumps(plan))
    other = dataclasses.replace(FINGERPRINT, dataset="other", shapes=((80, 80, 80),))
    taken = planning.make_plan(other, dataclasses.replace(OPTIONS, plan=file))
    assert taken.configurations == plan.configurations
    assert taken.dataset == "other"
    two = dataclasses.replace(FINGERPRINT, channels=(Channel(name="T1"), Channel(name="T2")))
    with pytest.raises(OptionError, match="for 1 channels, the dataset has 2"):
        planning.make_plan(two, dataclasses.replace(OPTIONS, plan=file))


def test_settings_are_applied_with_reasons() -> None:
    plan = planning.make_plan(FINGERPRINT, dataclasses.replace(OPTIONS, settings=("3d_fullres.batch_size=3",), seed=7))
    assert plan.configuration("3d_fullres").batch_size == 3
    assert plan.configuration("3d_fullres").training.seed == 7
    assert any(reason.rule == "user" and "batch_size" in reason.about for reason in plan.reasons)
    with pytest.raises(OptionError, match="has no value"):
        planning.make_plan(FINGERPRINT, dataclasses.replace(OPTIONS, settings=("3d_fullres.batch_size",)))
    assert isinstance(records.from_json(Plan, records.to_json(plan)), Plan)


@pytest.mark.parametrize(
    ("text", "value"), [("8GB", 8 * 10**9), ("8", 8 * 10**9), ("500MB", 5 * 10**8), ("2GiB", 2**31)]
)
def test_amounts_of_memory(text: str, value: int) -> None:
    assert parse_bytes(text) == value


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "8 apples", "0"])
def test_no_amount_of_memory(text: str) -> None:
    with pytest.raises(OptionError, match="write it like 8GB"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("given", "folds"), [("0,1", (0, 1)), (2, (2,)), ([0, 3], (0, 3)), ("all-data", ("all-data",)), ("1,1", (1,))]
)
def test_folds(given: object, folds: tuple[object, ...]) -> None:
    assert parse_folds(given) == folds
