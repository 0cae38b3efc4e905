"""Open what nnU-Net v2 has trained: a model folder, or one checkpoint file, as a Plan and weights under our names.

    TRAINER__PLANS__CONFIGURATION/
    ├── plans.json  dataset.json
    └── fold_0/ … fold_4/ fold_all/     checkpoint_final.pth  checkpoint_best.pth  checkpoint_latest.pth

A checkpoint is a pickle. It is read by torch's unpickler for weights, which builds tensors, plain containers and the
scalars of numpy that nnU-Net logs, and refuses everything else: opening a model cannot run code.
"""

import pickle
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from autoseg.errors import ModelError
from autoseg.interop.nnunet_network import rename
from autoseg.interop.nnunet_plan import read_plan
from autoseg.options import ALL_DATA
from planners import records
from planners.plan import Plan
from planners.records import RecordError

CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_best.pth", "checkpoint_latest.pth")
"""By preference: the first that a fold has is taken, as nnU-Net predicts with the final one."""

SCALARS: list[Any] = [
    np.dtype,
    *(type(np.dtype(name)) for name in ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "bool")),
    np._core.multiarray.scalar,  # type: ignore[attr-defined]
    (np._core.multiarray.scalar, "numpy.core.multiarray.scalar"),  # type: ignore[attr-defined] # its name in numpy 1
]
"""What a logged number of numpy is pickled as."""

Fold = int | str
"""Number of a fold, or ``all-data``."""


@dataclass(frozen=True)
class NnunetWeights(Mapping[tuple[str, Fold], dict[str, Tensor]]):
    """Weights by configuration and fold, under our names; each is read from its checkpoint when it is asked for.

    Attributes:
        plan: whose configurations they belong to.
        files: the checkpoints.
        reader: nnU-Net's name of what it reads images with.
    """

    plan: Plan
    files: Mapping[tuple[str, Fold], Path]
    reader: str = ""

    def __getitem__(self, key: tuple[str, Fold]) -> dict[str, Tensor]:
        """Read one network's weights.

        Raises:
            KeyError: there is no checkpoint of that configuration and fold.
            ModelError: the checkpoint cannot be read, or does not fit the plan.
        """
        file = self.files[key]
        return rename(_weights(_load(file), file), self.plan.configuration(key[0]), file)

    def __iter__(self) -> Iterator[tuple[str, Fold]]:
        return iter(self.files)

    def __len__(self) -> int:
        return len(self.files)


def is_nnunet(path: Path) -> bool:
    """Whether a path looks like a model of nnU-Net v2: a folder with its two JSON files, or a ``.pth`` file."""
    if path.is_dir():
        return (path / "plans.json").is_file() and (path / "dataset.json").is_file()
    return path.suffix == ".pth"


def open_nnunet(path: Path) -> tuple[Plan, NnunetWeights]:
    """Open a model that nnU-Net v2 trained.

    Where the model is the second stage of a cascade and the first stage's folder stands beside it, the weights of both
    are given.

    Args:
        path: a model folder (``TRAINER__PLANS__CONFIGURATION``), or one checkpoint file, which is enough by itself.

    Returns:
        The plan, and the weights by configuration and fold. The first configuration of the weights is the model's own.

    Raises:
        ModelError: it is none, or something is missing, damaged or not known here; the message says what.
    """
    if path.is_dir():
        return _open_folder(path)
    if not path.is_file():
        raise ModelError(f"{path} does not exist. Give a model folder of nnU-Net v2, or a checkpoint (.pth)")
    checkpoint = _load(path)
    settings = _settings(checkpoint, path)
    plan = read_plan(settings["plans"], settings["dataset_json"], settings["configuration"], path)
    plan = _with_mirroring(plan, settings["configuration"], checkpoint)
    files = {(settings["configuration"], _fold(settings["fold"])): path}
    weights = NnunetWeights(plan, files, _reader(settings["plans"]))
    rename(_weights(checkpoint, path), plan.configuration(settings["configuration"]), path)  # a misfit is told at once
    return plan, weights


