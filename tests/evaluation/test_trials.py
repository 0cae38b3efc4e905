"""Trials: judging rules from counts equals rewriting every prediction; what is accepted helps, and is needed."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.evaluation import pieces
from autoseg.evaluation.overlap import CasePrediction, Scores, case_score, score_cases, structures_of
from autoseg.evaluation.pieces import piece_table
from autoseg.evaluation.postprocessing import (
    ALL_FOREGROUND,
    FILL_HOLES,
    LARGEST_COMPONENT,
    REMOVE_SMALL,
    Postprocessing,
    apply,
)
from autoseg.evaluation.trials import choose_postprocessing
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


def random_case(seed: int, labels: Labels, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Blobs as label, and as prediction the same with holes and specks."""
    rng = np.random.default_rng(seed)
    label = np.zeros(shape, dtype=np.int16)
    for index in range(1, labels.num_classes):
        corner = [int(rng.integers(0, max(size - 3, 1))) for size in shape]
        label[tuple(slice(start, start + int(rng.integers(2, 6))) for start in corner)] = index
    noise = rng.integers(0, labels.num_classes, shape)
    prediction = np.where(rng.random(shape) < rng.choice([0.02, 0.1, 0.3]), noise, label).astype(np.uint8)
    if labels.ignore_index is not None:
        label[rng.random(shape) < 0.2] = labels.ignore_index
    return label, prediction


def random_cases(seed: int, labels: Labels, flat: bool, count: int = 3) -> list[CasePrediction]:
    shape = (1, 12, 13) if flat else (6, 8, 7)
    return [
        CasePrediction(f"case {i}", *random_case(seed + i, labels, shape), None, 0.5 + 0.25 * i) for i in range(count)
    ]


def rewritten(cases: list[CasePrediction], rules: list[Postprocessing]) -> list[CasePrediction]:
    return [item._replace(prediction=apply(item.prediction, rules, item.voxel_mm3)) for item in cases]


rules_of = st.builds(
    Postprocessing,
    rule=st.sampled_from([LARGEST_COMPONENT, REMOVE_SMALL, FILL_HOLES]),
    name=st.just("x"),
    classes=st.sets(st.integers(1, 3), min_size=1).map(lambda found: tuple(sorted(found))),
    size_mm3=st.sampled_from([0.6, 1.0, 2.1, 4.0]),
)


@settings(max_examples=120, deadline=None)
@given(seed=st.integers(0, 10**6), flat=st.booleans(), rules=st.lists(rules_of, min_size=1, max_size=4))
def test_any_sequence_of_rules_is_counted_as_it_is_applied(seed: int, flat: bool, rules: list[Postprocessing]) -> None:
    labels = LABELS["ignore"]
    (item,) = random_cases(seed, labels, flat, count=1)
    table = piece_table(item.case, item.label, item.prediction, labels, None, item.voxel_mm3)
    now = table.classes
    for rule in rules:
        now = table.after(now, rule)
    counted = case_score(item.case, table.histogram_after(now), structures_of(labels))
    assert counted == score_cases(rewritten([item], rules), labels).cases[0]


def slow_choice(cases: list[CasePrediction], labels: Labels, tried: list[list[Postprocessing]]) -> list[Postprocessing]:
    """Rewrite every prediction with every rule; ``tried``: rules of which one at most is accepted, in their order."""

    def helps(before: Scores, after: Scores) -> bool:
        known = [(b, a) for b, a in zip(before.dice, after.dice, strict=True) if b is not None and a is not None]
        return any(a > b for b, a in known) and all(a >= b for b, a in known)

    accepted: list[Postprocessing] = []
    raw = best = score_cases(cases, labels)
    for alternatives in tried:
        found = [(rule, score_cases(rewritten(cases, [*accepted, rule]), labels)) for rule in alternatives]
        found = [(rule, scores) for rule, scores in found if helps(best, scores)]
        if found:
            rule, best = max(found, key=lambda pair: pair[1].mean_dice or 0.0)
            accepted.append(rule)
    for rule in list(accepted):
        rest = [item for item in accepted if item != rule]
        without = score_cases(rewritten(cases, rest), labels)
        falls = any(a < b for b, a in zip(raw.dice, without.dice, strict=True) if a is not None and b is not None)
        if (without.mean_dice or 0) >= (best.mean_dice or 0) and not falls:
            accepted, best = rest, without
    return accepted


@pytest.mark.parametrize("kind", LABELS)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), flat=st.booleans())
def test_choice_from_counts_equals_rewriting(kind: str, seed: int, flat: bool) -> None:
    labels = LABELS[kind]
    cases = random_cases(seed, labels, flat)
    rules, trials, scores = choose_postprocessing(iter(cases), labels)
    tried: list[list[Postprocessing]] = []
    for trial in trials:
        rule = trial.postprocessing
        same = (
            tried
            and rule.rule == REMOVE_SMALL
            and tried[-1][0] == dataclasses.replace(rule, size_mm3=tried[-1][0].size_mm3)
        )
        if same:
            tried[-1].append(rule)
        else:
            tried.append([rule])
    assert list(rules) == slow_choice(cases, labels, tried)
    assert scores == score_cases(rewritten(cases, list(rules)), labels)
    assert [trial.postprocessing for trial in trials if trial.accepted] == list(rules)
    assert not any(trial.accepted and trial.superseded for trial in trials)


