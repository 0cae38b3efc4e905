import datetime

import pytest

from autoseg import progress


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_plain_lines_come_now_and_then(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    monkeypatch.setattr("time.monotonic", clock)
    for _ in progress.track(range(30), 30, "working"):
        clock.now += 1.0
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("  working: 11/30, done at ")
    assert lines[-1] == "  working: 30/30 in 30.0 s"
    assert len(lines) == 3


def test_quick_work_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress.track([1, 2], 2, "working")) == [1, 2]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("seconds", "text"), [(4.2, "4.2 s"), (200, "3 min 20 s"), (18720, "5 h 12 min")])
def test_duration(seconds: float, text: str) -> None:
    assert progress.duration(seconds) == text


def test_finish_time_names_the_day_when_it_is_another() -> None:
    assert len(progress.finish_time(0).split(":")) == 3
    tomorrow = datetime.datetime.now() + datetime.timedelta(days=1)
    assert progress.finish_time(24 * 3600).startswith(tomorrow.strftime("%a %d %b"))
