"""The benchmarks' arithmetic, their pictures and tables; the runs themselves are no tests."""

import importlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "benchmarks"
SCRIPTS = sorted(path for path in FOLDER.glob("*.py") if "ArgumentParser" in path.read_text())
QUICK = {"picture.py", "nnunet_resampling.py", "startup.py"}
"""Scripts that import nothing slow: tested by default. All others with ``-m slow``."""


@pytest.fixture(scope="module")
def bench() -> Iterator[Callable[[str], ModuleType]]:
    """Give a function that imports a module of the benchmarks, as their scripts do it."""
    sys.path.insert(0, str(FOLDER))
    before = set(sys.modules)
    yield importlib.import_module
    sys.path.remove(str(FOLDER))
    for name in set(sys.modules) - before:
        if str(FOLDER) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def make_result(bench: Callable[[str], ModuleType]) -> Callable[..., Any]:
    """Give a function that makes a result with one question."""
    results = bench("results")

    def make(*, script: str = "nnunet_prediction", holds: bool = True, load: float = 0.2, **judged: Any) -> Any:
        rows = {
            "nnunet": [{"wall": wall, "cpu": 2 * wall, "memory": 900.0} for wall in (4.0, 6.0, 5.0)],
            "autoseg": [{"wall": wall, "cpu": wall, "memory": 300.0} for wall in (1.0, 2.0, 1.0)],
        }
        asked = {"title": "predict <it>", "figure": "wall", "against": "nnunet", "must": 2.5, **judged}
        return results.Result(
            script=script,
            date="2026-01-02 03:04",
            commit="abc",
            machine=results.Machine(cpu="a processor", cores=2, memory_gb=24.0, amx=False),
            versions={"torch": "2.0"},
            load=load,
            load_end=0.1,
            questions=(
                results.make_question(
                    "prediction",
                    rows,
                    [results.Judged(**asked), results.Judged(title="x", figure="wall", against="not measured")],
                    [results.Guard(what="voxels agree", found="99.99%", holds=holds)],
                ),
            ),
        )

    return make


# -------------------------------------------------------------------------------------------------------- statistics


@pytest.mark.parametrize("count", [*range(1, 12), 20, 41])
def test_intervals_hold_the_median_as_often_as_they_say(bench: Callable[[str], ModuleType], count: int) -> None:
    turns = bench("turns")
    place, last = turns.interval(np.random.default_rng(count).permutation(count))
    assert place + last == count - 1, "as many left out on either side"
    assert place <= last

    def outside(left_out: int) -> float:
        """Chance that fewer than so many values lie on one side of the true median, and one more."""
        return 2 * sum(math.comb(count, fewer) for fewer in range(left_out + 1)) / 2**count

    assert place == 0 or outside(place) <= 1 - turns.CONFIDENCE
    assert 2 * (place + 1) >= count or outside(place + 1) > 1 - turns.CONFIDENCE, "a narrower one would do"


def test_five_rounds_give_the_range_and_nine_the_second_of_each_side(bench: Callable[[str], ModuleType]) -> None:
    turns = bench("turns")
    assert turns.interval([5, 1, 4, 2, 3]) == (1, 5)
    assert turns.interval(range(9)) == (1, 7)
    assert turns.show([2.0, 1.0, 4.0], 1) == "2.0 [1.0–4.0]"


