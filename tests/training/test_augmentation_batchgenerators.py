"""The backend made of batchgenerators: same batches whatever the workers, same recipe, processes that end."""

import dataclasses
import math
import multiprocessing
import sys

import numpy as np
import pytest
import torch
from scipy import stats

from autoseg.errors import AutosegError, OptionError
from autoseg.training.augmentation_batchgenerators import augmented_batches, make_transforms
from autoseg.training.sampling import BatchSource
from planners.plan import Augmentation


@pytest.fixture
def make_source(make_case, make_configuration):
    def make(patch, shape, *, batch_size=2, augmentation=None, masked=(False, True)):
        augmentation = augmentation or Augmentation(rotation_radians=math.pi / 6)
        augmentation = dataclasses.replace(augmentation, backend="batchgenerators")
        configuration = make_configuration(
            patch, batch_size=batch_size, num_channels=2, augmentation=augmentation, masked=masked
        )
        cases = [make_case(shape, seed=seed, num_channels=2) for seed in range(2)]
        return BatchSource(cases, configuration, seed=4, augment=True)

    return make


def assert_equal(first, second):
    assert torch.equal(first.image, second.image)
    assert torch.equal(first.label, second.label)
    assert first.case_ids == second.case_ids


def test_workers_change_nothing_and_end(make_source):
    source = make_source((8, 10, 9), (14, 16, 15))
    alone = list(augmented_batches(source, 1, range(2, 7), "cpu", num_workers=0))
    together = list(augmented_batches(source, 1, range(2, 7), "cpu", num_workers=2))
    assert len(alone) == len(together) == 5
    for first, second in zip(alone, together, strict=True):
        assert_equal(first, second)
    assert not multiprocessing.active_children()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # the package's own thread
def test_a_killed_worker_is_named_and_fewer_go_on_with_the_same_batches(make_source, capsys):
    source = make_source((8, 10, 9), (14, 16, 15))
    alone = list(augmented_batches(source, 1, range(60), "cpu", num_workers=0))
    batches = augmented_batches(source, 1, range(60), "cpu", num_workers=2)
    together = [next(batches)]
    multiprocessing.active_children()[0].kill()
    together += batches
    said = capsys.readouterr().err
    assert "a worker of the augmentation ended by itself" in said
    assert "going on with 1" in said
    assert any(case.id in said for case in source.cases)
    for first, second in zip(alone, together, strict=True):
        assert_equal(first, second)
    assert not multiprocessing.active_children()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # the package's own thread
def test_where_the_only_worker_is_killed_it_is_said(make_source):
    source = make_source((8, 8, 8), (12, 12, 12))
    batches = augmented_batches(source, 0, range(1000), "cpu", num_workers=1)
    next(batches)
    multiprocessing.active_children()[0].kill()
    with pytest.raises(AutosegError, match=r"ended by itself .*Its cases: "):
        list(batches)
    assert not multiprocessing.active_children()


def test_stopped_early_the_workers_end(make_source):
    batches = augmented_batches(make_source((8, 8, 8), (12, 12, 12)), 0, range(1000), "cpu", num_workers=2)
    next(batches)
    assert len(multiprocessing.active_children()) == 2
    batches.close()
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    ("patch", "shape", "augmentation"),
    [
        ((8, 10, 9), (14, 16, 15), Augmentation(rotation_radians=math.pi / 6)),
        ((3, 16, 14), (5, 20, 20), Augmentation(rotation_radians=math.pi, in_plane=True)),
        ((16, 14), (5, 20, 20), Augmentation(rotation_radians=math.pi)),
    ],
    ids=["3d", "in plane", "2d"],
)
def test_batches_are_like_those_of_the_torch_backend(patch, shape, augmentation, make_source):
    source = make_source(patch, shape, batch_size=60, augmentation=augmentation)
    found = []
    for step, batch in enumerate(augmented_batches(source, 0, range(2), "cpu", num_workers=0)):
        other = source.batch(0, step)
        for mine, theirs in ((batch.image, other.image), (batch.label, other.label)):
            assert mine.shape == theirs.shape
            assert mine.dtype == theirs.dtype
        assert batch.case_ids == other.case_ids
        assert set(batch.label.unique().tolist()) <= {0, 1, 2}
        found.append(
            [(*item.image[:, 0].flatten(1).std(1), *item.label.flatten(1).float().mean(1)) for item in (batch, other)]
        )
    mine, theirs = np.array(found).transpose(1, 0, 2).reshape(2, 4, 60)
    for first, second in zip(mine, theirs, strict=True):
        assert stats.ttest_ind(first, second, equal_var=False).pvalue > 1e-3


def test_untouched_samples_are_the_patches_of_the_torch_backend(make_source):
    """About one sample in eight is only cut out and mirrored, and then both backends hold the same voxels."""
    source = make_source((8, 10, 9), (14, 16, 15), batch_size=40, masked=(False, False))
    (batch,) = augmented_batches(source, 0, range(1), "cpu", num_workers=0)
    equal = 0
    for index, sample in enumerate(source.samples(0, 0)):
        middle = [size // 2 - part // 2 for size, part in zip(source.frame.loader, source.frame.patch, strict=True)]
        start = [a + b for a, b in zip(sample.corner, middle, strict=True)]
        image, _ = sample.case.read(start, [a + b for a, b in zip(start, source.frame.patch, strict=True)])
        mine = np.sort(batch.image[index].numpy().ravel())
        equal += np.array_equal(mine, np.sort(image.ravel()))
    nothing = 0.8 * 0.8 * 0.9 * (1 - 0.2 * 0.75) * 0.85 * 0.85 * (1 - 0.25 * 0.75) * 0.9 * 0.7
    assert abs(equal / 40 - nothing) < 4 * math.sqrt(nothing * (1 - nothing) / 40)


def test_transforms_mask_and_remove_the_outside(make_source):
    source = make_source((8, 8, 8), (12, 12, 12))
    data = np.ones((2, 2, *source.frame.loader), dtype=np.float32)
    seg = np.full((2, 1, *source.frame.loader), -1, dtype=np.int16)
    np.random.seed(0)
    made = make_transforms(source)(data=data, seg=seg, keys=["a", "b"])
    assert made["data"][:, 0].any()
    assert not made["data"][:, 1].any()
    assert not made["seg"].any()


def test_plain_batches_where_nothing_is_augmented(make_source):
    source = make_source((8, 8, 8), (12, 12, 12), augmentation=Augmentation(enabled=False))
    for step, batch in enumerate(augmented_batches(source, 0, range(2), "cpu")):
        assert_equal(batch, source.batch(0, step))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_fault_in_a_worker_comes_through(make_source, num_workers):
    source = make_source((8, 8, 8), (12, 12, 12))
    for case in source.cases:
        (case.folder / f"{case.id}.image.npy").unlink()
    with pytest.raises(AutosegError, match=r"image\.npy is missing or damaged"):
        list(augmented_batches(source, 0, range(2), "cpu", num_workers=num_workers))
    assert not multiprocessing.active_children()


def test_a_missing_package_is_said(make_source, monkeypatch):
    monkeypatch.setitem(sys.modules, "batchgenerators.dataloading.multi_threaded_augmenter", None)
    with pytest.raises(OptionError, match="set the backend to 'torch'"):
        next(augmented_batches(make_source((8, 8, 8), (12, 12, 12)), 0, range(1), "cpu"))
