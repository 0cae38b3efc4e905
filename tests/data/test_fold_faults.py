"""Folds that measure too well, or not at all, are told with their cases; sound ones are not."""

from types import SimpleNamespace

import pytest

from autoseg.data.check_across import check_duplicates
from autoseg.data.check_case import CaseFacts
from autoseg.data.fold_faults import fold_warnings
from autoseg.data.splits import Fold, Splits, all_data_split, make_splits

CLASSES = ("background", "liver", "tumour")


def warnings_of(splits: Splits, **given: object) -> list[str]:
    return fold_warnings(splits, **{"class_voxels": {}, "classes": CLASSES, **given})  # type: ignore[arg-type]


def two_folds(first: tuple[str, ...], second: tuple[str, ...]) -> Splits:
    return Splits(folds=(Fold(train=first, validation=second), Fold(train=second, validation=first)), source="test")


def test_equal_images_on_both_sides_of_a_fold() -> None:
    splits = two_folds(("a", "b"), ("c", "d"))
    (text,) = warnings_of(splits, twins=[("a", "c"), ("a", "b")])
    assert text.startswith("leakage: cases a and c hold the same image, and folds 0, 1 train on one")
    assert warnings_of(all_data_split("abcd"), twins=[("a", "c")]) == []


def test_scans_of_one_patient_are_recognised_by_their_names() -> None:
    ids = [f"patient{number:03}_frame{frame:02}" for number in range(10) for frame in (1, 12)]
    (text,) = warnings_of(make_splits(ids))
    assert "patient000_frame01, patient000_frame12" in text
    assert "more such groups" in text
    assert "--group-by '^(.*)[_.-]'" in text
    groups = {case: case.rsplit("_", 1)[0] for case in ids}
    assert warnings_of(make_splits(ids, groups), groups=groups) == []
    assert warnings_of(make_splits(ids, groups)) == []  # kept together all the same


@pytest.mark.parametrize(
    "ids",
    [
        [f"hippocampus_{number:03}" for number in range(20)],
        [f"FLARE22_Tr_{number:04}" for number in range(20)],
        [f"site{site}_{number:03}" for site in range(4) for number in range(5)],
        [f"{number}_training" for number in range(21, 41)],
        [f"scan_{year}_{number}" for year in (2021, 2022) for number in range(10)],
        [f"BraTS-GLI-{number:05}-000" for number in range(20)],
        [f"volume-{number}" for number in range(20)],
    ],
    ids=lambda ids: ids[0],
)
def test_usual_names_are_not_taken_for_patients(ids: list[str]) -> None:
    assert warnings_of(make_splits(ids)) == []


def test_classes_that_one_side_lacks() -> None:
    splits = two_folds(("a", "b"), ("c", "d"))
    voxels = {"a": (9, 5, 0), "b": (9, 5, 0), "c": (9, 5, 3), "d": (9, 5, None)}
    assert warnings_of(splits, class_voxels=voxels) == [
        "fold 0: no training case shows tumour, only validation cases do (c): it cannot be learnt there, and its score "
        "will be 0. Add cases that show it, or give your own folds",
        "fold 1: no validation case shows tumour, 1 training case does: it is not measured there",
    ]
    assert warnings_of(splits, class_voxels={**voxels, "b": (9, 5, 1), "d": (9, 5, 1)}) == []
    del voxels["b"]  # not measured: it may show any class
    assert warnings_of(splits, class_voxels=voxels) == []


def test_the_check_names_both_cases() -> None:
    facts = [CaseFacts(id=name, image=SimpleNamespace(digest="same", constant=(None,))) for name in "ab"]  # type: ignore[arg-type]
    (found,) = check_duplicates(facts)
    assert (found.case, found.other) == ("b", "a")
