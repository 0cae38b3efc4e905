"""Open a dataset: recognise its layout, name its channels and labels, join its groups and folds."""

import itertools
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from autoseg.data.cases import Case, Dataset, DatasetSource, Mismatch
from autoseg.data.dataset_json import (
    channels_of,
    classes_present,
    groups_of,
    labels_of,
    labels_present_of,
    read_json,
    splits_from,
)
from autoseg.data.folders import describe_folder, some, usual_ending
from autoseg.data.instance_labels import task_of, with_class_maps, with_instances
from autoseg.data.io import Image, open_image, open_label
from autoseg.data.layouts import Found, add_tests, find_decathlon, find_nnunet, find_plain, is_decathlon, plain_folders
from autoseg.data.splits import Splits, check_splits, mixed_groups
from autoseg.data.table import find_table, is_table
from autoseg.errors import DatasetError, ImageError
from planners.labels import LabelClass, Labels
from planners.records import LONGEST_NAME, is_file_name, short, shown

__all__ = ["Case", "Dataset", "DatasetSource", "Mismatch", "infer_labels", "open_dataset", "read_case"]

SPLITS_FILE = "splits_final.json"
GENERIC_NAMES = {"train", "training", "data", "dataset", "images", "image", "labels", "cases", "table", ""}
"""Names of folders and tables that say nothing of the dataset; the folder above gives the name then."""

MOST_VALUES = 1000
"""Label values of a semantic dataset beyond which the labels folder surely holds something else (assumption)."""


def open_dataset(source: DatasetSource) -> Dataset:
    """Understand what lies at a place the user names.

    Args:
        source: a folder, a table or a ``dataset.json``; or folders of images and labels.

    Returns:
        The dataset. No voxel has been read, and files that do not go together are in ``mismatches``.

    Raises:
        DatasetError: no layout is recognised, or what describes the dataset is faulty.
    """
    if source.dataset is not None:
        root, found = _recognise(source.dataset)
        if source.test is not None:
            found.test_cases = []
            add_tests(found, source.test, None)
    elif source.images is not None and source.labels is not None:
        root = _common_folder(source.images, source.labels)
        found = find_plain(source.images, source.labels, source.test)
        found.content, found.json_file = _description(root)
    else:
        raise DatasetError("no dataset is named. Name its folder or table, or give --images DIR and --labels DIR")
    return _finish(root, found, source)


def read_case(case: Case) -> tuple[Image, Image | None]:
    """Open a case's image and, where it has one, its label (headers only; ``read`` gives the voxels).

    Raises:
        ImageError: a file cannot be opened.
    """
    return open_image(case.images), None if case.label is None else open_label(case.label)


def infer_labels(values: Iterable[float]) -> Labels:
    """Make labels of the values found in the label files of a dataset that declares none.

    Args:
        values: all values (or a mapping that has them as keys), integers or floats that are integers.

    Returns:
        0, or else the smallest value, is ``background``; of two values the other is ``foreground``; of more each is
        ``label_VALUE``.

    Raises:
        DatasetError: there are fewer than two values, fractions, or far too many for classes.
    """
    found = sorted(set(values))
    fractions = [value for value in found if not float(value).is_integer()]
    if fractions:
        raise DatasetError(f"label files hold fractions ({fractions[0]:g}). Round them, or export the labels again")
    whole = [int(value) for value in found]
    if len(whole) < 2:
        raise DatasetError(
            f"label files hold {'the value ' + str(whole[0]) if whole else 'nothing'} only; a background and one more "
            "value are needed. Check the labels folder"
        )
    if len(whole) > MOST_VALUES:
        raise DatasetError(
            f"label files hold {len(whole)} values; they look like images or object numbers, not like classes. "
            "Check the labels folder, or declare the labels in dataset.json"
        )
    background = 0 if 0 in whole else whole[0]
    rest = [value for value in whole if value != background]
    names = ["foreground"] if len(rest) == 1 else [f"label_{value}" for value in rest]
    classes = [LabelClass(name=name, value=value) for name, value in zip(names, rest, strict=True)]
    return Labels(classes=(LabelClass(name="background", value=background), *classes))