def test_ways_take_turns_and_the_first_round_does_not_count(bench: Callable[[str], ModuleType]) -> None:
    seen: list[tuple[str, int]] = []

    def way(name: str) -> Callable[[int], dict[str, float]]:
        return lambda turn: (seen.append((name, turn)), {"wall": float(turn)})[1]

    rows = bench("turns").take_turns({"a": way("a"), "b": way("b")}, 2)
    assert seen == [("a", -1), ("b", -1), ("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    assert rows == {"a": [{"wall": 0.0}, {"wall": 1.0}], "b": [{"wall": 0.0}, {"wall": 1.0}]}


def test_ratios_are_of_rounds_of_the_same_turn(bench: Callable[[str], ModuleType]) -> None:
    rows = {"slow": [{"wall": 10.0}, {"wall": 80.0}], "fast": [{"wall": 1.0}, {"wall": 4.0}]}
    assert bench("turns").ratios(rows, "wall", "fast", "slow") == [10.0, 20.0]


# ------------------------------------------------------------------------------------------------- measured processes


def test_a_process_is_measured_with_its_children(bench: Callable[[str], ModuleType], tmp_path: Path) -> None:
    work = "x = bytearray(60_000_000); import time; time.sleep(1)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {work!r}], check=True)"
    row = bench("processes").run_once([sys.executable, "-c", parent], tmp_path / "log")
    assert row["memory"] > 60
    assert row["wall"] > 1
    assert row["cpu"] > 0


def test_a_failed_process_shows_the_end_of_its_log(bench: Callable[[str], ModuleType], tmp_path: Path) -> None:
    processes = bench("processes")
    with pytest.raises(processes.ProcessError, match="it is broken"):
        processes.run_once([sys.executable, "-c", "raise SystemExit('it is broken')"], tmp_path / "log")


def test_a_server_works_on_request_and_its_own_figures_go_before(
    bench: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    code = """
from work_loop import serve

def prepare():
    print("noise")
    return lambda job: {"wall": job * 2.0} if job else None

serve(prepare)
"""
    server = bench("processes").Server([sys.executable, "-c", code], tmp_path / "log", {"PYTHONPATH": str(FOLDER)})
    assert server.ask(21)["wall"] == 42.0
    assert server.ask(0)["wall"] < 42.0
    server.close()
    assert (tmp_path / "log").read_text() == "noise\n"


def test_a_server_that_fails_shows_the_end_of_its_log(bench: Callable[[str], ModuleType], tmp_path: Path) -> None:
    processes = bench("processes")
    code = "import sys; print('ready', flush=True); sys.stdin.readline(); raise SystemExit('no memory')"
    server = processes.Server([sys.executable, "-c", code], tmp_path / "log")
    with pytest.raises(processes.ProcessError, match="no memory"):
        server.ask(1)


# --------------------------------------------------------------------------------------------------- results, pictures


def test_results_are_written_and_read_again(bench: Callable[[str], ModuleType], make_result, tmp_path: Path) -> None:
    results, result = bench("results"), make_result()
    results.write(result, tmp_path)
    assert results.read(tmp_path) == [result]
    assert len(result.questions[0].judged) == 1, "what was not measured is not judged"


@pytest.mark.parametrize(("asked", "answer"), [({"must": 4.0}, True), ({"must": 4.1}, False), ({"must": None}, None)])
def test_what_is_asked_is_judged_by_medians(bench: Callable[[str], ModuleType], make_result, asked, answer) -> None:
    question = make_result(**asked).questions[0]
    assert bench("results").ratio(question.judged[0], question) == [4.0, 3.0, 5.0]
    assert bench("results").reached(question.judged[0], question) is answer


def test_what_ours_may_take_at_most_is_judged_too(bench: Callable[[str], ModuleType], make_result) -> None:
    for most, answer in ((1.0, True), (0.9, False)):
        question = make_result(must=None, most=most).questions[0]
        assert bench("results").reached(question.judged[0], question) is answer


def test_a_busy_machine_is_named_and_a_broken_guard_fails(
    bench: Callable[[str], ModuleType], make_result, tmp_path: Path, monkeypatch, capsys
) -> None:
    results = bench("results")
    monkeypatch.setattr(os, "getloadavg", lambda: (64.0, 0.0, 0.0))
    options = type("Options", (), {"results": tmp_path, "venv": tmp_path})
    with pytest.raises(SystemExit, match="guard"):
        results.run("made", options, lambda: make_result(holds=False).questions)
    captured = capsys.readouterr()
    assert "WARNING: load average 64.0" in captured.err
    assert "DOES NOT HOLD" in captured.out
    assert results.read(tmp_path)[0].load == 64.0


def test_what_was_answered_is_kept_where_a_process_fails(
    bench: Callable[[str], ModuleType], make_result, tmp_path: Path
) -> None:
    results, options = bench("results"), type("Options", (), {"results": tmp_path, "venv": tmp_path})

    def ask() -> Iterator[Any]:
        yield from make_result().questions
        raise bench("processes").ProcessError("nnunet has failed: no memory")

    with pytest.raises(SystemExit, match="no memory"):
        results.run("made", options, ask)
    assert results.read(tmp_path)[0].questions == make_result().questions


def test_the_picture_shows_ratios_in_their_places(bench: Callable[[str], ModuleType], make_result) -> None:
    picture = bench("picture")
    lines = [make_result(), make_result(script="startup", title="slower", against="autoseg", ours="nnunet")]
    root = ElementTree.fromstring(picture.draw(lines))
    bars = [item for item in root if item.tag.endswith("rect")]
    texts = ["".join(item.itertext()) for item in root if item.tag.endswith("text")]
    assert "predict <it>" in texts
    assert {"4.0×", "0.2×"} <= set(texts)
    equal = next(item for item in root if item.get("class") == "one").get("d")
    middle = float(equal[1:].partition(" ")[0])
    faster, slower = ((float(bar.get("x")), float(bar.get("width"))) for bar in bars)
    assert faster[0] == pytest.approx(middle, abs=0.1)
    assert sum(slower) == pytest.approx(middle, abs=0.1)
    assert slower[1] == pytest.approx(faster[1], abs=0.2), "a quarter is as far from 1 as four times"


def test_the_picture_says_what_does_not_count(bench: Callable[[str], ModuleType], make_result) -> None:
    picture = bench("picture")
    assert 'class="void"' not in picture.draw([make_result()])
    doubtful = picture.draw([make_result(holds=False, load=9.0)])
    assert 'class="void"' in doubtful
    assert "Measured beside other work: up to 4.5" in doubtful
    assert picture.draw([]) == ""


def test_tables_replace_what_was_between_the_marks(bench: Callable[[str], ModuleType], make_result) -> None:
    picture = bench("picture")
    once = picture.renew(f"before {picture.START} stale {picture.END} after", [make_result()])
    assert once.startswith("before ")
    assert once.endswith(" after")
    assert "stale" not in once
    row = "| predict <it> | time | nnU-Net | 5.00 s | 1.00 s | 4.00 [3.00–5.00] | 2.5× | reached |"
    assert row in once.splitlines()
    assert picture.renew(once, [make_result()]) == once
    assert "**missed**" in picture.renew(once, [make_result(must=9.0)])


def test_the_readme_shows_what_the_results_give(bench: Callable[[str], ModuleType]) -> None:
    """Where this fails, run ``python benchmarks/picture.py`` and look at what it changed."""
    picture = bench("picture")
    found = bench("results").read(FOLDER / "results")
    assert picture.PICTURE.read_text() == picture.draw(found)
    assert picture.DOCUMENT.read_text() == picture.renew(picture.DOCUMENT.read_text(), found)
    assert "docs/pictures/speed.svg" in (ROOT / "README.md").read_text()


# -------------------------------------------------------------------------------------------------------- made inputs


def test_made_logits_have_a_clear_winner_nearly_everywhere(bench: Callable[[str], ModuleType]) -> None:
    logits = bench("made_arrays").make_logits(7, (12, 13, 14)).astype(np.float32)
    first, second = np.sort(logits, axis=0)[[-1, -2]]
    assert logits.shape == (7, 12, 13, 14)
    assert (second <= 0.01).all()
    assert (first >= -0.01).all()
    assert (first - second > 0.01).mean() > 0.98
    assert len(np.unique(logits.argmax(0))) == 7


@pytest.mark.slow
def test_cases_are_such_that_the_model_has_not_seen(bench: Callable[[str], ModuleType], tmp_path: Path) -> None:
    ways = bench("prediction_ways")
    model = tmp_path / "model"
    (model / "fold_0").mkdir(parents=True)
    (model / "dataset.json").write_text(json.dumps({"file_ending": ".nii.gz"}))
    for place, names in {
        "images": [f"c{index:02}_0000" for index in range(23)],
        "labels": [f"c{i:02}" for i in range(20)],
    }.items():
        (tmp_path / place).mkdir()
        for name in names:
            (tmp_path / place / f"{name}.nii.gz").write_bytes(b"")
    held = set(ways.make_splits(f"c{index:02}" for index in range(20)).folds[0].validation)
    cases = ways.choose_cases(model, [tmp_path / "images"], tmp_path / "labels", 6)
    assert cases[:3] == ["c20", "c21", "c22"]
    assert len(cases) == 6
    assert set(cases[3:]) <= held


# ------------------------------------------------------------------------------------------------------------ scripts


@pytest.mark.parametrize(
    "script",
    [pytest.param(path, marks=() if path.name in QUICK else pytest.mark.slow, id=path.name) for path in SCRIPTS],
)
def test_scripts_explain_themselves(script: Path) -> None:
    done = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout
    assert script.name in done.stdout


def test_make_names_scripts_that_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    named = {
        word.rpartition("/")[2] for word in makefile.split() if word.startswith("benchmarks/") and word.endswith(".py")
    }
    listed = next(line for line in makefile.splitlines() if line.startswith("BENCHMARKS")).partition("=")[2].split()
    named = {name for name in named if "$" not in name} | {f"{name}.py" for name in listed}
    assert {name for name in named if not (FOLDER / name).exists()} == set()
