"""``RUN/log.jsonl``: what a run decided, warned of and said, and the first cause of what stopped it.

One JSON object per line, oldest first:

    time     ISO 8601 with zone                  pid      process that wrote it
    kind     see ``KINDS``                       stage    of the job: check, plan, preprocess, train …
    text     as a person reads it                event    a name for programs, where it has one, and its fields

A ``start`` carries versions, command line, device and hardware; an ``error`` carries ``error`` (its type), ``cause``
(the first of its chain: type, text, place) and the whole ``traceback``.

Each line is one write at the end of the file, so that several processes may append, and a kill tears at most the last
line; readers leave a torn line out. A file that has grown beyond ``LIMIT_BYTES`` becomes ``log.1.jsonl``, in the place
of an older one, so that both together stay below twice that. Nothing here ever stops a run: what cannot be written (a
full disk, a read-only folder) is left out.
"""

import contextlib
import datetime
import json
import math
import os
import time
import traceback
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from autoseg.progress import listening

KINDS = ("start", "stage", "decision", "warning", "note", "error", "end")

EVENTS = {
    "stop": "error",
    "stage": "stage",
    "warning": "warning",
    "decision": "decision",
    "final-anneal": "decision",
    "step-down": "warning",
    "collapse": "warning",
    "missed": "warning",
    "empty-predictions": "warning",
    "non-finite-loss": "warning",
    "recovered": "warning",
    "logger": "warning",
}
"""The kind of an event that names none; any other is a note."""

LIMIT_BYTES = 16 * 2**20
"""Assumption: 1,000 epochs of 20 folds with all their lines are about 4 MB."""
LONGEST = 20_000
"""Characters of one text. Assumption: a traceback has fewer, a plan of ten configurations too."""


class _Stage:
    name = ""


def enter_stage(name: str) -> None:
    """Name the stage that what is said from here on belongs to, in this process."""
    _Stage.name = name


def append(path: Path, kind: str, text: str, /, **fields: Any) -> None:
    """Append one line; what cannot be written is left out.

    Args:
        path: of the log.
        kind: one of ``KINDS``.
        text: for people; blank ends are cut off.
        **fields: further values, JSON or anything with a text.
    """
    row = {"time": _now(), "pid": os.getpid(), "stage": _Stage.name, "kind": kind, "text": _cut(text.strip()), **fields}
    try:
        line = json.dumps(row, default=str, ensure_ascii=False, allow_nan=False)
    except ValueError:  # a number that JSON does not have
        line = json.dumps(_plain(row), default=str, ensure_ascii=False)
    with contextlib.suppress(OSError):
        _write(path, line.encode("utf-8", "backslashreplace"), lasting=kind in ("error", "end"))


def kind_of(event: str, fields: Mapping[str, Any]) -> str:
    """Give the kind of an event; a first loss is warned of where something is to be said about it."""
    if event == "first-loss":
        return "warning" if fields.get("because") else "note"
    return EVENTS.get(event, "note")


def text_of(row: Mapping[str, Any]) -> str:
    """Give what a row says to people; rows of older versions have it under other names."""
    case = f"case {row['case']}: " if row.get("case") else ""
    parts = [row.get(name) for name in ("text", "because", "found", "fix", "about", "name")]
    said = [str(part) for part in parts if part]
    if row.get("text") or not said:
        return str(row.get("text") or row.get("event") or "")
    if row.get("event") == "decision":
        return f"{row.get('about')}: {row.get('because')}"
    if row.get("event") == "stage":
        return f"{row.get('name')}: {row.get('seconds')} s"
    return case + ". ".join(said[:2] if row.get("found") else said[:1])


@contextlib.contextmanager
def session(path: Path, text: str, **facts: Any) -> Iterator[None]:
    """Log all that is said while the body runs, how it began and how it ended; what it raises goes on.

    Everything said in this process is meant: two runs in threads of one process hear each other.

    Args:
        path: of the log.
        text: what is started.
        **facts: about the start: versions, command line, device, hardware.
    """
    began = time.monotonic()
    enter_stage("")
    append(path, "start", text, **facts)
    try:
        with listening(lambda kind, said: append(path, kind, said) if said.strip() else None), _python_warnings(path):
            yield
    except KeyboardInterrupt:
        append(path, "end", "interrupted", seconds=_since(began))
        raise
    except Exception as fault:
        append_fault(path, fault, seconds=_since(began))
        raise
    except BaseException as fault:
        append(path, "end", f"stopped: {type(fault).__name__} {fault}", seconds=_since(began))
        raise
    else:
        append(path, "end", "done", seconds=_since(began))
    finally:
        enter_stage("")


