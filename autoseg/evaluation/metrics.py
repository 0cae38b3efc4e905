"""Metrics: the table of all that can be measured of one structure in one case, and the metrics that are only counted.

A metric looks at a ``Pair`` and gives a number, or None where it is not defined (its docstring says when). What then
stands in the table is for the protocol to say. A name may carry a parameter: ``nsd@2`` has a tolerance of 2 mm.
"""

import dataclasses
import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from autoseg.errors import OptionError
from autoseg.evaluation.metric_options import FACES, FULL, MetricOptions
from autoseg.evaluation.pairs import Pair
from autoseg.extensions import find

__all__ = ["FACES", "FULL", "METRICS", "Counts", "Measure", "Metric", "MetricOptions", "parse_metric", "parse_metrics"]

Compute = Callable[[Pair, MetricOptions], float | None]
Better = Literal["higher", "lower", "zero", "neither"]


class Counts(NamedTuple):
    """Voxels of one structure in one case: in both masks, in the prediction, in the label; and a voxel's volume."""

    num_both: int
    num_predicted: int
    num_labelled: int
    voxel_mm3: float


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric.

    Attributes:
        name: on the command line and in the table.
        title: for people.
        unit: ``mm``, ``mm³`` (of a 2D image mm²) or nothing.
        better: which way it improves; ``neither`` where it says nothing of quality.
        symmetric: whether label and prediction may change places.
        compute: measures a pair.
        count: gives the same from counts alone, where that is enough; no mask is then made.
        parameter: the option that ``name@number`` sets; None: the name takes no number.
        pooled: counts the voxels of all cases together; a single case has no value in the table.
    """

    name: str
    title: str
    unit: str
    better: Better
    symmetric: bool
    compute: Compute
    count: Callable[[Counts], float | None] | None = None
    parameter: str | None = None
    pooled: bool = False


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A metric as somebody asked for it: the name with its parameter, and the options that the parameter sets."""

    name: str
    metric: Metric
    parameters: tuple[tuple[str, float], ...] = ()

    def options(self, base: MetricOptions) -> MetricOptions:
        """Give the options of a structure with what the name itself says."""
        changes: dict[str, Any] = dict(self.parameters)
        return dataclasses.replace(base, **changes) if changes else base


def dice(counts: Counts) -> float | None:
    """Measure the overlap: twice the voxels in both over the sum of both; 0 … 1.

    None where both are empty; 0 where one is. Source: Dice, Measures of the amount of ecologic association, 1945.
    """
    return _ratio(2 * counts.num_both, counts.num_predicted + counts.num_labelled)


def iou(counts: Counts) -> float | None:
    """Measure the overlap: voxels in both over voxels in either; 0 … 1, Dice / (2 − Dice).

    None where both are empty; 0 where one is. Source: Jaccard, The distribution of the flora, 1912.
    """
    return _ratio(counts.num_both, counts.num_predicted + counts.num_labelled - counts.num_both)


def precision(counts: Counts) -> float | None:
    """Say which part of the prediction is right: voxels in both over those of the prediction; 0 … 1.

    None where the prediction is empty; 0 where the label alone is.
    """
    return _ratio(counts.num_both, counts.num_predicted)


def recall(counts: Counts) -> float | None:
    """Say which part of the label is found (sensitivity): voxels in both over those of the label; 0 … 1.

    None where the label is empty; 0 where the prediction alone is.
    """
    return _ratio(counts.num_both, counts.num_labelled)


def volume(counts: Counts) -> float:
    """Give the volume of the prediction in mm³ (of a 2D image its area in mm²); always defined, 0 where it is empty."""
    return counts.num_predicted * counts.voxel_mm3


def volume_error(counts: Counts) -> float:
    """Give prediction minus label in mm³ (2D: mm²); always defined. Negative: too small."""
    return (counts.num_predicted - counts.num_labelled) * counts.voxel_mm3


def relative_volume_error(counts: Counts) -> float | None:
    """Give prediction minus label as a part of the label: −1 where all is missed; None where the label is empty."""
    return _ratio(counts.num_predicted - counts.num_labelled, counts.num_labelled)


def count_pair(pair: Pair) -> Counts:
    """Count the voxels of a pair."""
    return Counts(
        num_both=int((pair.label & pair.prediction).sum()),
        num_predicted=int(pair.prediction.sum()),
        num_labelled=int(pair.label.sum()),
        voxel_mm3=pair.voxel_mm3,
    )


