"""Look into the folders of a dataset: image files by name, DICOM folders, and what else lies there."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from autoseg.data.io import READERS, image_ending, image_stem
from autoseg.errors import DatasetError
from planners.records import short

COMPANIONS = {
    ".json",
    ".geojson",
    ".txt",
    ".md",
    ".csv",
    ".tsv",
    ".xml",
    ".raw",
    ".zraw",
    ".img",
    ".pdf",
    ".html",
    ".log",
}
"""Endings of files that may lie beside images without being worth a word."""

Found = TypeVar("Found")

MAP_SUFFIXES = (".entropy", ".disagreement")
"""Names of the maps of uncertainty that lie beside a segmentation: ``CASE.entropy.nii.gz`` is no case of its own."""


def list_images(folder: Path, *, series: bool = True) -> tuple[dict[str, Path], list[str]]:
    """List the images of a folder.

    Args:
        folder: where to look; not below it, except for DICOM folders.
        series: take folders with DICOM files as images.

    Returns:
        Name without ending → file or DICOM folder, sorted; and notes on what was passed over.

    Raises:
        DatasetError: there is no such folder, it holds no image, two files have the same name, or a link is broken.
    """
    if not folder.is_dir():
        raise DatasetError(f"{folder} is no folder. Correct the name")
    found: dict[str, Path] = {}
    unknown = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if not (path.is_file() or path.is_dir()):
            raise DatasetError(f"{path} is no file (a link that leads nowhere, or a pipe). Mend the link, or remove it")
        known = image_ending(path) in READERS if path.is_file() else series and is_series(path)
        if not known:
            unknown += [path.name] if path.is_file() and path.suffix.lower() not in COMPANIONS else []
            continue
        name = path.name if path.is_dir() else image_stem(path)
        if name in found:
            raise DatasetError(f"{found[name]} and {path} have the same name but for the ending. Keep one of them")
        found[name] = path
    if not found:
        raise DatasetError(
            f"{folder} holds no images (it holds {describe_folder(folder)}). Known endings: {' '.join(READERS)}; "
            "or one folder of DICOM slices per case"
        )
    notes = [f"{len(unknown)} files of unknown format in {folder} passed over: {some(unknown)}"] if unknown else []
    return without_maps(found), notes


def without_maps(found: Mapping[str, Found]) -> dict[str, Found]:
    """Leave out the maps of uncertainty among files by name: those whose segmentation is there as well."""
    maps = {name for name in found for suffix in MAP_SUFFIXES if name.removesuffix(suffix) in found.keys() - {name}}
    return {name: path for name, path in found.items() if name not in maps}


def is_series(folder: Path) -> bool:
    """Say whether a folder holds DICOM files, directly or in its only subfolder."""
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    if len(entries) == 1 and entries[0].is_dir():
        return is_series(entries[0])
    return any(_is_dicom(entry) for entry in entries if entry.is_file())


def _is_dicom(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def usual_ending(paths: Sequence[Path]) -> str:
    """Give the ending that most of some files have; ``.dcm`` for DICOM folders."""
    counts = Counter(".dcm" if path.is_dir() else image_ending(path) for path in paths)
    return counts.most_common(1)[0][0] if counts else ""


def describe_folder(folder: Path) -> str:
    """Write what a folder holds, for a message: a few names and how many there are."""
    names = sorted(entry.name + "/" * entry.is_dir() for entry in folder.iterdir() if not entry.name.startswith("."))
    return some(names) or "nothing"


def some(names: Sequence[str]) -> str:
    """Write the first few of many names, each cut where it is long."""
    return ", ".join(map(short, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
