"""Against: two sets of predictions compared case by case, in numbers, in words, and as a picture."""

import itertools
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence

import numpy as np
import pytest

from autoseg.errors import DatasetError, OptionError
from autoseg.evaluation.against import MEAN, Against, compare_tables
from autoseg.evaluation.against_text import _chance
from autoseg.evaluation.measure import tabulate
from autoseg.evaluation.metric_records import CaseMetrics, MetricTable
from autoseg.evaluation.protocols import PROTOCOLS, find_protocol
from autoseg.evaluation.statistics import Difference, paired_difference
from planners import records

Values = dict[str, Sequence[Sequence[float | None]]]


def table(
    values: Values,
    structures: Sequence[str] = ("liver", "tumour"),
    metrics: Sequence[str] = ("dice", "hd95"),
    protocol: str = "default",
) -> MetricTable:
    """A table from values per case: per structure, per metric."""
    rows = [
        CaseMetrics(
            case=case,
            values=tuple(tuple(row) for row in found),
            empty=("",) * len(structures),
            counts=((1, 1, 1),) * len(structures),
        )
        for case, found in values.items()
    ]
    return tabulate(rows, structures, find_protocol(protocol), metrics)


def random_values(seed: int, size: int, shift: float = 0.0) -> Values:
    hard = np.random.default_rng(99).uniform(0.5, 0.9, (size, 2))
    dice = hard + np.random.default_rng(seed).normal(shift, 0.02, (size, 2))
    return {f"case_{i:02d}": [[float(d), float(20 * (1 - d))] for d in row] for i, row in enumerate(dice)}


def test_differences_are_paired_by_case_and_first_minus_second() -> None:
    first, second = random_values(1, 30, 0.02), random_values(2, 30)
    shuffled = dict(reversed(second.items()))
    found = compare_tables(table(first), table(shuffled))
    row = found.rows[0][0]
    expected = paired_difference([v[0][0] for v in first.values()], [v[0][0] for v in second.values()])
    assert (row.structure, row.metric, row.difference) == ("liver", "dice", expected)
    assert row.first is not None
    assert row.second is not None
    assert expected is not None
    assert row.first - row.second == pytest.approx(expected.mean)
    assert found.cases[3].differences[1][0] == pytest.approx(first["case_03"][1][0] - second["case_03"][1][0])  # type: ignore[operator]
    assert found.cases[3].mean[0] == pytest.approx(np.mean([row[0] for row in found.cases[3].differences]))


def test_pairing_shows_what_two_means_hide() -> None:
    first, second = table(random_values(1, 30, 0.02)), table(random_values(2, 30))
    found = compare_tables(first, second).rows[0][-1]
    one, other = first.mean[0], second.mean[0]
    assert found.difference is not None
    assert one is not None
    assert other is not None
    assert one.low < other.high  # the intervals of the two means overlap
    assert found.difference.low > 0
    assert found.difference.p < 0.01
    assert found.non_inferior is True


def test_mean_row_agrees_with_the_tables_means_where_nothing_is_missing() -> None:
    first, second = table(random_values(1, 20)), table(random_values(2, 20))
    found = compare_tables(first, second)
    for index in range(2):
        row, one, other = found.rows[index][-1], first.mean[index], second.mean[index]
        assert row.structure == MEAN
        assert row.first == pytest.approx(one.mean if one else None)
        assert row.second == pytest.approx(other.mean if other else None)


def test_mean_row_is_the_mean_of_the_structures_rows_where_values_are_missing() -> None:
    first, second = random_values(1, 12), random_values(2, 12)
    for case in ("case_00", "case_01", "case_02"):
        first[case] = [first[case][0], [None, None]]
        second[case] = [second[case][0], [None, None]]
    found = compare_tables(table(first), table(second)).rows[0]
    assert found[1].difference is not None
    assert found[1].difference.num_cases == 9
    parts = [row.difference.mean for row in found[:2] if row.difference]
    assert found[2].difference is not None
    assert found[2].difference.mean == pytest.approx(np.mean(parts))


