"""Want of memory and disk in all its dresses is told in one message; what is something else is left alone."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from autoseg import room
from autoseg.errors import RoomError
from autoseg.run_folder import write_atomic


def too_large_for_numpy() -> MemoryError:
    with pytest.raises(MemoryError) as caught:
        np.ones((2**40, 2**10), np.uint8)
    return caught.value


def too_large_for_torch() -> RuntimeError:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50, dtype=torch.uint8)
    return caught.value


@pytest.mark.parametrize(
    "fault",
    [
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("std::bad_alloc"),
        RuntimeError("ITK ERROR: ImageBuffer: Failed to allocate memory for image."),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        RuntimeError("can't start new thread"),
    ],
    ids=lambda fault: type(fault).__name__,
)
def test_memory_in_all_its_dresses(fault: Exception) -> None:
    assert (room.told(fault) or "").startswith("main memory ran out; ")
    assert not room.is_device_full(fault)


def test_what_was_asked_for_is_said() -> None:
    assert "the last request was for 1125899.9 GB" in (room.told(too_large_for_numpy()) or "")
    assert "the last request was for 1125899.9 GB" in (room.told(too_large_for_torch()) or "")
    text = str(room.no_memory(MemoryError(), "training 3d_fullres fold 0", 5 * 10**9))
    assert text.startswith("main memory ran out while training 3d_fullres fold 0; it needs about 5.0 GB; ")
    assert "allows" in text
    assert text.endswith("the same command then goes on with what is done")


def test_a_device_is_told_from_main_memory() -> None:
    for fault in (torch.OutOfMemoryError("CUDA out of memory. Tried …"), RuntimeError("CUDA error: out of memory")):
        assert room.is_device_full(fault)
        assert not room.is_no_memory(fault)
        assert (room.told(fault) or "").startswith("the device's memory ran out (CUDA")


@pytest.mark.parametrize(
    "fault",
    [ValueError("out of range"), RuntimeError("shapes differ"), OSError(errno.EACCES, "denied"), KeyError("memory")],
)
def test_other_faults_are_left_alone(fault: Exception) -> None:
    assert room.told(fault) is None


def test_a_full_disk_is_told_with_what_is_needed_and_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "plan.json"
    write_atomic(path, "old")

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        RoomError, match=r"plan\.json cannot be written: the disk is full \(it needs up to 0\.005 MB, .*"
    ):
        write_atomic(path, "x" * 5000)
    assert path.read_text() == "old"
    assert [item.name for item in path.parent.iterdir()] == ["plan.json"]


def test_a_disk_that_surely_does_not_suffice_is_refused_before(tmp_path: Path) -> None:
    room.check_disk(tmp_path / "not" / "yet", 1, "nothing")
    with pytest.raises(RoomError, match=r"preprocessing needs about .* of disk, and .* are free in"):
        room.check_disk(tmp_path / "not" / "yet", 10**18, "preprocessing")


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="no way to reserve space here")
def test_space_is_reserved(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.truncate(2**20)
    assert path.stat().st_blocks * 512 < 2**20
    room.reserve(path, 2**20)
    assert path.stat().st_blocks * 512 >= 2**20
    with pytest.raises(RoomError, match="cannot be written"):
        room.reserve(path, 2**50)


def test_a_convolution_that_cannot_be_made_is_want_of_memory_where_none_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fault = RuntimeError("could not create a primitive")
    monkeypatch.setattr(room, "free_memory", lambda: 2**20)
    assert room.is_no_memory(fault)
    monkeypatch.setattr(room, "free_memory", lambda: 2**30)
    assert not room.is_no_memory(fault)  # ours: it must be told with its traceback
