"""A network that nnU-Net v2.8.1 has trained gives here the logits and segmentations that it gave there.

nnU-Net adds up logits in half precision; by the kept results' own description 99 % of its logits therefore differ from
float32 by at most 0.02 and 99.9 % by at most 0.06, and the segmentations agree in 99.998 % of the voxels: all but those
where two classes are as good as equal.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from autoseg import compute as computing
from autoseg.compute import Compute
from autoseg.data.io import open_image, open_label
from autoseg.inference.export import LogitsPart, segment
from autoseg.inference.predictor import predict_folder
from autoseg.inference.sliding_window import WindowOptions, predict_logits
from autoseg.interop import NnunetWeights, open_nnunet
from autoseg.networks import build_network, put_weights
from autoseg.preprocessing.preprocess import preprocess_case
from autoseg.targets import make_target
from planners.plan import Plan

pytestmark = pytest.mark.data
CPU = Compute(device="cpu", precision="fp32", channels_last=False, threads=2, reasons=())
CASES = [f"hippocampus_{number}" for number in ("007", "017", "025", "036", "041", "048")]
AGREEMENT = 0.99998
TIE = 0.02  # logits closer than what half precision changes in 1 % of the voxels


@pytest.fixture(scope="module")
def golden(golden_folder: Path) -> Path:
    return golden_folder / "nnunet_hippocampus"


@pytest.fixture(scope="module")
def model(golden: Path) -> tuple[Plan, NnunetWeights]:
    return open_nnunet(golden / "model")


@pytest.fixture(scope="module")
def plan(model: tuple[Plan, NnunetWeights]) -> Plan:
    return model[0]


@pytest.fixture(scope="module")
def network(model: tuple[Plan, NnunetWeights]) -> torch.nn.Module:
    """Our network with the kept weights."""
    plan, weights = model
    built = build_network(plan.configuration("3d_fullres").architecture, 1, 3)
    put_weights(built, weights["3d_fullres", 0], "the kept model")
    return computing.place(built, CPU)


@pytest.fixture(scope="module")
def images(data_folder: Path) -> Path:
    return data_folder / "hippocampus" / "imagesTs"


@pytest.fixture
def compare(golden: Path, images: Path, plan: Plan, network: torch.nn.Module):
    """Give a function that holds one case's logits against the kept ones, and counts voxels that are segmented else."""
    torch.set_num_threads(CPU.threads)
    kept = np.load(golden / "logits.npz")
    configuration = plan.configuration("3d_fullres")

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


@pytest.mark.slow
def test_predict_opens_the_model_folder(golden: Path, images: Path, tmp_path: Path) -> None:
    written = predict_folder(golden / "model", images, tmp_path, device="cpu")
    assert [path.name for path in written] == [f"{case}.nii.gz" for case in CASES]
    pairs = [
        (open_label(path).read()[0], open_label(golden / "segmentations" / path.name).read()[0]) for path in written
    ]
    assert sum((ours != theirs).sum() for ours, theirs in pairs) <= 1e-4 * sum(theirs.size for _, theirs in pairs)
