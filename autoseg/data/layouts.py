"""The layouts a dataset may have on disk, recognised by looking: nnU-Net v2, Decathlon, plain folders, a table.

Files that do not go together are listed as mismatches instead of stopping here, so that the check can report all of
them at once.
"""

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoseg.data import matching
from autoseg.data.cases import Case, Mismatch
from autoseg.data.dataset_json import channels_of
from autoseg.data.folders import describe_folder, list_images, some
from autoseg.data.io import image_stem
from autoseg.data.splits import Splits
from autoseg.errors import DatasetError
from planners.records import short, shown

IMAGES = ("images", "image", "imgs", "img", "imagesTr")
LABELS = ("labels", "label", "masks", "annotations", "segmentations", "gt", "labelsTr")
TESTS = ("test", "imagesTs", "test_images", "images_test", "test/images", "test/image")
PARENTS = ("", "train", "training")
"""Names under which the folders of a plain layout are looked for."""

LONGEST_PART, LONGEST_PATH = 255, 4095
"""Bytes of a file's name and of a whole path; Linux takes no more (limits.h)."""


@dataclass(kw_only=True)
class Found:
    """What a layout gives: cases as the files tell, before channels are named and groups are joined.

    Attributes:
        layout: in words.
        cases, test_cases: with their files.
        channels: what tells the channels' files apart (``0000``, ``t1``); one empty text for one file per case.
        content, json_file: the dataset.json, where there is one.
        mismatches, notes: as in ``Dataset``.
        groups: case → group, as far as the layout tells.
        labels_present: case → names of the classes annotated in it, as far as the layout tells.
        splits: folds, where the layout tells them.
    """

    layout: str
    cases: list[Case]
    test_cases: list[Case] = field(default_factory=list)
    channels: tuple[str, ...] = (matching.ONLY_CHANNEL,)
    content: Mapping[str, Any] = field(default_factory=dict)
    json_file: Path | None = None
    mismatches: list[Mismatch] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    groups: dict[str, str] = field(default_factory=dict)
    labels_present: dict[str, list[str]] = field(default_factory=dict)
    splits: Splits | None = None


def find_nnunet(root: Path, content: Mapping[str, Any], json_file: Path) -> Found:
    """Read nnU-Net v2's layout: ``imagesTr/CASE_0000.ext``, ``labelsTr/CASE.ext``, or the ``dataset`` table.

    Raises:
        DatasetError: folders or files are missing, or ``dataset.json`` cannot be understood.
    """
    if "dataset" in content:
        cases, alone = _table_in_json(content["dataset"], root, json_file)
        found = Found(layout="nnU-Net v2 with a file table", cases=cases, mismatches=alone)
    else:
        absent = [name for name in ("imagesTr", "labelsTr") if not (root / name).is_dir()]
        if absent:
            raise DatasetError(
                f"{root} has a dataset.json, but no folder {' and no '.join(absent)} (it holds "
                f"{describe_folder(root)}). Add it, or list the files under 'dataset' in dataset.json"
            )
        declared = len(channels_of(content, json_file) or ())
        found = _from_folders(root / "imagesTr", root / "labelsTr", layout="nnU-Net v2", strict=True, declared=declared)
    if (root / "imagesTs").is_dir() and any((root / "imagesTs").iterdir()):
        add_tests(found, root / "imagesTs", root / "labelsTs")
    return found


def find_decathlon(root: Path, content: Mapping[str, Any], json_file: Path) -> Found:
    """Read the layout of the Medical Segmentation Decathlon: a ``training`` list of image and label files.

    Raises:
        DatasetError: the list cannot be understood.
    """
    cases = []
    for entry in content["training"]:
        if not isinstance(entry, Mapping) or not {"image", "label"} <= set(entry):
            raise DatasetError(f'{json_file}: {shown(entry)} under training is no pair {{"image": …, "label": …}}')
        images = _files(entry["image"], root, json_file)
        cases.append(Case(id=image_stem(images[0]), images=images, label=resolve(entry["label"], root)))
    tests, listed = [], content.get("test") or []
    if not isinstance(listed, list):
        raise DatasetError(f"{json_file}: test is {shown(listed)}; list the images to predict, or leave it out")
    for entry in listed:
        images = _files(_image_of(entry), root, json_file)
        tests.append(Case(id=image_stem(images[0]), images=images))
    absent = [case.id for case in tests if not all(path.exists() for path in case.images)]
    notes = [f"{len(absent)} test images of dataset.json do not exist: {some(absent)}"] if absent else []
    return Found(
        layout="Medical Segmentation Decathlon",
        cases=cases,
        test_cases=[case for case in tests if case.id not in absent],
        notes=notes,
    )


def is_decathlon(root: Path, content: Mapping[str, Any]) -> bool:
    """Say whether a dataset.json lists its files; nnU-Net v1 wrote such lists, too, but added channels to the names."""
    listed = content.get("training")
    if not isinstance(listed, list) or not listed:
        return False
    first = listed[0].get("image") if isinstance(listed[0], Mapping) else None
    if not isinstance(first, str):
        return True
    path = resolve(first, root)
    ending = path.name[len(image_stem(path)) :]
    return path.exists() or not path.with_name(f"{image_stem(path)}_0000{ending}").exists()


