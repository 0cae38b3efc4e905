"""The layer of object ids: read, moved by the augmentation like the classes, and encoded on the way to training."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from autoseg.preprocessing.store import StoredCase
from autoseg.targets import TARGETS, Target, make_target
from autoseg.targets.base import Strides
from autoseg.training.augmentation import SampleParameters
from autoseg.training.augmentation_batchgenerators import augmented_batches
from autoseg.training.sampling import Batch, BatchSource, prefetch
from planners.labels import LabelClass, Labels
from planners.plan import Augmentation, Configuration
from planners.plan import Target as TargetRecord

MakeCase = Callable[..., StoredCase]
MakeConfiguration = Callable[..., Configuration]

LABELS = Labels(
    classes=tuple(LabelClass(name=name, value=value) for value, name in enumerate(("background", "cell"))),
    instance_classes=("cell",),
)
WITH_IDS = ("boundary", "flow", "affinity")


def target_of(name: str, configuration: Configuration) -> Target:
    options = {"dimensions": configuration.dimensions}
    record = TargetRecord(name=name, num_outputs=TARGETS[name].num_outputs(LABELS, options), options=options)
    return make_target(record, LABELS, configuration.training)


@pytest.fixture
def make_objects(make_case: MakeCase, ellipses: Callable[..., np.ndarray]) -> MakeCase:
    """Give a function that stores a case of touching objects; their ids begin after ``above``."""

    def make(shape: tuple[int, int, int], *, above: int = 0, seed: int = 0) -> StoredCase:
        ids = np.stack([ellipses(shape[1:], 14, 6.0, seed)] * shape[0]) if shape[0] < 4 else ellipses(shape, 20, 6.0)
        ids = np.where(ids > 0, ids + above, 0).astype(np.int16 if ids.max() + above < 2**15 else np.int32)
        return make_case(shape, seed=seed, label=(ids > 0).astype(np.int8), ids=ids)

    return make


def with_sample(source: BatchSource, **parameters: Any) -> BatchSource:
    """Let every sample be the first case's middle, moved as told."""
    case, frame = source.cases[0], source.frame
    z, y, x = ((size - part) // 2 for size, part in zip(case.shape, frame.loader, strict=True))
    sample = dataclasses.replace(
        source.samples(0, 0)[0], case=case, corner=(z, y, x), parameters=SampleParameters(**parameters)
    )
    source.samples = lambda epoch, step: (sample,)  # type: ignore[method-assign]
    return source


@pytest.mark.parametrize("patch", [(24, 26), (12, 14, 13)])
def test_large_ids_make_the_same_batches_in_a_wider_type(
    patch: tuple[int, ...], make_objects: MakeCase, make_configuration: MakeConfiguration
) -> None:
    """Every sample's way: cut out, rotated in a padded box, mirrored."""
    shape = (2, 40, 44) if len(patch) == 2 else (20, 24, 22)
    small = [make_objects(shape, seed=seed) for seed in (0, 1)]
    configuration = make_configuration(patch, batch_size=6)
    batches = [BatchSource(small, configuration, seed=3, augment=True).batch(0, step) for step in range(4)]
    assert {batch.label.dtype for batch in batches} == {torch.int16}
    above = 2**24 + 1  # what a float32 could not hold
    large = [make_objects(shape, seed=0, above=above), make_objects(shape, seed=1, above=above)]
    source = BatchSource(large, configuration, seed=3, augment=True)
    assert any(source.gather(0, step).boxes for step in range(4))
    for step, batch in enumerate(batches):
        wide = source.batch(0, step)
        assert wide.label.dtype == torch.int32
        assert torch.equal(wide.image, batch.image)
        assert torch.equal(wide.label[:, 0], batch.label[:, 0].int())
        ids = batch.label[:, 1].int()
        assert torch.equal(wide.label[:, 1], torch.where(ids > 0, ids + above, ids))
        assert ids.max() > 1


def test_one_case_of_large_ids_makes_the_batch_wide(
    make_objects: MakeCase, make_configuration: MakeConfiguration
) -> None:
    cases = [make_objects((1, 40, 44), seed=0), make_objects((1, 40, 44), seed=1, above=70_000)]
    batch = BatchSource(cases, make_configuration((24, 24), batch_size=8), seed=0, augment=False).batch(0, 0)
    assert batch.label.dtype == torch.int32
    highest = {case: int(batch.label[[name == case for name in batch.case_ids], 1].max()) for case in batch.case_ids}
    assert highest["case_0"] < 100
    assert highest["case_1"] > 70_000


@pytest.mark.parametrize("name", WITH_IDS)
@pytest.mark.parametrize("patch", [(64, 56), (24, 32, 28)])
def test_what_lies_beyond_the_image_makes_no_boundary(
    name: str, patch: tuple[int, ...], make_objects: MakeCase, make_configuration: MakeConfiguration
) -> None:
    """A patch that is larger than the image encodes it as a patch that is the image."""
    case = make_objects((1, 40, 44) if len(patch) == 2 else (12, 20, 18))
    source = BatchSource([case], make_configuration(patch, batch_size=1), seed=0, augment=False)
    label = source.batch(0, 0).label
    assert label[:, 0].min() == 0
    assert label[:, 1].min() == -1
    places = (label[0, 1] >= 0).nonzero()
    inside = tuple(slice(low, high + 1) for low, high in zip(places.amin(0), places.amax(0), strict=True))
    whole = torch.from_numpy(np.maximum(np.array(case.labels), 0))[None]
    whole = whole[:, :, 0] if len(patch) == 2 else whole
    assert torch.equal(label[:, :, *inside], whole)
    target, strides = target_of(name, source.configuration), [(1,) * len(patch)]
    ((found,), (weights,)), ((wanted,), (known,)) = (target.encode(item, strides) for item in (label, whole))
    assert torch.equal(found[(..., *inside)], wanted)
    if weights is not None and known is not None:
        assert torch.equal(weights[(..., *inside)], known)
    rim = whole[0, 1].clone()
    rim[(slice(1, -1),) * len(patch)] = 0
    assert (rim > 0).sum() > 20, "objects reach the frame"


@pytest.mark.parametrize(("turns", "mirror"), [(0, (1,)), (1, ()), (2, (2,)), (3, (1, 2))])
def test_encoding_what_was_turned_is_encoding_a_turned_label(
    turns: int, mirror: tuple[int, ...], make_objects: MakeCase, make_configuration: MakeConfiguration
) -> None:
    case = make_objects((1, 47, 47))  # a loader patch of odd sides: both have one middle
    configuration = make_configuration((47, 47), batch_size=1, augmentation=Augmentation(rotation_radians=1e-9))
    source = with_sample(
        BatchSource([case], configuration, seed=0, augment=True),
        angles=(turns * math.pi / 2,) if turns else (),
        mirror=mirror,
    )
    batch = source.batch(0, 0)
    wanted = np.rot90(np.array(case.labels[:, 0]), turns, (2, 1))
    for axis in mirror:
        wanted = np.flip(wanted, axis)
    whole = torch.from_numpy(np.maximum(wanted, 0))[None]
    inner = (..., slice(1, -1), slice(1, -1))  # the rim is drawn from beyond the case by rounding
    assert torch.equal(batch.label[inner], whole[inner])
    for name in WITH_IDS:
        target = target_of(name, configuration)
        found, expected = (target.encode(item, [(1, 1)])[0][0] for item in (batch.label, whole))
        deep = (..., slice(15, -15), slice(15, -15))  # farther from the rim than any object is wide
        torch.testing.assert_close(found[deep].double(), expected[deep].double(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("angle", [0.3, 1.0, 2.5])
def test_two_objects_that_touch_stay_two(
    angle: float, make_case: MakeCase, make_configuration: MakeConfiguration
) -> None:
    ids = np.zeros((1, 60, 60), dtype=np.int16)
    ids[0, 20:40, 18:30], ids[0, 20:40, 30:44] = 7, 300
    case = make_case(ids.shape, label=(ids > 0).astype(np.int8), ids=ids)
    configuration = make_configuration((40, 40), batch_size=1)
    source = with_sample(BatchSource([case], configuration, seed=0, augment=True), angles=(angle,), scale=1.1)
    layers = source.batch(0, 0).label[0]
    values, counts = layers[1].clamp(min=0).unique(return_counts=True)
    assert values.tolist() == [0, 7, 300], "no number between the two is invented"
    np.testing.assert_allclose(counts[1:], np.array([240, 280]) / 1.21, rtol=0.05)
    apart = (layers[0] > 0) != (layers[1] > 0)
    assert int(apart.sum()) <= 4, "classes and ids differ where both objects meet the background, nowhere else"
    maps, _ = target_of("boundary", configuration).encode(layers[None], [(1, 1)])
    inner = maps[0][0] == 1
    assert torch.equal(layers[1][inner].unique(), torch.tensor([7, 300], dtype=torch.int16))


def test_sides_change_in_the_layer_of_classes_alone(make_case: MakeCase, make_configuration: MakeConfiguration) -> None:
    label = np.zeros((1, 20, 20), dtype=np.int8)
    label[0, 4:16, 2:9], label[0, 4:16, 11:18] = 1, 2
    ids = np.where(label == 1, 2, np.where(label == 2, 1, 0)).astype(np.int16)  # the very numbers of the other class
    case = make_case(label.shape, label=label, ids=ids)
    configuration = make_configuration((20, 20), batch_size=1, mirror_swaps=((1, 2),), mirror_swap_axis=1)
    plain = make_configuration((20, 20), batch_size=1)
    swapped, mirrored = (
        with_sample(BatchSource([case], item, seed=0, augment=True), mirror=(2,)).batch(0, 0).label
        for item in (configuration, plain)
    )
    assert torch.equal(swapped[:, 1], mirrored[:, 1])
    classes = mirrored[:, 0]
    assert torch.equal(swapped[:, 0], torch.where(classes > 0, 3 - classes, 0).to(classes.dtype))


def encoding(source: BatchSource, target: Target, strides: Strides) -> BatchSource:
    return BatchSource(
        source.cases,
        source.configuration,
        seed=source.seed,
        augment=source.augment,
        encode=lambda label: target.encode(label, strides),
    )


def assert_encoded(batch: Batch, plain: Batch, target: Target, strides: Strides) -> None:
    assert plain.encoded is None
    assert batch.encoded is not None
    maps, weights = target.encode(plain.label, strides)
    assert all(torch.equal(*pair) for pair in zip(batch.encoded[0], maps, strict=True))
    assert len(weights) == len(batch.encoded[1])
    for one, other in zip(batch.encoded[1], weights, strict=True):
        assert (one is None) is (other is None)
        assert one is None or other is None or torch.equal(one, other)


@pytest.mark.parametrize("name", ["foreground", *WITH_IDS])
@pytest.mark.parametrize("augment", [True, False])
def test_encoded_ahead_or_in_the_step_is_the_same(
    name: str, augment: bool, make_objects: MakeCase, make_configuration: MakeConfiguration
) -> None:
    configuration = make_configuration((24, 24), batch_size=3)
    plain = BatchSource([make_objects((1, 40, 40), seed=5)], configuration, seed=1, augment=augment)
    target, strides = target_of(name, configuration), [(1, 1), (2, 2)]
    source = encoding(plain, target, strides)
    for step, batch in enumerate(prefetch(source, 0, range(2), "cpu")):
        expected = plain.batch(0, step)
        assert torch.equal(batch.image, expected.image)
        assert torch.equal(batch.label, expected.label)
        assert_encoded(batch, expected, target, strides)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["boundary", "flow"])
def test_cuda_encodes_what_it_has_augmented(
    name: str, make_objects: MakeCase, make_configuration: MakeConfiguration
) -> None:
    configuration = make_configuration((24, 24), batch_size=3)
    target, strides = target_of(name, configuration), [(1, 1), (2, 2)]
    plain = BatchSource([make_objects((1, 40, 40), seed=5)], configuration, seed=1, augment=True)
    for batch in prefetch(encoding(plain, target, strides), 0, range(8), "cuda"):
        assert batch.encoded is not None
        maps, weights = target.encode(batch.label.cpu(), strides)
        for one, other in zip(batch.encoded[0], maps, strict=True):
            assert one.is_cuda
            torch.testing.assert_close(one.cpu(), other, atol=1e-3, rtol=0)
        for weight, wanted in zip(batch.encoded[1], weights, strict=True):
            assert weight is wanted is None or (weight is not None and torch.equal(weight.cpu(), wanted))  # type: ignore[arg-type]


def test_the_other_backend_carries_ids_too(make_objects: MakeCase, make_configuration: MakeConfiguration) -> None:
    augmentation = Augmentation(backend="batchgenerators", rotation_radians=math.pi)
    configuration = make_configuration((24, 24), batch_size=4, augmentation=augmentation)
    plain = BatchSource([make_objects((1, 40, 40), above=40_000)], configuration, seed=1, augment=True)
    target, strides = target_of("flow", configuration), [(1, 1)]
    source = encoding(plain, target, strides)
    (batch,) = augmented_batches(source, 0, range(1), "cpu", num_workers=0)
    assert batch.label.dtype == torch.int32
    known = {0, *np.unique(np.array(source.cases[0].labels[1])).tolist()}
    assert set(batch.label[:, 1].unique().tolist()) <= known
    assert batch.label[:, 1].unique().numel() > 3
    assert_encoded(batch, dataclasses.replace(batch, encoded=None), target, strides)
