"""Selection: the best candidate wins, ties go to the first, and the record is the same every time."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from autoseg.evaluation.overlap import CasePrediction, Scores, score_cases
from autoseg.evaluation.selection import Choice, candidate_name, candidates_of, choose
from autoseg.evaluation.statistics import bootstrap_mean, paired_difference
from autoseg.evaluation.weights import Names, Weighted
from planners import records
from planners.labels import LabelClass, Labels

LABELS = Labels(classes=tuple(LabelClass(name=name, value=i) for i, name in enumerate(("background", "core", "shell"))))
KEPT = Path(__file__).parent / "kept"


class Predictions:
    """Out-of-fold predictions whose error rate depends on the candidate; remembers what was read."""

    def __init__(self, errors: dict[Names, float], num_cases: int = 6) -> None:
        self.errors, self.num_cases = errors, num_cases
        self.read_for: list[tuple[Names, Weighted | None]] = []

    def __call__(self, names: Names, weighted: Weighted | None = None) -> Iterator[CasePrediction]:
        self.read_for.append((names, weighted))
        for index in range(self.num_cases):
            rng = np.random.default_rng(index)
            label = np.zeros((6, 10, 10), dtype=np.int16)
            label[1:5, 2:8, 2:8], label[2:4, 3:6, 3:6] = 2, 1
            chance, noise = rng.random(label.shape), rng.integers(0, 3, label.shape)
            guess = np.where(chance < self.errors[names], noise, label).astype(np.uint8)
            yield CasePrediction(f"case_{index}", label, guess)

    def scores(self) -> dict[Names, Scores]:
        found = {names: score_cases(self(names), LABELS) for names in self.errors}
        self.read_for.clear()
        return found


ERRORS = {("2d",): 0.3, ("3d_fullres",): 0.2, ("2d", "3d_fullres"): 0.1}


def test_every_configuration_every_pair_and_the_whole_set_is_a_candidate() -> None:
    assert candidates_of(["a"]) == (("a",),)
    assert candidates_of(["a", "b"]) == (("a",), ("b",), ("a", "b"))
    assert candidates_of(["a", "b", "c"]) == (
        ("a",), ("b",), ("c",), ("a", "b"), ("a", "c"), ("b", "c"), ("a", "b", "c"),
    )  # fmt: skip
    for count in range(3, 8):
        assert len(candidates_of([str(index) for index in range(count)])) == count + count * (count - 1) // 2 + 1


def test_highest_mean_dice_wins_and_is_read_once() -> None:
    predictions = Predictions(ERRORS)
    given = predictions.scores()
    choice, scores = choose(given, predictions, LABELS, [0, 1])
    assert choice.configurations == ("2d", "3d_fullres")
    assert predictions.read_for == [(("2d", "3d_fullres"), None)]
    assert choice.folds == (0, 1)
    assert [item.name for item in choice.candidates] == ["2d", "3d_fullres", "2d + 3d_fullres"]
    assert [item.weights for item in choice.candidates] == [(1.0,), (1.0,), (0.5, 0.5)]
    assert choice.weights == (0.5, 0.5)
    assert choice.mean_dice == scores.mean_dice
    assert choice.mean_before == choice.candidates[-1].mean_dice == given["2d", "3d_fullres"].mean_dice
    assert choice.dice_before == choice.candidates[-1].dice
    assert (choice.mean_dice or 0.0) > (choice.mean_before or 1.0)
    assert choice.postprocessing == tuple(trial.postprocessing for trial in choice.trials if trial.accepted)
    assert any(reason.rule == "helps" for reason in choice.reasons)


def test_intervals_and_the_difference_to_the_second_best_are_named() -> None:
    predictions = Predictions(ERRORS)
    given = predictions.scores()
    choice, scores = choose(given, predictions, LABELS, [0, 1])
    means = {names: [row.mean_dice for row in item.cases] for names, item in given.items()}
    for item in choice.candidates:
        expected = bootstrap_mean(means[item.configurations])
        assert item.interval is not None
        assert expected is not None
        assert (item.interval.low, item.interval.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
        assert item.interval.mean == pytest.approx(item.mean_dice, abs=1e-12)
    assert choice.interval is not None
    assert choice.interval.mean == pytest.approx(scores.mean_dice, abs=1e-12)
    reason = choice.reasons[0]
    difference = paired_difference(means["2d", "3d_fullres"], means[("3d_fullres",)])
    assert difference is not None
    assert reason.rule == "highest-mean-dice"
    assert "of 3 candidates, against 3d_fullres" in reason.because
    assert "better than 3d_fullres in 6 of 6 cases" in reason.because
    assert f"by {difference.mean:.4f} ({difference.low:.4f} … {difference.high:.4f}, p 0.031)" in reason.because
    assert "luck" not in reason.because


def test_a_lead_that_may_be_luck_is_said_to() -> None:
    predictions = Predictions({("2d",): 0.2, ("3d_fullres",): 0.201})
    choice, _ = choose(predictions.scores(), predictions, LABELS, [0])
    assert "which may be luck" in choice.reasons[0].because


def test_of_equals_the_first_wins() -> None:
    predictions = Predictions(dict.fromkeys(ERRORS, 0.2))
    choice, _ = choose(predictions.scores(), predictions, LABELS, [0])
    assert choice.configurations == ("2d",)
    assert "of equals the first is taken" in choice.reasons[0].because


def test_equal_inputs_give_equal_bytes_and_survive_json() -> None:
    texts = []
    for _ in range(2):
        predictions = Predictions(ERRORS)
        choice, _ = choose(predictions.scores(), predictions, LABELS, [0, "all-data"])
        texts.append(records.dumps(choice))
        assert records.from_json(Choice, json.loads(texts[-1])) == choice
    assert texts[0] == texts[1]


def test_only_cases_of_every_candidate_count() -> None:
    predictions = Predictions(ERRORS)
    scores = predictions.scores()
    fewer = Predictions(ERRORS, num_cases=4).scores()
    choice, after = choose({**scores, ("2d",): fewer["2d",]}, predictions, LABELS, [0])
    assert choice.num_cases == 4
    assert [row.case for row in after.cases] == ["case_0", "case_1", "case_2", "case_3"]


def test_without_cases_the_first_configuration_is_taken() -> None:
    predictions = Predictions(ERRORS, num_cases=0)
    choice, _ = choose(predictions.scores(), predictions, LABELS, ["all-data"])
    assert choice.configurations == ("2d",)
    assert choice.mean_dice is None
    assert choice.interval is None
    assert choice.reasons[0].rule == "nothing-to-compare"
    assert "no case has out-of-fold predictions" in choice.reasons[0].because
    assert predictions.read_for == []


def test_one_candidate_says_so() -> None:
    predictions = Predictions({("2d",): 0.0})
    choice, _ = choose(predictions.scores(), predictions, LABELS, [0])
    assert choice.reasons[0].rule == "only-candidate"
    assert {reason.rule for reason in choice.reasons[1:]} == {"changes-nothing"}
    assert choice.postprocessing == ()


def test_no_candidate_is_an_error() -> None:
    with pytest.raises(ValueError, match="no candidate"):
        choose({}, Predictions({}), LABELS, [])


def weighted_for(scores: Scores, difference: float, accepted: bool) -> Weighted:
    found = paired_difference([difference] * 6, [0.0] * 6)
    return Weighted(
        configurations=("2d", "3d_fullres"),
        weights=(0.2, 0.8),
        by_fold={0: (0.2, 0.8), 1: (1 / 3, 2 / 3)},
        scores=scores,
        difference=found,
        accepted=accepted,
    )


def test_accepted_weights_compete_and_are_read_as_they_were_judged() -> None:
    predictions = Predictions(ERRORS)
    better = Predictions({("2d", "3d_fullres"): 0.05}).scores()["2d", "3d_fullres"]
    item = weighted_for(better, 0.01, accepted=True)
    predictions.errors = ERRORS
    given = predictions.scores()
    choice, _ = choose(given, predictions, LABELS, [0, 1], [item])
    assert (choice.configurations, choice.weights) == (("2d", "3d_fullres"), (0.2, 0.8))
    assert choice.candidates[-1].name == "2d + 3d_fullres (1 : 4)"
    assert choice.mean_before == better.mean_dice
    assert predictions.read_for == [(("2d", "3d_fullres"), item)]
    (reason,) = (reason for reason in choice.reasons if reason.about == "choice.weights")
    assert "fold 0 1 : 4, fold 1 1 : 2" in reason.because
    assert "by 0.0100 (0.0100 … 0.0100, p 0.031)" in reason.because
    worse, _ = choose(given, predictions, LABELS, [0, 1], [dataclasses.replace(item, scores=given["2d",])])
    assert worse.weights == (0.5, 0.5)


def test_refused_weights_are_no_candidate_but_are_told_of() -> None:
    predictions = Predictions(ERRORS)
    given = predictions.scores()
    item = weighted_for(given["2d", "3d_fullres"], 0.001, accepted=False)
    choice, _ = choose(given, predictions, LABELS, [0, 1], [item])
    assert len(choice.candidates) == 3
    (reason,) = (reason for reason in choice.reasons if reason.about == "choice.weights")
    assert reason.rule == "equal-weights"
    assert "not better than equal ones by more than luck (the best, 2d + 3d_fullres: by 0.0010" in reason.because


def test_a_choice_of_an_older_program_still_opens() -> None:
    choice = records.from_json(Choice, json.loads((KEPT / "choice_1.json").read_text(encoding="utf-8")))
    assert choice.configurations == ("2d", "3d_fullres")
    assert choice.weights == ()
    assert choice.interval is None
    assert choice.mean_before is None
    assert {item.weights for item in choice.candidates} == {()}
    assert [rule.size_mm3 for rule in choice.postprocessing] == [None]
    assert choice.trials[0].superseded is False


def test_names_for_people() -> None:
    assert candidate_name(("2d", "3d"), (0.5, 0.5)) == candidate_name(("2d", "3d")) == "2d + 3d"
    assert candidate_name(("a", "b", "c"), (1 / 6, 1 / 6, 4 / 6)) == "a + b + c (1 : 1 : 4)"