def find_plain(images: Path, labels: Path, test: Path | None) -> Found:
    """Read two folders, images and labels, matched by name.

    Raises:
        DatasetError: a folder is empty or missing, or no image goes with any label.
    """
    found = _from_folders(images, labels, layout=f"plain folders {images.name}/ and {labels.name}/")
    if test is not None:
        add_tests(found, test, None)
    return found


def plain_folders(root: Path) -> tuple[Path, Path, Path | None] | None:
    """Look for the folders of images, labels and test images under their usual names."""
    for parent in PARENTS:
        images = [root / parent / name for name in IMAGES if (root / parent / name).is_dir()]
        labels = [root / parent / name for name in LABELS if (root / parent / name).is_dir()]
        if images and labels:
            tests = [root / name for name in TESTS if (root / name).is_dir() and _has_images(root / name)]
            return images[0], labels[0], tests[0] if tests else None
    return None


def _has_images(folder: Path) -> bool:
    try:
        return bool(list_images(folder))
    except DatasetError:
        return False


def _from_folders(images: Path, labels: Path, *, layout: str, strict: bool = False, declared: int = 0) -> Found:
    if images.resolve() == labels.resolve():
        raise DatasetError(
            f"{images} is given for both images and labels. Put them in two folders, or give a CSV table"
        )
    image_files, notes = list_images(images)
    label_files, label_notes = list_images(labels, series=False)
    result = matching.match(image_files, label_files, strict=strict)
    if result is None:
        fix = "Name them CASE_0000.ext and CASE.ext" if strict else "Give image and label the same name, or a CSV table"
        raise DatasetError(
            f"no image goes with any label: {images} holds {some([p.name for p in image_files.values()])}; "
            f"{labels} holds {some([p.name for p in label_files.values()])}. {fix}"
        )
    if len(result.channels) > 1 and declared > 1:
        result = dataclasses.replace(result, channels=tuple(f"{number:04d}" for number in range(declared)))
    cases = [
        Case(id=name, images=files, label=result.labels[name])
        for name, files in matching.complete_cases(result).items()
    ]
    notes += [*label_notes, *([result.how] if result.how else [])]
    return Found(
        layout=layout, cases=cases, channels=result.channels, mismatches=matching.mismatches(result), notes=notes
    )


def add_tests(found: Found, images: Path, labels: Path | None) -> None:
    """Take the images of a folder as cases to predict; labels of the same names are kept for scoring.

    Raises:
        DatasetError: the folder does not exist or holds no images.
    """
    files, notes = list_images(images)
    found.notes += notes
    known = list_images(labels, series=False)[0] if labels is not None and labels.is_dir() else {}
    for case, channels in sorted(matching.group_channels(files, found.channels).items()):
        if set(channels) != set(found.channels):
            missing = ", ".join(sorted(set(found.channels) - set(channels)))
            found.notes.append(f"test case {case} is not predicted: channel {missing} is missing in {images}")
            continue
        paths = tuple(channels[name] for name in found.channels)
        found.test_cases.append(Case(id=case, images=paths, label=known.get(case)))


def _table_in_json(table: Any, root: Path, json_file: Path) -> tuple[list[Case], list[Mismatch]]:
    if not isinstance(table, Mapping) or not table:
        raise DatasetError(f'{json_file}: dataset is no table. Write {{"CASE": {{"images": [...], "label": ...}}}}')
    cases, alone = [], []
    for name, entry in table.items():
        if not isinstance(entry, Mapping) or not entry.get("images"):
            raise DatasetError(f"{json_file}: case {short(name)} under dataset has no images. Add them")
        images = _files(entry["images"], root, json_file)
        if not entry.get("label"):
            text = f"{images[0]} has no label in {json_file.name}"
            alone.append(Mismatch(case=name, kind="image-without-label", found=text))
            continue
        classes = resolve(entry["classes"], root) if entry.get("classes") else None
        cases.append(Case(id=name, images=images, label=resolve(entry["label"], root), classes=classes))
    return cases, alone


def _image_of(entry: Any) -> Any:
    return entry.get("image") if isinstance(entry, Mapping) else entry


def _files(value: Any, root: Path, json_file: Path) -> tuple[Path, ...]:
    """Resolve one file's name or a list of them."""
    if value == []:
        raise DatasetError(f"{json_file}: a case's list of images is empty. Add its files, or take the case out")
    return tuple(resolve(name, root) for name in (value if isinstance(value, list) else [value]))


def resolve(name: Any, root: Path) -> Path:
    """Give the file that a table names: variables and ``~`` expanded, relative to the table's folder.

    Raises:
        DatasetError: no file system takes such a name.
    """
    path = Path(os.path.normpath(root / os.path.expanduser(os.path.expandvars(str(name)))))
    longest = max(len(part.encode(errors="replace")) for part in path.parts)
    if longest > LONGEST_PART or len(str(path).encode(errors="replace")) > LONGEST_PATH:
        raise DatasetError(
            f"{root}: the file name {short(str(name))} has {len(str(name))} letters, more than file systems take. "
            "Correct it in the table or dataset.json"
        )
    return path
