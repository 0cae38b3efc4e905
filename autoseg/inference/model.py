"""Open what a run has trained: which configurations and folds segment new images, and their networks."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from autoseg import compute as computing
from autoseg.compute import Compute
from autoseg.errors import ModelError
from autoseg.evaluation.postprocessing import Postprocessing
from autoseg.evaluation.selection import Choice
from autoseg.networks import build_network, load_weights, put_weights
from autoseg.run_folder import FoldFolder, RunFolder, RunRecord
from planners import records
from planners.plan import Configuration, Plan


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What segments new images.

    Attributes:
        folds: per configuration of the ensemble, its folds' files.
        postprocessing: rules for the segmentation, in their order.
        because: one line for the user.
    """

    folds: tuple[tuple[Configuration, tuple[FoldFolder, ...]], ...]
    postprocessing: tuple[Postprocessing, ...]
    because: str

    @property
    def name(self) -> str:
        """For people: ``2d + 3d_fullres, 10 networks``."""
        names = " + ".join(configuration.name for configuration, _ in self.folds)
        count = sum(len(folds) for _, folds in self.folds)
        return f"{names}, {count} network{'s' * (count > 1)}"


def open_run(model: Path) -> tuple[RunFolder, Plan]:
    """Read the plan of a trained run.

    Raises:
        ModelError: the place holds no run.
    """
    run = RunFolder(model)
    if not run.plan_file.is_file():
        what = "is no folder" if not model.is_dir() else "holds no plan.json"
        raise ModelError(f"{model} is no trained model: it {what}. Give the folder that `autoseg run` wrote")
    return run, run.read(Plan, run.plan_file)


def select(run: RunFolder, plan: Plan) -> Selection:
    """Tell what segments new images: as chosen in ``choice.json``, else the first configuration that is trained.

    Raises:
        ModelError: nothing is trained, or weights of the choice are missing.
    """
    if not run.choice_file.exists():
        return _select_first(run, plan)
    choice = run.read(Choice, run.choice_file)
    folds = []
    for name in choice.configurations:
        files = [run.fold(name, fold) for fold in choice.folds]
        absent = [str(item.weights_last) for item in files if not item.weights_last.exists()]
        if absent:
            raise ModelError(f"{run.root} is not complete: {', '.join(absent)} is missing. Run `autoseg run` again")
        folds.append((plan.configuration(name), tuple(files)))
    because = "as chosen from the out-of-fold predictions" if choice.num_cases else "as written in choice.json"
    return Selection(folds=tuple(folds), postprocessing=choice.postprocessing, because=because)


def _select_first(run: RunFolder, plan: Plan) -> Selection:
    for configuration in plan.configurations:
        folder = run.fold(configuration.name, 0).root.parent
        names = sorted(path.name.removeprefix("fold_") for path in folder.glob("fold_*"))
        found = [run.fold(configuration.name, name) for name in names]
        found = [item for item in found if item.weights_last.exists()]
        finished = [item for item in found if _is_finished(item)]
        if found:
            state = "" if finished else ", still in training"
            because = f"nothing is chosen yet (no choice.json): the first configuration that is trained{state}"
            return Selection(folds=((configuration, tuple(finished or found)),), postprocessing=(), because=because)
    raise ModelError(f"{run.root} holds no trained network yet. Finish `autoseg run` first")


def _is_finished(fold: FoldFolder) -> bool:
    try:
        return bool(json.loads(fold.record.read_text(encoding="utf-8"))["finished"])
    except (OSError, ValueError, KeyError):
        return False


def load_networks(configuration: Configuration, folds: Sequence[FoldFolder], compute: Compute) -> list[nn.Module]:
    """Build one network per fold with its last weights, ready for inference on the device.

    Raises:
        ModelError: weights are missing or damaged, or do not fit the network of the plan.
    """
    networks = []
    for fold in folds:
        network = build_network(
            configuration.architecture, configuration.num_input_channels, configuration.target.num_outputs
        )
        weights, _ = load_weights(fold.weights_last)
        put_weights(network, weights, fold.weights_last)
        networks.append(computing.place(network, compute).eval())
    return networks


def compute_of(run: RunFolder, device: str = "auto") -> Compute:
    """Decide how to compute: on a CPU as the run was trained, where that fits this machine; else by probing anew.

    Raises:
        DeviceError: the device is not there.
    """
    recorded = run.read(RunRecord, run.run_file).compute if run.run_file.exists() else None
    if recorded is not None:
        trained = records.from_json(Compute, recorded)
        accelerated = torch.cuda.is_available() or torch.backends.mps.is_available()
        here = device == "cpu" or (device == "auto" and not accelerated)
        if trained.device == "cpu" and here and (trained.precision == "fp32" or computing.has_amx()):
            return dataclasses.replace(trained, threads=computing.count_threads())
    return computing.choose(device)


def digest_of(selection: Selection, plan: Plan) -> str:
    """Identify a model by what its predictions depend on: plan, weights, postprocessing (16 hexadecimal digits)."""
    weights = []
    for _, folds in selection.folds:
        for fold in folds:
            with fold.weights_last.open("rb") as file:
                weights.append(hashlib.file_digest(file, "sha256").hexdigest())
    configurations = [configuration for configuration, _ in selection.folds]
    shared = [plan.axis_order, plan.channels, plan.labels]
    return records.digest([configurations, shared, list(selection.postprocessing), weights])
