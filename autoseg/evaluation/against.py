"""Against: two sets of predictions of the same labels, compared case by case.

Cases are paired: what is hard for both cancels out, so far smaller differences show than between two means. Differences
are first minus second. Of metrics whose best value is zero, such as the volume error, magnitudes are compared.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from autoseg.errors import DatasetError, OptionError
from autoseg.evaluation.averages import pooled_averages
from autoseg.evaluation.metric_records import CaseMetrics, MetricTable
from autoseg.evaluation.metrics import parse_metric
from autoseg.evaluation.overlap import mean_of
from autoseg.evaluation.protocol_records import Protocol
from autoseg.evaluation.protocols import PROTOCOLS
from autoseg.evaluation.statistics import Difference, is_non_inferior, paired_difference

if TYPE_CHECKING:
    from autoseg.evaluation.folders import FolderComparison

MEAN = "mean"
"""Name of the row over all structures."""

MARGIN = 0.01  # assumption: a hundredth of Dice, about what two trainings of one plan differ by

Values = tuple[float | None, ...]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One metric of one structure, or its mean over them.

    Attributes:
        structure: name, or ``mean``.
        metric: name.
        first, second: means over the cases that have a value in both.
        difference: first minus second, over the same cases; None where there is no such case.
        non_inferior: whether the first set is worse by less than the margin; None where that is not judged: the metric
            has a unit, or is neither better nor worse, or there are too few cases to tell.
        num_one_sided: cases in which only one of the two has a value. They are left out.
    """

    structure: str
    metric: str
    first: float | None
    second: float | None
    difference: Difference | None
    non_inferior: bool | None
    num_one_sided: int


@dataclass(frozen=True, kw_only=True)
class CaseDifference:
    """How the two differ in one case: first minus second.

    Attributes:
        case: its id.
        differences: per structure, per metric; None where not both have a value.
        mean: per metric, over the structures that have a value in both.
    """

    case: str
    differences: tuple[Values, ...]
    mean: Values


@dataclass(frozen=True, kw_only=True)
class PooledPair:
    """A metric that counts the voxels of all cases together: no case has a value, so differences cannot be tested.

    Attributes:
        structure: name, or ``mean``.
        metric: name.
        first, second: of the cases that are in both sets; None where none of them holds the structure.
    """

    structure: str
    metric: str
    first: float | None
    second: float | None


@dataclass(frozen=True, kw_only=True)
class Against:
    """Two sets of predictions compared.

    Attributes:
        first, second: what they are called.
        protocol: by which both were measured.
        margin: how much worse is still good enough, in metrics without a unit.
        metrics, structures: that both have.
        rows: per metric: a comparison per structure, then that of the mean where there are several.
        cases: those that both have, sorted by id.
        only_first, only_second: cases that only one of them has.
        structures_of_one: structures that only one of them has.
        pooled: metrics without a value per case: per structure, then the mean where there are several.
    """

    first: str
    second: str
    protocol: str
    margin: float
    metrics: tuple[str, ...]
    structures: tuple[str, ...]
    rows: tuple[tuple[Comparison, ...], ...]
    cases: tuple[CaseDifference, ...]
    only_first: tuple[str, ...] = ()
    only_second: tuple[str, ...] = ()
    structures_of_one: tuple[str, ...] = ()
    pooled: tuple[PooledPair, ...] = ()

    def text(self) -> str:
        """Lay out the comparison for the terminal."""
        from autoseg.evaluation.against_text import lay_out

        return lay_out(self)

    def svg(self) -> str:
        """Draw the differences case by case, as a self-contained picture."""
        from autoseg.evaluation.against_picture import draw

        return draw(self)


