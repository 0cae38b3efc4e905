"""Logits come back to the image's grid as the straightforward way would bring them, slab by slab."""

import dataclasses
import tracemalloc

import numpy as np
import pytest
from skimage.transform import resize

from autoseg import native
from autoseg.errors import OptionError
from autoseg.inference import export
from autoseg.inference.export import LogitsPart, cut_slabs, segment
from autoseg.preprocessing.cropping import nonzero_box
from autoseg.preprocessing.preprocess import make_grid
from autoseg.targets import make_target
from planners.fingerprint import Channel
from planners.labels import LabelClass, Labels
from planners.plan import MemoryBudget, Plan

LABELS = Labels(classes=tuple(LabelClass(name=f"class{index}", value=10 * index) for index in range(4)))


def make_plan(configuration, axis_order=(0, 1, 2), labels=LABELS):
    return Plan(
        dataset="test",
        planner="default",
        budget=MemoryBudget(),
        axis_order=axis_order,
        channels=(Channel(name="MRI"),),
        labels=labels,
        configurations=(configuration,),
    )


def make_part(configuration, shape, box, spacing_mm=(1.0, 1.0, 1.0), seed=0, axis_order=(0, 1, 2)):
    """Random, smooth logits of an image of zeros with content in a box; shapes and box as read."""
    image = np.zeros((1, *shape), dtype=np.float32)
    image[(0, *(slice(*side) for side in box))] = 1
    box, _ = nonzero_box(image.transpose(0, *(1 + axis for axis in axis_order)))
    spacing_mm = tuple(spacing_mm[axis] for axis in axis_order)
    grid = make_grid(tuple(shape[axis] for axis in axis_order), box, spacing_mm, configuration)
    random = np.random.default_rng(seed)
    num_outputs = configuration.target.num_outputs
    logits = resize(random.normal(size=(num_outputs, 3, 4, 5)), (num_outputs, *grid.shape), order=3) * 5
    return LogitsPart(logits_KZYX=logits.astype(np.float32), grid=grid, resampling=configuration.resampling)


def slow_probabilities(part):
    """Every class at full resolution with skimage, then softmax; on the cropped grid."""
    full = np.stack(
        [
            resize(item, part.grid.shape_after_crop, order=1, mode="edge", anti_aliasing=False)
            for item in part.logits_KZYX
        ]
    )
    exponential = np.exp(full.astype(np.float64) - full.max(0))
    return exponential / exponential.sum(0)


def slow_back(array, part, axis_order):
    """Uncrop and undo the order of axes of one z, y, x map."""
    full = np.zeros(part.grid.shape_before_crop, dtype=array.dtype)
    full[tuple(slice(*side) for side in part.grid.crop_box)] = array
    return full.transpose(np.argsort(axis_order))


@pytest.fixture(autouse=True)
def thin_slabs(monkeypatch):
    """Several slabs even for small images."""
    monkeypatch.setattr(export, "SLAB_BYTES", 2**14)


CASES = [
    ((0, 1, 2), (30, 21, 25), ((3, 28), (0, 21), (5, 20)), (0.7, 1.3, 0.9)),
    ((2, 0, 1), (30, 21, 25), ((3, 28), (1, 20), (5, 20)), (0.7, 1.3, 1.9)),
    ((1, 2, 0), (12, 31, 14), ((0, 12), (0, 31), (0, 14)), (1.0, 1.0, 1.0)),
]


@pytest.mark.parametrize(("axis_order", "shape", "box", "spacing_mm"), CASES)
def test_one_configuration(make_configuration, axis_order, shape, box, spacing_mm):
    configuration = make_configuration((8, 8, 8), num_outputs=4)
    plan = make_plan(configuration, axis_order)
    part = make_part(configuration, shape, box, spacing_mm, axis_order=axis_order)
    target = make_target(configuration.target, plan.labels, configuration.training)
    assert len(cut_slabs(part.grid.shape_after_crop, 4)) > 2
    result = segment([part], target, plan)
    expected = slow_back(slow_probabilities(part).argmax(0), part, axis_order)
    assert result.shape == shape
    assert result.dtype == np.uint8
    assert len(np.unique(expected)) == 4
    assert (result != expected).mean() < 1e-3  # voxels where two classes are equal but for rounding
    np.testing.assert_array_equal(result, segment([part], target, plan, threads=3))


