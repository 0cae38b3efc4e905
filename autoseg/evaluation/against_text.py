"""A comparison of two sets of predictions as text for the terminal."""

from collections.abc import Sequence

from autoseg.data.check_problem import count
from autoseg.evaluation.against import MEAN, Against, Comparison
from autoseg.evaluation.metrics import Measure, parse_metric
from autoseg.evaluation.overlap import align
from autoseg.evaluation.statistics import LEAST_CASES, NARROW_CASES, NUM_RESAMPLES, ROUNDING, Difference

LUCK = 0.05  # the field's convention: a difference that luck gives more often is not called shown
SHOWN = 5  # cases named in a line; the record has all
NOTHING = "–"
VERDICTS = {True: "yes", False: "not shown", None: "too few cases to tell"}


def lay_out(found: Against) -> str:
    """Lay out a comparison: a table per metric, what it says in words, cases that differ most, what was left out."""
    measures = [parse_metric(name) for name in found.metrics]
    lines = [f"A  {found.first}", f"B  {found.second}"]
    lines.append(f"{count(len(found.cases), 'case')} in both, protocol {found.protocol}; A − B, case by case")
    for measure, rows in zip(measures, found.rows, strict=True):
        if any(row.difference is not None for row in rows):
            lines += ["", *_table(measure, rows, found.margin)]
    chosen = leading(found)
    if chosen is not None:
        lines += ["", _verdict(found, chosen), *_judged(found, chosen)]
        lines += ["", *_extremes(found, chosen)]
    lines += _pooled(found)
    return "\n".join([*lines, *_left_out(found)])


def leading(found: Against) -> int | None:
    """Place of the first metric that tells good from bad and has differences; None where there is none."""
    for index, (name, rows) in enumerate(zip(found.metrics, found.rows, strict=True)):
        if parse_metric(name).metric.better != "neither" and rows[-1].difference is not None:
            return index
    return None


def title(measure: Measure) -> str:
    """Name a metric for people: ``normalized surface Dice @ 2``, ``HD95 [mm]``."""
    number = measure.name.partition("@")[2]
    return (
        measure.metric.title
        + (f" @ {number}" if number else "")
        + (f" [{measure.metric.unit}]" if measure.metric.unit else "")
    )


def digits_of(measure: Measure) -> int:
    """Decimal places that a metric is written with."""
    return {"": 3, "mm": 2}.get(measure.metric.unit, 0)


