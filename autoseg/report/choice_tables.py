"""Choice tables: everything that was compared before the choice, and what postprocessing did, as rows of texts."""

from dataclasses import dataclass

from markupsafe import Markup

from autoseg.evaluation.overlap import score_text
from autoseg.evaluation.postprocessing import Postprocessing, describe
from autoseg.evaluation.selection import Candidate, Choice
from autoseg.evaluation.trials import Trial
from autoseg.report.charts import number_text
from autoseg.report.material import Material
from autoseg.report.object_statistics import decode_text
from autoseg.report.ranges import Entry, draw_range, interval_text, scale_of

MAX_COLUMNS = 10  # structures that fit a table's width
MAX_CANDIDATES = 30  # the rest, the lowest, is in choice.json
SMALLEST = 5e-5  # smaller changes vanish in four digits


@dataclass(frozen=True, kw_only=True)
class CandidateRow:
    """One candidate: its name, score with interval, the drawing of it or a bar, Dice per structure, decode settings.

    Dice that nobody measured is a dash: that of an average, where candidates are judged by their objects.
    """

    name: str
    value: str
    interval: str
    drawing: Markup
    fill: float
    others: tuple[str, ...]
    chosen: bool
    settings: str = ""
    touching: str = ""
    touching_interval: str = ""


@dataclass(frozen=True, kw_only=True)
class CandidateTable:
    """All candidates on one scale; ``title`` names the score, ``hidden`` of the lowest are left out.

    ``dice_title`` says of which Dice the columns of structures are, where that is not the score.
    """

    title: str
    rows: tuple[CandidateRow, ...]
    structures: tuple[str, ...]
    low: str
    high: str
    has_intervals: bool
    hidden: int
    dice_title: str = ""

    @property
    def has_settings(self) -> bool:
        """Whether there are decoders whose settings are told."""
        return any(row.settings for row in self.rows)

    @property
    def has_touching(self) -> bool:
        """Whether there are scores of the cases whose objects touch."""
        return any(row.touching for row in self.rows)


@dataclass(frozen=True, kw_only=True)
class ChangeRow:
    """Dice of one structure before and after postprocessing, the change with its sign, and its direction."""

    name: str
    before: str
    after: str
    change: str
    rises: bool | None


@dataclass(frozen=True, kw_only=True)
class TrialRow:
    """One postprocessing rule that was tried."""

    rule: str
    before: str
    after: str
    num_changed: int
    accepted: bool


def candidate_table(material: Material) -> CandidateTable | None:
    """Lay out the candidates, the best first."""
    choice = material.choice
    if choice is None:
        return None
    ranked = sorted(choice.candidates, key=lambda item: -_rank(item))
    chosen = next((item for item in ranked if is_chosen(item, material)), None)
    shown = ranked[:MAX_CANDIDATES]
    if chosen is not None and chosen not in shown:
        shown = [*shown[:-1], chosen]
    intervals = [item.interval for item in shown if item.interval is not None]
    low, high = scale_of(intervals, (0.0, 1.0)) if intervals else (0.0, 1.0)
    many = len(choice.structures) > MAX_COLUMNS or len(choice.structures) < 2
    title = criterion_title(choice)
    return CandidateTable(
        title=title,
        rows=tuple(_candidate_row(item, (low, high, title), many, item is chosen) for item in shown),
        structures=() if many else choice.structures,
        low=number_text(low),
        high=number_text(high),
        has_intervals=bool(intervals),
        hidden=len(ranked) - len(shown),
        dice_title="Dice, as planned" if any(item.score is not None for item in choice.candidates) else "",
    )


def is_chosen(candidate: Candidate, material: Material) -> bool:
    """Tell whether a candidate is what segments new images."""
    choice = material.choice
    if choice is None or candidate.configurations != choice.configurations:
        return False
    return even(candidate.weights) == even(choice.weights)


