"""Model folders as nnU-Net v2 writes them, made in code from a tiny network of ours."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from autoseg.networks import build_network
from planners.plan import Architecture, Stage
from planners.presets import supervise

PLAIN, RESIDUAL = "plain-unet", "residual-encoder-unet"
CLASS = {PLAIN: "PlainConvUNet", RESIDUAL: "ResidualEncoderUNet"}
DATASET = {
    "channel_names": {"0": "CT", "1": "PET"},
    "labels": {"background": 0, "tumour": 2, "liver": 1},
    "numTraining": 4,
    "file_ending": ".nii.gz",
}
MEASURED = {"mean": 1.0, "median": 2, "std": 3.0, "min": -4.0, "max": 5.0, "percentile_00_5": -3, "percentile_99_5": 4}


@pytest.fixture(autouse=True)
def quiet(one_thread: None) -> None:
    """All tests here compute on one thread."""


def network_settings(family: str) -> dict:
    """A 2D network of three stages; the decoder's depths differ, the deepest first."""
    settings = {
        "n_stages": 3,
        "features_per_stage": [4, 8, 16],
        "conv_op": "torch.nn.modules.conv.Conv2d",
        "kernel_sizes": [[3, 3], [1, 3], [3, 3]],
        "strides": [[1, 1], [2, 2], [1, 2]],
        "n_conv_per_stage_decoder": [2, 1],
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm2d",
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    settings["n_conv_per_stage" if family == PLAIN else "n_blocks_per_stage"] = [1, 2, 2]
    return settings


def architecture(family: str) -> Architecture:
    """The same network as a record of ours."""
    stages = zip((4, 8, 16), ((3, 3), (1, 3), (3, 3)), ((1, 1), (2, 2), (1, 2)), (1, 2, 2), strict=True)
    return Architecture(
        family=family,
        dimensions=2,
        stages=tuple(Stage(features=f, kernel=k, stride=s, num_blocks=n) for f, k, s, n in stages),
        num_decoder_blocks=(1, 2),
        outputs=supervise(((1, 1), (2, 2), (1, 2))),
    )


def their_names(name: str) -> list[str]:
    """All names that nnU-Net gives one of our parameters, in a network of three stages."""
    part, stage, rest = name.split(".", 2)
    if part == "heads":
        return [f"decoder.seg_layers.{1 - int(stage)}.{rest.removeprefix('conv.')}"]
    if part == "upsample":
        return [f"decoder.transpconvs.{1 - int(stage)}.{rest.removeprefix('conv.')}"]
    if part == "decoder":
        names = [f"decoder.stages.{1 - int(stage)}.convs.{rest}"]
    elif rest.startswith("stem."):
        names = [f"encoder.stem.convs.0.{rest.removeprefix('stem.')}"]
    elif rest.count(".") == 2:
        names = [f"encoder.stages.{stage}.0.convs.{rest}"]
    else:
        block, inner = rest.split(".", 1)
        inner = inner.replace("first", "conv1").replace("second", "conv2")
        inner = inner.replace("shortcut.project", "skip.1")  # behind the pooling
        names = [f"encoder.stages.{stage}.blocks.{block}.{inner}"]
    names += [n.replace(".conv.", ".all_modules.0.").replace(".norm.", ".all_modules.1.") for n in names]
    return names + [f"decoder.{n}" for n in names if n.startswith("encoder.")]


def make_plans(family: str) -> dict:
    """The content of a plans.json: a 2D configuration, and a cascade of it that inherits."""
    spline = {"is_seg": False, "order_z": 0, "force_separate_z": None}
    configuration = {
        "data_identifier": "nnUNetPlans_2d",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 5,
        "patch_size": [16, 24],
        "median_image_size_in_voxels": [17.5, 25.0],
        "spacing": [0.5, 0.75],
        "normalization_schemes": ["CTNormalization", "ZScoreNormalization"],
        "use_mask_for_norm": [False, True],
        "architecture": {
            "network_class_name": f"dynamic_network_architectures.architectures.unet.{CLASS[family]}",
            "arch_kwargs": network_settings(family),
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
        "batch_dice": True,
    }
    for kind, order in (("data", 3), ("seg", 1), ("probabilities", 1)):
        configuration[f"resampling_fn_{kind}"] = "resample_data_or_seg_to_shape"
        configuration[f"resampling_fn_{kind}_kwargs"] = {**spline, "is_seg": kind == "seg", "order": order}
    return {
        "dataset_name": "Dataset099_Made",
        "plans_name": "nnUNetPlans",
        "transpose_forward": [2, 0, 1],
        "transpose_backward": [1, 2, 0],
        "configurations": {
            "2d": configuration,
            "2d_cascade": {"inherits_from": "2d", "previous_stage": "2d", "batch_size": 3},
        },
        "experiment_planner_used": "ExperimentPlanner" if family == PLAIN else "nnUNetPlannerResEncL",
        "foreground_intensity_properties_per_channel": {"0": MEASURED, "1": MEASURED},
    }


class Model:
    """A model folder in the making: change what it holds, then write it."""

    def __init__(self, folder: Path, family: str, configuration: str = "2d") -> None:
        self.folder, self.family, self.configuration = folder, family, configuration
        self.plans, self.dataset = make_plans(family), copy.deepcopy(DATASET)
        self.weights = build_network(architecture(family), 4 if "cascade" in configuration else 2, 3).state_dict()
        generator = torch.Generator().manual_seed(1)
        for value in self.weights.values():
            value.copy_(torch.randn(value.shape, generator=generator))
        self.checkpoint = {
            "optimizer_state": None,
            "grad_scaler_state": None,
            "logging": {
                "mean_fg_dice": [np.float64(0.5)],
                "train_losses": [np.float32(1), np.int64(2), np.bool_(True)],
            },
            "_best_ema": np.float64(0.75),
            "current_epoch": 1000,
            "trainer_name": "nnUNetTrainer",
            "inference_allowed_mirroring_axes": (1,),
        }
        self.give(self.weights)

    @property
    def architecture(self) -> Architecture:
        """The network as it should be read."""
        return architecture(self.family)

    def give(self, weights: dict) -> None:
        """Put weights, under our names, into the checkpoint, under all of nnU-Net's names."""
        named = {theirs: value for name, value in weights.items() for theirs in their_names(name)}
        self.checkpoint["network_weights"] = named

    def beside(self, configuration: str) -> "Model":
        """Another stage of the same cascade."""
        name = self.folder.name.rsplit("__", 1)[0]
        return Model(self.folder.with_name(f"{name}__{configuration}"), self.family, configuration)

    def write(self, folds: tuple[str, ...] = ("0",), name: str = "checkpoint_final.pth") -> Path:
        """Write everything, and give the folder."""
        for fold in folds:
            place = self.folder / f"fold_{fold}"
            place.mkdir(parents=True, exist_ok=True)
            settings = {
                "plans": self.plans,
                "configuration": self.configuration,
                "fold": fold if fold == "all" else int(fold),
                "dataset_json": self.dataset,
                "device": torch.device("cpu"),
            }
            torch.save({"init_args": settings, **self.checkpoint}, place / name)
        (self.folder / "plans.json").write_text(json.dumps(self.plans))
        (self.folder / "dataset.json").write_text(json.dumps(self.dataset))
        return self.folder


@pytest.fixture(params=(PLAIN, RESIDUAL))
def model(request, tmp_path) -> Model:
    """A model of each family."""
    return Model(tmp_path / "nnUNetTrainer__nnUNetPlans__2d", request.param)


@pytest.fixture
def plain(tmp_path) -> Model:
    """A model of the plain family."""
    return Model(tmp_path / "nnUNetTrainer__nnUNetPlans__2d", PLAIN)
