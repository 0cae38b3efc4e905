"""Every row of the augmentation gives what batchgeneratorsv2 0.3.6 gives for equal parameters."""

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.intensity.brightness import MultiplicativeBrightnessTransform
from batchgeneratorsv2.transforms.intensity.contrast import ContrastTransform
from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform, _build_kernel
from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform

from autoseg.training import intensity

SHAPES = [(3, 12, 17, 14), (2, 1, 40, 31), (1, 4, 9, 150)]
"""Rows of three dimensions, of two (z of length 1), and longer than a block of a matrix product."""


def rows_of(shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))) * 2 + 0.5


def squeezed(x_BZYX):
    """The reference knows 2D images without an axis z."""
    return x_BZYX.squeeze(1) if x_BZYX.shape[1] == 1 else x_BZYX


def check(mine, reference, tolerance=2e-5):
    torch.testing.assert_close(squeezed(mine), reference, atol=tolerance, rtol=tolerance)


def test_noise():
    image = rows_of(SHAPES[0])
    mine = image.clone()
    intensity.add_noise(mine, 0.07, seed=123)
    torch.manual_seed(123)
    transform = GaussianNoiseTransform((0, 0.1), p_per_channel=1, synchronize_channels=True)
    everything = torch.arange(len(image))
    expected = transform._apply_to_image(image, num_apply=len(image), apply_idx=everything, sigmas=0.07)
    check(mine, expected)


def test_noise_is_independent_between_channels_and_seeds():
    fields = []
    for seed in (1, 2):
        image = torch.zeros(2, 20, 20, 20)
        intensity.add_noise(image, 0.1, seed)
        fields += list(image)
    correlation = np.corrcoef([field.flatten().numpy() for field in fields])
    assert abs(correlation - np.eye(4)).max() < 0.05
    assert all(abs(float(field.std()) - 0.1) < 0.005 for field in fields)


@pytest.mark.parametrize("shape", SHAPES)
def test_blur(shape):
    image = rows_of(shape)
    sigmas = [(0.5 + 0.1 * row, 0.71, 0.99) for row in range(len(image))]
    mine = image.clone()
    intensity.blur(mine, sigmas)
    transform = GaussianBlurTransform((0.5, 1.0), False, False)
    expected = squeezed(image.clone())
    used = [row[3 - expected.ndim + 1 :] for row in sigmas]
    expected = transform._apply_to_image(
        expected, apply_to_channel=torch.ones(len(image), dtype=torch.bool), sigmas=used
    )
    check(mine, expected)


@pytest.mark.parametrize("sigma", [0.5, 0.55, 0.583, 0.5834, 0.7, 0.9, 0.9166, 0.9167, 1.0])
def test_kernel(sigma):
    kernel = _build_kernel(sigma, truncate=6).numpy()
    margin = (7 - len(kernel)) // 2
    np.testing.assert_allclose(intensity.gaussian_kernel(sigma), np.pad(kernel, margin), atol=1e-6)


