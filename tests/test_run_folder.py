import json
import multiprocessing
from pathlib import Path

import pytest

from autoseg.errors import RunFolderError
from autoseg.locks import hold as lock
from autoseg.run_folder import CaseFiles, RunFolder, RunRecord, write_atomic


def test_write_atomic_replaces_and_leaves_nothing_beside(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.json"
    write_atomic(path, "one")
    write_atomic(path, b"two")
    assert path.read_text() == "two"
    assert [item.name for item in path.parent.iterdir()] == ["file.json"]


def test_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.json"
    write_atomic(path, "old")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["file.json"]


def test_record_round_trip_and_faults(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    record = RunRecord(
        name="x", dataset="/data/x", cases=(CaseFiles(id="a", images=("a.nii",), label="b.nii"),), started="now"
    )
    run.write(record, run.run_file)
    assert run.read(RunRecord, run.run_file) == record
    run.run_file.write_text("{")
    with pytest.raises(RunFolderError, match="is not JSON"):
        run.read(RunRecord, run.run_file)
    run.run_file.write_text(json.dumps({"name": 3}))
    with pytest.raises(RunFolderError, match=r"\$\.name is 3; expected str"):
        run.read(RunRecord, run.run_file)
    with pytest.raises(RunFolderError, match="does not exist"):
        run.read(RunRecord, run.plan_file)


def test_log_lines_are_json(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.log("stage", name="check", seconds=1.5)
    run.log("warning", cases=("a", "b"))
    lines = [json.loads(line) for line in run.log_file.read_text().splitlines()]
    assert [line["event"] for line in lines] == ["stage", "warning"]
    assert lines[1]["cases"] == ["a", "b"]


def _try_lock(path: Path, answer: "multiprocessing.Queue[str]") -> None:
    try:
        with lock(path):
            answer.put("taken")
    except RunFolderError as fault:
        answer.put(str(fault))


def test_second_process_is_told_who_holds_the_lock(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    path = tmp_path / ".lock"
    with lock(path):
        process = context.Process(target=_try_lock, args=(path, answer))
        process.start()
        message = answer.get(timeout=60)
        process.join()
    assert "is in use by process" in message
    with lock(path):
        pass