def _open_folder(folder: Path) -> tuple[Plan, NnunetWeights]:
    plans, dataset = (_read_json(folder / name) for name in ("plans.json", "dataset.json"))
    files = _fold_files(folder)
    if not files:
        raise ModelError(
            f"{folder} holds no trained fold: no fold_*/ with {', '.join(CHECKPOINTS[:-1])} or {CHECKPOINTS[-1]}. "
            "Copy the folds from where nnU-Net trained them"
        )
    first = next(iter(files.values()))
    checkpoint = _load(first)
    name = _settings(checkpoint, first)["configuration"]
    plan = _with_mirroring(read_plan(plans, dataset, name, folder), name, checkpoint)
    rename(_weights(checkpoint, first), plan.configuration(name), first)  # a misfit is told at once
    found = {(name, fold): file for fold, file in files.items()}
    feeding = plan.configuration(name).previous
    while feeding is not None and folder.resolve().name.count("__") == 2:
        own = folder.resolve()
        beside = _fold_files(own.with_name(own.name.rsplit("__", 1)[0] + f"__{feeding}"))
        if beside:
            plan = _with_mirroring(plan, feeding, _load(next(iter(beside.values()))))
        found |= {(feeding, fold): file for fold, file in beside.items()}
        feeding = plan.configuration(feeding).previous
    return plan, NnunetWeights(plan, found, _reader(plans))


def _reader(plans: Any) -> str:
    return str(plans.get("image_reader_writer", ""))


def _with_mirroring(plan: Plan, name: str, checkpoint: Mapping[str, Any]) -> Plan:
    """Note the axes along which a trained network may be mirrored."""
    axes = checkpoint.get("inference_allowed_mirroring_axes")
    item = plan.configuration(name)
    mirrored = replace(item, training=replace(item.training, mirror_axes=tuple(int(axis) for axis in axes or ())))
    return replace(plan, configurations=tuple(mirrored if other is item else other for other in plan.configurations))


def _fold_files(folder: Path) -> dict[Fold, Path]:
    """The checkpoint of every trained fold; one that trained on all cases comes last."""
    files: dict[Fold, Path] = {}
    for fold in sorted(folder.glob("fold_*"), key=lambda item: (item.name == "fold_all", len(item.name), item.name)):
        found = next((fold / name for name in CHECKPOINTS if (fold / name).is_file()), None)
        if found is not None:
            files[_fold(fold.name.removeprefix("fold_"))] = found
    return files


def _fold(name: Any) -> Fold:
    return int(name) if str(name).isdigit() else ALL_DATA


def _read_json(path: Path) -> Any:
    try:
        return records.parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError as fault:
        raise ModelError(
            f"{path.parent} is no model folder of nnU-Net v2: {path.name} is missing. Give the folder that holds "
            "plans.json, dataset.json and fold_*"
        ) from fault
    except RecordError as fault:
        raise ModelError(f"{path} {fault}. Copy the model anew") from fault
    except (OSError, ValueError) as fault:
        raise ModelError(f"{path} cannot be read: {fault}. Copy the model anew") from fault


def _load(path: Path) -> dict[str, Any]:
    try:
        with torch.serialization.safe_globals(SCALARS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old formats; what cannot be read is told below
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as fault:
        what = next((line.strip() for line in str(fault).splitlines() if "GLOBAL" in line), "it is no checkpoint")
        raise ModelError(
            f"{path} cannot be opened without running what it holds: {what[:160]}. Use a checkpoint as nnU-Net v2 "
            "writes it, from whom you trust"
        ) from fault
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as fault:
        raise ModelError(f"{path} cannot be read as a checkpoint: {_first_line(fault)}. Copy the file anew") from fault
    if not isinstance(checkpoint, dict):
        raise ModelError(f"{path} is no checkpoint of nnU-Net v2: it holds a {type(checkpoint).__name__}")
    return checkpoint


def _weights(checkpoint: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    weights = checkpoint.get("network_weights")
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise ModelError(f"{path} is no checkpoint of nnU-Net v2: it holds no network_weights")
    return weights


def _settings(checkpoint: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    settings = checkpoint.get("init_args")
    missing = [key for key in ("plans", "configuration", "fold", "dataset_json") if key not in (settings or {})]
    if not isinstance(settings, dict) or missing:
        raise ModelError(f"{path} is no checkpoint of nnU-Net v2: init_args.{missing[0]} is missing")
    return settings


def _first_line(fault: Exception) -> str:
    return (str(fault).strip().splitlines() or [type(fault).__name__])[0]