def parse_metrics(names: Sequence[str]) -> tuple[Measure, ...]:
    """Read names of metrics as a user writes them; a name that is there twice counts once.

    Raises:
        OptionError: a name is unknown (the nearest is suggested), or its parameter is wrong.
    """
    return tuple({name: parse_metric(name) for name in names}.values())


def parse_metric(name: str) -> Measure:
    """Read one name, such as ``dice`` or ``nsd@2``.

    Raises:
        OptionError: the name is unknown (the nearest is suggested), or its parameter is wrong.
    """
    base, at, number = name.strip().partition("@")
    metric = find(METRICS, "metric", base)
    if not at:
        return Measure(name=base, metric=metric)
    if metric.parameter is None:
        takes = ", ".join(f"{other.name}@…" for other in METRICS.values() if other.parameter)
        raise OptionError(f"metric {base} takes no number, found {name!r}; write {base} (with a number: {takes})")
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise OptionError(f"metric {name!r}: {number!r} is no number from 0 up; write it like {base}@2")
    return Measure(name=f"{base}@{value:g}", metric=metric, parameters=((metric.parameter, value),))


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _counted(count: Callable[[Counts], float | None]) -> Compute:
    return lambda pair, options: count(count_pair(pair))


def _later(module: str, name: str) -> Compute:
    """Give a function of ``autoseg.evaluation`` that is imported when first needed: scipy takes time to load."""

    def compute(pair: Pair, options: MetricOptions) -> float | None:
        function: Compute = getattr(importlib.import_module(f"autoseg.evaluation.{module}"), name)
        return function(pair, options)

    return compute


def _count_metric(count: Callable[[Counts], float | None], title: str, better: Better, unit: str = "") -> Metric:
    symmetric = count in (dice, iou)
    return Metric(
        name=count.__name__,
        title=title,
        unit=unit,
        better=better,
        symmetric=symmetric,
        compute=_counted(count),
        count=count,
    )


def _metric(name: str, module: str, title: str, better: Better, unit: str = "", symmetric: bool = True) -> Metric:
    return Metric(name=name, title=title, unit=unit, better=better, symmetric=symmetric, compute=_later(module, name))


METRICS: dict[str, Metric] = {
    "dice": _count_metric(dice, "Dice", "higher"),
    "iou": _count_metric(iou, "IoU", "higher"),
    "precision": _count_metric(precision, "precision", "higher"),
    "recall": _count_metric(recall, "recall", "higher"),
    "volume": _count_metric(volume, "volume", "neither", "mm³"),
    "volume_error": _count_metric(volume_error, "volume error", "zero", "mm³"),
    "relative_volume_error": _count_metric(relative_volume_error, "relative volume error", "zero"),
    "pooled_dice": dataclasses.replace(_count_metric(dice, "pooled Dice", "higher"), name="pooled_dice", pooled=True),
    "hd": _metric("hd", "surface", "HD", "lower", "mm"),
    "hd95": _metric("hd95", "surface", "HD95", "lower", "mm"),
    "assd": _metric("assd", "surface", "ASSD", "lower", "mm"),
    "border_hd": _metric("border_hd", "voxel_borders", "HD, border voxels", "lower", "mm"),
    "border_hd95": _metric("border_hd95", "voxel_borders", "HD95, border voxels", "lower", "mm"),
    "border_assd": _metric("border_assd", "voxel_borders", "ASSD, border voxels", "lower", "mm"),
    "nsd": dataclasses.replace(_metric("nsd", "surface", "NSD", "higher"), parameter="tolerance_mm"),
    "boundary_iou": dataclasses.replace(
        _metric("boundary_iou", "boundary", "boundary IoU", "higher"), parameter="boundary_fraction"
    ),
    "cldice": _metric("cldice", "skeleton", "centerline Dice", "higher"),
    "lesion_f1": _metric("lesion_f1", "lesions", "lesion-wise F1", "higher", symmetric=False),
    "lesion_precision": _metric("lesion_precision", "lesions", "lesion-wise precision", "higher", symmetric=False),
    "lesion_recall": _metric("lesion_recall", "lesions", "lesion-wise recall", "higher", symmetric=False),
    "lesion_dice": _metric("lesion_dice", "lesions", "lesion-wise Dice", "higher", symmetric=False),
    "lesion_hd95": _metric("lesion_hd95", "lesions", "lesion-wise HD95", "lower", "mm", symmetric=False),
}
"""Every metric by its name. ``relative_volume_error`` is a fraction: 0.1 means a tenth too much."""