@pytest.mark.skipif(native.kernels().library is None, reason="no C compiler")
@pytest.mark.parametrize(("axis_order", "shape", "box", "spacing_mm"), CASES)
def test_many_classes_are_compared_without_their_logits(make_configuration, axis_order, shape, box, spacing_mm):
    """What is compiled takes them; it finds what slabs of all logits give, which are decoded where they are watched."""
    configuration = make_configuration((8, 8, 8), num_outputs=19)
    labels = Labels(classes=tuple(LabelClass(name=f"class{index}", value=index) for index in range(19)))
    plan = make_plan(configuration, axis_order, labels)
    part = make_part(configuration, shape, box, spacing_mm, axis_order=axis_order)
    target = make_target(configuration.target, plan.labels, configuration.training)
    assert part.onto(part.grid.shape_after_crop, part.grid.spacing_before_mm).compares
    result = segment([part], target, plan)
    assert len(np.unique(result)) > 10
    assert (result != segment([part], target, plan, watch=lambda slab: None)).mean() < 1e-3
    np.testing.assert_array_equal(result, segment([part], target, plan, threads=3))


def test_a_separate_axis_is_taken_from_the_nearest_slice(make_configuration):
    configuration = make_configuration((8, 8, 8), num_outputs=4, spacing_mm=(5.0, 1.0, 1.0))
    plan = make_plan(configuration)
    part = make_part(configuration, (9, 30, 30), ((0, 9), (0, 30), (0, 30)), (7.0, 0.8, 0.8))
    target = make_target(configuration.target, plan.labels, configuration.training)
    slices = [
        [resize(plane, (30, 30), order=1, mode="edge", anti_aliasing=False) for plane in item]
        for item in part.logits_KZYX
    ]
    nearest = np.clip(np.floor((np.arange(9) + 0.5) * part.grid.shape[0] / 9).astype(int), 0, part.grid.shape[0] - 1)
    expected = np.array(slices)[:, nearest].argmax(0)
    assert (segment([part], target, plan) != expected).mean() < 1e-3


def test_2d_configuration_keeps_its_slices(make_configuration):
    configuration = make_configuration((8, 8), num_outputs=4, spacing_mm=(0.5, 0.5))
    plan = make_plan(configuration)
    part = make_part(configuration, (4, 20, 30), ((1, 4), (0, 20), (2, 30)), (8.0, 0.7, 0.7))
    assert part.grid.shape[0] == 3
    target = make_target(configuration.target, plan.labels, configuration.training)
    expected = np.stack([slow_probabilities(_slice(part, index))[:, 0].argmax(0) for index in range(3)])
    assert (segment([part], target, plan) != slow_back(expected, part, (0, 1, 2))).mean() < 1e-3


def _slice(part, index):
    grid = dataclasses.replace(part.grid, shape_after_crop=(1, *part.grid.shape_after_crop[1:]))
    return dataclasses.replace(part, logits_KZYX=part.logits_KZYX[:, index : index + 1], grid=grid)


def test_configurations_are_averaged_as_probabilities(make_configuration):
    fine = make_configuration((8, 8, 8), num_outputs=4)
    coarse = make_configuration((8, 8, 8), num_outputs=4, spacing_mm=(2.0, 1.5, 1.5))
    plan = make_plan(fine)
    shape, box = (20, 24, 28), ((2, 20), (0, 20), (3, 28))
    parts = [make_part(fine, shape, box, seed=1), make_part(coarse, shape, box, seed=2)]
    target = make_target(fine.target, plan.labels, fine.training)
    assert parts[0].grid.shape != parts[1].grid.shape
    mean = (slow_probabilities(parts[0]) + slow_probabilities(parts[1])) / 2
    expected = slow_back(mean.argmax(0), parts[0], (0, 1, 2))
    result = segment(parts, target, plan)
    assert (result != expected).mean() < 1e-3
    alone = [segment([part], target, plan) for part in parts]
    assert all((result != item).mean() > 0.02 for item in alone)


@pytest.mark.parametrize("num_parts", [1, 2])
@pytest.mark.parametrize(("axis_order", "shape", "box", "spacing_mm"), CASES)
def test_probabilities_are_on_the_grid_of_the_image(
    make_configuration, tmp_path, axis_order, shape, box, spacing_mm, num_parts
):
    configuration = make_configuration((8, 8, 8), num_outputs=4)
    plan = make_plan(configuration, axis_order)
    parts = [make_part(configuration, shape, box, spacing_mm, seed, axis_order) for seed in range(num_parts)]
    target = make_target(configuration.target, plan.labels, configuration.training)
    file = tmp_path / "made" / "case.probabilities.npy"
    result = segment(parts, target, plan, file)
    np.testing.assert_array_equal(result, segment(parts, target, plan))
    saved = np.load(file, mmap_mode="r")
    assert saved.dtype == np.float16
    assert saved.shape == (4, *shape)
    mean = sum(slow_probabilities(part) for part in parts) / num_parts
    expected = np.stack([slow_back(item, parts[0], axis_order) for item in mean])
    outside = slow_back(np.ones(parts[0].grid.shape_after_crop), parts[0], axis_order) == 0
    expected[0][outside] = 1
    np.testing.assert_allclose(saved, expected, atol=1e-3)
    assert [path.name for path in file.parent.iterdir()] == [file.name]