def _recognise(place: Path) -> tuple[Path, Found]:
    """Find out which layout a folder or file has, and which dataset.json goes with it."""
    if not place.exists():
        raise DatasetError(f"{place} does not exist. Correct the name")
    root = place.parent if place.is_file() else place
    content, json_file = _description(root)
    if place.is_file() and place.name != "dataset.json":
        if not is_table(place) and place.suffix.lower() not in (".csv", ".tsv"):
            raise DatasetError(f"{place} is a file, but no table. Name a dataset folder, a CSV table or a dataset.json")
        place, found = place, find_table(place)
    else:
        place, found = _in_folder(root, content, json_file)
    found.content, found.json_file = content, json_file
    return place, found


def _description(root: Path) -> tuple[Mapping[str, Any], Path]:
    """Read the dataset.json of a folder; empty where there is none."""
    json_file = root / "dataset.json"
    content = read_json(json_file) if json_file.is_file() else {}
    if not isinstance(content, Mapping):
        raise DatasetError(f'{json_file} is no JSON object. Write it like {{"labels": …, "channel_names": …}}')
    return content, json_file


def _in_folder(root: Path, content: Mapping[str, Any], json_file: Path) -> tuple[Path, Found]:
    if content and is_decathlon(root, content):
        return root, find_decathlon(root, content, json_file)
    if content and ((root / "imagesTr").is_dir() or "dataset" in content):
        return root, find_nnunet(root, content, json_file)
    folders = plain_folders(root)
    if folders is not None:
        return root, find_plain(*folders)
    tables = [path for path in sorted(root.glob("*.csv")) if is_table(path)]
    if len(tables) == 1:
        return tables[0], find_table(tables[0])
    if content:
        return root, find_nnunet(root, content, json_file)  # it says what is missing
    raise DatasetError(
        f"{root} is no dataset that is known. Looked for dataset.json with imagesTr/ and labelsTr/ (nnU-Net v2) or a "
        f"training list (Decathlon), images/ and labels/, and one CSV table; found {describe_folder(root)}. "
        "Give --images DIR --labels DIR, or name a table"
    )


def _finish(root: Path, found: Found, source: DatasetSource) -> Dataset:
    """Name channels and labels, join groups and folds."""
    json_file = found.json_file or root
    _refuse_doubles(found)
    if not found.cases and not found.mismatches:
        raise DatasetError(f"{root} holds no training cases. Add images and their labels")
    declared = channels_of(found.content, json_file)
    if declared:
        _order_channels(found, declared)
    channels = declared or _name_channels(found)
    labels = with_instances(labels_of(found.content, json_file), found.content, json_file, source.task)
    cases, notes = _grouped(found, json_file, source.group_by)
    cases = with_class_maps(_with_annotated_classes(cases, root, found, labels), labels)
    tests = with_class_maps(found.test_cases, labels)
    splits, split_notes = _splits(root, found, cases)
    return Dataset(
        name=_name(root),
        root=root,
        layout=found.layout,
        channels=channels,
        labels=labels,
        cases=cases,
        test_cases=tuple(sorted(tests, key=lambda case: case.id)),
        splits=splits,
        file_ending=usual_ending([case.images[0] for case in found.cases]),
        mismatches=tuple(sorted(found.mismatches, key=lambda item: (item.case, item.kind))),
        notes=(*found.notes, *notes, *split_notes),
        task=task_of(labels, source.task),
    )


def _refuse_doubles(found: Found) -> None:
    for cases in (found.cases, found.test_cases):
        ids = sorted(case.id for case in cases)
        twice = [first for first, second in itertools.pairwise(ids) if first == second]
        if twice:
            raise DatasetError(f"case {short(twice[0])} is there twice. Give every case a name of its own")
        strange = [name for name in ids if not is_file_name(name)]
        if strange:
            raise DatasetError(
                f"a case is named {shown(strange[0])}, and files are named after it. Give it a name of letters that "
                f"can be printed, without / and \\, of at most {LONGEST_NAME} bytes"
            )


