"""The table of docs/reliability.md is what the tests counted, and nothing else on the page changes."""

import json
from pathlib import Path

import pytest
from chaos_table import BEGIN, END, PAGE, Results, Row, renew_page

FIRST = Row(key="1", fault="kill", injected="SIGKILL", promise="goes on")
SECOND = Row(key="2", fault="disk", injected="a limit", promise="a message")


def test_counts_of_a_row_add_up_and_rows_of_before_are_kept(tmp_path: Path) -> None:
    file, page = tmp_path / "deep" / "results.json", tmp_path / "page.md"
    page.write_text(f"above\n{BEGIN}\nold\n{END}\nbelow\n")
    earlier = Results()
    earlier.add(SECOND, 1000, 999, 1, "one was lost")
    earlier.keep(file)
    now = Results()
    now.add(FIRST, 2, 2, 0, "a")
    now.add(FIRST, 3, 3, 0, "b")
    now.add(FIRST, 1, 1, 0, "a")
    renew_page(now.keep(file), page)
    text = page.read_text()
    assert text.startswith(f"above\n{BEGIN}\n")
    assert text.endswith(f"{END}\nbelow\n")
    assert "old" not in text
    assert "| kill | SIGKILL | goes on | 6 | 6 | 0 | a; b |" in text
    assert "| disk | a limit | a message | 1,000 | 999 | 1 | one was lost |" in text
    assert sorted(json.loads(file.read_text())) == ["1", "2"]


def test_a_page_without_its_markers_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("nothing")
    with pytest.raises(ValueError, match="has lost the lines"):
        renew_page({}, page)


def test_the_page_has_its_markers() -> None:
    assert PAGE.read_text(encoding="utf-8").count(BEGIN) == PAGE.read_text(encoding="utf-8").count(END) == 1
