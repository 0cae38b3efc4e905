"""Cases side by side: within memory, all faults listed, our own bugs raised."""

import threading
from pathlib import Path

import pytest

from autoseg import room
from autoseg.data import parallel
from autoseg.data.parallel import MemoryGate, default_threads, for_each_case, host_memory_bytes
from autoseg.errors import DatasetError, ImageError, RoomError
from planners.records import PlanError


def test_results_come_in_the_order_of_the_cases() -> None:
    cases = [(f"case_{number}", number) for number in range(20)]
    results = for_each_case(lambda number, gate: number * number, cases, "squaring", threads=4)
    assert list(results.items()) == [(f"case_{number}", number * number) for number in range(20)]
    assert for_each_case(lambda item, gate: item, [], "nothing") == {}


def test_the_memory_held_at_one_time_stays_within_the_total() -> None:
    held: list[int] = []
    most: list[int] = []
    lock = threading.Lock()

    def work(num_bytes: int, gate: MemoryGate) -> None:
        with gate.hold(num_bytes):
            with lock:
                held.append(num_bytes)
                most.append(sum(held))
            threading.Event().wait(0.002)
            with lock:
                held.remove(num_bytes)

    sizes = [3, 4, 50, 2, 6, 1, 9, 10, 5, 70]
    for_each_case(work, [(str(index), size) for index, size in enumerate(sizes)], "holding", threads=6, host_bytes=10)
    assert all(total <= 10 or total in (50, 70) for total in most), "what never fits goes in alone"
    assert len(most) == len(sizes)


def test_all_faults_are_listed_by_case_and_the_others_are_done() -> None:
    done = []

    tried = []

    def work(number: int, gate: MemoryGate) -> None:
        tried.append(number)
        with gate.hold(1):
            if number == 1:
                raise ImageError("cannot be read")
            if number == 3:
                raise PlanError("value 7 is not declared")
            if number == 5:
                raise MemoryError
        done.append(number)

    with pytest.raises(DatasetError) as caught:
        for_each_case(work, [(f"c{number}", number) for number in range(7)], "measuring")
    *lines, last = str(caught.value).splitlines()
    assert lines == [
        "measuring: 3 of 7 cases failed, the others are done",
        "  case c1: cannot be read",
        "  case c3: value 7 is not declared",
    ]
    assert last.startswith("  case c5: main memory ran out; ")
    assert sorted(done) == [0, 2, 4, 6]
    assert sorted(tried) == [0, 1, 2, 3, 4, 5, 5, 6], "what memory did not suffice for is tried once more, alone"


def test_a_full_disk_stops_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(number: int, gate: MemoryGate) -> None:
        if number == 2:
            raise OSError("1000 requested and 200 written")  # numpy's words

    with pytest.raises(RoomError, match="the disk is full"):
        for_each_case(work, [(f"c{number}", number) for number in range(40)], "measuring", threads=1)


def test_memory_that_sufficed_alone_is_no_fault(capsys: pytest.CaptureFixture[str]) -> None:
    tried: list[int] = []

    def work(number: int, gate: MemoryGate) -> int:
        tried.append(number)
        if tried.count(number) == 1 and number in (1, 2):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 800 bytes")
        return number

    found = for_each_case(work, [(f"c{number}", number) for number in range(4)], "measuring", threads=2)
    assert list(found.items()) == [("c0", 0), ("c1", 1), ("c2", 2), ("c3", 3)]
    assert "memory did not suffice for c1, c2 beside others" in capsys.readouterr().err


def test_our_own_bug_is_raised_as_it_is_and_names_the_case() -> None:
    def work(number: int, gate: MemoryGate) -> int:
        return [1][number]

    with pytest.raises(IndexError) as caught:
        for_each_case(work, [("a", 0), ("b", 1)], "indexing")
    assert caught.value.__notes__ == ["while indexing, case b"]


def test_an_interruption_stops_those_who_wait() -> None:
    gate = MemoryGate(10)
    stopped = threading.Event()

    def wait_for_memory() -> None:
        with pytest.raises(InterruptedError), gate.hold(8):
            pass
        stopped.set()

    with gate.hold(8):
        thread = threading.Thread(target=wait_for_memory)
        thread.start()
        gate.close()
        assert stopped.wait(10)
        thread.join()


def test_an_interruption_comes_through() -> None:
    def work(number: int, gate: MemoryGate) -> None:
        if number == 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        for_each_case(work, [(str(number), number) for number in range(50)], "working", threads=1)


def test_memory_of_a_container_limits_what_may_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("600000\n")
    (tmp_path / "memory.stat").write_text("anon 100000\ninactive_file 350000\n")
    monkeypatch.setattr(room, "CONTROL_GROUPS", tmp_path)
    assert host_memory_bytes() == int(0.8 * 750_000), "files that the kernel can drop are free"
    (tmp_path / "memory.max").write_text("max\n")
    assert host_memory_bytes() > 10**7


def test_there_is_at_least_one_thread() -> None:
    assert 1 <= default_threads() <= parallel.MAX_THREADS
