"""Problem: one thing wrong with a dataset, and the table of all kinds there are."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

SHOWN = 5
"""Problems of one kind that are written in full."""

FILE_AT_END = re.compile(r" \([^()]*\)$")
"""The file in brackets with which a message may end; problems that differ by it alone are written together."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing wrong with a dataset.

    Attributes:
        case: which case; None for the dataset as a whole.
        kind: a name in ``KINDS``.
        found: what was found, with numbers and the file.
        fix: what to do.
        stops: whether the run cannot go on with it; otherwise it is a warning.
        other: another case that it is about too; None where there is none.
    """

    case: str | None
    kind: str
    found: str
    fix: str
    stops: bool
    other: str | None = None


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of problem: what it means and what to do about it."""

    stops: bool
    meaning: str
    fix: str


def problem(kind: str, case: str | None, found: str, fix: str = "") -> Problem:
    """Make a problem of a kind; what to do is said by the kind unless it is given."""
    entry = KINDS[kind]
    return Problem(case=case, kind=kind, found=found, fix=fix or entry.fix, stops=entry.stops)


def line(item: Problem) -> str:
    """Write one problem in one line."""
    where = "" if item.case is None else f"case {item.case}: "
    return f"{where}{item.found}. {item.fix}. [{item.kind}]"


def list_lines(problems: Sequence[Problem]) -> list[str]:
    """Write problems one a line, by case; equal ones together, and of many of one kind the first few in full."""
    alike: dict[tuple[str, str, str], list[Problem]] = {}
    for item in sorted(problems, key=lambda item: item.case or ""):
        alike.setdefault((item.kind, item.fix, FILE_AT_END.sub("", item.found)), []).append(item)
    single: dict[str, list[Problem]] = {}
    lines = []
    for (kind, fix, found), items in alike.items():
        if len(items) > 1:
            lines.append(f"  {found} for {len(items)} cases: {_names(items)}. {fix}. [{kind}]")
            continue
        same = single.setdefault(kind, [])
        same.append(items[0])
        if len(same) <= SHOWN:
            lines.append("  " + line(items[0]))
    for kind, items in single.items():
        if len(items) > SHOWN:
            lines.append(f"  and for {count(len(items) - SHOWN, 'more case')}: {_names(items[SHOWN:])}. [{kind}]")
    return lines


def count(number: int, what: str) -> str:
    """Write a number with its noun, such as ``1 case`` or ``3 cases``."""
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def _names(problems: Sequence[Problem]) -> str:
    return ", ".join(item.case or "the dataset" for item in problems)


def _stops(meaning: str, fix: str) -> Kind:
    return Kind(stops=True, meaning=meaning, fix=fix)


def _warns(meaning: str, fix: str) -> Kind:
    return Kind(stops=False, meaning=meaning, fix=fix)


