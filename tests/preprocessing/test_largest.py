"""The largest map on a finer grid, compiled: what resampling all maps and comparing them gives."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg import native
from autoseg.preprocessing import largest
from autoseg.preprocessing.largest import FEWEST, between, is_offered, largest_upsampled
from autoseg.preprocessing.resampling import LogitsResampler
from planners.plan import Resampling

CLEAR = 1e-4
"""Margin of the largest over the second beyond which rounding decides nothing."""

needs_kernel = pytest.mark.skipif(native.kernels().library is None, reason="no C compiler")
EDGE = st.integers(1, 23)


def make_maps(num_maps: int, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(num_maps, *shape)).astype(np.float32)


def compare(maps: np.ndarray, resampler: LogitsResampler, found: np.ndarray, start: int = 0) -> None:
    """Hold what was found to the slow way, wherever that is clear."""
    slab = resampler.slab(start, start + len(found)).astype(np.float64)
    ordered = np.sort(slab, axis=0)
    clear = ordered[-1] - ordered[-2] > CLEAR
    assert found.dtype == np.uint16
    assert np.array_equal(found[clear], slab.argmax(axis=0)[clear])
    assert clear.mean() > 0.98 or clear.size < 1000


@needs_kernel
@settings(max_examples=60, deadline=None)
@given(
    num_maps=st.sampled_from([6, 15, 16, 17, 31, 32, 105, 300]),
    shape=st.tuples(EDGE, EDGE, EDGE),
    fine=st.tuples(EDGE, EDGE, EDGE),
    spacing=st.sampled_from([(1.0, 1.0, 1.0), (5.0, 1.0, 1.0), (1.0, 1.0, 9.0)]),
    orders=st.sampled_from([(0, 0), (1, 0), (1, 1)]),
)
def test_it_finds_what_the_slow_way_finds(
    num_maps: int, shape: tuple[int, ...], fine: tuple[int, ...], spacing: Any, orders: tuple[int, int]
) -> None:
    """Any sizes, finer and coarser, axes that are taken as they are, edges beyond the outermost samples."""
    maps = make_maps(num_maps, shape)
    settings_of = Resampling(logits_order=orders[0], order_through_plane=orders[1])
    resampler = LogitsResampler(maps, fine, spacing, (1.0, 1.0, 1.0), settings_of)
    assert resampler.compares
    compare(maps, resampler, resampler.largest(0, fine[0]))
    middle = fine[0] // 2
    compare(maps, resampler, resampler.largest(middle, fine[0]), middle)


@needs_kernel
def test_of_equals_the_first_is_taken() -> None:
    maps = np.zeros((40, 3, 4, 20), np.float32)
    axes = [between(size, 2 * size, 1) for size in maps.shape[1:]]
    assert not largest_upsampled(maps, axes).any()
    maps[[7, 23, 39]] = 1
    assert (largest_upsampled(maps, axes) == 7).all()
    maps -= 5e30  # far below nought: what fills up the last sixteen never wins
    assert (largest_upsampled(maps[:, ::-1].copy(), axes) < 40).all()


@pytest.mark.parametrize(
    "maps",
    [
        make_maps(FEWEST - 1, (2, 3, 4)),
        make_maps(FEWEST, (2, 3, 4)).astype(np.float64),
        make_maps(FEWEST, (2, 3, 4))[..., ::2],
        [make_maps(FEWEST, (2, 3, 4))],
    ],
)
def test_what_it_does_not_take(maps: Any) -> None:
    assert not is_offered(maps)


@pytest.mark.parametrize("library", [None, SimpleNamespace(largest_upsampled=lambda *_: None)])
def test_without_a_sound_kernel_nothing_is_offered(monkeypatch: pytest.MonkeyPatch, library: Any) -> None:
    """There is no compiler; or what it made finds something else."""
    largest._sound_kernel.cache_clear()
    monkeypatch.setattr(native, "kernels", lambda: native.Kernels(library, "as the test says"))
    try:
        assert not is_offered(make_maps(40, (3, 4, 5)))
    finally:
        largest._sound_kernel.cache_clear()