def even(weights: tuple[float, ...]) -> tuple[float, ...]:
    """Give weights that differ; none where all are alike."""
    return weights if len(set(weights)) > 1 else ()


def criterion_title(choice: Choice) -> str:
    """Name what candidates were compared by, short enough for the head of a column."""
    if choice.score is None and all(item.score is None for item in choice.candidates):
        return "mean Dice"
    words = choice.criterion.replace("@", " @ ").split()
    return "\N{NO-BREAK SPACE}".join(words[: 4 if "@" in choice.criterion else 2])


def score_of(candidate: Candidate) -> float | None:
    """Give what a candidate was judged by: the criterion's score, where that is not the mean Dice."""
    return candidate.mean_dice if candidate.score is None else candidate.score


def _rank(candidate: Candidate) -> float:
    score = score_of(candidate)
    return -1.0 if score is None else score


def _candidate_row(item: Candidate, scale: tuple[float, float, str], many: bool, chosen: bool) -> CandidateRow:
    low, high, title = scale
    score = score_of(item)
    return CandidateRow(
        name=item.name,
        value="not scored" if score is None else score_text(score),
        interval=interval_text(item.interval),
        drawing=draw_range(Entry(name=item.name, interval=item.interval), low, high, f"{title} of {item.name}"),
        fill=score or 0.0,
        others=() if many else _dice_texts(item),
        chosen=chosen,
        settings="" if item.score is None else decode_text(item.decode) or "the settings as planned",
        touching="" if item.touching is None else score_text(item.touching.mean),
        touching_interval=interval_text(item.touching),
    )


def _dice_texts(item: Candidate) -> tuple[str, ...]:
    if item.score is not None and item.mean_dice is None:
        return ("–",) * len(item.dice)
    return tuple(map(score_text, item.dice))


def change_rows(material: Material) -> tuple[ChangeRow, ...]:
    """Lay out Dice before and after all accepted rules: the mean, then every structure; empty where none is used."""
    choice = material.choice
    if choice is None or not choice.postprocessing:
        return ()
    before, per_structure = choice.mean_before, choice.dice_before
    accepted = [trial for trial in choice.trials if trial.accepted]
    if before is None and accepted:  # a choice made before these were kept
        before, per_structure = accepted[0].mean_before, accepted[0].dice_before
    rows = [_change("mean", before, choice.mean_dice)]
    if len(choice.structures) > 1 and len(per_structure) == len(choice.structures):
        pairs = zip(choice.structures, per_structure, choice.dice, strict=True)
        rows += [_change(name, first, second) for name, first, second in pairs]
    return tuple(rows)


def _change(name: str, before: float | None, after: float | None) -> ChangeRow:
    change, rises = "", None
    if before is not None and after is not None:
        difference = after - before
        rises = None if difference == 0 else difference > 0
        change = f"{difference:+.4f}".replace("-", "\u2212")
        if abs(difference) < SMALLEST:
            change = "0" if rises is None else "less than 0.0001"
    return ChangeRow(name=name, before=score_text(before), after=score_text(after), change=change, rises=rises)


def trial_rows(material: Material) -> tuple[TrialRow, ...]:
    """Lay out the postprocessing trials, in the order in which they were tried."""
    choice = material.choice
    if choice is None:
        return ()
    return tuple(_trial_row(trial, choice.structures) for trial in choice.trials)


def _trial_row(trial: Trial, structures: tuple[str, ...]) -> TrialRow:
    before, after, name = trial.mean_before, trial.mean_after, trial.postprocessing.name
    if name in structures:
        index = structures.index(name)
        before, after = trial.dice_before[index], trial.dice_after[index]
    return TrialRow(
        rule=rule_text(trial.postprocessing),
        before=score_text(before),
        after=score_text(after),
        num_changed=trial.num_changed,
        accepted=trial.accepted,
    )


def rule_text(rule: Postprocessing) -> str:
    """Say what a rule does, and to what."""
    return f"of {rule.name}, {describe(rule)}"
