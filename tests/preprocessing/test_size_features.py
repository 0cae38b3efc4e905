"""The sizes in an image: they grow with it, whatever its contrast, its channels, its axes."""

import numpy as np
import pytest

from autoseg.preprocessing import size_features as module
from autoseg.preprocessing.size_features import NUM_FEATURES, size_features

FLAT = (999.0, 1.0, 1.0)


def disks(diameter: float, side: int = 192, seed: int = 0, noise: float = 0.0) -> np.ndarray:
    """Disks on a jittered lattice, 1 × 1 × side × side: bright on dark, a quarter of the area."""
    rng = np.random.default_rng(seed)
    pitch = diameter * 1.77
    places = np.arange(pitch / 2, side, pitch)
    image = np.zeros((side, side), dtype=np.float32)
    rows, columns = np.mgrid[:side, :side]
    for y, x in (rng.uniform(-0.1, 0.1, 2) * pitch + (y, x) for y in places for x in places):
        image = np.maximum(image, np.clip(diameter / 2 - np.hypot(rows - y, columns - x) + 0.5, 0, 1))
    return (image + noise * rng.normal(size=image.shape)).astype(np.float32)[None, None]


def lengths(features: tuple[float, ...]) -> np.ndarray:
    """The eight lengths, in mm."""
    return np.exp(features[0] + np.array(features[1:]))


def test_things_twice_as_large_move_the_first_feature_alone() -> None:
    small, large = (np.array(size_features(disks(d, side), FLAT)) for d, side in ((10, 128), (20, 256)))
    assert len(small) == NUM_FEATURES
    assert large[0] - small[0] == pytest.approx(np.log(2), abs=0.1)
    np.testing.assert_allclose(large[1:], small[1:], atol=0.2)


@pytest.mark.parametrize("diameter", [8, 16, 30])
def test_runs_through_disks(diameter: float) -> None:
    """The mean chord of a disk is π / 4 of its diameter."""
    found = lengths(size_features(disks(diameter), FLAT))
    assert found[0] == pytest.approx(np.pi / 4 * diameter, rel=0.15)
    assert (np.diff(found[1:4]) >= 0).all()
    assert found[4] > found[0]


def test_millimetres_move_the_first_feature_alone_and_exactly() -> None:
    image = disks(12)
    one, half = (np.array(size_features(image, (999.0 * s, s, s))) for s in (1.0, 0.5))
    np.testing.assert_allclose(half[0] - one[0], -np.log(2), atol=1e-5)
    np.testing.assert_allclose(half[1:], one[1:], atol=1e-5)


@pytest.mark.parametrize("changed", ["inverted", "scaled", "integers", "channels", "constant channel", "alpha"])
def test_contrast_and_channels_change_nothing(changed: str) -> None:
    image = np.round(disks(12, noise=0.05) * 100) + 50
    other = {
        "inverted": 255 - image,
        "scaled": image * 37 - 4000,
        "integers": image.astype(np.int16),
        "channels": np.concatenate([image, 3 * image, 90 - image]),
        "constant channel": np.concatenate([np.full_like(image, 7), image]),
        "alpha": np.concatenate([image, image, image, np.full_like(image, 255)]),
    }[changed]
    np.testing.assert_allclose(size_features(other, FLAT), size_features(image, FLAT), atol=2e-3)


def test_light_and_shade_and_noise_change_little() -> None:
    plain = lengths(size_features(disks(14), FLAT))[:4]
    slope = np.linspace(0, 3, 192, dtype=np.float32)[:, None]
    shaded = lengths(size_features(disks(14) + slope, FLAT))[:4]
    noisy = lengths(size_features(disks(14, noise=0.1), FLAT))[:4]
    np.testing.assert_allclose(shaded, plain, rtol=0.2)
    np.testing.assert_allclose(noisy, plain, rtol=0.2)


