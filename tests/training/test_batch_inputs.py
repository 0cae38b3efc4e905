"""Batches of a cascade, of sided classes, and of cases annotated in part: all parts of a sample move together."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from autoseg.inference.previous import one_hot
from autoseg.preprocessing.locations import sample_locations
from autoseg.preprocessing.preprocess import PreprocessedCase
from autoseg.preprocessing.previous import Origin, find_previous, write_previous
from autoseg.preprocessing.store import Store
from autoseg.training import sampling
from autoseg.training.augmentation import SampleParameters
from autoseg.training.augmentation_batchgenerators import augmented_batches
from autoseg.training.sampling import BatchSource, swap_classes
from planners.labels import LabelClass, Labels
from planners.plan import Augmentation, Input

ORIGIN = Origin(configuration="first", fold=0, weights="w", case="c", grid="g")
NO_CHANGES = {"shape_changes": (), "lost_components": ()}


def smooth_label(shape, seed, num_classes=3):
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.standard_normal(shape), 2)
    return np.digitize(smooth, np.quantile(smooth, np.linspace(0, 1, num_classes + 1)[1:-1])).astype(np.int8)


@pytest.fixture
def make_cascade(make_case, make_configuration, tmp_path):
    """Give a function that makes a source whose previous segmentations are the labels themselves."""

    def make(patch, shape=(14, 22, 20), augment=True, **fields):
        cases = []
        for seed in range(2):
            label = smooth_label(shape, seed)
            case = make_case(shape, seed=seed, label=label)
            write_previous(tmp_path / "fed", case.id, label.astype(np.uint8), ORIGIN)
            cases.append(case.with_previous(find_previous(tmp_path / "fed", case.id)))
        inputs = (Input(channels=1), Input(kind="previous", name="first", channels=2))
        configuration = make_configuration(patch, batch_size=6, inputs=inputs, previous="first", **fields)
        return BatchSource(cases, configuration, seed=2, augment=augment)

    return make


def without_changes(source):
    """Keep what was drawn, but for the changes of the previous segmentation."""
    drawn = source.samples
    source.samples = lambda epoch, step: tuple(
        dataclasses.replace(sample, parameters=dataclasses.replace(sample.parameters, **NO_CHANGES))
        for sample in drawn(epoch, step)
    )
    return source


CONFIGURATIONS = {
    "3d": ((10, 12, 14), {}),
    "in plane": ((4, 12, 14), {"augmentation": Augmentation(rotation_radians=math.pi, in_plane=True)}),
    "2d": ((12, 14), {}),
}


@pytest.mark.parametrize("backend", ["torch", "batchgenerators"])
@pytest.mark.parametrize("augment", [True, False])
@pytest.mark.parametrize("kind", CONFIGURATIONS)
def test_the_previous_segmentation_moves_with_the_label(make_cascade, kind, augment, backend):
    patch, fields = CONFIGURATIONS[kind]
    source = without_changes(make_cascade(patch, augment=augment, **fields))
    if augment and backend == "torch":
        assert any(source.gather(0, step).boxes for step in range(3)), "some are rotated"
    give = augmented_batches(source, 0, range(3), "cpu", 0) if backend == "batchgenerators" else None
    for step in range(3):
        batch = next(give) if give else source.batch(0, step)
        assert batch.image.shape == (6, 3, *patch)
        assert batch.label.shape == (6, 1, *patch)
        expected = np.stack([one_hot(layer.numpy(), 3) for layer in batch.label[:, 0]])
        np.testing.assert_array_equal(batch.image[:, 1:].numpy(), expected)
        assert batch.image[:, 1:].any()


@pytest.mark.parametrize("backend", ["torch", "batchgenerators"])
def test_the_changes_reach_the_channels_and_not_the_label(make_cascade, backend):
    source, plain = make_cascade((10, 12, 14)), without_changes(make_cascade((10, 12, 14)))
    changed = 0
    for step in range(4):
        first, second = (
            item.batch(0, step)
            if backend == "torch"
            else next(augmented_batches(item, 0, range(step, step + 1), "cpu", 0))
            for item in (source, plain)
        )
        assert torch.equal(first.label, second.label)
        assert torch.equal(first.image[:, :1], second.image[:, :1])
        for index, sample in enumerate(source.samples(0, step)):
            differs = not torch.equal(first.image[index, 1:], second.image[index, 1:])
            assert not differs or sample.parameters.shape_changes or sample.parameters.lost_components
            changed += differs
    assert changed


def test_without_previous_segmentations_the_channels_are_empty(make_cascade):
    """A step can be timed and measured before the first stage is trained."""
    source = make_cascade((10, 12, 14))
    bare = BatchSource([case.with_previous(None) for case in source.cases], source.configuration, seed=2, augment=True)
    batch, expected = bare.batch(0, 0), source.batch(0, 0)
    assert torch.equal(batch.label, expected.label)
    assert batch.image.shape == expected.image.shape
    assert torch.equal(batch.image[:, :1], expected.image[:, :1])
    assert not batch.image[:, 1:].any()


def test_swapping_classes():
    layers = torch.tensor([[-1, 0, 1, 2, 3, 4]], dtype=torch.int16)
    swap_classes(layers, [(1, 3), (2, 4)])
    assert layers.tolist() == [[-1, 0, 3, 4, 1, 2]]


@pytest.mark.parametrize(("patch", "axis"), [((10, 12, 14), 2), ((12, 14), 1), ((12, 14), 0)])
def test_left_and_right_change_places_in_mirrored_samples(make_cascade, patch, axis):
    plain = without_changes(make_cascade(patch))
    sided = without_changes(make_cascade(patch, mirror_swaps=((1, 2),), mirror_swap_axis=axis))
    seen = set()
    for step in range(3):
        first, second = plain.batch(0, step), sided.batch(0, step)
        assert torch.equal(first.image[:, 0], second.image[:, 0])
        for index, sample in enumerate(sided.samples(0, step)):
            mirrored = axis + 3 - len(patch) in sample.parameters.mirror
            order = torch.tensor([0, 2, 1] if mirrored else [0, 1, 2], dtype=torch.int16)
            assert torch.equal(order[first.label[index].long()], second.label[index])
            channels = first.image[index, [2, 1] if mirrored else [1, 2]]
            assert torch.equal(channels, second.image[index, 1:])
            seen.add(mirrored)
    assert seen == {True, False}


def test_left_and_right_with_batchgenerators(make_cascade):
    """Where left lies at low x, mirroring leaves it there: the classes have changed places."""
    source = without_changes(make_cascade((8, 8, 16), mirror_swaps=((1, 2),), mirror_swap_axis=2))
    sides = np.ones((14, 22, 20), dtype=np.int8)
    sides[:, :, 10:] = 2
    for case in source.cases:
        np.memmap(case.folder / f"{case.id}.labels.npy", np.int8, "r+", offset=128, shape=sides.shape)[:] = sides
    (batch,) = augmented_batches(source, 0, range(1), "cpu", 0)
    for layer in batch.label[:, 0]:
        left, right = ((layer == value).nonzero()[:, 2].float() for value in (1, 2))
        if len(left) and len(right):
            assert left.mean() < right.mean()


def annotated_cases(tmp_path, annotated):
    labels = Labels(classes=tuple(LabelClass(name=str(value), value=value) for value in range(4)))
    store, cases = Store(tmp_path / "partly"), []
    for index, classes in enumerate(annotated):
        label = smooth_label((12, 12, 12), index, 4)
        image = np.zeros((1, *label.shape), np.float32)
        grid = _grid(label.shape)
        case = PreprocessedCase(image_CZYX=image, labels_LZYX=label[None], grid=grid)
        locations = sample_locations(label, labels)
        cases.append(store.write(f"case_{index}", case, "digest", locations, (), classes))
    return cases


def _grid(shape):
    from autoseg.preprocessing.preprocess import CaseGrid

    return CaseGrid(
        shape_before_crop=shape,
        crop_box=tuple((0, size) for size in shape),
        shape_after_crop=shape,
        spacing_before_mm=(1.0, 1.0, 1.0),
        shape=shape,
        spacing_mm=(1.0, 1.0, 1.0),
    )


def test_what_has_been_annotated_comes_with_the_batch(tmp_path, make_configuration):
    cases = annotated_cases(tmp_path, [(0, 2), None])
    configuration = make_configuration((8, 8, 8), batch_size=8)
    batch = BatchSource(cases, configuration, seed=0, augment=True, num_classes=4).batch(0, 0)
    rows = {"case_0": [True, False, True, False], "case_1": [True] * 4}
    assert set(batch.case_ids) == set(rows)
    assert batch.annotated.tolist() == [rows[case_id] for case_id in batch.case_ids]
    whole = BatchSource(cases[1:], configuration, seed=0, augment=True).batch(0, 0)
    assert whole.annotated is None


def test_what_has_been_annotated_changes_sides_too(tmp_path, make_configuration):
    cases = annotated_cases(tmp_path, [(0, 1)])
    configuration = make_configuration((8, 8, 8), batch_size=8, mirror_swaps=((1, 3),), mirror_swap_axis=0)
    source = BatchSource(cases, configuration, seed=0, augment=True, num_classes=4)
    batch = source.batch(0, 0)
    mirrored = [0 in sample.parameters.mirror for sample in source.samples(0, 0)]
    assert len(set(mirrored)) == 2
    assert batch.annotated.tolist() == [[True, not swap, False, swap] for swap in mirrored]


def test_mapped_files_stay_few_with_previous_segmentations(make_cascade, monkeypatch):
    monkeypatch.setattr(sampling, "MAPPED_CASES", 1)
    source = make_cascade((10, 12, 14))
    for step in range(3):
        source.batch(0, step)
    assert source.arrays.cache_info().currsize == 1
    assert source.samples(0, 0)[0].parameters != SampleParameters()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_gives_what_the_cpu_gives(make_cascade):
    source = make_cascade((10, 12, 14), mirror_swaps=((1, 2),), mirror_swap_axis=2)
    for step in range(6):
        found, expected = source.batch(0, step, "cuda"), source.batch(0, step)
        assert found.image.is_cuda
        assert found.image.shape == expected.image.shape
        for first, second in ((found.label, expected.label), (found.image[:, 1:], expected.image[:, 1:])):
            assert (first.cpu() != second).float().mean() < 1e-2
