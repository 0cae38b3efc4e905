"""A case's stamp changes with its content, and with nothing else."""

import os
from pathlib import Path

import pytest

from autoseg.preprocessing import stamps
from autoseg.preprocessing.stamps import contents, stamp_files


def test_only_content_counts(tmp_path: Path) -> None:
    file = tmp_path / "a.nii.gz"
    file.write_bytes(b"one")
    before = stamp_files([file])
    os.utime(file, ns=(1, 1))
    moved = tmp_path / "elsewhere" / "a.nii.gz"
    moved.parent.mkdir()
    file.rename(moved)
    assert contents(stamp_files([moved])) == contents(before)
    moved.write_bytes(b"two")  # of the same length
    assert contents(stamp_files([moved], before)) != contents(before)


def test_known_files_are_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.nrrd"
    file.write_bytes(b"one")
    before = stamp_files([file])
    monkeypatch.setattr(stamps, "_hash", lambda path: pytest.fail(f"{path} was read"))
    assert stamp_files([file], before) == before


def test_folders_and_detached_headers_stand_for_all_their_files(tmp_path: Path) -> None:
    series = tmp_path / "series"
    series.mkdir()
    for name in ("b.dcm", "a.dcm"):
        (series / name).write_text(name)
    header, voxels, other = (tmp_path / name for name in ("c.mhd", "c.raw", "d.raw"))
    for file in (header, voxels, other):
        file.write_text(file.name)
    found = stamp_files([series, header])
    assert [stamp.name for stamp in found] == ["a.dcm", "b.dcm", "c.mhd", "c.raw"]
    voxels.write_text("changed")
    assert contents(stamp_files([series, header], found))[:3] == contents(found)[:3]
    assert contents(stamp_files([series, header], found))[3] != contents(found)[3]


def test_missing_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.nii"):
        stamp_files([tmp_path / "gone.nii"])
