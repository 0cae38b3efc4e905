"""Records of measured cases: what every metric gave, per case and structure, with means and their intervals."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean with its 95 % bootstrap confidence interval.

    Attributes:
        mean: over the cases that have a value.
        low, high: ends of the interval; equal to the mean where there is one case alone.
        num_cases: cases that have a value.
    """

    mean: float
    low: float
    high: float
    num_cases: int


@dataclass(frozen=True, kw_only=True)
class CaseMetrics:
    """What was measured in one case.

    Attributes:
        case: its id.
        values: per structure, per metric; None where the protocol leaves it out.
        empty: per structure ``both``, ``label`` or ``prediction``, where those hold no voxel of it; ``not annotated``
            where the case has not been annotated for it; else ``""``.
        counts: per structure: voxels in both, in the prediction, in the label; 0 where it has not been annotated.
    """

    case: str
    values: tuple[tuple[float | None, ...], ...]
    empty: tuple[str, ...]
    counts: tuple[tuple[int, int, int], ...] = ()


@dataclass(frozen=True, kw_only=True)
class MetricTable:
    """What was measured in a set of cases.

    Attributes:
        protocol: name of the protocol.
        metrics: names, such as ``dice``, ``hd95``, ``nsd@2`` (tolerance in mm).
        structures: names of the classes or regions.
        cases: sorted by id.
        by_structure: per structure, per metric: over the cases, as the protocol averages; None without a value.
        mean: per metric: over structures, as the protocol averages; None without a value.
    """

    protocol: str
    metrics: tuple[str, ...]
    structures: tuple[str, ...]
    cases: tuple[CaseMetrics, ...]
    by_structure: tuple[tuple[Interval | None, ...], ...]
    mean: tuple[Interval | None, ...]
