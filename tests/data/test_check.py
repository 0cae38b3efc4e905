"""Every fault of a dataset is found by its kind and case, alone and with all others; sound datasets raise none."""

import dataclasses
import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
from scipy import ndimage

from autoseg.data import check as check_module
from autoseg.data.check import KINDS, CheckResult, check_dataset
from autoseg.data.dataset import DatasetSource, Mismatch, open_dataset
from planners import records

SHAPE = (12, 14, 16)
NUM_CASES = 6


def make_case(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two channels of smooth noise, and a label of two nested boxes."""
    rng = np.random.default_rng(seed)
    image = ndimage.gaussian_filter(rng.normal(size=(2, *SHAPE)), (0, 1, 1, 1)).astype(np.float32)
    label = np.zeros(SHAPE, dtype=np.uint8)
    label[3:9, 4:11, 4:12] = 1
    label[5:8, 6:9, 6:10] = 2
    return image, label


def grey_picture(image_ZYX: np.ndarray) -> np.ndarray:
    """A 2D image of bytes made of all slices of a volume."""
    return (128 + 40 * image_ZYX.reshape(-1, 16)).astype(np.uint8)


def write(path: Path, array: np.ndarray, **geometry: Any) -> None:
    image = SimpleITK.GetImageFromArray(array)
    image.SetSpacing(geometry.get("spacing", (1.0, 1.2, 2.0)))
    image.SetOrigin(geometry.get("origin", (5.0, -7.0, 11.0)))
    image.SetDirection(geometry.get("direction", np.eye(3).ravel().tolist()))
    SimpleITK.WriteImage(image, str(path))


def image_file(root: Path, case: int, channel: int = 0, folder: str = "imagesTr") -> Path:
    return root / folder / f"case_{case:02d}_{channel:04d}.nii.gz"


def label_file(root: Path, case: int) -> Path:
    return root / "labelsTr" / f"case_{case:02d}.nii.gz"


@pytest.fixture(scope="session")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sound")
    for folder in ("imagesTr", "labelsTr", "imagesTs"):
        (root / folder).mkdir()
    for case in range(NUM_CASES):
        image, label = make_case(case)
        for channel in range(2):
            write(image_file(root, case, channel), image[channel])
        write(label_file(root, case), label)
    for channel in range(2):
        write(image_file(root, 90, channel, "imagesTs"), make_case(90)[0][channel])
    declare(root)
    return root


def declare(root: Path, **changes: Any) -> None:
    content = {
        "channel_names": {"0": "T1", "1": "T2"},
        "labels": {"background": 0, "outer": 1, "inner": 2},
        "numTraining": NUM_CASES,
        "file_ending": ".nii.gz",
    }
    kept = {key: value for key, value in {**content, **changes}.items() if value is not None}
    (root / "dataset.json").write_text(json.dumps(kept))


@pytest.fixture
def root(sound: Path, tmp_path: Path) -> Path:
    """A copy of the sound dataset, to be spoiled."""
    return Path(shutil.copytree(sound, tmp_path / "spoiled"))


def check(root: Path, **options: Any) -> CheckResult:
    return check_dataset(open_dataset(DatasetSource(dataset=root)), threads=2, **options)


def found(result: CheckResult) -> set[tuple[str, str | None]]:
    return {(item.kind, item.case) for item in result.problems}


def only(root: Path, kind: str, case: int | None, **options: Any) -> str:
    """Check that exactly this problem is found, as the table has it, and give what it says."""
    result = check(root, **options)
    name = None if case is None else f"case_{case:02d}"
    assert found(result) == {(kind, name)}, result.text()
    (item,) = result.problems
    assert item.stops == result.stops == KINDS[kind].stops
    assert item.fix
    assert f"[{kind}]" in result.text()
    assert result.text().splitlines()[-1 if item.stops else -2].startswith("not ready" if item.stops else "ready")
    return item.found


def truncate(path: Path, fraction: float = 0.6) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * fraction)])


# ------------------------------------------------------------------------------------------------------------- sound


def test_a_sound_dataset_is_ready(sound: Path) -> None:
    result = check(sound)
    assert result.problems == ()
    assert result.text() == "ready: 6 cases, 2 channels, 3 labels, 1 test image"


def test_labels_that_are_not_declared_are_found(root: Path) -> None:
    declare(root, labels=None)
    result = check(root)
    assert result.labels is not None
    assert result.labels.values == (0, 1, 2)
    assert not result.problems
    assert "label_1 = 1" in result.text()


@pytest.mark.data
@pytest.mark.parametrize(
    ("images", "labels", "size"),
    [
        ("isbi2012_em/train/image", "isbi2012_em/train/label", "24 cases, 1 channel, 2 labels"),
        ("drive_retina/training/images", "drive_retina/training/1st_manual", "20 cases, 3 channels, 2 labels"),
    ],
)
def test_no_false_alarm_on_real_2d_data(data_folder: Path, images: str, labels: str, size: str) -> None:
    result = check_dataset(open_dataset(DatasetSource(images=data_folder / images, labels=data_folder / labels)))
    assert result.problems == ()
    assert result.text().splitlines()[-1] == f"ready: {size}"


@pytest.mark.data
def test_no_false_alarm_on_hippocampus(data_folder: Path) -> None:
    result = check_dataset(open_dataset(DatasetSource(dataset=data_folder / "hippocampus")))
    assert result.problems == ()
    assert result.text() == "ready: 208 cases, 1 channel, 3 labels, 6 test images"


@pytest.mark.data
def test_no_false_alarm_on_brats_with_its_brain_mask(data_folder: Path, tmp_path: Path) -> None:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for case in sorted((data_folder / "brats2015_deepmedic").glob("*/brats*")):
        brain = SimpleITK.ReadImage(str(case / "brainmask.nii.gz"))
        for name in ("Flair", "T1c"):
            image = SimpleITK.ReadImage(str(case / f"{name}_subtrMeanDivStd.nii.gz")) * brain
            SimpleITK.WriteImage(image, str(tmp_path / "images" / f"{case.name}_{name}.mha"))
        (tmp_path / "labels" / f"{case.name}.nii.gz").symlink_to(case / "OTMultiClass.nii.gz")
    result = check_dataset(open_dataset(DatasetSource(dataset=tmp_path)))
    assert result.problems == ()
    assert result.text().splitlines()[-1] == "ready: 3 cases, 2 channels, 5 labels"


REAL = {
    "pyradiomics_cases": (
        [(name, f"{name}_image.nrrd", f"{name}_label.nrrd") for name in ("brain1", "brain2", "breast1")],
        {("mixed-orientations", "breast1")},
    ),
    "sct_cord_mri": (
        [
            ("mt0", "mt/mt0.nii.gz", "mt/mt0_seg.nii.gz"),
            ("mt1", "mt/mt1.nii.gz", "mt/mt1_seg.nii.gz"),
            ("t1", "t1/t1w.nii.gz", "t1/t1w_seg-manual.nii.gz"),
            ("t2", "t2/t2.nii.gz", "t2/t2_seg-manual.nii.gz"),
            ("t2s", "t2s/t2s.nii.gz", "t2s/t2s_seg.nii.gz"),
            ("whole", "t2s/t2s_uncropped.nii.gz", "t2s/t2s_uncropped_gmseg_manual.nii.gz"),
        ],
        {("mixed-orientations", "t1"), ("mixed-orientations", "t2")},
    ),
    "totalseg_ct_pseudo": (
        [
            ("ct", "example_ct.nii.gz", "example_seg_fast_force_split.nii.gz"),
            ("part", "example_ct_sm.nii.gz", "example_seg.nii.gz"),
            ("mr", "example_mr_sm.nii.gz", "example_seg_mr.nii.gz"),
        ],
        {("mixed-orientations", "mr"), ("rare-class", None)},
    ),
    "brats2015_deepmedic": (
        [
            (
                name,
                f"train/brats_2013_{name}/Flair_subtrMeanDivStd.nii.gz",
                f"train/brats_2013_{name}/OTMultiClass.nii.gz",
            )
            for name in ("pat0005_1", "pat0006_1")
        ],
        set(),
    ),
    "dcmqi_dicom_seg": (
        [(name, f"{name}/image", f"{name}/nrrd/label.nrrd") for name in ("23x38x3", "24x38x3")],
        set(),
    ),
    "stardist_mini": ([("cells", "img2d.tif", "mask2d.tif")], {("instance-like-labels", None)}),
}
"""Datasets that need laying out: case, image, label; and what is truly remarkable about them."""


@pytest.mark.data
@pytest.mark.parametrize("name", REAL)
def test_of_real_data_only_what_is_so_is_said(data_folder: Path, tmp_path: Path, name: str) -> None:
    cases, expected = REAL[name]
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for case, image, label in cases:
        for folder, file in (("images", image), ("labels", label)):
            ending = "".join(Path(file).suffixes)
            (tmp_path / folder / f"{case}{ending}").symlink_to(data_folder / name / file)
    result = check(tmp_path)
    assert found(result) == expected, result.text()
    assert not result.stops


# ---------------------------------------------------------------------------------------------------- stops the run


@pytest.mark.parametrize("what", ["image", "label"])
@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.6, 0.99])
def test_truncated_file(root: Path, what: str, fraction: float) -> None:
    path = image_file(root, 2, 1) if what == "image" else label_file(root, 2)
    truncate(path, fraction)
    assert path.name in only(root, "unreadable-file", 2)


@pytest.mark.parametrize("ending", ["nii", "nrrd", "mha", "tif"])
def test_truncated_file_of_other_formats(tmp_path: Path, ending: str) -> None:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for case in range(3):
        image, label = make_case(case)
        write(tmp_path / "images" / f"{case}.{ending}", image[0])
        write(tmp_path / "labels" / f"{case}.{ending}", label)
    truncate(tmp_path / "images" / f"1.{ending}")
    assert found(check(tmp_path)) == {("unreadable-file", "1")}


@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_truncated_2d_file(tmp_path: Path, ending: str) -> None:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for case in range(3):
        image, label = make_case(case)
        grey = np.repeat(grey_picture(image[0]), 3, axis=1)
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(grey), str(tmp_path / "images" / f"{case}.{ending}"))
        SimpleITK.WriteImage(
            SimpleITK.GetImageFromArray(np.repeat(label.reshape(-1, 16), 3, axis=1)),
            str(tmp_path / "labels" / f"{case}.png"),
        )
    assert found(check(tmp_path)) == set()
    truncate(tmp_path / "images" / f"1.{ending}")
    assert found(check(tmp_path)) == {("unreadable-file", "1")}


def test_file_of_garbage(root: Path) -> None:
    image_file(root, 0).write_bytes(gzip.compress(b"no image at all" * 100))
    only(root, "unreadable-file", 0)


def test_other_shape(root: Path) -> None:
    write(label_file(root, 3), make_case(3)[1][:, :-1])
    assert "label has shape 12×13×16, image has 12×14×16 (labelsTr/case_03.nii.gz)" in only(root, "label-shape", 3)


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
def test_other_place_in_space(root: Path, geometry: dict[str, Any], says: str) -> None:
    write(label_file(root, 1), make_case(1)[1], **geometry)
    assert says in only(root, "label-geometry", 1)


def test_missing_channel(root: Path) -> None:
    image_file(root, 4, 1).unlink()
    assert "channel 1 (T2) is missing" in only(root, "missing-channel", 4)
    image_file(root, 2, 1).unlink()
    assert "  channel 1 (T2) is missing for 2 cases: case_02, case_04. Add" in check(root).text()


def test_extra_channel(root: Path) -> None:
    shutil.copy(image_file(root, 5, 1), image_file(root, 4, 2))
    only(root, "extra-channel", 4)


def test_grey_image_among_colours(tmp_path: Path) -> None:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for case in range(4):
        image, label = make_case(case)
        grey = grey_picture(image[0])
        colours = grey if case == 2 else np.stack([grey, grey.T.reshape(grey.shape), grey], axis=-1)
        picture = SimpleITK.GetImageFromArray(colours, isVector=case != 2)
        SimpleITK.WriteImage(picture, str(tmp_path / "images" / f"{case}.png"))
        SimpleITK.WriteImage(
            SimpleITK.GetImageFromArray(label.reshape(-1, 16)), str(tmp_path / "labels" / f"{case}.png")
        )
    result = check(tmp_path)
    assert found(result) == {("missing-channel", "2")}
    assert "image has 1 channel, the dataset has 3" in result.text()


def test_channels_of_other_shapes(root: Path) -> None:
    write(image_file(root, 0, 1), make_case(0)[0][1, :-2])
    assert "channel 1 has shape 10×14×16" in only(root, "channel-shape", 0)


def test_channels_at_other_places(root: Path) -> None:
    write(image_file(root, 0, 1), make_case(0)[0][1], origin=(5.0, -7.0, 15.0))
    assert "channel 1 is shifted by +2 voxels along z" in only(root, "channel-geometry", 0)


def test_undeclared_value(root: Path) -> None:
    label = make_case(2)[1]
    label[0, 0, :7] = 9
    write(label_file(root, 2), label)
    says = only(root, "undeclared-label", 2)
    assert "9 (7 voxels)" in says
    assert "declared: 0, 1, 2" in says


def test_one_file_of_strange_values_makes_no_dataset_of_instances(root: Path) -> None:
    label = make_case(2)[1]
    label.reshape(-1)[: 12 * 40] = np.repeat(np.arange(20, 60), 12)
    write(label_file(root, 2), label)
    assert "20 (12 voxels), 21 (12 voxels)" in only(root, "undeclared-label", 2)


def test_fractional_label(root: Path) -> None:
    label = make_case(2)[1].astype(np.float32)
    label[0, 0, :5] = 0.5
    write(label_file(root, 2), label)
    assert "holds fractions in 5 voxels, such as 0.5" in only(root, "fractional-label", 2)


def test_interpolated_label_is_fractional_not_an_image(root: Path) -> None:
    label = ndimage.zoom(make_case(2)[1].astype(np.float32), 3, order=1)
    for channel in range(2):
        write(image_file(root, 2, channel), np.random.default_rng(channel).normal(size=label.shape).astype(np.float32))
    write(label_file(root, 2), label)
    assert found(check(root)) == {("fractional-label", "case_02"), ("extreme-size", "case_02")}


def test_floats_that_are_integers_are_fine(root: Path) -> None:
    write(label_file(root, 2), make_case(2)[1].astype(np.float64))
    assert check(root).problems == ()


def test_image_without_label(root: Path) -> None:
    label_file(root, 5).unlink()
    assert "imagesTr/case_05_0000.nii.gz" in only(root, "image-without-label", 5)


def test_label_without_image(root: Path) -> None:
    for channel in range(2):
        image_file(root, 5, channel).unlink()
    assert "labelsTr/case_05.nii.gz" in only(root, "label-without-image", 5)


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("kind", ["float", "8 bit", "smoothed mask"])
def test_image_in_the_labels_folder(root: Path, declared: bool, kind: str) -> None:
    image, label = make_case(3)
    blurred = ndimage.gaussian_filter(255.0 * (label > 0), 1.5)
    bytes_ = (60 * image[0] + 128).astype(np.uint8)
    array = {"float": image[0], "8 bit": bytes_, "smoothed mask": blurred.astype(np.uint8)}[kind]
    write(label_file(root, 3), array)
    if not declared:
        declare(root, labels=None)
    assert "different values, scattered" in only(root, "image-as-label", 3)


def test_jpeg_label(tmp_path: Path) -> None:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for case in range(3):
        image, label = make_case(case)
        grey = grey_picture(image[0])
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(grey), str(tmp_path / "images" / f"{case}.png"))
        ending = "jpg" if case == 1 else "png"
        SimpleITK.WriteImage(
            SimpleITK.GetImageFromArray(label.reshape(-1, 16)), str(tmp_path / "labels" / f"{case}.{ending}")
        )
    assert found(check(tmp_path)) == {("image-as-label", "1")}


def test_only_background(root: Path) -> None:
    for case in range(NUM_CASES):
        write(label_file(root, case), np.zeros(SHAPE, dtype=np.uint8))
    only(root, "no-foreground", None)


def test_undeclared_labels_that_do_not_tell(root: Path) -> None:
    declare(root, labels=None)
    for case in range(NUM_CASES):
        write(label_file(root, case), np.zeros(SHAPE, dtype=np.uint8))
    only(root, "no-labels", None)


def test_no_space_on_disk(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = check(root).store_bytes
    assert needed == pytest.approx(2 * NUM_CASES * np.prod(SHAPE) * 9)
    usage = shutil.disk_usage(tmp_path)._replace(free=needed - 1)
    monkeypatch.setattr(check_module.shutil, "disk_usage", lambda _: usage)
    run = tmp_path / "runs" / "new"
    assert "GB free" in only(root, "disk-space", None, store_folder=run)
    (run / "store" / "2d").mkdir(parents=True)
    (run / "store" / "2d" / "case_00.image.npy").write_bytes(b"0123456789")  # what is stored already needs no space
    assert check(root, store_folder=run).problems == ()
    assert check(root, store_folder=None).problems == ()


# ------------------------------------------------------------------------------------------------------------- warns


def test_geometry_noise(root: Path) -> None:
    write(label_file(root, 1), make_case(1)[1], origin=(5.0, -7.0, 11.0 + 0.02))
    assert "up to 0.01 voxels" in only(root, "geometry-noise", 1)


def test_rounding_of_headers_is_no_problem(root: Path) -> None:
    write(label_file(root, 1), make_case(1)[1], origin=(5.0, -7.0, 11.0 + 2e-5))
    assert check(root).problems == ()


def test_constant_image(root: Path) -> None:
    write(image_file(root, 1, 1), np.full(SHAPE, 7, dtype=np.int16))
    assert "channel 1" in only(root, "constant-image", 1)


def test_extreme_spacing(root: Path) -> None:
    image, label = make_case(4)
    for channel in range(2):
        write(image_file(root, 4, channel), image[channel], spacing=(10.0, 12.0, 20.0))
    write(label_file(root, 4), label, spacing=(10.0, 12.0, 20.0))
    assert "voxels of 20 × 12 × 10 mm, median 2 × 1.2 × 1 mm" in only(root, "extreme-spacing", 4)


@pytest.mark.parametrize("repeats", [(3, 3, 3), (1, 1, 11)])
def test_extreme_size(root: Path, repeats: tuple[int, int, int]) -> None:
    image, label = make_case(4)
    for channel in range(2):
        write(image_file(root, 4, channel), np.tile(image[channel], repeats))
    write(label_file(root, 4), np.tile(label, repeats))
    assert "median 12×14×16" in only(root, "extreme-size", 4)


def test_sizes_that_all_differ_are_no_outliers(root: Path) -> None:
    for case in range(NUM_CASES):
        image, label = make_case(case)
        for channel in range(2):
            write(image_file(root, case, channel), np.tile(image[channel], (1, 1, 2**case)))
        write(label_file(root, case), np.tile(label, (1, 1, 2**case)))
    assert check(root).problems == ()


def test_mixed_orientations(root: Path) -> None:
    image, label = make_case(4)
    for path, array in ((image_file(root, 4, 0), image[0]), (image_file(root, 4, 1), image[1])):
        write(path, array, direction=FLIP_X)
    write(label_file(root, 4), label, direction=FLIP_X)
    assert "run to S-P-R, those of 6 of 7 cases to S-P-L" in only(root, "mixed-orientations", 4)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_same_image_under_two_names(root: Path, dtype: Any) -> None:
    for channel in range(2):
        write(image_file(root, 4, channel), make_case(2)[0][channel].astype(dtype))
    assert "same image as case case_02" in only(root, "duplicate-image", 4)


def test_test_image_that_was_trained_on(root: Path) -> None:
    for channel in range(2):
        shutil.copy(image_file(root, 2, channel), image_file(root, 90, channel, "imagesTs"))
    assert "same image as case case_02" in only(root, "duplicate-image", 90)


def test_same_image_in_two_groups(root: Path) -> None:
    for channel in range(2):
        shutil.copy(image_file(root, 2, channel), image_file(root, 4, channel))
    declare(root, groups={"anna": ["case_02", "case_03"], "ben": ["case_04", "case_05"]})
    assert "case_02 (group anna), group ben" in only(root, "duplicate-across-groups", 4)


def test_case_in_two_groups(root: Path) -> None:
    dataset = open_dataset(DatasetSource(dataset=root))
    twice = Mismatch(case="case_02", kind="case-in-two-groups", found="groups name it under anna and ben")
    result = check_dataset(dataclasses.replace(dataset, mismatches=(twice,)))
    assert found(result) == {("case-in-two-groups", "case_02")}
    assert not result.stops
    assert result.num_fine == result.num_cases == NUM_CASES


def test_class_that_most_cases_lack(root: Path) -> None:
    for case in range(4):
        write(label_file(root, case), np.minimum(make_case(case)[1], 1))
    assert "inner (in 2)" in only(root, "rare-class", None)


def test_instance_numbers_of_their_own_in_every_case(root: Path) -> None:
    declare(root, labels=None)
    for case in range(NUM_CASES):
        label = make_case(case)[1].astype(np.uint16)
        write(label_file(root, case), np.where(label > 0, label + 2 * case, 0).astype(np.uint16))
    assert "12 label values, 2 a case, 12 of them in one case only" in only(root, "instance-like-labels", None)


def test_instance_numbers_that_begin_anew_in_every_case(root: Path) -> None:
    declare(root, labels=None)
    for case in range(NUM_CASES):
        label = np.zeros(SHAPE, dtype=np.uint16)
        places = [(z, y, x) for z in (1, 5, 9) for y in (1, 6, 11) for x in (1, 6, 11)]
        for number, (z, y, x) in enumerate(places[: 12 + 3 * case], start=1):
            label[z : z + 2, y : y + 3, x : x + 3] = number
        write(label_file(root, case), label)
    assert "27 label values, 12 to 27 a case" in only(root, "instance-like-labels", None)


def test_many_classes_are_not_instances(root: Path) -> None:
    """Organs: the same values in all cases, of very different sizes."""
    declare(root, labels=None)
    label = np.zeros(SHAPE, dtype=np.uint8)
    for number in range(1, 13):
        label[number - 1, : 1 + number, : 2 + number] = number
    for case in range(NUM_CASES):
        write(label_file(root, case), np.roll(label, case, axis=2))
    assert check(root).problems == ()


def test_non_finite_voxels(root: Path) -> None:
    image = make_case(1)[0][0]
    image[0, 0, :3] = (np.nan, np.inf, -np.inf)
    write(image_file(root, 1, 0), image)
    assert "holds NaN or infinity in 3 voxels of 2,688" in only(root, "non-finite-voxels", 1)


def test_long_preprocessing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_module, "PREPROCESSED_VOXELS_PER_S", 2.0)
    assert "about 4 h" in only(root, "long-preprocessing", None)


# ---------------------------------------------------------------------------------------------------------- together


def test_faults_of_test_images_stop_nothing(root: Path) -> None:
    truncate(image_file(root, 90, 1, "imagesTs"))
    result = check(root)
    assert found(result) == {("unreadable-file", "case_90")}
    assert not result.stops
    assert result.text().splitlines()[-2].startswith("ready: 6 cases")


def test_test_image_with_another_number_of_channels(root: Path) -> None:
    volume = np.stack(3 * [make_case(90)[0][0]], axis=-1)
    image = SimpleITK.GetImageFromArray(volume, isVector=True)
    for channel in range(2):
        SimpleITK.WriteImage(image, str(image_file(root, 90, channel, "imagesTs")))
    result = check(root)
    assert found(result) == {("extra-channel", "case_90")}
    assert not result.stops


def test_all_problems_are_listed_at_once_by_case(root: Path) -> None:
    plant: dict[int, Callable[[], None]] = {
        0: lambda: truncate(image_file(root, 0)),
        1: lambda: write(label_file(root, 1), make_case(1)[1][:-1]),
        2: lambda: write(label_file(root, 2), make_case(2)[1] * 3),
        3: lambda: image_file(root, 3, 1).unlink(),
        4: lambda: label_file(root, 4).unlink(),
        5: lambda: write(image_file(root, 5), np.zeros(SHAPE, dtype=np.uint8)),
    }
    for spoil in plant.values():
        spoil()
    result = check(root)
    assert [(item.case, item.kind) for item in result.problems] == [
        ("case_00", "unreadable-file"),
        ("case_01", "label-shape"),
        ("case_02", "undeclared-label"),
        ("case_03", "missing-channel"),
        ("case_04", "image-without-label"),
        ("case_05", "constant-image"),
    ]
    lines = result.text().splitlines()
    assert lines[0] == "5 problems in spoiled"
    assert lines[6] == "1 warning on spoiled"
    assert lines[-2:] == [
        "not ready: 1 of 6 cases without a problem (2 channels, 3 labels, 1 test image)",
        "1 warning",
    ]
    assert result.num_fine == 1
    assert len(result.warning_lines()) == 1


def test_many_problems_of_one_kind_are_listed_together(root: Path) -> None:
    for case in range(NUM_CASES):
        write(label_file(root, case), np.zeros((1 + case, 4, 4), dtype=np.uint8))
    declare(root, labels={"background": 0, "outer": 1})
    one_kind = [item for item in check(root).problems if item.kind == "label-shape"]
    assert [item.case for item in one_kind] == [f"case_{case:02d}" for case in range(NUM_CASES)]
    many = CheckResult(
        dataset="d", num_cases=20, num_test_cases=0, channels=("T1",), labels=None,
        problems=tuple(dataclasses.replace(one_kind[0], case=f"c{n:02d}", found=f"wrong {n}") for n in range(20)),
    )  # fmt: skip
    lines = many.text().splitlines()
    assert lines[0] == "20 problems in d"
    assert lines[6].startswith("  and for 15 more cases: c05, c06")
    assert "c19. [label-shape]" in lines[6]
    alike = dataclasses.replace(
        many, problems=tuple(dataclasses.replace(p, found="T2 is missing") for p in many.problems)
    )
    assert alike.text().splitlines()[1].startswith("  T2 is missing for 20 cases: c00, c01, c02")


def test_result_is_a_record(root: Path) -> None:
    write(label_file(root, 2), make_case(2)[1] * 3)
    result = check(root)
    assert records.from_json(CheckResult, json.loads(records.dumps(result))) == result


def test_every_kind_has_a_row_in_the_documents() -> None:
    document = (Path(__file__).parents[2] / "dataset_conventions.md").read_text()
    section = document[document.index("## What `autoseg check` says") :]
    for name, kind in KINDS.items():
        row = f"| `{name}` | {'stops' if kind.stops else 'warns'} | {kind.meaning} | {kind.fix} |"
        assert section.count(f"| `{name}` |") == 1
        assert row in section.splitlines()
