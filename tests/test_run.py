"""The whole job on a few tiny cases: it ends, goes on after a kill with the same result, refuses to mix experiments."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

import autoseg
from autoseg.cli import main
from autoseg.data.demo import make_demo_dataset
from autoseg.errors import RunFolderError
from autoseg.run_folder import RunFolder, RunRecord

SMALL = ["--epochs", "2", "--steps-per-epoch", "2", "--budget", "1GB", "--device", "cpu", "--precision", "fp32"]
SETTINGS = ["--set", "*.patch_size=[16,16,16]"]
NETWORK = ["--configurations", "3d_fullres", "--folds", "0"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "demo"
    make_demo_dataset(folder, num_cases=5, seed=3)
    return folder


def command(dataset: Path, run: Path, *more: str) -> list[str]:
    return ["run", str(dataset), "--out", str(run), *SMALL, *NETWORK, *more]


@pytest.fixture(scope="module")
def finished(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "whole"
    assert main(command(dataset, run)) == 0
    return run


def weights(run: Path) -> bytes:
    return (run / "folds" / "3d_fullres" / "fold_0" / "weights_last.safetensors").read_bytes()


def test_everything_is_written(finished: Path, dataset: Path) -> None:
    run = RunFolder(finished)
    for path in (run.run_file, run.fingerprint_file, run.plan_file, run.splits_file, run.choice_file, run.report_file):
        assert path.exists(), path
    tests = sorted((dataset / "imagesTs").glob("*_0000.nii.gz"))
    assert tests
    for image in tests:
        prediction = sitk.ReadImage(str(run.predictions / image.name.replace("_0000", "")))
        original = sitk.ReadImage(str(image))
        assert prediction.GetSize() == original.GetSize()
        np.testing.assert_allclose(prediction.GetDirection(), original.GetDirection(), atol=1e-6)
        assert set(np.unique(sitk.GetArrayFromImage(prediction))) <= {0, 1, 2}


def test_same_command_again_changes_nothing(finished: Path, dataset: Path) -> None:
    run = RunFolder(finished)
    before = {path: path.read_bytes() for path in (run.choice_file, run.plan_file, run.splits_file)}
    trained = weights(finished)
    assert main(command(dataset, finished)) == 0
    assert {path: path.read_bytes() for path in before} == before
    assert weights(finished) == trained


def same_compute(finished: Path, run: Path) -> None:
    """Give a new run the device and precision that the finished one chose by timing: equal runs need equal choices."""
    chosen = RunFolder(finished).read(RunRecord, finished / "run.json")
    made_from = {"compute": chosen.made_from["compute"]}
    RunFolder(run).change_record(compute=chosen.compute, made_from=made_from)


def test_killed_and_started_again_gives_the_same(finished: Path, dataset: Path, tmp_path: Path) -> None:
    run = tmp_path / "killed"
    assert main(command(dataset, run, "--until", "check")) == 0
    same_compute(finished, run)
    progress = run / "folds" / "3d_fullres" / "fold_0" / "progress.jsonl"
    places = [run / "plan.json", run / "store" / "3d_fullres", progress, run / "choice.json"]
    for place in places:
        arguments = [sys.executable, "-m", "autoseg", *command(dataset, run)]
        process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while not place.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert main(command(dataset, run)) == 0
    assert weights(run) == weights(finished)
    assert (run / "choice.json").read_bytes() == (finished / "choice.json").read_bytes()


def test_another_setting_is_refused_and_more_epochs_extend(finished: Path, dataset: Path, tmp_path: Path) -> None:
    run = tmp_path / "copy"
    shutil.copytree(finished, run)
    options = {"out": run, "budget": "1GB", "steps_per_epoch": 2, "device": "cpu", "precision": "fp32"}
    options |= {"configurations": "3d_fullres", "folds": "0"}
    with pytest.raises(RunFolderError, match="was trained with another configuration"):
        autoseg.run(dataset, epochs=2, seed=5, **options)
    autoseg.run(dataset, epochs=3, seed=0, **options)
    rows = (run / "folds" / "3d_fullres" / "fold_0" / "progress.jsonl").read_text().splitlines()
    assert [json.loads(row)["epoch"] for row in rows] == [0, 1, 2]


def test_predict_in_python_and_on_the_command_line_agree(finished: Path, dataset: Path, tmp_path: Path) -> None:
    image = min((dataset / "imagesTs").glob("*_0000.nii.gz"))
    assert main(["predict", str(finished), str(dataset / "imagesTs"), str(tmp_path), "--device", "cpu"]) == 0
    name = image.name.replace("_0000", "")
    expected = (finished / "predictions" / name).read_bytes()
    assert (
        sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / name))).tobytes()
        == sitk.GetArrayFromImage(sitk.ReadImage(str(finished / "predictions" / name))).tobytes()
    )
    assert expected


@pytest.mark.slow
def test_ten_kills_at_random_moments_change_nothing(dataset: Path, tmp_path: Path) -> None:
    """Two configurations, two folds, an ensemble to judge; killed ten times anywhere, the end is the same."""

    def start(run: Path, *more: str) -> subprocess.Popen[str]:
        network = ["--folds", "0,1", "--set", "3d_fullres.patch_size=[16,16,16]", "--set", "2d.batch_size=4"]
        arguments = [sys.executable, "-m", "autoseg", "run", str(dataset), "--out", str(run), *SMALL, *network, *more]
        return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    alone, killed = tmp_path / "alone", tmp_path / "killed"
    began = time.monotonic()
    output, _ = start(alone).communicate()
    assert (alone / "report.html").exists(), output
    whole_s = time.monotonic() - began
    start(killed, "--until", "check").communicate()
    same_compute(alone, killed)
    rng = np.random.default_rng(0)
    stages = []
    for _ in range(10):
        process = start(killed)
        time.sleep(rng.uniform(0.5, 0.35 * whole_s))
        process.kill()
        output, _ = process.communicate()
        stages += [line.split("] ")[1] for line in output.splitlines() if line.startswith("[")][-1:]
    output, _ = start(killed).communicate()
    print(f"killed in: {', '.join(stages)}")
    assert (killed / "choice.json").read_bytes() == (alone / "choice.json").read_bytes(), output
    for path in sorted(alone.rglob("weights_*.safetensors")):
        assert (killed / path.relative_to(alone)).read_bytes() == path.read_bytes(), path
    for path in sorted((alone / "predictions").glob("*.nii.gz")):
        assert (killed / path.relative_to(alone)).read_bytes() == path.read_bytes(), path
