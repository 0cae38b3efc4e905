"""Objects come back to the image's grid: through crop, order of axes and resampling, with classes and probabilities."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy import ndimage

from autoseg.data.image import Geometry
from autoseg.evaluation.contingency import contingency
from autoseg.evaluation.labelled_objects import read_prediction
from autoseg.evaluation.matching import f1, match
from autoseg.inference import instances
from autoseg.inference.export import LogitsPart, decode_whole, segment
from autoseg.inference.instances import (
    SegmentedObjects,
    class_map,
    find_kept_map,
    keep_object_maps,
    segment_objects,
    write_object_maps,
)
from autoseg.inference.previous import previous_segmentation
from autoseg.preprocessing.cropping import box_slices, nonzero_box
from autoseg.preprocessing.label_resampling import resample_label
from autoseg.preprocessing.preprocess import make_grid
from autoseg.targets import TARGETS, make_target
from autoseg.targets.flow import FlowTarget
from autoseg.targets.instance_target import InstanceTarget
from planners.fingerprint import Channel
from planners.labels import LabelClass, Labels
from planners.plan import Configuration, MemoryBudget, Plan
from planners.plan import Target as TargetRecord

NAMES = sorted(name for name, kind in TARGETS.items() if issubclass(kind, InstanceTarget))
CELLS = Labels(
    classes=(LabelClass(name="nothing", value=0), LabelClass(name="cell", value=7)), instance_classes=("cell",)
)
KINDS = Labels(
    classes=tuple(LabelClass(name=name, value=index * 50) for index, name in enumerate(("none", "cell", "vessel"))),
    instance_classes=("cell",),
)


def make_plan(make_configuration, name: str, patch: tuple[int, ...], labels: Labels = CELLS, **fields: Any) -> Plan:
    """A plan of one configuration with a target of instances."""
    options = {"dimensions": len(patch), "diameter": 10.0}
    record = TargetRecord(name=name, num_outputs=TARGETS[name].num_outputs(labels, options), options=options)
    return Plan(
        dataset="cells",
        planner="default",
        budget=MemoryBudget(),
        axis_order=fields.pop("axis_order", (0, 1, 2)),
        channels=(Channel(name="light"),),
        labels=labels,
        configurations=(make_configuration(patch, target=record, name=name, **fields),),
    )


def target_of(plan: Plan, configuration: Configuration | None = None) -> InstanceTarget:
    configuration = configuration or plan.configurations[0]
    made = make_target(configuration.target, plan.labels, configuration.training)
    assert isinstance(made, InstanceTarget)
    return made


def perfect_part(
    plan: Plan, classes: np.ndarray, ids: np.ndarray, spacing_mm: tuple[float, float, float], noise: float = 0.0
) -> LogitsPart:
    """What a network would say that is right, of label layers on the image's grid as read; the image is their mask."""
    configuration, target = plan.configurations[0], target_of(plan)
    order = plan.axis_order
    layers = [layer.transpose(order) for layer in (classes, ids)]
    box, _ = nonzero_box((layers[0] > 0).astype(np.float32)[None])
    spacing = tuple(spacing_mm[axis] for axis in order)
    grid = make_grid(layers[0].shape, box, spacing, configuration)
    layers = [
        resample_label(layer[box_slices(box)], grid.shape, spacing, grid.spacing_mm, configuration.resampling)
        for layer in layers
    ]
    label = torch.from_numpy(np.stack(layers).astype(np.int64))[None]
    if target.dimensions == 2:
        label = label[0].movedim(1, 0)
    (maps,), _ = target.encode(label, [(1,) * target.dimensions])
    if not maps.is_floating_point():
        logits = 8 * torch.nn.functional.one_hot(maps, target.record.num_outputs).movedim(-1, 1).float()
    else:
        first = target.dimensions if isinstance(target, FlowTarget) else 0
        logits = torch.cat([maps[:, :first], 16 * maps[:, first:] - 8], dim=1)
    logits = logits.movedim(0, 1) if target.dimensions == 2 else logits[0]
    drawn = np.random.default_rng(0).normal(0, noise, logits.shape) if noise else 0
    return LogitsPart(
        logits_KZYX=(logits.numpy() + drawn).astype(np.float32), grid=grid, resampling=configuration.resampling
    )


def score(wanted: np.ndarray, found: np.ndarray) -> float:
    parts = f1(contingency(wanted, found), 0.5)
    return parts.top / parts.bottom


def apart(ids: np.ndarray) -> np.ndarray:
    """Take the voxels out that lie within three of another object: components can then tell objects apart, too."""
    most = ndimage.maximum_filter(ids, 7)
    least = ndimage.minimum_filter(np.where(ids > 0, ids, ids.max() + 1), 7)
    return np.where((most == ids) & (least == ids), ids, 0)


