"""Fitting the settings of a decoder to out-of-fold predictions, and telling honestly what that is worth.

Settings are tried one after the other, each with the best values of those before it. What is reported is cross-fitted:
every case is scored with the settings that were fitted on the cases of the other folds, as a new case would be. Where
that is not better than the settings as planned by more than luck, those stay.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from autoseg.evaluation.criterion import beats
from autoseg.evaluation.overlap import mean_of
from autoseg.evaluation.statistics import Difference, paired_difference

Setting = tuple[tuple[str, Any], ...]
"""Settings of a decoder by name, in the order of the names; those that are not named are as planned."""

Values = Mapping[str, float]
"""Per case a score. Every case has one, whatever was decoded: candidates are compared on the same cases."""

Score = Callable[[Sequence[Setting], Sequence[str]], Mapping[Setting, Values]]
"""Decodes some cases with each of some settings, and scores them."""

AS_PLANNED: Setting = ()

MOST_FITTED = 100
"""Cases on which settings are fitted, drawn evenly: the mean F1 of so many is known to a hundredth or two, which is
what neighbouring settings differ by. All cases are scored. Assumption; it bounds the time."""


@dataclass(frozen=True, kw_only=True)
class FittedDecoding:
    """What fitting gave.

    Attributes:
        decode: the settings to decode new images with; empty where those as planned stay.
        by_part: per part the settings that were fitted on the others, with which ``values`` were scored; empty where
            those as planned stay.
        values: per case its score: cross-fitted, or as planned.
        planned: per case its score with the settings as planned.
        tried: the settings fitted on all cases, whether they are taken or not; empty: as planned.
        difference: of the cross-fitted scores from those as planned; None where nothing was fitted.
        num_settings: how many were tried, those as planned among them.
    """

    decode: dict[str, Any] = field(default_factory=dict)
    by_part: Mapping[Hashable, dict[str, Any]] = field(default_factory=dict)
    values: Values
    planned: Values
    tried: dict[str, Any] = field(default_factory=dict)
    difference: Difference | None = None
    num_settings: int = 1

    @property
    def score(self) -> float | None:
        """The mean over the cases; None where there is none."""
        return mean_of(self.values.values())


def fit_decoding(
    offered: Mapping[str, Sequence[Any]], score: Score, part_of: Mapping[str, Hashable], most: int = MOST_FITTED
) -> FittedDecoding:
    """Find the settings with the highest mean score.

    Args:
        offered: values to try, per setting, in the order in which settings are fitted.
        score: see there; it is asked once per setting, and never twice for the same and a case.
        part_of: per case the part (fold, or half) that it is in; settings are judged on parts that they were not
            fitted on. With fewer than two parts nothing is fitted.
        most: cases that settings are fitted on.
    """
    parts, cases = tuple(dict.fromkeys(part_of.values())), list(part_of)
    planned = dict(score([AS_PLANNED], cases)[AS_PLANNED])
    if len(parts) < 2:
        return FittedDecoding(values=planned, planned=planned)
    sample = _sample(part_of, most)
    known: dict[Setting, dict[str, float]] = {AS_PLANNED: planned}
    subsets: dict[Hashable, list[str]] = {part: [case for case in sample if part_of[case] != part] for part in parts}
    subsets[_ALL] = sample
    best: dict[Hashable, Setting] = dict.fromkeys(subsets, AS_PLANNED)
    for name, values in offered.items():
        tried = {subset: [_with(best[subset], name, value) for value in values] for subset in best}
        wanted = dict.fromkeys(setting for settings in tried.values() for setting in settings)
        known |= {key: dict(found) for key, found in score([key for key in wanted if key not in known], sample).items()}
        for subset, settings in tried.items():
            best[subset] = _best([best[subset], *settings], known, subsets[subset])
    for setting in dict.fromkeys(best[part] for part in parts):
        rest = [case for case in cases if best[part_of[case]] == setting and case not in known[setting]]
        if rest:
            known[setting] |= score([setting], rest)[setting]
    crossed = {case: known[best[part]][case] for case, part in part_of.items()}
    difference = paired_difference([crossed[case] for case in cases], [planned[case] for case in cases])
    accepted = best[_ALL] != AS_PLANNED and beats(difference)
    return FittedDecoding(
        decode=dict(best[_ALL]) if accepted else {},
        by_part={part: dict(best[part]) for part in parts} if accepted else {},
        values=crossed if accepted else planned,
        planned=planned,
        tried=dict(best[_ALL]),
        difference=difference,
        num_settings=len(known),
    )


class _Everything:
    """The subset of all cases; a part of its own type, so that no fold or half is called the same."""


_ALL = _Everything()


def _sample(part_of: Mapping[str, Hashable], most: int) -> list[str]:
    """Draw cases evenly: part after part, at equal distances."""
    order = sorted(part_of, key=lambda case: (str(part_of[case]), case))
    if len(order) <= most:
        return order
    return [order[place * len(order) // most] for place in range(most)]


def _with(setting: Setting, name: str, value: Any) -> Setting:
    return tuple(sorted({**dict(setting), name: value}.items()))


def _best(settings: Sequence[Setting], known: Mapping[Setting, Values], cases: Sequence[str]) -> Setting:
    """Give the setting with the highest mean over some cases, of equal ones the first."""
    means = [mean_of(known[setting][case] for case in cases) for setting in settings]
    return max(zip(settings, means, strict=True), key=lambda pair: -1.0 if pair[1] is None else pair[1])[0]
