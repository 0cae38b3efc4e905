"""``log.jsonl``: whole lines from several processes, what is said, how a start ended and what its first cause was."""

import json
import math
import os
import subprocess
import sys
import warnings
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from autoseg import cli, log
from autoseg.errors import RunFolderError
from autoseg.progress import say, warn
from autoseg.run_folder import RunFolder


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Give the rows; an empty line between those of two processes is nothing, a torn one fails."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def test_what_is_said_lands_in_it_with_its_kind_and_stage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "lauf Ü" / "log.jsonl"
    say("before")
    with log.session(path, "run", versions={"autoseg": "1"}):
        log.enter_stage("train")
        say("  ein Wort 数据")
        say()
        warn("  beware")
    warn("after")
    rows = rows_of(path)
    assert [(row["kind"], row["stage"], row["text"]) for row in rows] == [
        ("start", "", "run"),
        ("note", "train", "ein Wort 数据"),
        ("warning", "train", "beware"),
        ("end", "train", "done"),
    ]
    assert rows[0]["versions"] == {"autoseg": "1"}
    assert rows[0]["pid"] == os.getpid()
    assert all(row["time"][-6] in "+-" or row["time"].endswith("Z") for row in rows)  # with its zone
    assert capsys.readouterr().err == "before\n  ein Wort 数据\n\n  beware\nafter\n"


def fail_far_down() -> None:
    raise ValueError("the first cause")


def fail() -> None:
    try:
        fail_far_down()
    except ValueError as fault:
        raise RunFolderError("what the user reads") from fault