@pytest.mark.parametrize("name", NAMES)
def test_objects_come_back_through_crop_axes_and_resampling(make_configuration, ellipses, name: str) -> None:
    ids = np.zeros((30, 52, 44), dtype=np.int64)
    ids[3:27, 4:46, 6:40] = ellipses((24, 42, 34), 12, 7.0, seed=3)
    ids[8:11, 50, 2] = 99  # below what the grid can show: it may be lost, and then leaves no gap
    if name == "foreground":
        ids = apart(ids)
    plan = make_plan(make_configuration, name, (16, 16, 16), axis_order=(2, 0, 1), spacing_mm=(1.2, 1.0, 1.3))
    part = perfect_part(plan, (ids > 0).astype(np.int16), ids, (1.0, 1.0, 1.0))
    assert part.grid.shape != part.grid.shape_after_crop != part.grid.shape_before_crop
    found = segment_objects([part], target_of(plan), plan)
    assert found.ids.shape == ids.shape
    assert found.ids.dtype == np.int32
    large = (slice(None), slice(0, 48))
    assert score(ids[large], found.ids[large]) > 0.9
    assert len(found) == found.ids.max() == len(np.unique(found.ids)) - 1
    assert set(np.unique(class_map(found, plan.labels))) == {0, 1}
    assert found.classes.tolist() == [0] + [1] * len(found)
    assert found.probabilities[0] == 0
    assert found.probabilities[1:].min() > 0.8
    cropped = np.zeros(part.grid.shape_before_crop, dtype=bool)
    cropped[box_slices(part.grid.crop_box)] = True
    assert not found.ids.transpose(plan.axis_order)[~cropped].any()


@pytest.mark.parametrize("name", NAMES)
def test_slices_of_a_volume_are_segmented_alone(make_configuration, ellipses, name: str) -> None:
    slices = [ellipses((48, 40), 9, 6.0, seed=seed) for seed in range(3)]
    ids = np.stack([apart(item) if name == "foreground" else item for item in slices])
    plan = make_plan(make_configuration, name, (16, 16), spacing_mm=(1.1, 0.9))
    part = perfect_part(plan, (ids > 0).astype(np.int16), ids, (2.0, 1.0, 1.0))
    found = segment_objects([part], target_of(plan), plan)
    for z in range(3):
        assert score(ids[z], found.ids[z]) >= 0.9
    members = [set(np.unique(item)) - {0} for item in found.ids]
    assert not members[0] & members[1] | members[1] & members[2], "no object reaches from one slice into another"


@pytest.mark.parametrize("name", NAMES)
def test_classes_without_instances_are_segmented_beside_the_objects(make_configuration, name: str, tmp_path) -> None:
    classes, ids = np.zeros((2, 1, 32, 40), dtype=np.int16)
    classes[0, 4:14, 4:14], ids[0, 4:14, 4:14] = 1, 5
    classes[0, 18:28, 4:14], ids[0, 18:28, 4:14] = 1, 9
    classes[0, 4:28, 20:36] = 2
    plan = make_plan(make_configuration, name, (16, 16), KINDS)
    target, part = target_of(plan), perfect_part(plan, classes, ids, (1.0, 1.0, 1.0))
    found = segment_objects([part], target, plan)
    assert len(found) == 2
    np.testing.assert_array_equal(class_map(found, KINDS), classes)
    segmentation = segment([part], target, plan)
    np.testing.assert_array_equal(segmentation, classes)
    assert segmentation.dtype == np.uint8
    inside = classes[0][box_slices(part.grid.crop_box)[1:]]
    np.testing.assert_array_equal(previous_segmentation([part], target, part.grid)[0], inside)
    np.testing.assert_array_equal(decode_whole([part], target, part.grid.shape, part.grid.spacing_mm)[0], inside)
    write_object_maps(tmp_path / "a.tif", found, KINDS, Geometry(spacing_mm=(1.0, 1.0, 1.0), dimensions=2))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "a.tif"))), found.ids[0])
    written = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "classes" / "a.tif")))
    np.testing.assert_array_equal(written, 50 * classes[0])


