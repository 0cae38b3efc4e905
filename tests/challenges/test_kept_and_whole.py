"""What a user corrected stays, copies are whole, and numbers and names of challenges are what they claim to be."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autoseg.challenges import CHALLENGES, pack, prepare, score
from autoseg.data.io import open_image, write_segmentation
from autoseg.errors import DatasetError, RoomError, RunFolderError

Make = Callable[[str, Path], Any]
CASE = "hippocampus_001.nii.gz"


def refuse(*_: object) -> None:
    raise OSError("no links here")


@pytest.mark.parametrize("relative", [False, True])
def test_a_users_link_is_kept(
    relative: bool, make_example: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example, out = make_example("msd04", tmp_path / "raw"), tmp_path / "out"
    prepare("msd04", example.root, out)
    assert "kept as found" not in capsys.readouterr().err
    corrected = tmp_path / "corrected" / CASE
    corrected.parent.mkdir()
    shutil.copy(out / "labelsTr" / CASE, corrected)
    place = out / "labelsTr" / CASE
    place.unlink()
    place.symlink_to(Path("..", "..", "corrected", CASE) if relative else corrected)
    prepare("msd04", example.root, out)
    assert place.resolve() == corrected.resolve()
    assert f"labelsTr/{CASE}" in capsys.readouterr().err


def test_a_users_file_is_kept(make_example: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example, out = make_example("msd04", tmp_path / "raw"), tmp_path / "out"
    prepare("msd04", example.root, out)
    place, other = out / "labelsTr" / CASE, out / "labelsTr" / "hippocampus_004.nii.gz"
    place.unlink()
    place.write_bytes(b"mine")
    other.unlink()
    prepare("msd04", example.root, out)
    assert place.read_bytes() == b"mine"
    assert other.is_symlink(), "the others are put at their places all the same"
    assert f"kept as found: labelsTr/{CASE}" in capsys.readouterr().err


def test_a_users_link_in_the_place_of_a_slice_is_kept(make_example: Make, tmp_path: Path) -> None:
    example, out = make_example("isbi2012", tmp_path / "raw"), tmp_path / "out"
    prepare("isbi2012", example.root, out)
    place, corrected = out / "labelsTr" / "train-01.png", tmp_path / "corrected.png"
    shutil.move(place, corrected)
    place.symlink_to(corrected)
    source = example.root / "train-labels.tif"
    source.write_bytes(source.read_bytes())  # newer than the correction: slices are made again
    prepare("isbi2012", example.root, out)
    assert place.readlink() == corrected


def test_links_follow_the_official_folder(
    make_example: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Moved, or named by another path: links to it are ours, and lead to where it is now."""
    example, out = make_example("msd04", tmp_path / "raw"), tmp_path / "out"
    prepare("msd04", example.root, out)
    moved = tmp_path / "moved" / example.root.name
    moved.parent.mkdir()
    shutil.move(example.root, moved)
    prepare("msd04", moved, out)
    assert (out / "labelsTr" / CASE).readlink() == moved / "labelsTr" / CASE
    (out / "challenge.json").unlink()
    shutil.rmtree(out / "imagesTs")
    (out / "dataset.json").unlink()
    (tmp_path / "alias").symlink_to(tmp_path / "moved")
    prepare("msd04", tmp_path / "alias", out)
    assert (out / "labelsTr" / CASE).readlink() == tmp_path / "alias" / moved.name / "labelsTr" / CASE
    assert "kept as found" not in capsys.readouterr().err


