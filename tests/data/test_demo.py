"""The demo dataset: the same for the same seed, different from case to case, and no easy win for a threshold."""

from pathlib import Path

import numpy as np
import pytest

from autoseg.data.dataset import Dataset, DatasetSource, open_dataset, read_case
from autoseg.data.demo import make_demo_case, make_demo_dataset


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = make_demo_dataset(tmp_path_factory.mktemp("demo") / "dataset", num_cases=6, seed=3)
    return open_dataset(DatasetSource(dataset=folder))


def test_layout(demo: Dataset) -> None:
    assert (demo.layout, demo.channels, len(demo.cases), len(demo.test_cases)) == ("nnU-Net v2", ("T1", "T2"), 6, 2)
    assert demo.labels is not None
    assert demo.labels.names == ("background", "organ", "core")
    assert not demo.mismatches
    assert not demo.notes


def test_cases_differ_and_hold_every_class(demo: Dataset) -> None:
    shapes, spacings = set(), set()
    for case in demo.cases:
        image, label = read_case(case)
        assert label is not None
        assert image.num_channels == 2
        assert image.shape == label.shape
        assert image.geometry == label.geometry
        assert all(24 <= size <= 40 for size in image.shape)
        counts = np.bincount(label.read().ravel(), minlength=3)
        assert counts.min() >= 300
        shapes.add(image.shape)
        spacings.add(image.geometry.spacing_mm)
    assert len(shapes) == len(spacings) == 6


def test_the_core_lies_inside_the_organ() -> None:
    for number in range(6):
        _, label, _ = make_demo_case(np.random.default_rng([0, number]))
        core = np.pad(label, 1) == 2
        around = np.zeros_like(core)
        for axis in range(3):
            around |= np.roll(core, 1, axis) | np.roll(core, -1, axis)
        touching = np.pad(label, 1)[around & ~core]
        assert (touching == 1).mean() > 0.7  # it may reach the surface somewhere
        assert label[0].max() == label[:, 0].max() == label[:, :, 0].max() == 0  # nothing is cut off


def test_brightness_alone_does_not_tell() -> None:
    """The best threshold of the core's own channel stays well below what a network reaches."""
    best = []
    for number in range(6):
        image, label, _ = make_demo_case(np.random.default_rng([0, number]))
        core = label == 2
        limits = np.quantile(image[1], np.linspace(0.5, 0.999, 60))
        dice = [2 * (core & (image[1] > limit)).sum() / (core.sum() + (image[1] > limit).sum()) for limit in limits]
        best.append(max(dice))
    assert np.mean(best) < 0.85


def test_same_seed_same_files(tmp_path: Path) -> None:
    first = make_demo_dataset(tmp_path / "a", num_cases=1, seed=1)
    second = make_demo_dataset(tmp_path / "b", num_cases=1, seed=1)
    other = make_demo_dataset(tmp_path / "c", num_cases=1, seed=2)
    name = Path("imagesTr") / "demo_01_0000.nii.gz"

    def content(folder: Path) -> np.ndarray:
        return read_case(open_dataset(DatasetSource(dataset=folder)).cases[0])[0].read()

    assert (first / name).is_file()
    np.testing.assert_array_equal(content(first), content(second))
    assert content(other).shape != content(first).shape or (content(other) != content(first)).any()
