"""What a benchmark has found: one small file per script, and the options that all of them share. Not a script.

The rounds themselves are kept, so that tables and the picture can be made again. ``picture.py`` reads the folder.
"""

import argparse
import datetime
import importlib.metadata
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_worker import VENV, set_up
from processes import ProcessError
from turns import Row, ratios, show, table

from planners import records

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "benchmarks" / "results"
DIGITS = 6  # significant ones that are kept of what was measured
BUSY = 0.5  # load per core from which times are doubtful
PACKAGES = ("torch", "numpy", "scipy")


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One ratio that counts: what ``against`` took, divided by what ``ours`` took, round by round.

    Attributes:
        title: a few words, as they stand beside the bar.
        figure: wall, cpu or memory.
        against, ours: the ways.
        must, aim: what the ratio should reach; None: nothing is asked.
        most: what ours itself may take at most; None: no such limit.
    """

    title: str
    figure: str
    against: str
    ours: str = "autoseg"
    must: float | None = None
    aim: float | None = None
    most: float | None = None


@dataclass(frozen=True, kw_only=True)
class Guard:
    """Something without which the figures do not count: what, what was found, and whether that holds."""

    what: str
    found: str
    holds: bool


@dataclass(frozen=True, kw_only=True)
class Question:
    """One comparison.

    Attributes:
        title: what was done, and what a figure is of (per case, in all).
        rows: per way, in turn: wall and processor seconds, peak MB.
        judged: the ratios that count.
        guards: without them nothing counts.
        note: what else must be said.
    """

    title: str
    rows: dict[str, tuple[dict[str, float], ...]]
    judged: tuple[Judged, ...]
    guards: tuple[Guard, ...] = ()
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where it ran."""

    cpu: str
    cores: int
    memory_gb: float
    amx: bool


@dataclass(frozen=True, kw_only=True)
class Result:
    """One file: what a script found, when, where and of what.

    Attributes:
        script: its name.
        date: of the start, UTC.
        commit: of autoseg; with a plus where the packages differ from it.
        machine: where it ran.
        versions: of Python and packages.
        load, load_end: load average of the last minute, at the start and at the end.
        questions: what was compared.
    """

    script: str
    date: str
    commit: str
    machine: Machine
    versions: dict[str, str]
    load: float
    load_end: float
    questions: tuple[Question, ...]


def make_question(
    title: str,
    rows: Mapping[str, Sequence[Row]],
    judged: Iterable[Judged],
    guards: Iterable[Guard] = (),
    note: str = "",
) -> Question:
    """Make a question of measured rows; ratios of ways that were not measured are left out."""
    kept = {
        way: tuple({name: float(f"{value:.{DIGITS}g}") for name, value in row.items()} for row in found)
        for way, found in rows.items()
    }
    asked = tuple(item for item in judged if item.ours in rows and item.against in rows)
    return Question(title=title, rows=kept, judged=asked, guards=tuple(guards), note=note)


def ratio(judged: Judged, question: Question) -> list[float]:
    """Give the ratios that a judgement is about, round by round."""
    return ratios(question.rows, judged.figure, judged.ours, judged.against)


def reached(judged: Judged, question: Question) -> bool | None:
    """Say whether the medians are what was asked; None where nothing was."""
    found = []
    if judged.must is not None:
        found.append(statistics.median(ratio(judged, question)) >= judged.must)
    if judged.most is not None:
        found.append(statistics.median(row[judged.figure] for row in question.rows[judged.ours]) <= judged.most)
    return all(found) if found else None


def verdict(judged: Judged, question: Question) -> str:
    """Say a ratio with its interval, and whether it is what was asked."""
    text = f"{judged.title} ({judged.figure}, {judged.against} / {judged.ours}): {show(ratio(judged, question), 2)}"
    text += f", must {judged.must:g}" if judged.must is not None else ""
    text += f", itself at most {judged.most:g}" if judged.most is not None else ""
    return text + {True: ": reached", False: ": MISSED", None: ""}[reached(judged, question)]


