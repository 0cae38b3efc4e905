"""Lock files and claims: who is refused, who waits, who goes on after a kill, and who does the rest in the end."""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from autoseg import locks
from autoseg.claims import FOLDER, Claims, claimed, joined
from autoseg.locks import InUseError, hold, holder_of, is_in_use, mark_in_use
from autoseg.run_folder import remove_leftovers

HOLD = """
import sys; from pathlib import Path; from autoseg.locks import hold
with hold(Path(sys.argv[1])):
    print('in', flush=True); sys.stdin.read()
"""
CLAIM = """
import sys; from pathlib import Path; from autoseg.claims import claimed
with claimed(Path(sys.argv[1]), ((), (int(sys.argv[2]),)), wait=False) as claims:
    with claims.side_by_side():
        print('in', flush=True); sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "GRACE_S", 0.1)
    monkeypatch.setattr(locks, "POLL_S", 0.02)
    monkeypatch.setattr("autoseg.claims.POLL_S", 0.02)


Other = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def other() -> Iterator[Other]:
    """Give a function that starts a program and waits until it is in; it ends when its input does."""
    with contextlib.ExitStack() as started:

        def start(code: str, *arguments: object) -> "subprocess.Popen[str]":
            command = [sys.executable, "-c", code, *map(str, arguments)]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            started.enter_context(process)
            assert process.stdout is not None
            assert process.stdout.readline().strip() == "in"
            return process

        yield start


def test_the_refused_are_told_who_and_a_killed_holder_stands_in_nobodys_way(tmp_path: Path, other: Other) -> None:
    path = tmp_path / "über uns" / ".lock"
    process = other(HOLD, path)
    holder = holder_of(path)
    assert holder is not None
    assert holder.pid == process.pid
    with pytest.raises(InUseError, match=rf"in use by process {process.pid} on .* \(since \d{{4}}-"), hold(path):
        pass
    process.kill()
    process.wait()
    assert holder_of(path) is None
    with hold(path) as waited:
        assert not waited
    assert path.exists()


def test_who_waits_gets_it_in_the_end_and_says_for_whom(
    tmp_path: Path, other: Other, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / ".lock"
    process = other(HOLD, path)
    assert process.stdin is not None
    threading.Timer(0.5, process.stdin.close).start()
    with hold(path, wait=True, remove=True) as waited:
        assert waited
    assert f"waiting for process {process.pid}" in capsys.readouterr().err
    assert not path.exists()
    process.wait()


def test_a_lock_that_its_holder_deletes_is_still_one_at_a_time(tmp_path: Path) -> None:
    path, inside, most = tmp_path / ".lock", [], []

    def work() -> None:
        for _ in range(10):
            with hold(path, wait=True, remove=True):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.001)
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 40


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_worker_does_not_hold_on_what_its_parent_held(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with hold(path):
        worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        worker.start()
    with hold(path):
        pass
    assert worker.is_alive()
    worker.kill()
    worker.join()


def test_without_locks_of_the_system_the_named_process_is_asked_for(
    tmp_path: Path, other: Other, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(locks.errno.ENOLCK, "no locks available")

    path = tmp_path / ".lock"
    process = other(HOLD, path)
    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(InUseError, match=str(process.pid)), hold(path):
        pass
    process.kill()
    process.wait()
    with hold(path):
        pass


def test_other_folds_are_trained_beside_and_the_same_are_refused(tmp_path: Path, other: Other) -> None:
    first = other(CLAIM, tmp_path, 0)
    with pytest.raises(InUseError, match=rf"process {first.pid} .*or name other folds"):
        Claims(tmp_path, ((), (0, 1))).enter(wait=False)
    with pytest.raises(InUseError):
        Claims(tmp_path, ((), ())).enter(wait=False)
    with claimed(tmp_path, ((), (1,)), wait=False) as claims:
        assert [holder.pid for holder in claims.others()] == [first.pid]
        assert not claims.is_last()
    first.send_signal(signal.SIGKILL)
    first.wait()
    with claimed(tmp_path, (("3d_fullres",), (0,)), wait=False) as claims:
        assert claims.is_last()
        assert claims.ended() == [((), (0,)), ((), (1,))] or claims.ended() == [((), (1,)), ((), (0,))]
        claims.settle()
        assert claims.ended() == []
    assert [path.name for path in (tmp_path / FOLDER).glob("*.json")] == []


def test_what_ends_with_a_fault_is_forgotten_and_what_is_interrupted_is_not(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a fault"), claimed(tmp_path, ((), (0,)), wait=False):
        raise ValueError("a fault")
    with pytest.raises(KeyboardInterrupt), claimed(tmp_path, ((), (1,)), wait=False):
        raise KeyboardInterrupt
    assert Claims(tmp_path, ((), (2,))).ended() == [((), (1,))]


def test_parts_are_joined_in_the_order_of_the_plan() -> None:
    everything = (("a", "b"), (0, 1, 2))
    assert joined([((), (2,)), (("b",), (0,))], everything) == (("a", "b"), (0, 2))
    assert joined([(("b",), ())], everything) == (("b",), (0, 1, 2))


def test_leftovers_go_and_all_else_stays(tmp_path: Path) -> None:
    old = [".plan.json.a1b2c3_4.tmp", ".case.x_345678.nii.gz", "deep/.case.image.npy.abcdefgh.tmp"]
    kept = [".lock", ".hidden", "plan.json", "a.abcdefgh.tmp", ".notes.txt", ".claims/0123456789abcdef.json"]
    for name in [*old, *kept, ".in_use.json.abcdefgh.tmp"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with (tmp_path / ".in_use.json.abcdefgh.tmp").open("rb") as file:
        mark_in_use(file.fileno())
        assert is_in_use(tmp_path / ".in_use.json.abcdefgh.tmp")
        time.sleep(0.15)
        assert sorted(str(path.relative_to(tmp_path)) for path in remove_leftovers(tmp_path)) == sorted(old)
    assert all((tmp_path / name).exists() for name in [*kept, ".in_use.json.abcdefgh.tmp"])
