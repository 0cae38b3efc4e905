"""The doctor: what it says of a machine, of whole runs and of broken ones."""

from pathlib import Path

import pytest

from autoseg import cli, doctor
from autoseg.run_folder import CaseFiles, RunFolder, RunRecord
from planners.fingerprint import Channel
from planners.labels import LabelClass, Labels
from planners.plan import MemoryBudget, Plan


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    record = RunRecord(name="toy", dataset="/toy", cases=(), started="now", configurations=("3d_fullres",), folds=(0,))
    folder.write(record, folder.run_file)
    return folder


def titles(found: tuple[doctor.Finding, ...], *, bad: bool) -> list[str]:
    return [item.title for item in found if item.is_bad is bad]


def test_the_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor"]) in (0, 2)
    said = capsys.readouterr().out
    for word in ("torch", "self-test", "main memory", "disk", "differs from float64 by"):
        assert word in said


def test_a_wrong_convolution_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoseg.compute.convolution_error", lambda *_: 1.0)
    assert "self-test" in titles(doctor.examine_machine(), bad=True)


def test_a_full_disk_is_told(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "LOW_DISK_BYTES", 10**18)
    (disk,) = (item for item in doctor.examine_run(run) if item.title == "disk")
    assert disk.is_bad
    assert "may not fit" in disk.text


def test_a_run_that_has_just_begun_is_well(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert titles(doctor.examine_run(run), bad=True) == []
    assert doctor.examine(run.root, overfit=False)
    assert "3d_fullres fold 0  not begun" in capsys.readouterr().out


def test_damaged_records_and_lost_files_are_named(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    run.plan_file.write_text("{")
    run.change_record(dataset="/toy")
    folder = run.fold("3d_fullres", 0)
    folder.root.mkdir(parents=True)
    folder.record.write_text('{"configuration": "a", "split": "b", "epochs": 1, "finished": true}')
    assert cli.main(["doctor", str(run.root)]) == 2
    out, err = capsys.readouterr()
    assert "! plan.json" in out
    assert "weights_last.safetensors is missing; delete" in out
    assert "not all is well" in err
    assert "Traceback" not in err


def test_a_run_with_objects_is_asked_for_its_own_records(run: RunFolder, tmp_path: Path, make_configuration) -> None:
    classes = tuple(LabelClass(name=name, value=value) for value, name in enumerate(("background", "cell")))
    plan = Plan(
        dataset="toy",
        planner="default",
        budget=MemoryBudget(),
        axis_order=(0, 1, 2),
        channels=(Channel(name="light"),),
        labels=Labels(classes=classes, instance_classes=("cell",)),
        configurations=(make_configuration((8, 8, 8), name="3d_fullres"),),
    )
    assert "metrics.json" in {item.title for item in doctor.examine_run(run)}
    assert "instances.json" not in {item.title for item in doctor.examine_run(run)}
    run.write(plan, run.plan_file)
    run.instances_file.write_text("{")
    found = {item.title: item for item in doctor.examine_run(run)}
    assert not {"metrics.json", "confidence.json"} & set(found)
    assert found["instances.json"].is_bad
    files = [tmp_path / name for name in ("a.png", "a.tif")]
    for path in files:
        path.touch()
    lost = tmp_path / "classes" / "a.tif"
    run.change_record(cases=(CaseFiles(id="a", images=(str(files[0]),), label=str(files[1]), classes=str(lost)),))
    (dataset,) = (item for item in doctor.examine_run(run) if item.title == "dataset")
    assert dataset.is_bad
    assert str(lost) in dataset.text


def test_no_run_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", str(tmp_path)]) == 2
    assert "is no run folder" in capsys.readouterr().err
    assert cli.main(["doctor", "--overfit"]) == 2
    assert "--overfit needs a run" in capsys.readouterr().err