@contextlib.contextmanager
def _python_warnings(path: Path) -> Iterator[None]:
    """Log what libraries warn of as well; what torch cannot compute repeatably is a warning to the user too."""
    before = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], filename: str, lineno: int, *rest: Any) -> None:
        before(message, category, filename, lineno, *rest)
        kind = "warning" if "deterministic" in str(message) else "note"
        append(path, kind, f"{category.__name__}: {message}", event="python-warning", place=f"{filename}:{lineno}")

    warnings.showwarning = show  # type: ignore[assignment]  # called by position
    try:
        yield
    finally:
        if warnings.showwarning is show:
            warnings.showwarning = before


def append_fault(path: Path, fault: BaseException, **fields: Any) -> None:
    """Log an exception with its traceback and its first cause, and note on it where that is written."""
    told = "".join(traceback.format_exception(fault))
    kind = type(fault).__name__
    cause = describe(first_cause(fault))
    append(path, "error", f"{kind}: {fault}", error=kind, cause=cause, traceback=_cut(told), **fields)
    if path.exists():
        fault.logged_in = path  # type: ignore[attr-defined]


def place_of(fault: BaseException) -> Path | None:
    """Give the log in which an exception's traceback stands, if one does."""
    found = getattr(fault, "logged_in", None)
    return found if isinstance(found, Path) else None


def first_cause(fault: BaseException) -> BaseException:
    """Go back to the exception that began a chain; the text in which a worker process sends its own is none."""
    seen = {id(fault)}
    while True:
        before = fault.__cause__ or (None if fault.__suppress_context__ else fault.__context__)
        if before is None or id(before) in seen or type(before).__name__ == "_RemoteTraceback":
            return fault
        seen.add(id(before))
        fault = before


def describe(fault: BaseException) -> dict[str, str]:
    """Describe an exception by its type, its text and the place it was raised at."""
    frames = traceback.extract_tb(fault.__traceback__)
    place = f"{frames[-1].filename}:{frames[-1].lineno} in {frames[-1].name}" if frames else ""
    return {"type": type(fault).__name__, "text": _cut(str(fault)), "place": place}


def read_rows(path: Path) -> tuple[dict[str, Any], ...]:
    """Read a file of one JSON object per line; what is no JSON (a line cut off by a kill) is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n") if path.exists() else ():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            rows.append(row)
    return tuple(rows)


def read_log(path: Path) -> tuple[dict[str, Any], ...]:
    """Read a log, with what was moved away when it grew too large; every row has a ``kind`` and a ``text``."""
    rows = (*read_rows(older(path)), *read_rows(path))
    return tuple({**row, "kind": _kind_of_row(row), "text": text_of(row)} for row in rows)


def _kind_of_row(row: Mapping[str, Any]) -> str:
    kind = str(row.get("kind"))
    return kind if kind in KINDS else kind_of(str(row.get("event")), row)


def older(path: Path) -> Path:
    """Give the place of a log's older part."""
    return path.with_name(f"{path.stem}.1{path.suffix}")


def _write(path: Path, line: bytes, *, lasting: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0)
    handle = os.open(path, flags, 0o644)
    try:
        size = os.fstat(handle).st_size
        if size:  # a line that was torn must not tear this one
            os.lseek(handle, size - 1, os.SEEK_SET)
            line = line if os.read(handle, 1) == b"\n" else b"\n" + line
        _take_back(handle, os.write(handle, line + b"\n"), len(line) + 1)
        if lasting:
            os.fsync(handle)
        found = os.fstat(handle)
    finally:
        os.close(handle)
    if found.st_size > LIMIT_BYTES and os.path.samestat(found, path.stat()):  # nobody else has moved it meanwhile
        os.replace(path, older(path))


def _take_back(handle: int, written: int, wanted: int) -> None:
    """Cut a line off again of which a full disk or a limit took a part only, where no other process wrote since."""
    end = os.lseek(handle, 0, os.SEEK_CUR)
    if written < wanted and os.fstat(handle).st_size == end:
        os.ftruncate(handle, end - written)


def _now() -> str:
    return datetime.datetime.now().astimezone().isoformat(timespec="milliseconds")


def _since(began: float) -> float:
    return round(time.monotonic() - began, 3)


def _cut(text: str) -> str:
    """Leave the middle of a long text out: how a traceback begins and how it ends tell the most."""
    if len(text) <= LONGEST:
        return text
    return f"{text[: LONGEST // 2]}\n… {len(text) - LONGEST} characters left out …\n{text[-LONGEST // 2 :]}"


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
