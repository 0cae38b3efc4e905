"""Every case that can be done is done, whatever happens to the others."""

import threading

import pytest

from autoseg.errors import ImageError
from autoseg.inference.stages import work_through


def run(cases, **actions):
    written = {}
    defaults = {
        "read": lambda case: case * 10,
        "work": lambda loaded: loaded + 1,
        "write": lambda case, result: written.__setitem__(case, result),
    }
    faults = work_through([(f"case{case}", case) for case in cases], **{**defaults, **actions}, what="test")
    return written, faults


def test_all_cases_pass_in_order():
    written, faults = run(range(7))
    assert list(written.items()) == [(case, case * 10 + 1) for case in range(7)]
    assert faults == {}


def test_no_cases():
    assert run([]) == ({}, {})


def fail_at(case, action, fault=ImageError):
    def wrapped(*arguments):
        if arguments[0] == case:
            raise fault("broken")
        return action(*arguments)

    return wrapped


@pytest.mark.parametrize("bad", [0, 2, 4])
@pytest.mark.parametrize("stage", ["read", "work", "write"])
def test_one_bad_case_does_not_stop_the_others(stage, bad):
    written = {}
    actions = {
        "read": fail_at(bad, lambda case: case * 10),
        "work": fail_at(bad * 10, lambda loaded: loaded + 1),
        "write": fail_at(bad, written.__setitem__),
    }
    done, faults = run(range(5), **{stage: actions[stage]})
    assert faults == {f"case{bad}": "broken"}
    assert sorted(written if stage == "write" else done) == [case for case in range(5) if case != bad]


@pytest.mark.parametrize("stage", ["read", "work", "write"])
def test_our_own_bug_is_raised_when_the_others_are_done(stage):
    written = {}

    def write(case, result):
        if stage == "write" and case == 1:
            raise TypeError("a bug")
        written[case] = result

    actions = {
        "read": fail_at(1 if stage == "read" else None, lambda case: case * 10, TypeError),
        "work": fail_at(10 if stage == "work" else None, lambda loaded: loaded, TypeError),
    }
    with pytest.raises(TypeError) as caught:
        run(range(4), **actions, write=write)
    assert sorted(written) == [0, 2, 3]
    assert "case1" in "".join(caught.value.__notes__)


def test_only_one_case_is_read_ahead_and_one_written_behind():
    reads, works, writes = [], [], []
    lock = threading.Lock()

    def read(case):
        with lock:
            reads.append(case)
        return case

    def work(case):
        with lock:
            assert max(reads) <= case + 1, "read too far ahead"
            assert len(writes) >= case - 1, "too many cases wait to be written"
            works.append(case)
        return case

    run(range(20), read=read, work=work, write=lambda case, result: writes.append(case))
    assert reads == works == writes == list(range(20))


def test_an_interrupt_leaves_at_once():
    reads = []

    def work(loaded):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(range(50), read=lambda case: reads.append(case) or case, work=work)
    assert len(reads) <= 2
