"""Batches are the same in every run, hold what was drawn, and are prepared by a thread that ends."""

import dataclasses
import gc
import math
import threading

import numpy as np
import pytest
import torch

from autoseg.errors import DatasetError
from autoseg.training import sampling
from autoseg.training.sampling import BatchSource, prefetch, sample_generator
from planners.plan import Augmentation


@pytest.fixture
def source(make_case, make_configuration):
    """A 3D source of three cases, one smaller than the patch."""
    cases = [make_case(shape, seed=seed) for seed, shape in enumerate([(20, 24, 22), (9, 30, 18), (25, 16, 16)])]
    return BatchSource(cases, make_configuration((12, 16, 14), batch_size=3), seed=11, augment=True)


def assert_equal(first, second):
    assert torch.equal(first.image, second.image)
    assert torch.equal(first.label, second.label)
    assert first.case_ids == second.case_ids


def test_shapes_and_types(source):
    batch = source.batch(0, 0)
    assert batch.image.shape == (3, 1, 12, 16, 14)
    assert batch.image.dtype == torch.float32
    assert batch.label.shape == (3, 1, 12, 16, 14)
    assert batch.label.dtype == torch.int16
    assert len(batch.case_ids) == 3
    assert set(batch.case_ids) <= {"case_0", "case_1", "case_2"}


def test_labels_hold_classes_only_and_images_are_finite(source):
    for step in range(12):
        batch = source.batch(0, step)
        assert batch.label.min() >= 0
        assert batch.label.max() <= 2
        assert torch.isfinite(batch.image).all()


def test_a_batch_depends_on_its_place_alone(source, make_configuration):
    again = BatchSource(source.cases, source.configuration, seed=11, augment=True)
    forward = [source.batch(1, step) for step in range(4)]
    for step in (3, 1, 0, 2):  # as after a restart, or from another worker
        assert_equal(again.batch(1, step), forward[step])


def test_other_places_give_other_batches(source):
    other_seed = BatchSource(source.cases, source.configuration, seed=12, augment=True)
    images = [source.batch(0, 0), source.batch(0, 1), source.batch(1, 0), other_seed.batch(0, 0)]
    for index, first in enumerate(images):
        for second in images[:index]:
            assert not torch.equal(first.image, second.image)


def test_generators_differ_in_every_part_of_the_key():
    base = (1, 0, 2, 3, 4)
    numbers = {sample_generator(*base).random()}
    for part in range(5):
        changed = list(base)
        changed[part] += 1
        numbers.add(sample_generator(*changed).random())
    assert len(numbers) == 6
    assert sample_generator(-1, 0, 0, 0, 0).random() == sample_generator(2**64 - 1, 0, 0, 0, 0).random()


def test_validation_augments_nothing(source):
    validation = BatchSource(source.cases, source.configuration, seed=11, augment=False)
    plain = validation.samples(0, 0)
    batch = validation.batch(0, 0)
    for index, sample in enumerate(plain):
        stop = [first + size for first, size in zip(sample.corner, (12, 16, 14), strict=True)]
        image, label = sample.case.read(sample.corner, stop)
        np.testing.assert_array_equal(batch.image[index].numpy(), image)
        np.testing.assert_array_equal(batch.label[index].numpy(), np.maximum(label, 0))


def test_training_and_validation_draw_different_numbers(source):
    configuration = source.configuration
    training = dataclasses.replace(configuration.training, augmentation=Augmentation(enabled=False))
    configuration = dataclasses.replace(configuration, training=training)
    first, second = (BatchSource(source.cases, configuration, seed=11, augment=augment) for augment in (True, False))
    assert first.frame == second.frame
    assert [sample.corner for sample in first.samples(0, 0)] != [sample.corner for sample in second.samples(0, 0)]


def test_validation_also_forces_foreground(make_case, make_configuration):
    label = np.zeros((40, 40, 40), dtype=np.int8)
    label[20, 20, 20] = 1
    source = BatchSource(
        [make_case(label.shape, label=label)], make_configuration((8, 8, 8), batch_size=2), seed=0, augment=False
    )
    batches = [source.batch(0, step) for step in range(5)]
    assert all(batch.label[1].any() for batch in batches)
    assert not all(batch.label[0].any() for batch in batches)


def test_not_enabled_means_plain_patches_without_room_for_rotation(source):
    training = dataclasses.replace(source.configuration.training, augmentation=Augmentation(enabled=False))
    plain = BatchSource(
        source.cases, dataclasses.replace(source.configuration, training=training), seed=11, augment=True
    )
    assert plain.frame.loader == plain.frame.patch
    gathered = plain.gather(0, 0)
    assert not gathered.boxes
    image = gathered.image.clone()
    assert torch.equal(plain.finish(gathered).image, image)


def test_mirrored_patches_are_mirrored(source):
    plain_mirror = dataclasses.replace(source.samples(0, 0)[0].parameters, angles=(), scale=1.0, mirror=(0, 2))
    sample = dataclasses.replace(source.samples(0, 0)[0], parameters=plain_mirror)
    straight = dataclasses.replace(sample, parameters=dataclasses.replace(plain_mirror, mirror=()))
    source.samples = lambda epoch, step: (sample, straight)
    gathered = source.gather(0, 0)
    assert torch.equal(gathered.image[0], gathered.image[1].flip(1, 3))
    assert torch.equal(gathered.label[0], gathered.label[1].flip(1, 3))


