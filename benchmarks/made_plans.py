"""Plans and grids made in code, of the sizes that benchmarks need. Not a script."""

from collections.abc import Sequence

import numpy as np

from autoseg.inference.export import LogitsPart
from autoseg.preprocessing.cropping import full_box
from autoseg.preprocessing.preprocess import CaseGrid
from planners.fingerprint import Channel, Shape
from planners.labels import LabelClass, Labels
from planners.plan import (
    Architecture,
    Configuration,
    Input,
    MemoryBudget,
    Output,
    Plan,
    Resampling,
    Stage,
    Target,
    Training,
)


def make_configuration(
    patch: tuple[int, ...],
    features: int,
    num_stages: int,
    num_outputs: int,
    *,
    most_features: int = 320,
    num_blocks: int = 2,
) -> Configuration:
    """Make a plain U-Net's configuration at 1 mm; its features are doubled at every stage up to the most."""
    dimensions = len(patch)
    ones, twos, threes = (1,) * dimensions, (2,) * dimensions, (3,) * dimensions
    stages = tuple(
        Stage(
            features=min(features * 2**index, most_features),
            kernel=threes,
            stride=twos if index else ones,
            num_blocks=num_blocks,
        )
        for index in range(num_stages)
    )
    architecture = Architecture(
        family="plain-unet",
        dimensions=dimensions,
        stages=stages,
        num_decoder_blocks=(num_blocks,) * (num_stages - 1),
        outputs=(Output(stride=ones, loss_weight=1.0),),
    )
    return Configuration(
        name="benchmark",
        inputs=(Input(channels=1),),
        spacing_mm=(1.0,) * dimensions,
        median_shape=tuple(map(float, patch)),
        patch_size=patch,
        output_size=patch,
        batch_size=2,
        normalization=("zscore",),
        use_mask_for_norm=(False,),
        resampling=Resampling(),
        target=Target(name="semantic", num_outputs=num_outputs),
        architecture=architecture,
        training=Training(mirror_axes=tuple(range(dimensions))),
        estimated_bytes=0,
    )


def make_plan(configuration: Configuration) -> Plan:
    classes = tuple(LabelClass(name=str(index), value=index) for index in range(configuration.target.num_outputs))
    return Plan(
        dataset="benchmark",
        planner="default",
        budget=MemoryBudget(),
        axis_order=(0, 1, 2),
        channels=(Channel(name="made in code"),),
        labels=Labels(classes=classes),
        configurations=(configuration,),
    )


def make_part(logits: np.ndarray, shape: Shape) -> LogitsPart:
    """Lay logits over an image of more voxels, without a crop."""
    return LogitsPart(
        logits_KZYX=logits,
        grid=CaseGrid(
            shape_before_crop=shape,
            crop_box=full_box(shape),
            shape_after_crop=shape,
            spacing_before_mm=spacing_of(logits.shape[1:], shape),
            shape=logits.shape[1:],
            spacing_mm=(1.0, 1.0, 1.0),
        ),
        resampling=Resampling(),
    )


def spacing_of(shape: Sequence[int], new_shape: Sequence[int]) -> tuple[float, float, float]:
    """Give the spacing of a grid over the extent of one with voxels of 1 mm."""
    z, y, x = (old / new for old, new in zip(shape, new_shape, strict=True))
    return z, y, x
