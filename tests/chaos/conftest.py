"""The frame of the chaos tests: each hurts the real program in one way and sees that it keeps one promise.

One row of the table in docs/reliability.md is one file here, named after its fault, with a ``ROW`` at its top::

    from chaos_driver import final_state, finish, like, run_command, start
    from chaos_table import Row

    ROW = Row(key="3", fault="disk full", injected="RLIMIT_FSIZE …", promise="old files stay whole; …")

    def test_short(tiny_dataset, reference, tmp_path, record):
        run = tmp_path / "run"
        like(reference, run)                      # computes as the reference: results are comparable bit by bit
        code, said = finish(run_command(tiny_dataset, run), tmp_path / "said", before="…inject a fault…")
        …
        record(ROW, trials=1, survived=int(code == 2), lost=0, note="message names what was needed")

``record`` keeps the counts and then fails the test where ``survived`` is not ``trials`` or anything is lost: the table
cannot say what was not so. Count first, with few asserts before it. A trial is one injected fault; it survived if the
promise was kept; what is lost is a finished piece of work that had to be made again, or a result that differs.

The short form is a test without a marker (all files together about two minutes: one or two trials each, about 4 s per
run of the program); the long form has the marker ``slow``. ``make chaos`` runs both, keeps the counts in
``build/chaos.json`` (``AUTOSEG_CHAOS_RESULTS``), and writes the table into docs/reliability.md.

``AUTOSEG_CHAOS_KILLS`` sets the number of kills of the long form.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # the modules beside this file; tests are no package

from chaos_driver import finish, make_tiny_dataset, run_command
from chaos_table import Results, Row, renew_page, results_file

RESULTS = Results()


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of five tiny labelled cases and two images to predict; in a folder with a space and an umlaut."""
    return make_tiny_dataset(tmp_path_factory.mktemp("data") / "kleine Bälle")


@pytest.fixture(scope="session")
def reference(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of fold 0 that nobody disturbed. Read it; never write into it."""
    run = tmp_path_factory.mktemp("runs") / "undisturbed"
    code, said = finish(run_command(tiny_dataset, run), run.parent / "said")
    assert code == 0, said[-2000:]
    return run


@pytest.fixture(scope="session")
def record() -> Callable[..., None]:
    """Give a function that counts what a test saw into the table, and fails the test where a promise was broken."""

    def add(row: Row, *, trials: int, survived: int, lost: int = 0, note: str = "") -> None:
        RESULTS.add(row, trials, survived, lost, note)
        assert (survived, lost) == (trials, 0), f"{row.fault}: {survived} of {trials} survived, {lost} lost. {note}"

    return add


@pytest.fixture(scope="session")
def num_kills() -> int:
    """How often the long form kills."""
    return int(os.environ.get("AUTOSEG_CHAOS_KILLS", "40"))


def pytest_sessionstart(session: pytest.Session) -> None:
    """Let children hear Ctrl-C also where this session was started in the background, which ignores it."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Keep the counts and renew the table, where ``make chaos`` asked for it."""
    file = results_file()
    if file is not None and RESULTS.found:
        renew_page(RESULTS.keep(file))
