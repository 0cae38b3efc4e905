"""The run's plan is made, kept, made again or left to the user, each when it should."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from autoseg import planning
from autoseg.errors import OptionError, RunFolderError
from autoseg.options import RunOptions, options_from, parse_bytes, parse_duration, parse_folds
from autoseg.run_folder import RunFolder, RunRecord
from planners import records
from planners.fingerprint import Channel, Fingerprint
from planners.labels import LabelClass, Labels
from planners.plan import Plan, Reason
from planners.records import PlanError

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


def test_what_no_planner_looks_at_leaves_the_plan(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    """A run from before its images' percentiles were measured keeps its plan."""
    first = planning.decide(run, FINGERPRINT, OPTIONS)
    measured = dataclasses.replace(FINGERPRINT, image_percentiles=(((1.0, 2.0, 3.0, 4.0, 5.0),),))
    assert planning.decide(run, measured, OPTIONS) == first
    assert "planned anew" not in capsys.readouterr().err


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
    cyst = Labels(classes=(*LABELS.classes, LabelClass(name="cyst", value=3)))
    more = planning.make_plan(dataclasses.replace(FINGERPRINT, labels=cyst), dataclasses.replace(OPTIONS, plan=file))
    assert more.configuration("3d_fullres").architecture == plan.configuration("3d_fullres").architecture
    assert more.configuration("3d_fullres").target.num_outputs == 3
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
    with pytest.raises(
        OptionError, match=r"2d.normalization: no normalization is named 'zscor'; did you mean 'zscore'"
    ):
        planning.make_plan(FINGERPRINT, dataclasses.replace(OPTIONS, settings=('2d.normalization=["zscor"]',)))


def other_run(tmp_path: Path, **changes: Any) -> Path:
    """A folder with the plan of another dataset, of small batches."""
    other = dataclasses.replace(FINGERPRINT, dataset="other", **changes)
    folder = RunFolder(tmp_path / "other")
    plan = planning.make_plan(other, dataclasses.replace(OPTIONS, settings=("*.batch_size=3", "*.training.epochs=7")))
    folder.write(plan, folder.plan_file)
    return folder.root


def test_a_plan_is_carried_and_the_user_wins(run: RunFolder, tmp_path: Path) -> None:
    like = other_run(tmp_path, spacings_mm=((2.0, 2.0, 2.0),))
    options = dataclasses.replace(OPTIONS, like=like, settings=("2d.batch_size=5",), epochs=9)
    plan = planning.decide(run, FINGERPRINT, options)
    assert (plan.dataset, plan.labels) == ("toy", LABELS)
    assert [item.batch_size for item in plan.configurations] == [3, 5]
    assert {item.spacing_mm[0] for item in plan.configurations} == {2.0}
    assert {item.training.epochs for item in plan.configurations} == {9}
    written = run.plan_file.read_bytes()
    assert planning.decide(run, FINGERPRINT, options) == plan
    assert run.plan_file.read_bytes() == written
    by_file = dataclasses.replace(options, like=like / "plan.json")
    assert planning.make_plan(FINGERPRINT, by_file) == planning.make_plan(FINGERPRINT, options)