def as_text(question: Question) -> str:
    """Lay out one question: table, ratios that count, guards."""
    lines = ["", table(question.title, question.rows), ""]
    lines += [f"* {verdict(judged, question)}" for judged in question.judged]
    lines += [
        f"* guard {'holds' if item.holds else 'DOES NOT HOLD'}: {item.what}: {item.found}" for item in question.guards
    ]
    return "\n".join([*lines, question.note] if question.note else lines)


def add_options(parser: argparse.ArgumentParser, rounds: int = 5) -> None:
    """Add what all scripts take."""
    parser.add_argument("--rounds", type=int, default=rounds, help="that count, in turn (%(default)s)")
    parser.add_argument("--results", type=Path, default=FOLDER, help="folder of the file with the results")
    parser.add_argument("--setup", action="store_true", help="make nnU-Net's environment first (once)")
    parser.add_argument("--venv", type=Path, default=VENV, help="where that is (%(default)s)")


def prepare_environment(options: argparse.Namespace) -> None:
    """Make nnU-Net's environment where that is asked; stop with a message where there is none."""
    if options.setup:
        set_up(options.venv)
    if not (options.venv / "bin" / "nnUNetv2_predict").exists():  # what pip makes last
        sys.exit(f"nnU-Net's environment is not in {options.venv}: make it with --setup, or name it with --venv")


def run(script: str, options: argparse.Namespace, ask: Callable[[], Iterable[Question]]) -> None:
    """Print every question as it is answered, write the file; fail where a process did, or a guard does not hold."""
    load, cores = os.getloadavg()[0], len(os.sched_getaffinity(0))
    date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M")
    if load > BUSY * cores:
        print(
            f"WARNING: load average {load:.1f} on {cores} cores: something else runs, times are doubtful",
            file=sys.stderr,
        )
    questions, failed = [], ""
    try:
        for question in ask():
            print(as_text(question), flush=True)
            questions.append(question)
    except ProcessError as fault:  # what was answered before is kept
        failed = str(fault)
    result = Result(
        script=script,
        date=date,
        commit=commit(),
        machine=machine(),
        versions=versions(options.venv),
        load=round(load, 2),
        load_end=round(os.getloadavg()[0], 2),
        questions=tuple(questions),
    )
    write(result, options.results)
    print(
        f"\nload {load:.1f} at the start, {result.load_end:.1f} at the end; written to {options.results / script}.json"
    )
    if failed or not all(guard.holds for question in questions for guard in question.guards):
        sys.exit(failed or "a guard does not hold")


def write(result: Result, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{result.script}.json").write_text(records.dumps(result))


def read(folder: Path) -> list[Result]:
    """Read all results of a folder, by name of the script."""
    files = sorted(folder.glob("*.json"))
    return [records.from_json(Result, records.parse(file.read_text())) for file in files]


def machine() -> Machine:
    cpuinfo = Path("/proc/cpuinfo").read_text()
    names = [line.partition(":")[2].strip() for line in cpuinfo.splitlines() if line.startswith("model name")]
    return Machine(
        cpu=names[0] if names else platform.processor() or platform.machine(),
        cores=len(os.sched_getaffinity(0)),
        memory_gb=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        amx="amx_tile" in cpuinfo,
    )


def versions(venv: Path) -> dict[str, str]:
    found = {"Python": platform.python_version()}
    found |= {name: importlib.metadata.version(name) for name in PACKAGES}
    for item in venv.glob("lib/python*/site-packages/nnunetv2-*.dist-info"):
        found["nnunetv2"] = item.name.removeprefix("nnunetv2-").removesuffix(".dist-info")
    return found


def commit() -> str:
    """Name the commit; with a plus where the packages differ from it, "unknown" outside of a repository."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", "autoseg", "planners")
        return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
