"""One epoch as one line for people: fixed columns, the finish time last."""

from collections.abc import Mapping
from typing import Any

from autoseg.progress import finish_time

HEADER = "epoch      lr     train      val    dice     ema   s/step  wait  done at"


def epoch_line(row: Mapping[str, Any], end: int) -> str:
    """Word a row of ``progress.jsonl``; what is not known is a dash.

    Args:
        row: of one epoch.
        end: number of epochs after which the training ends, as far as is known by now.
    """
    left = max(end - row["epoch"] - 1, 0) * row["seconds"]
    epoch = f"{row['epoch'] + 1}/{end}"
    return (
        f"{epoch:>9} {row['learning_rate']:7.5f} {row['train_loss']:8.4f} {_number(row['validation_loss'], 8)} "
        f"{_number(row['mean_dice'], 7)} {_number(row['ema_dice'], 7)} {row['step_seconds']:8.3f} "
        f"{row['data_wait_fraction']:5.0%}  {finish_time(left)}"
    )


def _number(value: float | None, width: int) -> str:
    return f"{value:{width}.4f}" if value is not None else "–".rjust(width)
