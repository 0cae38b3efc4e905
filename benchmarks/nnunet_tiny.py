"""The process that ``nnunet_models.py`` starts: trains tiny models with nnU-Net and predicts with them. Not a script.

Runs in nnU-Net's environment. The plans are written by hand, so that the networks are tiny and their grids differ from
the images'; everything else (preprocessing, patches, augmentation, loss, checkpoints) is nnU-Net's own trainer, whose
class is used directly and takes fewer and larger steps.
"""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FOLDERS = {"nnUNet_raw": "raw", "nnUNet_preprocessed": "preprocessed", "nnUNet_results": "results"}
CLASSES = {"background": 0, "Anterior": 1, "Posterior": 2}
REGIONS = {"background": 0, "Hippocampus": [1, 2], "Posterior": 2}
KINDS: dict[str, dict[str, Any]] = {
    "2d": {"stages": ("2d",)},
    "3d": {"stages": ("3d_fullres",)},
    "resenc": {"stages": ("3d_fullres",), "network": "ResidualEncoderUNet"},
    "regions": {"stages": ("3d_fullres",), "labels": REGIONS},
    "cascade": {"stages": ("3d_lowres", "3d_cascade_fullres")},
    "windows": {"stages": ("3d_fullres",), "shape": {"patch_size": [16, 24, 16], "batch_size": 4}},  # about 64 of them
}
SHAPES: dict[str, dict[str, Any]] = {  # images are of 1 mm and about 36 × 50 × 35 voxels
    "2d": {"patch_size": [56, 40], "spacing": [0.9, 0.9], "batch_size": 12},
    "3d_fullres": {"patch_size": [32, 40, 32], "spacing": [1.0, 1.0, 1.0], "batch_size": 2},
    "3d_lowres": {"patch_size": [24, 32, 24], "spacing": [1.6, 1.6, 1.6], "batch_size": 3},
    "3d_cascade_fullres": {"patch_size": [40, 48, 40], "spacing": [0.85, 0.85, 0.85], "batch_size": 2},
}
FEATURES, STEPS_PER_EPOCH, LEARNING_RATE = (8, 16, 32), 25, 3e-3
SUMS = ("float16", "float32")
SPLINE = "resample_data_or_seg_to_shape"


