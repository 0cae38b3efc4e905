"""Image files are sorted into cases by their names, as they would be in a dataset."""

import pytest

from autoseg.errors import DatasetError, ImageError
from autoseg.inference.cases import find_cases


@pytest.fixture
def folder(tmp_path):
    def make(*names):
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"\0" * 128 + b"DICM" if path.suffix == ".dcm" else b"")
        return tmp_path

    return make


def found(path, *channels):
    cases, incomplete, _ = find_cases(path, channels)
    return {case.id: [file.name for file in case.images] for case in cases}, incomplete


def test_one_channel(folder):
    root = folder("b.nii.gz", "a.nrrd", "notes.txt")
    assert found(root, "MRI") == ({"a": ["a.nrrd"], "b": ["b.nii.gz"]}, {})


def test_one_numbered_channel(folder):
    root = folder("b_0000.nii.gz", "a_0000.nii.gz")
    assert found(root, "MRI") == ({"a": ["a_0000.nii.gz"], "b": ["b_0000.nii.gz"]}, {})


def test_numbers_of_cases_are_no_channels(folder):
    root = folder("scan_0000.png", "scan_0001.png", "scan_0002.png")
    assert sorted(found(root, "grey")[0]) == ["scan_0000", "scan_0001", "scan_0002"]


@pytest.mark.parametrize("suffixes", [("0000", "0001"), ("t1", "flair")])
def test_several_channels(folder, suffixes):
    root = folder(*(f"{case}_{suffix}.nii.gz" for case in "ba" for suffix in suffixes))
    cases, incomplete = found(root, "t1", "flair")
    assert cases == {case: [f"{case}_{suffix}.nii.gz" for suffix in suffixes] for case in "ab"}
    assert incomplete == {}


def test_a_missing_channel_is_told(folder):
    root = folder("a_0000.nii.gz", "a_0001.nii.gz", "b_0001.nii.gz")
    cases, incomplete = found(root, "t1", "t2")
    assert list(cases) == ["a"]
    assert incomplete == {"b": "channel 0000 is missing (found: b_0001.nii.gz). Add its file"}


def test_one_file_with_all_channels(folder):
    root = folder("a.tif", "b.tif")
    assert found(root, "R", "G", "B")[0] == {"a": ["a.tif"], "b": ["b.tif"]}


def test_one_file(folder):
    root = folder("a_0000.nii.gz", "a_0001.nii.gz", "b.nii.gz", "c_0000.nii.gz")
    assert found(root / "b.nii.gz", "t1")[0] == {"b": ["b.nii.gz"]}
    assert found(root / "a_0000.nii.gz", "t1")[0] == {"a": ["a_0000.nii.gz"]}
    assert found(root / "a_0000.nii.gz", "t1", "t2")[0] == {"a": ["a_0000.nii.gz", "a_0001.nii.gz"]}
    assert found(root / "c_0000.nii.gz", "t1", "t2")[0] == {"c": ["c_0000.nii.gz"]}


def test_dicom(folder):
    root = folder("patient1/1.dcm", "patient1/2.dcm", "patient2/1.dcm", "patient2/2.dcm")
    assert found(root, "CT")[0] == {"patient1": ["patient1"], "patient2": ["patient2"]}
    assert found(root / "patient2", "CT")[0] == {"patient2": ["patient2"]}


def test_nothing_there(folder):
    root = folder("readme.md")
    with pytest.raises(ImageError, match="does not exist"):
        find_cases(root / "absent", ["CT"])
    with pytest.raises(DatasetError, match="holds no images"):
        find_cases(root, ["CT"])
