"""Curves: loss and validation Dice over the epochs, per configuration and per fold."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from autoseg.report.charts import Chart, Series, line_chart
from autoseg.report.material import FoldMaterial, Material

MAX_CLASS_LINES = 7  # colours that can be told apart; with more classes only their mean is drawn
PALETTE_SIZE = 7
DICE_RANGE = (0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class FoldCurves:
    """The charts of one fold."""

    fold: str
    loss: Markup
    dice: Markup


@dataclass(frozen=True, kw_only=True)
class ConfigurationCurves:
    """The charts of one configuration.

    Attributes:
        name: of the configuration.
        loss, dice: all folds over each other; empty where there is one fold.
        folds: each fold apart.
        classes: (style, name) of the class lines of a fold's Dice chart; empty where there are too many.
        summary: the last epoch in words.
        annealed: where the final anneals began, in words; empty where there were none.
    """

    name: str
    loss: Markup
    dice: Markup
    folds: tuple[FoldCurves, ...]
    classes: tuple[tuple[str, str], ...]
    summary: str
    annealed: str


def draw_curves(material: Material) -> tuple[ConfigurationCurves, ...]:
    """Draw the curves of every configuration that has a finished epoch."""
    drawn = []
    for name in material.configurations:
        folds = [item for item in material.folds if item.configuration == name and item.rows]
        if folds:
            drawn.append(_configuration(name, folds, _class_names(material, folds[0])))
    return tuple(drawn)


def _class_names(material: Material, fold: FoldMaterial) -> tuple[str, ...]:
    count = len(fold.rows[-1].get("dice") or ())
    if material.plan is None:
        return tuple(f"class {index + 1}" for index in range(count))
    labels = material.plan.labels
    names = tuple(region.name for region in labels.regions) or labels.names[1:]
    return names if len(names) == count else tuple(f"class {index + 1}" for index in range(count))


def _configuration(name: str, folds: Sequence[FoldMaterial], classes: Sequence[str]) -> ConfigurationCurves:
    classes = classes if len(classes) <= MAX_CLASS_LINES else ()
    loss = dice = Markup("")
    if len(folds) > 1:
        loss = _loss_chart(f"{name}, all folds", folds)
        dice = _dice_chart(f"{name}, all folds", folds, ())
    apart = tuple(
        FoldCurves(
            fold=item.fold,
            loss=_loss_chart(f"{name}, fold {item.fold}", [item]),
            dice=_dice_chart(f"{name}, fold {item.fold}", [item], classes if len(classes) > 1 else ()),
        )
        for item in folds
    )
    named = tuple((_class_style(index), text) for index, text in enumerate(classes)) if len(classes) > 1 else ()
    return ConfigurationCurves(
        name=name,
        loss=loss,
        dice=dice,
        folds=apart,
        classes=named,
        summary=_summary(folds),
        annealed=_annealed(folds),
    )


def first_annealed(rows: Sequence[dict[str, Any]]) -> int | None:
    """Give the number (from 1) of the first epoch of the final anneal, where validation stalled; else None."""
    return next((row["epoch"] + 1 for row in rows if row.get("annealing")), None)


def _annealed(folds: Sequence[FoldMaterial]) -> str:
    begun = [(item.fold, first_annealed(item.rows)) for item in folds]
    return ", ".join(f"epoch {epoch} (fold {fold})" for fold, epoch in begun if epoch is not None)


def _marks(folds: Sequence[FoldMaterial]) -> list[tuple[float, str]]:
    begun = [(item.fold, first_annealed(item.rows)) for item in folds]
    return [(epoch, f"final anneal of fold {fold}, from here") for fold, epoch in begun if epoch is not None]


def _loss_chart(title: str, folds: Sequence[FoldMaterial]) -> Markup:
    series, many = [], " many" if len(folds) > 1 else ""
    for item in folds:
        for key, style, text in (("train_loss", "train", "training"), ("validation_loss", "validation", "validation")):
            series.append(Series(name=f"{text}, fold {item.fold}", style=style + many, points=_column(item.rows, key)))
    ends = [f"{item.rows[0].get('train_loss'):.2f} to {item.rows[-1].get('train_loss'):.2f}" for item in folds[:1]]
    description = f"Loss of {title} over {max(len(item.rows) for item in folds)} epochs; training from {ends[0]}"
    return line_chart(
        Chart(description=description, x_label="epoch", y_label="loss", series=series, marks=_marks(folds))
    )


def _dice_chart(title: str, folds: Sequence[FoldMaterial], classes: Sequence[str]) -> Markup:
    series, many = [], " many" if len(folds) > 1 else ""
    for item in folds:
        for index, name in enumerate(classes):
            points = [(row["epoch"] + 1, row["dice"][index]) for row in item.rows]
            series.append(Series(name=name, style=f"class {_class_style(index)}", points=points))
        if not classes:
            series.append(Series(name=f"mean, fold {item.fold}", style="mean", points=_column(item.rows, "mean_dice")))
    for item in folds:
        series.append(
            Series(name=f"smoothed, fold {item.fold}", style="smooth" + many, points=_column(item.rows, "ema_dice"))
        )
    last = _text(folds[0].rows[-1].get("ema_dice"))
    description = f"Validation Dice on patches of {title}; smoothed mean at the end {last}"
    return line_chart(
        Chart(
            description=description,
            x_label="epoch",
            y_label="Dice of patches",
            series=series,
            y_range=DICE_RANGE,
            marks=_marks(folds),
        )
    )


def _column(rows: Sequence[dict[str, Any]], key: str) -> list[tuple[float, float | None]]:
    return [(row["epoch"] + 1, row.get(key)) for row in rows]


def _class_style(index: int) -> str:
    return f"c{index % PALETTE_SIZE}"


def _summary(folds: Sequence[FoldMaterial]) -> str:
    last = [item.rows[-1] for item in folds]
    epochs = sorted({row["epoch"] + 1 for row in last})
    smoothed = [row["ema_dice"] for row in last if row.get("ema_dice") is not None]
    text = f"{'–'.join(str(value) for value in sorted({epochs[0], epochs[-1]}))} epochs"
    if smoothed:
        ends = f"{min(smoothed):.3f} to {max(smoothed):.3f}" if len(smoothed) > 1 else f"{smoothed[0]:.3f}"
        text += f"; smoothed validation Dice at the end {ends}"
    return text


def _text(value: float | None) -> str:
    return "not known" if value is None else f"{value:.3f}"
