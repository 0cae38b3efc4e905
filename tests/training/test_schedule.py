import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoseg.training.schedule import LEAST_ANNEAL, Bend, end_at, final_anneal, last_epoch, learning_rate
from planners.plan import Training


def rates(training: Training, bend: Bend | None = None, start: int = 0) -> list[float]:
    return [learning_rate(training, epoch, bend) for epoch in range(start, last_epoch(training, bend))]


def test_poly_equals_the_published_formula() -> None:
    training = Training(epochs=1000, learning_rate=0.01)
    assert learning_rate(training, 0) == 0.01
    assert learning_rate(training, 500) == pytest.approx(0.01 * 0.5**0.9)
    assert 0 < learning_rate(training, 999) < 1e-4


def test_warm_up_rises_and_meets_the_decay() -> None:
    training = Training(epochs=10, learning_rate=0.01, warm_up=3)
    assert rates(training)[:4] == pytest.approx([0.0025, 0.005, 0.0075, 0.01])
    assert rates(training)[3:] == sorted(rates(training)[3:], reverse=True)


def test_constant_stays() -> None:
    training = Training(epochs=10, schedule="constant")
    assert set(rates(training)) == {0.01}


@given(epochs=st.integers(2, 300), data=st.data())
def test_a_bend_never_makes_the_rate_jump_and_brings_it_to_zero(epochs: int, data: st.DataObject) -> None:
    training = Training(epochs=epochs)
    bend = None
    epoch = 0
    for _ in range(4):
        end = last_epoch(training, bend)
        if epoch >= end - 1:
            break
        epoch = data.draw(st.integers(epoch + 1, end - 1))
        before = learning_rate(training, epoch, bend)
        bend = end_at(training, bend, epoch, data.draw(st.integers(epoch + 1, 2 * epochs)))
        assert learning_rate(training, epoch, bend) == pytest.approx(before)
        rest = rates(training, bend, epoch)
        assert rest == sorted(rest, reverse=True)
        assert learning_rate(training, last_epoch(training, bend), bend) == 0.0 or bend is None


def test_bent_to_where_it_ended_anyway_it_is_the_same_decay() -> None:
    training = Training(epochs=50)
    assert end_at(training, None, 20, 50) is None
    there = end_at(training, None, 20, 80)
    back = end_at(training, there, 20, 50)
    assert rates(training, back, 20) == pytest.approx(rates(training, None, 20))


def test_an_end_before_what_is_done_ends_at_once_and_a_finished_one_is_not_prolonged() -> None:
    training = Training(epochs=50)
    assert last_epoch(training, end_at(training, None, 20, 3)) == 20
    assert end_at(training, None, 50, 60) is None


def test_bent_within_the_warm_up_it_still_warms_up() -> None:
    training = Training(epochs=100, warm_up=4)
    bend = end_at(training, None, 2, 30)
    assert rates(training, bend)[:5] == rates(training)[:5]
    assert learning_rate(training, 29, bend) < learning_rate(training, 29)
    assert last_epoch(training, bend) == 30


@pytest.mark.parametrize(
    ("epochs", "epoch", "length"), [(1000, 300, 100), (95, 40, 10), (30, 10, LEAST_ANNEAL), (100, 97, 3)]
)
def test_the_final_anneal_is_a_tenth_and_no_longer_than_what_is_left(epochs: int, epoch: int, length: int) -> None:
    training = Training(epochs=epochs, patience=5)
    bend = final_anneal(training, None, epoch)
    assert bend.end == epoch + length
    assert learning_rate(training, epoch, bend) == learning_rate(training, epoch)
    passed = 1 - 1 / length
    assert learning_rate(training, bend.end - 1, bend) == pytest.approx(
        learning_rate(training, epoch) * (1 - passed) ** 0.9
    )


def test_the_final_anneal_lets_a_constant_rate_fall_and_time_only_shortens_it() -> None:
    training = Training(epochs=100, schedule="constant", patience=5)
    bend = final_anneal(training, None, 40)
    assert rates(training, bend, 40)[0] == 0.01
    assert rates(training, bend, 40)[-1] < 0.002
    assert end_at(training, bend, 42, 90) == bend
    shorter = end_at(training, bend, 42, 45)
    assert shorter is not None
    assert shorter.annealing
    assert shorter.end == 45
    assert learning_rate(training, 42, shorter) == pytest.approx(learning_rate(training, 42, bend))


def test_a_limit_of_time_alone_leaves_a_constant_rate() -> None:
    training = Training(epochs=100, schedule="constant")
    assert set(rates(training, end_at(training, None, 10, 40))) == {0.01}


def test_a_bend_survives_as_json() -> None:
    bend = final_anneal(Training(epochs=100, patience=5), None, 40)
    assert Bend(**dataclasses.asdict(bend)) == bend
