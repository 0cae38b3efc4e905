import pytest

from autoseg.errors import OptionError
from autoseg.extensions import find


def test_finds_by_name() -> None:
    assert find({"one": 1, "two": 2}, "number", "two") == 2


def test_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(OptionError, match=r"no number is named 'ona'; did you mean 'one'\? \(known: one, two\)"):
        find({"one": 1, "two": 2}, "number", "ona")
