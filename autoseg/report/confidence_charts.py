"""Confidence charts: whether probabilities are true, and how well the Dice of a case is predicted without its label."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from autoseg.evaluation.calibration import expected_calibration_error
from autoseg.evaluation.confidence import Bin, Calibration, Confidence, add_bins
from autoseg.report.axes import Axis, Plane
from autoseg.report.material import Material

MAX_STRUCTURES = 8  # panels beside that of all structures together; those furthest from true are shown
MIN_VOXELS = 50  # assumption: bins of fewer voxels jump about


@dataclass(frozen=True, kw_only=True)
class CurvePanel:
    """One calibration curve: whose, the drawing, its expected calibration error as text."""

    name: str
    drawing: Markup
    error: str


@dataclass(frozen=True, kw_only=True)
class PredictedPanel:
    """Predicted against actual Dice: of what, the drawing, and what it says in words."""

    name: str
    drawing: Markup
    note: str


@dataclass(frozen=True, kw_only=True)
class ConfidenceSection:
    """All about confidence.

    Attributes:
        configurations: whose probabilities.
        curves: of all structures together, then of single ones.
        hidden: structures left out.
        errors: the expected calibration error of every structure: name, text.
        predicted: charts of predicted against actual Dice; the mean first.
        rows: per calibration: name, error out of fold, error of a constant, coverage, cases.
        level: what the intervals should hold, as text.
        summary: in a sentence; empty where nothing is calibrated.
    """

    configurations: str
    curves: tuple[CurvePanel, ...]
    hidden: int
    errors: tuple[tuple[str, str], ...]
    predicted: tuple[PredictedPanel, ...]
    rows: tuple[tuple[str, ...], ...]
    level: str
    summary: str


def confidence_section(material: Material) -> ConfidenceSection | None:
    """Lay out the confidence of what was chosen; None where it was not kept."""
    record = material.confidence
    if record is None or not record.cases:
        return None
    errors = [expected_calibration_error(bins) for bins in record.bins]
    ranked = sorted(range(len(errors)), key=lambda index: (-(errors[index] or 0.0), index))
    shown = sorted(ranked[:MAX_STRUCTURES]) if len(errors) > 1 else []
    together = add_bins([(bins,) for bins in record.bins])[0] if record.bins else ()
    name = "all structures" if len(errors) > 1 else (record.structures[0] if record.structures else "")
    curves = [curve_panel(name, together), *(curve_panel(record.structures[i], record.bins[i]) for i in shown)]
    return ConfidenceSection(
        configurations=" + ".join(record.configurations),
        curves=tuple(curves),
        hidden=len(errors) - len(shown) if len(errors) > 1 else 0,
        errors=tuple((name, _text(error)) for name, error in zip(record.structures, errors, strict=True)),
        predicted=_predicted(record),
        rows=tuple(_row(item) for item in record.calibrations),
        level=f"{100 * record.level:.0f} %",
        summary=_summary(record.of_mean),
    )


def curve_panel(name: str, bins: Sequence[Bin]) -> CurvePanel:
    """Draw a calibration curve; the bars at the foot say how many voxels each point comes from."""
    plane = Plane(
        x=Axis(low=0.0, high=1.0, label="probability"), y=Axis(low=0.0, high=1.0, label="share that is right")
    )
    points = [(item.confidence / item.count, item.correct / item.count) for item in bins if item.count >= MIN_VOXELS]
    parts = [plane.line([(0.0, 0.0), (1.0, 1.0)], "ideal", "where probabilities are true")]
    most = max((item.count for item in bins), default=0)
    for item in bins:
        if item.count >= MIN_VOXELS:
            x = item.confidence / item.count
            parts.append(plane.line([(x, 0.0), (x, 0.2 * item.count / most)], "amount", f"{item.count} voxels"))
    if points:
        parts += [plane.line(points, "line curve"), plane.dots(points, "points")]
    error = _text(expected_calibration_error(bins))
    described = "; ".join(f"{x:.2f}: {y:.2f}" for x, y in points)
    return CurvePanel(
        name=name,
        drawing=plane.drawing(parts, f"Calibration of {name}, expected calibration error {error}. {described}"),
        error=error,
    )


def _predicted(record: Confidence) -> tuple[PredictedPanel, ...]:
    if not record.calibrations:
        return ()
    pairs = [(case.predicted_mean, case.mean_dice, case.mean_expected) for case in record.cases]
    found = [_predicted_panel("mean", pairs, record.of_mean)]
    if len(record.structures) > 1:
        for index, name in enumerate(record.structures):
            columns = [
                (case.predicted_dice[index], case.dice[index], case.expected_dice[index])
                for case in record.cases
                if len(case.predicted_dice) > index and len(case.dice) > index
            ]
            found.append(_predicted_panel(name, columns, record.calibrations[index]))
    drawn = [item for item in found if item is not None]
    return tuple(drawn[: MAX_STRUCTURES + 1])


def _predicted_panel(
    name: str, rows: Sequence[tuple[float | None, float | None, float | None]], calibration: Calibration | None
) -> PredictedPanel | None:
    points = [(predicted, actual) for predicted, actual, _ in rows if predicted is not None and actual is not None]
    if not points or calibration is None:
        return None
    low = min(int(min(min(x, y) for x, y in points) * 10) / 10, 0.9)
    plane = Plane(
        x=Axis(low=low, high=1.0, label="predicted Dice"), y=Axis(low=low, high=1.0, label="Dice against the label")
    )
    parts = []
    band = _band(calibration, low)
    if band:
        parts.append(plane.area([(x, y) for x, y, _ in band], [(x, y) for x, _, y in band], "band"))
    parts += [plane.line([(low, low), (1.0, 1.0)], "ideal", "where the prediction is right"), plane.dots(points)]
    error = sum(abs(x - y) for x, y in points) / len(points)
    note = f"{len(points)} cases, mean absolute error {error:.3f}"
    description = f"Predicted against actual Dice of {name}: {note}"
    return PredictedPanel(name=name, drawing=plane.drawing(parts, description), note=note)


def _band(calibration: Calibration, low: float) -> list[tuple[float, float, float]]:
    """Trace the interval: predicted Dice, low end, high end, for expected Dice from 0 to 1."""
    found = [calibration.predict(step / 100) for step in range(101)]
    rows = [(item.dice, item.low, item.high) for item in found if item.low is not None and item.high is not None]
    kept = {round(dice, 4): (dice, start, stop) for dice, start, stop in rows if dice >= low}
    return [(x, y, z) for _, (x, y, z) in sorted(kept.items())] if len(kept) > 1 else []


def _row(item: Calibration) -> tuple[str, ...]:
    return (
        item.name,
        _text(item.error),
        _text(item.error_of_constant),
        "–" if item.coverage is None else f"{100 * item.coverage:.0f} %",
        str(item.num_cases),
        str(item.num_missed),
    )


def _summary(item: Calibration | None) -> str:
    if item is None or item.error is None:
        return ""
    text = (
        f"The mean Dice of a case that no network has seen was foretold with a mean absolute error of {item.error:.3f}"
    )
    if item.error_of_constant is not None:
        text += f"; always foretelling the median would err by {item.error_of_constant:.3f}"
    return text + "."


def _text(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
