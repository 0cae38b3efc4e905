"""Rand error and variation of information: equal to pairs of voxels, and to scikit-image where definitions agree."""

import numpy as np
import pytest
from skimage.metrics import adapted_rand_error as skimage_rand
from skimage.metrics import variation_of_information as skimage_voi

from autoseg.evaluation.contingency import contingency, joined
from autoseg.evaluation.matching import Parts
from autoseg.evaluation.partition import adapted_rand_error, voi, voi_merge, voi_split

Pairs = list[tuple[np.ndarray, np.ndarray]]


def value(parts: Parts) -> float | None:
    return parts.top / parts.bottom if parts.bottom else None


def numbered(ids: np.ndarray) -> np.ndarray:
    """0 stays background; the rest is numbered from 1, as scikit-image lays out a row for every number."""
    values = np.unique(np.append(ids.ravel(), 0))
    return np.searchsorted(values, ids)


def with_singletons(prediction: np.ndarray) -> np.ndarray:
    """Give every voxel of the background an id of its own."""
    alone = prediction == 0
    found = prediction.copy()
    found[alone] = prediction.max() + 1 + np.arange(alone.sum())
    return found


def counted_pairs(label: np.ndarray, prediction: np.ndarray) -> float | None:
    """Adapted Rand error from all ordered pairs of labelled voxels, each with itself as well."""
    inside = label != 0
    if not inside.any():
        return None
    first, second = label[inside], with_singletons(prediction)[inside]
    together = [ids[:, None] == ids for ids in (first, second)]
    both = (together[0] & together[1]).sum()
    precision, recall = both / together[1].sum(), both / together[0].sum()
    return 1 - 2 * precision * recall / (precision + recall)


def table_formula(label: np.ndarray, prediction: np.ndarray) -> float:
    """The same from a dense table, as the challenge writes it: the background's voxels as singletons."""
    table = np.zeros((label.max() + 1, prediction.max() + 1))
    np.add.at(table, (label.ravel(), prediction.ravel()), 1 / label.size)
    rows, columns, alone = table[1:].sum(1), table[1:, 1:].sum(0), table[1:, 0].sum() / label.size
    both = (table[1:, 1:] ** 2).sum() + alone
    precision, recall = both / ((columns**2).sum() + alone), both / (rows**2).sum()
    return 1 - 2 * precision * recall / (precision + recall)


def check(pairs: Pairs) -> None:
    for label, prediction in pairs:
        table = contingency(label, prediction)
        label, prediction = numbered(label), numbered(prediction)
        if not label.any():
            assert [value(score(table)) for score in (adapted_rand_error, voi_split, voi_merge, voi)] == [None] * 4
            continue
        assert value(adapted_rand_error(table)) == pytest.approx(table_formula(label, prediction), abs=1e-6)
        single = with_singletons(prediction)
        split, merge = voi_of(label, single)
        assert value(voi_split(table)) == pytest.approx(split, abs=1e-6)
        assert value(voi_merge(table)) == pytest.approx(merge, abs=1e-6)
        assert value(voi(table)) == pytest.approx(split + merge, abs=1e-6)
        error = adapted_rand_error(table)  # scikit-image leaves out the pairs of a voxel with itself
        num_pairs = error.bottom - 2 * int((label > 0).sum())
        if num_pairs:
            with np.errstate(invalid="ignore"):  # its precision is not defined where all are alone
                assert error.top / num_pairs == pytest.approx(skimage_rand(label, single)[0], abs=1e-6)


def voi_of(label: np.ndarray, prediction: np.ndarray) -> tuple[float, float]:
    """Give (split, merge) by scikit-image, the label's background left out."""
    first, second = skimage_voi(label, prediction, ignore_labels=(0,))
    return float(first), float(second)


def test_scores_equal_the_oracles(random_pairs: Pairs) -> None:
    check(random_pairs)


@pytest.mark.data
def test_scores_equal_the_oracles_on_real_labels(real_pairs: Pairs) -> None:
    check(real_pairs)


def test_rand_error_equals_counting_pairs_of_voxels(random_pairs: Pairs) -> None:
    for label, prediction in random_pairs:
        found = value(adapted_rand_error(contingency(label, prediction)))
        assert found == pytest.approx(counted_pairs(label, prediction.astype(np.int64)), abs=1e-6)


def test_background_of_the_prediction_is_no_object() -> None:
    label = np.repeat([1, 2], 50)
    gap = label.copy()
    gap[40:60] = 0
    table = contingency(label, gap)
    assert value(voi_merge(table)) == 0
    assert value(adapted_rand_error(table)) == pytest.approx(table_formula(label, gap))
    assert voi_of(label, gap)[1] > 0.1  # there the gap joins both
    assert abs(value(adapted_rand_error(table)) - skimage_rand(label, gap)[0]) > 1e-3


def test_splits_and_merges_are_told_apart() -> None:
    whole, halves = np.ones(8, dtype=int), np.repeat([1, 2], 4)
    split, merge = contingency(whole, halves), contingency(halves, whole)
    assert (value(voi_split(split)), value(voi_merge(split))) == (1.0, 0.0)
    assert (value(voi_split(merge)), value(voi_merge(merge))) == (0.0, 1.0)
    assert voi_of(whole, halves) == (1.0, 0.0)
    assert value(adapted_rand_error(contingency(halves, halves))) == 0


def test_nothing_predicted_gives_what_the_docstrings_say() -> None:
    label = np.repeat([0, 1, 2], [5, 6, 2])
    table = contingency(label, np.zeros_like(label))
    mean_size = (6 * 6 + 2 * 2) / 8
    assert value(adapted_rand_error(table)) == pytest.approx(1 - 2 / (mean_size + 1))
    assert value(voi_split(table)) == pytest.approx((6 * np.log2(6) + 2 * np.log2(2)) / 8)
    assert value(voi_merge(table)) == 0


def test_parts_of_images_add_up_to_those_of_all(random_pairs: Pairs) -> None:
    tables = [contingency(*pair) for pair in random_pairs]
    for score in (adapted_rand_error, voi_split, voi_merge):
        parts = [score(table) for table in tables]
        together = score(joined(tables))
        assert sum(part.top for part in parts) == pytest.approx(together.top)
        assert sum(part.bottom for part in parts) == pytest.approx(together.bottom)
