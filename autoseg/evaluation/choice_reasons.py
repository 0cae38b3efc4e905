"""Why this and no other: the reasons of a choice, in words with their numbers."""

from collections.abc import Sequence

from autoseg.evaluation.criterion import difference_of, interval_of
from autoseg.evaluation.overlap import Scores, score_text
from autoseg.evaluation.postprocessing import describe
from autoseg.evaluation.statistics import Difference
from autoseg.evaluation.trials import Trial
from autoseg.evaluation.weights import Weighted, weights_text
from planners.decision import cases as count_cases
from planners.plan import Reason

NUM_NAMED = 6  # assumption: so many candidates fit a line or two; all are in the record


def why_best(chosen: str, measured: Sequence[tuple[str, Scores]]) -> Reason:
    """Say why a candidate is chosen.

    Args:
        chosen: its name.
        measured: name and scores of every candidate that has any, on the same cases; ties were decided in this order.
    """
    best = next(scores for name, scores in measured if name == chosen)
    others = sorted(
        ((name, scores) for name, scores in measured if name != chosen), key=lambda item: -(item[1].mean_dice or 0.0)
    )
    own = f"mean Dice {_score_with_interval(best)}"
    if not others:
        return Reason(about="choice.configurations", rule="only-candidate", because=f"{own}; the only candidate")
    second, scores = others[0]
    listed = ", ".join(f"{name} {_score_with_interval(found)}" for name, found in others[:NUM_NAMED])
    if len(others) > NUM_NAMED:
        listed += f" and {len(others) - NUM_NAMED} more"
    because = f"{own}, of {len(measured)} candidates, against {listed}; {_compared(best, scores, second)}"
    if best.mean_dice == scores.mean_dice:
        because += "; of equals the first is taken"
    return Reason(about="choice.configurations", rule="highest-mean-dice", because=because)


def why_weights(fitted: Sequence[tuple[str, Weighted]]) -> tuple[Reason, ...]:
    """Say which weights were accepted, and of the others how much the best would have gained."""
    reasons = []
    judged = "scored with weights fitted on the other folds"
    for name, item in fitted:
        if item.accepted:
            folds = ", ".join(f"fold {fold} {weights_text(found)}" for fold, found in item.by_fold.items())
            because = f"{name}, {judged} ({folds}), is better than equal weights by {difference_text(item.difference)}"
            reasons.append(Reason(about="choice.weights", rule="weights-win", because=because))
    rest = [item for _, item in fitted if not item.accepted and item.difference is not None]
    if rest:
        best = max(rest, key=lambda item: item.difference.mean if item.difference is not None else 0.0)
        ensemble = " + ".join(best.configurations)
        because = f"{len(rest)} ensemble{'s' * (len(rest) > 1)} with unequal weights, {judged}: not better than equal "
        because += f"ones by more than luck (the best, {ensemble}: by {difference_text(best.difference)})"
        reasons.append(Reason(about="choice.weights", rule="equal-weights", because=because))
    return tuple(reasons)


def why_rules(trials: Sequence[Trial], structures: Sequence[str]) -> tuple[Reason, ...]:
    """Say which postprocessing rules are used and what they did; the others in a line per kind of rule."""
    reasons = [_why_rule(trial, structures) for trial in trials if trial.accepted or trial.superseded]
    rest = [trial for trial in trials if not trial.accepted and not trial.superseded]
    for kind in dict.fromkeys(trial.postprocessing.rule for trial in rest):
        about, same = f"choice.postprocessing.{kind}", [trial for trial in rest if trial.postprocessing.rule == kind]
        tried = [trial for trial in same if trial.num_changed]
        if tried:
            because = f"not used: {'; '.join(_attempt(trial, structures) for trial in tried)}"
            reasons.append(Reason(about=about, rule="does-not-help", because=because))
        if len(tried) < len(same):
            idle = dict.fromkeys(trial.postprocessing.name for trial in same if not trial.num_changed)
            because = f"not used, since it changes no prediction: {', '.join(idle)}"
            reasons.append(Reason(about=about, rule="changes-nothing", because=because))
    return tuple(reasons)


def difference_text(difference: Difference | None) -> str:
    """Write a difference with its interval, and how likely luck alone would be: ``0.0040 (−0.0010 … 0.0090)``."""
    if difference is None:
        return "nothing that can be measured"
    low, high = signed(difference.low), signed(difference.high)
    return f"{signed(difference.mean)} ({low} … {high}, p {difference.p:.2g})"


def signed(value: float) -> str:
    """Write a number with four digits and a true minus sign."""
    return f"{value:.4f}".replace("-", "−")


def _score_with_interval(scores: Scores) -> str:
    interval = interval_of(scores)
    ends = "" if interval is None else f" ({score_text(interval.low)} … {score_text(interval.high)})"
    return score_text(scores.mean_dice) + ends


def _compared(first: Scores, second: Scores, name: str) -> str:
    rows = zip(first.cases, second.cases, strict=True)
    pairs = [(a.mean_dice, b.mean_dice) for a, b in rows if a.mean_dice is not None and b.mean_dice is not None]
    better = sum(a > b for a, b in pairs)
    text = f"better than {name} in {better} of {len(pairs)} cases, by {difference_text(difference_of(first, second))}"
    difference = difference_of(first, second)
    unsure = difference is not None and difference.low <= 0 and first.mean_dice != second.mean_dice
    return text + (", which may be luck" if unsure else "")


def _why_rule(trial: Trial, structures: Sequence[str]) -> Reason:
    rule, verdict = trial.postprocessing, "used"
    if trial.superseded:
        verdict = "not used, since the rules after it do as well without it"
    because = f"{_numbers(trial, structures)} when {describe(rule)} (it changes {count_cases(trial.num_changed)}); "
    kind = "superseded" if trial.superseded else "helps"
    return Reason(about=f"choice.postprocessing.{rule.name}", rule=kind, because=because + verdict)


def _numbers(trial: Trial, structures: Sequence[str]) -> str:
    text = f"mean Dice {score_text(trial.mean_before)} → {score_text(trial.mean_after)}"
    if trial.postprocessing.name in structures and len(structures) > 1:
        index = structures.index(trial.postprocessing.name)
        text += f", its own {score_text(trial.dice_before[index])} → {score_text(trial.dice_after[index])}"
    return text


def _attempt(trial: Trial, structures: Sequence[str]) -> str:
    """Say what became of a rule that is not used: ``liver below 12 mm³ 0.9000 → 0.8900, that of liver falls``."""
    rule = trial.postprocessing
    size = "" if rule.size_mm3 is None else f" below {rule.size_mm3:g} mm³"
    text = f"{rule.name}{size} {score_text(trial.mean_before)} → {score_text(trial.mean_after)}"
    changes = zip(structures, trial.dice_before, trial.dice_after, strict=True)
    falling = [name for name, before, after in changes if before is not None and after is not None and after < before]
    return text + (f", that of {', '.join(falling)} falls" if falling else "")