def network_settings(name: str, dimensions: int) -> dict[str, Any]:
    stages, size = len(FEATURES), f"{dimensions}d"
    blocks = "n_blocks_per_stage" if name == "ResidualEncoderUNet" else "n_conv_per_stage"
    return {
        "network_class_name": f"dynamic_network_architectures.architectures.unet.{name}",
        "arch_kwargs": {
            "n_stages": stages,
            "features_per_stage": list(FEATURES),
            "conv_op": f"torch.nn.modules.conv.Conv{size}",
            "kernel_sizes": [[3] * dimensions] * stages,
            "strides": [[1] * dimensions, *[[2] * dimensions] * (stages - 1)],
            blocks: [2] * stages if blocks.startswith("n_conv") else [1, 2, 2],
            "n_conv_per_stage_decoder": [2] * (stages - 1) if blocks.startswith("n_conv") else [1] * (stages - 1),
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{size}",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def make_plans(kind: str) -> dict[str, Any]:
    """Say the plan of one kind in nnU-Net's words."""
    configurations: dict[str, Any] = {}
    for name in KINDS[kind]["stages"]:
        shape = SHAPES[name] | KINDS[kind].get("shape", {})
        dimensions = len(shape["patch_size"])
        found = configurations[name] = {
            **shape,
            "data_identifier": f"nnUNetPlans_{name}",
            "preprocessor_name": "DefaultPreprocessor",
            "median_image_size_in_voxels": [float(size) for size in shape["patch_size"]],
            "normalization_schemes": ["ZScoreNormalization"],
            "use_mask_for_norm": [False],
            "architecture": network_settings(KINDS[kind].get("network", "PlainConvUNet"), dimensions),
            "batch_dice": dimensions == 2,
        }
        for use, order in (("data", 3), ("seg", 1), ("probabilities", 1)):
            settings = {"is_seg": use == "seg", "order": order, "order_z": 0, "force_separate_z": None}
            found |= {f"resampling_fn_{use}": SPLINE, f"resampling_fn_{use}_kwargs": settings}
    if kind == "cascade":
        configurations["3d_lowres"]["next_stage"] = ["3d_cascade_fullres"]
        configurations["3d_cascade_fullres"]["previous_stage"] = "3d_lowres"
    return {
        "dataset_name": dataset_name(kind),
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [1.0, 1.0, 1.0],
        "original_median_shape_after_transp": [36, 50, 35],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": configurations,
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            "0": dict.fromkeys(("max", "mean", "median", "min", "percentile_00_5", "percentile_99_5", "std"), 1.0)
        },
    }


def dataset_name(kind: str) -> str:
    return f"Dataset{900 + list(KINDS).index(kind)}_{kind}"


def make_dataset(kind: str, count: int) -> dict[str, Any]:
    made = {"channel_names": {"0": "MRI"}, "labels": KINDS[kind].get("labels", CLASSES)}
    made |= {"numTraining": count, "file_ending": ".nii.gz"}
    return made | ({"regions_class_order": [1, 2]} if "labels" in KINDS[kind] else {})


def work(folder: Path, kinds: Sequence[str], steps: int, splits: list[dict[str, list[str]]]) -> None:
    """Train what is not trained yet, then predict with the sums of float16, as they come, and of float32."""
    for sums in SUMS:
        if sums == "float32":
            sum_in_float32()
        for kind in kinds:
            last = folder / model_of(kind, KINDS[kind]["stages"][-1]) / "fold_0" / "checkpoint_final.pth"
            if not last.exists():
                train(kind, folder, steps, splits)
            previous = None
            for stage in KINDS[kind]["stages"]:
                output = folder / "segmentations" / kind / f"{stage} {sums}"
                if len(list(output.glob("*.nii.gz"))) < len(splits[0]["val"]):
                    predict(folder / model_of(kind, stage), folder / "images", output, previous)
                previous = output
                print(f"done: {kind}, {stage}, {sums}", flush=True)


def model_of(kind: str, stage: str) -> Path:
    """Name a model folder as nnU-Net does, within the folder of everything."""
    return Path("results") / dataset_name(kind) / f"nnUNetTrainerTiny__nnUNetPlans__{stage}"


def train(kind: str, folder: Path, steps: int, splits: list[dict[str, list[str]]]) -> None:
    """Train the stages of one kind one after the other; each writes a model folder of nnU-Net."""
    import torch

    torch.manual_seed(0)
    cases = splits[0]["train"] + splits[0]["val"]
    plans, dataset = make_plans(kind), make_dataset(kind, len(cases))
    base = folder / "preprocessed" / dataset_name(kind)
    base.mkdir(parents=True, exist_ok=True)
    (base / "splits_final.json").write_text(json.dumps(splits))
    (base / "dataset_fingerprint.json").write_text("{}")
    for name in KINDS[kind]["stages"]:
        trainer = make_trainer(plans, dataset, name, steps)
        preprocess(trainer, folder / "raw", base, cases)
        trainer.run_training()
        if trainer.configuration_manager.next_stage_names:
            feed(trainer, base, cases)


def make_trainer(plans: dict[str, Any], dataset: dict[str, Any], name: str, steps: int) -> Any:
    import torch
    from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler  # noqa: TID251 (from outside, in its own venv)
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer  # noqa: TID251

    class nnUNetTrainerTiny(nnUNetTrainer):  # noqa: N801 (their way of naming; it names the model folder)
        def __init__(self, plans: Any, configuration: Any, fold: Any, dataset_json: Any, device: Any = None) -> None:
            super().__init__(plans, configuration, fold, dataset_json, device)
            self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = STEPS_PER_EPOCH, 1
            self.num_epochs, self.initial_lr = max(steps // STEPS_PER_EPOCH, 1), LEARNING_RATE

        def configure_optimizers(self) -> Any:  # with few steps SGD with their momentum learns nothing
            optimizer = torch.optim.AdamW(self.network.parameters(), self.initial_lr, weight_decay=self.weight_decay)
            return optimizer, PolyLRScheduler(optimizer, self.initial_lr, self.num_epochs)

        def plot_network_architecture(self) -> None:
            pass

    given = json.loads(json.dumps(plans)) | {"continue_training": False}
    trainer = nnUNetTrainerTiny(given, name, 0, dataset, torch.device("cpu"))
    return trainer


def preprocess(trainer: Any, raw: Path, base: Path, cases: list[str]) -> None:
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor  # noqa: TID251

    place = base / trainer.configuration_manager.data_identifier
    place.mkdir(exist_ok=True)
    for case in cases:
        if not (place / f"{case}.pkl").exists():
            files = [str(raw / "imagesTr" / f"{case}_0000.nii.gz")], str(raw / "labelsTr" / f"{case}.nii.gz")
            managers = trainer.plans_manager, trainer.configuration_manager, trainer.dataset_json
            DefaultPreprocessor(verbose=False).run_case_save(str(place / case), *files, *managers)


def feed(trainer: Any, base: Path, cases: list[str]) -> None:
    """Write the segmentations that the next stage trains with, as nnU-Net's validation does, for all cases."""
    import torch
    from nnunetv2.inference.export_prediction import resample_and_save  # noqa: TID251
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor  # noqa: TID251

    trainer.set_deep_supervision_enabled(False)
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    managers = trainer.plans_manager, trainer.configuration_manager
    axes = trainer.inference_allowed_mirroring_axes
    predictor.manual_initialization(trainer.network, *managers, None, trainer.dataset_json, "", axes)
    (name,) = trainer.configuration_manager.next_stage_names
    following = trainer.plans_manager.get_configuration(name)
    output = Path(trainer.output_folder_base) / "predicted_next_stage" / name
    output.mkdir(parents=True, exist_ok=True)
    found = trainer.dataset_class(str(base / trainer.configuration_manager.data_identifier), cases)
    for case in cases:
        data, _, _, properties = found.load_case(case)
        logits = predictor.predict_sliding_window_return_logits(torch.from_numpy(data[:]))
        cropped = properties["shape_after_cropping_and_before_resampling"]
        shape = [
            round(size * have / want)
            for size, have, want in zip(cropped, properties["spacing"], following.spacing, strict=True)
        ]
        resample_and_save(logits, shape, str(output / case), *managers, properties, trainer.dataset_json, 1)


def sum_in_float32() -> None:
    """From here on nnU-Net sums logits and weights in float32; in float16 the weights of a window's corners vanish."""
    import torch
    from nnunetv2.inference import predict_from_raw_data as module  # noqa: TID251

    weigh = module.compute_gaussian

    def exact(*given: Any, **options: Any) -> Any:
        return weigh(*given, **options, dtype=torch.float32)

    exact.cache_clear = weigh.cache_clear  # type: ignore[attr-defined]
    module.compute_gaussian = exact
    torch.half = torch.float32  # what their sums are allocated as


def predict(model: Path, images: Path, output: Path, previous: Path | None) -> None:
    """Predict a folder with mirroring, in this process."""
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor  # noqa: TID251
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer  # noqa: TID251
    from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels  # noqa: TID251
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager  # noqa: TID251

    dataset = json.loads((model / "dataset.json").read_text())
    plans = PlansManager(json.loads((model / "plans.json").read_text()))
    folds = [torch.load(file, weights_only=False) for file in sorted(model.glob("fold_*/checkpoint_final.pth"))]
    configuration = plans.get_configuration(folds[0]["init_args"]["configuration"])
    channels = determine_num_input_channels(plans, configuration, dataset)
    heads = plans.get_label_manager(dataset).num_segmentation_heads
    network = nnUNetTrainer.build_network_architecture(plans, configuration, channels, heads, False)
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    weights, axes = [fold["network_weights"] for fold in folds], folds[0]["inference_allowed_mirroring_axes"]
    predictor.manual_initialization(network, plans, configuration, weights, dataset, "nnUNetTrainer", axes)
    output.mkdir(parents=True, exist_ok=True)
    predictor.predict_from_files_sequential(
        str(images), str(output), folder_with_segs_from_prev_stage=previous and str(previous)
    )


if __name__ == "__main__":
    place = Path(sys.argv[1])
    os.environ |= {name: str(place / sub) for name, sub in FOLDERS.items()} | {"nnUNet_n_proc_DA": "0"}
    work(place, **json.loads(sys.argv[2]))
