"""Open what a run has trained: which configurations and folds segment new images, and their networks."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autoseg import compute as computing
from autoseg.compute import Compute
from autoseg.errors import ModelError
from autoseg.evaluation.postprocessing import Postprocessing
from autoseg.evaluation.selection import Choice
from autoseg.evaluation.weights import weights_text
from autoseg.inference.speed import BEST, Speed
from autoseg.networks import build_network, load_weights, put_weights
from autoseg.run_folder import FoldFolder, RunFolder, RunRecord, records_from
from planners import records
from planners.identity import identity_json
from planners.plan import Configuration, Plan


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What segments new images.

    Attributes:
        folds: per configuration of the ensemble, its folds' files.
        previous: the same for the configurations that feed these, in the order in which they run.
        postprocessing: rules for the segmentation, in their order.
        weights: of the configurations' probabilities, as many as ``folds``; empty: all alike.
        decode: settings of the decoder that differ from the plan's (see ``with_decode``).
        because: one line for the user.
        speed: how much work goes into it; ``folds`` and ``previous`` are cut to it already (see ``at_speed``).
    """

    folds: tuple["Trained", ...]
    previous: tuple["Trained", ...] = ()
    postprocessing: tuple[Postprocessing, ...]
    weights: tuple[float, ...] = ()
    decode: dict[str, Any] = field(default_factory=dict)
    because: str
    speed: Speed = BEST

    @property
    def name(self) -> str:
        """For people: ``2d + 3d_fullres, 10 networks``; for a cascade ``3d_cascade_fullres, 5 networks, after …``."""
        after = f", after {_name(self.previous, ' → ')}" if self.previous else ""
        weights = f", weighted {weights_text(self.weights)}" if self.weights else ""
        speed = f", {self.speed.name}" if self.speed != BEST else ""
        return f"{_name(self.folds, ' + ')}{weights}{after}{speed}"


Trained = tuple[Configuration, tuple[FoldFolder, ...]]
"""A configuration and the folds whose networks are averaged."""


def _name(trained: Sequence[Trained], between: str) -> str:
    count = sum(len(folds) for _, folds in trained)
    return f"{between.join(configuration.name for configuration, _ in trained)}, {count} network{'s' * (count > 1)}"


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
    return Selection(
        folds=tuple(folds),
        previous=_previous_of(run, plan, choice.configurations),
        postprocessing=choice.postprocessing,
        weights=_weights(choice, run),
        decode=choice.decode,
        because=because,
    )


def at_speed(selection: Selection, speed: Speed) -> Selection:
    """Take as many networks of each configuration as a preset does; windows and mirroring follow from its record."""
    few = tuple((item, folds[: speed.max_folds]) for item, folds in selection.folds)
    feeding = tuple((item, folds[: speed.max_folds]) for item, folds in selection.previous)
    return dataclasses.replace(selection, folds=few, previous=feeding, speed=speed)


def _weights(choice: Choice, run: RunFolder) -> tuple[float, ...]:
    """Give the choice's weights, none where they are all alike.

    Raises:
        ModelError: a person has written as many or such as cannot be.
    """
    weights = choice.weights
    if len(set(weights)) < 2:
        return ()
    if len(weights) != len(choice.configurations) or min(weights) <= 0:
        raise ModelError(
            f"{run.choice_file}: weights are {list(weights)} for {len(choice.configurations)} configurations. "
            "Give each a positive number, or [] for equal ones"
        )
    return weights


def _select_first(run: RunFolder, plan: Plan) -> Selection:
    for configuration in plan.configurations:
        folds, finished = _trained_folds(run, configuration.name)
        if folds:
            state = "" if finished else ", still in training"
            because = f"nothing is chosen yet (no choice.json): the first configuration that is trained{state}"
            previous = _previous_of(run, plan, [configuration.name])
            return Selection(folds=((configuration, folds),), previous=previous, postprocessing=(), because=because)
    raise ModelError(f"{run.root} holds no trained network yet. Finish `autoseg run` first")


