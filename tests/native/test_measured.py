"""What was measured before is found again under the same facts alone, and not for ever."""

import os
import time

import pytest

from autoseg import native
from autoseg.native import measured


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOSEG_CACHE", str(tmp_path))


def test_found_again_under_the_same_facts_and_on_the_same_processor(tmp_path, monkeypatch):
    assert measured.recall(["2.13", 2]) is None
    measured.remember(["2.13", 2], {"times": {"fp32": 0.5}})
    assert measured.recall(["2.13", 2]) == {"times": {"fp32": 0.5}}
    assert measured.recall(["2.13", 4]) is None
    assert [path.suffix for path in tmp_path.iterdir()] == [".json"], "nothing unfinished is left"
    monkeypatch.setattr(native, "processor", lambda: "another one")
    assert measured.recall(["2.13", 2]) is None


def test_what_is_old_or_damaged_does_not_count(tmp_path):
    measured.remember(["a"], {"x": 1})
    (path,) = tmp_path.iterdir()
    for text in ("", "[1]", "{"):
        path.write_text(text)
        assert measured.recall(["a"]) is None
    path.write_text('{"x": 1}')
    assert measured.recall(["a"]) == {"x": 1}
    for days in (measured.LASTS_DAYS + 1, -2):  # long ago, or of a clock that was wrong
        then = time.time() - days * 86400
        os.utime(path, (then, then))
        assert measured.recall(["a"]) is None


def test_a_folder_that_cannot_be_written_is_no_fault(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError

    monkeypatch.setattr(measured.tempfile, "mkstemp", refuse)
    measured.remember(["a"], {"x": 1})
    assert measured.recall(["a"]) is None
