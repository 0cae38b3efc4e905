"""Overlap: one joint histogram gives the same numbers as counting masks."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.evaluation import overlap
from autoseg.evaluation.overlap import (
    CasePrediction,
    Scores,
    collect,
    joint_histogram,
    merge,
    score_case,
    score_cases,
    structures_of,
)
from planners import records
from planners.labels import LabelClass, Labels, Region

LABELS = Labels(
    classes=tuple(LabelClass(name=name, value=value) for name, value in (("background", 0), ("edge", 7), ("tip", 9)))
)
IGNORING = Labels(classes=LABELS.classes, ignore=255)
REGIONS = Labels(
    classes=LABELS.classes, regions=(Region(name="whole", values=(7, 9)), Region(name="tip", values=(9,))), ignore=255
)


def random_case(seed: int, shape: tuple[int, ...] = (5, 7, 6), top: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, top, shape).astype(np.int16), rng.integers(0, 3, shape).astype(np.uint8)


def by_masks(label: np.ndarray, prediction: np.ndarray, classes: tuple[int, ...], ignore: int | None) -> dict[str, int]:
    use = np.ones(label.shape, dtype=bool) if ignore is None else label != ignore
    truth, guess = np.isin(label, classes)[use], np.isin(prediction, classes)[use]
    return {
        "tp": int((truth & guess).sum()),
        "fp": int((~truth & guess).sum()),
        "fn": int((truth & ~guess).sum()),
        "tn": int((~truth & ~guess).sum()),
        "num_predicted": int(guess.sum()),
        "num_labelled": int(truth.sum()),
    }


@pytest.mark.parametrize("labels", [LABELS, IGNORING, REGIONS], ids=["classes", "ignore", "regions"])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_counts_equal_masks(labels: Labels, seed: int) -> None:
    label, prediction = random_case(seed, top=3 if labels.ignore is None else 4)
    row = score_case("a", label, prediction, labels)
    for index, structure in enumerate(structures_of(labels)):
        expected = by_masks(label, prediction, structure.classes, labels.ignore_index)
        assert {name: getattr(row, name)[index] for name in expected} == expected
        tp, wrong = expected["tp"], expected["fp"] + expected["fn"]
        assert row.dice[index] == pytest.approx(2 * tp / (2 * tp + wrong))
        assert row.iou[index] == pytest.approx(tp / (tp + wrong))


def test_counting_in_chunks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    label, prediction = random_case(1, top=4)
    whole = joint_histogram(label, prediction, 3, 3)
    monkeypatch.setattr(overlap, "CHUNK_VOXELS", 11)
    assert np.array_equal(joint_histogram(label, prediction, 3, 3), whole)
    assert np.array_equal(joint_histogram(label.T, prediction.T, 3, 3), whole)


def test_histogram_refuses_what_it_cannot_count() -> None:
    label, prediction = random_case(0)
    with pytest.raises(ValueError, match=r"label has shape \(5, 7, 6\), prediction has \(5, 7, 5\)"):
        joint_histogram(label, prediction[..., :-1], 3)
    with pytest.raises(ValueError, match="prediction holds class index 0 … 2; there are 2 classes"):
        joint_histogram(np.minimum(label, 1), prediction, 2)
    with pytest.raises(ValueError, match="label holds class index -1"):
        joint_histogram(label - 1, prediction, 3)


def test_absent_structures_are_stated_and_left_out_of_means() -> None:
    empty, edge = np.zeros((1, 2, 2), dtype=np.uint8), np.array([[[1, 1], [0, 0]]], dtype=np.uint8)
    scores = score_cases([("b", empty, empty), ("a", edge, edge)], LABELS)
    assert [row.case for row in scores.cases] == ["a", "b"]
    assert scores.cases[0].dice == (1.0, None)
    assert scores.cases[1].dice == (None, None)
    assert scores.cases[1].mean_dice is None
    assert scores.dice == (1.0, None)
    assert scores.mean_dice == 1.0
    assert scores.num_absent == (1, 2)


def test_nothing_anywhere_has_no_mean() -> None:
    empty = np.zeros((1, 2, 2), dtype=np.uint8)
    scores = score_cases([("a", empty, empty)], LABELS)
    assert (scores.mean_dice, scores.mean_iou) == (None, None)


def test_scores_survive_json_and_do_not_depend_on_order() -> None:
    cases = [(f"case_{seed}", *random_case(seed)) for seed in range(7)]
    scores = score_cases(cases, LABELS)
    assert score_cases(reversed(cases), LABELS) == scores
    assert records.from_json(Scores, json.loads(records.dumps(scores))) == scores


def test_merged_folds_equal_all_cases_at_once() -> None:
    cases = [(f"case_{seed}", *random_case(seed)) for seed in range(7)]
    parts = [score_cases(cases[4:], LABELS), score_cases(cases[:4], LABELS)]
    assert merge(parts) == score_cases(cases, LABELS)
    with pytest.raises(ValueError, match="do not score the same structures"):
        merge([parts[0], collect([], ["other"])])
    with pytest.raises(ValueError, match="0 folds"):
        merge([])


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_what_was_not_annotated_is_absent(seed: int) -> None:
    label, prediction = random_case(seed)
    label[label == 1] = 0
    every, some = score_case("a", label, prediction, LABELS), score_case("a", label, prediction, LABELS, (0, 2))
    assert (some.dice[0], some.iou[0]) == (None, None)
    assert some.dice[1] == some.mean_dice == every.dice[1]
    for name in ("tp", "fp", "fn", "tn", "num_predicted", "num_labelled"):
        assert getattr(some, name) == (0, getattr(every, name)[1])
    assert score_case("a", label, prediction, LABELS, (0, 1, 2)) == every


def test_regions_count_where_all_their_classes_were_annotated() -> None:
    label, prediction = random_case(2)
    label[label == 1] = 0
    row = score_case("a", label, prediction, REGIONS, (0, 2))
    assert row.dice[0] is None
    assert row.dice[1] == score_case("a", label, prediction, REGIONS).dice[1]


def test_absent_where_not_annotated_in_the_mean() -> None:
    cases = [CasePrediction(str(i), *random_case(i), None if i else (0, 2)) for i in range(3)]
    scores = score_cases(cases, LABELS)
    assert scores.num_absent == (1, 0)
    assert scores.dice[0] == pytest.approx(np.mean([scores.cases[i].dice[0] for i in (1, 2)]))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_nothing_under_the_ignore_label_counts(seed: int) -> None:
    for labels in (IGNORING, REGIONS):
        label, prediction = random_case(seed, top=4)
        other = np.where(label == 3, random_case(seed + 1)[1], prediction)
        assert score_case("a", label, other, labels) == score_case("a", label, prediction, labels)