KINDS: dict[str, Kind] = {
    "unreadable-file": _stops(
        "a file is missing, truncated, damaged or of an unknown format",
        "Copy or export the file again, or remove the case",
    ),
    "label-shape": _stops(
        "image and label have different numbers of voxels",
        "Export both from the same grid",
    ),
    "label-geometry": _stops(
        "image and label have equal shapes, but lie elsewhere in space: flipped, shifted, scaled or rotated",
        "Look at both in a viewer: if the voxels fit, copy the image's header to the label; "
        "if not, export the label again from the image's grid",
    ),
    "missing-channel": _stops(
        "a case has fewer channels than the dataset",
        "Add the file of that channel, or remove the case",
    ),
    "extra-channel": _stops(
        "a case has more channels than the dataset",
        "Remove the surplus file, or declare the channel and give it to every case",
    ),
    "channel-shape": _stops(
        "the channels of a case have different numbers of voxels",
        "Resample the channels of a case to one grid",
    ),
    "channel-geometry": _stops(
        "the channels of a case have equal shapes, but lie elsewhere in space",
        "Look at them in a viewer: if the voxels fit, copy one header to the others; if not, resample them to one grid",
    ),
    "undeclared-label": _stops(
        "a label file holds a value that the dataset does not declare",
        "Declare the value under labels in dataset.json, or correct the file",
    ),
    "unannotated-label": _stops(
        "a label file holds a class that labels_present does not name for its case",
        "Add the class under labels_present, or correct the file",
    ),
    "fractional-label": _stops(
        "a label file holds values that are no integers",
        "Resample labels with nearest neighbour, or round them",
    ),
    "image-as-label": _stops(
        "a file in the labels folder holds intensities, or was stored as JPEG, which changes label values",
        "Put the label file there; of a smoothed or JPEG mask, make a new one with one value per class",
    ),
    "no-ids": _stops(
        "a map of ids of objects holds fractions or negative numbers",
        "Give every object a whole number from 1, and 0 to what is none",
    ),
    "mask-as-instances": _stops(
        "objects are to be told apart, and every file holds one number alone, in many pieces: they are masks",
        "Number the objects, such as with scipy.ndimage.label where they do not touch, or take --task semantic",
    ),
    "missing-classes": _stops(
        "there are several classes, and a map of ids has no map of classes beside it",
        "Put it into the folder classes/ in the folder of labels under the label's name, or into the table's column",
    ),
    "classes-shape": _stops(
        "a map of ids and its map of classes have different numbers of voxels",
        "Export both from the same grid",
    ),
    "classes-geometry": _stops(
        "a map of ids and its map of classes have equal shapes, but lie elsewhere in space",
        "Look at both in a viewer: if the voxels fit, copy one header to the other; if not, export both from one grid",
    ),
    "ids-against-classes": _stops(
        "ids and classes disagree: an object is background or of two classes, or voxels of a class are of no object",
        "Give every voxel of an object its id and one class; what nobody can tell apart gets the ignore label",
    ),
    "no-foreground": _stops(
        "no label file holds anything but background",
        "Check that the labels folder holds the annotations",
    ),
    "no-labels": _stops(
        "no labels are declared, and the files do not tell them",
        "Declare the labels in dataset.json",
    ),
    "mixed-dimensions": _stops(
        "some images are 2D, others are 3D",
        "Keep 2D and 3D images in separate datasets",
    ),
    "image-without-label": _stops(
        "an image has no label of the same name",
        "Add the label, rename it, or move the image to the test images",
    ),
    "label-without-image": _stops(
        "a label has no image of the same name",
        "Add the image, rename one of the two, or remove the label",
    ),
    "disk-space": _stops(
        "the preprocessed cases will not fit on the disk",
        "Free space, or give a run folder on another disk with --out",
    ),
    "geometry-noise": _warns(
        "headers of one case differ by less than a tenth of a voxel; the first image's geometry is used",
        "Nothing to do; the difference is rounding",
    ),
    "constant-image": _warns(
        "a channel has one value everywhere",
        "Check the file: nothing can be learned from it",
    ),
    "extreme-spacing": _warns(
        "the voxels of a case are far larger or smaller than those of the others",
        "Check the header: millimetres, micrometres and metres are easily confused",
    ),
    "extreme-size": _warns(
        "a case has far more or fewer voxels than the others",
        "Check that it shows the same part of the body; crop it if not",
    ),
    "mixed-orientations": _warns(
        "the axes of a case run in other directions than those of most cases",
        "Reorient all cases alike if the sides of the body matter; test images must then come the same way",
    ),
    "duplicate-image": _warns(
        "two cases hold the same image",
        "Remove one of the two: in different folds they make the scores too good",
    ),
    "duplicate-across-groups": _warns(
        "two cases of different groups hold the same image",
        "Give both the same group, or remove one: folds are meant to keep groups apart",
    ),
    "case-in-two-groups": _warns(
        "the dataset names one case in two groups",
        "Keep one of the groups",
    ),
    "rare-class": _warns(
        "a class is absent from most cases",
        "Check that these values are meant; a class that few cases show is learned badly",
    ),
    "region-order": _warns(
        "regions painted in the order of regions_class_order do not give every class back",
        "List enclosing regions first, or leave regions_class_order out: the way back is then derived",
    ),
    "equal-classes": _warns(
        "no region tells these classes apart",
        "Nothing to do if that is meant: predictions hold one of them",
    ),
    "class-without-region": _warns(
        "a class is in no region",
        "Nothing to do if that is meant: it is predicted as background",
    ),
    "instance-like-labels": _warns(
        "many label values, each one connected piece: they look like numbers of objects, and are taken as classes",
        "If they number objects, take --task instance; otherwise give all objects of a class one value",
    ),
    "mask-like-ids": _warns(
        "a map of ids holds one id alone, in several pieces: it looks like a mask of all objects",
        "Give each object a number of its own",
    ),
    "ids-in-pieces": _warns(
        "many ids of a map are not one connected piece: ids may be used twice, or be cut off by a small number type",
        "Look at the map: give each object a number of its own, in 16 or 32 bits where there are more than 255",
    ),
    "ignore-among-ids": _warns(
        "a map of ids holds the ignore label's value, and ids below and above it: it may be an object",
        "If it is one, declare a value that no object has as ignore, such as -1, or mark what is ignored in classes/",
    ),
    "no-objects": _warns(
        "a map of ids holds no object",
        "Nothing to do if the image shows none; otherwise add its annotation",
    ),
    "non-finite-voxels": _warns(
        "an image holds NaN or infinite voxels; they are replaced",
        "Check how the file was made",
    ),
    "long-preprocessing": _warns(
        "preprocessing will take an hour or more on this machine",
        "Nothing to do but wait; it goes on where it stopped when interrupted",
    ),
}
"""All kinds of problems, the ones that stop a run first."""
