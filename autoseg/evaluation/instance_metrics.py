"""Instance metrics: the table of all that can be measured of the objects of an image, and the presets of challenges."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from autoseg.errors import OptionError
from autoseg.evaluation import matching, partition
from autoseg.evaluation.contingency import Contingency
from autoseg.evaluation.matching import Parts
from autoseg.extensions import find

CURVE = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
"""IoU thresholds of the curves of AP and F1. Source: Lin et al., Microsoft COCO (2014), whose steps the field took."""

Better = Literal["higher", "lower", "zero"]


@dataclass(frozen=True, kw_only=True)
class InstanceMetric:
    """One metric of objects.

    Attributes:
        name: on the command line and in the table.
        title: for people.
        better: which way it improves.
        compute: gives the parts of one image from its table, and from the IoU threshold where it has one.
        has_threshold: ``name@0.75`` sets the threshold; without number it is the mean over ``CURVE``.
        unit: ``bits``, ``objects`` or nothing.
        lowest: where the parts give less, this is the value.
        pooled: whether adding up the parts of several images says more than the mean.
    """

    name: str
    title: str
    better: Better
    compute: Callable[..., Parts]
    has_threshold: bool = False
    unit: str = ""
    lowest: float = -math.inf
    pooled: bool = True


@dataclass(frozen=True, kw_only=True)
class InstanceMeasure:
    """A metric as somebody asked for it.

    Attributes:
        name: with its threshold, such as ``ap@0.5``.
        metric: what is measured.
        thresholds: at which it is measured; the value is the mean over them. Empty: it has none.
    """

    name: str
    metric: InstanceMetric
    thresholds: tuple[float, ...] = ()

    @property
    def title(self) -> str:
        """For the head of a column: ``AP @ 0.5``."""
        if not self.thresholds:
            return self.metric.title + (f" [{self.metric.unit}]" if self.metric.unit else "")
        ends = f"{self.thresholds[0]:g}" + (f"…{self.thresholds[-1]:g}" if len(self.thresholds) > 1 else "")
        return f"{self.metric.title} @ {ends}"

    def parts(self, table: Contingency) -> tuple[Parts, ...]:
        """Measure one image: the parts for each threshold, or those of a metric that has none."""
        if not self.thresholds:
            return (self.metric.compute(table),)
        return tuple(self.metric.compute(table, threshold) for threshold in self.thresholds)

    def value(self, parts: Iterable[Parts]) -> float | None:
        """Give the score of parts, the mean over thresholds; None where it is not defined."""
        found = list(parts)
        if any(not part.bottom for part in found):
            return None
        return math.fsum(max(part.top / part.bottom, self.metric.lowest) for part in found) / len(found)

    def pool(self, images: Sequence[tuple[Parts, ...]]) -> float | None:
        """Give the score of several images, their parts added up; None where it is not defined, or says no more."""
        if not self.metric.pooled or not images:
            return None
        columns = zip(*images, strict=True)
        return self.value(
            Parts(math.fsum(part.top for part in column), math.fsum(part.bottom for part in column))
            for column in columns
        )


@dataclass(frozen=True, kw_only=True)
class InstanceProtocol:
    """Rules by which instances are measured, such as a challenge's.

    Attributes:
        name: on the command line and in the records.
        title: for people.
        sources: where the rules are published.
        metrics: names as of ``parse_instance_metrics``.
        summary: the number that is published: of images the ``mean`` or the ``median``, or ``pooled`` over them.
        frame: objects of either map that touch the outermost voxels, so many, are deleted before anything is counted.
        tile: images of ``tile_from`` pixels and more are cut into squares of so many pixels, each with its own frame;
            0: never.
        tile_from: see ``tile``.
        flat: for 2D images only.
        digits: to which the value of an image is rounded; None: it is not.
        undefined: what stands where a metric is not defined; None: the image is left out of the mean.
        prefixes: beginnings of file names that are taken off before label and prediction are matched by name.
        labels_may_lack: predictions without label are no fault.
        differs: what is knowingly not done as the organisers do it.
    """

    name: str
    title: str
    metrics: tuple[str, ...]
    sources: tuple[str, ...] = ()
    summary: Literal["mean", "median", "pooled"] = "mean"
    frame: int = 0
    tile: int = 0
    tile_from: int = 0
    flat: bool = False
    digits: int | None = None
    undefined: float | None = None
    prefixes: tuple[str, ...] = ()
    labels_may_lack: bool = False
    differs: tuple[str, ...] = ()


def _metric(name: str, title: str, compute: Callable[..., Parts], better: Better = "higher", **more: Any) -> Any:
    return name, InstanceMetric(name=name, title=title, better=better, compute=compute, **more)


INSTANCE_METRICS: dict[str, InstanceMetric] = dict(
    [
        _metric("ap", "AP", matching.average_precision, has_threshold=True),
        _metric("f1", "F1", matching.f1, has_threshold=True),
        _metric("precision", "precision", matching.precision, has_threshold=True),
        _metric("recall", "recall", matching.recall, has_threshold=True),
        _metric("pq", "PQ", matching.panoptic_quality),
        _metric("sq", "SQ", matching.segmentation_quality),
        _metric("rq", "RQ", matching.recognition_quality),
        _metric("seg", "SEG", matching.seg),
        _metric("det", "DET", matching.det, lowest=0.0),
        _metric("aji", "AJI", matching.aggregated_jaccard),
        _metric("arand", "ARAND", partition.adapted_rand_error, "lower"),
        _metric("voi", "VOI", partition.voi, "lower", unit="bits"),
        _metric("voi_split", "VOI split", partition.voi_split, "lower", unit="bits"),
        _metric("voi_merge", "VOI merge", partition.voi_merge, "lower", unit="bits"),
        _metric("count_error", "count error", matching.count_error, "zero", unit="objects", pooled=False),
        _metric(
            "count_difference", "count difference", matching.count_difference, "lower", unit="objects", pooled=False
        ),
    ]
)

INSTANCE_PROTOCOLS: dict[str, InstanceProtocol] = {
    item.name: item
    for item in (
        InstanceProtocol(
            name="default",
            title="objects found, outlined and counted",
            metrics=("ap@0.5", "ap@0.75", "ap@0.9", "ap", "f1@0.5", "pq", "aji", "count_error", "count_difference"),
        ),
        InstanceProtocol(
            name="neurips22",
            title="NeurIPS 2022 cell segmentation challenge",
            sources=(
                "https://github.com/JunMa11/NeurIPS-CellSeg/blob/3128e96/baseline/compute_metric.py",
                "https://doi.org/10.1038/s41592-024-02233-6",
            ),
            metrics=("f1@0.5",),
            summary="median",
            frame=2,
            tile=2000,
            tile_from=25_000_000,
            flat=True,
            digits=4,
            undefined=0.0,
        ),
        InstanceProtocol(
            name="ctc",
            title="Cell Tracking Challenge: segmentation and detection",
            sources=("http://celltrackingchallenge.net/evaluation-methodology", "py-ctcmetrics 1.3.3"),
            metrics=("seg", "det"),
            summary="pooled",
            prefixes=("man_seg", "man_track", "mask"),
            labels_may_lack=True,
            differs=(
                "an image without prediction is named and left out; the challenge counts its objects as missed",
                "single slices of 3D labels (man_seg_TTT_ZZZ.tif) are not matched with their volumes",
            ),
        ),
    )
}


def find_instance_protocol(name: str | None) -> InstanceProtocol:
    """Find a preset; None is ``default``.

    Raises:
        OptionError: none has that name; the nearest is suggested.
    """
    return find(INSTANCE_PROTOCOLS, "instance protocol", name or "default")


def parse_instance_metrics(names: Sequence[str]) -> tuple[InstanceMeasure, ...]:
    """Read names of metrics as a user writes them, such as ``ap@0.75`` or ``pq``; what is there twice counts once.

    Raises:
        OptionError: a name is unknown (the nearest is suggested), or its threshold is no IoU.
    """
    return tuple({measure.name: measure for measure in map(_parse, names)}.values())


def _parse(name: str) -> InstanceMeasure:
    base, at, number = name.strip().partition("@")
    metric = find(INSTANCE_METRICS, "instance metric", base)
    if not at:
        return InstanceMeasure(name=base, metric=metric, thresholds=CURVE if metric.has_threshold else ())
    if not metric.has_threshold:
        takes = ", ".join(f"{other.name}@…" for other in INSTANCE_METRICS.values() if other.has_threshold)
        raise OptionError(f"metric {base} takes no threshold, found {name!r}; write {base} (with a threshold: {takes})")
    try:
        threshold = float(number)
    except ValueError:
        threshold = math.nan
    if not 0 < threshold <= 1:
        raise OptionError(f"metric {name!r}: {number!r} is no IoU above 0, at most 1; write it like {base}@0.5")
    return InstanceMeasure(name=f"{base}@{threshold:g}", metric=metric, thresholds=(threshold,))
