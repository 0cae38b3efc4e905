"""The command line keeps its promises: options, exit codes, one-line messages, help that works, a quick start."""

import argparse
import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

import autoseg
from autoseg import cli
from autoseg.command_line import EXAMPLES, VERB_EXAMPLES
from autoseg.data.demo import make_demo_dataset
from autoseg.run_folder import RunFolder, RunRecord
from planners import records
from planners.plan import Plan

SOURCE = {"dataset", "--images", "--labels", "--test", "--group-by", "--task"}
PLANNING = {"--budget", "--planner", "--like", "--set"}
TRAINING = {"--configurations", "--folds", "--epochs", "--steps-per-epoch", "--seed", "--device", "--precision"}
TRAINING |= {"--deterministic"}
LENGTH = {"--time-budget", "--patience", "--logger"}
START = {"--init", "--freeze"}
FROZEN = {
    "demo": {"--out", *TRAINING},
    "run": {"--out", "--until", "--plan", "--wait", *SOURCE, *PLANNING, *TRAINING, *LENGTH, *START},
    "check": SOURCE,
    "plan": {"--fingerprint", "--out", "--json", "--measure", *SOURCE, *PLANNING},
    "train": {"run", "configuration", "fold", "--wait"},
    "predict": {"model", "images", "output", "--overwrite", "--save-probabilities", "--uncertainty"}
    | {"--device", "--speed", "--max-ram", "--max-vram"},
    "export": {"model", "out", "--format"},
    "evaluate": {"predictions", "labels", "--task", "--protocol", "--metrics", "--against"}
    | {"--margin", "--out", "--json"},
    "report": {"runs", "--out"},
    "challenge": {"step"},
    "doctor": {"run", "--overfit"},
}


def verbs() -> dict[str, argparse.ArgumentParser]:
    parser = cli.build_parser()
    action = next(item for item in parser._actions if isinstance(item, argparse._SubParsersAction))
    return dict(action.choices)


def test_options_are_frozen() -> None:
    found = {}
    for name, parser in verbs().items():
        names = {action.option_strings[-1] if action.option_strings else action.dest for action in parser._actions}
        found[name] = names - {"--help", "--debug"}
    assert found == FROZEN, "an option was added or removed: extend this list on purpose"


@pytest.mark.parametrize("name", FROZEN)
def test_help_examples_parse(name: str) -> None:
    examples = re.findall(r"^  autoseg (.+)$", VERB_EXAMPLES[name], flags=re.MULTILINE)
    assert examples
    for line in examples:
        assert cli.build_parser().parse_args(line.split()).verb == name


def test_general_help_examples_parse() -> None:
    lines = re.findall(r"^  autoseg (\S.*?)(?:\s{2,}.*)?$", EXAMPLES, flags=re.MULTILINE)
    assert len(lines) >= 4
    for line in lines:
        cli.build_parser().parse_args(line.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "no/such/folder"], "no/such/folder"),
        (["check"], "no dataset given"),
        (["run", "x", "--budget", "lots"], "budget 'lots' is no amount of memory"),
        (["run", "x", "--folds", "one"], "folds 'one' are not numbers"),
        (["plan", "--fingerprint", "missing.json"], "missing.json does not exist"),
        (["run", "x", "--time-budget", "soon"], "time budget 'soon' is no time; write it like 6h"),
        (["run", "x", "--plan", "p.json", "--like", "runs/a"], "two plans given"),
        (
            ["run", "x", "--init", "no/model"],
            "--init no/model does not exist. Give a run folder of autoseg, or a model",
        ),
        (["plan", "x", "--like", "no/run"], "--like no/run does not exist. Give a run folder or a plan.json"),
        (["run", "x", "--freeze", "encoder"], "--freeze encoder without --init MODEL"),
        (["plan", "x", "y"], "x"),
        (["report", "no/such/run"], "no/such/run"),
        (["predict", "no/such/run", "images", "out"], "no/such/run"),
        (["evaluate", "no/such/a", "no/such/b"], "no/such"),
    ],
)
def test_user_faults_are_one_message_and_exit_code_2(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert "Traceback" not in printed.err
    assert not list(tmp_path.iterdir()), "a failed start leaves nothing behind"


def test_own_fault_is_exit_code_1(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cli.VERBS, "report", lambda _: 1 / 0)
    assert cli.main(["report", "x"]) == 1
    assert "fault in autoseg: ZeroDivisionError" in capsys.readouterr().err


def test_interruption_is_exit_code_130(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: argparse.Namespace) -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.VERBS, "report", interrupt)
    assert cli.main(["report", "x"]) == 130
    assert "Go on with the same command: autoseg report x" in capsys.readouterr().err


def test_being_told_to_end_is_exit_code_143(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setitem(cli.VERBS, "report", lambda _: signal.raise_signal(signal.SIGTERM))
    assert cli.main(["report", "with space"]) == 143
    assert "told to end. Go on with the same command: autoseg report 'with space'" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == before


def test_what_was_noted_on_a_fault_is_said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: argparse.Namespace) -> None:
        fault = ValueError("a number")
        fault.add_note("while preprocessing, case 7")
        raise fault

    monkeypatch.setitem(cli.VERBS, "report", fail)
    assert cli.main(["report", "x"]) == 1
    assert "ValueError: a number (while preprocessing, case 7)" in capsys.readouterr().err


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cli.VERBS, "report", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.main(["report", "x", "--debug"])


