"""Selection where objects are told apart: which target, and how it is decoded, by the objects found out of fold.

The number is the F1 of objects at an IoU of 0.5, image by image, averaged over images: found, merged and split objects
decide it, not outlines. Objects are matched whatever their class. An image without objects in label and prediction
counts as 1, so that inventing an object costs there what it should, and all candidates are judged on the same images.
Averages of several configurations are candidates where their targets are equal; with equal weights, for the settings of
the decoder are fitted already.
"""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from autoseg.evaluation.choice_reasons import difference_text
from autoseg.evaluation.criterion import beats
from autoseg.evaluation.decode_fitting import FittedDecoding, Values
from autoseg.evaluation.metric_records import Interval
from autoseg.evaluation.overlap import Scores, collect, mean_of, score_text
from autoseg.evaluation.selection import (
    Candidate,
    Choice,
    candidate_name,
    equal_weights,
    make_choice,
    nothing_to_compare,
)
from autoseg.evaluation.statistics import LEAST_CASES, bootstrap_mean, paired_difference
from autoseg.evaluation.weights import Names
from planners.plan import Reason

CRITERION = "mean F1@0.5 of objects over out-of-fold images"
THRESHOLD = 0.5
"""IoU from which an object is found: what the field reports first (Caicedo et al. 2019; NeurIPS 2022 challenge)."""


@dataclass(frozen=True, kw_only=True)
class JudgedObjects:
    """A candidate as it was judged.

    Attributes:
        configurations: whose maps are averaged.
        fitted: its scores and the settings of its decoder.
        components: per case whose labelled objects touch, the score that the components of its foreground would have.
        scores: Dice of what its folds have left; None of an average.
        empty: the cases whose label holds no object.
    """

    configurations: Names
    fitted: FittedDecoding
    components: Values
    scores: Scores | None = None
    empty: Collection[str] = ()

    @property
    def name(self) -> str:
        """For people."""
        return candidate_name(self.configurations)


def choose_objects(
    judged: Sequence[JudgedObjects], touching: Collection[str], structures: Sequence[str], folds: Sequence[int | str]
) -> Choice:
    """Choose the candidate with the highest score; of equals the first. Its Dice is not filled in yet.

    Args:
        judged: on the same cases; the order decides ties.
        touching: the cases whose labelled objects touch.
        structures: names of what Dice is of.
        folds: the trained folds.

    Raises:
        ValueError: there is no candidate.
    """
    if not judged:
        raise ValueError("there is no candidate to choose from")
    candidates = tuple(_candidate(item, touching, len(structures)) for item in judged)
    cases = judged[0].fitted.values
    measured = [item for item in judged if item.fitted.score is not None]
    if not measured:
        scores = next((item.scores for item in judged if item.scores is not None), collect((), structures))
        choice, _ = nothing_to_compare(candidates, scores, folds)
        return dataclasses.replace(choice, criterion=CRITERION, score=None, interval=None)
    best = max(measured, key=lambda item: item.fitted.score or 0.0)
    reasons = (_why_best(best, measured), *_why_touching(best, measured, touching), *_why_decoding(best, measured))
    chosen = candidates[judged.index(best)]
    choice = make_choice(chosen, candidates, collect((), structures), folds, reasons)
    return dataclasses.replace(
        choice,
        criterion=CRITERION,
        num_cases=len(cases),
        interval=chosen.interval,
        score=chosen.score,
        decode=chosen.decode,
        decode_by_part={str(part): settings for part, settings in best.fitted.by_part.items()},
    )


def with_dice(choice: Choice, scores: Scores) -> Choice:
    """Fill in the Dice of what was chosen."""
    return dataclasses.replace(
        choice,
        mean_dice=scores.mean_dice,
        mean_iou=scores.mean_iou,
        dice=scores.dice,
        mean_before=scores.mean_dice,
        dice_before=scores.dice,
    )


def settings_text(decode: Mapping[str, object]) -> str:
    """Write settings by their names: ``foreground 0.4, smallest 12``."""
    shown = [f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in decode.items()]
    return ", ".join(shown)


