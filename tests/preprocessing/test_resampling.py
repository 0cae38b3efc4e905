"""Fast resampling equals the slow: scikit-image and scipy for images and logits, batchgenerators for labels."""

from collections.abc import Sequence

import numpy as np
import pytest
from batchgenerators.augmentations.utils import resize_segmentation
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.transform import resize

from autoseg.errors import OptionError
from autoseg.preprocessing import operators
from autoseg.preprocessing.label_resampling import resample_label
from autoseg.preprocessing.operators import axis_operator, nearest_samples, one_blas_thread
from autoseg.preprocessing.resampling import LogitsResampler, resample_image, resampled_shape, separate_axis
from planners.plan import Resampling

ISOTROPIC = (1.0, 1.0, 1.0)
sizes = st.tuples(*[st.integers(1, 21)] * 3)
seeds = st.integers(0, 2**32 - 1)
quick = settings(max_examples=100, deadline=None)


def random_image(seed: int, shape: Sequence[int], offset: float = 0.0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=shape) + offset).astype(np.float32)


def by_slices(volume: np.ndarray, new_shape: Sequence[int], axis: int, order: int, order_through: int) -> np.ndarray:
    """The slow way of a separate axis, in float64: slice by slice, then map_coordinates through the slices."""
    in_plane = [size for other, size in enumerate(new_shape) if other != axis]
    slices = np.moveaxis(volume.astype(float), axis, 0)
    resized = np.stack([resize(item, in_plane, order, mode="edge", anti_aliasing=False) for item in slices])
    if len(slices) != new_shape[axis]:
        grid = np.mgrid[: new_shape[axis], : in_plane[0], : in_plane[1]].astype(float)
        grid[0] = len(slices) / new_shape[axis] * (grid[0] + 0.5) - 0.5
        resized = ndimage.map_coordinates(resized, grid, order=order_through, mode="nearest")
    return np.moveaxis(resized, 0, axis)


def label_by_slices(label: np.ndarray, new_shape: Sequence[int], axis: int) -> np.ndarray:
    in_plane = [size for other, size in enumerate(new_shape) if other != axis]
    resized = np.stack([resize_segmentation(item, in_plane, 1) for item in np.moveaxis(label, axis, 0)])
    centres = label.shape[axis] / new_shape[axis] * (np.arange(new_shape[axis]) + 0.5) - 0.5
    index = ndimage.map_coordinates(np.arange(label.shape[axis]), centres[None], order=0, mode="nearest")
    return np.moveaxis(resized[index], 0, axis)


