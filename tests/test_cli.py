"""The command line keeps its promises: options, exit codes, one-line messages, help that works, a quick start."""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import autoseg
from autoseg import cli
from autoseg.command_line import EXAMPLES, VERB_EXAMPLES
from autoseg.data.demo import make_demo_dataset
from planners import records
from planners.plan import Plan

SOURCE = {"dataset", "--images", "--labels", "--test", "--group-by"}
PLANNING = {"--budget", "--planner", "--like", "--set"}
TRAINING = {"--configurations", "--folds", "--epochs", "--steps-per-epoch", "--seed", "--device", "--precision"}
LENGTH = {"--time-budget", "--patience", "--logger"}
START = {"--init", "--freeze"}
FROZEN = {
    "demo": {"--out", *TRAINING},
    "run": {"--out", "--until", "--plan", *SOURCE, *PLANNING, *TRAINING, *LENGTH, *START},
    "check": SOURCE,
    "plan": {"--fingerprint", "--out", "--json", "--measure", *SOURCE, *PLANNING},
    "train": {"run", "configuration", "fold"},
    "predict": {"model", "images", "output", "--overwrite", "--save-probabilities", "--uncertainty", "--device"},
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