def test_a_changed_source_is_carried_anew(run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = dataclasses.replace(OPTIONS, like=other_run(tmp_path))
    planning.decide(run, FINGERPRINT, options)
    other_run(tmp_path, spacings_mm=((2.0, 2.0, 2.0),))
    assert planning.decide(run, FINGERPRINT, options).configurations[0].spacing_mm == (2.0, 2.0, 2.0)
    assert "planned anew" in capsys.readouterr().err
    assert planning.decide(run, FINGERPRINT, OPTIONS).configurations[0].spacing_mm == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(("place", "message"), [("no", "does not exist"), ("", "holds no plan.json")])
def test_nothing_to_carry(tmp_path: Path, place: str, message: str) -> None:
    with pytest.raises(RunFolderError, match=message):
        planning.make_plan(FINGERPRINT, dataclasses.replace(OPTIONS, like=tmp_path / place))


def test_a_model_brings_its_plan_and_a_gentle_start(run: RunFolder, tmp_path: Path) -> None:
    model = planning.Model(plan=planning.read_plan_of(other_run(tmp_path)), name="runs/other", identity="1")
    options = dataclasses.replace(OPTIONS, init=tmp_path, freeze=("encoder", "heads"), epochs=100)
    plan = planning.decide(run, FINGERPRINT, options, model)
    for item in plan.configurations:
        assert item.batch_size == 3
        training = item.training
        assert (training.learning_rate, training.warm_up, training.epochs) == (0.001, 5, 100)
        assert training.frozen == ("encoder", "heads")
    assert planning.decide(run, FINGERPRINT, options, model) == plan
    faster = dataclasses.replace(options, settings=("*.training.learning_rate=0.005",))
    assert planning.make_plan(FINGERPRINT, faster, model).configurations[0].training.learning_rate == 0.005
    with pytest.raises(OptionError, match="weights to start from are for `autoseg run`"):
        planning.make_plan(FINGERPRINT, options)


def test_what_the_program_writes_is_no_edit_by_hand(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    plan = planning.decide(run, FINGERPRINT, OPTIONS)
    item = plan.configuration("2d")
    shorter = dataclasses.replace(item, training=dataclasses.replace(item.training, epochs=3))
    changed = dataclasses.replace(plan, configurations=(plan.configuration("3d_fullres"), shorter))
    reason = Reason(about="2d.training.epochs", rule="time-budget", because="too long")
    written = planning.write_by_program(run, changed, reason)
    assert run.read(Plan, run.plan_file) == written
    again = planning.write_by_program(run, written, dataclasses.replace(reason, because="still too long"))
    assert [item.because for item in again.reasons if item.rule == "time-budget"] == ["still too long"]
    assert planning.decide(run, FINGERPRINT, OPTIONS) == again
    assert "by hand" not in capsys.readouterr().err
    fresh = planning.decide(run, FINGERPRINT, dataclasses.replace(OPTIONS, budget_bytes=10**9))
    assert reason.rule not in {item.rule for item in fresh.reasons}, "planned anew: it was for another plan"


def test_a_program_may_change_a_plan_edited_by_hand(run: RunFolder) -> None:
    planning.decide(run, FINGERPRINT, OPTIONS)
    text = run.plan_file.read_text()
    run.plan_file.write_text(text.replace('"foreground_fraction": 0.33', '"foreground_fraction": 0.5'))
    plan = planning.decide(run, FINGERPRINT, OPTIONS)
    planning.write_by_program(run, plan, Reason(about="2d.batch_size", rule="out-of-memory", because="x"))
    again = planning.decide(run, FINGERPRINT, dataclasses.replace(OPTIONS, budget_bytes=10**8))
    assert planning.BY_HAND in again.reasons
    assert again.configurations[0].training.foreground_fraction == 0.5


def test_a_hand_may_add_a_configuration_that_inherits(run: RunFolder) -> None:
    planning.decide(run, FINGERPRINT, OPTIONS)
    for name in ("3d_large", "3d_larger"):
        value = json.loads(run.plan_file.read_text())
        value["configurations"].append({"name": name, "inherits": "3d_fullres", "batch_size": 11})
        run.plan_file.write_text(json.dumps(value))
        plan = planning.decide(run, FINGERPRINT, OPTIONS)
        assert plan.configuration(name).batch_size == 11
        assert run.plan_file.read_text() == records.dumps(plan), "what is written is whole"
    broken = run.plan_file.read_text().replace('"batch_size": 11', '"batch_size": 0', 1)
    run.plan_file.write_text(broken)
    with pytest.raises(
        RunFolderError, match=r"plan.json: \$.configurations\[2\]: 3d_large.batch_size is 0; must be at"
    ):
        planning.decide(run, FINGERPRINT, OPTIONS)


def test_bytes_follow_an_edit_by_hand(run: RunFolder) -> None:
    plan = planning.decide(run, FINGERPRINT, OPTIONS)
    batch = plan.configuration("3d_fullres").batch_size
    text = run.plan_file.read_text()
    run.plan_file.write_text(text.replace(f'"batch_size": {batch},', f'"batch_size": {2 * batch},', 1))
    edited = planning.decide(run, FINGERPRINT, OPTIONS).configuration("3d_fullres")
    assert edited.estimated_bytes > plan.configuration("3d_fullres").estimated_bytes


def test_one_plan_for_several_datasets(tmp_path: Path, run: RunFolder) -> None:
    liver = Labels(classes=(LABELS.classes[0], LabelClass(name="liver", value=255)))
    other = dataclasses.replace(FINGERPRINT, dataset="other", labels=liver, shapes=((90, 90, 90),))
    out = tmp_path / "common"
    plan = planning.plan_together([FINGERPRINT, other], dataclasses.replace(OPTIONS, out=out))
    assert plan.labels.names == ("background", "tumour", "liver")
    assert RunFolder(out).read(Plan, out / "plan.json") == plan
    own = planning.decide(run, other, dataclasses.replace(OPTIONS, plan=out / "plan.json"))
    assert own.labels == liver
    for item in own.configurations:
        assert item.architecture == plan.configuration(item.name).architecture
        assert item.target.num_outputs == 2
    with pytest.raises(RunFolderError, match="is the folder of a run"):
        planning.plan_together([FINGERPRINT, other], dataclasses.replace(OPTIONS, out=run.root))


def test_first_stages_are_trained_before_in_all_folds() -> None:
    plan = planning.make_plan(FINGERPRINT, dataclasses.replace(OPTIONS, settings=(
        "low.inherits=3d_fullres", "high.inherits=3d_fullres", "high.previous=low",
    )))  # fmt: skip
    order = planning.training_order
    assert order(plan, ("2d", "3d_fullres"), (1,), 3) == (("2d", 1), ("3d_fullres", 1))
    every = tuple(("low", fold) for fold in range(3))
    assert order(plan, ("high",), (1,), 3) == (*every, ("high", 1))
    assert order(plan, ("high", "2d", "low"), (1,), 3) == (*every, ("high", 1), ("2d", 1))
    with_all = (("low", "all-data"), ("high", "all-data"))
    assert order(plan, ("low", "high"), ("all-data",), 3) == (*every, *with_all)
    with pytest.raises(PlanError, match="no configuration 'x'"):
        order(plan, ("x",), (0,), 3)


def test_waves_may_be_trained_side_by_side() -> None:
    settings = ("low.inherits=3d_fullres", "mid.inherits=3d_fullres", "mid.previous=low")
    settings += ("high.inherits=3d_fullres", "high.previous=mid")
    plan = planning.make_plan(FINGERPRINT, dataclasses.replace(OPTIONS, settings=settings))
    pairs = planning.training_order(plan, ("2d", "high"), (0,), 2)
    assert planning.training_waves(plan, pairs) == (
        (("2d", 0), ("low", 0), ("low", 1)),
        (("mid", 0), ("mid", 1)),
        (("high", 0),),
    )
    assert planning.training_waves(plan, (("2d", 0), ("3d_fullres", 0))) == ((("2d", 0), ("3d_fullres", 0)),)
    assert planning.training_waves(plan, ()) == ()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("6h", 21600), ("90m", 5400), ("600s", 600), ("1d12h", 129600), ("1.5h", 5400), (" 1H 30M ", 5400), (600, 600)],
)
def test_times(text: str | int, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "6", "h", "-1h", "6x", "0s", "1h1h", "30m1h", 0, "6 hours"])
def test_no_times(text: str | int) -> None:
    with pytest.raises(OptionError, match="is no time; write it like 6h, 90m, 600s or 1d12h"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"plan": "p.json", "like": "runs/a"}, r"two plans given: --plan p.json \(used as it is\) and --like runs/a"),
        (
            {"like": "runs/a", "planner": "resenc-m"},
            "--planner resenc-m and --like both decide the plan. Leave one out",
        ),
        ({"init": "runs/a", "planner": "resenc-m"}, "write the plan first and give --plan with --init"),
        ({"freeze": "encoder"}, "--freeze encoder without --init MODEL would keep random weights"),
    ],
)
def test_options_that_contradict_each_other(given: dict[str, str], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        options_from("data", given)


def test_options_of_all_kinds_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("m", "p.json"):
        (tmp_path / name).touch()
    given = {"init": "m", "freeze": "encoder, heads", "time_budget": "2h", "patience": 30, "plan": "p.json"}
    _, options = options_from("data", given)
    assert (options.init, options.plan, options.freeze) == (Path("m"), Path("p.json"), ("encoder", "heads"))
    assert (options.time_budget_s, options.patience) == (7200, 30)
    _, options = options_from("data", {"freeze": ["encoder"], "init": "m", "configurations": ("2d",)})
    assert (options.freeze, options.configurations) == (("encoder",), ("2d",))


def test_patience_is_a_field_of_the_plan() -> None:
    plan = planning.make_plan(FINGERPRINT, dataclasses.replace(OPTIONS, patience=30))
    assert {item.training.patience for item in plan.configurations} == {30}


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
