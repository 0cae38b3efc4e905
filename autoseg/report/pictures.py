"""Pictures: the best, the median and the worst cases, and those with the highest and the lowest training loss."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from autoseg.errors import AutosegError
from autoseg.evaluation.overlap import ABSENT, CaseScore
from autoseg.evaluation.selection import candidate_name
from autoseg.report.material import Material
from autoseg.report.opened import OpenedCase, open_case
from autoseg.report.views import View, single_view, three_planes
from planners.records import PlanError

WORSE = ("second", "third")
"""The worst cases are shown in three planes each: failures teach more than successes."""

MAX_SCORES = 6  # structures named below a picture


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One case as one slice or three planes.

    Attributes:
        rank: "best", "median", "worst", "highest loss", …
        case: its id.
        value: the mean Dice, or the loss, as text.
        scores: (structure, Dice) as text, of the whole case.
        views: the slices.
        note: what the reader must know of the prediction, or empty.
        alt: what a reader who does not see it needs to know.
        problem: why there is no picture, or empty.
    """

    rank: str
    case: str
    value: str = ""
    scores: tuple[tuple[str, str], ...] = ()
    views: tuple[View, ...] = ()
    note: str = ""
    alt: str = ""
    problem: str = ""

    @property
    def planes(self) -> bool:
        """Whether it shows several planes."""
        return len(self.views) > 1


def draw_pictures(material: Material) -> tuple[Picture, ...]:
    """Draw the best, the median and the worst cases by mean Dice; a case that cannot be read says why."""
    if material.scores is None or material.record is None or material.plan is None:
        return ()
    return tuple(_scored(material, rank, row) for rank, row in choose_cases(material.scores.cases))


def draw_losses(material: Material, ranked: Sequence[tuple[str, str, float]]) -> tuple[Picture, ...]:
    """Draw training cases: rank, case and loss of each; without an out-of-fold prediction the label alone."""
    if material.record is None or material.plan is None:
        return ()
    return tuple(_with_loss(material, rank, case, loss) for rank, case, loss in ranked)


def choose_cases(rows: Sequence[CaseScore]) -> list[tuple[str, CaseScore]]:
    """Choose the best case, the median one, and the worst ones; every case at most once."""
    ranked = sorted(
        (row for row in rows if row.mean_dice is not None), key=lambda row: (-(row.mean_dice or 0.0), row.case)
    )
    if not ranked:
        return []
    wanted = [("best", 0), ("median", (len(ranked) - 1) // 2), ("worst", len(ranked) - 1)]
    wanted += [(f"{rank} worst", len(ranked) - number) for number, rank in enumerate(WORSE, start=2)]
    chosen: dict[int, str] = {}
    for rank, index in wanted:
        if index >= 0:
            chosen.setdefault(index, rank)
    return [(rank, ranked[index]) for index, rank in chosen.items()]


def _scored(material: Material, rank: str, row: CaseScore) -> Picture:
    try:
        case = open_case(material, row.case)
        views = three_planes(case) if "worst" in rank else (_one(material, case, by_error=False),)
    except (AutosegError, PlanError, OSError, ValueError) as fault:
        return Picture(rank=rank, case=row.case, problem=f"{fault}")
    names = material.scores.structures if material.scores is not None else ()
    value = score_word(row.mean_dice)
    return Picture(
        rank=rank,
        case=row.case,
        value=value,
        scores=tuple(zip(names, map(score_word, row.dice), strict=True))[:MAX_SCORES] if len(names) > 1 else (),
        views=views,
        note=_whose(material, case),
        alt=f"{rank} case {row.case}, mean Dice {value}",
    )


def _with_loss(material: Material, rank: str, case_id: str, loss: float) -> Picture:
    try:
        case = open_case(material, case_id, needs_prediction=False)
        view = _one(material, case, by_error=True)
    except (AutosegError, PlanError, OSError, ValueError) as fault:
        return Picture(rank=rank, case=case_id, problem=f"{fault}")
    text = f"{loss:.3f}".replace("-", "\u2212")
    note = _whose(material, case)
    if not case.configurations:
        view = dataclasses.replace(view, prediction="")
        note = "label alone: there is no out-of-fold prediction of it"
    return Picture(
        rank=rank, case=case_id, value=text, views=(view,), note=note, alt=f"{rank}: case {case_id}, loss {text}"
    )


def _one(material: Material, case: OpenedCase, *, by_error: bool) -> View:
    axis = material.plan.axis_order[0] if material.plan is not None else 0
    return single_view(case, axis, by_error=by_error)


def _whose(material: Material, case: OpenedCase) -> str:
    choice = material.choice
    if choice is None or choice.configurations == case.configurations:
        return ""
    return f"drawn is the prediction of {candidate_name(case.configurations)} alone"


def score_word(value: float | None) -> str:
    """Write a score with three digits; a structure that is not there has none."""
    return ABSENT if value is None else f"{value:.3f}"
