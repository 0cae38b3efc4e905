"""The contingency table: equal to counting object by object, whatever the ids, the type and the number of axes."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from autoseg.evaluation import contingency as module
from autoseg.evaluation.contingency import Contingency, contingency, frame_ids, joined, object_classes

Pairs = list[tuple[np.ndarray, np.ndarray]]
FIELDS = ("label_ids", "prediction_ids", "label_sizes", "prediction_sizes", "label_index", "prediction_index", "shared")


def dense(table: Contingency) -> np.ndarray:
    found = np.zeros((table.num_labelled, table.num_predicted), dtype=np.int64)
    found[table.label_index, table.prediction_index] = table.shared
    return found


def assert_equal(first: Contingency, second: Contingency) -> None:
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name), err_msg=name)


def check(pairs: Pairs, direct: Callable[..., Any]) -> None:
    for label, prediction in pairs:
        table, slow = contingency(label, prediction), direct(label, prediction)
        assert table.label_ids.tolist() == slow.label_ids
        assert table.prediction_ids.tolist() == slow.prediction_ids
        np.testing.assert_array_equal(table.label_sizes, slow.label_sizes)
        np.testing.assert_array_equal(table.prediction_sizes, slow.prediction_sizes)
        np.testing.assert_array_equal(dense(table), slow.shared)
        assert (table.shared > 0).all()
        np.testing.assert_allclose(table.iou, slow.iou[table.label_index, table.prediction_index], rtol=1e-12)
        np.testing.assert_array_equal(table.label_alone, slow.label_sizes - slow.shared.sum(axis=1))
        np.testing.assert_array_equal(table.predicted_on_label, slow.shared.sum(axis=0))


def test_equals_counting_one_by_one(random_pairs: Pairs, direct: Callable[..., Any]) -> None:
    check(random_pairs, direct)


@pytest.mark.data
def test_equals_counting_one_by_one_on_real_labels(real_pairs: Pairs, direct: Callable[..., Any]) -> None:
    check(real_pairs, direct)


def test_chunks_and_memory_layout_change_nothing(random_pairs: Pairs, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = [contingency(*pair) for pair in random_pairs]
    monkeypatch.setattr(module, "CHUNK_VOXELS", 7)
    for (label, prediction), table in zip(random_pairs, whole, strict=True):
        assert_equal(contingency(np.asfortranarray(label), prediction), table)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int16", "uint32", "int64", "uint64"])
def test_takes_every_integer_type(dtype: str) -> None:
    label = np.array([[0, 1, 1], [0, 0, 1]]).astype(dtype)
    table = contingency(label, label)
    assert (table.label_ids.tolist(), table.label_sizes.tolist(), table.shared.tolist()) == ([1], [3], [3])


def test_ids_up_to_the_largest() -> None:
    ids = np.array([0, 2**31 - 1, 2**31, 2**63 - 1], dtype=np.uint64)
    assert contingency(ids, ids).label_ids.tolist() == [2**31 - 1, 2**31, 2**63 - 1]
    with pytest.raises(ValueError, match="ids go up to"):
        contingency(ids + np.uint64(1), ids)


def test_refuses_what_is_no_pair_of_instance_maps() -> None:
    ids = np.arange(4)
    with pytest.raises(ValueError, match="prediction holds the id -1"):
        contingency(ids, ids - 1)
    with pytest.raises(ValueError, match="shape"):
        contingency(ids, ids[:3])


def test_voxels_that_are_not_annotated_belong_to_nothing() -> None:
    label = np.array([1, 1, 255, 255, 255, 2, 0])
    prediction = np.array([1, 1, 1, 3, 3, 2, 2])
    table = contingency(label, prediction, ignore=255)
    assert table.label_ids.tolist() == [1, 2]
    assert table.prediction_ids.tolist() == [1, 2]  # 3 lies there alone
    assert table.prediction_sizes.tolist() == [2, 2]


def test_keep_equals_deleting_in_the_maps(random_pairs: Pairs) -> None:
    random = np.random.default_rng(0)
    for label, prediction in random_pairs:
        table = contingency(label, prediction)
        labelled, predicted = random.random(table.num_labelled) < 0.6, random.random(table.num_predicted) < 0.6
        maps = (
            np.where(np.isin(label, table.label_ids[labelled]), label, 0),
            np.where(np.isin(prediction, table.prediction_ids[predicted]), prediction, 0),
        )
        assert_equal(table.keep(labelled, predicted), contingency(*maps))


def test_joined_tables_are_those_of_the_images_side_by_side() -> None:
    first = np.array([0, 1, 1, 2]), np.array([0, 1, 2, 2])
    second = np.array([3, 3, 0, 4]), np.array([0, 5, 5, 0])
    expected = contingency(*(np.concatenate(pair) for pair in zip(first, second, strict=True)))
    nothing = contingency(np.zeros(3, int), np.zeros(3, int))
    assert_equal(joined([contingency(*first), nothing, contingency(*second)]), expected)
    assert joined([]).num_labelled == 0


@pytest.mark.parametrize("width", [1, 2])
def test_frame_equals_masking_it(random_pairs: Pairs, width: int) -> None:
    for label, _ in random_pairs:
        inner = np.zeros(label.shape, dtype=bool)
        inner[(slice(width, -width),) * label.ndim] = True
        expected = sorted({*label[~inner].tolist()} - {0})
        assert frame_ids(label, width).tolist() == expected
        assert frame_ids(label[None], width).tolist() == expected  # a z of length 1 has no frame


def test_frame_of_a_padded_map_lies_at_the_end_of_the_padding() -> None:
    ids = np.arange(1, 17).reshape(4, 4)
    assert frame_ids(ids, 1, (6, 4)).tolist() == [1, 2, 3, 4, 5, 8, 9, 12, 13, 16]
    assert frame_ids(ids, 1, (5, 5)).tolist() == [1, 2, 3, 4, 5, 9, 13]


def test_each_object_has_the_class_of_most_of_its_voxels() -> None:
    ids = np.array([0, 7, 7, 7, 9, 9, 2**31])
    classes = np.array([3, 2, 2, 1, 5, 4, 0])
    assert object_classes(ids, classes, np.array([7, 9, 2**31])).tolist() == [2, 4, 0]
    assert object_classes(ids, classes, np.array([9])).tolist() == [4]


def test_ten_thousand_objects_are_counted_in_well_under_a_second() -> None:
    y, x = np.mgrid[:2048, :2048]
    label = np.where((y % 20 > 1) & (x % 20 > 1), y // 20 * 103 + x // 20 + 1, 0).astype(np.int32)
    prediction = np.roll(label, (3, 2), (0, 1))
    start = time.process_time()
    table = contingency(label, prediction)
    seconds = time.process_time() - start
    assert table.num_labelled == 103 * 103
    assert int(table.label_sizes.sum()) == int((label > 0).sum())
    assert seconds < 1.0  # 0.3 s on one core; far below the seconds that sorting all voxels takes