def compare(
    first: "FolderComparison",
    second: "FolderComparison",
    margin: float = MARGIN,
    *,
    names: tuple[str, str] = ("A", "B"),
    seed: int = 0,
) -> Against:
    """Compare two sets of predictions of the same labels, case by case.

    Args:
        first, second: both measured by the same protocol.
        margin: how much worse the first may be and still count as no worse; of metrics without a unit.
        names: what the two are called, such as their folders.
        seed: of the resampling.

    Raises:
        DatasetError: they have no case, or no structure, in common.
        OptionError: they were measured differently, or the margin is negative.
    """
    return compare_tables(first.table, second.table, margin, names=names, seed=seed)


def compare_tables(
    first: MetricTable,
    second: MetricTable,
    margin: float = MARGIN,
    *,
    names: tuple[str, str] = ("A", "B"),
    seed: int = 0,
) -> Against:
    """Compare two tables; arguments and errors as of ``compare``."""
    _check(first, second, margin)
    metrics = tuple(name for name in first.metrics if name in second.metrics)
    structures = tuple(name for name in first.structures if name in second.structures)
    rows_of = [{row.case: row for row in table.cases} for table in (first, second)]
    cases = sorted(set(rows_of[0]) & set(rows_of[1]))
    if not cases or not structures:
        raise DatasetError(
            f"{names[0]} and {names[1]} have no {'structure' if cases else 'case'} in common, so there is nothing to "
            "compare. Give two sets of predictions of the same labels"
        )
    arrays = [
        _array(table, [rows[case] for case in cases], structures, metrics)
        for table, rows in zip((first, second), rows_of, strict=True)
    ]
    judge = _Judge(structures=structures, protocol=PROTOCOLS.get(first.protocol), margin=margin, seed=seed)
    differences = arrays[0] - arrays[1]
    both = [
        [_keep_structures(rows[case], [table.structures.index(name) for name in structures]) for case in cases]
        for table, rows in zip((first, second), rows_of, strict=True)
    ]
    return Against(
        first=names[0],
        second=names[1],
        protocol=first.protocol,
        margin=margin,
        metrics=metrics,
        structures=structures,
        rows=tuple(judge.rows(name, *(array[:, :, index] for array in arrays)) for index, name in enumerate(metrics)),
        cases=tuple(_case(case, row) for case, row in zip(cases, differences, strict=True)),
        only_first=tuple(sorted(set(rows_of[0]) - set(rows_of[1]))),
        only_second=tuple(sorted(set(rows_of[1]) - set(rows_of[0]))),
        structures_of_one=tuple(sorted(set(first.structures) ^ set(second.structures))),
        pooled=tuple(pair for name in metrics for pair in judge.pooled(name, *both)),
    )