def balls(diameter_mm: float, spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """Balls in a volume of 64 mm."""
    shape = tuple(round(64 / step) for step in spacing_mm)
    grid = np.stack(
        np.meshgrid(*[(np.arange(n) + 0.5) * s for n, s in zip(shape, spacing_mm, strict=True)], indexing="ij")
    )
    rng = np.random.default_rng(1)
    places = np.arange(diameter_mm * 0.7, 64, diameter_mm * 1.5)
    nearest = np.full(shape, np.inf)
    for place in np.stack(np.meshgrid(places, places, places), axis=-1).reshape(-1, 3):
        jittered = place + rng.uniform(-0.1, 0.1, 3) * diameter_mm
        nearest = np.minimum(nearest, np.sqrt(((grid - jittered[:, None, None, None]) ** 2).sum(axis=0)))
    return (nearest < diameter_mm / 2).astype(np.uint8)[None]


def test_volumes_thick_slices_and_the_order_of_axes() -> None:
    isotropic = size_features(balls(16, (1, 1, 1)), (1.0, 1.0, 1.0))
    thick = size_features(balls(16, (4, 1, 1)), (4.0, 1.0, 1.0))
    larger = size_features(balls(24, (4, 1, 1)), (4.0, 1.0, 1.0))
    np.testing.assert_allclose(lengths(thick)[:4], lengths(isotropic)[:4], rtol=0.15)
    np.testing.assert_allclose(lengths(larger)[:4] / lengths(thick)[:4], 1.5, rtol=0.15)
    turned = np.moveaxis(balls(16, (4, 1, 1)), 1, 3)
    assert size_features(turned, (1.0, 1.0, 4.0)) == thick


def test_pixels_that_are_no_squares() -> None:
    image = disks(16)
    narrow = np.repeat(image, 3, axis=2)  # the same picture, rows three times as fine
    assert size_features(narrow, (999.0, 1 / 3, 1.0)) == pytest.approx(size_features(image, FLAT), abs=1e-5)


@pytest.mark.parametrize(
    "image",
    [np.zeros((3, 1, 64, 64)), np.full((1, 1, 64, 64), np.nan), np.random.default_rng(0).random((1, 1, 9, 400))],
    ids=["constant", "not a number", "too small"],
)
def test_an_image_that_shows_nothing_has_no_sizes(image: np.ndarray) -> None:
    assert size_features(image, FLAT) == ()


def test_single_bright_voxels_and_holes_are_borne() -> None:
    image = disks(12)
    spoiled = image.copy()
    spoiled[0, 0, 3, 3], spoiled[0, 0, 5, 9] = 1e6, np.nan
    np.testing.assert_allclose(size_features(spoiled, FLAT), size_features(image, FLAT), atol=0.02)
    one = np.zeros((1, 1, 64, 64), dtype=np.uint8)
    one[0, 0, 30, 30] = 9  # less than the percentiles see
    assert len(size_features(one, FLAT)) == NUM_FEATURES


def test_blocks_of_a_large_image_and_planes_of_a_large_volume_speak_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    image = disks(12, side=384, noise=0.02)
    volume = np.concatenate([image[:, :, :192, :192]] * 9, axis=1)
    whole = size_features(image, FLAT), size_features(volume, (4.0, 1.0, 1.0))
    monkeypatch.setattr(module, "LONG_AXIS", 256)
    monkeypatch.setattr(module, "BLOCK", 128)
    monkeypatch.setattr(module, "PLANE_VOXELS", 3 * 192 * 192)
    monkeypatch.setattr(module, "SAMPLE_VOXELS", 1 << 14)
    part = size_features(image, FLAT), size_features(volume, (4.0, 1.0, 1.0))
    for found, expected in zip(part, whole, strict=True):
        assert found != expected  # another part was looked at
        np.testing.assert_allclose(lengths(found)[:4], lengths(expected)[:4], rtol=0.2)


def test_runs_equal_those_counted_one_by_one() -> None:
    values = np.random.default_rng(3).normal(size=(2, 20, 33)).astype(np.float32)
    above = values > module._threshold(values)
    counted: dict[bool, list[float]] = {True: [], False: []}
    for axis, step in ((1, 0.5), (2, 2.0)):
        for line in np.moveaxis(above, axis, -1).reshape(-1, above.shape[axis]):
            start = 0
            for place in range(1, len(line) + 1):
                if place == len(line) or line[place] != line[start]:
                    counted[bool(line[start])].append((place - start) * step)
                    start = place
    found = module._run_lengths(values, (0.5, 2.0))
    expected = sorted(float(np.log(np.mean(runs))) for runs in counted.values())
    assert [found[0], found[4]] == pytest.approx(expected)
