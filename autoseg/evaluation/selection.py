"""Selection: which configurations, together or alone, and with which postprocessing, segment new images.

Every configuration, every pair of them and, of three or more, all of them together are candidates, judged by their mean
foreground Dice over out-of-fold predictions: predictions of cases that the networks which made them have not seen.
Averages with unequal weights are candidates only where they win out of fold too (``weights``).
"""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from autoseg.evaluation.choice_reasons import why_best, why_rules, why_weights
from autoseg.evaluation.criterion import CRITERION, interval_of
from autoseg.evaluation.metric_records import Interval
from autoseg.evaluation.overlap import AnyPrediction, Scores, collect
from autoseg.evaluation.postprocessing import Postprocessing
from autoseg.evaluation.trials import Trial, choose_postprocessing
from autoseg.evaluation.weights import Names, Weighted, Weights, weights_text
from planners import records
from planners.labels import Labels
from planners.plan import Reason


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One thing that could be chosen, with its scores before postprocessing.

    Attributes:
        name: for people: ``3d_fullres``, ``2d + 3d_fullres``, ``2d + 3d_fullres (1 : 4)``.
        configurations: whose probabilities are averaged.
        weights: their shares in the average; empty in older files: equal ones.
        interval: of the mean Dice, 95 % bootstrap over cases; None where nothing could be scored, and in older files.
        mean_dice, mean_iou: mean over the foreground structures, None where nothing could be scored. Of targets that
            find objects it is what the folds left, decoded as planned whatever ``decode`` says; None of averages, of
            which no fold has left any.
        dice: per structure, likewise.
        score: what the choice's criterion gives, where that is not the mean Dice; ``interval`` is its then.
        decode: settings of the decoder that were fitted out of fold, where the target finds objects.
        touching: of objects, the same score on the images whose labelled objects touch; None where none do.
    """

    name: str
    configurations: Names
    mean_dice: float | None
    mean_iou: float | None
    dice: tuple[float | None, ...]
    weights: Weights = ()
    interval: Interval | None = None
    score: float | None = None
    decode: dict[str, Any] = field(default_factory=dict)
    touching: Interval | None = None


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What segments new images, and why (``choice.json``).

    Attributes:
        configurations: whose probabilities are averaged.
        weights: their shares in the average; empty in older files: equal ones.
        folds: whose networks are averaged within a configuration.
        postprocessing: rules to apply to the segmentation, in this order.
        structures: names of what was scored.
        num_cases: cases with out-of-fold predictions of every candidate.
        criterion: what was maximised, before postprocessing.
        mean_dice, mean_iou, dice: with the postprocessing applied; None where nothing could be scored. Where objects
            are found, of what lies in ``out_of_fold``: decoded with ``decode_by_part``, averages too.
        interval: of that mean Dice, 95 % bootstrap over cases.
        mean_before, dice_before: mean Dice and Dice per structure before postprocessing.
        candidates: in the order in which ties are decided.
        trials: every postprocessing rule that was tried, before and after.
        reasons: why this and no other.
        score: what the criterion gives, where that is not the mean Dice; ``interval`` is its then.
        decode: settings of the decoder that were fitted out of fold, where the target finds objects: on all images,
            for new ones.
        decode_by_part: per part (fold; of one fold alone each half of its images) the settings that were fitted on the
            other parts. ``score`` was judged with them, and what lies in ``out_of_fold`` was decoded with them.
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
    weights: Weights = ()
    interval: Interval | None = None
    mean_before: float | None = None
    dice_before: tuple[float | None, ...] = ()
    score: float | None = None
    decode: dict[str, Any] = field(default_factory=dict)
    decode_by_part: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def predictions_digest(self) -> str:
        """Identify what lies in ``out_of_fold`` where it was made for this choice."""
        parts: list[Any] = [self.configurations, self.weights]
        fitted = [item for item in (self.decode, self.decode_by_part) if item]
        return records.digest([*parts, *fitted])


def candidates_of(configurations: Sequence[str]) -> tuple[Names, ...]:
    """List the candidates of equal weights, in the plan's order: every configuration, every pair, and of three or more
    all together.

    Of n configurations these are n + n (n − 1) / 2, and one more from three on: 3 of two, 7 of three, 11 of four.
    """
    every = tuple(configurations)
    return (
        *((name,) for name in every),
        *itertools.combinations(every, 2),
        *((every,) if len(every) > 2 else ()),
    )


def candidate_name(configurations: Names, weights: Weights = ()) -> str:
    """Name a candidate for people."""
    ratio = f" ({weights_text(weights)})" if len(set(weights)) > 1 else ""
    return " + ".join(configurations) + ratio


def choose(
    scores: Mapping[Names, Scores],
    read: Callable[..., Iterable[AnyPrediction]],
    labels: Labels,
    folds: Sequence[int | str],
    weighted: Sequence[Weighted] = (),
) -> tuple[Choice, Scores]:
    """Choose the best candidate and its postprocessing.

    The highest mean foreground Dice wins; of equals the first. Only cases that every candidate has predicted count.

    Args:
        scores: per candidate of equal weights, the scores of its out-of-fold predictions; the order decides ties.
        read: gives a candidate's out-of-fold predictions, one case at a time; called once, for the winner: with its
            configurations, and with its ``Weighted`` where its weights are not equal.
        labels: the classes of the dataset.
        folds: the trained folds.
        weighted: the ensembles whose weights were fitted; the accepted ones are candidates, after the others.

    Returns:
        The choice, and the scores of its cases with the postprocessing applied.

    Raises:
        ValueError: there is no candidate.

    Source: nnU-Net v2.8.1 (``find_best_configuration``) for the criterion and for pairs; it tries no larger ensembles
    and no weights.
    """
    if not scores:
        raise ValueError("there is no candidate to choose from")
    accepted = {(item.configurations, item.weights): item for item in weighted if item.accepted}
    judged = {(names, equal_weights(names)): found for names, found in scores.items()}
    compared = _on_equal_cases(judged | {key: item.scores for key, item in accepted.items()})
    candidates = {key: _candidate(*key, found) for key, found in compared.items()}
    measured = [key for key, item in candidates.items() if item.mean_dice is not None]
    if not measured:
        return nothing_to_compare(tuple(candidates.values()), next(iter(compared.values())), folds)
    best = max(measured, key=lambda key: candidates[key].mean_dice or 0.0)  # max gives the first of equals
    before, winner = compared[best], candidates[best]
    wanted = {row.case for row in before.cases}
    predictions = read(best[0], accepted[best]) if best in accepted else read(best[0])
    rules, trials, after = choose_postprocessing((case for case in predictions if case[0] in wanted), labels)
    named = [(candidates[key].name, compared[key]) for key in measured]
    reasons = (
        why_best(winner.name, named),
        *why_weights([(candidate_name(item.configurations, item.weights), item) for item in weighted]),
        *why_rules(trials, before.structures),
    )
    choice = make_choice(winner, tuple(candidates.values()), after, folds, reasons)
    return replace(
        choice, postprocessing=rules, trials=trials, mean_before=before.mean_dice, dice_before=before.dice
    ), after


def equal_weights(names: Names) -> Weights:
    """Give the shares of configurations that count alike."""
    return (1 / len(names),) * len(names)


def _on_equal_cases(scores: Mapping[tuple[Names, Weights], Scores]) -> dict[tuple[Names, Weights], Scores]:
    shared = set.intersection(*({row.case for row in item.cases} for item in scores.values()))
    return {
        key: collect((row for row in item.cases if row.case in shared), item.structures) for key, item in scores.items()
    }


def _candidate(names: Names, weights: Weights, scores: Scores) -> Candidate:
    return Candidate(
        name=candidate_name(names, weights),
        configurations=names,
        mean_dice=scores.mean_dice,
        mean_iou=scores.mean_iou,
        dice=scores.dice,
        weights=weights,
        interval=interval_of(scores),
    )


def make_choice(
    chosen: Candidate,
    candidates: tuple[Candidate, ...],
    scores: Scores,
    folds: Sequence[int | str],
    reasons: tuple[Reason, ...],
) -> Choice:
    """Make the record of a choice without postprocessing from a candidate and its scores."""
    return Choice(
        configurations=chosen.configurations,
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
        weights=chosen.weights,
        interval=interval_of(scores),
        mean_before=scores.mean_dice,
        dice_before=scores.dice,
    )


def nothing_to_compare(
    candidates: tuple[Candidate, ...], scores: Scores, folds: Sequence[int | str]
) -> tuple[Choice, Scores]:
    """Without out-of-fold scores take the first configuration: a plan lists those in 3D first.

    That 3D is the better single one is an assumption; it was on most of the datasets of Isensee et al. 2021.
    """
    because = "no foreground in any label or prediction" if scores.cases else "no case has out-of-fold predictions"
    rest = "; the first configuration of the plan is taken, without postprocessing"
    reason = Reason(about="choice.configurations", rule="nothing-to-compare", because=because + rest)
    return make_choice(candidates[0], candidates, scores, folds, (reason,)), scores