@dataclass(frozen=True, kw_only=True)
class _Judge:
    """What all metrics are compared by; ``protocol`` is None where the tables name one that is not known here."""

    structures: tuple[str, ...]
    protocol: Protocol | None
    margin: float
    seed: int

    def rows(self, metric: str, first: np.ndarray, second: np.ndarray) -> tuple[Comparison, ...]:
        """Compare one metric, given as two arrays (cases, structures), nan where there is no value."""
        one_sided = np.isnan(first) != np.isnan(second)
        unpaired = np.isnan(first) | np.isnan(second)
        rows = []
        for index, name in enumerate(self.structures):
            pairs = np.stack([first[:, index], second[:, index]])[:, ~unpaired[:, index]]
            rows.append(self._row(name, metric, pairs, int(one_sided[:, index].sum())))
        counting = [index for index, name in enumerate(self.structures) if self._counts_in_mean(name)]
        if len(counting) > 1:
            present = ~unpaired[:, counting]
            weights = self._weights(present)
            parts = [np.where(present, part[:, counting], 0.0) @ weights for part in (first, second)]
            num_one_sided = int(one_sided[:, counting].any(axis=1).sum())
            rows.append(self._row(MEAN, metric, np.stack(parts)[:, present.any(axis=1)], num_one_sided))
        return tuple(rows)

    def pooled(
        self, metric: str, first: Sequence[CaseMetrics], second: Sequence[CaseMetrics]
    ) -> tuple[PooledPair, ...]:
        """Give a metric that has no value per case, of the cases of both; nothing of one that has."""
        measure = parse_metric(metric)
        if not measure.metric.pooled:
            return ()
        (by_first, mean_first), (by_second, mean_second) = (
            pooled_averages(rows, [self._counts_in_mean(name) for name in self.structures]) for rows in (first, second)
        )
        found = list(zip(self.structures, by_first, by_second, strict=True))
        if sum(map(self._counts_in_mean, self.structures)) > 1:
            found.append((MEAN, mean_first, mean_second))
        return tuple(
            PooledPair(
                structure=name,
                metric=metric,
                first=None if one is None else one.mean,
                second=None if other is None else other.mean,
            )
            for name, one, other in found
        )

    def _row(self, structure: str, metric: str, pairs: np.ndarray, num_one_sided: int) -> Comparison:
        """Compare what is in both: (2, cases)."""
        first, second = pairs.tolist()
        difference = paired_difference(first, second, self.seed)
        rules = parse_metric(metric).metric
        judged = difference is not None and not rules.unit
        non_inferior = None
        if judged:
            non_inferior = is_non_inferior(
                first, second, self.margin, rules.better, difference=difference, seed=self.seed
            )
        return Comparison(
            structure=structure,
            metric=metric,
            first=mean_of(first),
            second=mean_of(second),
            difference=difference,
            non_inferior=non_inferior,
            num_one_sided=num_one_sided,
        )

    def _counts_in_mean(self, name: str) -> bool:
        rules = None if self.protocol is None else self.protocol.structure(name)
        return rules is None or rules.in_mean

    def _weights(self, present: np.ndarray) -> np.ndarray:
        """Weights of structures by which the cases' weighted sums have the protocol's mean as their mean.

        That mean is of the structures' means, or of all values alike, over what is in both sets.
        """
        num_values, num_cases = present.sum(axis=0), present.any(axis=1).sum()
        if self.protocol is not None and self.protocol.average == "values":
            return np.full(len(num_values), num_cases / max(num_values.sum(), 1))
        return np.where(num_values > 0, num_cases / np.maximum((num_values > 0).sum() * num_values, 1), 0.0)


def _check(first: MetricTable, second: MetricTable, margin: float) -> None:
    if not margin >= 0:
        raise OptionError(f"margin {margin} is negative; give how much worse is still good enough, such as {MARGIN}")
    if first.protocol != second.protocol:
        raise OptionError(
            f"one set was measured by protocol {first.protocol}, the other by {second.protocol}. Measure both alike"
        )
    if not set(first.metrics) & set(second.metrics):
        raise OptionError(
            f"the sets have no metric in common ({', '.join(first.metrics)} against {', '.join(second.metrics)}). "
            "Measure both alike"
        )


def _array(
    table: MetricTable, rows: Sequence[CaseMetrics], structures: Sequence[str], metrics: Sequence[str]
) -> np.ndarray:
    """Values as (cases, structures, metrics), nan where there is none; magnitudes where zero is best."""
    places = [table.structures.index(name) for name in structures]
    columns = [table.metrics.index(name) for name in metrics]
    values = np.array([[[row.values[p][c] for c in columns] for p in places] for row in rows], dtype=np.float64)
    for index, name in enumerate(metrics):
        if parse_metric(name).metric.better == "zero":
            values[:, :, index] = np.abs(values[:, :, index])
    return values


def _keep_structures(row: CaseMetrics, places: Sequence[int]) -> CaseMetrics:
    """Keep the counts of some structures of a case; a table that has none counts nothing."""
    return dataclasses.replace(row, counts=tuple(row.counts[place] if row.counts else (0, 0, 0) for place in places))


def _case(case: str, differences: np.ndarray) -> CaseDifference:
    """Record one case: (structures, metrics), nan where not both have a value."""
    rows = tuple(tuple(None if np.isnan(value) else float(value) for value in row) for row in differences)
    return CaseDifference(
        case=case, differences=rows, mean=tuple(mean_of(column) for column in zip(*rows, strict=True))
    )
