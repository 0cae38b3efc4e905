"""Loss tables: the training cases with the highest and the lowest loss; the first place to look for wrong labels."""

from collections import defaultdict
from dataclasses import dataclass

from autoseg.evaluation.overlap import mean_of
from autoseg.report.material import FoldMaterial, Material
from autoseg.report.object_pictures import draw_object_losses
from autoseg.report.pictures import Picture, draw_losses

NUM_LISTED = 5
NUM_DRAWN = 3  # a row of the page


@dataclass(frozen=True, kw_only=True)
class LossRow:
    """One case: its loss as text and as a fraction of the row's width, and in how many folds it was trained on."""

    case: str
    value: str
    fill: float


@dataclass(frozen=True, kw_only=True)
class LossSection:
    """The losses of one configuration's training cases.

    Attributes:
        configuration: whose networks.
        num_cases: with a loss.
        highest, lowest: lists, the most extreme first.
        gap: how the validation cases compare, in words; empty where there are none.
        pictures: of the most extreme cases.
    """

    configuration: str
    num_cases: int
    highest: tuple[LossRow, ...]
    lowest: tuple[LossRow, ...]
    gap: str
    pictures: tuple[Picture, ...]


def loss_section(material: Material) -> LossSection | None:
    """Lay out the losses of the chosen configuration, else of the first that has any; None where none has."""
    chosen = material.choice.configurations if material.choice is not None else ()
    for name in (*chosen, *material.configurations):
        folds = [item for item in material.folds if item.configuration == name and item.losses is not None]
        if any(row.part == "train" for item in folds for row in (item.losses.cases if item.losses else ())):
            return _section(material, name, folds)
    return None


def case_means(folds: list[FoldMaterial], part: str) -> list[tuple[float, str]]:
    """Average the losses of each case over the folds in which it had that part; the highest first."""
    found: dict[str, list[float]] = defaultdict(list)
    for fold in folds:
        for row in fold.losses.cases if fold.losses is not None else ():
            if row.part == part:
                found[row.case].append(row.loss)
    return sorted(
        ((sum(values) / len(values), case) for case, values in found.items()), key=lambda item: (-item[0], item[1])
    )


def _section(material: Material, name: str, folds: list[FoldMaterial]) -> LossSection:
    ranked = case_means(folds, "train")
    count = min(NUM_LISTED, (len(ranked) + 1) // 2)
    highest, lowest = ranked[:count], ranked[: -count - 1 : -1] if len(ranked) > 1 else []
    most = [(_rank("highest loss", place), case, value) for place, (value, case) in enumerate(highest[:NUM_DRAWN])]
    least = [(_rank("lowest loss", place), case, value) for place, (value, case) in enumerate(lowest[:NUM_DRAWN])]
    ends = (ranked[-1][0], ranked[0][0])
    return LossSection(
        configuration=name,
        num_cases=len(ranked),
        highest=tuple(_row(case, value, ends) for value, case in highest),
        lowest=tuple(_row(case, value, ends) for value, case in lowest),
        gap=_gap(folds, ranked),
        pictures=(draw_object_losses if material.finds_objects else draw_losses)(material, [*most, *least]),
    )


def _rank(text: str, place: int) -> str:
    return ("", "second ", "third ")[place] + text


def _row(case: str, value: float, ends: tuple[float, float]) -> LossRow:
    low, high = ends
    fill = 0.04 + 0.96 * (value - low) / (high - low) if high > low else 1.0  # the lowest bar is still seen
    return LossRow(case=case, value=f"{value:.3f}".replace("-", "\u2212"), fill=fill)


def _gap(folds: list[FoldMaterial], ranked: list[tuple[float, str]]) -> str:
    validation = mean_of(value for value, _ in case_means(folds, "validation"))
    train = mean_of(value for value, _ in ranked)
    if validation is None or train is None:
        return ""
    text = f"The mean is {train:.3f} over training cases and {validation:.3f} over validation cases."
    return text.replace("-", "\u2212")
