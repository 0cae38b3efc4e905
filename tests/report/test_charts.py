"""Charts: what is drawn lies inside the drawing, nothing is lost, odd input is drawn or left out."""

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.report.charts import HEIGHT, MAX_POINTS, WIDTH, Chart, Series, histogram, line_chart, strip, thin, ticks


def chart(points: Sequence[tuple[float, float | None]]) -> str:
    series = [Series(name="a <b>", style="train", points=points)]
    return str(line_chart(Chart(description="loss & more", x_label="epoch", y_label="loss", series=series)))


def path_of(svg: str) -> list[tuple[float, float]]:
    found = re.search(r'class="line train" d="([^"]*)"', svg)
    assert found is not None
    return [(float(x), float(y)) for x, y in re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", found[1])]


@settings(max_examples=30, deadline=None)
@given(values=st.lists(st.one_of(st.none(), st.floats(-1e6, 1e6)), min_size=1, max_size=60))
def test_lines_stay_inside_and_are_well_formed(values: list[float | None]) -> None:
    svg = chart(list(enumerate(values, start=1)))
    present = [value for value in values if value is not None]
    if not present:
        assert svg == ""
        return
    ElementTree.fromstring(svg)
    places = path_of(svg)
    assert len(places) == len(present)
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in places)
    highest, lowest = present.index(max(present)), present.index(min(present))
    assert places[highest][1] <= places[lowest][1]


def test_not_finite_values_break_the_line() -> None:
    svg = chart([(1, 0.5), (2, float("nan")), (3, 0.2), (4, 0.1)])
    assert "nan" not in svg
    assert re.search(r'd="M[\d.]+ [\d.]+h0M[\d.]+ [\d.]+L', svg)


def test_names_are_escaped() -> None:
    assert "<title>a &lt;b&gt;</title>" in chart([(1, 1.0), (2, 2.0)])
    assert "loss &amp; more" in chart([(1, 1.0)])


@settings(max_examples=20, deadline=None)
@given(count=st.integers(1, 2000))
def test_thinning_keeps_the_mean(count: int) -> None:
    thinned = thin([(index, float(index)) for index in range(count)])
    assert len(thinned) == min(count, MAX_POINTS)
    assert all(x == pytest.approx(y) for x, y in thinned)
    assert [x for x, _ in thinned] == sorted(x for x, _ in thinned)


@settings(max_examples=40, deadline=None)
@given(low=st.floats(-1e4, 1e4), extent=st.floats(1e-3, 1e5), whole=st.booleans())
def test_ticks_are_few_round_and_inside(low: float, extent: float, whole: bool) -> None:
    found = ticks(low, low + extent, whole=whole)
    assert len(found) <= 8
    assert all(low - 1e-6 * extent <= tick <= low + extent * (1 + 1e-6) for tick in found)
    assert not whole or all(float(tick).is_integer() for tick in found)


@settings(max_examples=30, deadline=None)
@given(values=st.lists(st.floats(0, 1), max_size=80))
def test_histogram_counts_every_value_once(values: list[float]) -> None:
    svg = str(histogram(values, "Dice", "cases"))
    ElementTree.fromstring(svg)
    counts = [int(count) for count in re.findall(r": (\d+) cases</title>", svg)]
    assert sum(counts) == len(values)
    assert len(counts) >= 8
    ends = [(float(a), float(b)) for a, b in re.findall(r"<title>([\d.e-]+) to ([\d.]+):", svg)]
    assert ends[-1][1] == pytest.approx(1)
    assert ends[0][0] <= min(values, default=0.0) + 1e-9


def test_strip_has_a_dot_per_value() -> None:
    svg = str(strip([0.2, 0.9, 0.5], 0.2, "three"))
    assert len(re.findall(r"h0", svg)) == 3
    assert 'class="median" d="M76.5' in svg  # 6 + (0.5 − 0.2) / 0.8 × 188
    assert strip([], 0.0, "none") == ""


def test_strip_of_very_many_values_keeps_its_ends_and_median() -> None:
    values = [index / 1000 for index in range(1001)]
    svg = str(strip(values, 0.0, "many"))
    assert len(re.findall(r"h0", svg)) == 150
    assert 'd="M6.0 13.0h0' in svg
    assert "M194.0 " in svg
    assert 'class="median" d="M100.0' in svg
