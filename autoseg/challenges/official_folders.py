"""Look into official folders: find the one that is meant, list its files, say what is missing."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from autoseg.challenges.base import Challenge, File, OfficialCase
from autoseg.data.folders import describe_folder
from autoseg.errors import DatasetError

DEPTH = 2
"""Folders below the one the user names in which the official one is looked for: archives unpack into folders of their
own name, often twice."""


def find_root(challenge: Challenge, raw: Path) -> Path | None:
    """Find the official folder at or below a place; None where it is not there.

    Raises:
        DatasetError: there are several.
    """
    if not raw.is_dir():
        return None
    level = [raw]
    for _ in range(DEPTH + 1):
        found = [folder for folder in level if challenge.recognise(folder)]
        if len(found) > 1:
            names = ", ".join(str(folder) for folder in found)
            raise DatasetError(f"{raw} holds {challenge.title} {len(found)} times: {names}. Name one of them")
        if found:
            return found[0]
        level = [entry for folder in level for entry in subfolders(folder)]
    return None


def official_root(challenge: Challenge, raw: Path, others: Mapping[str, Challenge]) -> Path:
    """Find the official folder, or say what was expected, what is there, and what it looks like instead.

    Raises:
        DatasetError: it is not there.
    """
    if not raw.exists():
        raise DatasetError(f"{raw} does not exist. Name the folder into which {challenge.title} was unpacked")
    if not raw.is_dir():
        raise DatasetError(f"{raw} is a file. Unpack it, and name the folder")
    root = find_root(challenge, raw)
    if root is not None:
        return root
    same = [name for name, other in others.items() if name != challenge.name and other.recognise(raw)]
    hint = f" It looks like {' or '.join(same)}: give that name." if same else ""
    raise DatasetError(
        f"{raw} is not {challenge.title} as it is handed out. Expected {challenge.expects}; "
        f"found {describe_folder(raw)}.{hint or ' Name the folder into which it was unpacked.'}"
    )


def subfolders(folder: Path) -> list[Path]:
    """List the folders in a folder, sorted, without hidden ones."""
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def files_matching(folder: Path, pattern: str) -> dict[str, Path]:
    """List the files of a folder whose whole name matches.

    Args:
        folder: where to look; a folder that does not exist holds nothing.
        pattern: regular expression; its first group names the case.

    Returns:
        What the group matched → file, sorted by number where it is one. macOS's hidden ``._`` files do not count.
    """
    expression = re.compile(pattern, re.IGNORECASE)
    entries = sorted(folder.iterdir()) if folder.is_dir() else []
    matches = [(expression.fullmatch(entry.name), entry) for entry in entries if not entry.name.startswith(".")]
    found = {match[1]: entry for match, entry in matches if match is not None and entry.is_file()}
    return dict(sorted(found.items(), key=lambda item: (len(item[0]), item[0]) if item[0].isdigit() else (0, item[0])))


def pair(
    images: Mapping[str, Path], labels: Mapping[str, Path], case_id: Callable[[str], str] = str
) -> tuple[list[OfficialCase], list[str]]:
    """Join images and labels that have the same key.

    Returns:
        The cases that are whole, and one line per case that lacks its image or its label.
    """
    cases, problems = [], []
    for key in sorted({*images, *labels}, key=lambda key: (len(key), key) if key.isdigit() else (0, key)):
        image, label = images.get(key), labels.get(key)
        if image is None:
            problems.append(f"case {case_id(key)}: {label} has no image")
        elif label is None:
            problems.append(f"case {case_id(key)}: {image} has no label")
        else:
            cases.append(OfficialCase(id=case_id(key), images=(image,), label=label))
    return cases, problems


def missing_files(case: str, files: Sequence[File]) -> list[str]:
    """Say in one line which of a case's official files are not there or hold nothing; no line where all is well."""
    named = [file if isinstance(file, Path) else file.source for file in files]
    paths = [path for file in dict.fromkeys(named) for path in (file, *companions(file))]
    absent = [str(path) for path in paths if not path.exists()]
    empty = [str(path) for path in paths if path.is_file() and path.stat().st_size == 0]
    parts = [f"{', '.join(absent)} missing"] if absent else []
    parts += [f"{', '.join(empty)} empty"] if empty else []
    return [f"case {case}: {'; '.join(parts)}"] if parts else []


def companions(path: Path) -> list[Path]:
    """List the files that belong to an image file and lie beside it: the voxels of a MetaImage header (``.mhd``)."""
    if path.suffix.lower() != ".mhd" or not path.is_file():
        return []
    found = re.search(r"^ElementDataFile\s*=\s*(.+?)\s*$", path.read_text(encoding="latin-1"), re.MULTILINE)
    return [path.with_name(found[1])] if found and found[1].upper() not in ("LOCAL", "LIST") else []
