"""Decision: a value together with the rule that set it and the numbers behind it.

A planner builds its records out of decisions (:func:`assemble`), so that no field of a plan can be set without a
reason. The second half of this file words numbers the same way in every reason.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from planners.plan import GIGABYTE, Reason

Value = TypeVar("Value")
Record = TypeVar("Record")

AXES = ("z", "y", "x")
"""Names of the spatial axes of a preprocessed image, in the order of its array."""


@dataclass(frozen=True, kw_only=True)
class Decision(Generic[Value]):
    """One decided value.

    Attributes:
        value: what was decided.
        rule: name of the rule, as listed in ``docs/planning.md``.
        because: the numbers that made the rule decide so.
    """

    value: Value
    rule: str
    because: str


def assemble(
    record_type: type[Record],
    place: str,
    decisions: Mapping[str, Decision[Any]],
    parts: Mapping[str, tuple[Any, tuple[Reason, ...]]] | None = None,
) -> tuple[Record, tuple[Reason, ...]]:
    """Build a record whose every field was decided.

    Args:
        record_type: the dataclass to build.
        place: where it stands in the plan, such as ``3d_fullres.training``.
        decisions: per field, its decision.
        parts: per field that is itself a record: what ``assemble`` gave for it.

    Returns:
        The record, and one reason per decision, those of the parts included.
    """
    parts = parts or {}
    values = {field: decision.value for field, decision in decisions.items()}
    values |= {field: record for field, (record, _) in parts.items()}
    reasons = [Reason(about=f"{place}.{field}", rule=d.rule, because=d.because) for field, d in decisions.items()]
    for _, why in parts.values():
        reasons.extend(why)
    return record_type(**values), tuple(reasons)


def times(values: Sequence[float]) -> str:
    """Word a shape or a size: ``40 × 56 × 40``, halves as ``50.5``."""
    return " × ".join(f"{value:.0f}" if float(value).is_integer() else f"{value:.1f}" for value in values)


def millimetres(values: Sequence[float]) -> str:
    """Word a spacing: ``3.60 × 0.625 × 0.625 mm``; below 0.1 mm with three significant digits."""
    return " × ".join(_three_decimals(value) if value >= 0.1 else f"{value:.3g}" for value in values) + " mm"


def cases(count: int) -> str:
    """Word a number of cases: ``one case``, ``12 cases``."""
    return "one case" if count == 1 else f"{count} cases"


def quantity(count: float) -> str:
    """Word a large count with three digits: ``453 M``, ``3.18 G``, ``16.5 k``."""
    for factor, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if count >= 0.9995 * factor:
            return f"{_three_digits(count / factor)}{unit}"
    return f"{count:.0f}"


def byte_size(count: float) -> str:
    """Word a number of bytes: ``7.4 GB``, below 0.1 GB ``78 MB``, below 1 MB ``0.6 MB`` (1 GB = 10⁹ bytes)."""
    if count >= GIGABYTE / 10:
        return f"{count / GIGABYTE:.1f} GB"
    megabytes = count / 1e6
    return f"{megabytes:.0f} MB" if megabytes >= 1 else f"{megabytes:.1g} MB"


def percent(fraction: float) -> str:
    """Word a fraction: ``12 %``, below one percent with one significant digit."""
    return f"{100 * fraction:.0f} %" if fraction >= 0.01 else f"{100 * fraction:.1g} %"


def axis_names(dimensions: int) -> tuple[str, ...]:
    """Names of a configuration's axes: z, y, x, or y, x in 2D."""
    return AXES[3 - dimensions :]


def _three_digits(value: float) -> str:
    decimals = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{decimals}f}"


def _three_decimals(value: float) -> str:
    text = f"{value:.3f}"
    return text.removesuffix("0")
