"""All warnings of a run on one place: of the dataset's check, and of every stage since, as ``log.jsonl`` has them."""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autoseg.report.material import Material

COUNTED = {
    "non-finite-loss": "training steps were skipped, because their loss was not finite",
    "recovered": "training went back to the last saved weights, in float32",
    "step-down": "a smaller step was taken, because memory did not suffice",
    "logger": "a logger was left out",
}
"""Events that are counted; all others are told in their own words."""
SHOWN = 8
"""Cases and folds that are named with a counted event."""
MOST = 200
"""Different warnings that a page shows. Assumption: nobody reads more; the log has all."""
DATASET = "dataset"


@dataclass(frozen=True, kw_only=True)
class RunWarning:
    """One warning: the stage it belongs to, its text, and how often and when it was last given (empty: once)."""

    stage: str
    text: str
    times: str = ""


def run_warnings(material: Material) -> tuple[RunWarning, ...]:
    """Collect a run's warnings, equal ones together: first the dataset's, then in the order in which they came up.

    The check looks at the whole dataset at every start; so of the dataset stands here what it found last, and of
    everything else what was ever said.
    """
    checked = material.record.warnings if material.record is not None else ()
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in material.log:
        if row["kind"] == "warning" and not _is_of_check(row):
            text = COUNTED.get(str(row.get("event")), str(row["text"]))
            stage = str(row.get("stage") or row.get("fold") or "")
            found.setdefault((stage, text), []).append(row)
    later = [_collected(stage, text, rows) for (stage, text), rows in found.items()]
    every = [*(RunWarning(stage=DATASET, text=text) for text in checked), *later]
    if len(every) > MOST:
        every = [*every[:MOST], RunWarning(stage="", text=f"{len(every) - MOST} more; see log.jsonl")]
    return tuple(every)


def _is_of_check(row: Mapping[str, Any]) -> bool:
    """Tell the warnings that stand in ``run.json`` too; older versions named their kind otherwise."""
    return row.get("event") == "warning" and ("problem" in row or "stops" in row)


def _collected(stage: str, text: str, rows: list[Mapping[str, Any]]) -> RunWarning:
    if str(rows[0].get("event")) in COUNTED:
        named = [str(row[key]) for key in ("cases", "fold", "because") for row in rows if row.get(key)]
        whom = list(dict.fromkeys(named))
        more = f" and {len(whom) - SHOWN} more" if len(whom) > SHOWN else ""
        text = f"{text}: {'; '.join(whom[:SHOWN])}{more}" if whom else text
    times = f"{len(rows)} times, last {_moment(str(rows[-1].get('time')))}" if len(rows) > 1 else ""
    return RunWarning(stage=stage, text=text.removeprefix("warning: "), times=times)


def _moment(text: str) -> str:
    try:
        return datetime.datetime.fromisoformat(text).strftime("%d %B %Y, %H:%M").lstrip("0")
    except ValueError:
        return text