@pytest.mark.parametrize("order", [0, 1, 3])
@pytest.mark.parametrize(("size", "new_size"), [(1, 5), (2, 7), (5, 9), (9, 5), (40, 33), (64, 64), (130, 45)])
def test_operator_is_zoom_of_the_identity(size: int, new_size: int, order: int) -> None:
    slow = ndimage.zoom(np.eye(size), (new_size / size, 1), order=order, mode="nearest", grid_mode=True)
    fast = axis_operator(size, new_size, order).apply(np.eye(size, dtype=np.float32), 0)
    np.testing.assert_allclose(fast, slow, rtol=0, atol=1e-7)
    stop = max(1, new_size // 2)
    part = axis_operator(size, new_size, order, stop // 2, stop).apply(np.eye(size, dtype=np.float32), 0)
    np.testing.assert_allclose(part, slow[stop // 2 : stop], rtol=0, atol=1e-7)


def test_operator_works_along_any_axis() -> None:
    array = random_image(0, (3, 4, 5, 6))
    for axis in range(4):
        slow = np.moveaxis(axis_operator(array.shape[axis], 8, 3).apply(np.moveaxis(array, axis, 0).copy(), 0), 0, axis)
        np.testing.assert_allclose(axis_operator(array.shape[axis], 8, 3).apply(array, axis), slow, atol=1e-6)


@given(st.integers(1, 60), st.integers(1, 60))
@quick
def test_nearest_sample_is_that_of_zoom_and_of_map_coordinates(size: int, new_size: int) -> None:
    index = np.arange(size)
    zoomed = resize(index, (new_size,), 0, mode="edge", anti_aliasing=False, preserve_range=True)
    np.testing.assert_array_equal(nearest_samples(size, new_size), zoomed)
    centres = size / new_size * (np.arange(new_size) + 0.5) - 0.5
    mapped = ndimage.map_coordinates(index, centres[None], order=0, mode="nearest")
    np.testing.assert_array_equal(nearest_samples(size, new_size), mapped)


@given(sizes, sizes, st.sampled_from([0, 1, 3]), seeds, st.sampled_from([0.0, 30.0, -1e4]))
@quick
def test_image_equals_scikit_image(
    shape: tuple[int, ...], new_shape: tuple[int, ...], order: int, seed: int, offset: float
) -> None:
    image = random_image(seed, (2, *shape), offset)
    fast = resample_image(image, new_shape, ISOTROPIC, ISOTROPIC, Resampling(image_order=order))
    assert fast.dtype == np.float32
    for channel, result in zip(image, fast, strict=True):
        slow = resize(channel.astype(float), new_shape, order, mode="edge", anti_aliasing=False)
        rounding = np.spacing(np.float32(abs(offset)))  # what float32 cannot tell apart at this offset
        assert np.abs(result - slow).max() <= 1e-5 * np.ptp(channel) + rounding
        assert channel.min() <= result.min()
        assert result.max() <= channel.max()


@given(sizes, sizes, st.integers(0, 2), st.sampled_from([1, 3]), st.sampled_from([0, 1, 3]), seeds)
@quick
def test_separate_axis_equals_slice_by_slice(
    shape: tuple[int, ...], new_shape: tuple[int, ...], axis: int, order: int, order_through: int, seed: int
) -> None:
    spacing = [1.0, 1.0, 1.0]
    spacing[axis] = 3.5
    image = random_image(seed, (1, *shape))
    resampling = Resampling(image_order=order, order_through_plane=order_through)
    fast = resample_image(image, new_shape, spacing, ISOTROPIC, resampling)[0]
    slow = by_slices(image[0], new_shape, axis, order, order_through)
    assert np.abs(fast - slow).max() <= 1e-5 * np.ptp(slow) + 1e-6


def test_image_of_the_same_shape_is_left_alone() -> None:
    image = random_image(0, (1, 3, 4, 5))
    assert resample_image(image, (3, 4, 5), ISOTROPIC, (2.0, 1.0, 1.0), Resampling()) is image


def test_long_axis_and_strong_shrinking() -> None:
    image = random_image(5, (1, 1, 900, 40))
    fast = resample_image(image, (1, 130, 50), (999.0, 1.0, 1.0), (999.0, 7.0, 0.8), Resampling())
    slow = resize(image[0, 0].astype(float), (130, 50), 3, mode="edge", anti_aliasing=False)
    assert np.abs(fast[0, 0] - slow).max() <= 1e-5 * np.ptp(slow)


@given(sizes, sizes, st.sampled_from([2, 3, 30]), st.sampled_from(["int8", "int16", "int32", "int64"]), seeds)
@quick
def test_label_equals_batchgenerators(
    shape: tuple[int, ...], new_shape: tuple[int, ...], num_labels: int, dtype: str, seed: int
) -> None:
    # Rough noise has more ties and more labels per cell than any annotation.
    label = np.random.default_rng(seed).integers(-1, num_labels - 1, size=shape).astype(dtype)
    fast = resample_label(label, new_shape, ISOTROPIC, ISOTROPIC, Resampling())
    slow = resize_segmentation(label, new_shape, 1)
    assert fast.dtype == label.dtype
    np.testing.assert_array_equal(fast, slow)


@given(sizes, sizes, st.integers(0, 2), seeds)
@quick
def test_label_with_separate_axis_equals_slice_by_slice(
    shape: tuple[int, ...], new_shape: tuple[int, ...], axis: int, seed: int
) -> None:
    spacing = [1.0, 1.0, 1.0]
    spacing[axis] = 6.0
    label = np.random.default_rng(seed).integers(-1, 4, size=shape).astype(np.int8)
    fast = resample_label(label, new_shape, spacing, ISOTROPIC, Resampling())
    np.testing.assert_array_equal(fast, label_by_slices(label, new_shape, axis))


def test_label_of_smooth_shapes_with_many_values_equals_batchgenerators() -> None:
    rng = np.random.default_rng(0)
    noise = [ndimage.gaussian_filter(rng.normal(size=(20, 40, 40)), 3) for _ in range(12)]
    label = np.argmax(noise, axis=0).astype(np.int16) * 100
    fast = resample_label(label, (27, 53, 31), ISOTROPIC, ISOTROPIC, Resampling())
    np.testing.assert_array_equal(fast, resize_segmentation(label, (27, 53, 31), 1))


def test_label_by_nearest_voxel_and_linear_through_plane() -> None:
    label = np.random.default_rng(3).integers(0, 5, size=(6, 7, 8)).astype(np.int8)
    nearest = resample_label(label, (9, 5, 11), ISOTROPIC, ISOTROPIC, Resampling(label_order=0))
    np.testing.assert_array_equal(nearest, resize(label, (9, 5, 11), 0, mode="edge", anti_aliasing=False))
    through = resample_label(label, (9, 7, 8), (9.0, 1.0, 1.0), ISOTROPIC, Resampling(order_through_plane=1))
    np.testing.assert_array_equal(through, resize_segmentation(label, (9, 7, 8), 1))


def test_label_input_is_never_changed() -> None:
    label = np.random.default_rng(3).integers(0, 5, size=(6, 7, 8)).astype(np.int8)
    kept = label.copy()
    for new_shape in ((6, 7, 9), (3, 7, 8), (6, 14, 8)):
        resample_label(label, new_shape, ISOTROPIC, ISOTROPIC, Resampling())
    np.testing.assert_array_equal(label, kept)


@given(sizes, sizes, st.sampled_from([None, 0, 1, 2]), st.integers(1, 6), seeds)
@quick
def test_logits_in_slabs_equal_the_whole(
    shape: tuple[int, ...], new_shape: tuple[int, ...], axis: int | None, height: int, seed: int
) -> None:
    spacing = [1.0, 1.0, 1.0]
    if axis is not None:
        spacing[axis] = 5.0
    logits = random_image(seed, (3, *shape))
    resampler = LogitsResampler(logits, new_shape, spacing, ISOTROPIC, Resampling())
    slabs = [resampler.slab(z, min(z + height, new_shape[0])) for z in range(0, new_shape[0], height)]
    if axis is None:
        slow = [resize(item.astype(float), new_shape, 1, mode="edge", anti_aliasing=False) for item in logits]
    else:
        slow = [by_slices(item, new_shape, axis, 1, 0) for item in logits]
    assert resampler.shape == (3, *new_shape)
    np.testing.assert_allclose(np.concatenate(slabs, axis=1), np.stack(slow), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("current", "new", "axis"),
    [
        ((1.0, 1.0, 1.0), (1.0, 1.0, 1.0), None),
        ((3.0, 1.0, 1.0), (1.0, 1.0, 1.0), None),  # exactly 3 is not more than 3
        ((3.1, 1.0, 1.0), (1.0, 1.0, 1.0), 0),
        ((1.0, 1.0, 4.0), (5.0, 1.0, 1.0), 2),  # the current spacing decides first
        ((1.0, 1.0, 1.0), (1.0, 5.0, 1.0), 1),
        ((0.24, 1.25, 1.25), (9.0, 1.0, 1.0), None),  # two axes share the largest, although the new one has one
        ((999.0, 0.5, 0.5), (999.0, 0.6, 0.6), 0),  # a 2D image
    ],
)
def test_separate_axis(current: tuple[float, ...], new: tuple[float, ...], axis: int | None) -> None:
    assert separate_axis(current, new, 3.0) == axis


def test_resampled_shape_rounds_half_to_even_and_keeps_a_voxel() -> None:
    assert resampled_shape((5, 3, 10), (1.0, 1.0, 1.0), (2.0, 2.0, 3.0)) == (2, 2, 3)
    assert resampled_shape((1, 1, 1), (0.1, 1.0, 1.0), (5.0, 1.0, 1.0)) == (1, 1, 1)


def test_orders_that_are_not_offered_are_named() -> None:
    image, label = np.zeros((1, 2, 2, 2), np.float32), np.zeros((2, 2, 2), np.int8)
    shapes = ((3, 3, 3), ISOTROPIC, ISOTROPIC)
    with pytest.raises(OptionError, match="order is 2; choose one of 0, 1, 3"):
        resample_image(image, *shapes, Resampling(image_order=2))
    with pytest.raises(OptionError, match="label_order is 3; choose 0"):
        resample_label(label, *shapes, Resampling(label_order=3))
    with pytest.raises(OptionError, match="logits_order is 3; choose 0 or 1"):
        LogitsResampler(image, *shapes, Resampling(logits_order=3))


def test_blas_is_limited_while_needed_and_restored_after() -> None:
    def threads() -> set[int]:
        return {pool["num_threads"] for pool in operators._blas_controller().info() if pool["user_api"] == "blas"}

    before = threads()
    with one_blas_thread():
        with one_blas_thread():
            assert threads() <= {1}
        assert threads() <= {1}
    assert threads() == before
