"""Postprocessing: the rules, and that judging them from counts equals rewriting every prediction."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.measure import label as find_components

from autoseg.errors import OptionError
from autoseg.evaluation import postprocessing
from autoseg.evaluation.overlap import CasePrediction, Scores, score_cases, structures_of
from autoseg.evaluation.postprocessing import (
    ALL_FOREGROUND,
    Postprocessing,
    apply,
    choose_postprocessing,
    keep_largest_component,
)
from planners.labels import LabelClass, Labels, Region

CLASSES = tuple(LabelClass(name=f"class {value}", value=value) for value in range(4))
LABELS = {
    "one class": Labels(classes=CLASSES[:2]),
    "three classes": Labels(classes=CLASSES),
    "ignore": Labels(classes=CLASSES, ignore=9),
    "nested regions": Labels(
        classes=CLASSES,
        regions=(Region(name="a", values=(1, 2, 3)), Region(name="b", values=(2, 3)), Region(name="c", values=(3,))),
    ),
    "crossing regions": Labels(
        classes=CLASSES, regions=(Region(name="a", values=(1, 2)), Region(name="b", values=(2, 3)))
    ),
}


def slow_rule(segmentation: np.ndarray, classes: tuple[int, ...]) -> np.ndarray:
    mask = np.isin(segmentation, classes)
    components = find_components(mask, connectivity=mask.ndim)
    sizes = {number: int((components == number).sum()) for number in range(1, components.max() + 1)}
    largest = [number for number, size in sizes.items() if size == max(sizes.values())]
    return np.where(mask & ~np.isin(components, largest), 0, segmentation)


def slow_choice(cases: list[CasePrediction], labels: Labels) -> tuple[list[str], Scores]:
    """Rewrite every prediction with every rule, as §10.3 of nnU-Net's behaviour is written down."""
    accepted, best = [], score_cases(cases, labels)
    structures = structures_of(labels)
    foreground = tuple(sorted({index for item in structures for index in item.classes}))
    trials = [(ALL_FOREGROUND, foreground, range(len(structures)))]
    trials += [(item.name, item.classes, range(i, i + 1)) for i, item in enumerate(structures) if len(structures) > 1]
    for name, classes, watched in trials:
        changed = [(case, label, slow_rule(prediction, classes)) for case, label, prediction in cases]
        scores = score_cases(changed, labels)
        pairs = [(best.dice[i], scores.dice[i]) for i in watched]
        known = [(before, after) for before, after in pairs if before is not None and after is not None]
        before, after = (sum(side) for side in zip(*known, strict=True)) if known else (0.0, 0.0)
        if after > before and all(b <= a for b, a in known):
            cases, best = changed, scores
            accepted.append(name)
    return accepted, best


