"""Write a trained model of ours as a model folder that nnU-Net v2 predicts with (v2.8.1)."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autoseg.data.io_write import replace_whole
from autoseg.errors import OptionError
from autoseg.interop.nnunet import CHECKPOINTS, Fold
from autoseg.interop.nnunet_describe import PLANS, check_sayable, describe_dataset, describe_plans, heads_of
from autoseg.interop.nnunet_names import their_weights
from autoseg.options import ALL_DATA
from autoseg.run_folder import write_atomic
from planners.plan import Configuration, Plan

TRAINER = "nnUNetTrainer"


@dataclass(frozen=True)
class TrainedConfiguration:
    """One configuration to write.

    Attributes:
        configuration: as its networks were trained.
        weights: by fold, under our names; each is read when it is asked for.
    """

    configuration: Configuration
    weights: Mapping[Fold, Mapping[str, Tensor]]


def model_folder(folder: Path, configuration: str) -> Path:
    """Name the model folder of one configuration as nnU-Net does: trainer, plans, configuration."""
    return folder / f"{TRAINER}__{PLANS}__{configuration}"


def write_nnunet(plan: Plan, trained: Sequence[TrainedConfiguration], folder: Path, ending: str) -> list[Path]:
    """Write one model folder per configuration.

    Args:
        plan: ours.
        trained: the configurations, those that feed others before these.
        folder: where the model folders are made.
        ending: of the image files, such as ``.nii.gz``.

    Returns:
        The model folders.

    Raises:
        ModelError: nnU-Net cannot say something; nothing is written.
        OptionError: a model folder is there already; nothing is written.
    """
    configurations = [item.configuration for item in trained]
    folders = [model_folder(folder, item.name) for item in configurations]
    for configuration, place in zip(configurations, folders, strict=True):
        check_sayable(plan, configuration)
        if place.exists():
            raise OptionError(f"{place} is there already. Give another folder, or remove it")
    plans = describe_plans(plan, configurations, ending)
    for item, place in zip(trained, folders, strict=True):
        _write_one(plan, item, plans, place, ending)
    return folders


def _write_one(plan: Plan, item: TrainedConfiguration, plans: dict[str, Any], place: Path, ending: str) -> None:
    configuration = item.configuration
    dataset = describe_dataset(plan, configuration, ending)
    heads = heads_of(plan, configuration)
    for fold, weights in item.weights.items():
        theirs = "all" if fold == ALL_DATA else fold
        checkpoint = {
            "network_weights": their_weights(weights, configuration.architecture, heads),
            "optimizer_state": None,
            "grad_scaler_state": None,
            "init_args": {
                "plans": plans,
                "configuration": configuration.name,
                "fold": theirs,
                "dataset_json": dataset,
                "device": torch.device("cpu"),
            },
            "trainer_name": TRAINER,
            "inference_allowed_mirroring_axes": configuration.training.mirror_axes or None,
        }

        def write(temporary: Path, content: dict[str, Any] = checkpoint) -> None:
            torch.save(content, temporary)

        replace_whole(place / f"fold_{theirs}" / CHECKPOINTS[0], ".pth", write)
    write_atomic(place / "dataset.json", json.dumps(dataset, indent=4))
    write_atomic(place / "plans.json", json.dumps(plans, indent=4))  # last: with it the folder is a model
