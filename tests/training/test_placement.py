"""Patches lie where nnU-Net v2.8.1 puts them; but at batch size 1 some are forced onto foreground too."""

import collections

import numpy as np
import pytest
from scipy import stats

from autoseg.training.placement import corner_range, draw_corner, is_forced
from autoseg.training.sampling import sample_generator
from autoseg.training.spatial import PatchFrame


@pytest.mark.parametrize(
    ("batch_size", "forced"),
    [(2, 1), (3, 1), (4, 1), (7, 2), (9, 3), (12, 4)],  # facts of nnU-Net for 0.33
)
def test_last_samples_of_a_batch_are_forced(batch_size, forced):
    rng = np.random.default_rng(0)
    found = [is_forced(rng, index, batch_size, 0.33) for index in range(batch_size)]
    assert found == [False] * (batch_size - forced) + [True] * forced


@pytest.mark.parametrize("fraction", [0.0, 0.33, 1.0])
def test_a_lone_sample_is_forced_by_chance(fraction):
    found = sum(is_forced(sample_generator(0, 0, 0, step, 0), 0, 1, fraction) for step in range(3000))
    assert abs(found / 3000 - fraction) <= 4 * np.sqrt(fraction * (1 - fraction) / 3000)


def nnunet_corner(rng, shape, patch, loader, voxel):
    """The rule, written down directly from nnU-Net v2.8.1's data loader."""
    need = [a - b for a, b in zip(loader, patch, strict=True)]
    for d in range(3):
        if need[d] + shape[d] < loader[d]:
            need[d] = loader[d] - shape[d]
    lbs = [-need[d] // 2 for d in range(3)]
    ubs = [shape[d] + need[d] // 2 + need[d] % 2 - loader[d] for d in range(3)]
    if voxel is not None:
        return [max(lbs[d], voxel[d] - loader[d] // 2) for d in range(3)]
    return [int(rng.integers(lbs[d], ubs[d] + 1)) for d in range(3)]


FRAMES = [
    ((30, 40, 50), PatchFrame(patch=(16, 16, 16), loader=(25, 26, 27), planar=False)),
    ((10, 21, 50), PatchFrame(patch=(16, 17, 16), loader=(25, 24, 16), planar=False)),
    ((9, 30, 20), PatchFrame(patch=(1, 24, 24), loader=(1, 40, 41), planar=True)),
    ((16, 8, 20), PatchFrame(patch=(16, 8, 20), loader=(16, 8, 20), planar=False)),
]


@pytest.mark.parametrize(("shape", "frame"), FRAMES)
def test_unforced_corners_are_distributed_as_in_nnunet(shape, frame, make_case):
    case = make_case(shape)
    rng = np.random.default_rng(0)
    mine = np.array([draw_corner(sample_generator(0, 0, 0, 0, i), case, frame, False) for i in range(2000)])
    theirs = np.array([nnunet_corner(rng, shape, frame.patch, frame.loader, None) for _ in range(2000)])
    low, high = corner_range(shape, frame)
    assert np.array_equal(mine.min(0), low)
    assert np.array_equal(mine.max(0), high)
    assert np.array_equal(theirs.min(0), low)
    assert np.array_equal(theirs.max(0), high)
    for axis in range(3):
        assert stats.ks_2samp(mine[:, axis], theirs[:, axis]).pvalue > 1e-3


@pytest.mark.parametrize(("shape", "frame"), FRAMES)
def test_forced_corners_are_those_of_nnunet(shape, frame, make_case):
    label = np.zeros(shape, dtype=np.int8)
    label[2, 3, 4] = 1
    case = make_case(shape, label=label)
    expected = nnunet_corner(None, shape, frame.patch, frame.loader, (2, 3, 4))
    assert {draw_corner(sample_generator(0, 0, 0, 0, i), case, frame, True) for i in range(5)} == {tuple(expected)}


def test_forced_class_is_uniform_among_those_present_and_its_voxel_among_its_locations(make_case):
    label = np.zeros((20, 20, 20), dtype=np.int8)
    label[10:18, 10:18, 10] = 1  # 64 voxels
    label[15, 15, 15:17] = 3  # 2 voxels; class 2 is absent
    case = make_case(label.shape, label=label, num_classes=4)
    frame = PatchFrame(patch=(1, 1, 1), loader=(1, 1, 1), planar=False)
    found = [draw_corner(sample_generator(0, 0, 0, 0, i), case, frame, True) for i in range(4000)]
    counts = collections.Counter(found)
    assert all(label[place] for place in counts)
    rare = sum(number for place, number in counts.items() if label[place] == 3)
    assert abs(rare / 4000 - 0.5) < 4 * 0.5 / np.sqrt(4000)
    assert stats.chisquare([counts[tuple(place)] for place in np.argwhere(label == 1)]).pvalue > 1e-3


def test_forced_without_foreground_lies_anywhere(make_case):
    case = make_case((20, 20, 20), label=np.zeros((20, 20, 20), dtype=np.int8))
    frame = PatchFrame(patch=(4, 4, 4), loader=(4, 4, 4), planar=False)
    found = np.array([draw_corner(sample_generator(0, 0, 0, 0, i), case, frame, True) for i in range(500)])
    assert np.array_equal(found.min(0), [0, 0, 0])
    assert np.array_equal(found.max(0), [16, 16, 16])


def test_unforced_patches_lie_around_annotated_voxels_where_others_are_ignored(make_case):
    label = np.full((20, 20, 20), 3, dtype=np.int8)  # ignored
    label[8:10, 8:10, 8:10] = 0
    label[8, 8, 8] = 2
    case = make_case(label.shape, label=label, ignore=True)
    frame = PatchFrame(patch=(1, 1, 1), loader=(1, 1, 1), planar=False)
    unforced = collections.Counter(draw_corner(sample_generator(0, 0, 0, 0, i), case, frame, False) for i in range(400))
    assert set(unforced) == {tuple(place) for place in np.argwhere(label != 3)}
    assert {draw_corner(sample_generator(0, 0, 0, 0, i), case, frame, True) for i in range(50)} == {(8, 8, 8)}


def test_forced_without_foreground_lies_around_annotated_voxels(make_case):
    label = np.full((20, 20, 20), 3, dtype=np.int8)
    label[3, 4, 5] = 0
    case = make_case(label.shape, label=label, ignore=True)
    frame = PatchFrame(patch=(1, 1, 1), loader=(1, 1, 1), planar=False)
    assert draw_corner(sample_generator(0, 0, 0, 0, 0), case, frame, True) == (3, 4, 5)