class Overlapping:
    """Outputs that overlap, each with a probability of its own; the last that is likely names the voxel."""

    name, pointwise = "overlapping", True

    def probabilities(self, logits):
        return 1 / (1 + np.exp(-logits))

    def decode_probabilities(self, probabilities):
        return np.where(probabilities > 0.5, np.arange(1, len(probabilities) + 1)[:, None, None, None], 0).max(0)

    def decode(self, logits):
        return self.decode_probabilities(self.probabilities(logits))

    def background_probabilities(self, num_outputs):
        return [0.0] * num_outputs


@pytest.mark.parametrize("num_parts", [1, 2])
def test_probabilities_of_overlapping_outputs(make_configuration, tmp_path, num_parts):
    """What the probabilities mean is for the target to say: here outside the crop all are 0."""
    configuration = make_configuration((8, 8, 8), num_outputs=3)
    plan = make_plan(configuration)
    box = ((2, 12), (0, 20), (0, 18))
    parts = [make_part(configuration, (12, 20, 20), box, seed=seed) for seed in range(num_parts)]
    file = tmp_path / "case.probabilities.npy"
    result = segment(parts, Overlapping(), plan, file)
    mean = sum(1 / (1 + np.exp(-part.logits_KZYX.astype(np.float64))) for part in parts) / num_parts
    expected = np.where(mean[2] > 0.5, 3, np.where(mean[1] > 0.5, 2, np.where(mean[0] > 0.5, 1, 0)))
    assert (result != slow_back(expected, parts[0], (0, 1, 2))).mean() < 1e-3
    saved = np.load(file)
    np.testing.assert_allclose(saved[:, 2:, :, :18], mean, atol=1e-3)
    assert not saved[:, :2].any()
    assert not saved[:, :, :, 18:].any()


def test_nothing_is_left_of_a_file_that_could_not_be_finished(make_configuration, tmp_path):
    configuration = make_configuration((8, 8, 8), num_outputs=4)
    plan = make_plan(configuration)
    target = make_target(configuration.target, plan.labels, configuration.training)
    part = make_part(configuration, *CASES[0][1:])

    def fail(logits):
        raise MemoryError("full")

    target.decode = fail
    with pytest.raises(MemoryError, match="full"):
        segment([part], target, plan, tmp_path / "case.probabilities.npy")
    assert not list(tmp_path.iterdir())


def test_a_target_that_is_not_pointwise_is_decoded_whole(make_configuration, tmp_path):
    """Such a target sees all maps of the preprocessed grid at once, averaged over configurations."""
    configuration = make_configuration((8, 8, 8), num_outputs=4, spacing_mm=(2.0, 2.0, 2.0))
    plan = make_plan(configuration, (2, 0, 1))
    parts = [make_part(configuration, *CASES[1][1:], seed=seed, axis_order=(2, 0, 1)) for seed in range(2)]
    seen = []

    class Whole:
        name, pointwise = "whole", False

        def decode(self, maps):
            seen.append(maps)
            return (maps[0] > 0).astype(np.int32) * 300

    result = segment(parts, Whole(), plan)
    assert len(seen) == 1
    np.testing.assert_allclose(seen[0], (parts[0].logits_KZYX + parts[1].logits_KZYX) / 2, rtol=1e-6)
    assert result.shape == CASES[1][1]
    assert set(np.unique(result)) == {0, 300}
    share = resize(
        (seen[0][0] > 0).astype(float), parts[0].grid.shape_after_crop, order=1, mode="edge", anti_aliasing=False
    )
    assert (result != slow_back((share > 0.5) * 300, parts[0], (2, 0, 1))).mean() < 0.02
    with pytest.raises(OptionError, match="no probability"):
        segment(parts, Whole(), plan, tmp_path / "case.probabilities.npy")


def test_memory_stays_far_below_classes_times_full_grid(make_configuration, monkeypatch):
    monkeypatch.setattr(export, "SLAB_BYTES", 2**18)
    labels = Labels(classes=tuple(LabelClass(name=str(index), value=index) for index in range(30)))
    configuration = make_configuration((8, 8, 8), num_outputs=30, spacing_mm=(4.0, 4.0, 4.0))
    plan = make_plan(configuration, labels=labels)
    part = make_part(configuration, (64, 64, 64), ((0, 64), (0, 64), (0, 64)))
    target = make_target(configuration.target, labels, configuration.training)
    segment([part], target, plan)
    tracemalloc.start()
    segment([part], target, plan)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.15 * 30 * 64**3 * 4  # the map itself is 0.8 % of that, a slab 1 % and its copies
