import sys
import threading
from pathlib import Path

import pytest

from autoseg import jobs
from autoseg.errors import AutosegError


def python_job(name: str, code: str) -> jobs.Job:
    return jobs.Job(name=name, command=(sys.executable, "-c", code))


def test_one_job_on_each_device_at_a_time(tmp_path: Path) -> None:
    code = f"import os, pathlib; pathlib.Path({str(tmp_path)!r}, os.environ['CUDA_VISIBLE_DEVICES']+'-%d').touch()"
    jobs.run_jobs([python_job(f"job {i}", code % i) for i in range(4)], ["0", "1"])
    names = sorted(path.name for path in tmp_path.iterdir())
    assert [name[-1] for name in sorted(names, key=lambda n: n[-1])] == ["0", "1", "2", "3"]
    assert {name[0] for name in names} <= {"0", "1"}


def test_a_failed_job_is_named_and_the_others_are_done(tmp_path: Path) -> None:
    good = python_job("good", f"open({str(tmp_path / 'done')!r}, 'w')")
    bad = python_job("bad", "import sys; sys.exit('no such case')")
    with pytest.raises(AutosegError, match=r"1 of 2 jobs failed\n  bad \(exit code 1\): no such case"):
        jobs.run_jobs([bad, good], ["0"])
    assert (tmp_path / "done").exists()


def test_gpus_are_read_from_the_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nprintf '0, 24576\\n1, 81559\\n'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [(gpu.index, gpu.memory_bytes // 2**20) for gpu in jobs.visible_gpus()] == [("0", 24576), ("1", 81559)]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert [gpu.index for gpu in jobs.visible_gpus()] == ["1"]


def test_no_driver_means_no_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert jobs.visible_gpus() == ()
    assert threading.active_count() >= 1
