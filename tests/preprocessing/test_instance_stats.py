"""Statistics of objects equal those of scikit-image, whatever the parts they are read in."""

import time
import tracemalloc
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import draw, measure, morphology

from autoseg.data import object_runs
from autoseg.preprocessing import instance_stats
from autoseg.preprocessing.instance_stats import (
    MeasuredObjects,
    hulls_per_case,
    join_objects,
    measure_objects,
    object_diameters,
)
from planners.object_numbers import number_objects

ONES = (1.0, 1.0, 1.0)


def blobs(seed: int, shape: tuple[int, int, int]) -> np.ndarray:
    """Some objects of all kinds: ellipses, half covered ones, in pieces, of one voxel."""
    rng = np.random.default_rng(seed)
    ids = np.zeros(shape, dtype=np.int32)
    places = np.indices(shape)
    for number in range(1, 9):
        middle = [rng.uniform(0, side) for side in shape]
        radius = [rng.uniform(0.6, max(side / 3, 0.7)) for side in shape]
        distance = sum(((p - m) / r) ** 2 for p, m, r in zip(places, middle, radius, strict=True))
        ids[distance <= 1] = number * 1000
    ids[tuple(rng.integers(0, side) for side in shape)] = 77
    return number_objects(ids)[0]


def slowly(ids: np.ndarray, spacing: tuple[float, ...]) -> MeasuredObjects:
    """The same object by object, from scikit-image where it means the same."""
    flat = ids.shape[0] == 1
    array, steps = (ids[0], spacing[1:]) if flat else (ids, spacing)
    rows = []
    for number in range(1, int(ids.max()) + 1):
        mask = array == number
        (region,) = measure.regionprops(mask.astype(np.uint8), spacing=steps)
        diameter = region.equivalent_diameter_area
        places = np.argwhere(mask) * steps
        covariance = np.cov(places.T, bias=True) if len(places) > 1 else np.zeros((len(steps),) * 2)
        axes = np.sqrt(np.sort(np.linalg.eigvalsh(covariance + np.diag(np.square(steps)) / 12))[::-1])
        around = morphology.dilation(np.pad(mask, 1), np.ones((3,) * mask.ndim))
        others = np.pad((array > 0) & ~mask, 1)
        rows.append((diameter, axes[0] / axes[1], hull_fraction(mask), (around & others).any()))
    return MeasuredObjects.from_array(np.array(rows, dtype=np.float32).T.reshape(4, -1))


def hull_fraction(mask: np.ndarray) -> float:
    """Voxels / voxels whose centres lie in the convex hull of the centres, by scikit-image."""
    box = mask[tuple(slice(place.min(), place.max() + 1) for place in np.nonzero(mask))]
    box = box.reshape([side for side in box.shape if side > 1])
    if box.ndim < 2:
        return float(box.mean())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of flat ones
        hull = morphology.convex_hull_image(box, offset_coordinates=False)
    return float(box.sum() / hull.sum()) if hull.any() else 1.0


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    shape=st.sampled_from([(1, 40, 50), (1, 1, 30), (9, 14, 15), (6, 20, 5)]),
    spacing=st.sampled_from([ONES, (5.0, 0.5, 0.4), (999.0, 0.3, 0.6)]),
    part=st.sampled_from([30, 200, 1 << 20]),
)
def test_objects_are_measured_as_by_scikit_image(
    seed: int, shape: tuple[int, int, int], spacing: tuple[float, ...], part: int
) -> None:
    ids = blobs(seed, shape)
    with pytest.MonkeyPatch.context() as patch:
        for module in (instance_stats, object_runs):
            patch.setattr(module, "PART_VOXELS", part)
        found = measure_objects(ids, spacing)
        np.testing.assert_array_equal(object_diameters(ids, spacing), found.diameters_mm)
    expected = slowly(ids, spacing)
    assert len(found) == ids.max()
    np.testing.assert_allclose(found.diameters_mm, expected.diameters_mm, rtol=1e-5)
    np.testing.assert_allclose(found.elongation, expected.elongation, rtol=1e-4)
    np.testing.assert_allclose(found.solidity, expected.solidity, rtol=1e-6)
    np.testing.assert_array_equal(found.touching, expected.touching)


