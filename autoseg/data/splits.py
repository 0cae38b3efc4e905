"""Folds: which cases validate which network. The default folds are nnU-Net's, so that fold 0 means the same cases."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from autoseg.errors import DatasetError
from planners.records import short

NUM_FOLDS = 5  # nnU-Net v2's, as is the seed
SEED = 12345


@dataclass(frozen=True, kw_only=True)
class Fold:
    """One fold: the cases a network is trained on, and the cases it is measured on."""

    train: tuple[str, ...]
    validation: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Splits:
    """All folds of a run, and where they come from (in words)."""

    folds: tuple[Fold, ...]
    source: str


def make_splits(
    case_ids: Iterable[str],
    groups: Mapping[str, str] | None = None,
    num_folds: int = NUM_FOLDS,
    seed: int = SEED,
) -> Splits:
    """Make the default folds; with fewer cases (or groups) than folds, as many folds as there are cases.

    Args:
        case_ids: all training cases.
        groups: case → group; cases of one group stay together. Cases without a group are groups of their own.
        num_folds: how many folds.
        seed: of the shuffling.

    Returns:
        The folds. Without groups they are those of scikit-learn's ``KFold(num_folds, shuffle=True,
        random_state=seed)`` over the sorted ids. With groups, groups are shuffled and dealt out, the largest first,
        each to the fold with the fewest cases.

    Raises:
        DatasetError: there is but one case or one group.

    Source: nnU-Net v2.8.1 (five folds, seed 12345); scikit-learn 1.5, ``model_selection.KFold``.
    """
    ordered = sorted(case_ids)
    group_of = {case: (groups or {}).get(case) for case in ordered}
    if any(group is not None for group in group_of.values()):
        return _grouped(ordered, group_of, num_folds, seed)
    if len(ordered) < 2:
        raise DatasetError(
            f"{len(ordered)} case cannot be cross-validated; at least 2 are needed. "
            "Add cases, or train on everything without validation with --folds all-data"
        )
    count = min(num_folds, len(ordered))
    shuffled = np.random.RandomState(seed).permutation(len(ordered))
    parts = [{ordered[index] for index in part} for part in np.array_split(shuffled, count)]
    fewer = "" if count == num_folds else f", fewer than {num_folds} for want of cases"
    return _splits(ordered, parts, f"{count} folds, shuffled with seed {seed}{fewer}")


def all_data_split(case_ids: Iterable[str]) -> Splits:
    """Make the one fold that trains on every case and validates on the same, for ``--folds all-data``."""
    cases = tuple(sorted(case_ids))
    return Splits(folds=(Fold(train=cases, validation=cases),), source="all cases, without cross-validation")


def check_splits(splits: Splits, case_ids: Iterable[str]) -> None:
    """Compare folds that the user gave with the cases there are.

    Raises:
        DatasetError: a fold names an unknown case, has a case on both sides or twice, or has an empty side.
    """
    known = set(case_ids)
    faults = []
    for number, fold in enumerate(splits.folds):
        unknown = sorted({*fold.train, *fold.validation} - known)
        if unknown:
            faults.append(f"fold {number} names {_some(unknown)}, which the dataset does not have")
        both = sorted(set(fold.train) & set(fold.validation))
        if both:
            faults.append(f"fold {number} has {_some(both)} both in train and in validation")
        twice = [case for side in (fold.train, fold.validation) for case, n in Counter(side).items() if n > 1]
        if twice:
            faults.append(f"fold {number} names {_some(sorted(twice))} twice")
        faults += [f"fold {number} has no {side} cases" for side in ("train", "validation") if not getattr(fold, side)]
    if not splits.folds:
        faults.append("it has no folds")
    if faults:
        raise DatasetError(f"{splits.source}: {'; '.join(faults)}. Correct it, or remove it to have folds made")


def mixed_groups(splits: Splits, groups: Mapping[str, str]) -> list[str]:
    """List the groups that a fold has both in train and in validation."""
    mixed = set()
    for fold in splits.folds:
        train = {groups[case] for case in fold.train if case in groups}
        mixed |= train & {groups[case] for case in fold.validation if case in groups}
    return sorted(mixed)


def _grouped(ordered: Sequence[str], group_of: Mapping[str, str | None], num_folds: int, seed: int) -> Splits:
    members: dict[tuple[bool, str], list[str]] = {}
    for case in ordered:
        group = group_of[case]
        members.setdefault((group is None, group or case) if group is not None else (True, case), []).append(case)
    if len(members) < 2:
        raise DatasetError(
            f"all {len(ordered)} cases are of one group and cannot be cross-validated. "
            "Correct the groups, or train on everything without validation with --folds all-data"
        )
    count = min(num_folds, len(members))
    keys = sorted(members)
    shuffled = [keys[index] for index in np.random.RandomState(seed).permutation(len(keys))]
    parts: list[set[str]] = [set() for _ in range(count)]
    for key in sorted(shuffled, key=lambda key: -len(members[key])):  # stable: equal sizes stay shuffled
        min(parts, key=len).update(members[key])
    return _splits(ordered, parts, f"{count} folds of {len(members)} groups, shuffled with seed {seed}")


def _splits(ordered: Sequence[str], parts: Sequence[set[str]], source: str) -> Splits:
    folds = tuple(
        Fold(
            train=tuple(case for case in ordered if case not in part),
            validation=tuple(case for case in ordered if case in part),
        )
        for part in parts
    )
    return Splits(folds=folds, source=source)


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(short, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
