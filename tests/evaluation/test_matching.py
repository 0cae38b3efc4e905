"""Matching: every score equals a slow, direct computation from dense tables with scipy's assignment."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from autoseg.evaluation import matching
from autoseg.evaluation.contingency import Contingency, contingency
from autoseg.evaluation.instance_metrics import CURVE
from autoseg.evaluation.matching import Parts, match

Pairs = list[tuple[np.ndarray, np.ndarray]]
EMPTY, ONE = np.zeros((6, 6), dtype=np.int32), np.pad(np.full((3, 3), 4, dtype=np.int32), ((1, 2), (2, 1)))


def value(parts: Parts) -> float | None:
    return parts.top / parts.bottom if parts.bottom else None


def assigned(iou: np.ndarray, threshold: float) -> int:
    """True positives as Cellpose defines them: one assignment of all objects to all."""
    if not min(iou.shape):
        return 0
    costs = -(iou >= threshold).astype(float) - iou / (2 * min(iou.shape))
    rows, columns = linear_sum_assignment(costs)
    return int((iou[rows, columns] >= threshold).sum())


def panoptic(slow: Any) -> tuple[float, int]:
    """Sum of IoU and number of pairs above 0.5, pair by pair."""
    found = [float(iou) for row in slow.iou for iou in row if iou > 0.5]
    return sum(found), len(found)


def tracking(slow: Any) -> tuple[float, int]:
    """SEG's sum, and the cost of DET, object by object."""
    total, missed, covered = 0.0, 0, [0] * len(slow.prediction_ids)
    for row, size in enumerate(slow.label_sizes):
        owner = [column for column, shared in enumerate(slow.shared[row]) if shared > size / 2]
        if owner:
            total += slow.iou[row, owner[0]]
            covered[owner[0]] += 1
        else:
            missed += 1
    cost = 10 * missed + sum(1 if number == 0 else 5 * (number - 1) for number in covered)
    return total, cost


def jaccard(slow: Any) -> float | None:
    """Kumar's algorithm 1, line by line."""
    intersection = union = 0
    used = set()
    for row, size in enumerate(slow.label_sizes):
        best = int(np.argmax(slow.iou[row])) if slow.prediction_ids else 0
        if not slow.prediction_ids or slow.shared[row, best] == 0:
            union += size
            continue
        used.add(best)
        intersection += slow.shared[row, best]
        union += size + slow.prediction_sizes[best] - slow.shared[row, best]
    union += sum(size for column, size in enumerate(slow.prediction_sizes) if column not in used)
    return intersection / union if union else None


def check(pairs: Pairs, direct: Callable[..., Any]) -> None:
    for label, prediction in pairs:
        table, slow = contingency(label, prediction), direct(label, prediction)
        n, m = len(slow.label_ids), len(slow.prediction_ids)
        for threshold in (*CURVE, 0.1, 0.3, 1.0):
            tp = assigned(slow.iou, threshold)
            assert value(matching.average_precision(table, threshold)) == pytest.approx(
                tp / (n + m - tp) if n + m else None, abs=1e-6
            )
            assert value(matching.f1(table, threshold)) == pytest.approx(2 * tp / (n + m) if n + m else None, abs=1e-6)
            assert value(matching.precision(table, threshold)) == pytest.approx(tp / m if m else None, abs=1e-6)
            assert value(matching.recall(table, threshold)) == pytest.approx(tp / n if n else None, abs=1e-6)
        total, num = panoptic(slow)
        both = num + (n + m - 2 * num) / 2
        assert value(matching.panoptic_quality(table)) == pytest.approx(total / both if both else None, abs=1e-6)
        assert value(matching.segmentation_quality(table)) == pytest.approx(total / num if num else None, abs=1e-6)
        assert value(matching.recognition_quality(table)) == pytest.approx(num / both if both else None, abs=1e-6)
        total, cost = tracking(slow)
        assert value(matching.seg(table)) == pytest.approx(total / n if n else None, abs=1e-6)
        assert matching.det(table) == (10 * n - cost, 10 * n)
        assert value(matching.aggregated_jaccard(table)) == pytest.approx(jaccard(slow), abs=1e-6)
        assert value(matching.count_error(table)) == m - n
        assert value(matching.count_difference(table)) == abs(m - n)


def test_every_score_equals_its_definition(random_pairs: Pairs, direct: Callable[..., Any]) -> None:
    check(random_pairs, direct)


@pytest.mark.data
def test_every_score_equals_its_definition_on_real_labels(real_pairs: Pairs, direct: Callable[..., Any]) -> None:
    check(real_pairs, direct)


def test_matches_are_pairs_of_their_own(random_pairs: Pairs) -> None:
    for pair in random_pairs:
        table = contingency(*pair)
        for threshold in (0.2, 0.5, 0.7):
            found = match(table, threshold)
            assert len({*found.label_index.tolist()}) == len({*found.prediction_index.tolist()}) == found.tp
            assert (found.iou >= threshold).all()
            assert (found.tp + found.fn, found.tp + found.fp) == (table.num_labelled, table.num_predicted)


