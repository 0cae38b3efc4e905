"""A small plan to vary: one configuration, with only what preprocessing reads made to order."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from planners.fingerprint import Channel, Intensities
from planners.labels import LabelClass, Labels
from planners.plan import Configuration, MemoryBudget, Plan

sys.path.insert(0, str(Path(__file__).parent))  # the modules beside this file; tests are no package

PlanMaker = Callable[..., tuple[Plan, Configuration]]


@pytest.fixture(scope="session")
def make_plan(make_configuration: Callable[..., Configuration]) -> PlanMaker:
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
        dimensions = len(spacing_mm)
        settings: dict[str, Any] = {
            "name": "2d" if dimensions == 2 else "3d_fullres",
            "spacing_mm": spacing_mm,
            "num_channels": len(intensities),
            "num_outputs": labels.num_classes,
            **fields,
        }
        configuration = make_configuration((8,) * dimensions, **settings)
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
