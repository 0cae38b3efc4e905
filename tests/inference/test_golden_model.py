"""A network that nnU-Net v2.8.1 has trained gives here the logits and segmentations that it gave there.

nnU-Net adds up logits in half precision; by the kept results' own description 99 % of its logits therefore differ from
float32 by at most 0.02 and 99.9 % by at most 0.06, and the segmentations agree in 99.998 % of the voxels: all but those
where two classes are as good as equal.
"""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from autoseg import compute as computing
from autoseg.compute import Compute
from autoseg.data.io import open_image, open_label
from autoseg.inference.export import LogitsPart, segment
from autoseg.inference.sliding_window import WindowOptions, predict_logits
from autoseg.networks import build_network, put_weights
from autoseg.preprocessing.preprocess import preprocess_case
from autoseg.targets import make_target
from planners.fingerprint import Channel
from planners.labels import LabelClass, Labels
from planners.plan import (
    Architecture,
    Configuration,
    Input,
    MemoryBudget,
    Output,
    Plan,
    Resampling,
    Stage,
    Target,
    Training,
)

pytestmark = pytest.mark.data
CPU = Compute(device="cpu", precision="fp32", channels_last=False, threads=2, reasons=())
CASES = [f"hippocampus_{number}" for number in ("007", "017", "025", "036", "041", "048")]
AGREEMENT = 0.99998
TIE = 0.02  # logits closer than what half precision changes in 1 % of the voxels


@pytest.fixture(scope="module")
def golden(golden_folder: Path) -> Path:
    return golden_folder / "nnunet_hippocampus"


@pytest.fixture(scope="module")
def plan(golden: Path) -> Plan:
    plans = json.loads((golden / "model" / "plans.json").read_text())
    dataset = json.loads((golden / "model" / "dataset.json").read_text())
    theirs = plans["configurations"]["3d_fullres"]
    network = theirs["architecture"]["arch_kwargs"]
    stages = tuple(
        Stage(features=features, kernel=tuple(kernel), stride=tuple(stride), num_blocks=count)
        for features, kernel, stride, count in zip(
            network["features_per_stage"],
            network["kernel_sizes"],
            network["strides"],
            network["n_conv_per_stage"],
            strict=True,
        )
    )
    strides = [tuple(np.prod(network["strides"][: index + 1], axis=0).tolist()) for index in range(len(stages) - 1)]
    configuration = Configuration(
        name="3d_fullres",
        inputs=(Input(channels=1),),
        spacing_mm=tuple(theirs["spacing"]),
        median_shape=tuple(theirs["median_image_size_in_voxels"]),
        patch_size=tuple(theirs["patch_size"]),
        output_size=tuple(theirs["patch_size"]),
        batch_size=theirs["batch_size"],
        normalization=("zscore",),
        use_mask_for_norm=tuple(theirs["use_mask_for_norm"]),
        resampling=Resampling(),
        target=Target(name="semantic", num_outputs=3),
        architecture=Architecture(
            family="plain-unet",
            dimensions=3,
            stages=stages,
            num_decoder_blocks=tuple(network["n_conv_per_stage_decoder"]),
            outputs=tuple(Output(stride=stride, loss_weight=1.0) for stride in strides),
        ),
        training=Training(mirror_axes=(0, 1, 2)),
        estimated_bytes=0,
    )
    return Plan(
        dataset=plans["dataset_name"],
        planner="default",
        budget=MemoryBudget(),
        axis_order=tuple(plans["transpose_forward"]),
        channels=(Channel(name=dataset["channel_names"]["0"]),),
        labels=Labels(classes=tuple(LabelClass(name=name, value=v) for name, v in dataset["labels"].items())),
        configurations=(configuration,),
    )


