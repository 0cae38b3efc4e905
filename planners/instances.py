"""Which targets find a dataset's objects, and with which options: rules on what was measured of the objects.

The rules only name candidates; which of them predicts is decided by what they find out of fold. A target's code and
the meaning of its options are in ``autoseg/targets``; the little arithmetic that both need is here once more, since
planners know nothing but numbers (a test equates the two).

Source: the targets' papers as named there; rules and thresholds are our own proposals (assumptions) where no source
is named.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from planners.decision import Decision, axis_names, percent
from planners.fingerprint import InstanceStats
from planners.labels import Labels
from planners.plan import SizeScaling, Target

BACKGROUND_BELOW = 0.05
"""With less background tissue is dense: there are borders between objects, and hardly any around them (assumption)."""

TOUCHING_BELOW = 0.01
"""With fewer objects that touch another, components of the foreground are the objects (assumption)."""

COMPACT_DIAMETER, COMPACT_SOLIDITY = 6.0, 0.85
"""From so many voxels on, and so solid, an object has an inner part and a boundary worth learning (assumption)."""

WIDTH_SHARE = 0.06
"""Part of the median diameter that is boundary, on each side (``targets.instance_encoding.boundary_width``)."""

SMALLEST_SHARE = 1 / 3
"""Of the diameter that 5 % of the objects stay below: what is smaller is dropped. A ninth of their area, a 27th of
their volume: hardly ever an object (assumption; decided anew out of fold)."""

MOST_POINTS = 10
"""End points that a peak of a flow needs more of, where objects are large enough; Cellpose."""

USUAL_STEPS = 200
"""Steps that a flow is followed for, if that reaches across the large objects; Cellpose."""

NEAR, FAR = 1, 4
"""Voxels that affinities reach along each axis (``targets.affinity``)."""

THICK = 2.0
"""Along an axis so many times coarser than the finest, affinities reach as far in millimetres, not in voxels."""

NUM_OUTPUTS: dict[str, Callable[[Labels, Mapping[str, Any]], int]] = {
    "foreground": lambda labels, options: labels.num_classes,
    "boundary": lambda labels, options: labels.num_classes + (not options.get("dense", False)),
    "flow": lambda labels, options: options["dimensions"] + labels.num_classes - 1,
    "affinity": lambda labels, options: (
        len(options.get("offsets", range(2 * options["dimensions"]))) + labels.num_classes - 1
    ),
}
"""Outputs of the targets that the rules choose from (``Target.num_outputs``)."""


KNOWN_OPTIONS = {
    "foreground": (),
    "boundary": ("width", "weight", "dense"),
    "flow": (),
    "affinity": ("offsets",),
}
"""Options that each of them knows beside those of all, ``COMMON_OPTIONS`` (``InstanceTarget.known_options``)."""

COMMON_OPTIONS = ("dimensions", "spacing", "diameter", "decode")

IN_WORDS = {
    "foreground": "what is connected is one object",
    "boundary": "inner parts grow up to the boundaries between them",
    "flow": "every voxel points to the centre of its object",
    "affinity": "every voxel says which neighbours belong to its object",
}
"""How the targets find objects."""


@dataclass(frozen=True, kw_only=True)
class ObjectSizes:
    """How large objects are on a configuration's grid.

    Attributes:
        small, median, large: 5th, 50th and 95th percentile of their diameters, in voxels of the finest axis.
        spacing_mm: of the grid, two or three entries, in the plan's axis order.
    """

    small: float
    median: float
    large: float
    spacing_mm: tuple[float, ...]

    @property
    def dimensions(self) -> int:
        """2 or 3."""
        return len(self.spacing_mm)

    def voxels(self, diameter: float) -> float:
        """Count the voxels of a circle or ball of a diameter in voxels of the finest axis."""
        fine = diameter * min(self.spacing_mm)
        size = math.pi / 4 * fine**2 if self.dimensions == 2 else math.pi / 6 * fine**3
        return size / math.prod(self.spacing_mm)


def object_sizes(stats: InstanceStats, spacing_mm: Sequence[float], scaling: SizeScaling | None) -> ObjectSizes:
    """Give the sizes of objects on a grid, after images were brought to a common diameter where they are.

    Scaling leaves less spread than there was, but how much is not known; the same is assumed.
    """
    common = 1.0 if scaling is None else scaling.diameter_mm / stats.diameters_mm[1]
    small, median, large = (diameter * common / min(spacing_mm) for diameter in stats.diameters_mm)
    return ObjectSizes(small=small, median=median, large=large, spacing_mm=tuple(spacing_mm))


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """What the rules chose: the targets, the first preferred until folds have decided, and whether tissue is dense."""

    names: tuple[str, ...]
    dense: bool
    rule: str
    because: str


def choose_targets(stats: InstanceStats, sizes: ObjectSizes) -> Chosen:
    """Choose the targets to be trained."""
    if stats.background_fraction < BACKGROUND_BELOW:
        because = (
            f"{percent(stats.background_fraction)} of the voxels are background (< {percent(BACKGROUND_BELOW)}), so "
            "borders run between objects, not around them"
        )
        return Chosen(names=("boundary", "affinity"), dense=True, rule="dense-tissue", because=because)
    touching = f"{percent(stats.touching_fraction)} of the objects touch another"
    if stats.touching_fraction < TOUCHING_BELOW:
        because = f"{touching} (< {percent(TOUCHING_BELOW)})"
        return Chosen(names=("foreground",), dense=False, rule="objects-apart", because=because)
    large = sizes.median >= COMPACT_DIAMETER
    solid = stats.solidity >= COMPACT_SOLIDITY
    measured = (
        f"{touching} (≥ {percent(TOUCHING_BELOW)}); median diameter {sizes.median:.3g} voxels "
        f"({'≥' if large else '<'} {COMPACT_DIAMETER:g}), solidity {stats.solidity:.2f} "
        f"({'≥' if solid else '<'} {COMPACT_SOLIDITY:g})"
    )
    if large and solid:
        return Chosen(names=("boundary", "flow"), dense=False, rule="compact-objects", because=measured)
    return Chosen(names=("flow", "affinity"), dense=False, rule="any-shape", because=measured)


def boundary_width(median_diameter: float, small_diameter: float) -> int:
    """Give the width of a boundary in voxels of the finest axis; both diameters in the same."""
    return max(min(round(WIDTH_SHARE * median_diameter), math.ceil(small_diameter / 2) - 1), 1)


def count_outputs(target: Target, labels: Labels) -> int | None:
    """Count the outputs of a target of instances; None where the rules do not know it."""
    count, options = NUM_OUTPUTS.get(target.name), target.options
    if count is None or options.get("dimensions") not in (2, 3) or not isinstance(options.get("offsets", []), list):
        return None
    return count(labels, options)


def target_options(name: str, sizes: ObjectSizes, *, dense: bool = False) -> dict[str, Decision[Any]]:
    """Decide the options of a target.

    Args:
        name: of a target in ``NUM_OUTPUTS``; of any other, what all have in common is decided.
        sizes: of the objects.
        dense: there is hardly any background.

    Returns:
        Per option its decision; settings of the decoder as ``decode.NAME``.
    """
    shown = " × ".join(f"{value:.4g}" for value in sizes.spacing_mm)
    per_axis = f"of the preprocessed voxels along {', '.join(axis_names(sizes.dimensions))}: {shown} mm"
    common: dict[str, Decision[Any]] = {
        "dimensions": Decision(value=sizes.dimensions, rule="axes-of-the-patch", because="as many as the patch has"),
        "spacing": Decision(value=list(sizes.spacing_mm), rule="as-preprocessed", because=per_axis),
        "diameter": Decision(
            value=_digits(sizes.median),
            rule="median-diameter",
            because=f"the median object; 5 to 95 %: {sizes.small:.3g} to {sizes.large:.3g} voxels of the finest axis",
        ),
    }
    own = _OWN_OPTIONS.get(name, _smallest_alone)(sizes, dense)
    return {**common, **own}


def as_options(decisions: Mapping[str, Decision[Any]]) -> dict[str, Any]:
    """Write decided options as the plan holds them: settings of the decoder in a table of their own."""
    options: dict[str, Any] = {}
    for name, decision in decisions.items():
        table, _, setting = name.rpartition(".")
        (options.setdefault(table, {}) if table else options)[setting] = decision.value
    return options


def _smallest_alone(sizes: ObjectSizes, dense: bool) -> dict[str, Decision[Any]]:
    smallest = max(int(sizes.voxels(SMALLEST_SHARE * sizes.small)), 1)
    because = (
        f"a third of the diameter that 5 % of the objects stay below ({sizes.small:.3g} voxels), until folds say more"
    )
    return {"decode.smallest": Decision(value=smallest, rule="third-of-the-small", because=because)}


def _boundary_options(sizes: ObjectSizes, dense: bool) -> dict[str, Decision[Any]]:
    width = boundary_width(sizes.median, sizes.small)
    share = f"{percent(WIDTH_SHARE)} of the median diameter {sizes.median:.3g}, at least 1"
    if width < round(WIDTH_SHARE * sizes.median):
        share = f"less than {share}: objects of {sizes.small:.3g} voxels keep an inner part"
    own: dict[str, Decision[Any]] = {"width": Decision(value=width, rule="share-of-diameter", because=share)}
    if dense:
        filled = "there is no background to tell from a boundary: both are one output, and objects fill the image"
        own["dense"] = Decision(value=True, rule="dense-tissue", because=filled)
    return {**own, **_smallest_alone(sizes, dense)}


def _flow_options(sizes: ObjectSizes, dense: bool) -> dict[str, Decision[Any]]:
    own = _smallest_alone(sizes, dense)
    smallest = own["decode.smallest"].value
    points = min(MOST_POINTS, smallest - 1)
    because = f"fewer than the {smallest} voxels of the smallest object, at most {MOST_POINTS}"
    own["decode.least_points"] = Decision(value=points, rule="points-of-the-smallest", because=because)
    steps = math.ceil(2 * sizes.large)
    if steps > USUAL_STEPS:
        because = f"twice the diameter that 95 % of the objects stay below ({sizes.large:.4g} voxels)"
        own["decode.steps"] = Decision(value=steps, rule="steps-to-the-centre", because=because)
    return own


def _affinity_options(sizes: ObjectSizes, dense: bool) -> dict[str, Decision[Any]]:
    own = _smallest_alone(sizes, dense)
    unit = [value / min(sizes.spacing_mm) for value in sizes.spacing_mm]
    if max(unit) < THICK:
        return own
    far = [max(round(FAR / thickness), NEAR) if thickness >= THICK else FAR for thickness in unit]
    offsets = [_along(axis, NEAR, len(unit)) for axis in range(len(unit))]
    offsets += [_along(axis, step, len(unit)) for axis, step in enumerate(far) if step > NEAR]
    because = f"the nearest along every axis, and as far as {FAR} voxels of the finest axis along each"
    own["offsets"] = Decision(value=offsets, rule="as-far-in-millimetres", because=because)
    return own


def _along(axis: int, step: int, dimensions: int) -> list[int]:
    return [step if other == axis else 0 for other in range(dimensions)]


def _digits(value: float) -> float:
    return float(f"{value:.4g}")


_OWN_OPTIONS: dict[str, Callable[[ObjectSizes, bool], dict[str, Decision[Any]]]] = {
    "boundary": _boundary_options,
    "flow": _flow_options,
    "affinity": _affinity_options,
}
