"""Ensembles in one pass: the same counts as from segmenting and counting each by itself."""

import numpy as np
import pytest

from autoseg.evaluation.overlap import joint_histogram
from autoseg.inference.ensembles import Ensemble, count_ensembles
from autoseg.inference.export import LogitsPart, average, segment
from autoseg.preprocessing.preprocess import CaseGrid
from autoseg.targets import make_target
from planners.fingerprint import Channel
from planners.labels import LabelClass, Labels, Region
from planners.plan import MemoryBudget, Plan, Target, Training

CLASSES = tuple(LabelClass(name=str(value), value=value) for value in range(4))
LABELS = {
    "semantic": Labels(classes=CLASSES),
    "ignore": Labels(classes=CLASSES, ignore=9),
    "nested": Labels(
        classes=CLASSES, regions=tuple(Region(name=str(i), values=tuple(range(i, 4))) for i in range(1, 4))
    ),
    "crossing": Labels(classes=CLASSES, regions=(Region(name="a", values=(1, 2)), Region(name="b", values=(2, 3)))),
}
ENSEMBLES = [
    Ensemble(members=(0, 1), weights=(0.5, 0.5)),
    Ensemble(members=(1, 2), weights=(0.2, 0.8)),
    Ensemble(members=(0, 1, 2), weights=(1 / 3, 1 / 3, 1 / 3)),
    Ensemble(members=(0, 1, 2), weights=(4 / 6, 1 / 6, 1 / 6)),
]


def make_plan(labels: Labels, make_configuration) -> Plan:
    return Plan(
        dataset="test",
        planner="default",
        budget=MemoryBudget(),
        axis_order=(1, 0, 2),
        channels=(Channel(name="MRI"),),
        labels=labels,
        configurations=(make_configuration((4, 4, 4), num_outputs=4),),
    )


def grid_of(shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]) -> CaseGrid:
    """A crop of 10 × 12 × 9 voxels of 1 mm in an image of 13 × 12 × 11 (in the plan's order), resampled."""
    return CaseGrid(
        shape_before_crop=(13, 12, 11),
        crop_box=((2, 12), (0, 12), (1, 10)),
        shape_after_crop=(10, 12, 9),
        spacing_before_mm=(1.0, 1.0, 1.0),
        shape=shape,
        spacing_mm=spacing_mm,
    )


@pytest.fixture
def parts(make_configuration):
    """What three configurations say: mostly the same, on three grids."""
    rng = np.random.default_rng(0)
    resampling = make_configuration((4, 4, 4)).resampling
    shared = np.kron(rng.normal(0, 4, (4, 5, 6, 9)), np.ones((1, 2, 2, 1)))
    grids = [grid_of((10, 12, 9), (1.0,) * 3), grid_of((5, 6, 9), (2.0, 2.0, 1.0)), grid_of((10, 12, 9), (1.0,) * 3)]
    logits = [shared, shared[:, ::2, ::2], shared]
    return [
        LogitsPart(
            logits_KZYX=(item + rng.normal(0, 2, item.shape)).astype(np.float32), grid=grid, resampling=resampling
        )
        for item, grid in zip(logits, grids, strict=True)
    ]


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("slab_bytes", [1, 10**6])
def test_counts_equal_segmenting_each(kind, slab_bytes, parts, make_configuration, monkeypatch) -> None:
    monkeypatch.setattr("autoseg.inference.export.SLAB_BYTES", slab_bytes)
    labels, plan = LABELS[kind], make_plan(LABELS[kind], make_configuration)
    num_outputs = len(labels.regions) or 4
    name = "regions" if labels.regions else "semantic"
    target = make_target(Target(name=name, num_outputs=num_outputs), labels, plan.configurations[0].training)
    parts = [LogitsPart(logits_KZYX=p.logits_KZYX[:num_outputs], grid=p.grid, resampling=p.resampling) for p in parts]
    rng = np.random.default_rng(1)
    label = rng.integers(0, 4, (12, 13, 11)).astype(np.int16)  # as read, also outside the crop
    if labels.ignore_index is not None:
        label[rng.random(label.shape) < 0.1] = labels.ignore_index
    found = count_ensembles(parts, ENSEMBLES, target, plan, label)
    for ensemble, histogram in zip(ENSEMBLES, found, strict=True):
        members = [
            LogitsPart(
                logits_KZYX=parts[member].logits_KZYX,
                grid=parts[member].grid,
                resampling=parts[member].resampling,
                weight=weight,
            )
            for member, weight in zip(ensemble.members, ensemble.weights, strict=True)
        ]
        segmentation = segment(members, target, plan)
        assert np.array_equal(histogram, joint_histogram(label, segmentation, 4, labels.ignore_index))
    assert target.is_unanimous == (kind != "crossing")


@pytest.mark.parametrize("kind", ["semantic", "nested"])
def test_where_all_agree_so_does_any_average(kind) -> None:
    """What ``Target.is_unanimous`` says, on many random probabilities."""
    labels = LABELS[kind]
    outputs = len(labels.regions) or 4
    name = "regions" if labels.regions else "semantic"
    target = make_target(Target(name=name, num_outputs=outputs), labels, Training())
    rng = np.random.default_rng(2)
    logits = [rng.normal(0, 3, (outputs, 30, 30, 30)).astype(np.float32) for _ in range(3)]
    decoded = [target.decode(item) for item in logits]
    alike = (decoded[0] == decoded[1]) & (decoded[1] == decoded[2])
    assert 0.01 < alike.mean() < 0.9
    for weights in ((1.0, 1.0, 1.0), (4.0, 1.0, 1.0), (0.2, 0.1, 0.7)):
        mean = average([target.probabilities(item) for item in logits], weights)
        assert np.array_equal(target.decode_probabilities(mean)[alike], decoded[0][alike])


def test_weighted_mean_is_that_of_the_formula() -> None:
    rng = np.random.default_rng(3)
    maps = [rng.random((2, 3, 4, 5)).astype(np.float32) for _ in range(3)]
    weights = (0.5, 0.2, 0.3)
    expected = sum(weight * item.astype(float) for weight, item in zip(weights, maps, strict=True))
    assert np.allclose(average([item.copy() for item in maps], weights), expected, atol=1e-6)
    plain = average([item.copy() for item in maps], (1 / 3,) * 3)
    assert np.array_equal(plain, (maps[0] + maps[1] + maps[2]) / np.float32(3)), "equal weights: the mean, bit for bit"