def test_a_copy_is_whole_or_not_at_all(
    make_example: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    example, out = make_example("msd04", tmp_path / "raw"), tmp_path / "out"
    whole = shutil.copyfile

    def half(source: Path, target: Path) -> None:
        Path(target).write_bytes(Path(source).read_bytes()[:40])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    monkeypatch.setattr(shutil, "copyfile", half)
    with pytest.raises(RoomError, match=r"cannot be written: the disk is full"):
        prepare("msd04", example.root, out)
    assert not [path for path in out.rglob("*") if path.is_file()]
    monkeypatch.setattr(shutil, "copyfile", whole)
    prepare("msd04", example.root, out)
    label = example.root / "labelsTr" / CASE
    assert (out / "labelsTr" / CASE).read_bytes() == label.read_bytes()
    assert "kept as found" not in capsys.readouterr().err


def test_what_a_killed_call_left_is_removed(
    make_example: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The half copy is found under the name that the copy really had, as a kill would leave it."""
    example, out = make_example("promise12", tmp_path / "raw"), tmp_path / "out"
    whole, left = shutil.copyfile, []

    def killed(source: Path, target: Path) -> None:
        left.append(Path(target))
        whole(source, target)
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "symlink_to", refuse)
    monkeypatch.setattr(shutil, "copyfile", killed)
    with pytest.raises(KeyboardInterrupt):
        prepare("promise12", example.root, out)
    monkeypatch.setattr(shutil, "copyfile", whole)
    mine = left[0].with_name(".notes.txt")
    voxels = left[0].with_name(".Case00.abcd_123.raw")
    for path in (left[0], voxels, mine):
        path.write_bytes(b"half")
    prepare("promise12", example.root, out)
    assert not left[0].exists()
    assert not voxels.exists()
    assert mine.exists()


def test_another_challenges_dataset_is_not_scored(
    make_example: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = prepare("acdc", make_example("acdc", tmp_path / "raw").root, tmp_path / "out")
    for labels in (out, out / "labelsTr"):
        with pytest.raises(DatasetError, match="prepared for acdc, not for kits23"):
            score("kits23", out / "labelsTr", labels)
    monkeypatch.chdir(out / "labelsTr")
    with pytest.raises(DatasetError, match="prepared for acdc, not for kits23"):
        score("kits23", Path(), Path())
    (out / "challenge.json").write_text("{}")
    with pytest.raises(RunFolderError, match=r"challenge\.json"):
        score("acdc", out / "labelsTr", out)


def test_tasks_with_equal_labels_and_rules_may_be_scored_as_each_other(make_example: Make, tmp_path: Path) -> None:
    out = prepare("amos22", make_example("amos22", tmp_path / "raw").root, tmp_path / "out")
    assert score("amos22-ct", out / "labelsTr", out).scores.mean_dice == 1


def test_annotation_is_the_same_from_dataset_and_official_folder(make_example: Make, tmp_path: Path) -> None:
    """A voxel of spleen counts nothing in a scan that was annotated for the liver alone."""
    example = make_example("flare23", tmp_path / "raw")
    official = example.root / "labelsTr2200"
    liver = np.zeros((6, 10, 12), dtype=np.uint8)
    liver[2:5, 2:8, 2:8] = 1
    write_segmentation(official / "FLARE23_0001.nii.gz", liver, example.geometry)
    liver[0, 0, 0] = 3
    predictions = tmp_path / "predictions"
    write_segmentation(predictions / "FLARE23_0001.nii.gz", liver, example.geometry)
    every = open_image([official / "FLARE23_0003.nii.gz"]).read()[0]
    write_segmentation(predictions / "FLARE23_0003.nii.gz", np.where(every == 3, 0, every), example.geometry)
    out = prepare("flare23", example.root, tmp_path / "out")
    comparisons = [
        score("flare23", predictions, labels) for labels in (out, out / "labelsTr", tmp_path / "raw", official)
    ]
    spleen = comparisons[0].table.structures.index("spleen")
    for comparison in comparisons:
        partly, fully = comparison.table.cases
        assert partly.values[spleen][0] is None
        assert fully.values[spleen][0] == 0
        assert comparison.scores == comparisons[0].scores
        assert comparison.table == comparisons[0].table


def test_labels_named_otherwise_are_compared_as_they_are(make_example: Make, tmp_path: Path) -> None:
    """A user's folder of labels that lies in the official folder is not taken for the organisers' own."""
    example = make_example("flare23", tmp_path / "raw")
    mine = example.root / "mine"
    write_segmentation(mine / "FLARE23_0001.nii.gz", np.full((6, 10, 12), 2, dtype=np.uint8), example.geometry)
    assert score("flare23", mine, mine).scores.mean_dice == 1


def test_a_submission_of_too_few_images_is_called_incomplete(
    make_example: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    example = make_example("brats2021", tmp_path / "raw")
    predictions = example.write_predictions(tmp_path / "predictions")
    out = prepare("brats2021", example.root, tmp_path / "out")
    for images in (example.root, out):
        capsys.readouterr()
        assert pack("brats2021", predictions, tmp_path / "a.zip", images).is_file()
        said = capsys.readouterr().err
        assert "INCOMPLETE: 2 of the 219 test cases of BraTS 2021" in said
        assert f"{images} lacks 217 test images" in said
    for expected, sentence in ((2, None), (1, "hands out 1")):
        changed = dataclasses.replace(CHALLENGES["brats2021"], num_tests=expected)
        monkeypatch.setitem(CHALLENGES, "brats2021", changed)
        pack("brats2021", predictions, tmp_path / "a.zip", example.root)
        said = capsys.readouterr().err
        assert "INCOMPLETE" not in said
        assert (sentence is None and "note" not in said) or (sentence is not None and sentence in said)
