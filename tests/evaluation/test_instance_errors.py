"""What went wrong with each object: merges, splits, misses and inventions told apart."""

import numpy as np
import pytest

from autoseg.evaluation.contingency import contingency
from autoseg.evaluation.instance_errors import find_errors
from autoseg.evaluation.matching import match


@pytest.mark.parametrize(
    ("label", "prediction", "of_label", "of_prediction"),
    [
        ("1122", "1122", ["right", "right"], ["right", "right"]),
        ("1122", "1111", ["right", "merged"], ["right"]),  # an IoU of one half with each: one of them is matched
        ("11220", "11113", ["right", "merged"], ["right", "invented"]),
        ("112233", "111111", ["merged", "merged", "merged"], ["merged"]),
        ("111111", "112233", ["split"], ["split", "split", "split"]),
        ("111111", "111122", ["right"], ["right", "split"]),
        ("110000", "000022", ["missed"], ["invented"]),
        ("111100", "000111", ["missed"], ["invented"]),  # too little in common to be either
        ("000", "000", [], []),
    ],
)
def test_errors_are_told_apart(label: str, prediction: str, of_label: list[str], of_prediction: list[str]) -> None:
    errors = find_errors(contingency(*(np.array([int(digit) for digit in row]) for row in (label, prediction))))
    assert errors.label.tolist() == of_label
    assert errors.prediction.tolist() == of_prediction


def test_what_is_not_right_is_what_ap_counts(random_pairs: list[tuple[np.ndarray, np.ndarray]]) -> None:
    kinds = set()
    for pair in random_pairs:
        table = contingency(*pair)
        errors, found = find_errors(table, 0.6), match(table, 0.6)
        assert (int((errors.label != "right").sum()), int((errors.prediction != "right").sum())) == (found.fn, found.fp)
        assert (errors.label_iou[errors.label == "right"] >= 0.6).all()
        assert (errors.label_iou[errors.label != "right"] < 0.6).all()
        kinds |= {*errors.label.tolist(), *errors.prediction.tolist()}
    assert kinds == {"right", "missed", "invented", "merged", "split"}


def test_scores_of_objects_are_their_best() -> None:
    errors = find_errors(contingency(np.array([1, 1, 1, 1, 2]), np.array([5, 6, 6, 0, 0])))
    assert errors.label_iou.tolist() == [0.5, 0.0]
