import pytest

from autoseg.training.schedule import learning_rate
from planners.plan import Training


def test_poly_equals_the_published_formula() -> None:
    training = Training(epochs=1000, learning_rate=0.01)
    assert learning_rate(training, 0) == 0.01
    assert learning_rate(training, 500) == pytest.approx(0.01 * 0.5**0.9)
    assert 0 < learning_rate(training, 999) < 1e-4


def test_warm_up_rises_and_meets_the_decay() -> None:
    training = Training(epochs=10, learning_rate=0.01, warm_up=3)
    rates = [learning_rate(training, epoch) for epoch in range(10)]
    assert rates[:4] == pytest.approx([0.0025, 0.005, 0.0075, 0.01])
    assert rates[3:] == sorted(rates[3:], reverse=True)


def test_constant_stays() -> None:
    training = Training(epochs=10, schedule="constant")
    assert {learning_rate(training, epoch) for epoch in range(10)} == {0.01}