def _order_channels(found: Found, declared: Sequence[str]) -> None:
    """Bring channels whose files are told apart by name (``_t1``) into the order in which they are declared."""
    suffixes = [name.casefold() for name in found.channels]
    wanted = [name.casefold() for name in declared]
    if len(suffixes) < 2 or all(name.isdigit() for name in suffixes):
        return
    if sorted(suffixes) != sorted(wanted):
        found.notes.append(f"the files end in {', '.join(suffixes)}, dataset.json names them {', '.join(declared)}")
        return
    order = [suffixes.index(name) for name in wanted]
    for cases in (found.cases, found.test_cases):
        cases[:] = [replace(case, images=tuple(case.images[index] for index in order)) for case in cases]


def _name_channels(found: Found) -> tuple[str, ...]:
    """Name channels that nothing declares: by their files' suffix, or by looking into the first readable case."""
    if len(found.channels) > 1:
        return tuple(f"channel_{int(name)}" if name.isdigit() else name for name in found.channels)
    for case in found.cases:
        try:
            image = open_image(case.images)
        except ImageError:
            continue  # the check reports it
        if image.num_channels == 3 and image.geometry.dimensions == 2:
            return ("red", "green", "blue")
        if image.num_channels > 1:
            return tuple(f"channel_{number}" for number in range(image.num_channels))
        return ("CT",) if image.modality == "CT" else ("image",)
    return ("image",)


def _grouped(found: Found, json_file: Path, group_by: str | None) -> tuple[tuple[Case, ...], list[str]]:
    declared, odd = groups_of(found.content, json_file)
    groups = {**declared, **found.groups}
    known_ids = {case.id for case in found.cases}
    found.mismatches += [
        Mismatch(case=case, kind="case-in-two-groups", found=what) for case, what in odd.items() if case in known_ids
    ]
    known = {case.id for case in found.cases} | {item.case for item in found.mismatches}
    unknown = sorted(set(groups) - known - {case.id for case in found.test_cases})
    notes = [f"groups name {len(unknown)} cases that the dataset does not have: {some(unknown)}"] if unknown else []
    if group_by is not None:
        groups = _groups_by(group_by, [case.id for case in found.cases])
    cases = [replace(case, group=groups.get(case.id)) for case in found.cases]
    return tuple(sorted(cases, key=lambda case: case.id)), notes


def _with_annotated_classes(cases: Sequence[Case], root: Path, found: Found, labels: Labels | None) -> tuple[Case, ...]:
    """Join what the cases of partly labelled datasets have been annotated for."""
    known = {case.id for case in (*cases, *found.test_cases)} | {item.case for item in found.mismatches}
    json_file = found.json_file or root
    listed = labels_present_of(found.content, json_file)
    present = classes_present(listed, labels, known, f"{json_file}: labels_present")
    present |= classes_present(found.labels_present, labels, known, f"column labels_present of {root}")
    return tuple(replace(case, annotated_classes=present.get(case.id)) for case in cases)


def _groups_by(pattern: str, case_ids: Sequence[str]) -> dict[str, str]:
    try:
        expression = re.compile(pattern)
    except re.error as fault:
        raise DatasetError(f"--group-by {pattern!r} is no regular expression: {fault}. Correct it") from fault
    matches = {case: expression.search(case) for case in case_ids}
    without = sorted(case for case, match in matches.items() if match is None)
    if without:
        raise DatasetError(f"--group-by {pattern!r} does not match {some(without)}. Widen the expression")
    return {case: match[1] if match.re.groups else match[0] for case, match in matches.items() if match is not None}


def _splits(root: Path, found: Found, cases: Sequence[Case]) -> tuple[Splits | None, list[str]]:
    file = (root if root.is_dir() else root.parent) / SPLITS_FILE
    splits = found.splits or (splits_from(file) if file.is_file() else None)
    if splits is None:
        return None, []
    check_splits(splits, {case.id for case in cases} | {item.case for item in found.mismatches})
    mixed = mixed_groups(splits, {case.id: case.group for case in cases if case.group is not None})
    notes = [f"{splits.source} has groups both in train and in validation: {some(mixed)}"] if mixed else []
    return splits, notes


def _common_folder(images: Path, labels: Path) -> Path:
    return Path(os.path.commonpath([images.resolve(), labels.resolve()]))


def _name(root: Path) -> str:
    place = root.resolve()
    name = place.stem if place.is_file() else place.name
    for parent in place.parents:
        if name.casefold() not in GENERIC_NAMES:
            return name
        name = parent.name
    return "dataset"
