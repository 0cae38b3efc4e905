"""The reasons of a choice between targets say numbers, images, settings and luck; ties go to the first."""

from autoseg.evaluation.decode_fitting import FittedDecoding
from autoseg.evaluation.instance_selection import JudgedObjects, choose_objects
from autoseg.evaluation.statistics import paired_difference

CASES = [f"{number:02}" for number in range(12)]


def judged(name: str, values: list[float], empty: tuple[str, ...] = (), **fields) -> JudgedObjects:
    by_case = dict(zip(CASES[: len(values)], values, strict=True))
    fitted = FittedDecoding(values=by_case, planned=by_case, **fields)
    return JudgedObjects(configurations=(name,), fitted=fitted, components=dict.fromkeys(CASES, 0.25), empty=empty)


def test_the_first_of_equals_is_taken_and_said() -> None:
    choice = choose_objects([judged("one", [0.5] * 12), judged("two", [0.5] * 12)], [], ("cell",), (0, 1))
    assert choice.configurations == ("one",)
    assert choice.reasons[0].because.endswith("of equals the first is taken")
    assert [reason.about for reason in choice.reasons] == ["choice.configurations", "choice.decode", "choice.decode"]
    assert choice.candidates[0].touching is None


def test_a_difference_that_may_be_luck_is_called_so() -> None:
    values = [0.6 + 0.01 * (-1) ** number * number for number in range(12)]
    choice = choose_objects([judged("one", values), judged("two", [0.599] * 12)], CASES[:3], ("cell",), (0, 1))
    assert choice.configurations == ("two",), "0.599 against 0.595"
    assert choice.reasons[0].because.endswith(", which may be luck")
    touching = choice.reasons[1]
    assert "on the 3 images whose objects touch: one 0." in touching.because
    assert "would give 0.2500 (0.2500 … 0.2500)" in touching.because


def test_settings_are_told_with_what_they_are_worth() -> None:
    gain = paired_difference([0.6] * 12, [0.5] * 12)
    fitted = {"foreground": 0.4, "smallest": 12}
    first = judged("one", [0.6] * 12, decode=fitted, tried=fitted, difference=gain, num_settings=9)
    loss = paired_difference([0.4] * 12, [0.5] * 12)
    second = judged("two", [0.5] * 12, tried={"seed": 0.3}, difference=loss, num_settings=7)
    third = judged("three", [0.3] * 12, difference=paired_difference([0.3] * 12, [0.3] * 12), num_settings=5)
    choice = choose_objects([second, first, third, judged("four", [0.1] * 12)], [], ("cell",), (0,))
    assert choice.decode == fitted
    assert choice.score == 0.6
    because = [reason.because for reason in choice.reasons if reason.about == "choice.decode"]
    assert "one with foreground 0.4, smallest 12: of 9 settings tried the best" in because[0]
    assert "better than as planned by 0.1000" in because[0]
    assert (
        "two as planned: of 7 settings tried none is better by more than luck; seed 0.3, the best on all" in because[1]
    )
    assert "differs by −0.1000" in because[1]
    assert because[2] == "three as planned: of 5 settings tried none is better"
    assert because[3] == "four as planned: too few images to fit settings and judge them"


def test_a_candidate_that_invents_objects_in_empty_images_loses() -> None:
    """Better where there are objects, but in three of the empty images it finds some: three right ones of the other."""
    empty = tuple(CASES[:4])
    careful, keen = [1.0] * 4 + [0.7] * 8, [1.0, 0.0, 0.0, 0.0] + [0.8] * 8
    judges = [judged("keen", keen, empty), judged("careful", careful, empty)]
    choice = choose_objects(judges, [], ("cell",), (0, 1))
    assert choice.configurations == ("careful",)
    assert choice.num_cases == 12
    said = choice.reasons[0].because
    assert "on 12 images (4 of them labelled without objects: 1 where none is found, else 0)" in said
    assert "in 3 of 12 images, worse in 8" in said


def test_without_any_score_the_first_is_taken() -> None:
    choice = choose_objects([judged("one", []), judged("two", [])], [], ("cell",), (0,))
    assert choice.configurations == ("one",)
    assert choice.score is None
    assert choice.reasons[0].rule == "nothing-to-compare"
