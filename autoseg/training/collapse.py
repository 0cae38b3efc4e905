"""A network that predicts background alone: noticed while it trains, and named with what to do."""

from collections.abc import Mapping, Sequence
from typing import Any

from autoseg.data.check_problem import count
from autoseg.evaluation.overlap import CaseScore
from autoseg.progress import say
from autoseg.run_folder import RunFolder
from autoseg.targets import Target

PATIENCE = 10
"""Epochs in a row. Assumption: on all datasets tried here a network leaves the background within its first three."""
SHOWN = 5
"""Cases that are named; those with the largest labels first."""
LEAST = 3
"""Epochs in a row where a training is so short that a fifth of it is fewer than ``PATIENCE``."""


def tell_collapse(run: RunFolder, name: str, rows: Sequence[Mapping[str, Any]], epochs: int, target: Target) -> None:
    """Say it once, and log it, where a network has not left the background, or has gone back to it.

    Args:
        run: whose log it is.
        name: of the fold.
        rows: of ``progress.jsonl``, all there are.
        epochs: of the whole training.
        target: what the network is trained against.
    """
    collapsed = collapsed_for(rows)
    if collapsed == patience(epochs):
        text = collapse_text(name, collapsed, finds_objects=target.finds_objects)
        say(f"  {text}")
        run.log("collapse", fold=name, epoch=rows[-1]["epoch"] + 1, because=text)


def collapsed_for(rows: Sequence[Mapping[str, Any]]) -> int:
    """Count the epochs at the end in which no foreground was predicted though validation patches held some.

    Args:
        rows: of ``progress.jsonl``; those without ``predicted_voxels`` (of older runs) end the count.
    """
    count = 0
    for row in reversed(rows):
        predicted, dice = row.get("predicted_voxels"), row.get("dice") or ()
        if predicted is None or any(predicted) or all(value is None for value in dice):
            break
        count += 1
    return count


def patience(epochs: int) -> int:
    """Say how many such epochs in a row are told: ``PATIENCE``, or a fifth of a short training."""
    return max(min(PATIENCE, epochs // 5), LEAST)


def collapse_text(name: str, count: int, *, finds_objects: bool = False) -> str:
    """Word it, with what to do.

    Args:
        name: of the fold.
        count: epochs in a row.
        finds_objects: whether the target does: what is missing is then the part of objects that seeds are found in.
    """
    alone, some = ("nothing of any object", "objects") if finds_objects else ("background alone", "foreground")
    return (
        f"{name}: for {count} epochs the network has predicted {alone}, though the labels hold {some}. "
        "Look whether labels lie on their images (autoseg report shows pictures); for very small structures try "
        "--set '*.training.foreground_fraction=0.5', or a lower rate, --set '*.training.learning_rate=0.001'"
    )


def empty_text(name: str, scores: Sequence[CaseScore]) -> str:
    """Name the validation cases in which nothing was found though their labels hold something; empty without any.

    Args:
        name: of the fold.
        scores: of its validation cases.
    """
    empty = [row for row in scores if any(row.num_labelled) and not any(row.num_predicted)]
    if not empty:
        return ""
    empty.sort(key=lambda row: -sum(row.num_labelled))
    shown = ", ".join(f"{row.case} ({count(sum(row.num_labelled), 'labelled voxel')})" for row in empty[:SHOWN])
    more = f" and {len(empty) - SHOWN} more" if len(empty) > SHOWN else ""
    return (
        f"{name}: an empty prediction for {len(empty)} of {count(len(scores), 'validation case')} whose labels are "
        f"not: {shown}{more}. Look at them in the report: is the image like the others, does the label lie on it?"
    )


def missed_text(name: str, structures: Sequence[str], labelled: Sequence[int], predicted: Sequence[int]) -> str:
    """Name the classes that labels hold and no validation prediction does; empty where there is none.

    Args:
        name: of the fold.
        structures: names of the classes or regions.
        labelled, predicted: voxels over all validation cases.
    """
    missed = [item for item, t, p in zip(structures, labelled, predicted, strict=True) if t and not p]
    if not missed:
        return ""
    several = len(missed) == len(structures) > 1
    what = "no foreground at all" if several else f"no {', '.join(missed)}"
    return (
        f"{name}: predicted {what} in any validation case, though their labels hold some. "
        "Train longer, or look at the label pictures in the report"
    )
