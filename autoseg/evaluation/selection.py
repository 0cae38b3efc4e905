"""Selection: which configurations, together or alone, and with which postprocessing, segment new images.

Every configuration and every pair of them is a candidate, judged by its mean foreground Dice over out-of-fold
predictions: predictions of cases that the network which made them has not seen.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from autoseg.evaluation.overlap import AnyPrediction, Scores, collect, score_text
from autoseg.evaluation.postprocessing import Postprocessing, Trial, choose_postprocessing
from planners.decision import cases as count_cases
from planners.labels import Labels
from planners.plan import Reason

CRITERION = "mean foreground Dice over out-of-fold predictions"

Names = tuple[str, ...]
"""The configurations of a candidate: one, or two whose probabilities are averaged."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One thing that could be chosen, with its scores before postprocessing.

    Attributes:
        name: for people: ``3d_fullres``, ``2d + 3d_fullres``.
        configurations: whose probabilities are averaged.
        mean_dice, mean_iou: mean over the foreground structures, None where nothing could be scored.
        dice: per structure.
    """

    name: str
    configurations: Names
    mean_dice: float | None
    mean_iou: float | None
    dice: tuple[float | None, ...]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What segments new images, and why (``choice.json``).

    Attributes:
        configurations: whose probabilities are averaged.
        folds: whose networks are averaged within a configuration.
        postprocessing: rules to apply to the segmentation, in this order.
        structures: names of what was scored.
        num_cases: cases with out-of-fold predictions of every candidate.
        criterion: what was maximised, before postprocessing.
        mean_dice, mean_iou, dice: with the postprocessing applied; None where nothing could be scored.
        candidates: in the order in which ties are decided.
        trials: every postprocessing rule that was tried, before and after.
        reasons: why this and no other.
    """

    configurations: Names
    folds: tuple[int | str, ...]
    postprocessing: tuple[Postprocessing, ...]
    structures: tuple[str, ...]
    num_cases: int
    criterion: str = CRITERION
    mean_dice: float | None
    mean_iou: float | None
    dice: tuple[float | None, ...]
    candidates: tuple[Candidate, ...]
    trials: tuple[Trial, ...]
    reasons: tuple[Reason, ...]


def candidates_of(configurations: Sequence[str]) -> tuple[Names, ...]:
    """List the candidates: every configuration, then every pair, in the plan's order."""
    return (*((name,) for name in configurations), *itertools.combinations(configurations, 2))


def candidate_name(configurations: Names) -> str:
    """Name a candidate for people."""
    return " + ".join(configurations)


def choose(
    scores: Mapping[Names, Scores],
    read: Callable[[Names], Iterable[AnyPrediction]],
    labels: Labels,
    folds: Sequence[int | str],
) -> tuple[Choice, Scores]:
    """Choose the best candidate and its postprocessing.

    The highest mean foreground Dice wins; of equals the first. Only cases that every candidate has predicted count.

    Args:
        scores: per candidate, the scores of its out-of-fold predictions; the order decides ties.
        read: gives a candidate's out-of-fold predictions, one case at a time; called once, for the winner.
        labels: the classes of the dataset.
        folds: the trained folds.

    Returns:
        The choice, and the scores of its cases with the postprocessing applied.

    Raises:
        ValueError: there is no candidate.

    Source: nnU-Net v2.8.1 (``find_best_configuration``).
    """
    if not scores:
        raise ValueError("there is no candidate to choose from")
    compared = _on_equal_cases(scores)
    candidates = tuple(_candidate(names, found) for names, found in compared.items())
    measured = [item for item in candidates if item.mean_dice is not None]
    if not measured:
        return _unmeasured(candidates, next(iter(compared.values())), folds)
    best = max(measured, key=lambda item: item.mean_dice or 0.0)  # max gives the first of equals
    before = compared[best.configurations]
    wanted = {row.case for row in before.cases}
    rules, trials, after = choose_postprocessing(
        (case for case in read(best.configurations) if case[0] in wanted), labels
    )
    reasons = (_why_best(best, measured, compared), *(_why_rule(trial, before.structures) for trial in trials))
    choice = _choice(best.configurations, candidates, after, folds, reasons)
    return replace(choice, postprocessing=rules, trials=trials), after


