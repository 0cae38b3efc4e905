"""Every fault that stops a run is found by its kind and case, alone."""

import gzip
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
from scipy import ndimage

from autoseg.data import check as check_module


@pytest.mark.parametrize("what", ["image", "label"])
@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.6, 0.99])
def test_truncated_file(spoiled, what: str, fraction: float) -> None:
    path = spoiled.image(2, 1) if what == "image" else spoiled.label(2)
    spoiled.truncate(path, fraction)
    assert path.name in spoiled.only("unreadable-file", 2)


@pytest.mark.parametrize("ending", ["nii", "nrrd", "mha", "tif"])
def test_truncated_file_of_other_formats(spoiled, tmp_path: Path, ending: str) -> None:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for case in range(3):
        image, label = spoiled.make_case(case)
        spoiled.write(tmp_path / "images" / f"{case}.{ending}", image[0])
        spoiled.write(tmp_path / "labels" / f"{case}.{ending}", label)
    spoiled.truncate(tmp_path / "images" / f"1.{ending}")
    assert spoiled.found(spoiled.check(tmp_path)) == {("unreadable-file", "1")}


@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_truncated_2d_file(spoiled, tmp_path: Path, ending: str) -> None:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for case in range(3):
        image, label = spoiled.make_case(case)
        grey = np.repeat(spoiled.grey_picture(image[0]), 3, axis=1)
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(grey), str(tmp_path / "images" / f"{case}.{ending}"))
        SimpleITK.WriteImage(
            SimpleITK.GetImageFromArray(np.repeat(label.reshape(-1, 16), 3, axis=1)),
            str(tmp_path / "labels" / f"{case}.png"),
        )
    assert spoiled.found(spoiled.check(tmp_path)) == set()
    spoiled.truncate(tmp_path / "images" / f"1.{ending}")
    assert spoiled.found(spoiled.check(tmp_path)) == {("unreadable-file", "1")}


def test_file_of_garbage(spoiled) -> None:
    spoiled.image(0).write_bytes(gzip.compress(b"no image at all" * 100))
    spoiled.only("unreadable-file", 0)


def test_other_shape(spoiled) -> None:
    spoiled.write(spoiled.label(3), spoiled.make_case(3)[1][:, :-1])
    assert "label has shape 12×13×16, image has 12×14×16 (labelsTr/case_03.nii.gz)" in spoiled.only("label-shape", 3)


FLIP_X = np.diag([-1.0, 1.0, 1.0]).ravel().tolist()
SWAP_YX = [0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0]
ORIGIN = (5.0, -7.0, 11.0)


@pytest.mark.parametrize(
    ("geometry", "says"),
    [
        ({"direction": FLIP_X, "origin": (5.0 + 15, -7.0, 11.0)}, "flipped along x against"),
        ({"direction": FLIP_X}, "flipped along x and shifted by -15 voxels along x"),
        ({"origin": (5.0, -7.0 + 3.6, 11.0)}, "shifted by +3 voxels along y against"),
        ({"origin": (5.0, -7.0, 11.0 - 1.0)}, "shifted by -0.5 voxels along z against"),
        ({"spacing": (1.0, 1.2, 3.0)}, "scaled by 1.5 along z against"),
        ({"direction": SWAP_YX, "spacing": (1.2, 1.0, 2.0)}, "axes exchanged (y for x, x for y)"),
    ],
)
def test_other_place_in_space(spoiled, geometry: dict[str, Any], says: str) -> None:
    spoiled.write(spoiled.label(1), spoiled.make_case(1)[1], **geometry)
    assert says in spoiled.only("label-geometry", 1)


def test_missing_channel(spoiled) -> None:
    spoiled.image(4, 1).unlink()
    assert "channel 1 (T2) is missing" in spoiled.only("missing-channel", 4)
    spoiled.image(2, 1).unlink()
    assert "  channel 1 (T2) is missing for 2 cases: case_02, case_04. Add" in spoiled.check().text()


def test_extra_channel(spoiled) -> None:
    shutil.copy(spoiled.image(5, 1), spoiled.image(4, 2))
    spoiled.only("extra-channel", 4)


def test_grey_image_among_colours(spoiled, tmp_path: Path) -> None:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for case in range(4):
        image, label = spoiled.make_case(case)
        grey = spoiled.grey_picture(image[0])
        colours = grey if case == 2 else np.stack([grey, grey.T.reshape(grey.shape), grey], axis=-1)
        picture = SimpleITK.GetImageFromArray(colours, isVector=case != 2)
        SimpleITK.WriteImage(picture, str(tmp_path / "images" / f"{case}.png"))
        SimpleITK.WriteImage(
            SimpleITK.GetImageFromArray(label.reshape(-1, 16)), str(tmp_path / "labels" / f"{case}.png")
        )
    result = spoiled.check(tmp_path)
    assert spoiled.found(result) == {("missing-channel", "2")}
    assert "image has 1 channel, the dataset has 3" in result.text()


def test_channels_of_other_shapes(spoiled) -> None:
    spoiled.write(spoiled.image(0, 1), spoiled.make_case(0)[0][1, :-2])
    assert "channel 1 has shape 10×14×16" in spoiled.only("channel-shape", 0)


