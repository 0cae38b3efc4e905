"""What was measured of the objects of several datasets, as of one."""

from collections.abc import Sequence

import numpy as np

from planners.fingerprint import Fingerprint, InstanceStats

LEVELS = np.linspace(0, 100, 401)  # at which a distribution known by three percentiles is read


def join_instances(fingerprints: Sequence[Fingerprint]) -> InstanceStats | None:
    """Put statistics of objects together; None where a dataset has none.

    Counts and the share of touching objects are exact. Diameters are known by three percentiles per dataset: the
    logarithm is taken as linear between them and constant beyond, and the percentiles of the mixture are read off.
    Solidity and elongation are means of the medians by objects, the background's share by voxels.
    """
    found = [item.instances for item in fingerprints if item.instances is not None]
    if len(found) != len(fingerprints):
        return None
    counts = np.array([sum(case.count for case in stats.cases) for stats in found], dtype=float)
    voxels = np.array([np.prod(np.array(item.shapes, dtype=float), axis=1).sum() for item in fingerprints])
    values = [np.interp(LEVELS, (5, 50, 95), np.log(stats.diameters_mm)) for stats in found]
    low, middle, high = _percentiles(np.concatenate(values), np.repeat(counts, len(LEVELS)))
    return InstanceStats(
        cases=tuple(case for stats in found for case in stats.cases),
        diameters_mm=(low, middle, high),
        solidity=float(np.average([stats.solidity for stats in found], weights=counts)),
        elongation=float(np.average([stats.elongation for stats in found], weights=counts)),
        touching_fraction=float(np.average([stats.touching_fraction for stats in found], weights=counts)),
        background_fraction=float(np.average([stats.background_fraction for stats in found], weights=voxels)),
    )


def _percentiles(logarithms: np.ndarray, weights: np.ndarray) -> tuple[float, float, float]:
    order = np.argsort(logarithms, kind="stable")
    levels = np.cumsum(weights[order]) - weights[order] / 2
    low, middle, high = np.exp(np.interp((0.05, 0.5, 0.95), levels / weights.sum(), logarithms[order])).tolist()
    return low, middle, high