def _on_equal_cases(scores: Mapping[Names, Scores]) -> dict[Names, Scores]:
    shared = set.intersection(*({row.case for row in item.cases} for item in scores.values()))
    return {
        names: collect((row for row in item.cases if row.case in shared), item.structures)
        for names, item in scores.items()
    }


def _candidate(names: Names, scores: Scores) -> Candidate:
    return Candidate(
        name=candidate_name(names),
        configurations=names,
        mean_dice=scores.mean_dice,
        mean_iou=scores.mean_iou,
        dice=scores.dice,
    )


def _choice(
    names: Names,
    candidates: tuple[Candidate, ...],
    scores: Scores,
    folds: Sequence[int | str],
    reasons: tuple[Reason, ...],
) -> Choice:
    return Choice(
        configurations=names,
        folds=tuple(folds),
        postprocessing=(),
        structures=scores.structures,
        num_cases=len(scores.cases),
        mean_dice=scores.mean_dice,
        mean_iou=scores.mean_iou,
        dice=scores.dice,
        candidates=candidates,
        trials=(),
        reasons=reasons,
    )


def _unmeasured(candidates: tuple[Candidate, ...], scores: Scores, folds: Sequence[int | str]) -> tuple[Choice, Scores]:
    """Without out-of-fold scores take the first configuration: a plan lists those in 3D first.

    That 3D is the better single one is an assumption; it was on most of the datasets of Isensee et al. 2021.
    """
    best = candidates[0]
    because = "no foreground in any label or prediction" if scores.cases else "no case has out-of-fold predictions"
    rest = "; the first configuration of the plan is taken, without postprocessing"
    reason = Reason(about="choice.configurations", rule="nothing-to-compare", because=because + rest)
    return _choice(best.configurations, candidates, scores, folds, (reason,)), scores


def _why_best(best: Candidate, measured: Sequence[Candidate], scores: Mapping[Names, Scores]) -> Reason:
    others = sorted((item for item in measured if item is not best), key=lambda item: -(item.mean_dice or 0.0))
    if not others:
        because = f"mean Dice {score_text(best.mean_dice)}; the only candidate"
        return Reason(about="choice.configurations", rule="only-candidate", because=because)
    second = others[0]
    rows = zip(scores[best.configurations].cases, scores[second.configurations].cases, strict=True)
    pairs = [(a.mean_dice, b.mean_dice) for a, b in rows if a.mean_dice is not None and b.mean_dice is not None]
    better = sum(a > b for a, b in pairs)
    listed = ", ".join(f"{item.name} {score_text(item.mean_dice)}" for item in others)
    because = f"mean Dice {score_text(best.mean_dice)} against {listed}; "
    because += f"better than {second.name} in {better} of {len(pairs)} cases"
    if best.mean_dice == second.mean_dice:
        because += "; of equals the first is taken"
    return Reason(about="choice.configurations", rule="highest-mean-dice", because=because)


def _why_rule(trial: Trial, structures: Sequence[str]) -> Reason:
    rule = trial.postprocessing
    about = f"choice.postprocessing.{rule.name}"
    if not trial.num_changed:
        return Reason(
            about=about, rule="changes-nothing", because="no prediction has more than one component; not used"
        )
    if rule.name in structures:
        index = structures.index(rule.name)
        numbers = f"its Dice {score_text(trial.dice_before[index])} → {score_text(trial.dice_after[index])}"
    else:
        numbers = f"mean Dice {score_text(trial.mean_before)} → {score_text(trial.mean_after)}"
        numbers += _falling(trial, structures)
    verdict = "used" if trial.accepted else "not used"
    changed = count_cases(trial.num_changed)
    because = f"{numbers} when only the largest component is kept (it changes {changed}); {verdict}"
    return Reason(about=about, rule="helps" if trial.accepted else "does-not-help", because=because)


def _falling(trial: Trial, structures: Sequence[str]) -> str:
    changes = zip(structures, trial.dice_before, trial.dice_after, strict=True)
    falling = [name for name, before, after in changes if before is not None and after is not None and after < before]
    return f", that of {', '.join(falling)} falls" if falling and not trial.accepted else ""