def test_plans_of_one_and_of_several_datasets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, seed in (("a", 1), ("b", 2)):
        make_demo_dataset(tmp_path / name, num_cases=2, seed=seed)
    assert cli.main(["plan", "a", "b", "--out", "common", "--set", "3d_small.inherits=3d_fullres"]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("a + b: default planner for 8.0 GB")
    assert "autoseg run DATASET --plan common/plan.json" in printed.err
    assert cli.main(["plan", "b", "--like", "common", "--json"]) == 0
    carried = records.from_json(Plan, json.loads(capsys.readouterr().out))
    assert [item.name for item in carried.configurations][-1] == "3d_small"
    assert carried.dataset == "b"
    same = autoseg.plan(tmp_path / "b", like=tmp_path / "common")
    assert same.configurations == carried.configurations
    assert autoseg.plan([tmp_path / "a", tmp_path / "b"]).dataset == "a + b"
    assert cli.main(["plan", "b", "--like", "a"]) == 2
    assert "a holds no plan.json" in capsys.readouterr().err


HEAVY = ("torch", "numpy", "SimpleITK", "scipy", "rich", "matplotlib")


def test_help_imports_nothing_heavy() -> None:
    show = f"print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
    code = f"import sys; from autoseg import cli; cli.main([]); {show}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr.strip() == "[]"
    assert "autoseg demo" in done.stdout


def write_map(path: Path, value: int) -> None:
    label = np.zeros((6, 6, 6), np.uint8)
    label[2:4, 2:4, 2:5] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(label), str(path))


@pytest.fixture
def maps(tmp_path: Path) -> Path:
    for folder in ("labels", "first", "second"):
        for case in "abc":
            write_map(tmp_path / folder / f"{case}.nii.gz", 1)
    return tmp_path


def evaluate(maps: Path, *more: str) -> int:
    return cli.main(["evaluate", str(maps / "first"), str(maps / "labels"), *more])


def test_evaluation_leaves_its_files(maps: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = maps / "out"
    assert evaluate(maps, "--against", str(maps / "second"), "--out", str(out)) == 0
    assert {path.name for path in out.iterdir()} == {
        "scores.json",
        "scores.csv",
        "other_scores.json",
        "against.json",
        "run_differences.json",
        "difference.svg",
    }
    said = capsys.readouterr().out
    assert f"picture  {out}/difference.svg" in said
    assert said.count("protocol default, 3 cases") == 2, "of both"
    assert evaluate(maps, "--against", str(maps / "second"), "--json") == 0
    assert set(json.loads(capsys.readouterr().out)) == {"scores", "other_scores", "against", "run_differences"}


def test_faults_of_the_other_predictions_are_named_too(maps: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_map(maps / "second" / "extra.nii.gz", 1)
    (maps / "second" / "b.nii.gz").unlink()
    assert evaluate(maps, "--against", str(maps / "second")) == 2
    out, err = capsys.readouterr()
    assert "no prediction for 1 case (b)" in out
    assert "no label for 1 case (extra)" in out
    assert "2 cases could not be compared" in err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--margin", "0.1"], "--margin is for --against"),
        (["--task", "instance", "--against", "x"], "--against compares maps of classes"),
        (["--out", "labels/a.nii.gz"], "is a file. Name a folder"),
        (["--out", "run"], "holds a run.json: its own scores.json would be replaced"),
        (["--metrics", "dise"], "did you mean 'dice'"),
        (["--protocol", "acdcc"], "did you mean 'acdc'"),
    ],
)
def test_an_evaluation_that_cannot_be_is_refused_first(
    more: list[str], message: str, maps: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (maps / "run").mkdir()
    (maps / "run" / "run.json").write_text("{}")
    monkeypatch.chdir(maps)
    assert evaluate(maps, *more) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert not out
    assert (maps / "run" / "run.json").read_text() == "{}"


def test_a_place_that_cannot_be_written_is_the_users_to_mend(maps: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(maps, "--out", str(maps / "labels" / "a.nii.gz" / "out")) == 2
    err = capsys.readouterr().err
    assert "not a directory" in err
    assert "fault in autoseg" not in err


def test_a_report_may_go_elsewhere(maps: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = RunFolder(maps / "run")
    run.write(RunRecord(name="toy", dataset="/toy", cases=(), started="now"), run.run_file)
    assert cli.main(["report", str(run.root), "--out", str(maps / "page.html")]) == 0
    assert "toy" in (maps / "page.html").read_text()
    assert not run.report_file.exists()
    assert capsys.readouterr().out.strip() == str(maps / "page.html")


def test_challenges_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["challenge", "list"]) == 0
    said = capsys.readouterr().out
    for name in ("acdc", "msd10", "brats2023", "isbi2012"):
        assert re.search(rf"^{name} ", said, flags=re.MULTILINE)
    assert cli.main(["challenge", "prepare", "acdk", "raw", "out"]) == 2
    assert "did you mean 'acdc'" in capsys.readouterr().err
