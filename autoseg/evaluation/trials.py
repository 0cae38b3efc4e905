"""Trials: which postprocessing rules help, judged on out-of-fold predictions.

Nothing is rewritten for it: each case is reduced once to its pieces (see ``pieces``), from which the effect of any
sequence of rules is counted.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from autoseg.evaluation.overlap import (
    AnyPrediction,
    CasePrediction,
    CaseScore,
    Scores,
    Structure,
    case_score,
    collect,
    structures_of,
)
from autoseg.evaluation.pieces import PieceTable, piece_table
from autoseg.evaluation.postprocessing import ALL_FOREGROUND, FILL_HOLES, REMOVE_SMALL, Postprocessing
from planners.labels import Labels

SIZE_QUANTILES = (0.5, 0.9, 1.0)
"""Of the volumes of false components: the sizes that ``remove-small`` is tried with. Assumption: half of them, most and
all; more sizes would cost more trials and fit the cases at hand more closely."""

SIZE_DIGITS = 3  # a size is a rule of thumb that people read; it is rounded up to so many digits


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What a rule did to the out-of-fold predictions, on top of the rules accepted before it.

    Attributes:
        postprocessing: the rule.
        accepted: whether it is kept.
        mean_before, mean_after: mean foreground Dice.
        dice_before, dice_after: per structure.
        num_changed: cases in which it changed anything.
        superseded: whether it helped when it was tried, but those accepted after it do as well without it.
    """

    postprocessing: Postprocessing
    accepted: bool
    mean_before: float | None
    mean_after: float | None
    dice_before: tuple[float | None, ...]
    dice_after: tuple[float | None, ...]
    num_changed: int
    superseded: bool = False


def choose_postprocessing(
    cases: Iterable[AnyPrediction], labels: Labels
) -> tuple[tuple[Postprocessing, ...], tuple[Trial, ...], Scores]:
    """Find the rules that help, from out-of-fold predictions.

    In this order: the largest component of all foreground; of each structure; components of each structure below a size
    removed, in a few sizes of which the best counts; holes filled in all foreground and in each structure. A rule is
    accepted where the mean Dice rises and that of no structure falls, against the predictions as the rules accepted so
    far leave them. Structures that are absent everywhere before or after a rule are left out of that comparison. In the
    end each accepted rule is taken away once: what does as well without it goes without it.

    Args:
        cases: read once; one is held in memory at a time.
        labels: the classes of the dataset.

    Returns:
        The accepted rules, all trials, and the scores with the accepted rules applied.

    Source: nnU-Net v2.8.1 (``determine_postprocessing``) for the largest components and their order; it lets one
    structure's rule lower another's Dice (regions) and knows neither sizes nor holes.
    """
    structures = structures_of(labels)
    found = (CasePrediction(*case) for case in cases)
    judge = _Judge(
        [piece_table(item.case, item.label, item.prediction, labels, item.annotated, item.voxel_mm3) for item in found],
        structures,
    )
    foreground = tuple(sorted({index for item in structures for index in item.classes if index}))
    everything = Postprocessing(name=ALL_FOREGROUND, classes=foreground)
    single = [
        Postprocessing(name=item.name, classes=classes)
        for item in structures
        if (classes := tuple(index for index in item.classes if index))  # a region may hold background
    ]
    several = single if len(structures) > 1 else []
    for rule in (everything, *several):
        judge.attempt([rule])
    for rule in single:
        judge.attempt([replace(rule, rule=REMOVE_SMALL, size_mm3=size) for size in judge.sizes(rule)])
    for rule in (everything, *several):
        judge.attempt([replace(rule, rule=FILL_HOLES)])
    judge.drop_superseded()
    return tuple(judge.accepted), tuple(judge.trials), judge.scores


