"""What makes a fold's score too good, or leaves it without one: shared images or patients, classes one side lacks.

A network that has seen a validation case, or another scan of its patient, is measured too well. A class that no
training case of a fold shows cannot be learnt there; one that no validation case shows is not measured there.
"""

import re
from collections.abc import Iterator, Mapping, Sequence

from autoseg.data.splits import Fold, Splits
from planners.records import short

PATIENT = re.compile(r"^(?P<patient>.*\d\d.*)[_.\-](?P<scan>[^_.\-]+)$")
"""An id that may name a patient and a scan: a number of at least two digits, and one more part after it."""
LEAST_PATIENTS = 3
"""Assumption: fewer different beginnings are sites, years or names of the dataset."""
SHOWN = 3


def fold_warnings(
    splits: Splits,
    *,
    class_voxels: Mapping[str, Sequence[int | None]],
    classes: Sequence[str],
    twins: Sequence[tuple[str, str]] = (),
    groups: Mapping[str, str] | None = None,
) -> list[str]:
    """Word all that is to be said of the folds, with the cases.

    Args:
        splits: the folds.
        class_voxels: per measured case, voxels of each class (background first); None: not annotated for it.
        classes: their names, background first.
        twins: pairs of cases that hold the same image.
        groups: case → group, where the user gave any; then names are not guessed from.
    """
    folds = [(number, fold) for number, fold in enumerate(splits.folds) if set(fold.train) != set(fold.validation)]
    found = list(_shared_images(folds, twins))
    if not groups:
        found += _shared_patients(folds)
    for number, fold in folds:
        found += _unseen(number, fold, class_voxels, classes)
    return found


def _shared_images(folds: Sequence[tuple[int, Fold]], twins: Sequence[tuple[str, str]]) -> Iterator[str]:
    for one, other in twins:
        torn = [number for number, fold in folds if _apart(fold, one, other)]
        if torn:
            yield (
                f"leakage: cases {short(one)} and {short(other)} hold the same image, and {_folds(torn)} on one and "
                "validate on the other: the score is too good. Remove one of the two, or give both one group"
            )


def _shared_patients(folds: Sequence[tuple[int, Fold]]) -> Iterator[str]:
    """Guess patients from ids such as ``patient012_frame01``; say so once for all."""
    scans: dict[str, list[str]] = {}
    for case in sorted({case for _, fold in folds for case in (*fold.train, *fold.validation)}):
        match = PATIENT.match(case)
        if match:
            scans.setdefault(match["patient"], []).append(case)
    several = {patient: cases for patient, cases in scans.items() if len(cases) > 1}
    if len(scans) < LEAST_PATIENTS or not several:
        return
    torn = {
        patient: cases
        for patient, cases in several.items()
        if any(_apart(fold, cases[0], case) for _, fold in folds for case in cases[1:])
    }
    if torn:
        shown = "; ".join(", ".join(map(short, cases[:SHOWN])) for cases in list(torn.values())[:SHOWN])
        more = f" and {len(torn) - SHOWN} more such groups" if len(torn) > SHOWN else ""
        yield (
            f"leakage: by their names these cases may be of one patient each, and folds train on one and validate on "
            f"another: {shown}{more}. If they are, keep them together with --group-by '^(.*)[_.-]' in a new folder "
            "(--out)"
        )


def _apart(fold: Fold, one: str, other: str) -> bool:
    sides = [(one in side, other in side) for side in (set(fold.train), set(fold.validation))]
    return any(here[0] and there[1] for here, there in (sides, sides[::-1]))


def _unseen(
    number: int, fold: Fold, class_voxels: Mapping[str, Sequence[int | None]], classes: Sequence[str]
) -> Iterator[str]:
    """Name the foreground classes that one side of a fold lacks; cases that were not measured may show any."""
    for index, name in list(enumerate(classes))[1:]:
        train, validation = (_showing(cases, class_voxels, index) for cases in (fold.train, fold.validation))
        if train is None or validation is None:
            continue
        if not train and validation:
            yield (
                f"fold {number}: no training case shows {name}, only validation cases do ({_some(validation)}): it "
                "cannot be learnt there, and its score will be 0. Add cases that show it, or give your own folds"
            )
        elif train and not validation:
            shown = f"{len(train)} training case{'s' * (len(train) > 1)} do{'es' * (len(train) == 1)}"
            yield f"fold {number}: no validation case shows {name}, {shown}: it is not measured there"


def _showing(cases: Sequence[str], class_voxels: Mapping[str, Sequence[int | None]], index: int) -> list[str] | None:
    """List the cases that show a class; None where that is not known of some."""
    if any(case not in class_voxels for case in cases):
        return None
    return [case for case in cases if class_voxels[case][index]]


def _folds(numbers: Sequence[int]) -> str:
    named = ", ".join(map(str, numbers))
    return f"fold {named} trains" if len(numbers) == 1 else f"folds {named} train"


def _some(cases: Sequence[str]) -> str:
    return ", ".join(map(short, cases[:SHOWN])) + (f" and {len(cases) - SHOWN} more" if len(cases) > SHOWN else "")
