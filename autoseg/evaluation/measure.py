"""Measuring: one case by a protocol's rules, and the table of many cases.

Only what is asked for is done: metrics that voxel counts decide (Dice, volumes) are taken from one joint histogram of
label and prediction, and masks are made for the others alone, cropped to where a structure lies.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from autoseg.evaluation.metric_options import MetricOptions
from autoseg.evaluation.metric_records import CaseMetrics, MetricTable
from autoseg.evaluation.metrics import Counts, Measure, count_pair, parse_metrics
from autoseg.evaluation.overlap import CasePrediction, Structure, joint_histogram
from autoseg.evaluation.pairs import Pair, make_pair, make_pairs
from autoseg.evaluation.protocol_records import (
    EMPTY_BOTH,
    EMPTY_LABEL,
    EMPTY_PREDICTION,
    NOT_ANNOTATED,
    NOT_EMPTY,
    Fallback,
    Protocol,
    ProtocolStructure,
)

BACKGROUND = 0
LEFT_OUT = Fallback()


@dataclass(frozen=True, kw_only=True)
class Ruler:
    """What is measured, and by which rules.

    Attributes:
        protocol: the rules.
        structures: what is measured, by inner class indices.
        measures: the metrics.
    """

    protocol: Protocol
    structures: tuple[Structure, ...]
    measures: tuple[Measure, ...]

    @property
    def needs_masks(self) -> bool:
        """Whether voxel counts are not enough."""
        sliced = any(item.labelled_slices for item in self.protocol.structures)
        return sliced or any(measure.metric.count is None for measure in self.measures)

    def measure(
        self,
        item: CasePrediction,
        spacing_mm: Sequence[float],
        ignore_index: int | None = None,
        histogram: np.ndarray | None = None,
    ) -> CaseMetrics:
        """Measure one case; arguments as of ``measure_case``, and the joint histogram where it is at hand."""
        if histogram is None:
            highest = max([0, *(index for structure in self.structures for index in structure.classes)])
            num_classes = max(highest, int(item.label.max()), int(item.prediction.max())) + 1
            histogram = joint_histogram(item.label, item.prediction, num_classes, ignore_index)
        is_flat = item.label.shape[0] == 1
        label, prediction = (array[0] if is_flat else array for array in (item.label, item.prediction))
        spacing_mm = tuple(float(value) for value in (spacing_mm[1:] if is_flat else spacing_mm))
        pairs: Iterable[Pair] = itertools.repeat(_no_pair(label.shape, spacing_mm))
        if self.needs_masks:
            pairs = make_pairs(label, prediction, self.structures, spacing_mm, ignore_index)
        rows = [
            self._row(structure, _counts(structure, histogram, spacing_mm), pair, item.annotated)
            for structure, pair in zip(self.structures, pairs, strict=False)
        ]
        return CaseMetrics(
            case=item.case,
            values=tuple(values for values, _, _ in rows),
            empty=tuple(empty for _, empty, _ in rows),
            counts=tuple(counts for _, _, counts in rows),
        )

    def _row(
        self, structure: Structure, counts: Counts, pair: Pair, annotated: Sequence[int] | None
    ) -> tuple[tuple[float | None, ...], str, tuple[int, int, int]]:
        if not _is_annotated(structure, annotated):
            return (None,) * len(self.measures), NOT_ANNOTATED, (0, 0, 0)
        subject = _Subject(all_counts=counts, rules=self.protocol.structure(structure.name), whole_pair=pair)
        return (
            tuple(self._value(measure, subject) for measure in self.measures),
            subject.empty,
            (counts.num_both, counts.num_predicted, counts.num_labelled),
        )

    def _value(self, measure: Measure, subject: "_Subject") -> float | None:
        metric = measure.metric
        if metric.pooled:
            return None
        options = measure.options(_options(self.protocol, subject.rules))
        if metric.count is not None:
            value = metric.count(subject.counts)
        elif metric.name == "nsd" and self._is_too_low(subject.counts):
            value = 0.0
        else:
            value = metric.compute(subject.pair, options)
        if value is None:
            return self.protocol.fallbacks.get(metric.name, LEFT_OUT).value(subject.empty)
        return float(value)

    def _is_too_low(self, counts: Counts) -> bool:
        limit = self.protocol.nsd_zero_below_dice
        either = counts.num_predicted + counts.num_labelled
        return limit is not None and either > 0 and 2 * counts.num_both / either < limit


def measure_case(
    item: CasePrediction,
    structures: Sequence[Structure],
    spacing_mm: Sequence[float],
    protocol: Protocol,
    metrics: Sequence[str] = (),
    ignore_index: int | None = None,
) -> CaseMetrics:
    """Measure one case by a protocol's rules.

    Args:
        item: maps of inner class indices (z, y, x); a z of length 1 is a 2D image. A structure of which the case has
            not been annotated for all classes has no values.
        structures: what is measured; a protocol's own from ``protocols.structures_for``.
        spacing_mm: z, y, x; of a 2D image z is not looked at.
        protocol: the rules.
        metrics: names; empty: the protocol's.
        ignore_index: voxels with this label count neither in the label nor in the prediction.

    Raises:
        OptionError: a metric is unknown.
        ValueError: the shapes differ.
    """
    return ruler_for(structures, protocol, metrics).measure(item, spacing_mm, ignore_index)


def ruler_for(structures: Sequence[Structure], protocol: Protocol, metrics: Sequence[str] = ()) -> Ruler:
    """Put together what is measured; arguments as of ``measure_case``."""
    measures = parse_metrics(metrics or protocol.metrics)
    return Ruler(protocol=protocol, structures=tuple(structures), measures=measures)


def tabulate(
    cases: Iterable[CaseMetrics],
    structures: Sequence[Structure | str],
    protocol: Protocol,
    metrics: Sequence[str] = (),
) -> MetricTable:
    """Put measured cases together: means over cases per structure, and over structures, with their intervals.

    Args:
        cases: in any order.
        structures: what was measured, or its names.
        protocol: says how the mean over structures is taken, and which structures count in it.
        metrics: names; empty: the protocol's.
    """
    from autoseg.evaluation.averages import average_metric

    measures = parse_metrics(metrics or protocol.metrics)
    names = tuple(item if isinstance(item, str) else item.name for item in structures)
    rows = tuple(sorted(cases, key=lambda row: row.case))
    columns = [average_metric(rows, names, protocol, index, measure) for index, measure in enumerate(measures)]
    return MetricTable(
        protocol=protocol.name,
        metrics=tuple(measure.name for measure in measures),
        structures=names,
        cases=rows,
        by_structure=tuple(tuple(column[0][index] for column in columns) for index in range(len(names))),
        mean=tuple(column[1] for column in columns),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Subject:
    """One structure of a case: which masks are empty, its masks, and its counts.

    Attributes:
        all_counts: over the whole image.
        rules: what the protocol says of the structure.
        whole_pair: its masks; an empty pair where no metric looks at masks.
    """

    all_counts: Counts
    rules: ProtocolStructure | None
    whole_pair: Pair

    @property
    def empty(self) -> str:
        """Which masks are empty, over the whole image."""
        if not self.all_counts.num_labelled:
            return EMPTY_LABEL if self.all_counts.num_predicted else EMPTY_BOTH
        return NOT_EMPTY if self.all_counts.num_predicted else EMPTY_PREDICTION

    @property
    def is_sliced(self) -> bool:
        """Whether only the label's slices are measured."""
        asked = self.rules is not None and self.rules.labelled_slices
        return asked and len(self.whole_pair.shape) == 3 and self.all_counts.num_labelled > 0

    @functools.cached_property
    def pair(self) -> Pair:
        """The masks that are measured."""
        return labelled_slices(self.whole_pair) if self.is_sliced else self.whole_pair

    @functools.cached_property
    def counts(self) -> Counts:
        """The counts that are measured."""
        return count_pair(self.pair) if self.is_sliced else self.all_counts


