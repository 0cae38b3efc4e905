"""Labels as layers: classes and ids of every numbering, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture
from skimage.segmentation import relabel_sequential

from autoseg.data.image import Image, image_from_array
from autoseg.data.io import open_label
from autoseg.data.label_layers import read_layers
from autoseg.errors import DatasetError, ImageError
from planners import object_numbers
from planners.labels import LabelClass, Labels
from planners.object_numbers import number_objects
from planners.records import PlanError

HIGHEST = 2**31 - 1


def labels(*names: str, instances: tuple[str, ...] = (), ignore: int | None = None) -> Labels:
    classes = (
        LabelClass(name="background", value=0),
        *(LabelClass(name=n, value=10 * i + 10) for i, n in enumerate(names)),
    )
    return Labels(classes=classes, instance_classes=instances, ignore=ignore)


def image(rows: list[list[float]], dtype: str = "int32") -> Image:
    return image_from_array(np.array(rows, dtype=dtype), (1.0, 1.0))


CELLS = labels("cell", instances=("cell",))
TISSUE = labels("cell", "stroma", "gland", instances=("cell", "gland"))


def test_without_instances_the_layer_is_what_encode_gives() -> None:
    found = read_layers(image([[0, 10], [20, 0]]), None, labels("a", "b"))
    assert found.dtype == np.int16
    np.testing.assert_array_equal(found, [[[[0, 1], [2, 0]]]])


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64"])
def test_ids_of_any_type_and_numbering_are_numbered_without_gaps(dtype: str) -> None:
    found = read_layers(image([[0, 7, 7], [3, 0, 200]], dtype), None, CELLS)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found[:, 0], [[[0, 1, 1], [1, 0, 1]], [[0, 2, 2], [1, 0, 3]]])


@pytest.mark.parametrize("dtype", ["int32", "uint32", "int64", "float64"])
def test_the_largest_ids_take_no_table(dtype: str) -> None:
    found = read_layers(image([[0, HIGHEST, HIGHEST - 1], [5, HIGHEST, 0]], dtype), None, CELLS)
    np.testing.assert_array_equal(found[1, 0], [[0, 3, 2], [1, 3, 0]])


def test_a_map_without_objects() -> None:
    np.testing.assert_array_equal(read_layers(image([[0, 0]]), None, CELLS), np.zeros((2, 1, 1, 2)))


@pytest.mark.parametrize("ignore", [-1, 255, HIGHEST])
def test_with_one_class_the_ignore_value_stands_in_the_map_of_ids(ignore: int) -> None:
    found = read_layers(
        image([[0, 4, ignore], [9, 9, 0]], "int64"), None, labels("cell", instances=("cell",), ignore=ignore)
    )
    np.testing.assert_array_equal(found[:, 0], [[[0, 1, 2], [1, 1, 0]], [[0, 1, 0], [2, 2, 0]]])


def test_the_map_of_classes_gives_the_classes_and_what_has_no_instances_has_no_id() -> None:
    ids, classes = image([[0, 4, 4, 8], [9, 9, 6, 6]]), image([[0, 10, 10, 30], [20, 20, 99, 10]], "uint8")
    declared = labels("cell", "stroma", "gland", instances=("cell", "gland"), ignore=99)
    found = read_layers(ids, classes, declared)
    np.testing.assert_array_equal(found[0, 0], [[0, 1, 1, 3], [2, 2, 4, 1]])
    np.testing.assert_array_equal(found[1, 0], [[0, 1, 1, 3], [0, 0, 0, 2]])


def test_a_volume() -> None:
    ids = np.zeros((3, 4, 5), dtype=np.uint16)
    ids[:2, 1:3, 1:3], ids[2, 3, 4] = 600, 30
    found = read_layers(image_from_array(ids, (5.0, 1.0, 1.0)), None, CELLS)
    assert found.shape == (2, 3, 4, 5)
    np.testing.assert_array_equal(found[1], np.where(ids == 600, 2, ids == 30))


def test_colours_are_ids(tmp_path: Path) -> None:
    colours = np.zeros((3, 4, 3), dtype=np.uint8)
    colours[0, :2], colours[1, 2], colours[2, 3] = (255, 0, 0), (0, 255, 0), (1, 1, 1)
    Picture.fromarray(colours).save(tmp_path / "a.png")
    found = read_layers(open_label(tmp_path / "a.png"), None, CELLS)
    np.testing.assert_array_equal(found[1, 0], [[3, 3, 0, 0], [0, 0, 1, 0], [0, 0, 0, 2]])
    with pytest.raises(ImageError, match="label in colours"):
        read_layers(open_label(tmp_path / "a.png"), None, labels("a"))
    with pytest.raises(ImageError, match="label in colours"):
        read_layers(image_from_array(np.zeros((3, 4), np.uint8), (1.0, 1.0)), open_label(tmp_path / "a.png"), TISSUE)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[0, 1.5]], "the ids hold 1.5; an id of an object is a whole number"),
        ([[0, np.nan]], "the ids hold nan"),
        ([[0, 2.0**60]], "the ids hold 1.15292"),
        ([[3, -2]], "the ids hold -2; ids are 0, no object, and above"),
    ],
)
def test_what_is_no_id_is_refused(rows: list[list[float]], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        read_layers(image(rows, "float64"), None, CELLS)


def test_what_does_not_go_with_the_map_of_classes() -> None:
    with pytest.raises(DatasetError, match="map of classes is missing: ids alone do not tell cell, stroma, gland"):
        read_layers(image([[0, 1]]), None, TISSUE)
    with pytest.raises(DatasetError, match="classes has shape 1×2×1, the ids have 1×1×2"):
        read_layers(image([[0, 1]]), image([[0], [10]]), TISSUE)
    with pytest.raises(PlanError, match="label value 11 is not declared"):
        read_layers(image([[0, 1]]), image([[0, 11]]), TISSUE)


@pytest.mark.parametrize("highest", [3, 300, 10**6, HIGHEST])
def test_numbering_by_table_by_search_and_in_parts_equals_sorting(
    highest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(highest)
    ids = rng.integers(-2, highest, (5, 7, 11), endpoint=True) * rng.integers(0, 2, (5, 7, 11))
    values = np.unique(np.append(ids[ids > 0], 0))
    wanted = np.searchsorted(values, np.maximum(ids, 0))
    for part in (1 << 20, 100):
        monkeypatch.setattr(object_numbers, "PART_VOXELS", part)
        numbered, count = number_objects(ids.transpose(2, 0, 1))
        np.testing.assert_array_equal(numbered, wanted.transpose(2, 0, 1))
        assert (count, numbered.dtype) == (len(values) - 1, np.int32)


@pytest.mark.data
def test_ids_of_real_images_are_numbered_as_scikit_image_numbers_them(data_folder: Path) -> None:
    files = sorted((data_folder / "dsb2018_nuclei" / "labels").iterdir())[:20]
    for path in (*files, data_folder / "stardist_mini" / "mask3d.tif"):
        label = open_label(path)
        found = read_layers(label, None, CELLS)
        wanted = relabel_sequential(label.read()[0])[0]
        np.testing.assert_array_equal(found, [wanted > 0, wanted])