def signed(value: float, digits: int) -> str:
    """Write a difference with its sign; what rounds to nothing has none."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def _table(measure: Measure, rows: Sequence[Comparison], margin: float) -> list[str]:
    digits, judged = digits_of(measure), _is_judged(measure)
    better = {"higher": "higher is better", "lower": "lower is better", "zero": "magnitudes, lower is better"}
    head = f"{title(measure)} ({better.get(measure.metric.better, 'neither is better')})"
    cells = [("", "A", "B", "A − B", "95 % interval", "p", "cases", *([f"no worse by {margin:g}"] if judged else []))]
    for row in rows:
        verdict = [VERDICTS[row.non_inferior] if row.difference is not None else NOTHING] if judged else []
        cells.append((f"  {row.structure}", *_numbers(row, digits), *verdict))
    return [head, *align(cells)]


def _is_judged(measure: Measure) -> bool:
    """Tell whether the margin, which has no unit, is held against a metric."""
    return not measure.metric.unit and measure.metric.better != "neither"


def _numbers(row: Comparison, digits: int) -> tuple[str, ...]:
    found = row.difference
    if found is None or row.first is None or row.second is None:
        return (NOTHING,) * 5 + ("0",)
    interval = f"{signed(found.low, digits)} … {signed(found.high, digits)}"
    means = f"{row.first:.{digits}f}", f"{row.second:.{digits}f}"
    return *means, signed(found.mean, digits), interval, _chance(found), str(found.num_cases)


def _chance(found: Difference, scale: int = 1) -> str:
    """Write p; what is sampled cannot be told below one sample."""
    if not found.exact and found.p <= 1 / NUM_RESAMPLES:
        return f"<{scale / NUM_RESAMPLES:g}"
    value = scale * found.p
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"  # else a hundred would be 1e+02


def _verdict(found: Against, index: int) -> str:
    """Say in words what the leading metric shows."""
    measure, row = parse_metric(found.metrics[index]), found.rows[index][-1]
    difference = row.difference
    assert difference is not None
    name = f"mean {title(measure)}" if row.structure == MEAN else f"{title(measure)} of {row.structure}"
    if difference.mean == 0 == difference.high:
        return f"A and B have the same {name} in every case."
    if abs(difference.mean) <= ROUNDING * max(abs(difference.low), abs(difference.high)):
        return f"A and B have the same {name}: they differ in single cases, but that cancels out."
    higher = difference.mean > 0
    better = "A" if higher == (measure.metric.better == "higher") else "B"
    size = f"{abs(difference.mean):.{digits_of(measure)}f}"
    if float(size) == 0:
        size = f"less than {10 ** -digits_of(measure):.{digits_of(measure)}f}"
    luck = f"{_chance(difference, 100)} %"
    if difference.num_cases == 1:
        return f"{better} is better by {size} in {name}, in one case: that says nothing of others."
    chance = f"Were it luck which of the two is better in a case, {luck} of comparisons would differ by as much."
    if difference.p > LUCK:
        return f"No difference in {name} is shown ({better} is better by {size}). {chance}"
    return f"{better} is better: {name} by {size}. {chance}"


def _judged(found: Against, index: int) -> list[str]:
    """Say whether A is no worse, and what to be careful with."""
    row = found.rows[index][-1]
    lines = []
    if row.non_inferior is not None:
        shown = "is shown to be" if row.non_inferior else "is not shown to be"
        how = "the interval's end on the worse side, and a sign-flip test at 2.5 %"
        lines.append(f"A {shown} no worse than B by {found.margin:g} ({how}).")
    elif row.difference is not None and _is_judged(parse_metric(found.metrics[index])):
        few = f"too few cases to tell; it takes {LEAST_CASES}"
        lines.append(f"Whether A is no worse than B by {found.margin:g}: {few}.")
    tests = sum(row.difference is not None for rows in found.rows for row in rows)
    if tests > 1:
        lines.append(f"p holds for each row by itself: of {tests} rows, luck alone puts about 1 in 20 below {LUCK:g}.")
    if row.difference is not None and 1 < row.difference.num_cases < NARROW_CASES:
        lines.append(f"With fewer than {NARROW_CASES} cases the intervals are too narrow; p is right.")
    return lines


def _extremes(found: Against, index: int) -> list[str]:
    """Name the cases in which A is furthest behind, and furthest ahead."""
    measure = parse_metric(found.metrics[index])
    sign = 1 if measure.metric.better == "higher" else -1
    cases = sorted((sign * row.mean[index], row.case) for row in found.cases if row.mean[index] is not None)  # type: ignore[operator]
    digits = digits_of(measure)
    lines = []
    for words, rows in (
        ("behind", [row for row in cases if row[0] < 0]),
        ("ahead", [row for row in cases[::-1] if row[0] > 0]),
    ):
        if rows:
            listed = ", ".join(f"{case} {signed(sign * value, digits)}" for value, case in rows[:SHOWN])
            lines.append(f"A furthest {words} ({title(measure)}, in {count(len(rows), 'case')}): {listed}")
    return lines


def _pooled(found: Against) -> list[str]:
    """Name the metrics that have no value per case, with what both sets have of them: a line each."""
    lines = []
    for metric in dict.fromkeys(pair.metric for pair in found.pooled):
        measure = parse_metric(metric)
        digits = digits_of(measure)
        pairs = [
            f"{pair.structure} A {_value(pair.first, digits)}, B {_value(pair.second, digits)}"
            for pair in found.pooled
            if pair.metric == metric
        ]
        lines.append(f"{title(measure)} has no value per case, so no difference is tested: {'; '.join(pairs)}")
    return ["", *lines] if lines else []


def _value(value: float | None, digits: int) -> str:
    return NOTHING if value is None else f"{value:.{digits}f}"


def _left_out(found: Against) -> list[str]:
    lines = []
    for name, cases in (("A", found.only_first), ("B", found.only_second)):
        if cases:
            lines.append(f"only in {name}, left out: {_some(cases)}")
    one_sided: dict[tuple[str, int], list[str]] = {}
    for row in (row for rows in found.rows for row in rows if row.num_one_sided and row.structure != MEAN):
        one_sided.setdefault((row.structure, row.num_one_sided), []).append(row.metric)
    for (structure, number), metrics in one_sided.items():
        which = f"where only one of the two has a value ({', '.join(metrics)})"
        lines.append(f"{structure}: {count(number, 'case')} left out, {which}")
    if found.structures_of_one:
        lines.append(f"structures that only one of the two has, left out: {', '.join(found.structures_of_one)}")
    return ["", *lines] if lines else []


def _some(cases: Sequence[str]) -> str:
    more = f" and {len(cases) - SHOWN} more (all in the record)" if len(cases) > SHOWN else ""
    return f"{count(len(cases), 'case')} ({', '.join(cases[:SHOWN])}{more})"
