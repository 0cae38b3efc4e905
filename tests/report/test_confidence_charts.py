"""Confidence charts: the numbers of the records, drawn and said; the structures furthest from true are shown."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from autoseg.evaluation.calibration import expected_calibration_error
from autoseg.evaluation.confidence import EMPTY_BINS, Bin, Calibration
from autoseg.report.confidence_charts import MAX_STRUCTURES, confidence_section, curve_panel
from autoseg.report.material import gather
from autoseg.run_folder import RunFolder


def test_section_holds_curves_errors_and_predictions(make_run: Callable[..., RunFolder]) -> None:
    material = gather(make_run(num_cases=12, num_epochs=2))
    record, section = material.confidence, confidence_section(material)
    assert record is not None
    assert section is not None
    assert [panel.name for panel in section.curves] == ["all structures", "anterior", "posterior"]
    for panel, bins in zip(section.curves[1:], record.bins, strict=True):
        assert panel.error == f"{expected_calibration_error(bins):.3f}"
        assert f"error {panel.error}" in panel.drawing
    assert [panel.name for panel in section.predicted] == ["mean", "anterior", "posterior"]
    pairs = [(case.predicted_mean, case.mean_dice) for case in record.cases]
    error = sum(abs((first or 0) - (second or 0)) for first, second in pairs) / len(pairs)
    assert section.predicted[0].note == f"12 cases, mean absolute error {error:.3f}"
    assert record.of_mean is not None
    assert record.of_mean.error == pytest.approx(error)
    assert f"error of {error:.3f}; always" in section.summary
    assert [row[0] for row in section.rows] == ["anterior", "posterior", "mean"]
    assert section.level == "90 %"


def test_of_many_structures_those_furthest_from_true_are_shown(
    make_run: Callable[..., RunFolder], bins_of: Callable[[float], tuple[Bin, ...]]
) -> None:
    material = gather(make_run(num_cases=4, num_epochs=2))
    assert material.confidence is not None
    names = tuple(f"s{index:02d}" for index in range(20))
    cases = tuple(
        replace(case, expected_dice=(0.5,) * 20, dice=(0.5,) * 20, predicted_dice=(0.5,) * 20)
        for case in material.confidence.cases
    )
    record = replace(
        material.confidence,
        structures=names,
        cases=cases,
        bins=tuple(bins_of(0.99 - 0.03 * index) for index in range(20)),
        calibrations=tuple(Calibration(name=name, rule="none") for name in (*names, "mean")),
    )
    section = confidence_section(replace(material, confidence=record))
    assert section is not None
    assert [panel.name for panel in section.curves[1:]] == list(names[-MAX_STRUCTURES:])
    assert section.hidden == 20 - MAX_STRUCTURES
    assert len(section.errors) == 20
    assert section.summary == ""


def test_without_records_or_calibration_nothing_is_invented(make_run: Callable[..., RunFolder]) -> None:
    material = gather(make_run(num_cases=4, num_epochs=2))
    assert material.confidence is not None
    assert confidence_section(replace(material, confidence=None)) is None
    section = confidence_section(replace(material, confidence=replace(material.confidence, calibrations=())))
    assert section is not None
    assert section.predicted == ()
    assert section.summary == ""


def test_empty_bins_draw_an_empty_curve() -> None:
    panel = curve_panel("cyst", EMPTY_BINS)
    assert panel.error == "–"
    assert "points" not in panel.drawing
    assert "ideal" in panel.drawing


def test_a_true_curve_lies_on_the_line() -> None:
    bins = tuple(Bin(count=1000, confidence=100.0 * i + 50, correct=100 * i + 50) for i in range(10))
    panel = curve_panel("liver", bins)
    assert panel.error == "0.000"
    assert "0.05: 0.05" in panel.drawing
    assert "0.95: 0.95" in panel.drawing
