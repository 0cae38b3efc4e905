"""How the last start of a run ended: at work, done, stopped, killed without a word, or failed, with the first cause."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from autoseg.doctor.finding import Finding
from autoseg.locks import Holder, holder_of
from autoseg.log import older, read_log
from autoseg.run_folder import RunFolder

Row = Mapping[str, Any]


def last_start(run: RunFolder) -> list[Finding]:
    """Say who works on a run now, and how its last start ended, by its locks and its log."""
    holders = holders_of(run)
    at_work = [Finding(title="in use", text=f"by {holder}") for holder in holders]
    rows = read_log(run.log_file)
    if not rows:
        return at_work
    size = sum(path.stat().st_size for path in (run.log_file, older(run.log_file)) if path.exists())
    warnings = len({row["text"] for row in rows if row["kind"] == "warning"})
    told = f"{len(rows)} lines, {size / 1e6:.1f} MB, {warnings} different warnings"
    found = [*at_work, Finding(title="log.jsonl", text=told)]
    start = newest_start(rows)
    if start is None:
        return found
    text, bad = how_it_ended(rows, start, at_work_now=_is_at_work(start, holders))
    return [*found, Finding(title="last start", text=text, is_bad=bad)]


def newest_start(rows: Sequence[Row]) -> Row | None:
    """Give the row of the newest start; of one that was started by another at work, the other's."""
    starts = [number for number, row in enumerate(rows) if row["kind"] == "start"]
    for number in starts:
        if any(row.get("pid") == rows[number].get("pid") for row in rows[starts[-1] :]):
            return rows[number] if rows[number].get("pid") != rows[starts[-1]].get("pid") else rows[starts[-1]]
    return None


def how_it_ended(rows: Sequence[Row], start: Row, *, at_work_now: bool) -> tuple[str, bool]:
    """Word how a start ended, and tell whether something is to be mended.

    Args:
        rows: of the log, in order, with ``kind`` and ``text``.
        start: one of them.
        at_work_now: whether its process still lives.
    """
    begun = f"{start.get('text')} at {start.get('time')}"
    after = list(itertools.dropwhile(lambda row: row is not start, rows))
    later = after[:1] + list(itertools.takewhile(lambda row: not _is_again(row, start), after[1:]))
    own = [row for row in later if row.get("pid") == start.get("pid")]
    end = next((row for row in own if row["kind"] == "end" or row.get("traceback")), None)
    if end is None:
        last = own[-1]
        if at_work_now:
            return f"{begun}: at work, stage {last.get('stage') or 'none yet'}", False
        return (
            f"{begun}: ended without a word in stage {last.get('stage') or 'none yet'} after {last.get('time')}. "
            "It was killed (kill -9, out of memory: look at dmesg, a job's time limit) or the machine went down. "
            "The same command goes on",
            True,
        )
    if end["kind"] == "end":
        return f"{begun}: {end.get('text')}", False
    first = next(row for row in later if row["kind"] == "error")
    return f"{begun}: failed. {_cause_text(first)}", True


def _is_again(row: Row, start: Row) -> bool:
    """Tell whether a later start got the number of an ended process."""
    return row["kind"] == "start" and row.get("pid") == start.get("pid")


def _cause_text(row: Row) -> str:
    """Word an error by its first cause, and the message that was shown for it."""
    shown = str(row.get("text"))
    cause = row.get("cause")
    if not isinstance(cause, Mapping) or (cause.get("text") and str(cause["text"]) in shown):
        return shown
    place = f" ({cause['place']})" if cause.get("place") else ""
    return f"{shown} ← first cause: {cause.get('type')}: {cause.get('text')}{place}"


def holders_of(run: RunFolder) -> list[Holder]:
    """List the processes that hold a lock in a run folder now."""
    paths = [*run.root.glob(".lock"), *run.root.glob(".claims/*.json"), *run.root.glob("folds/*/*/.lock")]
    found: dict[tuple[str, int], Holder] = {}
    for path in paths:
        holder = holder_of(path)
        if holder is not None:
            found.setdefault((holder.host, holder.pid), holder)
    return list(found.values())


def _is_at_work(start: Row, holders: Sequence[Holder]) -> bool:
    """Tell whether the process of a start still holds something; a number alone may be another process's by now."""
    return any(holder.pid == start.get("pid") for holder in holders)