def test_mean_row_follows_the_protocol() -> None:
    protocol = next(item for item in PROTOCOLS.values() if item.average == "values")
    names = [item.name for item in protocol.structures if item.in_mean][:2] or ["liver", "tumour"]
    first, second = random_values(1, 12), random_values(2, 12)
    for case in ("case_00", "case_01", "case_02"):
        first[case], second[case] = [first[case][0], [None, None]], [second[case][0], [None, None]]
    tables = [table(values, names, protocol=protocol.name) for values in (first, second)]
    row = compare_tables(*tables).rows[0][-1]
    means = [item.mean[0].mean for item in tables if item.mean[0] is not None]
    assert row.difference is not None
    assert row.difference.mean == pytest.approx(means[0] - means[1])


def test_cases_that_only_one_has_are_named() -> None:
    first, second = random_values(1, 12), random_values(2, 12)
    del first["case_03"], second["case_05"], second["case_06"]
    found = compare_tables(table(first), table(second), names=("runs/a", "runs/b"))
    assert (found.only_first, found.only_second) == (("case_05", "case_06"), ("case_03",))
    assert len(found.cases) == 9
    assert "only in A, left out: 2 cases (case_05, case_06)" in found.text()
    assert "only in B, left out: 1 case (case_03)" in found.text()
    assert found.text().startswith("A  runs/a\nB  runs/b\n9 cases in both")


def test_a_value_that_only_one_has_is_left_out_and_said() -> None:
    first, second = random_values(1, 12), random_values(2, 12)
    first["case_04"] = [first["case_04"][0], [None, None]]
    found = compare_tables(table(first), table(second))
    assert [row.num_one_sided for row in found.rows[0]] == [0, 1, 1]
    assert found.rows[0][1].difference is not None
    assert found.rows[0][1].difference.num_cases == 11
    assert "tumour: 1 case left out, where only one of the two has a value (dice, hd95)" in found.text()


def test_structures_that_only_one_has_are_said() -> None:
    one = {case: rows[:1] for case, rows in random_values(1, 8).items()}
    found = compare_tables(table(one, ("liver",)), table(random_values(2, 8)))
    assert found.structures == ("liver",)
    assert [len(rows) for rows in found.rows] == [1, 1]  # one structure needs no mean
    assert "structures that only one of the two has, left out: tumour" in found.text()


def test_a_lower_distance_is_better_and_has_no_margin() -> None:
    found = compare_tables(table(random_values(1, 30, 0.05)), table(random_values(2, 30)))
    row = found.rows[1][-1]
    assert row.metric == "hd95"
    assert row.difference is not None
    assert row.difference.high < 0
    assert row.non_inferior is None
    only = {case: [row[1:] for row in rows] for case, rows in random_values(1, 30, 0.05).items()}
    other = {case: [row[1:] for row in rows] for case, rows in random_values(2, 30).items()}
    text = compare_tables(table(only, metrics=("hd95",)), table(other, metrics=("hd95",))).text()
    assert "A is better: mean HD95 [mm] by" in text
    assert "A furthest ahead" in text


def test_errors_of_volume_are_compared_by_magnitude() -> None:
    first = table({"a": [[-5.0]], "b": [[4.0]], "c": [[-1.0]]}, ("liver",), ("volume_error",))
    second = table({"a": [[6.0]], "b": [[6.0]], "c": [[6.0]]}, ("liver",), ("volume_error",))
    row = compare_tables(first, second).rows[0][0]
    assert row.first == pytest.approx(10 / 3)
    assert row.difference is not None
    assert row.difference.mean == pytest.approx(10 / 3 - 6)


def test_what_is_neither_better_nor_worse_is_not_judged() -> None:
    values: Values = {f"c{i}": [[float(i), 0.5 + 0.01 * i]] for i in range(6)}
    other: Values = {f"c{i}": [[float(2 * i), 0.5]] for i in range(6)}
    found = compare_tables(table(values, ("liver",), ("volume", "dice")), table(other, ("liver",), ("volume", "dice")))
    assert found.rows[0][0].non_inferior is None
    assert "A is better: Dice of liver" not in found.text()
    assert "Dice of liver" in found.text()  # the words are about Dice, though volume comes first


def test_identical_sets_and_few_cases_in_words() -> None:
    same = table(random_values(1, 25))
    found = compare_tables(same, same)
    assert "A and B have the same mean Dice in every case." in found.text()
    assert found.rows[0][-1].non_inferior is True
    few = compare_tables(table(random_values(1, 4)), table(random_values(2, 4))).text()
    assert "fewer than 20 cases" in few
    sure = compare_tables(table(random_values(1, 60, 0.1)), table(random_values(2, 60)))
    assert "<0.01 % of comparisons would differ by as much" in sure.text()
    one = compare_tables(table(random_values(1, 1)), table(random_values(2, 1))).text()
    assert "in one case: that says nothing of others" in one


