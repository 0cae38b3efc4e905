"""Following a flow: ways that meet go on as one, with the effect of following each."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from autoseg.targets.decode_flow import FlowOptions, decode_flow, gather, track
from autoseg.targets.flow_encoding import encode_flow

TINY = FlowOptions(least_points=2, smallest=1)


@pytest.mark.parametrize("noise", [0.0, 0.3])
@pytest.mark.parametrize(("shape", "count", "radius"), [((100, 110), 40, 9), ((20, 30, 32), 25, 6)])
def test_merged_ways_end_where_each_would(
    noise: float,
    shape: tuple[int, ...],
    count: int,
    radius: float,
    one_thread: None,
    ellipses: Callable[..., Any],
    precision: Callable[..., Any],
) -> None:
    ids = ellipses(shape, count, radius, seed=2)
    flow = encode_flow(ids) + np.random.default_rng(0).normal(0, noise, (len(shape), *shape))
    mask = ids > 0
    labels = []
    for merge in (True, False):
        found = np.zeros(shape, dtype=np.int32)
        found[mask] = gather(track(flow, mask, 200, merge=merge), shape, 10)
        labels.append(found)
    assert precision(labels[1], labels[0], 0.9)[0] == 1
    assert precision(labels[1], labels[0], 0.98)[0] > 0.9


@pytest.mark.parametrize(("shape", "count", "radius"), [((150, 160), 60, 9), ((24, 40, 44), 40, 7)])
def test_flow_round_trip(
    shape: tuple[int, ...], count: int, radius: float, ellipses: Callable[..., Any], precision: Callable[..., Any]
) -> None:
    ids = ellipses(shape, count, radius, seed=5)
    ids = np.where(np.isin(ids, [n for n in np.unique(ids) if (ids == n).sum() >= 20]), ids, 0)
    found = decode_flow(encode_flow(ids), (ids > 0) * 1.0)
    assert precision(ids, found, 0.5)[0] > 0.97
    assert precision(ids, found, 0.9)[0] > 0.95


def test_objects_of_few_voxels_and_at_the_frame(precision: Callable[..., Any]) -> None:
    ids = np.zeros((20, 24), dtype=int)
    ids[:4, :4], ids[8:12, 6:10], ids[8:12, 10:15], ids[19, 19:] = 1, 2, 3, 4
    found = decode_flow(encode_flow(ids), (ids > 0) * 1.0, TINY)
    assert precision(ids, found, 0.7)[0] == 1


def test_one_object_may_fill_the_image() -> None:
    ids = np.ones((30, 40), dtype=int)
    found = decode_flow(encode_flow(ids), ids * 1.0)
    assert found.max() == 1
    assert found.mean() > 0.99


def test_an_empty_image_has_no_objects() -> None:
    assert not decode_flow(np.zeros((2, 9, 9), dtype=np.float32), np.zeros((9, 9), dtype=np.float32)).any()
    assert not decode_flow(np.zeros((2, 9, 9), dtype=np.float32), np.ones((9, 9), dtype=np.float32), TINY).any()


def test_objects_with_a_wrong_flow_are_dropped(ellipses: Callable[..., Any]) -> None:
    ids = ellipses((60, 60), 4, 10, seed=1)
    flow, foreground = encode_flow(ids), (ids > 0) * 1.0
    y, x = flow[:, ids == 1]
    flow[:, ids == 1] = 0.5 * y - 0.87 * x, 0.87 * y + 0.5 * x  # turned by 60°: points still gather
    kept = decode_flow(flow, foreground)
    every = decode_flow(flow, foreground, FlowOptions(largest_error=np.inf))
    assert not kept[ids == 1].any()
    assert every[ids == 1].any()
    open_side = [(True, True), (True, True)]
    at_side = decode_flow(flow, foreground, open_sides=open_side)
    assert at_side.max() >= kept.max()


def test_peaks_beside_each_other_are_one() -> None:
    ends = np.repeat([5 * 20 + 5, 5 * 20 + 6, 5 * 20 + 15], [20, 20, 15])
    labels = gather(ends, (12, 20), 10)
    assert set(labels[:40]) == {labels[0]}
    assert labels[0] != labels[-1] > 0
    assert not gather(ends, (12, 20), 30).any()