def their_name(name: str, num_stages: int) -> str:
    """Give nnU-Net's name of one of our parameters; its decoder counts stages from the deepest up."""
    part, stage, rest = name.split(".", 2)
    upwards = num_stages - 2 - int(stage)
    if part == "encoder":
        return re.sub(r"^(\d+)", rf"encoder.stages.{stage}.0.convs.\1", rest)
    if part == "decoder":
        return re.sub(r"^(\d+)", rf"decoder.stages.{upwards}.convs.\1", rest)
    if part == "upsample":
        return rest.replace("conv", f"decoder.transpconvs.{upwards}")
    return f"decoder.seg_layers.{upwards}.{rest.removeprefix('conv.')}"


@pytest.fixture(scope="module")
def network(golden: Path, plan: Plan) -> torch.nn.Module:
    """Our network with the kept weights, read without executing anything that the file might hold."""
    numbers = [np._core.multiarray.scalar, np.dtype, type(np.dtype("float32")), type(np.dtype("float64"))]
    with torch.serialization.safe_globals(numbers):
        file = golden / "model" / "fold_0" / "checkpoint_final.pth"
        weights = torch.load(file, map_location="cpu", weights_only=True)["network_weights"]
    architecture = plan.configurations[0].architecture
    built = build_network(architecture, 1, 3)
    ours = {name: weights[their_name(name, len(architecture.stages))] for name in built.state_dict()}
    assert len({value.data_ptr() for value in ours.values()}) == len(ours)
    put_weights(built, ours, "the kept model")
    return computing.place(built, CPU)


@pytest.fixture(scope="module")
def images(data_folder: Path) -> Path:
    return data_folder / "hippocampus" / "imagesTs"


@pytest.fixture
def compare(golden: Path, images: Path, plan: Plan, network: torch.nn.Module):
    """Give a function that holds one case's logits against the kept ones, and counts voxels that are segmented else."""
    torch.set_num_threads(CPU.threads)
    kept = np.load(golden / "logits.npz")
    configuration = plan.configurations[0]

    def logits_of(case: str, kind: str) -> LogitsPart:
        image = open_image([images / f"{case}_0000.nii.gz"])
        prepared = preprocess_case(image.read(), image.geometry.spacing_mm, plan, configuration)
        options = WindowOptions(mirror=kind == "mirrored")
        logits = predict_logits([network], torch.from_numpy(prepared.image_CZYX), configuration, CPU, options)
        return LogitsPart(logits_KZYX=logits.numpy(), grid=prepared.grid, resampling=configuration.resampling)

    def compare_one(case: str, kind: str) -> tuple[int, int]:
        part = logits_of(case, kind)
        assert part.logits_KZYX.shape == tuple(kept[f"{case}.{kind}.shape"])
        ours = part.logits_KZYX.reshape(3, -1)[:, kept[f"{case}.{kind}.index"]]
        difference = np.abs(ours - kept[f"{case}.{kind}.logits"])
        assert np.quantile(difference, 0.99) <= 0.02
        assert np.quantile(difference, 0.999) <= 0.06
        assert difference.max() <= 0.42
        if kind == "plain":
            return 0, 0
        target = make_target(configuration.target, plan.labels, configuration.training)
        segmentation = plan.labels.decode(segment([part], target, plan))
        label = open_label(golden / "segmentations" / f"{case}.nii.gz").read()[0]
        assert np.unique(label).size == 3
        different = segmentation != label
        assert part.grid.shape == label.shape, "this dataset needs no resampling"
        low, high = np.sort(part.logits_KZYX[:, different], axis=0)[-2:]
        assert (high - low < TIE).all()
        return int(different.sum()), label.size

    return compare_one


def test_plain_logits(compare) -> None:
    compare("hippocampus_007", "plain")


def test_mirrored_logits_and_segmentation(compare) -> None:
    different, voxels = compare("hippocampus_017", "mirrored")
    assert different <= (1 - AGREEMENT) * voxels


@pytest.mark.slow
def test_all_cases(compare) -> None:
    for case in CASES:
        compare(case, "plain")
    counts = np.array([compare(case, "mirrored") for case in CASES])
    different, voxels = counts.sum(axis=0)
    assert different <= (1 - AGREEMENT) * voxels