def _previous_of(run: RunFolder, plan: Plan, names: Sequence[str]) -> tuple[Trained, ...]:
    """List what feeds some configurations, each once and before what it feeds itself, with all its trained folds.

    Raises:
        ModelError: none of its folds is trained.
    """
    needed: list[str] = []
    for name in names:
        chain, previous = [], plan.configuration(name).previous
        while previous is not None:
            chain.append(previous)
            previous = plan.configuration(previous).previous
        needed += reversed(chain)
    trained = []
    for name in dict.fromkeys(needed):
        folds, _ = _trained_folds(run, name)
        if not folds:
            raise ModelError(
                f"{run.root} is not complete: {' and '.join(names)} needs the segmentation of {name}, "
                f"of which no fold is trained ({run.fold(name, 0).root.parent}). Run `autoseg run` again"
            )
        trained.append((plan.configuration(name), folds))
    return tuple(trained)


def _trained_folds(run: RunFolder, name: str) -> tuple[tuple[FoldFolder, ...], bool]:
    """List the folds of a configuration that have weights: the finished ones where there are any, and whether so."""
    folder = run.fold(name, 0).root.parent
    names = sorted(path.name.removeprefix("fold_") for path in folder.glob("fold_*"))
    names.sort(key=lambda fold: int(fold) if fold.isdigit() else len(names))  # 2 before 10, and numbers before words
    found = [item for item in (run.fold(name, fold) for fold in names) if item.weights_last.exists()]
    finished = [item for item in found if _is_finished(item)]
    return tuple(finished or found), bool(finished)


def _is_finished(fold: FoldFolder) -> bool:
    try:
        return bool(json.loads(fold.record.read_text(encoding="utf-8"))["finished"])
    except (OSError, ValueError, KeyError):
        return False


def group_folds(configuration: Configuration, folds: Sequence[FoldFolder]) -> tuple[Trained, ...]:
    """Put folds together that have the same network and patch: the plan's, but for what was stepped down in between."""
    groups: dict[str, tuple[Configuration, list[FoldFolder]]] = {}
    for fold in folds:
        own = records_from(Configuration, fold.configuration) if fold.configuration.exists() else configuration
        shape = dataclasses.replace(
            configuration, patch_size=own.patch_size, output_size=own.output_size, architecture=own.architecture
        )
        groups.setdefault(records.digest(shape), (shape, []))[1].append(fold)
    return tuple((shape, tuple(members)) for shape, members in groups.values())


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
    """Decide how to compute: on a CPU as the run was trained, where that fits this machine; else by probing.

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
    return computing.choose(device, recall=True)


def digest_of(selection: Selection, plan: Plan) -> str:
    """Identify what predictions depend on: plan, weights, decoding, rules, speed (16 hexadecimal digits)."""
    shared = [plan.axis_order, plan.channels, plan.labels]
    configurations, weights = _identity(selection.folds)
    # What is not said is left out, so that models of older programs keep their identity.
    rules = [
        {name: value for name, value in records.to_json(rule).items() if value is not None}
        for rule in selection.postprocessing
    ]
    parts = [configurations, shared, rules, weights]
    if selection.weights:
        parts.append(list(selection.weights))
    if selection.decode:
        parts.append(selection.decode)
    if selection.speed != BEST:  # its folds are told by their weights
        parts.append({"mirror": selection.speed.mirror, "step": selection.speed.step})
    return records.digest([*parts, *_identity(selection.previous)] if selection.previous else parts)


def _identity(trained: Sequence[Trained]) -> tuple[Any, list[str]]:
    weights = []
    for _, folds in trained:
        for fold in folds:
            with fold.weights_last.open("rb") as file:
                weights.append(hashlib.file_digest(file, "sha256").hexdigest())
    return identity_json([configuration for configuration, _ in trained]), weights