@pytest.mark.parametrize("size", [1, 2, 5, 6])
def test_few_cases_cannot_tell_whether_it_is_no_worse(size: int) -> None:
    better, worse = ({f"c{i}": [[value + 0.01 * i]] for i in range(size)} for value in (0.9, 0.5))
    found = compare_tables(*(table(values, ("liver",), ("dice",)) for values in (better, worse)))
    text = found.text()
    if size < 6:
        assert found.rows[0][0].non_inferior is None
        assert text.count("too few cases to tell") == 2
        assert "Whether A is no worse than B by 0.01: too few cases to tell; it takes 6." in text
    else:
        assert found.rows[0][0].non_inferior is True
        assert "too few" not in text
        assert "A is shown to be no worse than B by 0.01" in text


def test_differences_that_cancel_out_make_none_better() -> None:
    first: Values = {f"c{i}": [[0.5 + 0.1 * (-1) ** i]] for i in range(6)}
    second: Values = {f"c{i}": [[0.5]] for i in range(6)}
    text = compare_tables(table(first, ("liver",), ("dice",)), table(second, ("liver",), ("dice",))).text()
    assert "A and B have the same Dice of liver: they differ in single cases, but that cancels out." in text
    assert "is better by" not in text
    tiny: Values = {case: [[float(row[0][0] or 0) + 1e-5]] for case, row in first.items()}
    text = compare_tables(table(tiny, ("liver",), ("dice",)), table(second, ("liver",), ("dice",))).text()
    assert "A is better by less than 0.001" in text


@pytest.mark.parametrize(
    ("p", "said"), [(1.0, "100"), (0.9951, "100"), (0.123, "12"), (0.0996, "10"), (0.0312, "3.1"), (0.00061, "0.061")]
)
def test_percent_are_written_without_powers(p: float, said: str) -> None:
    found = Difference(mean=0.1, low=-0.1, high=0.3, num_cases=9, p=p, exact=True)
    assert _chance(found, 100) == said


def test_pooled_metrics_have_no_cases_to_compare() -> None:
    values: Values = {f"c{i}": [[0.5 + 0.1 * i, None]] for i in range(3)}
    found = compare_tables(*[table(values, ("liver",), ("dice", "pooled_dice"))] * 2)
    assert found.rows[1][0].difference is None
    line = "pooled Dice has no value per case, so no difference is tested: liver A 1.000, B 1.000"
    assert found.text().splitlines()[-1] == line
    ElementTree.fromstring(found.svg())


def test_pooled_metrics_are_those_of_the_cases_and_structures_of_both() -> None:
    names, metrics = ("liver", "tumour", "other"), ("dice", "pooled_dice")
    counts = {"a": (8, 10, 10), "b": (1, 2, 3), "c": (50, 90, 70)}
    tables = []
    for add, order, own in ((0, names, "c"), (2, names[1::-1], "d")):
        rows = [
            CaseMetrics(
                case=own if case == "c" else case,
                values=((0.5, None),) * len(order),
                empty=("",) * len(order),
                counts=tuple((both, one + add + 3 * names.index(name), two) for name in order),
            )
            for case, (both, one, two) in counts.items()
        ]
        tables.append(tabulate(rows, order, find_protocol("default"), metrics))
    found = compare_tables(*tables)
    expected = {
        ("liver", 0): 2 * 9 / (12 + 13), ("liver", 1): 2 * 9 / (16 + 13),
        ("tumour", 0): 2 * 9 / (18 + 13), ("tumour", 1): 2 * 9 / (22 + 13),
    }  # fmt: skip
    assert [(row.structure, row.metric) for row in found.pooled] == [
        (name, "pooled_dice") for name in ("liver", "tumour", MEAN)
    ]
    for row in found.pooled[:2]:
        assert (row.first, row.second) == pytest.approx([expected[row.structure, index] for index in (0, 1)])
    mean = [np.mean([expected[name, index] for name in ("liver", "tumour")]) for index in (0, 1)]
    assert (found.pooled[2].first, found.pooled[2].second) == pytest.approx(mean)
    assert f"mean A {mean[0]:.3f}, B {mean[1]:.3f}" in found.text()
    assert records.from_json(Against, records.to_json(found)) == found
    assert compare_tables(*(table(random_values(seed, 3)) for seed in (1, 2))).pooled == ()