def test_blur_of_an_axis_shorter_than_the_kernel():
    image = rows_of((1, 2, 3, 8))
    mine = image.clone()
    intensity.blur(mine, [(1.0, 1.0, 1.0)])
    kernel = intensity.gaussian_kernel(1.0)
    wide = np.pad(image[0].numpy(), 3, mode="reflect")
    for axis in range(3):
        wide = np.apply_along_axis(np.convolve, axis, wide, kernel, mode="valid")
    np.testing.assert_allclose(mine[0].numpy(), wide, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_brightness(shape):
    image = rows_of(shape)
    factors = [0.75 + 0.2 * row for row in range(len(image))]
    mine = image.clone()
    intensity.multiply(mine, factors)
    transform = MultiplicativeBrightnessTransform((0.75, 1.25), synchronize_channels=False)
    everything = torch.arange(len(image))
    check(
        mine, transform._apply_to_image(squeezed(image), apply_to_channel=everything, multipliers=torch.tensor(factors))
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_contrast(shape):
    image = rows_of(shape)
    factors = [1.25 - 0.2 * row for row in range(len(image))]
    mine = image.clone()
    intensity.change_contrast(mine, factors)
    transform = ContrastTransform((0.75, 1.25), preserve_range=True, synchronize_channels=False)
    everything = torch.arange(len(image))
    expected = transform._apply_to_image(
        squeezed(image.clone()), apply_to_channel=everything, multipliers=torch.tensor(factors)
    )
    check(mine, expected)
    assert mine.amin() >= image.amin()
    assert mine.amax() <= image.amax()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("flipped", [(), (1,), (0, 1, 2)])
def test_low_resolution(shape, flipped):
    """A patch that is mirrored already gives the mirrored result of the reference, voxel for voxel."""
    image = rows_of(shape)
    zooms = [np.float32(0.5 + 0.17 * row) for row in range(len(image))]
    axes = [axis + 1 for axis in flipped]
    mine = image.flip(axes)
    intensity.lower_resolution(mine, [(zoom,) * 3 for zoom in zooms], [flipped] * len(image))
    transform = SimulateLowResolutionTransform((0.5, 1), False, True, ignore_axes=None)
    expected = squeezed(image.clone())
    scales = torch.tensor(np.array(zooms))[:, None].expand(-1, expected.ndim - 1)
    expected = transform._apply_to_image(expected, apply_to_channel=range(len(image)), scales=scales)
    check(mine.flip(axes), expected)


def test_low_resolution_leaves_an_axis_alone():
    image = rows_of(SHAPES[0])
    mine = image.clone()
    intensity.lower_resolution(mine, [(1.0, 0.6, 0.6)] * 3, [()] * 3)
    transform = SimulateLowResolutionTransform((0.5, 1), False, True, ignore_axes=(0,))
    scales = torch.tensor([[1.0, 0.6, 0.6]] * 3)
    check(mine, transform._apply_to_image(image.clone(), apply_to_channel=range(3), scales=scales))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("inverted", [False, True])
def test_gamma(shape, inverted):
    image = rows_of(shape)
    gammas = torch.tensor([0.7, 1.5, 1.1][: len(image)])
    mine = image.clone()
    intensity.change_gamma(mine, gammas.tolist(), inverted=inverted)
    transform = GammaTransform((0.7, 1.5), float(inverted), False, 1, 1)
    expected = transform._apply_to_image(
        squeezed(image.clone()),
        apply_to_channel=torch.arange(len(image)),
        retain_stats=torch.ones(len(image), dtype=torch.bool),
        invert_image=torch.full((len(image),), inverted),
        gamma=gammas,
    )
    check(mine, expected, tolerance=1e-4)
    torch.testing.assert_close(mine.std((1, 2, 3)), image.std((1, 2, 3)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("value", [0.0, -3.25])
def test_constant_rows_stay_constant(value):
    image = torch.full((1, 4, 5, 6), value)
    for change in (
        lambda x: intensity.change_contrast(x, [1.2]),
        lambda x: intensity.change_gamma(x, [0.8], inverted=False),
        lambda x: intensity.change_gamma(x, [1.3], inverted=True),
        lambda x: intensity.blur(x, [(0.7, 0.8, 0.9)]),
        lambda x: intensity.lower_resolution(x, [(0.5, 0.6, 0.7)], [()]),
    ):
        changed = image.clone()
        change(changed)
        torch.testing.assert_close(changed, image, atol=1e-6, rtol=1e-6)


def test_entries_of_operators_lie_within_reach():
    for size in (2, 3, 16, 97, 150):
        distance = np.abs(np.arange(size)[:, None] - np.arange(size))
        for kept in range((size + 1) // 2, size + 1):
            for flipped in (False, True):
                assert distance[intensity.low_resolution_operator(size, kept, flipped) != 0].max() <= intensity.REACH


def test_threads_change_nothing():
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        image = rows_of((1, 40, 50, 44))
        intensity.change_contrast(image, [1.1])
        intensity.change_gamma(image, [1.3], inverted=True)
        results.append(image)
    assert torch.equal(*results)


def test_many_rows_equal_one_at_a_time():
    image = rows_of((3, 9, 8, 7))
    values = [0.8, 1.1, 1.3]
    for change in (
        intensity.multiply,
        intensity.change_contrast,
        lambda x, v: intensity.change_gamma(x, v, inverted=False),
        lambda x, v: intensity.blur(x, [(0.6 * item, 0.7, 0.75) for item in v]),
        lambda x, v: intensity.lower_resolution(x, [(item / 2,) * 3 for item in v], [(1,)] * len(v)),
    ):
        together, alone = image.clone(), image.clone()
        change(together, values)
        for row, value in enumerate(values):
            change(alone[row : row + 1], [value])
        torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
