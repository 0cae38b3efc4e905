"""Regions and back: for every definition that tells the classes apart, labels → regions → labels changes nothing."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.targets import make_target
from autoseg.targets.base import Target
from planners.labels import LabelClass, Labels, Region
from planners.plan import Target as TargetRecord
from planners.plan import Training
from planners.records import PlanError
from planners.regions import membership, painting, representatives


def labels_of(*regions: tuple[int, ...], num_classes: int = 4, order: tuple[int, ...] = ()) -> Labels:
    """Classes of the values 0, 10, 20 …; regions by inner indices."""
    return Labels(
        classes=tuple(LabelClass(name=f"class {index}", value=10 * index) for index in range(num_classes)),
        regions=tuple(Region(name=f"r{i}", values=tuple(10 * k for k in some)) for i, some in enumerate(regions)),
        region_values=tuple(10 * index for index in order),
    )


def target(labels: Labels, **training: object) -> Target:
    record = TargetRecord(name="regions", num_outputs=len(labels.regions))
    return make_target(record, labels, Training(**training))  # type: ignore[arg-type]


@st.composite
def definitions(draw: st.DrawFn) -> Labels:
    """Any regions over two to seven classes: nested, overlapping, equal, some with background."""
    num_classes = draw(st.integers(2, 7))
    some = st.lists(st.integers(0, num_classes - 1), min_size=1, max_size=num_classes, unique=True)
    return labels_of(*draw(st.lists(some.map(tuple), min_size=1, max_size=6)), num_classes=num_classes)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(labels=definitions(), seed=st.integers(0, 1000))
def test_labels_to_regions_and_back(labels: Labels, seed: int) -> None:
    generator = np.random.default_rng(seed)
    label = torch.from_numpy(generator.integers(0, labels.num_classes, (1, 1, 3, 4, 5)).astype(np.int16))
    made = target(labels)
    (maps,), _ = made.encode(label, [(1, 1, 1)])
    strength = torch.from_numpy(generator.uniform(0.5, 9.0, (1, 1, 3, 4, 5))).float()  # a network more or less sure
    logits = ((2.0 * maps - 1) * strength)[0].numpy()
    expected = np.array(representatives(labels))[label[0, 0].numpy()]
    decoded = made.decode(logits)
    np.testing.assert_array_equal(decoded, expected)
    np.testing.assert_array_equal(made.decode_probabilities(made.probabilities(logits)), expected)
    assert decoded.dtype == np.uint8
    if len(set(representatives(labels))) == labels.num_classes:
        np.testing.assert_array_equal(decoded, label[0, 0].numpy())


def all_orders(labels: Labels) -> bool:
    """Try every order of regions and every value per region: is there one that paints each class?"""
    table, same = membership(labels), representatives(labels)
    wanted = sorted(set(same))
    if table[:, 0].any() and not all(table[:, k].any() for k in wanted):
        return False  # unpainted voxels are background
    for order in itertools.permutations(range(len(table))):
        ends = [next((r for r in reversed(order) if table[r, k]), None) for k in wanted]
        inside = [end for end in ends if end is not None]
        if len(set(inside)) == len(inside):
            return True
    return False


@settings(max_examples=60, deadline=None, derandomize=True)
@given(labels=definitions())
def test_an_order_of_painting_is_found_where_there_is_one(labels: Labels) -> None:
    if len(labels.regions) <= 5:
        assert (painting(labels) is not None) == all_orders(labels)


def test_brats_is_painted_from_the_outside_in() -> None:
    made = target(labels_of((1, 2, 3), (2, 3), (3,)))
    assert made.strokes is not None
    assert [(stroke.region, stroke.index) for stroke in made.strokes] == [(0, 1), (1, 2), (2, 3)]
    logits = np.array([[-1, 1, 1, 1, -1], [-1, -1, 1, 1, 1], [-1, -1, -1, 1, 1]], dtype=np.float32)[:, None, None]
    assert made.decode(logits).tolist() == [[[0, 1, 2, 3, 3]]]


def test_a_given_order_is_honoured() -> None:
    logits = np.array([[1, 1, -1], [-1, 1, 1]], dtype=np.float32)[:, None, None]
    first = target(labels_of((1, 2), (2,), num_classes=3, order=(1, 2)))
    assert first.decode(logits).tolist() == [[[1, 2, 2]]]
    other = target(labels_of((1, 2), (2,), num_classes=3, order=(2, 1)))
    assert other.decode(logits).tolist() == [[[2, 1, 1]]]
    mean = other.probabilities(logits)
    assert other.decode_probabilities(mean).tolist() == [[[2, 1, 1]]]


def test_where_no_order_exists_the_best_agreement_is_taken() -> None:
    """Three regions that overlap pairwise, and nothing else: every painting covers something."""
    labels = labels_of((1, 2), (2, 3), (1, 3))
    assert painting(labels) is None
    made = target(labels)
    logits = np.array([[5, 5, 1, -3], [-1, 4, 1, -3], [2, 4.5, -2, -3]], dtype=np.float32)[:, None, None]
    assert made.decode(logits).tolist() == [[[1, 1, 2, 0]]]
    scores = np.stack(
        [np.zeros(4), *(logits[[0, 2], 0, 0].sum(0), logits[[0, 1], 0, 0].sum(0), logits[1:, 0, 0].sum(0))]
    )
    assert scores.argmax(0).tolist() == [1, 1, 2, 0]


def test_a_single_class_may_be_a_region_alone() -> None:
    made = target(labels_of((1,), num_classes=2))
    logits = np.array([[[[-0.1, 0.0, 0.1]]]], dtype=np.float32)
    assert made.decode(logits).tolist() == [[[0, 0, 1]]], "a region is found where it is more probable than not"
    assert made.background_probabilities(1) == [0.0]


def test_probabilities_of_extreme_logits() -> None:
    made = target(labels_of((1, 2), (2, 3), (1, 3)))
    logits = np.array([1e4, -1e4, 0], dtype=np.float32).reshape(3, 1, 1, 1)
    assert made.probabilities(logits).reshape(-1).tolist() == [1, 0, 0.5]
    assert made.decode_probabilities(made.probabilities(logits)).item() == made.decode(logits).item()


@pytest.mark.parametrize("loss", ["dice+cross-entropy", "dice", "cross-entropy"])
def test_a_region_of_unknown_classes_is_not_learned(loss: str) -> None:
    """Sample 0 was not annotated for class 2: of three regions only the one without it counts."""
    made = target(labels_of((1, 2, 3), (2,), (3,)), loss=loss)
    label = torch.tensor([0, 1, 3, 0], dtype=torch.int16).repeat(2, 1, 1, 1, 1)
    logits = torch.randn(2, 3, 1, 1, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    annotated = torch.tensor([[True, True, False, True], [True] * 4])
    made.loss([logits], *made.encode(label, [(1, 1, 1)]), [1.0], annotated).backward()
    assert logits.grad is not None
    assert not logits.grad[0, :2].any()
    assert logits.grad[0, 2].all()
    assert logits.grad[1].all()


def test_a_perfect_prediction_comes_near_minus_one() -> None:
    made = target(labels_of((1, 2, 3), (2, 3), (3,)))
    label = torch.arange(4, dtype=torch.int16).view(1, 1, 1, 1, 4)
    maps, weights = made.encode(label, [(1, 1, 1)])
    assert made.loss([100.0 * maps[0] - 50], maps, weights, [1.0]).item() == pytest.approx(-1, abs=1e-4)


def test_regions_are_needed() -> None:
    with pytest.raises(PlanError, match="target regions needs labels with regions"):
        target(dataclasses.replace(labels_of((1,)), regions=()))
