"""What a trained fold was made from and how far it is: read by every stage, so without torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoseg.options import ALL_DATA
from autoseg.run_folder import FoldFolder, RunFolder
from planners import records
from planners.identity import identity_json
from planners.plan import Configuration, Plan

LENGTH = ("epochs", "patience", "momentum_spans")
"""Fields of ``Training`` that only go with its length: a fold may be given others and go on."""

DECODE = "decode"
"""Option of a target: settings with which its outputs are decoded, long after training."""


@dataclass(frozen=True, kw_only=True)
class FoldRecord:
    """``fold.json``: what a fold was made from, and how far it is.

    Attributes:
        configuration: digest of the configuration without its number of epochs and what only decodes.
        split: digest of the training and validation cases and of their preprocessed data.
        previous: digest of what their previous segmentations were made from; empty where there are none.
        epochs: epochs of the schedule it was trained by.
        finished: all epochs were trained.
        validated: number of epochs after which ``scores.json`` was made, or None.
        validation_s: seconds that it took, or None.
        step_down: what the program changed by itself, or empty.
        decode: digest of the decoder's settings that it was validated with; empty where there are none.
    """

    configuration: str
    split: str
    previous: str = ""
    epochs: int
    finished: bool = False
    validated: int | None = None
    validation_s: float | None = None
    step_down: str = ""
    decode: str = ""


def is_trained(run: RunFolder, plan: Plan, configuration: str, fold: int | str) -> bool:
    """Tell whether a fold is trained for as many epochs as the plan says, and validated where it has cases for that."""
    file = run.fold(configuration, fold).record
    if not file.exists():
        return False
    found = run.read(FoldRecord, file)
    validated = fold == ALL_DATA or found.validated == found.epochs
    return found.finished and validated and found.epochs >= plan.configuration(configuration).training.epochs


def trained_folds(run: RunFolder, configuration: str) -> tuple[tuple[int | str, FoldFolder], ...]:
    """List the finished folds of a configuration in order."""
    root: Path = run.root / "folds" / configuration
    found = []
    for path in sorted(root.glob("fold_*")):
        text = path.name.removeprefix("fold_")
        fold = run.fold(configuration, int(text) if text.isdigit() else text)
        if fold.record.exists() and run.read(FoldRecord, fold.record).finished:
            found.append((int(text) if text.isdigit() else text, fold))
    return tuple(found)


def identity(configuration_json: dict[str, Any], split: Any, *, with_decode: bool = False) -> tuple[str, str]:
    """Give the digests a trained fold is bound to: its configuration without what only sets its end, and its split.

    Args:
        configuration_json: of the fold.
        split: its cases.
        with_decode: take the settings of the target's decoder too, on which no weight depends, as older programs did.
    """
    bound = {key: value for key, value in identity_json(configuration_json).items() if key != "estimated_bytes"}
    bound["training"] = {key: value for key, value in bound["training"].items() if key not in LENGTH}
    if not with_decode and DECODE in bound.get("target", {}).get("options", {}):
        options = {key: value for key, value in bound["target"]["options"].items() if key != DECODE}
        bound["target"] = {**bound["target"], "options": options}
    return records.digest(bound), records.digest(split)


def decode_digest(configuration: Configuration) -> str:
    """Identify the settings of the target's decoder; empty where the plan has none."""
    settings = configuration.target.options.get(DECODE)
    return records.digest(settings) if settings else ""
