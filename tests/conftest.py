"""Fixtures shared by all tests: where the real data is, one thread, small configurations, objects made in code."""

import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planners.plan import Architecture, Augmentation, Configuration, Input, Output, Resampling, Stage, Target, Training

DATA_FOLDER = Path(os.environ.get("AUTOSEG_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
GOLDEN_FOLDER = Path(os.environ.get("AUTOSEG_TEST_GOLDEN", Path(__file__).parents[2] / "shared" / "golden"))


def _folder(path: Path, variable: str) -> Path:
    if not path.is_dir():
        pytest.skip(f"needs real data: {path} does not exist (set {variable})")
    return path


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real datasets; skips where it is absent."""
    return _folder(DATA_FOLDER, "AUTOSEG_TEST_DATA")


@pytest.fixture(scope="session")
def golden_folder() -> Path:
    """The folder of kept results of nnU-Net v2.8.1; skips where it is absent."""
    return _folder(GOLDEN_FOLDER, "AUTOSEG_TEST_GOLDEN")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Compute on one thread: tests share the machine, and small arrays gain nothing from more."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def make_configuration() -> Callable[..., Configuration]:
    """Give a function that makes a configuration of two tiny stages.

    Beside those named it takes any field of ``Configuration`` or ``Training``.
    """

    def make(
        patch: tuple[int, ...],
        *,
        num_channels: int = 1,
        num_outputs: int = 3,
        masked: tuple[bool, ...] | None = None,
        augmentation: Augmentation | None = None,
        **fields: Any,
    ) -> Configuration:
        dimensions = len(patch)
        recipe: dict[str, Any] = {
            "augmentation": augmentation or Augmentation(rotation_radians=math.pi if dimensions == 2 else math.pi / 6),
            "mirror_axes": tuple(range(dimensions)),
            "momentum_spans": 0,  # the few steps of a test go by the plan's own learning rate
        }
        recipe |= {name: fields.pop(name) for name in Training.__dataclass_fields__ if name in fields}
        settings: dict[str, Any] = {
            "name": "tiny",
            "inputs": (Input(channels=num_channels),),
            "spacing_mm": (1.0,) * dimensions,
            "median_shape": tuple(float(size) for size in patch),
            "patch_size": patch,
            "output_size": patch,
            "batch_size": 2,
            "normalization": ("zscore",) * num_channels,
            "use_mask_for_norm": masked or (False,) * num_channels,
            "resampling": Resampling(),
            "target": Target(name="semantic", num_outputs=num_outputs),
            "architecture": two_stages(patch),
            "training": Training(**recipe),
            "estimated_bytes": 0,
        }
        return Configuration(**{**settings, **fields})

    return make


def two_stages(patch: tuple[int, ...]) -> Architecture:
    """A U-Net of two narrow stages; the second strides where every side of the patch is even."""
    ones, threes = (1,) * len(patch), (3,) * len(patch)
    stride = tuple(2 for _ in patch) if all(size % 2 == 0 for size in patch) else ones
    return Architecture(
        family="plain-unet",
        dimensions=len(patch),
        stages=(
            Stage(features=4, kernel=threes, stride=ones, num_blocks=1),
            Stage(features=8, kernel=threes, stride=stride, num_blocks=1),
        ),
        num_decoder_blocks=(1,),
        outputs=(Output(stride=ones, loss_weight=1.0),),
    )


@pytest.fixture(scope="session")
def ellipses() -> Callable[..., np.ndarray]:
    """Give a function that lays ellipses beside one another."""
    return _ellipses


def _ellipses(shape: tuple[int, ...], count: int, radius: float, seed: int = 0, anisotropy: float = 1.0) -> np.ndarray:
    """Lay ellipses beside one another, so that most touch; the first axis is coarser by the anisotropy.

    Those that others hide by more than a fifth are left out, so that each is about convex and in one piece.
    """
    generator = np.random.default_rng(seed)
    grid = np.indices(shape)
    ids = np.zeros(shape, dtype=np.int64)
    for number in range(1, count + 1):
        middle = generator.uniform(0, shape)
        radii = generator.uniform(0.7, 1.3, len(shape)) * radius
        radii[0] /= anisotropy
        axes = (..., *(None,) * len(shape))
        inside = (((grid - middle[axes]) / radii[axes]) ** 2).sum(0) < 1
        free = inside & (ids == 0)
        if free.sum() > 0.8 * inside.sum():
            ids[free] = number
    return ids
