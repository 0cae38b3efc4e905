"""The table of docs/reliability.md: what a row says, how its counts are kept, and how the table is written.

A test of a fault calls ``record(ROW, trials=…, survived=…, lost=…, note=…)`` (a fixture). Counts of one row add up
within a session. Where ``AUTOSEG_CHAOS_RESULTS`` names a file (``make chaos`` does), they are kept there, and at the
end of the session the table between the two markers of docs/reliability.md is written anew from that file: rows that
ran now, and those that ran before.
"""

import datetime
import json
import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
BEGIN, END = "<!-- chaos table: begin (written by make chaos) -->", "<!-- chaos table: end -->"
HEAD = ("fault", "how it is injected", "what is promised", "trials", "survived", "lost", "what was seen")


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        key: sorts the rows, such as ``1a``.
        fault, injected, promise: cells of the table, in plain words.
    """

    key: str
    fault: str
    injected: str
    promise: str


def results_file() -> Path | None:
    """Give the file that keeps the counts, where somebody asked for one."""
    named = os.environ.get("AUTOSEG_CHAOS_RESULTS")
    return Path(named) if named else None


class Results:
    """Counts of the rows that ran in this session."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, Any]] = {}

    def add(self, row: Row, trials: int, survived: int, lost: int, note: str) -> None:
        """Add the counts of one test to its row."""
        entry = self.found.setdefault(row.key, {**asdict(row), "trials": 0, "survived": 0, "lost": 0, "notes": []})
        assert entry["fault"] == row.fault, f"two rows have the key {row.key}: {entry['fault']}, and {row.fault}"
        for name, number in (("trials", trials), ("survived", survived), ("lost", lost)):
            entry[name] += number
        if note and note not in entry["notes"]:
            entry["notes"].append(note)
        entry["date"] = datetime.date.today().isoformat()
        entry["machine"] = f"{platform.system()}, {os.cpu_count()} cores, Python {platform.python_version()}"

    def keep(self, file: Path) -> dict[str, dict[str, Any]]:
        """Write the counts into a file, beside those of rows that did not run now; give them all."""
        kept = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        kept.update(self.found)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(kept, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
        return kept


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Write the rows as a table in Markdown, with the day and machine below."""
    lines = ["| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD)]
    for key in sorted(rows):
        row = rows[key]
        cells = [row["fault"], row["injected"], row["promise"]]
        cells += [f"{row[name]:,}" for name in ("trials", "survived", "lost")]
        lines.append("| " + " | ".join([*cells, "; ".join(row["notes"])]) + " |")
    made = sorted({f"{row['date']} ({row['machine']})" for row in rows.values()})
    return "\n".join([*lines, "", f"Run on {', '.join(made)}."])


def renew_page(rows: dict[str, dict[str, Any]], page: Path = PAGE) -> None:
    """Put the table between the markers of the page.

    Raises:
        ValueError: the page has lost its markers.
    """
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{page} has lost the lines {BEGIN} and {END}")
    page.write_text(f"{before}{BEGIN}\n\n{table(rows)}\n\n{END}{after}", encoding="utf-8")