def test_what_lies_outside_the_image_is_zero(make_case, make_configuration):
    case = make_case((5, 6, 7))
    source = BatchSource([case], make_configuration((9, 10, 11), batch_size=1), seed=0, augment=False)
    (sample,) = source.samples(0, 0)
    batch = source.batch(0, 0)
    inside = torch.zeros(9, 10, 11, dtype=torch.bool)
    inside[tuple(slice(-corner, -corner + size) for corner, size in zip(sample.corner, case.shape, strict=True))] = True
    assert inside.sum() == 5 * 6 * 7
    np.testing.assert_array_equal(batch.image[0, 0][inside].numpy(), case.image.flatten())
    assert not batch.image[0, 0][~inside].any()
    assert not batch.label[0, 0][~inside].any()


@pytest.mark.parametrize("augment", [True, False])
def test_two_dimensions(make_case, make_configuration, augment):
    cases = [make_case((5, 20, 24), seed=seed, num_channels=2) for seed in range(2)]
    source = BatchSource(cases, make_configuration((16, 18), batch_size=8, num_channels=2), seed=0, augment=augment)
    batch = source.batch(0, 0)
    assert batch.image.shape == (8, 2, 16, 18)
    assert batch.label.shape == (8, 1, 16, 18)
    assert {sample.corner[0] for step in range(8) for sample in source.samples(0, step)} == set(range(5))


def test_in_plane(make_case, make_configuration):
    augmentation = Augmentation(rotation_radians=math.pi, in_plane=True)
    configuration = make_configuration((4, 16, 16), batch_size=6, augmentation=augmentation, masked=(True,))
    source = BatchSource([make_case((3, 30, 30))], configuration, seed=0, augment=True)
    assert any(source.gather(0, step).boxes for step in range(5))
    batch = source.batch(0, 0)
    assert batch.image.shape == (6, 1, 4, 16, 16)
    label = [source.gather(0, 0).label, batch.label]
    assert label[1].min() == 0


def test_masked_channels_are_zero_outside_the_mask(make_case, make_configuration):
    label = np.full((16, 16, 16), -1, dtype=np.int8)
    label[4:12, 4:12, 4:12] = 1
    configuration = make_configuration((16, 16, 16), batch_size=4, num_channels=2, masked=(True, False))
    source = BatchSource([make_case(label.shape, label=label, num_channels=2)], configuration, seed=0, augment=True)
    for step in range(4):
        batch = source.batch(0, step)
        outside = batch.label[:, 0] == 0
        assert not batch.image[:, 0][outside].any()
        assert batch.image[:, 1][outside].any()


def test_cases_are_drawn_alike(source):
    names = [sample.case.id for step in range(400) for sample in source.samples(0, step)]
    for case in source.cases:
        assert abs(names.count(case.id) / len(names) - 1 / 3) < 4 * math.sqrt(2 / 9 / len(names))


def test_no_cases_is_an_error(make_configuration):
    with pytest.raises(DatasetError, match="tiny: no cases"):
        BatchSource([], make_configuration((8, 8, 8)), seed=0, augment=True)


def prefetch_threads():
    return [thread for thread in threading.enumerate() if thread.name == "prefetch"]


def test_prefetch_gives_the_batches_in_order(source):
    found = list(prefetch(source, 2, range(1, 6), "cpu"))
    assert len(found) == 5
    for step, batch in zip(range(1, 6), found, strict=True):
        assert_equal(batch, source.batch(2, step))
    assert not prefetch_threads()


def test_prefetch_stops_when_it_is_left(source):
    batches = prefetch(source, 0, range(1000), "cpu")
    next(batches)
    assert prefetch_threads()
    batches.close()
    assert not prefetch_threads()
    for _ in prefetch(source, 0, range(1000), "cpu"):
        break
    gc.collect()
    assert not prefetch_threads()


def test_prefetch_uses_one_thread_and_leaves_the_others_theirs(source):
    torch.set_num_threads(2)
    seen = []
    real = source.gather
    source.gather = lambda *place: (seen.append(torch.get_num_threads()), real(*place))[1]
    for _ in prefetch(source, 0, range(2), "cpu"):
        assert torch.get_num_threads() == 2
    assert seen == [1, 1]
    fresh = []
    thread = threading.Thread(target=lambda: fresh.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert fresh == [2]


def test_prefetch_of_nothing(source):
    assert list(prefetch(source, 0, range(4, 4), "cpu")) == []
    assert not prefetch_threads()


def test_prefetch_raises_what_its_thread_raised(source):
    real = source.gather

    def gather(epoch, step, device):
        if step == 2:
            raise OSError("the disk is gone")
        return real(epoch, step, device)

    source.gather = gather
    batches = prefetch(source, 0, range(5), "cpu")
    next(batches)
    next(batches)
    with pytest.raises(OSError, match="the disk is gone"):
        next(batches)
    assert not prefetch_threads()


def test_a_source_keeps_few_files_open(source, monkeypatch):
    monkeypatch.setattr(sampling, "MAPPED_CASES", 2)
    small = BatchSource(source.cases, source.configuration, seed=11, augment=True)
    assert_equal(small.batch(0, 0), source.batch(0, 0))
    for step in range(5):
        small.batch(0, step)
    assert small.arrays.cache_info().currsize == 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_gives_what_the_cpu_gives(source):
    for step, batch in enumerate(prefetch(source, 0, range(6), "cuda")):
        expected = source.batch(0, step)
        assert batch.image.is_cuda
        for index, sample in enumerate(source.samples(0, step)):
            if sample.parameters.noise_sigma is None:
                torch.testing.assert_close(batch.image[index].cpu(), expected.image[index], atol=1e-3, rtol=1e-3)
        assert (batch.label.cpu() != expected.label).float().mean() < 1e-3
