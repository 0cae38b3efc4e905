"""Objects made in code: the same for the same seed, most of them touching, and not to be told apart by a threshold."""

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from autoseg.data.demo_objects import PICTURES, THICK_SLICES, ObjectScene, make_object_case, make_object_dataset
from autoseg.data.io import open_image, open_label
from autoseg.evaluation.contingency import contingency
from autoseg.evaluation.matching import match

SCENES = pytest.mark.parametrize("scene", [THICK_SLICES, PICTURES], ids=["volume", "picture"])


def touching(ids: np.ndarray) -> set[int]:
    """Find the objects that share a face with another."""
    found: set[int] = set()
    for axis in range(ids.ndim):
        first, second = ids.take(range(ids.shape[axis] - 1), axis), ids.take(range(1, ids.shape[axis]), axis)
        meet = (first != second) & (first > 0) & (second > 0)
        found |= {*first[meet].tolist(), *second[meet].tolist()}
    return found


@SCENES
def test_most_objects_touch_and_each_is_one_piece(scene: ObjectScene) -> None:
    for number in range(3):
        image, ids = make_object_case(np.random.default_rng([0, number]), scene)
        names = set(np.unique(ids).tolist()) - {0}
        assert image.shape == ids.shape == scene.shape
        assert 0.5 * scene.count < len(names) <= scene.count
        assert len(touching(ids)) > 0.5 * len(names)
        assert all(ndimage.label(ids == name)[1] == 1 for name in names)


@SCENES
def test_no_threshold_tells_them_apart_and_one_finds_them(scene: ObjectScene) -> None:
    for number in range(3):
        image, ids = make_object_case(np.random.default_rng([0, number]), scene)
        best = 0.0
        for limit in np.quantile(image, np.linspace(0.2, 0.95, 30)):
            pieces, count = ndimage.label(image > limit)
            found = match(contingency(ids, pieces), 0.5)
            best = max(best, 2 * found.tp / (count + found.num_labelled))
        assert best < 0.7
        assert image[ids > 0].mean() > 1.5 * image[ids == 0].mean()


@SCENES
def test_equal_seeds_give_equal_cases(scene: ObjectScene) -> None:
    first, again, other = (make_object_case(np.random.default_rng(seed), scene) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert (first[1] != other[1]).any()


@pytest.mark.parametrize(
    ("scene", "image", "label"),
    [
        (THICK_SLICES, "objects_01_0000.nii.gz", "objects_01.nii.gz"),
        (PICTURES, "objects_01_0000.png", "objects_01.tif"),
    ],
)
def test_files_hold_what_was_made(tmp_path: Path, scene: ObjectScene, image: str, label: str) -> None:
    folder = make_object_dataset(tmp_path / "objects", scene=scene, num_cases=1, num_tests=1, seed=4)
    made, ids = make_object_case(np.random.default_rng([4, 0]), scene)
    opened = open_image([folder / "imagesTr" / image])
    np.testing.assert_array_equal(opened.read()[0], made)
    np.testing.assert_array_equal(open_label(folder / "labelsTr" / label).read()[0], ids)
    if scene is THICK_SLICES:
        assert opened.geometry.spacing_mm == scene.spacing_mm
    assert len(list((folder / "imagesTs").iterdir())) == len(list((folder / "labelsTs").glob("*.*"))) == 1
