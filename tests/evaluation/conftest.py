"""Fixtures of the instance metrics: pairs of label and prediction, drawn and real, and a slow, direct count of them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

Maps = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Direct:
    """Objects counted one after the other: ids, sizes, and voxels shared by every pair (n, m)."""

    label_ids: list[int]
    prediction_ids: list[int]
    label_sizes: np.ndarray
    prediction_sizes: np.ndarray
    shared: np.ndarray

    @property
    def iou(self) -> np.ndarray:
        return self.shared / np.maximum(self.label_sizes[:, None] + self.prediction_sizes - self.shared, 1)


def count_directly(label: np.ndarray, prediction: np.ndarray) -> Direct:
    label_ids = sorted({*label.ravel().tolist()} - {0})
    prediction_ids = sorted({*prediction.ravel().tolist()} - {0})
    places = [set(np.flatnonzero(prediction.ravel() == value).tolist()) for value in prediction_ids]
    shared = np.zeros((len(label_ids), len(prediction_ids)), dtype=np.int64)
    sizes = np.zeros(len(label_ids), dtype=np.int64)
    for row, value in enumerate(label_ids):
        own = set(np.flatnonzero(label.ravel() == value).tolist())
        sizes[row] = len(own)
        for column, other in enumerate(places):
            shared[row, column] = len(own & other)
    return Direct(label_ids, prediction_ids, sizes, np.array([len(place) for place in places], dtype=np.int64), shared)


def draw_objects(random: np.random.Generator, shape: tuple[int, ...], num: int) -> np.ndarray:
    """Cells that touch each other and the frame, with gaps; numbered from 1."""
    places = np.stack(np.meshgrid(*(np.arange(size) for size in shape), indexing="ij"), axis=-1)
    centres = random.uniform(0, shape, (num, len(shape)))
    distances = np.linalg.norm(places[..., None, :] - centres, axis=-1)
    return np.where(distances.min(axis=-1) < 1.3 * min(shape) / num ** (1 / len(shape)), distances.argmin(-1) + 1, 0)


def spoil(random: np.random.Generator, label: np.ndarray) -> np.ndarray:
    """Make a prediction of a label: some objects merged, split, dropped, dilated, invented; all moved by a voxel."""
    found = label.copy()
    ids = np.unique(label)[1:]
    for value in ids:
        kind = random.choice(["keep", "merge", "split", "drop", "dilate"], p=[0.5, 0.15, 0.15, 0.1, 0.1])
        if kind == "merge":
            found[found == value] = random.choice(ids)
        elif kind == "split":
            own = np.argwhere(found == value)
            axis = int(random.integers(label.ndim))
            half = own[own[:, axis] > np.median(own[:, axis])] if len(own) else own
            found[tuple(half.T)] = found.max() + 1
        elif kind == "drop":
            found[found == value] = 0
        elif kind == "dilate":
            found[ndimage.binary_dilation(found == value) & (found == 0)] = value
    if random.random() < 0.5:
        found = np.roll(found, 1, axis=int(random.integers(label.ndim)))
    corner = tuple(slice(0, max(size // 8, 1)) for size in label.shape)
    if random.random() < 0.3:
        found[corner] = np.where(found[corner] == 0, found.max() + 1, found[corner])
    return found


def renumber(random: np.random.Generator, ids: np.ndarray) -> np.ndarray:
    """Give objects any numbers up to 2**31 − 1."""
    values = np.unique(ids)
    numbers = random.choice(2**31 - 1, len(values), replace=False) + 1
    return np.where(ids == 0, 0, numbers[np.searchsorted(values, ids)]).astype(np.uint32)


def _random_pairs() -> Iterator[Maps]:
    empty = np.zeros((12, 15), dtype=np.int32)
    one = empty.copy()
    one[2:7, 3:9] = 5
    halves = np.where(one > 0, 1 + (np.arange(15) > 5), 0)  # two halves of an IoU of exactly 0.5
    yield from ((empty, empty), (one, empty), (empty, one), (one, one), (one, np.roll(one, 2)), (one, halves))
    yield from ((halves, one), (np.ones_like(one), one), (one, np.ones_like(one)))
    for seed in range(41):
        random = np.random.default_rng(seed)
        shape = (7, 14, 16) if seed % 3 == 0 else (30, 37)
        label = draw_objects(random, shape, int(random.integers(1, 30)))
        prediction = spoil(random, label)
        yield renumber(random, label), renumber(random, prediction)


@pytest.fixture(scope="session")
def random_pairs() -> list[Maps]:
    """50 drawn pairs of label and prediction in 2D and 3D, among them the empty ones and those of one object."""
    pairs = list(_random_pairs())
    assert len(pairs) == 50
    return pairs


@pytest.fixture(scope="session")
def real_pairs(data_folder: Path) -> list[Maps]:
    """20 real labels, 19 in 2D and one in 3D, each with itself spoiled as its prediction."""
    from autoseg.data.io import open_label

    nuclei = sorted((data_folder / "dsb2018_nuclei" / "labels").iterdir())
    paths = [*nuclei[:: len(nuclei) // 18][:18], *(data_folder / "stardist_mini" / f"mask{n}d.tif" for n in (2, 3))]
    pairs = []
    for seed, path in enumerate(paths):
        label = open_label(path).read()[0][:, :256, :256].squeeze().astype(np.int64)
        pairs.append((label, spoil(np.random.default_rng(seed), label)))
    assert len(pairs) == 20
    return pairs


@pytest.fixture(scope="session")
def direct() -> Callable[[np.ndarray, np.ndarray], Direct]:
    """Give the slow count."""
    return count_directly
