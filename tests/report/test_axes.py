"""Axes: places, ticks, and frames of both kinds of scale."""

import pytest

from autoseg.report.axes import HEIGHT, WIDTH, Axis, Plane, around


def test_even_and_logarithmic_scales_place_values() -> None:
    even = Axis(low=10, high=20, label="")
    assert [even.fraction(value) for value in (5, 10, 12.5, 20, 30)] == [0, 0, 0.25, 1, 1]
    ratio = Axis(low=1, high=10_000, label="", logarithmic=True)
    assert ratio.fraction(100) == pytest.approx(0.5)
    assert ratio.fraction(0) == 0


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [
        (0.5, 20_000, [1, 10, 100, 1000, 10_000]),
        (0.8, 30, [1, 2, 5, 10, 20]),
        (1.9, 2.6, [2, 2.2, 2.4, 2.6]),
    ],
)
def test_logarithmic_ticks_are_round_and_several(low: float, high: float, wanted: list[float]) -> None:
    assert Axis(low=low, high=high, label="", logarithmic=True).ticks() == pytest.approx(wanted)


def test_axes_leave_room_around_values_and_a_single_one() -> None:
    for logarithmic in (False, True):
        for values in ([3.0], [1.0, 900.0]):
            axis = around(values, "", logarithmic=logarithmic)
            assert axis.low < min(values) <= max(values) < axis.high
            assert axis.ticks()


def test_drawings_stay_inside_their_frame_and_escape_words() -> None:
    plane = Plane(x=Axis(low=0, high=1, label="a<b"), y=Axis(low=0, high=1, label="y"))
    text = plane.drawing(
        [plane.dots([(0, 0), (1, 1), (7, -7)]), plane.line([(0, 0), (1, 1)], "ideal", "5 < 6")], 'a "word"'
    )
    assert 'aria-label="a &#34;word&#34;"' in text
    assert "a&lt;b" in text
    assert "<title>5 &lt; 6</title>" in text
    x, y = (float(value) for value in plane.place(7, -7).split())
    assert 0 < x < WIDTH
    assert 0 < y < HEIGHT
