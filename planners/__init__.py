"""Rules that turn a fingerprint and a memory budget into a plan: arithmetic on the standard library and numpy."""

from collections.abc import Callable
from functools import partial

from planners.fingerprint import Channel, Fingerprint, Intensities
from planners.labels import LabelClass, Labels, Region
from planners.plan import Configuration, MemoryBudget, Plan, Reason
from planners.presets import RESENC_L, RESENC_M, RESENC_XL
from planners.records import PlanError, RecordError
from planners.unet import plan_default, plan_unet

Planner = Callable[[Fingerprint, MemoryBudget], Plan]
"""A planner: facts and a budget in, decisions out. It raises PlanError where no plan is possible."""

PLANNERS: dict[str, Planner] = {
    "default": plan_default,
    "resenc-m": partial(plan_unet, RESENC_M),
    "resenc-l": partial(plan_unet, RESENC_L),
    "resenc-xl": partial(plan_unet, RESENC_XL),
}
"""All planners, by the name that ``--planner`` takes."""

__all__ = [
    "PLANNERS",
    "Channel",
    "Configuration",
    "Fingerprint",
    "Intensities",
    "LabelClass",
    "Labels",
    "MemoryBudget",
    "Plan",
    "PlanError",
    "Planner",
    "Reason",
    "RecordError",
    "Region",
]