class _Judge:
    """The predictions as the rules accepted so far leave them."""

    def __init__(self, tables: Sequence[PieceTable], structures: Sequence[Structure]) -> None:
        self.tables, self.structures = tables, structures
        self.now: list[np.ndarray] = [table.classes for table in tables]
        self.rows = [self._row(table, now) for table, now in zip(self.tables, self.now, strict=True)]
        self.first = self.scores = self._collect(self.rows)
        self.trials: list[Trial] = []
        self.accepted: list[Postprocessing] = []

    def sizes(self, rule: Postprocessing) -> list[float]:
        """List the sizes (mm³) to try for a structure: just above some quantiles of its false components."""
        false: list[np.ndarray] = []
        for table, now in zip(self.tables, self.now, strict=True):
            if table.annotated is None or set(rule.classes) <= {*table.annotated}:
                volumes, wrong = table.component_sizes(now, rule.classes)
                false.append(volumes[wrong])
        volumes = np.concatenate([np.zeros(0), *false])
        if not volumes.size:
            return []
        found = np.quantile(volumes, SIZE_QUANTILES, method="higher")
        return sorted({_just_above(float(value)) for value in found})

    def attempt(self, rules: Sequence[Postprocessing]) -> None:
        """Try some rules, one of which may be accepted: that with the highest mean among those that help."""
        best: tuple[float, int] | None = None
        states = []
        for rule in rules:
            now = [table.after(before, rule) for table, before in zip(self.tables, self.now, strict=True)]
            rows = [
                row if after is before else self._row(table, after)
                for table, row, before, after in zip(self.tables, self.rows, self.now, now, strict=True)
            ]
            scores = self._collect(rows)
            states.append((now, rows, scores))
            trial = self._trial(rule, scores, sum(a is not b for a, b in zip(now, self.now, strict=True)))
            self.trials.append(trial)
            if _helps(self.scores, scores) and (best is None or (scores.mean_dice or 0.0) > best[0]):
                best = scores.mean_dice or 0.0, len(states) - 1
        if best is not None:
            self.now, self.rows, self.scores = states[best[1]]
            place = len(self.trials) - len(rules) + best[1]
            self.trials[place] = replace(self.trials[place], accepted=True)
            self.accepted.append(rules[best[1]])

    def drop_superseded(self) -> None:
        """Take away, one after the other from the first, the rules without which the mean is no lower."""
        for rule in list(self.accepted):
            rest = [item for item in self.accepted if item != rule]
            rows = []
            for table in self.tables:
                now = table.classes
                for item in rest:
                    now = table.after(now, item)
                rows.append(self._row(table, now))
            scores = self._collect(rows)
            if (scores.mean_dice or 0.0) >= (self.scores.mean_dice or 0.0) and not _falling(self.first, scores):
                self.accepted, self.scores = rest, scores
                place = next(index for index, trial in enumerate(self.trials) if trial.postprocessing == rule)
                self.trials[place] = replace(self.trials[place], accepted=False, superseded=True)

    def _trial(self, rule: Postprocessing, after: Scores, num_changed: int) -> Trial:
        return Trial(
            postprocessing=rule,
            accepted=False,
            mean_before=self.scores.mean_dice,
            mean_after=after.mean_dice,
            dice_before=self.scores.dice,
            dice_after=after.dice,
            num_changed=num_changed,
        )

    def _row(self, table: PieceTable, now: np.ndarray) -> CaseScore:
        return case_score(table.case, table.histogram_after(now), self.structures, table.annotated)

    def _collect(self, rows: Iterable[CaseScore]) -> Scores:
        return collect(rows, [item.name for item in self.structures])


def _helps(before: Scores, after: Scores) -> bool:
    """Some structure's Dice rises and none falls: then, and only then, the mean rises and no structure suffers."""
    pairs = [(b, a) for b, a in zip(before.dice, after.dice, strict=True) if b is not None and a is not None]
    return any(a > b for b, a in pairs) and all(a >= b for b, a in pairs)


def _falling(before: Scores, after: Scores) -> bool:
    return any(b is not None and a is not None and a < b for b, a in zip(before.dice, after.dice, strict=True))


def _just_above(volume: float) -> float:
    """Round up to ``SIZE_DIGITS`` digits, to a number that is larger."""
    digit = 10.0 ** (int(np.floor(np.log10(volume))) + 1 - SIZE_DIGITS)
    rounded = float(f"{(np.floor(volume / digit) + 1) * digit:.{SIZE_DIGITS}g}")
    return rounded if rounded > volume else float(np.nextafter(volume, np.inf))
