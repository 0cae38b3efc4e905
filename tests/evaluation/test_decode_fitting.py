"""Settings of a decoder are fitted on some cases and judged on the others; without gain those as planned stay."""

from collections.abc import Mapping, Sequence

import pytest

from autoseg.evaluation.decode_fitting import AS_PLANNED, Setting, Values, fit_decoding

CASES = {f"{fold}{index}": fold for fold in "ab" for index in range(4)}
OFFERED = {"x": (1, 2, 3), "y": (1, 2)}


class Scores:
    """A made score; every setting is asked for once per case."""

    def __init__(self, table) -> None:
        self.table, self.asked, self.calls = table, {}, 0

    def __call__(self, settings: Sequence[Setting], cases: Sequence[str]) -> Mapping[Setting, Values]:
        self.calls += 1
        for setting in settings:
            assert not self.asked.setdefault(setting, set()) & set(cases), "asked twice"
            self.asked[setting] |= set(cases)
        return {setting: {case: self.table(dict(setting), case) for case in cases} for setting in settings}


def test_the_best_of_each_setting_is_taken_in_turn() -> None:
    score = Scores(lambda found, case: 0.5 + 0.1 * (found.get("x") == 2) + 0.2 * (found.get("y") == 1))
    fitted = fit_decoding(OFFERED, score, CASES)
    assert fitted.decode == {"x": 2, "y": 1}
    assert fitted.score == pytest.approx(0.8)
    assert fitted.planned == dict.fromkeys(CASES, 0.5)
    assert list(score.asked)[:4] == [AS_PLANNED, (("x", 1),), (("x", 2),), (("x", 3),)]
    assert fitted.num_settings == len(score.asked) == 6
    assert score.calls == 3, "once as planned, once per setting"


def test_what_helps_the_cases_it_was_fitted_on_alone_is_refused() -> None:
    """Each fold likes another value, which hurts the other: fitting is worth nothing, and the score does not say so."""
    liked = {"a": 1, "b": 3}
    score = Scores(lambda found, case: 0.5 if "x" not in found else 0.9 if found["x"] == liked[case[0]] else 0.1)
    fitted = fit_decoding({"x": (1, 2, 3)}, score, CASES)
    assert fitted.decode == {}
    assert fitted.score == pytest.approx(0.5)
    assert fitted.difference is not None
    assert fitted.difference.mean == pytest.approx(-0.4)


def test_every_case_is_scored_with_what_the_other_part_has_found() -> None:
    score = Scores(lambda found, case: {("a", 1): 0.9, ("a", 2): 0.8, ("b", 1): 0.7, ("b", 2): 0.95}.get(
        (case[0], found.get("x")), 0.1
    ))  # fmt: skip
    fitted = fit_decoding({"x": (1, 2)}, score, CASES)
    assert {case: fitted.values[case] for case in ("a0", "b0")} == {"a0": 0.8, "b0": 0.7}
    assert fitted.by_part == {"a": {"x": 2}, "b": {"x": 1}}
    assert fitted.decode == {"x": 2}, "on all: 0.875 against 0.8"


def test_equal_settings_leave_the_plan_as_it_is() -> None:
    assert fit_decoding(OFFERED, Scores(lambda found, case: 0.7), CASES).decode == {}


def test_without_cases_nothing_is_fitted() -> None:
    nothing = fit_decoding(OFFERED, Scores(lambda found, case: 1.0), {})
    assert nothing.score is None
    assert nothing.num_settings == 1


def test_settings_that_invent_objects_in_empty_images_pay_for_it() -> None:
    """Half of the images are empty: as planned nothing is found there, with x 3 objects are; other images like it."""

    def table(found, case):
        is_empty = int(case[1]) % 2 == 0
        if found.get("x") == 3:
            return 0.0 if is_empty else 0.9
        return 1.0 if is_empty else 0.5

    fitted = fit_decoding({"x": (1, 3)}, Scores(table), CASES)
    assert fitted.decode == {}
    assert fitted.score == pytest.approx(0.75)


def test_a_gain_that_may_be_luck_is_refused() -> None:
    """One image gains much, the others nothing: a mean above 0 says little."""
    lucky = Scores(lambda found, case: 0.5 + 0.4 * (found.get("x") == 2 and case in ("a0", "b0")))
    fitted = fit_decoding({"x": (2,)}, lucky, CASES)
    assert fitted.tried == {"x": 2}
    assert fitted.difference is not None
    assert fitted.difference.mean > 0
    assert (fitted.decode, fitted.by_part, fitted.score) == ({}, {}, 0.5)
    few = {case: part for case, part in CASES.items() if case[1] in "01"}
    assert fit_decoding({"x": (2,)}, Scores(lambda found, case: 0.5 + 0.4 * ("x" in found)), few).decode == {}


def test_one_part_alone_is_not_fitted() -> None:
    fitted = fit_decoding(OFFERED, Scores(lambda found, case: 0.1 * found.get("x", 0)), dict.fromkeys(CASES, 0))
    assert fitted.decode == {}
    assert fitted.difference is None


def test_of_many_cases_some_are_fitted_on_and_all_are_scored() -> None:
    """The drawn cases find the best setting; what is reported is the mean over all."""
    many = {f"{number:03}": number % 2 for number in range(40)}
    score = Scores(lambda found, case: 0.5 + 0.2 * (found.get("x") == 2) + int(case) / 1000)
    fitted = fit_decoding({"x": (1, 2, 3)}, score, many, most=10)
    assert fitted.decode == {"x": 2}
    assert {setting: len(cases) for setting, cases in score.asked.items()} == {
        AS_PLANNED: 40, (("x", 1),): 10, (("x", 2),): 40, (("x", 3),): 10
    }  # fmt: skip
    assert sum(many[case] for case in score.asked[("x", 1),]) == 5
    assert fitted.score == pytest.approx(0.7 + sum(range(40)) / 40 / 1000)
    assert fitted.values == {case: pytest.approx(0.7 + int(case) / 1000) for case in many}