@pytest.mark.parametrize("radius", [0.5, 1, 2.5, 5, 10, 40])
def test_disks_and_balls_are_compact_whatever_their_size(radius: float) -> None:
    side = int(2 * radius) + 3
    places = np.indices((side,) * 3) - side / 2 + 0.25
    ball = (np.square(places).sum(0) <= radius**2).astype(np.int32)
    for ids in (ball, ball[side // 2 : side // 2 + 1]):
        found = measure_objects(ids, ONES)
        # Only of the large ball every second row is looked at, in which the hull's last rows are not.
        assert found.solidity == pytest.approx(1, abs=1e-6 if radius < 32 else 0.01)
        assert found.elongation == pytest.approx(1, abs=0.05 if radius > 3 else 0.6)


def test_what_is_hollow_bent_or_long_is_told() -> None:
    ring = np.zeros((1, 40, 40), dtype=np.int32)
    ring[0][draw.disk((20, 20), 15)] = 1
    ring[0][draw.disk((20, 20), 10)] = 0
    rod = np.zeros((1, 40, 40), dtype=np.int32)
    rod[0, 4:8, 4:36] = 1
    long, hollow = measure_objects(rod, ONES), measure_objects(ring, ONES)
    assert long.elongation == pytest.approx(32 / 4)
    assert long.solidity == 1
    assert hollow.solidity == pytest.approx(1 - (10 / 15) ** 2, abs=0.02)
    assert measure_objects(rod, (1.0, 8.0, 1.0)).elongation == pytest.approx(1)


def test_a_large_object_is_looked_at_in_some_rows_only() -> None:
    shape = np.zeros((200, 210, 30), dtype=np.int32)
    shape[:, :100] = 1
    shape[:100] = 1
    found = measure_objects(shape, ONES)
    assert found.solidity == pytest.approx(hull_fraction(shape[::4, ::4] > 0), abs=0.02)


def test_a_corner_touches_and_a_gap_does_not() -> None:
    ids = np.zeros((3, 5, 7), dtype=np.int32)
    ids[0, 0, 0], ids[1, 1, 1] = 1, 2  # share a corner
    ids[2, 4, 4], ids[2, 4, 6] = 3, 4  # one voxel between them
    np.testing.assert_array_equal(measure_objects(ids, ONES).touching, [True, True, False, False])


def test_hulls_are_looked_for_in_a_sample_that_is_always_the_same() -> None:
    ids = np.zeros((1, 40, 400), dtype=np.int32)
    ids[0, ::2, ::2] = np.arange(1, 4001).reshape(20, 200)
    first, second = (measure_objects(ids, ONES, max_hulls=50) for _ in range(2))
    assert np.isfinite(first.solidity).sum() == 50
    np.testing.assert_array_equal(first.solidity, second.solidity)
    assert np.flatnonzero(np.isfinite(first.solidity)).mean() == pytest.approx(2000, abs=500)
    assert hulls_per_case(1) == 1000
    assert hulls_per_case(10**4) == 5


def test_a_hundred_thousand_objects_take_little_time_and_memory() -> None:
    ids = np.zeros((1, 2000, 2000), dtype=np.int32)
    tiles = np.kron(np.arange(1, 320 * 320 + 1, dtype=np.int32).reshape(320, 320), np.ones((5, 5), dtype=np.int32))
    ids[0, :1600, :1600] = tiles
    tracemalloc.start()
    started = time.process_time()
    found = measure_objects(ids, ONES, max_hulls=10)
    seconds, peak = time.process_time() - started, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found) == 320 * 320
    assert found.touching.all()
    assert peak < 8 * ids.nbytes + 100 * 2**20
    assert seconds < 5


def test_statistics_are_over_all_objects() -> None:
    def case(*diameters: float, solidity: float) -> MeasuredObjects:
        count = len(diameters)
        hulls = np.full(count, np.nan)
        hulls[:1] = solidity  # one looked at stands for all of the case
        return MeasuredObjects(np.array(diameters), np.full(count, 2.0), hulls, np.arange(count) == 0)

    stats = join_objects([case(1, 2, 3, 4, solidity=0.5), case(solidity=0), case(10, solidity=1)], 0.7)
    assert stats is not None
    assert stats.diameters_mm == tuple(np.percentile([1, 2, 3, 4, 10], (5, 50, 95)))
    assert [item.count for item in stats.cases] == [4, 0, 1]
    assert [item.diameter_mm for item in stats.cases] == [2.5, None, 10]
    assert stats.solidity == 0.5  # four of five objects
    assert stats.elongation == 2
    assert stats.touching_fraction == 0.4
    assert stats.background_fraction == 0.7
    assert join_objects([case(solidity=0)], 0.7) is None
    assert join_objects([], 0.7) is None


def test_what_is_kept_is_read_again() -> None:
    found = measure_objects(blobs(3, (1, 40, 50)), ONES, max_hulls=2)
    again = MeasuredObjects.from_array(found.to_array())
    for name in ("diameters_mm", "elongation", "solidity", "touching"):
        np.testing.assert_array_equal(getattr(again, name), getattr(found, name))
        assert getattr(again, name).dtype == getattr(found, name).dtype