def labelled_slices(pair: Pair) -> Pair:
    """Keep what lies between the first slice (z) of the label and its last, without the last: so do FLARE's scripts.

    Args:
        pair: 3D; the label holds a voxel.
    """
    present = np.flatnonzero(pair.label.any(axis=(1, 2)))
    slices = slice(int(present[0]), int(present[-1]))
    kept = make_pair(pair.label[slices], pair.prediction[slices], pair.spacing_mm)
    start = (pair.origin[0] + slices.start, *pair.origin[1:])
    origin = tuple(outer + inner for outer, inner in zip(start, kept.origin, strict=True))
    return dataclasses.replace(kept, origin=origin, shape=pair.shape)


def _no_pair(shape: tuple[int, ...], spacing_mm: tuple[float, ...]) -> Pair:
    nothing = np.zeros((0,) * len(shape), dtype=bool)
    return Pair(label=nothing, prediction=nothing, spacing_mm=spacing_mm, origin=(0,) * len(shape), shape=shape)


def _counts(structure: Structure, histogram: np.ndarray, spacing_mm: Sequence[float]) -> Counts:
    classes = np.array([index for index in structure.classes if index < len(histogram)], dtype=np.intp)
    return Counts(
        num_both=int(histogram[np.ix_(classes, classes)].sum()),
        num_predicted=int(histogram[:, classes].sum()),
        num_labelled=int(histogram[classes].sum()),
        voxel_mm3=float(np.prod(spacing_mm)),
    )


def _is_annotated(structure: Structure, annotated: Sequence[int] | None) -> bool:
    """A structure counts where all its classes are annotated; background only where everything is."""
    return annotated is None or (BACKGROUND not in structure.classes and set(structure.classes) <= {*annotated})


def _options(protocol: Protocol, rules: ProtocolStructure | None) -> MetricOptions:
    if rules is None or rules.tolerance_mm is None:
        return protocol.options
    return dataclasses.replace(protocol.options, tolerance_mm=rules.tolerance_mm)
