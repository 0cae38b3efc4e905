"""The state of one fold between two steps: what is saved, so that a killed training goes on as if nothing had happened.

``state.safetensors`` alone is enough to go on: it holds weights, momentum and counters of one step. ``weights_last``
is written from the same step for prediction; a kill between the two leaves an older ``weights_last``, which the next
save overwrites.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from autoseg.compute import Precision
from autoseg.errors import RunFolderError
from autoseg.networks.checkpoint import CHECKSUM, checksum
from autoseg.run_folder import FoldFolder, write_atomic
from autoseg.training.schedule import Bend
from planners import records

FAULTS = (SafetensorError, OSError, KeyError, TypeError, RuntimeError, ValueError)
"""What reading a damaged state may raise."""

NETWORK = "network."
"""Beginning of the names of weights in a state."""


@dataclass(kw_only=True)
class Counters:
    """How far a training is: everything that changes from step to step but the tensors.

    Attributes (those that do not speak for themselves):
        epoch, step: the next to make.
        seconds: time spent on the epoch that is not finished; that of finished ones stands in ``progress.jsonl``.
        lost_s: time spent on epochs that a kill has undone.
        skipped: steps whose loss was not finite.
        stalled: epochs since the smoothed Dice was at its best.
        bend: where the schedule has left the plan's, so that a restart follows the same.
        momentum: that the steps were made with; None in older files: the plan's.
    """

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    loss_count: int = 0
    seconds: float = 0.0
    lost_s: float = 0.0
    skipped: int = 0
    ema_dice: float | None = None
    best_ema: float | None = None
    stalled: int = 0
    bend: Bend | None = None
    loss_scale: float = 1.0
    precision: Precision = "fp32"
    momentum: float | None = None


def first_loss_scale(precision: str) -> float:
    """Give what losses are multiplied by in the beginning; overflows halve it."""
    return 2.0**14 if precision == "fp16" else 1.0  # assumption: high


def save_state(path: Path, network: nn.Module, optimizer: torch.optim.Optimizer, counters: Counters) -> None:
    """Write weights, momentum and counters of one step into one file, whole or not at all."""
    write_state(path, collect_state(network, optimizer), counters_text(counters))


def collect_state(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Name the tensors of a state: they go on changing with the training."""
    tensors = {f"{NETWORK}{name}": value for name, value in network.state_dict().items()}
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    for parameter, state in optimizer.state.items():
        buffer = state.get("momentum_buffer")
        if buffer is not None:
            tensors[f"momentum.{names[id(parameter)]}"] = buffer
    return tensors


def counters_text(counters: Counters) -> str:
    """Word the counters as they are now, for the file."""
    return json.dumps(dataclasses.asdict(counters))


def write_state(path: Path, tensors: Mapping[str, Tensor], counters: str) -> None:
    """Write what :func:`collect_state` has named and :func:`counters_text` has worded, whole or not at all."""
    flat = {name: value.detach().to("cpu").contiguous() for name, value in tensors.items()}
    write_atomic(path, save(flat, metadata={"counters": counters, CHECKSUM: checksum(flat)}))


def load_state(path: Path, network: nn.Module, optimizer: torch.optim.Optimizer) -> Counters:
    """Put weights and momentum back and give the counters.

    Raises:
        RunFolderError: the file is damaged or belongs to another network.
    """
    try:
        with safe_open(path, framework="pt") as file:
            counters = _counters(file.metadata())
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            wanted = file.metadata().get(CHECKSUM)  # files of before have none
        if wanted is not None and checksum(tensors) != wanted:
            raise ValueError("its tensors are not those that were written")
        network.load_state_dict({n.removeprefix("network."): t for n, t in tensors.items() if n.startswith("network.")})
    except FAULTS as fault:
        raise RunFolderError(_unusable(path, fault)) from fault
    for name, parameter in network.named_parameters():
        buffer = tensors.get(f"momentum.{name}")
        if buffer is not None:
            restored = torch.empty_like(parameter).copy_(buffer)
            optimizer.state[parameter]["momentum_buffer"] = restored
    return counters


def load_counters(path: Path) -> Counters:
    """Read how far a saved training is, without its tensors.

    Raises:
        RunFolderError: the file is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return _counters(file.metadata())
    except FAULTS as fault:
        raise RunFolderError(_unusable(path, fault)) from fault


def _counters(metadata: dict[str, str]) -> Counters:
    return records.from_json(Counters, json.loads(metadata["counters"]))


def _unusable(path: Path, fault: Exception) -> str:
    reason = str(fault).splitlines()[0]
    return f"{path} cannot be used: {reason}. Delete its folder to train this fold anew"


def append_progress(folder: FoldFolder, row: dict[str, Any]) -> None:
    """Add the line of one epoch; lines of the same or later epochs (from before a kill) go."""
    kept = [line for line in read_progress(folder) if line["epoch"] < row["epoch"]]
    text = "".join(json.dumps(line) + "\n" for line in [*kept, row])
    write_atomic(folder.progress, text)


def read_progress(folder: FoldFolder) -> list[dict[str, Any]]:
    """Read one dict per finished epoch; empty where there is none.

    Raises:
        RunFolderError: a line is no JSON object.
    """
    if not folder.progress.exists():
        return []
    rows = []
    for number, line in enumerate(folder.progress.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        try:
            row = json.loads(line) if line.strip() else None
            if row is not None:
                rows.append({**row, "epoch": int(row["epoch"])})
        except (ValueError, KeyError, TypeError, RecursionError) as fault:
            raise RunFolderError(
                f"{folder.progress}, line {number}, is no line of an epoch ({fault}). Delete that line: it is the "
                "curve of one epoch, and training goes on without it"
            ) from fault
    return rows


def drop_progress(folder: FoldFolder, epoch: int) -> None:
    """Remove the lines of an epoch and all later ones: they tell of work that is to be done again."""
    rows = read_progress(folder)
    kept = [row for row in rows if row["epoch"] < epoch]
    if len(kept) < len(rows):
        write_atomic(folder.progress, "".join(json.dumps(row) + "\n" for row in kept))


def spent_s(rows: Sequence[dict[str, Any]], counters: Counters) -> float:
    """Add up the seconds that a training has taken, work that was lost included.

    Args:
        rows: of ``progress.jsonl``.
        counters: of the newest saved step.
    """
    finished = sum(row["seconds"] for row in rows)
    unfinished = counters.seconds if all(row["epoch"] < counters.epoch for row in rows) else 0.0
    return finished + unfinished + counters.lost_s