def test_above_half_no_assignment_is_needed(random_pairs: Pairs, monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[int] = []
    monkeypatch.setattr(matching, "_assign", lambda table, candidates: left.append(len(candidates)) or candidates)
    for pair in random_pairs:
        match(contingency(*pair), 0.5, strict=True)
        match(contingency(*pair), 0.55)
    assert left == [0] * 100


def test_of_two_halves_one_is_found_at_one_half_and_none_above() -> None:
    whole, halves = np.ones(4, dtype=int), np.array([1, 1, 2, 2])
    for table in (contingency(whole, halves), contingency(halves, whole)):
        assert match(table, 0.5).tp == 1
        assert match(table, 0.5, strict=True).tp == 0


def test_low_thresholds_match_as_many_as_possible() -> None:
    # the best partner of 1 is A (0.5), but only if 1 takes B does 2 get one
    label = np.array([1, 1, 1, 1, 2, 2])
    prediction = np.array([9, 1, 1, 1, 1, 1])
    assert match(contingency(label, prediction), 0.2).tp == 2


@pytest.mark.parametrize("threshold", [0, -0.1, 1.01, float("nan")])
def test_a_threshold_is_an_iou(threshold: float) -> None:
    with pytest.raises(ValueError, match="is no IoU"):
        match(contingency(ONE, ONE), threshold)


@pytest.mark.parametrize(
    ("label", "prediction", "expected"),
    [
        (EMPTY, EMPTY, dict.fromkeys(("ap", "f1", "pq", "sq", "rq", "seg", "det", "aji"), None)),
        (ONE, EMPTY, {"ap": 0, "f1": 0, "pq": 0, "sq": None, "rq": 0, "seg": 0, "det": 0, "aji": 0}),
        (EMPTY, ONE, {"ap": 0, "f1": 0, "pq": 0, "sq": None, "rq": 0, "seg": None, "det": None, "aji": 0}),
        (ONE, ONE, dict.fromkeys(("ap", "f1", "pq", "sq", "rq", "seg", "det", "aji"), 1)),
    ],
)
def test_empty_maps_give_what_the_docstrings_say(
    label: np.ndarray, prediction: np.ndarray, expected: dict[str, float | None]
) -> None:
    table = contingency(label, prediction)
    found = {
        "ap": matching.average_precision(table, 0.5),
        "f1": matching.f1(table, 0.5),
        "pq": matching.panoptic_quality(table),
        "sq": matching.segmentation_quality(table),
        "rq": matching.recognition_quality(table),
        "seg": matching.seg(table),
        "det": matching.det(table),
        "aji": matching.aggregated_jaccard(table),
    }
    assert {name: value(parts) for name, parts in found.items()} == expected


def test_a_merged_pair_costs_one_cut_and_an_invented_object_one() -> None:
    label = np.array([1, 1, 2, 2, 0, 0])
    assert matching.det(contingency(label, np.array([7, 7, 7, 7, 0, 8]))) == Parts(20 - 5 - 1, 20)
    assert matching.det(contingency(label, np.array([7, 7, 0, 0, 0, 0]))) == Parts(20 - 10, 20)
    assert matching.seg(contingency(label, np.array([7, 7, 7, 7, 0, 8]))) == Parts(1.0, 2)


def test_ten_thousand_objects_are_scored_as_the_assignment_would(direct: Callable[..., Any]) -> None:
    y, x = np.mgrid[:800, :800]
    label = np.where((y % 8 > 0) & (x % 8 > 0), y // 8 * 100 + x // 8 + 1, 0)
    prediction = np.where(np.random.default_rng(0).random(label.shape) < 0.8, label, 0)
    table = contingency(label, prediction)
    assert table.num_labelled == 10_000
    expected = np.bincount(prediction.ravel(), minlength=10_001)[1:] / 49  # each lies inside its own
    for threshold in CURVE:
        assert match(table, threshold).tp == int((expected >= threshold).sum())
    assert 0 < match(table, 0.8).tp < 10_000


def test_scores_need_no_order_of_ids(random_pairs: Pairs) -> None:
    def scores(table: Contingency) -> list[float | None]:
        found = (matching.average_precision(table, 0.5), matching.panoptic_quality(table), matching.seg(table))
        return [value(parts) for parts in (*found, matching.det(table))]

    random = np.random.default_rng(1)
    for label, prediction in random_pairs[9:20]:
        values = np.setdiff1d(label, 0)
        places = np.searchsorted(values, label) % len(values)
        other = np.where(label == 0, 0, random.permutation(values)[places])
        assert scores(contingency(other, prediction)) == pytest.approx(scores(contingency(label, prediction)))
