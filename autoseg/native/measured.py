"""What was measured on this machine before: kept beside the compiled file, so that a short command need not wait.

A measurement belongs to all that it depends on (kind of processor, version of torch, threads, …); where one of these
differs, or the measurement is older than ``LASTS_DAYS``, it does not count.
"""

import contextlib
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autoseg import native

LASTS_DAYS = 30
"""Assumption: drivers, libraries and neighbours of a virtual machine change; once a month costs nothing."""


def recall(facts: Sequence[object]) -> dict[str, Any] | None:
    """Give what was measured under the same facts on this kind of processor; None where nothing was, or long ago."""
    try:
        path = _file(facts)
        if not 0 <= time.time() - path.stat().st_mtime <= LASTS_DAYS * 86400:
            return None
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def remember(facts: Sequence[object], found: Mapping[str, Any]) -> None:
    """Keep a measurement for the processes to come; where the folder cannot be written it is made again then."""
    with contextlib.suppress(OSError):
        path = _file(facts)
        handle, unfinished = tempfile.mkstemp(suffix=".json", dir=path.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(dict(found), file)
            os.replace(unfinished, path)
        finally:
            Path(unfinished).unlink(missing_ok=True)


def _file(facts: Sequence[object]) -> Path:
    text = json.dumps([native.processor(), *map(str, facts)])
    return native.cache_folder() / f"measured-{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
