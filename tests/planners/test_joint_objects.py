"""The facts of several datasets with objects as those of one."""

import dataclasses

import pytest

from planners import Fingerprint
from planners.fingerprint import CaseObjects
from planners.joint import join


def test_facts_of_two_datasets_are_joined(nuclei: Fingerprint) -> None:
    assert nuclei.instances is not None
    twice = join([nuclei, dataclasses.replace(nuclei, dataset="again")])
    assert twice.instances is not None
    assert twice.instances.diameters_mm == pytest.approx(nuclei.instances.diameters_mm)
    assert twice.instances.cases == nuclei.instances.cases * 2
    assert twice.size_features == nuclei.size_features * 2
    for field in ("solidity", "elongation", "touching_fraction", "background_fraction"):
        assert getattr(twice.instances, field) == pytest.approx(getattr(nuclei.instances, field))


def test_percentiles_of_a_mixture_lie_where_its_objects_do(nuclei: Fingerprint) -> None:
    def facts(name: str, count: int, *diameters: float) -> Fingerprint:
        low, middle, high = diameters
        assert nuclei.instances is not None
        cases = (CaseObjects(count=count, diameter_mm=middle),) * len(nuclei.shapes)
        stats = dataclasses.replace(
            nuclei.instances, cases=cases, diameters_mm=(low, middle, high), touching_fraction=count / 400
        )
        return dataclasses.replace(nuclei, dataset=name, instances=stats)

    joined = join([facts("many", 300, 10, 12, 14), facts("few", 100, 100, 120, 140)]).instances
    assert joined is not None
    low, middle, high = joined.diameters_mm
    assert 10 <= low <= 11
    assert 12 <= middle <= 14
    assert 120 <= high <= 140
    assert joined.touching_fraction == pytest.approx((300 * 0.75 + 100 * 0.25) / 400)
