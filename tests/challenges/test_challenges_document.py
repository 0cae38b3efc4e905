"""docs/challenges.md has a row for every challenge, says what the records say, and its commands can be typed."""

import re
import shlex
from pathlib import Path

import pytest

from autoseg.challenges import CHALLENGES
from autoseg.command_line import build_parser

DOCUMENT = Path(__file__).parents[2] / "docs" / "challenges.md"


def section(title: str) -> str:
    """Give what stands under a heading."""
    text = DOCUMENT.read_text(encoding="utf-8")
    found = re.search(rf"^## {title}$(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, title
    return found[1]


def row(title: str, name: str) -> str:
    """Give the one row of a table whose first cell names a challenge; ``msd01 … msd10`` names all between."""
    rows = [line for line in section(title).splitlines() if line.startswith("| `")]
    named = [line for line in rows if name in names_in(line.split("|")[1])]
    assert len(named) == 1, f"{len(named)} rows of {title} name {name}"
    return named[0]


def names_in(cell: str) -> list[str]:
    names = re.findall(r"`([^`]+)`", cell)
    return [f"msd{number:02d}" for number in range(1, 11)] if "…" in cell else names


@pytest.mark.parametrize("name", list(CHALLENGES))
def test_rows_say_what_the_records_say(name: str) -> None:
    challenge = CHALLENGES[name]
    assert f"({challenge.source})" in row("The challenges", name)
    assert f"| {challenge.licence} |" in row("The challenges", name)
    if not name.startswith("msd") and challenge.num_cases is not None and challenge.num_tests is not None:
        assert f"{challenge.num_cases} + {challenge.num_tests}" in row("The challenges", name)
    assert f"`{challenge.protocol}`" in row("What is scored", name)
    results = [line for line in section("Published results, and ours").splitlines() if line.startswith("| `")]
    named = [line for line in results if name in names_in(line.split("|")[1])]
    assert len(named) == 1
    assert named[0].count("|") == 5


def test_nothing_else_is_listed() -> None:
    for title in ("The challenges", "What is scored"):
        rows = [line.split("|")[1] for line in section(title).splitlines() if line.startswith("| `")]
        assert {name for cell in rows for name in names_in(cell)} == set(CHALLENGES)


def test_commands_can_be_typed() -> None:
    blocks = re.findall(r"^```\n(.*?)^```", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines() if line.startswith("autoseg ")]
    assert len(commands) >= 6
    for command in commands:
        options = build_parser().parse_args(shlex.split(command, comments=True)[1:])
        assert getattr(options, "name", "brats2021") in CHALLENGES
