"""The doctor: what it says of a machine, of whole runs and of broken ones."""

from pathlib import Path

import pytest

from autoseg import cli, doctor, log
from autoseg.doctor import machine
from autoseg.doctor.finding import Finding
from autoseg.doctor.machine import Cuda, judge_cuda, known_faults
from autoseg.locks import hold
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


def titles(found: tuple[Finding, ...], *, bad: bool) -> list[str]:
    return [item.title for item in found if item.is_bad is bad]


def test_the_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor"]) in (0, 2)
    said = capsys.readouterr().out
    for word in ("torch", "self-test", "main memory", "disk", "differs from float64 by", "cores are allowed", "AMX"):
        assert word in said
    titles_said = {line[2:].split("  ")[0] for line in said.splitlines()}
    assert {"versions", "GPU", "processor", "threads", "kernels", "open files", "temporary"} <= titles_said


def test_a_wrong_convolution_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoseg.compute.convolution_error", lambda *_: 1.0)
    assert "self-test" in titles(doctor.examine_machine(), bad=True)


def test_a_full_disk_is_told(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoseg.doctor.finding.LOW_DISK_BYTES", 10**18)
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


def test_limits_that_are_too_low_are_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "FEW_FILES", 10**12)
    monkeypatch.setattr("autoseg.room.largest_file", lambda: 10**6)
    bad = {item.title: item.text for item in machine._limits() if item.is_bad}
    assert "ulimit -f" in bad["file size"]
    assert "raise it" in bad["open files"] or "no limit" in bad["open files"]
    monkeypatch.setenv("OMP_NUM_THREADS", "4096")
    assert machine._threads().is_bad


@pytest.mark.parametrize(
    ("cuda", "words", "bad"),
    [
        (Cuda(built="12.8", available=True, has_gpu=True, driver="12.8", cudnn=91501), "torch can use it", False),
        (Cuda(built=None, available=False, has_gpu=True, driver="12.4"), "Install a CUDA build", True),
        (Cuda(built=None, available=False, has_gpu=False), "none of NVIDIA here", False),
        (Cuda(built="13.0", available=False, has_gpu=True, driver="12.2"), "the driver is too old", True),
        (Cuda(built="12.8", available=False, has_gpu=True, driver="12.9", fault="odd"), "cannot use it: odd", True),
        (Cuda(built="12.8", available=False, has_gpu=False), "none here that answers", False),
        (Cuda(built="12.8", available=False, has_gpu=True, hidden=""), "CUDA_VISIBLE_DEVICES is empty", False),
    ],
)  # fmt: skip
def test_torch_driver_and_gpu_are_matched(cuda: Cuda, words: str, bad: bool) -> None:
    (found,) = judge_cuda(cuda)
    assert words in found.text
    assert found.is_bad is bad


@pytest.mark.parametrize(
    ("torch", "cudnn", "issues"),
    [
        ("2.9.1+cu128", 91002, {"166122", "163539", "167024"}),
        ("2.9.0", 91500, set()),
        ("2.10.0", 91002, {"163539", "167024"}),
        ("2.13.0", 91400, {"167024"}),
        ("2.8.0", 91001, set()),
        ("2.13.0+cpu", None, set()),
    ],
)
def test_known_faults_of_cudnn(torch: str, cudnn: int | None, issues: set[str]) -> None:
    texts = known_faults(torch, cudnn)
    assert {text.partition("#")[2][:6] for text in texts} == issues
    assert all("Install" in text for text in texts)
    cuda = Cuda(built="12.8", available=True, has_gpu=True, cudnn=cudnn, torch=torch)
    assert [item.text for item in judge_cuda(cuda) if item.is_bad] == texts


def last(run: RunFolder) -> Finding:
    return next(item for item in doctor.examine_run(run) if item.title == "last start")


def fail() -> None:
    try:
        raise ValueError("odd header")
    except ValueError as fault:
        raise RuntimeError("cannot go on") from fault


def test_the_first_cause_of_the_last_failed_start(run: RunFolder) -> None:
    with pytest.raises(RuntimeError), log.session(run.log_file, "run"):
        fail()
    found = last(run)
    assert found.is_bad
    assert "failed. RuntimeError: cannot go on ← first cause: ValueError: odd header (" in found.text
    with log.session(run.log_file, "run"):
        pass
    assert not last(run).is_bad
    assert last(run).text.endswith(": done")


def test_a_start_that_was_killed_and_one_at_work(run: RunFolder) -> None:
    log.append(run.log_file, "start", "run")
    log.enter_stage("train")
    log.append(run.log_file, "note", "an epoch")
    log.enter_stage("")
    assert "ended without a word in stage train" in last(run).text
    with hold(run.root / ".lock"):
        found = {item.title: item for item in doctor.examine_run(run)}
        assert found["in use"].text.startswith("by process ")
        assert "at work, stage train" in found["last start"].text
        assert not found["last start"].is_bad


def test_the_cause_lies_with_a_process_that_was_started(run: RunFolder) -> None:
    rows = [
        {"pid": 1, "kind": "start", "text": "run"},
        {"pid": 2, "kind": "start", "text": "train 2d fold 0"},
        {"pid": 2, "kind": "error", "text": "DeviceError: too small", "traceback": "…", "cause": {"text": "too small"}},
        {"pid": 1, "kind": "error", "text": "AutosegError: 1 of 1 jobs failed", "traceback": "…", "cause": {}},
    ]
    for row in rows:
        log.append(run.log_file, row["kind"], row["text"], **row)
    assert last(run).text.startswith("run at ")
    assert last(run).text.endswith("failed. DeviceError: too small")


def test_what_is_damaged_or_left_over_is_told(run: RunFolder) -> None:
    folder = run.fold("3d_fullres", 0)
    folder.root.mkdir(parents=True)
    folder.record.write_text('{"configuration": "a", "split": "b", "epochs": 1, "finished": true}')
    folder.weights_last.write_bytes(b"no weights")
    (run.root / ".plan.json.abcd1234.tmp").touch()
    found = {item.title: item for item in doctor.examine_run(run)}
    assert found["3d_fullres fold 0"].is_bad
    assert "cannot be read as weights" in found["3d_fullres fold 0"].text
    assert found["leftovers"].text.startswith("1 unfinished files")
