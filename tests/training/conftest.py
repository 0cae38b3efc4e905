"""Small configurations and stored cases for the tests of sampling and augmentation."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from autoseg.preprocessing.locations import sample_locations
from autoseg.preprocessing.preprocess import CaseGrid, PreprocessedCase
from autoseg.preprocessing.store import Store, StoredCase
from planners.labels import LabelClass, Labels
from planners.plan import (
    Architecture,
    Augmentation,
    Configuration,
    Input,
    Output,
    Resampling,
    Stage,
    Target,
    Training,
)


@pytest.fixture(autouse=True)
def one_thread():
    """Tests share the machine; small arrays gain nothing from threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def make_configuration() -> Callable[..., Configuration]:
    """Give a function that makes a configuration of one stage from what sampling and augmentation look at."""

    def make(
        patch: tuple[int, ...],
        *,
        batch_size: int = 2,
        num_channels: int = 1,
        masked: tuple[bool, ...] | None = None,
        augmentation: Augmentation | None = None,
        **training: object,
    ) -> Configuration:
        dimensions = len(patch)
        ones = (1,) * dimensions
        angle = math.pi if dimensions == 2 else math.pi / 6
        recipe = Training(
            augmentation=augmentation or Augmentation(rotation_radians=angle), mirror_axes=tuple(range(dimensions))
        )
        return Configuration(
            name="tiny",
            inputs=(Input(channels=num_channels),),
            spacing_mm=(1.0,) * dimensions,
            median_shape=tuple(float(size) for size in patch),
            patch_size=patch,
            output_size=patch,
            batch_size=batch_size,
            normalization=("zscore",) * num_channels,
            use_mask_for_norm=masked or (False,) * num_channels,
            resampling=Resampling(),
            target=Target(name="semantic", num_outputs=3),
            architecture=Architecture(
                family="plain-unet",
                dimensions=dimensions,
                stages=(Stage(features=4, kernel=(3,) * dimensions, stride=ones, num_blocks=1),),
                num_decoder_blocks=(),
                outputs=(Output(stride=ones, loss_weight=1.0),),
            ),
            training=dataclasses.replace(recipe, **training),
            estimated_bytes=0,
        )

    return make


@pytest.fixture
def make_case(tmp_path: Path) -> Callable[..., StoredCase]:
    """Give a function that stores a random smooth image with labels from −1 to ``num_classes`` − 1."""

    def make(
        shape: tuple[int, int, int],
        *,
        seed: int = 0,
        num_channels: int = 1,
        num_classes: int = 3,
        ignore: bool = False,
        label: np.ndarray | None = None,
    ) -> StoredCase:
        rng = np.random.default_rng(seed)
        image = rng.standard_normal((num_channels, *shape)).astype(np.float32)
        if label is None:
            smooth = ndimage.gaussian_filter(rng.standard_normal(shape), 2)
            edges = np.quantile(smooth, np.linspace(0, 1, num_classes + 2)[1:-1])
            label = np.digitize(smooth, edges).astype(np.int8) - 1
        values = range(num_classes)
        labels = Labels(
            classes=tuple(LabelClass(name=str(value), value=value) for value in values),
            ignore=num_classes if ignore else None,
        )
        grid = CaseGrid(
            shape_before_crop=shape,
            crop_box=((0, shape[0]), (0, shape[1]), (0, shape[2])),
            shape_after_crop=shape,
            spacing_before_mm=(1.0, 1.0, 1.0),
            shape=shape,
            spacing_mm=(1.0, 1.0, 1.0),
        )
        case = PreprocessedCase(image_CZYX=image, labels_LZYX=label[None], grid=grid)
        return Store(tmp_path / "store").write(f"case_{seed}", case, "digest", sample_locations(label, labels))

    return make
