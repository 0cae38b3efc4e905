"""A run becomes model folders of nnU-Net: what changes is said, what cannot be is refused."""

import dataclasses
import json

import pytest

from autoseg import cli
from autoseg.errors import ModelError
from autoseg.evaluation.postprocessing import Postprocessing
from autoseg.evaluation.selection import Choice
from autoseg.inference.sharing import export_model
from autoseg.interop import open_nnunet
from autoseg.networks import build_network, load_weights, save_weights
from autoseg.run_folder import CaseFiles, RunRecord


def test_every_configuration_of_an_ensemble_gets_a_folder(make_run, tmp_path, capsys):
    rule = Postprocessing(name="core", classes=(2,))
    run = make_run((8, 8), (8, 8, 8), choice={"configurations": ("2d", "3d1"), "postprocessing": (rule,)})
    run.write(
        RunRecord(name="t", dataset="d", cases=(CaseFiles(id="a", images=("/x/a_0000.NRRD",)),), started=""),
        run.run_file,
    )
    assert cli.main(["export", str(run.root), str(tmp_path / "out"), "--format", "nnunet"]) == 0
    printed = capsys.readouterr()
    folders = [tmp_path / "out" / f"nnUNetTrainer__nnUNetPlans__{name}" for name in ("2d", "3d1")]
    assert printed.out.splitlines() == [str(folder) for folder in folders]
    assert "nnU-Net wants the values 0, 1, 2, …: its segmentations hold 1 for 127, 2 for 255" in printed.err
    assert "an ensemble of 2 configurations" in printed.err
    assert "without postprocessing (largest-component of core)" in printed.err
    for folder, name in zip(folders, ("2d", "3d1"), strict=True):
        plan, weights = open_nnunet(folder)
        assert list(weights) == [(name, 0), (name, 1)]
        kept, _ = load_weights(run.fold(name, 1).weights_last)
        assert all((weights[name, 1][key] == value).all() for key, value in kept.items())
        assert [item.value for item in plan.labels.classes] == [0, 1, 2]
        assert json.loads((folder / "dataset.json").read_text())["file_ending"] == ".nrrd"


def test_fold_of_all_cases(make_run, tmp_path):
    run = make_run((8, 8), folds=("all-data",))
    done = export_model(run.root, tmp_path / "out", "nnunet")
    assert (done.paths[0] / "fold_all" / "checkpoint_final.pth").is_file()
    assert any("-f all" in note for note in done.notes)


def test_unequal_weights_are_refused(make_run, tmp_path):
    run = make_run((8, 8), (8, 8, 8), choice={"configurations": ("2d", "3d1")})
    choice = run.read(Choice, run.choice_file)
    run.write(dataclasses.replace(choice, weights=(1.0, 4.0)), run.choice_file)
    with pytest.raises(ModelError, match=r"equal weights; 2d, 3d1 have"):
        export_model(run.root, tmp_path / "out", "nnunet")
    assert not (tmp_path / "out").exists()


def test_folds_that_were_stepped_down_apart_are_refused(make_run, tmp_path):
    run = make_run((8, 8), choice={"configurations": ("2d",)})
    plan_of_fold = dataclasses.replace(_configuration(run), patch_size=(16, 16), output_size=(16, 16))
    run.write(plan_of_fold, run.fold("2d", 1).configuration)
    with pytest.raises(
        ModelError, match=r"the folds of 2d have different networks or patches \(\[8, 8\] and \[16, 16\]"
    ):
        export_model(run.root, tmp_path / "out", "nnunet")
    run.write(plan_of_fold, run.fold("2d", 0).configuration)
    (folder,) = export_model(run.root, tmp_path / "out", "nnunet").paths
    assert open_nnunet(folder)[0].configuration("2d").patch_size == (16, 16), "as all of them were trained"


def test_a_cascade_brings_its_first_stage(make_run, make_configuration, tmp_path):
    from autoseg.inference.model import open_run
    from planners.plan import Input

    run = make_run((8, 8, 8), choice={"configurations": ("fine",)})
    _, plan = open_run(run.root)
    inputs = (Input(channels=1), Input(kind="previous", name="3d", channels=2))
    fine = make_configuration((8, 8, 8), name="fine", previous="3d", inputs=inputs)
    run.write(dataclasses.replace(plan, configurations=(*plan.configurations, fine)), run.plan_file)
    for fold in (0, 1):
        save_weights(run.fold("fine", fold).weights_last, build_network(fine.architecture, 3, 3, seed=fold), {})
    done = export_model(run.root, tmp_path / "out", "nnunet")
    assert [path.name.split("__")[-1] for path in done.paths] == ["3d", "fine"]
    _, weights = open_nnunet(done.paths[1])
    assert list(weights) == [("fine", 0), ("fine", 1), ("3d", 0), ("3d", 1)]


def _configuration(run):
    from autoseg.inference.model import open_run

    return open_run(run.root)[1].configurations[0]