def test_an_error_keeps_its_first_cause_and_its_traceback(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with pytest.raises(RunFolderError) as caught, log.session(path, "run"):
        fail()
    row = rows_of(path)[-1]
    assert (row["kind"], row["error"], row["text"]) == (
        "error",
        "RunFolderError",
        "RunFolderError: what the user reads",
    )
    assert row["cause"]["type"] == "ValueError"
    assert row["cause"]["text"] == "the first cause"
    assert row["cause"]["place"].endswith("in fail_far_down")
    assert "fail_far_down()" in row["traceback"]
    assert log.place_of(caught.value) == path


def test_a_fault_in_a_worker_process_keeps_its_type(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with (
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool,
        pytest.raises(ValueError, match="invalid literal"),
        log.session(path, "run"),
    ):
        pool.submit(int, "no number").result()
    row = rows_of(path)[-1]
    assert row["cause"]["type"] == "ValueError"
    assert "invalid literal" in row["traceback"]


def test_what_libraries_warn_of_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    before = warnings.showwarning
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        with log.session(path, "run"):
            warnings.warn("something old", UserWarning, stacklevel=1)
            warnings.warn("x has no deterministic implementation", UserWarning, stacklevel=1)
    assert warnings.showwarning is before
    assert [(row["kind"], row["text"]) for row in rows_of(path)[1:-1]] == [
        ("note", "UserWarning: something old"),
        ("warning", "UserWarning: x has no deterministic implementation"),
    ]


@pytest.mark.parametrize(
    ("fault", "text"), [(KeyboardInterrupt(), "interrupted"), (SystemExit(3), "stopped: SystemExit 3")]
)
def test_a_stop_is_no_error(tmp_path: Path, fault: BaseException, text: str) -> None:
    path = tmp_path / "log.jsonl"
    with pytest.raises(type(fault)), log.session(path, "run"):
        raise fault
    assert [(row["kind"], row["text"]) for row in rows_of(path)] == [("start", "run"), ("end", text)]


def test_a_torn_line_costs_itself_alone(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    log.append(path, "note", "first")
    with path.open("ab") as file:
        file.write(
            b'{"time": "2026-11-21T22:54:45',
        )
    log.append(path, "note", "second")
    assert [row["text"] for row in log.read_rows(path)] == ["first", "second"]
    path.write_bytes(path.read_bytes()[:-5])
    assert [row["text"] for row in log.read_rows(path)] == ["first"]


APPEND = """
import sys
from pathlib import Path
from autoseg import log
for number in range(200):
    log.append(Path(sys.argv[1]), "note", f"{sys.argv[2]} {number} " + "x" * 300)
"""


def test_lines_of_several_processes_stay_whole(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    started = [subprocess.Popen([sys.executable, "-c", APPEND, str(path), name]) for name in "abc"]
    assert [process.wait(60) for process in started] == [0, 0, 0]
    found = [row["text"].split()[:2] for row in rows_of(path)]
    for name in "abc":
        assert [number for who, number in found if who == name] == [str(number) for number in range(200)]


def test_it_stays_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "LIMIT_BYTES", 2000)
    path = tmp_path / "log.jsonl"
    for number in range(101):
        log.append(path, "note", f"line {number:03}")
    assert sorted(item.name for item in tmp_path.iterdir()) == ["log.1.jsonl", "log.jsonl"]
    assert sum(item.stat().st_size for item in tmp_path.iterdir()) < 2 * 2000 + 200
    texts = [row["text"] for row in log.read_log(path)]
    assert texts == [f"line {number:03}" for number in range(101 - len(texts), 101)]  # the newest, in order
    log.append(path, "note", "long " * 10**5)
    assert max(len(row["text"]) for row in log.read_log(path)) < log.LONGEST + 100


def test_nothing_that_cannot_be_written_stops_a_run(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with log.session(tmp_path / "file" / "log.jsonl", "run"):
        say("heard by nobody")
    path = tmp_path / "log.jsonl"
    log.append(path, "note", "odd \udc80", path=Path("a"), loss=math.nan, rows=[math.inf])
    (row,) = log.read_rows(path)
    assert (row["path"], row["loss"], row["rows"]) == ("a", "nan", ["inf"])


def test_rows_of_older_versions_get_a_kind_and_a_text(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    old = [
        {"event": "stage", "name": "check", "seconds": 1.5},
        {"event": "warning", "case": "c1", "kind": "rare-class", "found": "few", "fix": "look", "stops": False},
        {"event": "first-loss", "because": "", "loss": 1.0},
        {"event": "first-loss", "because": "far off"},
        {"event": "decision", "about": "patch", "rule": "r", "because": "it fits"},
    ]
    run.log_file.write_text("".join(json.dumps(row) + "\n" for row in old))
    run.log("collapse", fold="2d fold 0", because="background alone")
    assert [(row["kind"], row["text"]) for row in log.read_log(run.log_file)] == [
        ("stage", "check: 1.5 s"),
        ("warning", "case c1: few. look"),
        ("note", "first-loss"),
        ("warning", "far off"),
        ("decision", "patch: it fits"),
        ("warning", "background alone"),
    ]


def test_a_fault_of_the_program_names_its_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setitem(sys.modules, "autoseg.inference.predictor", SimpleNamespace(predict_folder=broken))
    out = tmp_path / "results"
    assert cli.main(["predict", "model", "images", str(out)]) == 1
    said = capsys.readouterr().err
    assert "fault in autoseg: ZeroDivisionError: division by zero" in said
    assert f"The traceback is in {out / 'log.jsonl'}" in said
    assert "Traceback" not in said
    start, error = rows_of(out / "log.jsonl")
    assert set(start) >= {"command", "versions", "hardware", "folder"}
    assert "in broken" in error["cause"]["place"]
    monkeypatch.setattr("autoseg.report.write_report", broken)
    run = RunFolder(tmp_path / "run")
    run.root.mkdir()
    run.run_file.write_text("{}")
    assert cli.main(["report", str(run.root)]) == 1
    assert "Run it again with --debug" in capsys.readouterr().err
    assert not run.log_file.exists()
    with pytest.raises(ZeroDivisionError):
        cli.main(["predict", "model", "images", str(out), "--debug"])


def test_a_line_of_which_a_part_fits_is_left_out_whole(tmp_path: Path) -> None:
    code = f"""
import resource
from pathlib import Path
from autoseg import log
path = Path({str(tmp_path / "log.jsonl")!r})
log.append(path, "note", "fits")
resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 20, resource.RLIM_INFINITY))
log.append(path, "note", "does not")
"""
    pytest.importorskip("resource")
    subprocess.run([sys.executable, "-c", code], check=True)
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["text"] for line in lines] == ["fits"]
