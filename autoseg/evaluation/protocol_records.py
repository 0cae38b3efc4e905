"""Protocols as records: what is measured, of which structures, and what stands where a metric is not defined."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from autoseg.evaluation.metric_options import MetricOptions

EMPTY_BOTH, EMPTY_LABEL, EMPTY_PREDICTION, NOT_ANNOTATED, NOT_EMPTY = "both", "label", "prediction", "not annotated", ""
"""Which of the two holds no voxel of a structure; ``not annotated``: the case has not been annotated for it."""


@dataclass(frozen=True, kw_only=True)
class Fallback:
    """What stands where a metric is not defined; None: the case is left out of the mean.

    Where a metric is defined in spite of an empty mask (Dice is 0 where one of the two is empty), its own value stands.

    Attributes:
        both: neither label nor prediction holds a voxel.
        label: the label alone is empty.
        prediction: the prediction alone is empty.
        neither: both hold voxels, and yet the metric is not defined (all lesions are too small, say).
    """

    both: float | None = None
    label: float | None = None
    prediction: float | None = None
    neither: float | None = None

    def value(self, empty: str) -> float | None:
        """Give what stands in one of the situations named above."""
        values = {EMPTY_BOTH: self.both, EMPTY_LABEL: self.label, EMPTY_PREDICTION: self.prediction}
        return values.get(empty, self.neither)


@dataclass(frozen=True, kw_only=True)
class ProtocolStructure:
    """A structure that a protocol measures, by the challenge's label values.

    Attributes:
        name: as the challenge calls it.
        values: label values that belong to it; several make a region.
        tolerance_mm: of ``nsd`` for this structure; None: the protocol's.
        labelled_slices: measured from the first to the last slice (z) of the label only, without that last slice.
        in_mean: counts in the mean over structures.
    """

    name: str
    values: tuple[int, ...]
    tolerance_mm: float | None = None
    labelled_slices: bool = False
    in_mean: bool = True


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Rules by which predictions are measured, such as a challenge's.

    Attributes:
        name: on the command line and in the records.
        title: for people.
        sources: where the rules are published.
        metrics: names as of ``metrics.parse_metric``.
        structures: what is measured; empty: the dataset's regions, or its classes where it has none.
        fallbacks: metric (without parameter) → what stands where it is not defined; a metric that is not named is left
            out there.
        options: for every structure.
        average: how the mean over structures is taken: ``structures``: mean of the structures' means; ``values``: mean
            of all values of all cases and structures.
        nsd_zero_below_dice: where Dice is lower, ``nsd`` is 0.
        variants: protocols of single tasks, one of which has to be named before ``nsd`` can be measured.
        unknown: what the organisers' publications do not say; the choice made here is named.
        differs: what is knowingly not done as the organisers do it.
    """

    name: str
    title: str
    sources: tuple[str, ...]
    metrics: tuple[str, ...]
    structures: tuple[ProtocolStructure, ...] = ()
    fallbacks: Mapping[str, Fallback] = field(default_factory=dict)
    options: MetricOptions = MetricOptions()  # noqa: RUF009 - a frozen record
    average: Literal["structures", "values"] = "structures"
    nsd_zero_below_dice: float | None = None
    variants: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    differs: tuple[str, ...] = ()

    def structure(self, name: str) -> ProtocolStructure | None:
        """Give what the protocol says of a structure; None where it takes the dataset's own."""
        return next((item for item in self.structures if item.name == name), None)

    @property
    def values(self) -> tuple[int, ...]:
        """All label values that the protocol's own structures name, ascending."""
        return tuple(sorted({value for item in self.structures for value in item.values}))
