"""One thing that the doctor has looked at, and how a list of them is laid out."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from planners.decision import byte_size

LOW_DISK_BYTES = 5 * 10**9
"""Assumption: a store and its checkpoints of a usual dataset need some gigabytes."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing the doctor has looked at.

    Attributes:
        title, text: what, and what was found (with what to do, where it is bad).
        is_bad: whether it must be mended.
    """

    title: str
    text: str
    is_bad: bool = False


def findings_text(findings: tuple[Finding, ...]) -> str:
    """Lay findings out for the terminal; bad ones are marked."""
    width = max((len(item.title) for item in findings), default=0)
    return "\n".join(f"{'!' if item.is_bad else ' '} {item.title:{width}}  {item.text}" for item in findings)


def disk(place: Path) -> Finding:
    """Say how much is free where a folder lies."""
    free = shutil.disk_usage(place).free
    low = free < LOW_DISK_BYTES
    text = f"{byte_size(free)} free in {place}" + ("; a store and checkpoints may not fit" if low else "")
    return Finding(title="disk", text=text, is_bad=low)