@pytest.mark.parametrize("name", NAMES)
def test_maps_are_averaged_before_objects_are_found(make_configuration, ellipses, name: str) -> None:
    """Objects of the mean are those that a decoder finds in the mean, whatever each map alone would give."""
    ids = ellipses((40, 40), 8, 6.0)[None]
    ids = apart(ids) if name == "foreground" else ids
    plan = make_plan(make_configuration, name, (16, 16))
    target, part = target_of(plan), perfect_part(plan, (ids > 0).astype(np.int16), ids, (1.0, 1.0, 1.0))
    noisy = [
        dataclasses.replace(
            part,
            weight=weight,
            logits_KZYX=part.logits_KZYX
            + np.random.default_rng(seed).normal(0, 3, part.logits_KZYX.shape).astype(np.float32),
        )
        for seed, weight in enumerate((1.0, 3.0))
    ]
    mean = sum(item.weight / 4 * target.probabilities(item.logits_KZYX) for item in noisy)
    slow = target.instances(mean)
    found = segment_objects(noisy, target, plan)
    inside = found.ids[box_slices(part.grid.crop_box)]
    assert match(contingency(slow.ids, inside), 0.99).tp == len(found) == len(slow.classes) - 1


@pytest.mark.parametrize("name", NAMES)
def test_logits_that_nobody_needs_become_the_maps(make_configuration, ellipses, name: str, monkeypatch) -> None:
    """In their own memory, and means a part at a time: the same objects."""
    ids = np.stack([ellipses((40, 36), 8, 6.0, seed=seed) for seed in range(3)])
    plan = make_plan(make_configuration, name, (16, 16))
    target, part = target_of(plan), perfect_part(plan, (ids > 0).astype(np.int16), ids, (1.0, 1.0, 1.0), 0.5)
    whole = segment_objects([part], target, plan)
    monkeypatch.setattr(instances, "PART_VOXELS", 1000)
    before = part.logits_KZYX.copy()
    kept = segment_objects([part], target, plan)
    np.testing.assert_array_equal(part.logits_KZYX, before)
    assert instances.mean_maps([part], target, consume=True) is part.logits_KZYX
    part = dataclasses.replace(part, logits_KZYX=before)
    for found in (kept, segment_objects([part], target, plan, consume=True)):
        np.testing.assert_array_equal(found.ids, whole.ids)
        np.testing.assert_array_equal(found.classes, whole.classes)
        np.testing.assert_allclose(found.probabilities, whole.probabilities, rtol=1e-6)


def test_what_a_run_keeps_is_a_tiff_where_its_format_holds_too_few_ids(tmp_path) -> None:
    """Of a case there is one map, whichever way the number of objects went."""
    geometry = Geometry(spacing_mm=(1.0, 1.0, 1.0), dimensions=2)

    def objects(count: int) -> SegmentedObjects:
        ids = np.zeros((1, 300, 300), dtype=np.int32)
        ids.reshape(-1)[:count] = np.arange(1, count + 1)
        classes = np.ones(count + 1, dtype=np.uint8)
        others = np.zeros(ids.shape, dtype=np.uint8)
        return SegmentedObjects(ids=ids, classes=classes, probabilities=np.zeros(count + 1, np.float32), others=others)

    path = tmp_path / "a.png"
    for count, name in ((3, "a.png"), (70_000, "a.tif"), (5, "a.png")):
        keep_object_maps(path, objects(count), KINDS, geometry)
        assert find_kept_map(path) == tmp_path / name
        assert sorted(item.name for item in tmp_path.glob("a.*")) == [name]
        assert [item.name for item in (tmp_path / "classes").iterdir()] == [name]
        found, _ = read_prediction(find_kept_map(path), KINDS)
        assert found.max() == count


def test_an_image_without_objects_gives_none(make_configuration) -> None:
    plan = make_plan(make_configuration, "boundary", (16, 16))
    mask = np.ones((1, 20, 20), dtype=np.int16)
    part = perfect_part(plan, mask, mask, (1.0, 1.0, 1.0))
    logits = np.zeros_like(part.logits_KZYX)
    logits[0] = 9
    found = segment_objects([dataclasses.replace(part, logits_KZYX=logits)], target_of(plan), plan)
    assert len(found) == 0
    assert not found.ids.any()
    assert found.probabilities.tolist() == [0]


def test_probabilities_are_means_over_the_voxels_of_each_object(make_configuration) -> None:
    plan = make_plan(make_configuration, "foreground", (16, 16))
    mask = np.ones((1, 12, 20), dtype=np.int16)
    part = perfect_part(plan, mask, mask, (1.0, 1.0, 1.0))
    logits = np.zeros_like(part.logits_KZYX)
    logits[1] = -5
    logits[1, 0, 2:5, 2:4], logits[1, 0, 8, 10:14] = 1.0, np.array([0.5, 1, 1.5, 2])
    found: SegmentedObjects = segment_objects([dataclasses.replace(part, logits_KZYX=logits)], target_of(plan), plan)
    chance = 1 / (1 + np.exp(-np.array([0.5, 1, 1.5, 2])))
    np.testing.assert_allclose(found.probabilities, [0, chance[1], chance.mean()], rtol=1e-5)
