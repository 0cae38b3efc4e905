"""The cascade from end to end on cases that are too large for one patch: one command trains it, one predicts."""

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from autoseg.cli import main
from autoseg.run_folder import RunFolder
from planners.plan import Plan

SHAPE = (96, 160, 160)
SPACING_XYZ = (1.1, 1.1, 1.2)
LABELS = {"background": 0, "near": 1, "far": 3}
ARM = 70  # voxels from a ball to the landmark, more than a small patch sees


def draw_case(rng: np.random.Generator, shape: tuple[int, int, int] = SHAPE) -> tuple[np.ndarray, np.ndarray]:
    """Draw two equal balls in a body; which of them is "near" is told by a bright rod at the body's edge alone.

    Returns:
        Image int16 and label uint8, z, y, x.
    """
    z, y, x = np.ogrid[tuple(slice(0, size) for size in shape)]
    middle = [size / 2 + rng.uniform(-4, 4) for size in shape]
    side = rng.choice((-1, 1))
    image = rng.normal(100, 12, shape)
    label = np.zeros(shape, dtype=np.uint8)
    image[np.broadcast_to((y - middle[1]) ** 2 + (x - middle[2]) ** 2 < (0.47 * shape[2]) ** 2, shape)] += 60
    for direction in (-1, 1):
        centre = (middle[0] + rng.uniform(-20, 20), middle[1] + rng.uniform(-20, 20), middle[2] + 18 * direction)
        ball = sum((axis - c) ** 2 for axis, c in zip((z, y, x), centre, strict=True)) < rng.uniform(9, 12) ** 2
        image[ball] += 90
        label[ball] = LABELS["near"] if direction == side else LABELS["far"]
    rod = (y - middle[1]) ** 2 + (x - middle[2] - side * ARM) ** 2 < 3**2
    image[np.broadcast_to(rod, shape)] += 200
    return np.round(image).astype(np.int16), label


def write_context_dataset(folder: Path, num_cases: int = 3) -> Path:
    """Write a dataset folder of large cases, with one more image to predict."""
    for name in ("imagesTr", "labelsTr", "imagesTs"):
        (folder / name).mkdir(parents=True)
    for number in range(num_cases + 1):
        image, label = draw_case(np.random.default_rng([7, number]))
        training = number < num_cases
        files = {folder / ("imagesTr" if training else "imagesTs") / f"body_{number}_0000.nii.gz": image}
        if training:
            files[folder / "labelsTr" / f"body_{number}.nii.gz"] = label
        for path, array in files.items():
            written = sitk.GetImageFromArray(array)
            written.SetSpacing(SPACING_XYZ)
            written.SetOrigin((-30.0, 12.5, 4.0))
            sitk.WriteImage(written, str(path), True)
    content = {"channel_names": {"0": "MRI"}, "labels": LABELS, "numTraining": num_cases, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def test_balls_differ_by_their_surroundings_alone() -> None:
    image, label = draw_case(np.random.default_rng(0), (48, 160, 160))
    near, far = image[label == LABELS["near"]], image[label == LABELS["far"]]
    assert abs(near.mean() - far.mean()) < 2
    rod = np.argwhere(image > 330).mean(axis=0)
    distance = {name: abs(np.argwhere(label == LABELS[name]).mean(axis=0) - rod)[2] for name in ("near", "far")}
    assert ARM - 25 < distance["near"] < distance["far"] - 30


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("cascade")
    dataset = write_context_dataset(folder / "bodies")
    brief = ["--epochs", "1", "--steps-per-epoch", "2", "--device", "cpu", "--folds", "0", "--budget", "0.5GB"]
    network = ["--set", "*.architecture.stages[0].features=8", "--set", "*.training.mirror_axes=[]"]
    choose = ["--configurations", "3d_cascade_fullres"]
    assert main(["run", str(dataset), "--out", str(folder / "run"), *brief, *network, *choose]) == 0
    return dataset, folder / "run"


@pytest.mark.slow
def test_one_command_trains_the_first_stage_in_all_folds_and_then_the_second(trained: tuple[Path, Path]) -> None:
    run = RunFolder(trained[1])
    plan = run.read(Plan, run.plan_file)
    second = plan.configuration("3d_cascade_fullres")
    assert second.previous == "3d_lowres"
    assert second.num_input_channels == 1 + len(LABELS) - 1
    folds = sorted(str(path.parent.relative_to(run.root / "folds")) for path in (run.root / "folds").rglob("fold.json"))
    assert folds == ["3d_cascade_fullres/fold_0", *(f"3d_lowres/fold_{fold}" for fold in range(3))]
    kept = sorted((run.root / "store" / "3d_cascade_fullres").glob("*.previous.npy"))
    assert [path.name for path in kept] == [f"body_{number}.previous.npy" for number in range(3)]
    for path in kept:
        previous = np.load(path)
        stored = next((run.root / "store").glob(f"*/{path.name.replace('.previous.npy', '.image.npy')}"))
        assert set(np.unique(previous)) <= {0, 1, 2}
        assert previous.ndim == np.load(stored, mmap_mode="r").ndim - 1
    assert "3d_lowres → 3d_cascade_fullres" in run.report_file.read_text()


@pytest.mark.slow
def test_one_command_predicts_through_both_stages(trained: tuple[Path, Path], tmp_path: Path) -> None:
    dataset, run = trained
    assert main(["predict", str(run), str(dataset / "imagesTs"), str(tmp_path / "out"), "--device", "cpu"]) == 0
    found = sitk.ReadImage(str(tmp_path / "out" / "body_3.nii.gz"))
    image = sitk.ReadImage(str(dataset / "imagesTs" / "body_3_0000.nii.gz"))
    assert found.GetSize() == image.GetSize()
    np.testing.assert_allclose(found.GetSpacing(), SPACING_XYZ, rtol=1e-6)
    np.testing.assert_allclose(found.GetOrigin(), image.GetOrigin(), atol=1e-4)
    values = sitk.GetArrayFromImage(found)
    assert set(np.unique(values).tolist()) <= set(LABELS.values())
    same = sitk.GetArrayFromImage(sitk.ReadImage(str(run / "predictions" / "body_3.nii.gz")))
    np.testing.assert_array_equal(values, same)


@pytest.mark.slow
def test_without_its_first_stage_a_cascade_says_what_is_missing(
    trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset, run = trained
    first = run / "folds" / "3d_lowres"
    first.rename(tmp_path / "away")
    try:
        again = ["predict", str(run), str(dataset / "imagesTs"), str(tmp_path / "out"), "--device", "cpu"]
        assert main(again) == 2
    finally:
        (tmp_path / "away").rename(first)
    assert "3d_lowres" in capsys.readouterr().err