def made_cases() -> list[CasePrediction]:
    """Six cases whose predictions have a far speck of class 1, small false pieces of class 2, and a hole in class 3."""
    cases = []
    for index in range(6):
        label = np.zeros((9, 24, 24), dtype=np.uint8)
        label[1:8, 2:9, 2:9], label[1:8, 12:18, 2:9], label[1:8, 2:9, 12:19] = 1, 2, 3
        label[4:7, 20:23, 20:23] = 2  # class 2 has two parts, so that its largest component is not enough
        guess = label.copy()
        guess[0, 22:, index : index + 4] = 1
        guess[0, 12 + index % 3, 14:16] = 2
        guess[3:6, 4:6, 14:16] = 0
        cases.append(CasePrediction(f"case {index}", label, guess, None, 2.0))
    return cases


def test_each_kind_of_rule_is_found_and_each_is_needed() -> None:
    labels, cases = LABELS["three classes"], made_cases()
    rules, trials, scores = choose_postprocessing(cases, labels)
    assert [(rule.rule, rule.name) for rule in rules] == [
        (LARGEST_COMPONENT, "class 1"),
        (REMOVE_SMALL, "class 2"),
        (FILL_HOLES, ALL_FOREGROUND),
    ]
    (small,) = (rule for rule in rules if rule.rule == REMOVE_SMALL)
    assert small.size_mm3 is not None
    assert 4.0 < small.size_mm3 < 54.0  # false pieces have 2 voxels of 2 mm³, the true second part 27
    assert scores.mean_dice == 1.0
    assert (trials[0].mean_before or 1.0) < 1.0
    for rule in rules:
        without = score_cases(rewritten(cases, [item for item in rules if item != rule]), labels)
        assert (without.mean_dice or 0.0) < 1.0, f"{rule.rule} of {rule.name} is not needed"


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_without_an_accepted_rule_the_score_is_lower_and_no_class_has_suffered(seed: int) -> None:
    labels = LABELS["three classes"]
    cases = random_cases(seed, labels, flat=False, count=4)
    rules, _, scores = choose_postprocessing(cases, labels)
    raw = score_cases(cases, labels)
    for rule in rules:
        without = score_cases(rewritten(cases, [item for item in rules if item != rule]), labels)
        suffers = [a < b for b, a in zip(raw.dice, without.dice, strict=True) if a is not None and b is not None]
        assert (without.mean_dice or 0.0) < (scores.mean_dice or 0.0) or any(suffers)
    pairs = [(b, a) for b, a in zip(raw.dice, scores.dice, strict=True) if a is not None and b is not None]
    assert all(after >= before for before, after in pairs)


def test_what_a_later_rule_does_as_well_is_superseded() -> None:
    """The rule of all foreground removes a far speck; that of its class removes it and a piece beside another class."""
    label = np.zeros((1, 20, 20), dtype=np.uint8)
    label[0, 2:8, 2:8], label[0, 8:12, 2:8] = 1, 2
    guess = label.copy()
    guess[0, 16, 16] = guess[0, 12, 4] = 1
    labels = LABELS["three classes"]
    rules, trials, scores = choose_postprocessing([("a", label, guess)], labels)
    assert [rule.name for rule in rules] == ["class 1"]
    assert (trials[0].postprocessing.name, trials[0].accepted, trials[0].superseded) == (ALL_FOREGROUND, False, True)
    assert scores == score_cases([("a", label, apply(guess, rules, 1.0))], labels)


def test_counting_in_slabs_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = LABELS["ignore"]
    cases = random_cases(5, labels, flat=False)
    whole = choose_postprocessing(cases, labels)
    monkeypatch.setattr(pieces, "CHUNK_VOXELS", 100)
    assert choose_postprocessing(cases, labels) == whole


def test_empty_predictions_are_no_obstacle() -> None:
    empty = np.zeros((2, 3, 4), dtype=np.uint8)
    rules, trials, scores = choose_postprocessing([("a", empty, empty)], LABELS["three classes"])
    assert rules == ()
    assert scores.mean_dice is None
    assert [trial.num_changed for trial in trials] == [0] * 8


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


def test_a_rule_is_not_judged_by_what_was_not_annotated() -> None:
    """Class 2 was not annotated here: that a rule removes a piece of it says nothing, nor is its size asked."""
    label, guess = np.zeros((2, 1, 12, 12), dtype=np.int16)
    label[0, 2:6, 2:6] = guess[0, 2:6, 2:6] = 1
    guess[0, 0, 0] = guess[0, 8:10, 8:10] = 2
    labels = LABELS["three classes"]
    known = [CasePrediction("a", label, guess, None)]
    partly = [CasePrediction("a", label, guess, (0, 1, 3))]
    assert choose_postprocessing(known, labels)[1][0].dice_before == (1.0, 0.0, None)
    rules, trials, scores = choose_postprocessing(partly, labels)
    assert trials[0].dice_before == (1.0, None, None)
    assert not any(trial.postprocessing.rule == REMOVE_SMALL for trial in trials)
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
    assert apply(guess, rules, 1.0).tolist() == label.tolist()
    assert scores.mean_dice == 1.0
