"""Ranges: scales of round ends, numbers as people write them, drawings that say their numbers in words."""

import pytest

from autoseg.evaluation.metric_records import Interval
from autoseg.report.ranges import SIGNED, Entry, draw_range, interval_text, range_list, scale_of, value_text


def interval(mean: float, low: float, high: float, num_cases: int = 9) -> Interval:
    return Interval(mean=mean, low=low, high=high, num_cases=num_cases)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.98765, "", "0.988"),
        (-0.0126, SIGNED, "\u22120.0126"),
        (0.01, SIGNED, "+0.0100"),
        (-0.00001, SIGNED, "0"),
        (1.2, "mm", "1.20"),
        (0.0456, "mm", "0.0456"),
        (123.4, "mm", "123"),
        (0.0, "mm", "0"),
        (1_234_567.0, "mm³", "1\u202f230\u202f000"),
        (-99_950.0, "mm³", "\u2212100\u202f000"),
        (0.0000123, "mm", "1.2e\u221205"),
    ],
)
def test_values_are_written_with_the_digits_that_matter(value: float, unit: str, text: str) -> None:
    assert value_text(value, unit) == text


def test_intervals_are_written_where_there_are_any() -> None:
    assert interval_text(interval(0.9, 0.85, 0.95)) == "0.850\u20130.950"
    assert interval_text(interval(-0.01, -0.03, 0.01), SIGNED) == "\u22120.0300 to +0.0100"
    assert interval_text(interval(0.9, 0.9, 0.9, num_cases=1)) == ""
    assert interval_text(None) == ""


@pytest.mark.parametrize(
    ("ends", "limits", "scale"),
    [
        ([(0.81, 0.93)], (0.0, 1.0), (0.8, 0.95)),
        ([(0.2, 1.7), (0.5, 3.1)], None, (0.0, 4.0)),
        ([(-0.012, 0.021)], None, (-0.02, 0.03)),
        ([(-0.031, -0.011)], None, (-0.04, 0.0)),
        ([(1.0, 1.0)], (0.0, 1.0), None),
        ([], None, (0.0, 1.0)),
    ],
)
def test_scales_hold_every_interval_between_round_ends(
    ends: list[tuple[float, float]], limits: tuple[float, float] | None, scale: tuple[float, float] | None
) -> None:
    found = scale_of([interval((low + high) / 2, low, high) for low, high in ends], limits)
    assert found[0] < found[1]
    assert all(found[0] <= low <= high <= found[1] + 1e-9 for low, high in ends)
    if scale is not None:
        assert found == pytest.approx(scale)


def test_drawings_say_their_numbers_and_mark_zero() -> None:
    text = draw_range(Entry(name="a<b", interval=interval(0.5, 0.4, 0.6)), 0.0, 1.0, "Dice of a<b")
    assert 'aria-label="Dice of a&lt;b: 0.500, 95 % interval 0.400\u20130.600"' in text
    assert 'd="M40.0 5H60.0"' in text
    assert 'd="M50.0 5h0"' in text
    assert "axis" not in text
    assert "M25.0 -3V13" in draw_range(Entry(name="a", interval=interval(1.0, 0.5, 2.0)), -1.0, 3.0, "x", SIGNED)
    assert "not defined" in draw_range(Entry(name="a", interval=None), 0.0, 1.0, "Dice of a")


def test_lists_name_what_is_absent() -> None:
    entries = [Entry(name="liver", interval=interval(4.0, 3.0, 5.2)), Entry(name="cyst", interval=None)]
    made = range_list("HD95", "mm", entries, "mm")
    assert [(row.name, row.value, row.interval) for row in made.rows] == [
        ("liver", "4.00", "3.00\u20135.20"),
        ("cyst", "absent", ""),
    ]
    assert (made.low, made.high) == ("0", "6")
