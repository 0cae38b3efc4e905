"""Manifest: by what a run can be told from another: digests of its records, checksums of its weights, its starts."""

import hashlib
import json
from pathlib import Path
from typing import Any

from autoseg.report.material import Material

DIGITS = 12  # of a digest: enough that two are never alike by chance
RECORDS = ("fingerprint.json", "plan.json", "splits.json", "choice.json")
LONGEST_HEADER = 10**8
"""Bytes of a safetensors header. Source: its own limit."""


def manifest_rows(material: Material) -> tuple[tuple[str, str], ...]:
    """List digests of the records (SHA-256), checksums of the weights (CRC-32), and the starts with their versions."""
    rows = [
        ("records", ", ".join(filter(None, (_digest(material.run.root / name) for name in RECORDS)))),
        ("weights", ", ".join(_weights(material))),
        ("starts", "; ".join(_starts(material))),
    ]
    return tuple((title, text) for title, text in rows if text)


def _digest(path: Path) -> str:
    try:
        return f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()[:DIGITS]}"
    except OSError:
        return ""


def _weights(material: Material) -> list[str]:
    found = []
    for item in material.folds:
        checksum = weights_checksum(item.folder.weights_last)
        if checksum:
            found.append(f"{item.configuration} fold {item.fold} {checksum}")
    return found


def weights_checksum(path: Path) -> str:
    """Read the checksum that a file of weights carries, from its header alone; empty where it has none.

    Source: safetensors, format: 8 bytes length of the header (little endian), the header as JSON, the tensors.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if length <= LONGEST_HEADER else {}
        meta = json.loads(header.get("__metadata__", {}).get("autoseg", "{}"))
    except (OSError, ValueError, AttributeError, TypeError):
        return ""
    return str(meta.get("crc32", "")) if isinstance(meta, dict) else ""


def _starts(material: Material) -> list[str]:
    """Say how often the run was started, and which versions a later start had that the first one had not."""
    starts = [row for row in material.log if row["kind"] == "start"]
    if not starts:
        return []
    found = [f"{len(starts)}, the last: {starts[-1].get('command', '')}"]
    first = material.record.versions if material.record is not None else {}
    for row in starts:
        versions: Any = row.get("versions")
        changed = {
            f"{name} {value}"
            for name, value in (versions.items() if isinstance(versions, dict) else ())
            if first.get(name, value) != value
        }
        found += [f"later with {text}" for text in sorted(changed)]
    return list(dict.fromkeys(found))
