"""The arithmetic that fits trainings to a time."""

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoseg.errors import OptionError
from autoseg.training.length import FEWEST_EPOCHS, Candidate, all_done_s, fit, length_of
from autoseg.training.time_limit import FoldTime, Length, Pace

OWN = Length(epochs=1000, steps_per_epoch=250, validation_steps=50)
PACE = Pace(step=0.1, validation_step=0.05, window=0.02, voxel=0.0)
HOUR = 3600.0


def candidate(fold: int = 0, **changes: Any) -> Candidate:
    whole: dict[str, Any] = {
        "name": "3d_fullres",
        "fold": fold,
        "own": OWN,
        "steps_fixed": False,
        "pace": PACE,
        "validation_s": 60.0,
        "state": FoldTime(),
    }
    return Candidate(**{**whole, **changes})


def total(candidates: list[Candidate], lengths: dict[str, Length]) -> float:
    return sum(item.left_s(lengths[item.name]) for item in candidates)


@given(
    step=st.floats(1e-3, 100),
    budget=st.floats(60, 1e6),
    count=st.integers(1, 5),
    validation=st.floats(0, 1000),
    slower=st.floats(0.1, 10),
)
def test_what_is_fitted_fits_and_uses_the_time(
    step: float, budget: float, count: int, validation: float, slower: float
) -> None:
    pace = Pace(step=step, validation_step=step / 3, window=0.1, voxel=0.0)
    other = dataclasses.replace(pace, step=step * slower)
    candidates = [candidate(fold, pace=pace, validation_s=validation) for fold in range(count)]
    candidates.append(candidate(name="2d", pace=other, validation_s=validation))
    try:
        lengths = fit(candidates, budget, side_by_side=1)
    except OptionError:
        single = Length(epochs=1, steps_per_epoch=1, validation_steps=1)
        assert total(candidates, {"3d_fullres": single, "2d": single}) > budget
        return
    first, second = lengths["3d_fullres"], lengths["2d"]
    assert (first.epochs, first.steps_per_epoch) == (second.epochs, second.steps_per_epoch), "all train equally long"
    needed = total(candidates, lengths)
    assert needed <= budget * (1 + 1e-9)
    assert first.epochs <= OWN.epochs
    assert first.steps_per_epoch <= OWN.steps_per_epoch
    if first.steps_per_epoch < OWN.steps_per_epoch:
        assert first.epochs <= FEWEST_EPOCHS
        assert first.validation_steps == max(1, first.steps_per_epoch // 5)
    more = {name: dataclasses.replace(item, epochs=item.epochs + 1) for name, item in lengths.items()}
    if first.steps_per_epoch == OWN.steps_per_epoch and first.epochs < OWN.epochs:
        assert total(candidates, more) > budget, "one more epoch would not fit"


@pytest.mark.parametrize(
    ("budget_s", "epochs", "steps"),
    [
        (100 * HOUR, 1000, 250),  # more than the plan's own length: a limit, not a wish
        (20 * 27.5 + 60, 20, 250),  # just twenty whole epochs
        (20 * 27.5 * 0.5 + 60, 20, 125),  # half of that: twenty shorter epochs
        (61, 6, 1),  # hardly anything: single steps, each with one of validation
    ],
)
def test_steps_are_kept_where_twenty_epochs_fit(budget_s: float, epochs: int, steps: int) -> None:
    length = fit([candidate()], budget_s + 0.01, 1)["3d_fullres"]
    assert length.epochs == epochs
    assert length.steps_per_epoch == pytest.approx(steps, abs=1)


def test_a_time_too_short_for_one_step_names_the_least() -> None:
    candidates = [candidate(fold, validation_s=60) for fold in range(5)]
    with pytest.raises(OptionError, match=r"4 min 0 s is too short .* 5 trainings .* least that would do is 5 min 0 s"):
        fit(candidates, 240, 1)
    least = 5 * (60 + 0.1 + 0.05)
    assert fit(candidates, least + 1e-6, 1)["3d_fullres"].epochs == 1
    with pytest.raises(OptionError, match=r"1 training with .*10 min 0 s are spent already"):
        fit(candidates[:1], -300, 1, spent_s=600)


def test_what_is_trained_already_is_not_trained_again() -> None:
    half = candidate(0, state=FoldTime(epochs=40, seconds=1100), steps_fixed=True)
    fresh = candidate(1, steps_fixed=True)
    length = fit([half, fresh], 160 * 27.5 + 120, 1)["3d_fullres"]
    assert length == dataclasses.replace(OWN, epochs=100)
    done = candidate(0, state=FoldTime(epochs=100, seconds=2750, finished=100, validation_s=60.0), steps_fixed=True)
    assert done.left_s(length) == 0
    assert done.spent_s == 2810
    assert done.left_s(dataclasses.replace(length, epochs=110)) == pytest.approx(10 * 27.5 + 60)


def test_trained_folds_keep_their_steps_however_short_the_time() -> None:
    begun = candidate(steps_fixed=True)
    assert length_of(begun, 0.004) == dataclasses.replace(OWN, epochs=4)
    assert length_of(begun, 0.0).epochs == 1


def test_a_short_plan_of_the_user_is_cut_by_steps_not_below_its_epochs() -> None:
    short = candidate(own=Length(epochs=5, steps_per_epoch=100, validation_steps=20))
    assert length_of(short, 0.5) == Length(epochs=5, steps_per_epoch=50, validation_steps=10)


def test_side_by_side_the_last_one_counts() -> None:
    assert all_done_s([3, 3, 3], 1) == 9
    assert all_done_s([3, 3, 3], 2) == 6
    assert all_done_s([1, 1, 4], 2) == 5
    assert all_done_s([], 2) == 0
