"""Folds: equal to scikit-learn's, groups kept together, few cases, folds of the user."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.data.splits import Fold, Splits, all_data_split, check_splits, make_splits, mixed_groups
from autoseg.errors import DatasetError
from planners.records import from_json, to_json


@pytest.mark.parametrize("count", [5, 6, 13, 208])
def test_equal_to_scikit_learn(count: int) -> None:
    model_selection = pytest.importorskip("sklearn.model_selection")
    ids = [f"case_{number}" for number in range(count)]  # sorted as text: case_10 before case_2
    ordered = np.array(sorted(ids))
    folds = model_selection.KFold(5, shuffle=True, random_state=12345).split(ordered)
    expected = [(ordered[train].tolist(), ordered[validation].tolist()) for train, validation in folds]
    assert [(list(fold.train), list(fold.validation)) for fold in make_splits(reversed(ids)).folds] == expected


def test_known_folds() -> None:
    """Fold 0 of ten cases; a change here would make every comparison with nnU-Net's folds wrong."""
    fold = make_splits([f"{number:02d}" for number in range(10)]).folds[0]
    assert fold.validation == tuple(f"{n:02d}" for n in sorted(np.random.RandomState(12345).permutation(10)[:2]))


@pytest.mark.parametrize("count", [2, 3, 4])
def test_fewer_cases_fewer_folds(count: int) -> None:
    splits = make_splits([str(number) for number in range(count)])
    assert len(splits.folds) == count
    assert all(len(fold.validation) == 1 for fold in splits.folds)
    assert "fewer than 5" in splits.source


def test_one_case_or_one_group_cannot_be_cross_validated() -> None:
    with pytest.raises(DatasetError, match=r"1 case cannot be cross-validated.*--folds all-data"):
        make_splits(["only"])
    with pytest.raises(DatasetError, match=r"all 3 cases are of one group.*--folds all-data"):
        make_splits("abc", dict.fromkeys("abc", "patient"))
    assert all_data_split(["b", "a"]).folds == (Fold(train=("a", "b"), validation=("a", "b")),)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 7) | st.none(), min_size=2, max_size=60), st.integers(0, 5))
def test_groups_stay_together_and_every_case_is_validated_once(groups: list[int | None], seed: int) -> None:
    ids = [f"case{number:03d}" for number in range(len(groups))]
    group_of = {case: f"g{group}" for case, group in zip(ids, groups, strict=True) if group is not None}
    if len({group_of.get(case, case) for case in ids}) < 2:
        return
    splits = make_splits(ids, group_of, seed=seed)
    assert sorted(case for fold in splits.folds for case in fold.validation) == ids
    for fold in splits.folds:
        assert sorted((*fold.train, *fold.validation)) == ids
        assert fold.train
        assert fold.validation
    assert not mixed_groups(splits, group_of)
    assert make_splits(list(reversed(ids)), group_of, seed=seed) == splits
    if set(group_of) == set(ids):
        biggest = max(list(group_of.values()).count(group) for group in set(group_of.values()))
        sizes = [len(fold.validation) for fold in splits.folds]
        assert max(sizes) - min(sizes) <= biggest


def test_a_case_named_like_a_group_is_no_member() -> None:
    splits = make_splits(["a", "b", "c"], {"b": "a", "c": "a"})
    assert {fold.validation for fold in splits.folds} == {("a",), ("b", "c")}


def test_groups_of_one_case_give_balanced_folds() -> None:
    ids = [f"{number:02d}" for number in range(23)]
    sizes = [len(fold.validation) for fold in make_splits(ids, {case: case for case in ids}).folds]
    assert sorted(sizes) == [4, 4, 5, 5, 5]


@pytest.mark.parametrize(
    ("train", "validation", "message"),
    [
        (["a", "x"], ["b"], "fold 0 names x, which the dataset does not have"),
        (["a", "b"], ["b"], "fold 0 has b both in train and in validation"),
        (["a", "a"], ["b"], "fold 0 names a twice"),
        (["a"], [], "fold 0 has no validation cases"),
    ],
)
def test_folds_of_the_user_are_checked(train: list[str], validation: list[str], message: str) -> None:
    splits = Splits(folds=(Fold(train=tuple(train), validation=tuple(validation)),), source="splits_final.json")
    with pytest.raises(DatasetError, match=message):
        check_splits(splits, ["a", "b", "c"])
    check_splits(Splits(folds=(Fold(train=("a",), validation=("b",)),), source="x"), ["a", "b", "c"])
    with pytest.raises(DatasetError, match="it has no folds"):
        check_splits(Splits(folds=(), source="x"), ["a"])


def test_record_round_trip() -> None:
    splits = make_splits("abcdefg")
    assert from_json(Splits, to_json(splits)) == splits
