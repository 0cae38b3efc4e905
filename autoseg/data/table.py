"""A dataset as a CSV table: ``case,image[,image…],label[,group,split,labels_present,classes]``, one row per case."""

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from autoseg.data.cases import Case, Mismatch
from autoseg.data.dataset_json import read_text
from autoseg.data.folders import some
from autoseg.data.layouts import Found, resolve
from autoseg.data.splits import Fold, Splits
from autoseg.errors import DatasetError
from planners.records import short

HEADER = "case,image[,image…],label[,group,split,labels_present,classes]"
PRESENT = "labels_present"
"""Column of the classes annotated in a case: ``liver|spleen``; empty where all are."""

TRAIN, VALIDATION, TEST = {"", "train", "training"}, {"val", "validation", "valid"}, {"test", "testing"}


def is_table(path: Path) -> bool:
    """Say whether a file is a table whose header names cases and images."""
    try:
        header, _ = _rows(path)
    except DatasetError:
        return False
    return "case" in header and any(name.startswith("image") for name in header)


def find_table(path: Path) -> Found:
    """Read a table; paths are relative to its folder.

    The column ``split`` may hold ``train``, ``validation`` and ``test``, or the number of the fold that a case
    validates.

    Raises:
        DatasetError: the header or rows cannot be understood; all faulty rows are listed.
    """
    header, rows = _rows(path)
    if "case" not in header or not any(name.startswith("image") for name in header):
        raise DatasetError(f"{path} has the columns {some(header)}; needed are {HEADER}. Correct its first line")
    pictures = [name for name in header if name.startswith("image")]
    found = Found(layout="table", cases=[], channels=_channels(pictures))
    splits: dict[str, str] = {}
    first_line: dict[str, int] = {}
    faults = []
    for line, cells in rows:
        if len(cells) != len(header) or not cells[header.index("case")]:
            faults.append(f"line {line} has {len(cells)} columns of {len(header)}, or no case")
            continue
        case = cells[header.index("case")]
        if case in first_line:
            faults.append(f"line {line} repeats case {short(case)} of line {first_line[case]}")
        first_line.setdefault(case, line)
        row = dict(zip(header, cells, strict=True))
        images = [cell for name, cell in zip(header, cells, strict=True) if name in pictures]
        splits[case] = row.get("split", "").casefold()
        if row.get("group"):
            found.groups[case] = row["group"]
        if row.get(PRESENT):
            found.labels_present[case] = [name.strip() for name in re.split(r"[|;,]", row[PRESENT]) if name.strip()]
        maps = (row.get("label", ""), row.get("classes", ""))
        _add_row(found, path, case, images, maps, test=splits[case] in TEST)
    if faults:
        raise DatasetError(f"{path}: {'; '.join(faults[:5])} ({len(faults)} in all). Correct these rows")
    found.splits = _splits({case.id: splits[case.id] for case in found.cases}, path)
    return found


def _add_row(found: Found, path: Path, case: str, images: Sequence[str], maps: tuple[str, str], *, test: bool) -> None:
    """Add a row's case; ``maps`` are its label and the map of classes beside that."""
    missing = [channel or "image" for channel, name in zip(found.channels, images, strict=True) if not name]
    files = tuple(resolve(name, path.parent) for name in images)
    label_file, classes = (resolve(name, path.parent) if name else None for name in maps)
    if missing:
        text = f"no file for {', '.join(missing)} in {path.name}"
        found.mismatches.append(Mismatch(case=case, kind="missing-channel", found=text))
    elif test:
        found.test_cases.append(Case(id=case, images=files, label=label_file, classes=classes))
    elif label_file is None:
        text = f"{files[0]} has no label in {path.name} (write test under split for a case to predict)"
        found.mismatches.append(Mismatch(case=case, kind="image-without-label", found=text))
    else:
        found.cases.append(Case(id=case, images=files, label=label_file, classes=classes))


def _channels(pictures: Sequence[str]) -> tuple[str, ...]:
    if len(pictures) == 1:
        return ("",)
    names = [re.sub(r"^image[_\-. ]*", "", name) for name in pictures]
    named = len(set(names)) == len(names) and all(re.search("[a-z]", name) for name in names)
    return tuple(names) if named else tuple(f"{number:04d}" for number in range(len(names)))


def _splits(sides: Mapping[str, str], path: Path) -> Splits | None:
    """Make folds of the column ``split``, where it says more than train and test."""
    said = {side for side in sides.values() if side not in TRAIN}
    source = f"column split of {path.name}"
    if not said:
        return None
    if said <= VALIDATION:
        train = tuple(case for case, side in sides.items() if side in TRAIN)
        return Splits(folds=(Fold(train=train, validation=tuple(set(sides) - set(train))),), source=source)
    if all(side.isdigit() for side in sides.values()):
        folds = []
        for number in sorted({int(side) for side in said}):
            validation = tuple(case for case, side in sides.items() if int(side) == number)
            folds.append(Fold(train=tuple(case for case in sides if case not in validation), validation=validation))
        return Splits(folds=tuple(folds), source=source)
    strange = sorted(side for side in said if side not in VALIDATION and not side.isdigit())
    shown = f"holds {strange[0]!r}" if strange else "mixes fold numbers with names, or leaves some empty"
    raise DatasetError(f"{source} {shown}. Use train, validation and test, or a fold's number for every case")


def _rows(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Give the header in lower case, and line number and cells of each row that is not empty."""
    lines = read_text(path).splitlines()
    first = next((line for line in lines if line.strip()), "")
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(lines, delimiter=delimiter)
    rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(cell.strip() for cell in row)]
    if not rows:
        raise DatasetError(f"{path} is empty. A table begins with {HEADER}")
    return [name.casefold() for name in rows[0][1]], rows[1:]