def test_what_cannot_be_compared_is_refused() -> None:
    here, there = table(random_values(1, 3)), table({"other": random_values(1, 1)["case_00"]})
    with pytest.raises(DatasetError, match="no case in common"):
        compare_tables(here, there)
    with pytest.raises(DatasetError, match="no structure in common"):
        compare_tables(here, table(random_values(1, 3), ("a", "b")))
    with pytest.raises(OptionError, match="protocol"):
        compare_tables(here, table(random_values(1, 3), protocol="nnunet"))
    with pytest.raises(OptionError, match="no metric in common"):
        compare_tables(here, table(random_values(1, 3), metrics=("iou", "assd")))
    with pytest.raises(OptionError, match="negative"):
        compare_tables(here, here, -0.1)


def test_it_is_a_record() -> None:
    found = compare_tables(table(random_values(1, 5)), table(random_values(2, 5)))
    assert records.from_json(Against, records.to_json(found)) == found


SVG = "{http://www.w3.org/2000/svg}"


def dots(picture: str) -> list[ElementTree.Element]:
    return [item for item in ElementTree.fromstring(picture).iter() if item.find(f"{SVG}title") is not None][1:]


def test_picture_has_a_dot_per_case_and_panel_and_says_what_it_shows() -> None:
    found = compare_tables(table(random_values(1, 15)), table(random_values(2, 15)), names=("<one>", "two & more"))
    picture = found.svg()
    root = ElementTree.fromstring(picture)
    assert len(dots(picture)) == 3 * 15
    title, description = root.findtext(f"{SVG}title"), root.findtext(f"{SVG}desc")
    assert title == "Dice of A minus B, case by case"
    assert description is not None
    assert "A is <one>, B is two & more; 15 cases." in description
    assert "liver: mean difference" in description
    assert root.get("viewBox", "").startswith("0 0 390 ")
    assert not [word for word in ("http://", "https://", "url(", "<script") if word in picture.replace(SVG[1:-1], "")]


def test_dots_are_sorted_and_told_apart_by_shape() -> None:
    found = compare_tables(
        table({"a": [[0.9]], "b": [[0.5]], "c": [[0.7]]}, ("liver",), ("dice",)),
        table({"a": [[0.8]], "b": [[0.6]], "c": [[0.7]]}, ("liver",), ("dice",)),
    )
    said = [(item.tag.removeprefix(SVG), item.findtext(f"{SVG}title")) for item in dots(found.svg())]
    assert said == [("circle", "a: +0.100"), ("circle", "c: 0.000"), ("path", "b: −0.100")]


def test_one_failure_does_not_press_the_others_into_a_line() -> None:
    first, second = random_values(1, 30), random_values(2, 30)
    first["case_09"] = [[0.0, 20.0], [0.0, 20.0]]
    picture = compare_tables(table(first), table(second)).svg()
    places = [float(item.get("cx", "nan")) for item in dots(picture) if item.tag == f"{SVG}circle"]
    assert max(places) - min(places) > 40
    assert "case_09: −0" in picture


def test_many_cases_and_structures_keep_a_readable_height() -> None:
    heights = [
        float(ElementTree.fromstring(compare_tables(*_pair(size)).svg()).get("height", "nan")) for size in (40, 400)
    ]
    assert heights[1] == pytest.approx(heights[0], rel=0.05)


def _pair(size: int) -> tuple[MetricTable, MetricTable]:
    one, two = (
        table({case: [row[:1] for row in rows] for case, rows in random_values(seed, size).items()}, metrics=("dice",))
        for seed in (1, 2)
    )
    return one, two


@pytest.mark.parametrize("kind", list(itertools.product((1, 2), ("same", "worse"))), ids=str)
def test_pictures_of_few_cases_can_be_drawn(kind: tuple[int, str]) -> None:
    size, which = kind
    first = table(random_values(1, size))
    second = first if which == "same" else table(random_values(2, size, 0.1))
    assert len(dots(compare_tables(first, second).svg())) == 3 * size
