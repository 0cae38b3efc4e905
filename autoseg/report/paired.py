"""Paired: two runs compared case by case, on the cases that both have scored."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autoseg.evaluation.criterion import LUCK, difference_of
from autoseg.evaluation.metric_records import Interval
from autoseg.evaluation.overlap import CaseScore, collect, mean_of
from autoseg.evaluation.run_facts import facts_of_run
from autoseg.evaluation.statistics import Difference, paired_difference
from autoseg.report.material import Material
from autoseg.report.ranges import SIGNED, Entry, RangeList, interval_text, range_list, value_text
from autoseg.report.score_tables import number
from autoseg.run_folder import RunFolder

MAX_ENTRIES = 12  # rows of a drawn list; of more structures those that differ most

Shared = tuple[CaseScore, CaseScore]
"""The scores of one case in the first and in the second run."""


@dataclass(frozen=True, kw_only=True)
class PairSection:
    """One run against the first of its group, on the cases that both have scored.

    Attributes:
        first, second: their names.
        verdict: of the mean Dice, in a sentence.
        notes: what makes the comparison doubtful.
        list: differences per structure, drawn.
        rows: structure, first, second, difference, interval, p.
        differences: what differs between the records: what, first, second.
    """

    first: str
    second: str
    verdict: str
    notes: tuple[str, ...]
    list: RangeList
    rows: tuple[tuple[str, ...], ...]
    differences: tuple[tuple[str, str, str], ...]


def shared_cases(first: Material, second: Material) -> list[Shared]:
    """Pair the cases that both runs have scored."""
    if first.scores is None or second.scores is None:
        return []
    mine = {row.case: row for row in first.scores.cases}
    return [(mine[row.case], row) for row in second.scores.cases if row.case in mine]


def pair_section(first: Material, second: Material, names: tuple[str, str]) -> PairSection:
    """Compare one run with the first, structure by structure, on the cases of both."""
    structures = first.scores.structures if first.scores is not None else ()
    shared = shared_cases(first, second)
    mine, theirs = (collect((pair[side] for pair in shared), structures) for side in (0, 1))
    overall = difference_of(theirs, mine)
    found = [difference_row("mean", overall, (mine.mean_dice, theirs.mean_dice))]
    if len(structures) > 1:
        found += [_structure(name, shared, place) for place, name in enumerate(structures)]
    title, note = f"{names[1]} minus {names[0]}", "Dice; right of the upright line the former is better"
    return PairSection(
        first=names[0],
        second=names[1],
        verdict=verdict(overall, names),
        notes=_doubts(first, second, shared),
        list=range_list(title, note, _most_different([entry for entry, _ in found]), SIGNED),
        rows=tuple(row for _, row in found),
        differences=record_differences(first.run, second.run),
    )


def record_differences(first: RunFolder, second: RunFolder) -> tuple[tuple[str, str, str], ...]:
    """List what the records of two runs say differently: what, first, second; a dash where one says nothing.

    Settings of a configuration that one run alone has are counted, not listed.
    """
    found = [facts_of_run(run).facts for run in (first, second)]
    mine, theirs = _prefixed(*found), _prefixed(*reversed(found))
    rows, alone = [], Counter[tuple[str, bool]]()
    for name in dict.fromkeys([*mine, *theirs]):
        part, colon, _ = name.partition(": ")
        if colon and (name in mine) != (name in theirs):
            alone[part, name in mine] += 1
        elif mine.get(name) != theirs.get(name):
            rows.append((name, mine.get(name, "–"), theirs.get(name, "–")))
    for (part, is_first), count in alone.items():
        text = f"{count} setting{'s' * (count != 1)} that the other lacks"
        rows.append((part, text if is_first else "–", "–" if is_first else text))
    return tuple(rows)


def _prefixed(facts: Mapping[str, str], others: Mapping[str, str]) -> dict[str, str]:
    """Name the settings of a single configuration as those of several are named, where the other run has several."""
    settings = {name.partition(": ")[2] for name in others} - {""}
    configuration = facts.get("configurations", "")
    return {f"{configuration}: {name}" if name in settings else name: value for name, value in facts.items()}


def _structure(name: str, shared: Sequence[Shared], place: int) -> tuple[Entry, tuple[str, ...]]:
    pairs = [(mine.dice[place], theirs.dice[place]) for mine, theirs in shared]
    both = [(mine, theirs) for mine, theirs in pairs if mine is not None and theirs is not None]
    found = paired_difference([theirs for _, theirs in both], [mine for mine, _ in both])
    return difference_row(name, found, (mean_of(mine for mine, _ in both), mean_of(theirs for _, theirs in both)))


def difference_row(
    name: str, found: Difference | None, means: tuple[float | None, float | None]
) -> tuple[Entry, tuple[str, ...]]:
    """Lay out one difference: as an entry to draw, and as a row of texts."""
    if found is None:
        return Entry(name=name, interval=None), (name, "–", "–", "–", "", "–")
    interval = Interval(mean=found.mean, low=found.low, high=found.high, num_cases=found.num_cases)
    texts = (*map(number, means), value_text(found.mean, SIGNED), interval_text(interval, SIGNED), p_text(found.p))
    return Entry(name=name, interval=interval), (name, *texts)


def _most_different(entries: Sequence[Entry]) -> list[Entry]:
    """Keep the mean and the structures that differ most."""
    present = [item for item in entries[1:] if item.interval is not None]
    most = sorted(present, key=lambda item: -abs(item.interval.mean) if item.interval is not None else 0.0)
    return [*entries[:1], *(present if len(present) < MAX_ENTRIES else most[: MAX_ENTRIES - 1])]


def verdict(found: Difference | None, names: tuple[str, str], score: str = "mean Dice") -> str:
    """Say which of two runs is better on the cases of both, and how sure that is; ``found`` is second minus first."""
    if found is None:
        return f"No case has a {score.removeprefix('mean ')} in both."
    cases = f"{found.num_cases} shared case{'s' * (found.num_cases != 1)}"
    if found.mean == 0:
        return f"Over {cases} the {score} is the same."
    better, worse = reversed(names) if found.mean > 0 else names
    text = f"Over {cases} the {score} of {better} is higher by {abs(found.mean):.4f}"
    if found.num_cases < 2:
        return text + "; one case tells nothing of others."
    ends = sorted((abs(found.low), abs(found.high))) if found.low * found.high > 0 else None
    text += f" (95 % interval {ends[0]:.4f} to {ends[1]:.4f})" if ends else " (the 95 % interval holds 0)"
    if found.p < LUCK:
        return f"{text}. If {better} and {worse} were equally good, luck would do this {_chance(found.p)}."
    return f"{text}. That may be luck: with equally good runs it happens {_chance(found.p)}."


def _chance(p: float) -> str:
    return f"with a probability {'below 0.001' if p < 0.001 else 'of ' + p_text(p)}"


def _doubts(first: Material, second: Material, shared: Sequence[Shared]) -> tuple[str, ...]:
    notes = []
    for which, material in (("the first", first), ("the second", second)):
        extra = len(material.scores.cases) - len(shared) if material.scores is not None else 0
        if extra:
            verbs = ("case is", "does") if extra == 1 else ("cases are", "do")
            notes.append(f"{extra} {verbs[0]} scored in {which} run alone and {verbs[1]} not count here.")
    unlike = [pair[0].case for pair in shared if pair[0].num_labelled != pair[1].num_labelled]
    if unlike:
        cases = f"{len(unlike)} shared case{'s' * (len(unlike) > 1)}"
        notes.append(
            f"The labels of {cases} differ in size between the runs, so they were not scored against the same labels: "
            f"{listed(unlike)}."
        )
    return tuple(notes)


def p_text(p: float) -> str:
    """Write a probability."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def listed(names: Sequence[str], limit: int = 5) -> str:
    """Name the first few, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
