"""Run differences: what differs between the two runs that made two folders of predictions.

Most published comparisons fail there: other cases, another channel, other folds, mirroring switched off, a tenth of
the epochs. A folder's run is found where the folder lies inside one, or is named in its ``predictions.json``; what that
file keeps of the run helps where the run itself is gone.
"""

import dataclasses
import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoseg.data.check_problem import count
from autoseg.errors import AutosegError
from autoseg.evaluation.run_facts import Makers, RunFacts, facts_of_run, makers_of_new_cases
from autoseg.run_folder import RunFolder

RECORD = "predictions.json"
SHOWN = 5  # cases named in a line; the record has all
CELL = 38  # characters of a value in the table; the record has it whole
WIDTH = 100  # characters of a line of names
MAIN = (
    *("dataset", "trained on", "validated on", "channels", "labels", "configurations", "folds", "postprocessing"),
    "objects found with",
    *("mirrored axes", "epochs", "epochs done", "steps per epoch", "budget", "planner", "seed", "patch size"),
)
"""Facts that come first; of those that are equal only these are named."""
UNKNOWN = "–"


@dataclass(frozen=True, kw_only=True)
class RunOrigin:
    """Where a folder of predictions comes from.

    Attributes:
        folder: of the predictions.
        run: the run's folder; empty where it was not found.
        how: how that is known, or why it is not.
        facts: what the predictions depend on, by name.
        trained, validated: cases of the folds that made them; empty where not known.
        seen: cases among the predictions that a network which predicted them was trained on.
        notes: what could not be read.
    """

    folder: str
    run: str = ""
    how: str
    facts: dict[str, str]
    trained: tuple[str, ...] = ()
    validated: tuple[str, ...] = ()
    seen: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class FactDifference:
    """One thing that differs; None where it is not known, or does not apply."""

    name: str
    first: str | None
    second: str | None


@dataclass(frozen=True, kw_only=True)
class RunDifferences:
    """What differs between two runs.

    Attributes:
        first, second: where the predictions come from.
        differing: what differs, or is known of one alone.
        same: names of what is equal.
    """

    first: RunOrigin
    second: RunOrigin
    differing: tuple[FactDifference, ...]
    same: tuple[str, ...]

    def text(self) -> str:
        """Lay out what differs for the terminal; A is the first, B the second."""
        lines = []
        for letter, origin in (("A", self.first), ("B", self.second)):
            lines += [f"{letter}: {origin.how}", *(f"{letter}: {note}" for note in origin.notes)]
        if self.first.facts and self.second.facts:
            lines += _table(self)
        else:
            lines.append("What differs between the two runs cannot be told.")
        for letter, origin in (("A", self.first), ("B", self.second)):
            if origin.seen:
                lines.append(f"Careful: {letter} was trained on {_some(origin.seen)} that it predicts here.")
        return "\n".join(lines).rstrip()


def differences(first: Path, second: Path) -> RunDifferences:
    """Tell what differs between the runs that made two folders of predictions. What is not known is said.

    Args:
        first, second: the folders; a file stands for the folder it lies in.
    """
    one, other = origin_of(first), origin_of(second)
    names = list(dict.fromkeys([*one.facts, *other.facts]))
    names.sort(key=lambda name: MAIN.index(name) if name in MAIN else len(MAIN))
    unequal = [name for name in names if one.facts.get(name) != other.facts.get(name)]
    return RunDifferences(
        first=one,
        second=other,
        differing=tuple(
            FactDifference(name=name, first=one.facts.get(name), second=other.facts.get(name)) for name in unequal
        ),
        same=tuple(name for name in names if name not in unequal),
    )


def origin_of(predictions: Path) -> RunOrigin:
    """Find the run that made a folder of predictions, and what it says of itself."""
    folder = (predictions.parent if predictions.is_file() else predictions).resolve()
    place = _place_in_run(folder)
    if place is not None:
        run, makers, notes = place
        return _origin(folder, run, f"made by the run {run.root}, in which it lies", facts_of_run(run, makers), notes)
    record, notes = _read_record(folder)
    if record is None:
        how = f"no run found: {folder} lies in no run folder and holds no {RECORD} that names one"
        return RunOrigin(folder=str(folder), how=how, facts={}, notes=notes)
    model, kept = str(record.get("model", "")), _kept_facts(record)
    run = RunFolder(Path(model))
    if not model or not run.plan_file.is_file():
        how = f"made by {model or 'an unnamed model'}, where no run is now; told is what {RECORD} keeps of it"
        return RunOrigin(folder=str(folder), how=how, facts=kept or _few_facts(record), notes=notes)
    now = facts_of_run(run)
    changed = sorted(name for name, text in kept.items() if now.facts.get(name, text) != text)
    if changed:  # what was kept when the predictions were made holds, whatever has become of the run since
        notes = (*notes, f"the run has changed since it made them ({', '.join(changed)}); told is how it was")
    found = dataclasses.replace(now, facts={**now.facts, **kept})
    return _origin(folder, run, f"made by the run {model}, as {RECORD} says", found, notes)