def _candidate(item: JudgedObjects, touching: Collection[str], num_structures: int) -> Candidate:
    scores, values = item.scores, item.fitted.values
    return Candidate(
        name=item.name,
        configurations=item.configurations,
        mean_dice=None if scores is None else scores.mean_dice,
        mean_iou=None if scores is None else scores.mean_iou,
        dice=(None,) * num_structures if scores is None else scores.dice,
        weights=equal_weights(item.configurations),
        interval=bootstrap_mean(list(values.values())),
        score=item.fitted.score,
        decode=item.fitted.decode,
        touching=_on(values, touching),
    )


def _on(values: Values, cases: Collection[str]) -> Interval | None:
    return bootstrap_mean([value for case, value in values.items() if case in cases])


def _why_best(best: JudgedObjects, measured: Sequence[JudgedObjects]) -> Reason:
    own = f"mean F1@0.5 {_with_interval(bootstrap_mean(list(best.fitted.values.values())))}"
    own += f" on {len(best.fitted.values)} images"
    if empty := len(set(best.empty)):
        own += f" ({empty} of them labelled without objects: 1 where none is found, else 0)"
    others = sorted((item for item in measured if item is not best), key=lambda item: -(item.fitted.score or 0.0))
    if not others:
        return Reason(about="choice.configurations", rule="only-candidate", because=f"{own}; the only candidate")
    listed = ", ".join(
        f"{item.name} {_with_interval(bootstrap_mean(list(item.fitted.values.values())))}" for item in others
    )
    cases = list(best.fitted.values)
    first, second = ([item.fitted.values[case] for case in cases] for item in (best, others[0]))
    pairs = list(zip(first, second, strict=True))
    difference = paired_difference(first, second)
    because = (
        f"{best.name}: {own}, of {len(measured)} candidates, against {listed}; better than {others[0].name} in "
        f"{sum(a > b for a, b in pairs)} of {len(pairs)} images, worse in {sum(a < b for a, b in pairs)}, by "
        f"{difference_text(difference)}"
    )
    if best.fitted.score == others[0].fitted.score:
        because += "; of equals the first is taken"
    elif not beats(difference):
        because += ", which may be luck"
    return Reason(about="choice.configurations", rule="highest-mean-f1", because=because)


def _why_touching(
    best: JudgedObjects, measured: Sequence[JudgedObjects], touching: Collection[str]
) -> tuple[Reason, ...]:
    """Say how candidates do where objects touch, and what the components of the foreground would give there."""
    cases = [case for case in best.fitted.values if case in touching]
    interval = _on(best.fitted.values, touching)
    if interval is None:
        return ()
    listed = [f"{item.name} {_with_interval(_on(item.fitted.values, touching))}" for item in measured]
    components = _on(best.components, touching)
    because = (
        f"on the {len(cases)} images whose objects touch: {', '.join(listed)}; the connected components of the "
        f"foreground of {best.name} would give {_with_interval(components)}"
    )
    return (Reason(about="choice.touching", rule="objects-that-touch", because=because),)


def _why_decoding(best: JudgedObjects, measured: Sequence[JudgedObjects]) -> tuple[Reason, ...]:
    return tuple(
        Reason(
            about="choice.decode",
            rule="fitted" if item.fitted.decode else "as-planned",
            because=f"{item.name} {_fitting_text(item.fitted)}",
        )
        for item in [best, *(other for other in measured if other is not best)]
    )


def _fitting_text(fitted: FittedDecoding) -> str:
    """Say with which settings objects are found, and what fitting them was worth."""
    if fitted.difference is None:
        return "as planned: too few images to fit settings and judge them"
    worth = difference_text(fitted.difference)
    if fitted.decode:
        return (
            f"with {settings_text(fitted.decode)}: of {fitted.num_settings} settings tried the best; fitted on the "
            f"other folds, and judged on each, better than as planned by {worth}"
        )
    text = f"as planned: of {fitted.num_settings} settings tried none is better"
    if fitted.tried:
        text += (
            f" by more than luck; {settings_text(fitted.tried)}, the best on all images together, fitted on the other "
            f"folds, and judged on each, differs by {worth}"
        )
        if fitted.difference.num_cases < LEAST_CASES:
            text += f"; fewer than {LEAST_CASES} images cannot tell"
    return text


def _with_interval(interval: Interval | None) -> str:
    if interval is None:
        return score_text(mean_of(()))
    return f"{interval.mean:.4f} ({interval.low:.4f} … {interval.high:.4f})"