def test_channels_at_other_places(spoiled) -> None:
    spoiled.write(spoiled.image(0, 1), spoiled.make_case(0)[0][1], origin=(5.0, -7.0, 15.0))
    assert "channel 1 is shifted by +2 voxels along z" in spoiled.only("channel-geometry", 0)


def test_undeclared_value(spoiled) -> None:
    label = spoiled.make_case(2)[1]
    label[0, 0, :7] = 9
    spoiled.write(spoiled.label(2), label)
    says = spoiled.only("undeclared-label", 2)
    assert "9 (7 voxels)" in says
    assert "declared: 0, 1, 2" in says


def test_one_file_of_strange_values_makes_no_dataset_of_instances(spoiled) -> None:
    label = spoiled.make_case(2)[1]
    label.reshape(-1)[: 12 * 40] = np.repeat(np.arange(20, 60), 12)
    spoiled.write(spoiled.label(2), label)
    assert "20 (12 voxels), 21 (12 voxels)" in spoiled.only("undeclared-label", 2)


def test_fractional_label(spoiled) -> None:
    label = spoiled.make_case(2)[1].astype(np.float32)
    label[0, 0, :5] = 0.5
    spoiled.write(spoiled.label(2), label)
    assert "holds fractions in 5 voxels, such as 0.5" in spoiled.only("fractional-label", 2)


def test_interpolated_label_is_fractional_not_an_image(spoiled) -> None:
    label = ndimage.zoom(spoiled.make_case(2)[1].astype(np.float32), 3, order=1)
    for channel in range(2):
        spoiled.write(
            spoiled.image(2, channel), np.random.default_rng(channel).normal(size=label.shape).astype(np.float32)
        )
    spoiled.write(spoiled.label(2), label)
    assert spoiled.found(spoiled.check()) == {("fractional-label", "case_02"), ("extreme-size", "case_02")}


def test_floats_that_are_integers_are_fine(spoiled) -> None:
    spoiled.write(spoiled.label(2), spoiled.make_case(2)[1].astype(np.float64))
    assert spoiled.check().problems == ()


def test_image_without_label(spoiled) -> None:
    spoiled.label(5).unlink()
    assert "imagesTr/case_05_0000.nii.gz" in spoiled.only("image-without-label", 5)


def test_label_without_image(spoiled) -> None:
    for channel in range(2):
        spoiled.image(5, channel).unlink()
    assert "labelsTr/case_05.nii.gz" in spoiled.only("label-without-image", 5)


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("kind", ["float", "8 bit", "smoothed mask"])
def test_image_in_the_labels_folder(spoiled, declared: bool, kind: str) -> None:
    image, label = spoiled.make_case(3)
    blurred = ndimage.gaussian_filter(255.0 * (label > 0), 1.5)
    bytes_ = (60 * image[0] + 128).astype(np.uint8)
    array = {"float": image[0], "8 bit": bytes_, "smoothed mask": blurred.astype(np.uint8)}[kind]
    spoiled.write(spoiled.label(3), array)
    if not declared:
        spoiled.declare(labels=None)
    assert "different values, scattered" in spoiled.only("image-as-label", 3)


def test_jpeg_label(spoiled, tmp_path: Path) -> None:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for case in range(3):
        image, label = spoiled.make_case(case)
        grey = spoiled.grey_picture(image[0])
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(grey), str(tmp_path / "images" / f"{case}.png"))
        ending = "jpg" if case == 1 else "png"
        SimpleITK.WriteImage(
            SimpleITK.GetImageFromArray(label.reshape(-1, 16)), str(tmp_path / "labels" / f"{case}.{ending}")
        )
    assert spoiled.found(spoiled.check(tmp_path)) == {("image-as-label", "1")}


def test_only_background(spoiled) -> None:
    for case in range(spoiled.num_cases):
        spoiled.write(spoiled.label(case), np.zeros(spoiled.shape, dtype=np.uint8))
    spoiled.only("no-foreground", None)


def test_undeclared_labels_that_do_not_tell(spoiled) -> None:
    spoiled.declare(labels=None)
    for case in range(spoiled.num_cases):
        spoiled.write(spoiled.label(case), np.zeros(spoiled.shape, dtype=np.uint8))
    spoiled.only("no-labels", None)


def test_no_space_on_disk(spoiled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = spoiled.check().store_bytes
    assert needed == pytest.approx(2 * spoiled.num_cases * np.prod(spoiled.shape) * 9)
    usage = shutil.disk_usage(tmp_path)._replace(free=needed - 1)
    monkeypatch.setattr(check_module.shutil, "disk_usage", lambda _: usage)
    run = tmp_path / "runs" / "new"
    assert "GB free" in spoiled.only("disk-space", None, store_folder=run)
    (run / "store" / "2d").mkdir(parents=True)
    (run / "store" / "2d" / "case_00.image.npy").write_bytes(b"0123456789")  # what is stored already needs no space
    assert spoiled.check(store_folder=run).problems == ()
    assert spoiled.check(store_folder=None).problems == ()