def _origin(folder: Path, run: RunFolder, how: str, found: RunFacts, notes: tuple[str, ...]) -> RunOrigin:
    seen = set() if found.out_of_fold else set(found.trained) & _cases_in(folder)
    return RunOrigin(
        folder=str(folder),
        run=str(run.root),
        how=how,
        facts=found.facts,
        trained=found.trained,
        validated=found.validated,
        seen=tuple(sorted(seen)),
        notes=(*notes, *found.notes),
    )


def _place_in_run(folder: Path) -> tuple[RunFolder, Makers | None, tuple[str, ...]] | None:
    """Tell the run that a folder lies in, and which of its networks write there; None: it lies in none."""
    is_fold = folder.name == "validation" and folder.parent.name.startswith("fold_") and len(folder.parents) > 3
    if is_fold and RunFolder(folder.parents[3]).plan_file.is_file():
        fold = folder.parent.name.removeprefix("fold_")
        makers = Makers(configurations=(folder.parents[1].name,), folds=(int(fold) if fold.isdigit() else fold,))
        return RunFolder(folder.parents[3]), makers, ()
    run = RunFolder(folder.parent)
    if folder not in (run.predictions, run.out_of_fold) or not run.plan_file.is_file():
        return None
    if folder == run.predictions:
        return run, None, ()
    try:
        makers = dataclasses.replace(makers_of_new_cases(run), postprocessing=(), out_of_fold=True)
    except AutosegError as fault:
        return run, None, (str(fault),)
    return run, makers, ()


def _read_record(folder: Path) -> tuple[dict[str, Any] | None, tuple[str, ...]]:
    """Read what a folder says of its model; whatever wrote it, one name is enough."""
    try:
        found = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None, ()
    except (OSError, ValueError) as fault:
        return None, (f"{folder / RECORD} cannot be read: {fault}",)
    return (found, ()) if isinstance(found, dict) else (None, (f"{folder / RECORD} is no record of predictions",))


def _kept_facts(record: Mapping[str, Any]) -> dict[str, str]:
    kept = record.get("facts")
    return {str(name): str(text) for name, text in kept.items()} if isinstance(kept, dict) else {}


def _few_facts(record: Mapping[str, Any]) -> dict[str, str]:
    """What a record without facts says all the same."""
    labels = record.get("labels")
    facts = {"configurations": str(record["networks"])} if record.get("networks") else {}
    if isinstance(labels, dict) and labels:
        facts["labels"] = ", ".join(f"{name} = {value}" for name, value in labels.items())
    return facts


def _cases_in(folder: Path) -> set[str]:
    from autoseg.data.io import READERS, image_ending, image_stem

    if not folder.is_dir():
        return set()
    return {image_stem(path) for path in folder.iterdir() if path.is_file() and image_ending(path) in READERS}


def _table(found: RunDifferences) -> list[str]:
    lines = []
    if found.differing:
        rows = [("", "A", "B"), *((item.name, _cell(item.first), _cell(item.second)) for item in found.differing)]
        widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
        lines += ["", "what differs between the two runs"]
        lines += [f"  {name.ljust(widths[0])}  {one.ljust(widths[1])}  {other}".rstrip() for name, one, other in rows]
        for name, one, other in (
            ("trained", found.first.trained, found.second.trained),
            ("validated", found.first.validated, found.second.validated),
        ):
            lines += _cases_of_one(name, one, other)
    if found.same:
        alike = "the same in both: " if found.differing else "Nothing that is known differs between the two runs: "
        named = [name for name in found.same if name in MAIN]
        others = [f"{len(found.same) - len(named)} other settings"] if len(found.same) > len(named) else []
        lines += ["", *textwrap.wrap(alike + ", ".join([*named, *others]), WIDTH)]
    return [*lines, ""]


def _cases_of_one(what: str, one: Sequence[str], other: Sequence[str]) -> list[str]:
    if not one or not other:
        return []
    only = (("A", set(one) - set(other)), ("B", set(other) - set(one)))
    return [f"  {what} on in {letter} alone: {_some(sorted(cases))}" for letter, cases in only if cases]


def _cell(text: str | None) -> str:
    if text is None:
        return UNKNOWN
    return text if len(text) <= CELL else text[: CELL - 1] + "…"


def _some(cases: Sequence[str]) -> str:
    more = f" and {len(cases) - SHOWN} more" if len(cases) > SHOWN else ""
    return f"{count(len(cases), 'case')} ({', '.join(cases[:SHOWN])}{more})"
