"""Averages of measured cases with their intervals: per structure, over structures, and of all voxels pooled."""

from collections.abc import Sequence

import numpy as np

from autoseg.evaluation.metric_records import CaseMetrics, Interval
from autoseg.evaluation.metrics import Measure
from autoseg.evaluation.overlap import mean_of
from autoseg.evaluation.protocol_records import Protocol
from autoseg.evaluation.statistics import bootstrap_mean, bootstrap_means

Averages = tuple[tuple[Interval | None, ...], Interval | None]


def average_metric(
    rows: Sequence[CaseMetrics], names: Sequence[str], protocol: Protocol, index: int, measure: Measure
) -> Averages:
    """Average one metric: per structure over the cases, and over the structures that count in the mean.

    Args:
        rows: the measured cases.
        names: of the structures.
        protocol: says what counts in the mean over structures, and how it is taken.
        index: the metric's place in the rows' values.
        measure: the metric.
    """
    counts_in_mean = [(rules := protocol.structure(name)) is None or rules.in_mean for name in names]
    if measure.metric.pooled:
        return pooled_averages(rows, counts_in_mean)
    values = np.array([[row.values[place][index] for place in range(len(names))] for row in rows], dtype=np.float64)
    values = values.reshape(len(rows), len(names))
    columns = [[None if np.isnan(value) else float(value) for value in column] for column in values.T]
    by_structure = bootstrap_means(columns)
    chosen = [place for place, counts in enumerate(counts_in_mean) if counts and by_structure[place] is not None]
    if len(chosen) <= 1:
        return by_structure, by_structure[chosen[0]] if chosen else None
    mean_over = mean_of_structures if protocol.average == "structures" else mean_of_values
    return by_structure, mean_over(values[:, chosen])


def mean_of_structures(values: np.ndarray) -> Interval | None:
    """Average the structures' means; each case counts for the interval by what it changes in that average.

    Args:
        values: (cases, structures), nan where there is no value.

    The interval is that of the mean of the cases' influences (the delta method); where no value is missing those are
    the cases' own means over structures, and it is exact.
    """
    present = ~np.isnan(values)
    num_values = present.sum(axis=0)
    values, present, num_values = values[:, num_values > 0], present[:, num_values > 0], num_values[num_values > 0]
    if not num_values.size:
        return None
    means = [mean_of(column[there].tolist()) for column, there in zip(values.T, present.T, strict=True)]
    mean = mean_of(means)
    deviations = np.where(present, values - np.array(means, dtype=np.float64), 0.0)
    rows = present.any(axis=1)
    weights = rows.sum() / (len(means) * num_values)
    return _around(mean, (deviations * weights).sum(axis=1)[rows], values)


def mean_of_values(values: np.ndarray) -> Interval | None:
    """Average all values of all cases and structures alike; arguments and interval as of ``mean_of_structures``."""
    present = ~np.isnan(values)
    mean = mean_of(values[present].tolist())
    if mean is None:
        return None
    rows = present.any(axis=1)
    deviations = np.where(present, values - mean, 0.0).sum(axis=1)[rows]
    return _around(mean, deviations * rows.sum() / present.sum(), values)


def pooled_dice(counts: np.ndarray) -> Interval | None:
    """Give Dice of the voxels of all cases together.

    Args:
        counts: (cases, 3): voxels in both, in the prediction, in the label.
    """
    counts = counts[counts[:, 1:].any(axis=1)].astype(np.float64)
    if not len(counts):
        return None
    parts, wholes = 2 * counts[:, 0], counts[:, 1] + counts[:, 2]
    dice = float(parts.sum() / wholes.sum())
    influence = (parts - dice * wholes) * len(counts) / wholes.sum()
    return _around(dice, influence, np.array([0.0, 1.0]))


def pooled_averages(rows: Sequence[CaseMetrics], counts_in_mean: Sequence[bool]) -> Averages:
    """Give Dice of the voxels of all cases together, per structure and over those that count in the mean.

    Args:
        rows: the measured cases, with ``counts``.
        counts_in_mean: per structure.
    """
    counts = np.array([row.counts for row in rows], dtype=np.float64).reshape(len(rows), len(counts_in_mean), 3)
    by_structure = tuple(pooled_dice(counts[:, place]) for place in range(len(counts_in_mean)))
    chosen = [item for item, counts_in in zip(by_structure, counts_in_mean, strict=True) if counts_in and item]
    mean = mean_of(item.mean for item in chosen)
    if mean is None or len(chosen) == 1:
        return by_structure, chosen[0] if chosen else None
    # ends of the structures' intervals averaged: as wide as it could be, if all structures err together
    low, high = mean_of(item.low for item in chosen), mean_of(item.high for item in chosen)
    assert low is not None
    assert high is not None
    return by_structure, Interval(mean=mean, low=low, high=high, num_cases=max(item.num_cases for item in chosen))


def _around(mean: float | None, influences: np.ndarray, values: np.ndarray) -> Interval | None:
    """Put the bootstrap interval of cases' influences around a mean; it does not leave the values' range."""
    spread = bootstrap_mean(influences.tolist())
    if mean is None or spread is None:
        return None
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    return Interval(
        mean=mean,
        low=min(max(mean + spread.low, low), mean),
        high=max(min(mean + spread.high, high), mean),
        num_cases=len(influences),
    )
