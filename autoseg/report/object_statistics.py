"""Object statistics: the facts about objects that a run was planned from, and decode settings in words."""

import statistics
from collections.abc import Mapping
from typing import Any

from autoseg.data.check_problem import count
from autoseg.report.charts import number_text
from autoseg.report.material import Material
from autoseg.report.object_charts import size_text
from autoseg.report.object_facts import length_unit, share
from planners.fingerprint import InstanceStats

SETTINGS = {
    "foreground": "foreground above {}",
    "seed": "seeds above {}",
    "bridge": "bridges up to {} voxels wide, as trained, join nothing",
    "join": "fragments joined above {}",
    "steps": "{} steps along the flow",
    "least_points": "peaks of more than {} end points",
    "largest_error": "flow error up to {}",
    "smallest": "no object below {} voxels as trained",
}
"""Settings of decoders in words, in the order in which they are told; others are told by their names. Voxels are those
of the preprocessed grid, on which objects are found: of other spacing than the image's, and of another size where
images are scaled to objects of one size."""

Row = tuple[str, str, str]
"""Title, value, what it means."""


def decode_text(settings: Mapping[str, Any]) -> str:
    """Word settings of a decoder; empty where there are none."""
    known = [words.format(_number(settings[name])) for name, words in SETTINGS.items() if name in settings]
    return ", ".join([*known, *(f"{name} {_number(settings[name])}" for name in settings if name not in SETTINGS)])


def settings_text(material: Material) -> str:
    """Word the settings with which new images are decoded: the plan's, and those that were fitted; empty: no choice."""
    choice, plan = material.choice, material.plan
    if choice is None or plan is None or not material.finds_objects:
        return ""
    chosen = [item for item in plan.configurations if item.name in choice.configurations]
    planned = chosen[0].target.options.get("decode", {}) if chosen else {}
    return decode_text({**planned, **choice.decode}) or "the settings as planned"


def _number(value: Any) -> str:
    return number_text(value) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def statistics_rows(material: Material) -> tuple[Row, ...]:
    """Lay out what was measured of the annotated objects; empty where nothing was."""
    stats = material.fingerprint.instances if material.fingerprint is not None else None
    if stats is None:
        return ()
    unit = length_unit(material)
    low, middle, high = stats.diameters_mm
    found = f"{size_text(middle)} {unit}; 90 % between {size_text(low)} and {size_text(high)}"
    return (
        ("objects", *_counted(stats)),
        ("diameter", found, "median over all objects; of the circle (in volumes the ball) of equal size"),
        *_spread(stats, unit),
        ("touching", share_text(stats.touching_fraction), "have a voxel next to another object's"),
        ("solidity", f"{stats.solidity:.2f}", "median of their voxels / those of their convex hull; 1 is convex"),
        ("elongation", f"{stats.elongation:.2f}", "median of the longest / the second longest axis; 1 is round"),
        ("background", share_text(stats.background_fraction), "of all voxels belong to no object and no class"),
    )


def _counted(stats: InstanceStats) -> tuple[str, str]:
    counts = [item.count for item in stats.cases]
    if not counts:
        return "–", ""
    value = f"{sum(counts):,} in {count(len(counts), 'case')}"
    per_case = f"per case {min(counts):,} to {max(counts):,}, median {number_text(statistics.median(counts))}"
    empty = counts.count(0)
    return value, per_case + (f"; {empty} without any" if empty else "")


def _spread(stats: InstanceStats, unit: str) -> tuple[Row, ...]:
    medians = sorted(item.diameter_mm for item in stats.cases if item.diameter_mm)
    if len(medians) < 2:
        return ()
    text = f"{size_text(medians[0])} to {size_text(medians[-1])} {unit}"
    ratio = f"{medians[-1] / medians[0]:.1f}".removesuffix(".0")
    return (("by case", text, f"the median diameter of a case; they differ by up to {ratio} times"),)


def share_text(fraction: float) -> str:
    """Write a fraction in percent."""
    return share(round(fraction * 1_000_000), 1_000_000)
