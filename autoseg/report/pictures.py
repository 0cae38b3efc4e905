"""Pictures: the best, the median and the worst cases, and those with the highest and the lowest training loss."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from autoseg.errors import AutosegError
from autoseg.evaluation.overlap import ABSENT, CaseScore
from autoseg.evaluation.selection import candidate_name
from autoseg.report.material import Material
from autoseg.report.opened import OpenedCase, open_case
from autoseg.report.views import View, single_view, three_planes
from planners.records import PlanError

Ranked = TypeVar("Ranked")

WORSE = ("second", "third")
"""The worst cases are shown in three planes each: failures teach more than successes."""

LEAST_ASPECT = 0.4  # width / height of a picture beside enlarged parts; narrower ones have a margin
LABEL_ALONE = "label alone: there is no out-of-fold prediction of it"
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
        is_enlarged: whether the first view is a whole slice, and the others are parts of it.
    """

    rank: str
    case: str
    value: str = ""
    scores: tuple[tuple[str, str], ...] = ()
    views: tuple[View, ...] = ()
    note: str = ""
    alt: str = ""
    problem: str = ""
    is_enlarged: bool = False

    @property
    def planes(self) -> bool:
        """Whether it shows several planes."""
        return len(self.views) > 1 and not self.is_enlarged

    @property
    def layout(self) -> str:
        """How the views lie on the page; empty: one fills the width."""
        if self.is_enlarged:
            return "enlarged" if len(self.views) > 1 else "alone"
        return "planes" if self.planes else ""

    @property
    def columns(self) -> str:
        """Widths of the two columns of an enlarged layout, such that image and parts are equally tall."""
        aspect = min(max(self.views[0].aspect, LEAST_ASPECT), 1 / LEAST_ASPECT)
        return f"{(len(self.views) - 1) * aspect:.3f}fr 1fr"


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
    return pick(ranked)


def pick(ranked: Sequence[Ranked]) -> list[tuple[str, Ranked]]:
    """Pick the best, the median and the worst of what is sorted, the best first; each at most once, with its rank."""
    wanted = [("best", 0), ("median", (len(ranked) - 1) // 2), ("worst", len(ranked) - 1)]
    wanted += [(f"{rank} worst", len(ranked) - number) for number, rank in enumerate(WORSE, start=2)]
    chosen: dict[int, str] = {}
    for rank, index in wanted:
        if 0 <= index < len(ranked):
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
        note=whose(material, case.configurations),
        alt=f"{rank} case {row.case}, mean Dice {value}",
    )


def _with_loss(material: Material, rank: str, case_id: str, loss: float) -> Picture:
    try:
        case = open_case(material, case_id, needs_prediction=False)
        view = _one(material, case, by_error=True)
    except (AutosegError, PlanError, OSError, ValueError) as fault:
        return Picture(rank=rank, case=case_id, problem=f"{fault}")
    text = f"{loss:.3f}".replace("-", "\u2212")
    note = whose(material, case.configurations)
    if not case.configurations:
        view = dataclasses.replace(view, prediction="")
        note = LABEL_ALONE
    return Picture(
        rank=rank, case=case_id, value=text, views=(view,), note=note, alt=f"{rank}: case {case_id}, loss {text}"
    )


def _one(material: Material, case: OpenedCase, *, by_error: bool) -> View:
    axis = material.plan.axis_order[0] if material.plan is not None else 0
    return single_view(case, axis, by_error=by_error)


def whose(material: Material, configurations: tuple[str, ...]) -> str:
    """Say whose prediction is drawn, where it is not that of the choice."""
    choice = material.choice
    if choice is None or choice.configurations == configurations:
        return ""
    return f"drawn is the prediction of {candidate_name(configurations)} alone"


def score_word(value: float | None) -> str:
    """Write a score with three digits; a structure that is not there has none."""
    return ABSENT if value is None else f"{value:.3f}"
