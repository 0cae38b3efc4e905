"""The process that predictions are measured in: keeps a model loaded and predicts folders. Not a script.

Runs in nnU-Net's environment, which is made here too, or in autoseg's own, so packages are imported where needed.
"""

import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

from work_loop import Work, serve

VENV = Path.home() / ".cache" / "autoseg-benchmarks" / "nnunet-2.8.1"
PINNED = ("nnunetv2==2.8.1", "dynamic_network_architectures==0.4.4", "batchgeneratorsv2==0.3.6", "acvl_utils==0.2.6")
LOOSE = (  # none of their dependencies, which are torch's own or here already
    *("einops", "nibabel", "imagecodecs", "seaborn", "tqdm", "graphviz", "yacs", "connected-components-3d"),
    *("dicom2nifti", "fft_conv_pytorch", "timm", "batchgenerators", "pandas", "matplotlib", "contourpy", "cycler"),
    *("fonttools", "kiwisolver", "pyparsing", "python-dateutil"),
)
Predict = Callable[[Path, Path], Any]  # folder of images, folder of segmentations


def set_up(venv: Path) -> None:
    """Make nnU-Net's environment on top of this one's packages."""
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    packages = next((venv / "lib").glob("python*/site-packages"))
    (packages / "below.pth").write_text(sysconfig.get_path("purelib") + "\n")
    subprocess.run([venv / "bin" / "pip", "install", "--quiet", "--no-deps", *PINNED, *LOOSE], check=True)


def prepare_nnunet(model: Path, way: str) -> Predict:
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor  # noqa: TID251 (from outside, in its own venv)
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer  # noqa: TID251
    from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels  # noqa: TID251
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager  # noqa: TID251

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    dataset = json.loads((model / "dataset.json").read_text())
    plans = PlansManager(json.loads((model / "plans.json").read_text()))
    files = sorted(model.glob("fold_*/checkpoint_final.pth"))
    folds = [torch.load(file, map_location="cpu", weights_only=False) for file in files]
    configuration = plans.get_configuration(folds[0]["init_args"]["configuration"])
    channels = determine_num_input_channels(plans, configuration, dataset)
    heads = plans.get_label_manager(dataset).num_segmentation_heads
    network = nnUNetTrainer.build_network_architecture(plans, configuration, channels, heads, False)
    plain = network.forward

    def autocast(image: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return plain(image).float()

    if way == "nnunet-bf16":
        network.forward = autocast
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    weights, axes = [fold["network_weights"] for fold in folds], folds[0]["inference_allowed_mirroring_axes"]
    predictor.manual_initialization(network, plans, configuration, weights, dataset, "nnUNetTrainer", axes)
    if way == "nnunet-workers":
        return lambda images, output: predictor.predict_from_files(
            str(images), str(output), num_processes_preprocessing=3, num_processes_segmentation_export=3
        )
    return lambda images, output: predictor.predict_from_files_sequential(str(images), str(output))


def prepare_autoseg(model: Path, _: str) -> Predict:
    from autoseg.inference.cases import find_cases
    from autoseg.inference.folder import FolderJob
    from autoseg.inference.predictor import Predictor

    predictor = Predictor(model, device="cpu")
    assert predictor.compute.threads == len(os.sched_getaffinity(0)), predictor.compute
    names = [channel.name for channel in predictor.plan.channels]

    def predict(images: Path, output: Path) -> list[Path]:
        cases, incomplete, _ = find_cases(images, names)
        return FolderJob(predictor, output).run(cases, incomplete)

    return predict


def prepare(way: str, model: Path) -> Work:
    """Open the model; a job is a folder of images and one for the segmentations."""
    predict = (prepare_autoseg if way == "autoseg" else prepare_nnunet)(model, way)

    def work(job: Any) -> None:
        predict(*map(Path, job))

    return work


if __name__ == "__main__":
    serve(lambda: prepare(sys.argv[1], Path(sys.argv[2])))
