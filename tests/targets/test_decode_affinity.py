"""Joining fragments by affinities: round trip, and rounds of mutual best pairs equal one pair at a time."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from autoseg.targets.decode_affinity import agglomerate, decode_affinity
from autoseg.targets.instance_encoding import encode_affinity

OFFSETS = {2: [(1, 0), (0, 1), (4, 0), (0, 4)], 3: [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 4, 0), (0, 0, 4)]}


@pytest.mark.parametrize(("shape", "count", "radius"), [((100, 110), 40, 9), ((16, 30, 32), 20, 7)])
def test_affinity_round_trip(
    shape: tuple[int, ...], count: int, radius: float, ellipses: Callable[..., Any], precision: Callable[..., Any]
) -> None:
    ids = ellipses(shape, count, radius, seed=6)
    same, _ = encode_affinity(ids, OFFSETS[len(shape)])
    found = decode_affinity(same.astype(np.float32), (ids > 0) * 1.0, OFFSETS[len(shape)])
    np.testing.assert_array_equal(found > 0, ids > 0)
    large = np.where(np.isin(ids, [n for n in np.unique(ids) if (ids == n).sum() >= 30]), ids, 0)
    assert precision(large, np.where(large > 0, found, 0), 0.5)[1] > 0.97


def test_noise_is_outvoted(ellipses: Callable[..., Any], precision: Callable[..., Any]) -> None:
    ids = ellipses((100, 110), 25, 12, seed=7)
    same, _ = encode_affinity(ids, OFFSETS[2])
    noisy = (same + np.random.default_rng(0).normal(0, 0.25, same.shape)).clip(0, 1).astype(np.float32)
    found = decode_affinity(noisy, (ids > 0) * 1.0, OFFSETS[2])
    large = np.where(np.isin(ids, [n for n in np.unique(ids) if (ids == n).sum() >= 60]), ids, 0)
    assert precision(large, np.where(large > 0, found, 0), 0.5)[1] > 0.9


def test_objects_of_one_voxel_side_by_side(same_objects: Callable[..., Any]) -> None:
    ids = np.arange(1, 13).reshape(3, 4)
    same, _ = encode_affinity(ids, OFFSETS[2])
    assert same_objects(decode_affinity(same.astype(np.float32), np.ones((3, 4)), OFFSETS[2]), ids)
    empty = decode_affinity(np.zeros((4, 3, 4), dtype=np.float32), np.zeros((3, 4)), OFFSETS[2])
    assert not empty.any()


def agglomerate_slowly(count: int, first: list[int], second: list[int], values: list[float], limit: float) -> list[int]:
    group = list(range(count + 1))
    while True:
        table: dict[tuple[int, int], list[float]] = {}
        for a, b, value in zip(first, second, values, strict=True):
            if group[a] != group[b]:
                table.setdefault((min(group[a], group[b]), max(group[a], group[b])), []).append(value)
        best = max(table, key=lambda pair: sum(table[pair]) / len(table[pair]), default=None)
        if best is None or sum(table[best]) / len(table[best]) <= limit:
            return group
        group = [best[0] if item == best[1] else item for item in group]


@pytest.mark.parametrize("seed", range(6))
def test_rounds_of_mutual_best_pairs_equal_one_pair_at_a_time(seed: int, same_objects: Callable[..., Any]) -> None:
    generator = np.random.default_rng(seed)
    first = generator.integers(1, 15, 60)
    second = (first + generator.integers(1, 14, 60) - 1) % 14 + 1
    values = generator.random(60)
    found = agglomerate(14, first, second, values, 0.45)
    expected = np.array(agglomerate_slowly(14, first.tolist(), second.tolist(), values.tolist(), 0.45))
    assert same_objects(found[1:], expected[1:])
    assert agglomerate(3, first[:0], second[:0], values[:0], 0.5).tolist() == [0, 1, 2, 3]
