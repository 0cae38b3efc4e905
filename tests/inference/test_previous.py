"""A previous segmentation is what whole resampled logits decode to; on disk it is there whole or not at all."""

import dataclasses

import numpy as np
import pytest
from skimage.transform import resize

from autoseg.errors import RunFolderError
from autoseg.inference import export
from autoseg.inference.export import LogitsPart
from autoseg.inference.previous import one_hot, previous_segmentation
from autoseg.preprocessing.label_resampling import resample_label
from autoseg.preprocessing.preprocess import make_grid
from autoseg.preprocessing.previous import Origin, find_previous, previous_file, write_previous
from autoseg.targets import make_target
from planners.labels import LabelClass, Labels

LABELS = Labels(classes=tuple(LabelClass(name=f"class{index}", value=index) for index in range(3)))
ORIGIN = Origin(configuration="first", fold=0, weights="w", case="c", grid="g")


@pytest.fixture
def stages(make_configuration):
    """A coarse configuration and the one that it feeds."""
    return make_configuration((4, 8, 8), spacing_mm=(3.0, 2.0, 2.0)), make_configuration((8, 8, 8))


def make_part(configuration, seed=0, shape=(20, 31, 27)):
    box = ((2, 19), (0, 31), (5, 25))
    grid = make_grid(shape, box, (1.0, 1.1, 0.9), configuration)
    random = np.random.default_rng(seed).normal(size=(3, 3, 4, 5))
    logits = resize(random, (3, *grid.shape), order=3) * 5
    return LogitsPart(logits_KZYX=logits.astype(np.float32), grid=grid, resampling=configuration.resampling)


def next_grid(part, configuration):
    grid = part.grid
    return make_grid(grid.shape_before_crop, grid.crop_box, grid.spacing_before_mm, configuration)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("threads", [1, 3])
def test_equals_whole_logits_on_the_next_grid(stages, monkeypatch, count, threads):
    coarse, fine = stages
    parts = [make_part(coarse, seed) for seed in range(count)]
    grid = next_grid(parts[0], fine)
    assert grid.shape != parts[0].grid.shape
    target = make_target(coarse.target, LABELS, coarse.training)
    monkeypatch.setattr(export, "SLAB_BYTES", 2**13)
    found = previous_segmentation(parts, target, grid, threads)
    assert found.shape == grid.shape
    assert found.dtype == np.uint8
    assert found.flags.c_contiguous
    full = [
        np.stack([resize(k, grid.shape, order=1, mode="edge", anti_aliasing=False) for k in item.logits_KZYX])
        for item in parts
    ]
    exponential = [np.exp(item - item.max(0)) for item in full]
    mean = sum(item / item.sum(0) for item in exponential)
    best = np.sort(mean, axis=0)
    clear = best[-1] - best[-2] > 1e-4
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(found[clear], mean.argmax(0)[clear])
    assert len(np.unique(found)) == 3


def test_a_target_that_decodes_whole_is_decoded_on_its_own_grid(stages, monkeypatch):
    coarse, fine = stages
    target = make_target(coarse.target, LABELS, coarse.training)
    part = make_part(coarse)
    monkeypatch.setattr(type(target), "pointwise", False)
    grid = next_grid(part, fine)
    found = previous_segmentation([part], target, grid)
    decoded = part.logits_KZYX.argmax(0).astype(np.uint8)
    expected = resample_label(decoded, grid.shape, part.grid.spacing_mm, grid.spacing_mm, part.resampling)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected)


def test_by_label_it_is_decoded_on_the_image_and_resampled_as_a_label(stages):
    coarse, fine = stages
    fine = dataclasses.replace(fine, spacing_mm=(0.7, 0.8, 0.6))
    part = make_part(coarse)
    grid = next_grid(part, fine)
    target = make_target(coarse.target, LABELS, coarse.training)
    found = previous_segmentation([part], target, grid, 2, fine.resampling)
    on_image = dataclasses.replace(grid, shape=grid.shape_after_crop, spacing_mm=grid.spacing_before_mm)
    decoded = previous_segmentation([part], target, on_image)
    expected = resample_label(decoded, grid.shape, grid.spacing_before_mm, grid.spacing_mm, fine.resampling)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.uint8
    assert found.shape == grid.shape
    assert (found != previous_segmentation([part], target, grid)).any(), "another way, another answer"
    np.testing.assert_array_equal(previous_segmentation([part], target, on_image, 1, fine.resampling), decoded)


def test_one_hot():
    channels = one_hot(np.array([[0, 1], [2, 1]], dtype=np.uint8), 4)
    assert channels.dtype == np.float32
    np.testing.assert_array_equal(channels, [[[0, 1], [0, 1]], [[0, 0], [1, 0]], [[0, 0], [0, 0]]])


def test_written_and_found(tmp_path):
    segmentation = np.random.default_rng(0).integers(0, 3, (4, 5, 6)).astype(np.uint8)
    assert find_previous(tmp_path, "a") is None
    write_previous(tmp_path, "a", segmentation.transpose(0, 2, 1), ORIGIN)
    found = find_previous(tmp_path, "a")
    assert found is not None
    assert found.record.origin == ORIGIN
    np.testing.assert_array_equal(found.array, segmentation.transpose(0, 2, 1))
    assert not found.array.flags.writeable
    newer = dataclasses.replace(ORIGIN, weights="others")
    write_previous(tmp_path, "a", segmentation, newer)
    again = find_previous(tmp_path, "a")
    assert again is not None
    assert again.record.origin == newer
    np.testing.assert_array_equal(np.load(previous_file(tmp_path, "a")), segmentation)


def test_what_is_not_whole_is_not_there(tmp_path):
    write_previous(tmp_path, "a", np.zeros((4, 5, 6), np.uint8), ORIGIN)
    path = previous_file(tmp_path, "a")
    found = find_previous(tmp_path, "a")
    path.write_bytes(path.read_bytes()[:-1])
    assert find_previous(tmp_path, "a") is None
    path.unlink()
    assert find_previous(tmp_path, "a") is None
    with pytest.raises(RunFolderError, match="missing or damaged"):
        _ = found.array
    write_previous(tmp_path, "a", np.zeros((4, 5, 6), np.uint8), ORIGIN)
    path.with_name(f"{path.name}.json").write_text("{")
    assert find_previous(tmp_path, "a") is None


def test_a_kill_while_it_is_renewed_leaves_none(tmp_path, monkeypatch):
    write_previous(tmp_path, "a", np.zeros((4, 5, 6), np.uint8), ORIGIN)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("autoseg.preprocessing.previous.write_atomic", killed)
    with pytest.raises(KeyboardInterrupt):
        write_previous(tmp_path, "a", np.ones((4, 5, 6), np.uint8), ORIGIN)
    assert find_previous(tmp_path, "a") is None
