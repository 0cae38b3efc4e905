"""Selection: the best candidate wins, ties go to the first, and the record is the same every time."""

import json
from collections.abc import Iterator

import numpy as np
import pytest

from autoseg.evaluation.overlap import CasePrediction, Scores, score_cases
from autoseg.evaluation.selection import Choice, Names, candidates_of, choose
from planners import records
from planners.labels import LabelClass, Labels

LABELS = Labels(classes=tuple(LabelClass(name=name, value=i) for i, name in enumerate(("background", "core", "shell"))))


class Predictions:
    """Out-of-fold predictions whose error rate depends on the candidate; remembers what was read."""

    def __init__(self, errors: dict[Names, float], num_cases: int = 6) -> None:
        self.errors, self.num_cases = errors, num_cases
        self.read_for: list[Names] = []

    def __call__(self, names: Names) -> Iterator[CasePrediction]:
        self.read_for.append(names)
        for index in range(self.num_cases):
            rng = np.random.default_rng(index)
            label = np.zeros((6, 10, 10), dtype=np.int16)
            label[1:5, 2:8, 2:8], label[2:4, 3:6, 3:6] = 2, 1
            chance, noise = rng.random(label.shape), rng.integers(0, 3, label.shape)
            yield f"case_{index}", label, np.where(chance < self.errors[names], noise, label).astype(np.uint8)

    def scores(self) -> dict[Names, Scores]:
        found = {names: score_cases(self(names), LABELS) for names in self.errors}
        self.read_for.clear()
        return found


ERRORS = {("2d",): 0.3, ("3d_fullres",): 0.2, ("2d", "3d_fullres"): 0.1}


def test_every_configuration_and_every_pair_is_a_candidate() -> None:
    assert candidates_of(["a", "b", "c"]) == (("a",), ("b",), ("c",), ("a", "b"), ("a", "c"), ("b", "c"))
    assert candidates_of(["a"]) == (("a",),)


def test_highest_mean_dice_wins_and_is_read_once() -> None:
    predictions = Predictions(ERRORS)
    choice, scores = choose(predictions.scores(), predictions, LABELS, [0, 1])
    assert choice.configurations == ("2d", "3d_fullres")
    assert predictions.read_for == [("2d", "3d_fullres")]
    assert choice.folds == (0, 1)
    assert [item.name for item in choice.candidates] == ["2d", "3d_fullres", "2d + 3d_fullres"]
    assert choice.mean_dice == scores.mean_dice
    assert (choice.mean_dice or 0.0) >= (choice.candidates[-1].mean_dice or 1.0)
    assert choice.reasons[0].rule == "highest-mean-dice"
    assert "better than 3d_fullres in 6 of 6 cases" in choice.reasons[0].because
    assert choice.postprocessing == tuple(trial.postprocessing for trial in choice.trials if trial.accepted)
    assert any(reason.rule == "helps" for reason in choice.reasons)
    assert "used" in choice.reasons[1].because


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
