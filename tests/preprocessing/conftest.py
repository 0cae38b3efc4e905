"""A small plan to vary: one configuration, with only what preprocessing reads made to order."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from planners.fingerprint import Channel, Intensities
from planners.labels import LabelClass, Labels
from planners.plan import Architecture, Configuration, Input, MemoryBudget, Output, Plan, Resampling, Stage, Target
from planners.plan import Training as TrainingRecord

PlanMaker = Callable[..., tuple[Plan, Configuration]]


def _configuration(spacing_mm: tuple[float, ...], num_channels: int, num_classes: int) -> Configuration:
    dimensions = len(spacing_mm)
    stage = Stage(features=4, kernel=(3,) * dimensions, stride=(1,) * dimensions, num_blocks=1)
    architecture = Architecture(
        family="plain-unet",
        dimensions=dimensions,
        stages=(stage,),
        num_decoder_blocks=(),
        outputs=(Output(stride=(1,) * dimensions, loss_weight=1.0),),
    )
    return Configuration(
        name="2d" if dimensions == 2 else "3d_fullres",
        inputs=(Input(channels=num_channels),),
        spacing_mm=spacing_mm,
        median_shape=(8.0,) * dimensions,
        patch_size=(8,) * dimensions,
        output_size=(8,) * dimensions,
        batch_size=2,
        normalization=("zscore",) * num_channels,
        use_mask_for_norm=(False,) * num_channels,
        resampling=Resampling(),
        target=Target(name="semantic", num_outputs=num_classes),
        architecture=architecture,
        training=TrainingRecord(mirror_axes=tuple(range(dimensions))),
        estimated_bytes=0,
    )


@pytest.fixture(scope="session")
def make_plan() -> PlanMaker:
    """Give a function that makes a plan and its configuration from spacing, axis order, normalization and labels."""

    def make(
        spacing_mm: tuple[float, ...] = (1.0, 1.0, 1.0),
        *,
        axis_order: tuple[int, int, int] = (0, 1, 2),
        intensities: tuple[Intensities | None, ...] = (None,),
        labels: Labels | None = None,
        **fields: Any,
    ) -> tuple[Plan, Configuration]:
        names = ("background", "one", "two", "three")
        labels = labels or Labels(classes=tuple(LabelClass(name=name, value=i) for i, name in enumerate(names)))
        configuration = _configuration(spacing_mm, len(intensities), labels.num_classes)
        configuration = dataclasses.replace(configuration, **fields)
        plan = Plan(
            dataset="test",
            planner="default",
            budget=MemoryBudget(),
            axis_order=axis_order,
            channels=tuple(Channel(name=f"c{i}", intensities=item) for i, item in enumerate(intensities)),
            labels=labels,
            configurations=(configuration,),
        )
        return plan, configuration

    return make