def random_case(seed: int, labels: Labels, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Blobs as label, and as prediction the same with holes and specks."""
    rng = np.random.default_rng(seed)
    label = np.zeros(shape, dtype=np.int16)
    for index in range(1, labels.num_classes):
        corner = [int(rng.integers(0, max(size - 3, 1))) for size in shape]
        label[tuple(slice(start, start + int(rng.integers(2, 5))) for start in corner)] = index
    noise = rng.integers(0, labels.num_classes, shape)
    prediction = np.where(rng.random(shape) < rng.choice([0.02, 0.1, 0.3]), noise, label).astype(np.uint8)
    if labels.ignore_index is not None:
        label[rng.random(shape) < 0.2] = labels.ignore_index
    return label, prediction


@pytest.mark.parametrize("kind", LABELS)
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10**6), flat=st.booleans())
def test_choice_from_counts_equals_rewriting(kind: str, seed: int, flat: bool) -> None:
    labels = LABELS[kind]
    shape = (1, 12, 13) if flat else (6, 8, 7)
    cases = [(f"case {i}", *random_case(seed + i, labels, shape)) for i in range(3)]
    rules, trials, scores = choose_postprocessing(iter(cases), labels)
    names, expected = slow_choice(cases, labels)
    assert [rule.name for rule in rules] == names
    assert scores == expected
    assert [trial.postprocessing for trial in trials if trial.accepted] == list(rules)
    assert score_cases([(case, label, apply(guess, rules)) for case, label, guess in cases], labels) == expected


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), classes=st.sets(st.integers(1, 3), min_size=1))
def test_rule_equals_plain_way(seed: int, classes: set[int]) -> None:
    _, segmentation = random_case(seed, LABELS["three classes"], (5, 6, 7))
    before = segmentation.copy()
    result = keep_largest_component(segmentation, sorted(classes))
    assert np.array_equal(result, slow_rule(segmentation, tuple(classes)))
    assert result.dtype == segmentation.dtype
    assert np.array_equal(segmentation, before)


def test_counting_in_slabs_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = LABELS["ignore"]
    cases = [(f"case {i}", *random_case(i, labels, (9, 8, 7))) for i in range(3)]
    whole = choose_postprocessing(cases, labels)
    monkeypatch.setattr(postprocessing, "CHUNK_VOXELS", 100)
    assert choose_postprocessing(cases, labels) == whole


def test_diagonal_neighbours_touch_and_ties_are_kept() -> None:
    segmentation = np.zeros((3, 3, 7), dtype=np.uint8)
    segmentation[0, 0, 0] = segmentation[1, 1, 1] = 1  # touch over a corner
    segmentation[2, 2, 5:7] = 1
    segmentation[0, 2, 4] = 1
    result = keep_largest_component(segmentation, [1])
    assert result.sum() == 4
    assert result[0, 2, 4] == 0


def test_empty_predictions_are_no_obstacle() -> None:
    empty = np.zeros((2, 3, 4), dtype=np.uint8)
    assert not keep_largest_component(empty, [1, 2]).any()
    rules, trials, scores = choose_postprocessing([("a", empty, empty)], LABELS["three classes"])
    assert rules == ()
    assert scores.mean_dice is None
    assert [trial.num_changed for trial in trials] == [0, 0, 0, 0]


def test_a_rule_that_only_makes_a_class_absent_is_not_accepted() -> None:
    """False voxels of a class no label has: without them its Dice is not 1 but undefined, so nothing is proven."""
    label = np.zeros((1, 8, 8), dtype=np.uint8)
    label[0, :3, :3] = 1
    prediction = label.copy()
    prediction[0, 6, 6] = 2
    rules, trials, _ = choose_postprocessing([("a", label, prediction)], LABELS["three classes"])
    assert rules == ()
    assert trials[0].num_changed == 1
    assert (trials[0].dice_before[1], trials[0].dice_after[1]) == (0.0, None)


def test_rules_apply_in_order_and_unknown_ones_are_named() -> None:
    segmentation = np.array([[[1, 1, 0, 2, 2, 2, 0, 1]]], dtype=np.uint8)
    foreground = Postprocessing(name=ALL_FOREGROUND, classes=(1, 2))
    assert apply(segmentation, [foreground]).tolist() == [[[0, 0, 0, 2, 2, 2, 0, 0]]]
    assert apply(segmentation, [Postprocessing(name="one", classes=(1,)), foreground]).sum() == 6
    assert apply(segmentation, []) is segmentation
    with pytest.raises(OptionError, match="did you mean 'largest-component'"):
        apply(segmentation, [Postprocessing(rule="largest-compnent", name="x", classes=(1,))])


def test_a_rule_is_not_judged_by_what_was_not_annotated() -> None:
    """Class 2 was not annotated here: that a rule removes a piece of it says nothing."""
    label, guess = np.zeros((2, 1, 12, 12), dtype=np.int16)
    label[0, 2:6, 2:6] = guess[0, 2:6, 2:6] = 1
    guess[0, 0, 0] = guess[0, 8:10, 8:10] = 2
    labels = LABELS["three classes"]
    known = [CasePrediction("a", label, guess, None)]
    partly = [CasePrediction("a", label, guess, (0, 1, 3))]
    assert choose_postprocessing(known, labels)[1][0].dice_before == (1.0, 0.0, None)
    rules, trials, scores = choose_postprocessing(partly, labels)
    assert trials[0].dice_before == (1.0, None, None)
    assert rules == ()
    assert scores == score_cases(partly, labels)


def test_a_region_that_holds_background_is_judged_as_it_is_applied() -> None:
    """Background is no piece: in a rule it would join everything to one component."""
    labels = Labels(
        classes=tuple(LabelClass(name=name, value=value) for value, name in enumerate(("background", "a", "b"))),
        regions=(Region(name="not b", values=(0, 1)), Region(name="both", values=(1, 2))),
    )
    label = np.zeros((1, 12, 12), dtype=np.uint8)
    label[0, 1:7, 1:7] = 1
    guess = label.copy()
    guess[0, 10:, 10:] = 1
    rules, _, scores = choose_postprocessing([("a", label, guess)], labels)
    assert rules
    assert all(0 not in rule.classes for rule in rules)
    assert apply(guess, rules).tolist() == label.tolist()
    assert scores.mean_dice == 1.0
