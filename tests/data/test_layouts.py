"""Each layout is recognised by looking, and what does not go together is listed with the closest name."""

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image as Pillow

from autoseg.data.dataset import Dataset, DatasetSource, open_dataset, read_case
from autoseg.data.splits import Fold
from autoseg.errors import DatasetError


def put(path: Path, shape: tuple[int, ...] = (2, 3, 4)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".gif":
        Pillow.fromarray(np.zeros(shape[-2:], np.uint8)).save(path)
    else:
        sitk.WriteImage(sitk.GetImageFromArray(np.zeros(shape, np.uint8), isVector=False), str(path))
    return path


def flat(path: Path) -> Path:
    return put(path, (3, 4))


def nnunet(root: Path, cases: int = 3, channels: int = 2, **content: object) -> Path:
    for number in range(cases):
        for channel in range(channels):
            put(root / "imagesTr" / f"case_{number}_{channel:04d}.nii.gz")
        put(root / "labelsTr" / f"case_{number}.nii.gz")
    names = {"channel_names": {str(channel): f"mr{channel}" for channel in range(channels)}}
    content = {**names, "labels": {"background": 0, "organ": 1}, "file_ending": ".nii.gz", **content}
    (root / "dataset.json").write_text(json.dumps(content))
    return root


def opened(place: Path, **options: object) -> Dataset:
    return open_dataset(DatasetSource(dataset=place, **options))  # type: ignore[arg-type]


def ids(dataset: Dataset) -> list[str]:
    return [case.id for case in dataset.cases]


# ------------------------------------------------------------------------------------------- nnU-Net v2


def test_nnunet(tmp_path: Path) -> None:
    root = nnunet(tmp_path / "Dataset004_Thing")
    for channel in range(2):
        put(root / "imagesTs" / f"new_1_{channel:04d}.nii.gz")
    put(root / "imagesTs" / "half_0000.nii.gz")
    dataset = opened(root)
    assert (dataset.name, dataset.layout, dataset.channels) == ("Dataset004_Thing", "nnU-Net v2", ("mr0", "mr1"))
    assert ids(dataset) == ["case_0", "case_1", "case_2"]
    assert [path.name for path in dataset.cases[1].images] == ["case_1_0000.nii.gz", "case_1_0001.nii.gz"]
    assert dataset.cases[1].label == root / "labelsTr" / "case_1.nii.gz"
    assert [case.id for case in dataset.test_cases] == ["new_1"]
    assert dataset.file_ending == ".nii.gz"
    assert not dataset.mismatches
    assert "test case half is not predicted: channel 0001 is missing" in dataset.notes[0]
    image, label = read_case(dataset.cases[0])
    assert (image.num_channels, label.num_channels if label else 0) == (2, 1)
    assert opened(root / "dataset.json").cases == dataset.cases
    put(tmp_path / "more" / "x_0000.nii.gz")
    put(tmp_path / "more" / "x_0001.nii.gz")
    assert [case.id for case in opened(root, test=tmp_path / "more").test_cases] == ["x"]


def test_nnunet_mismatches_are_listed_with_the_closest_name(tmp_path: Path) -> None:
    root = nnunet(tmp_path, cases=5)
    (root / "labelsTr" / "case_0.nii.gz").rename(root / "labelsTr" / "case_0x.nii.gz")
    (root / "imagesTr" / "case_1_0001.nii.gz").unlink()
    put(root / "imagesTr" / "case_2_0002.nii.gz")
    dataset = opened(root)
    assert ids(dataset) == ["case_3", "case_4"]
    assert [(item.case, item.kind) for item in dataset.mismatches] == [
        ("case_0", "image-without-label"),
        ("case_0x", "label-without-image"),
        ("case_1", "missing-channel"),
        ("case_2", "extra-channel"),
    ]
    assert "case_0_0000.nii.gz has no label (closest: case_0x.nii.gz)" in dataset.mismatches[0].found
    assert "(closest: case_0_0000.nii.gz)" in dataset.mismatches[1].found
    assert "channel 0001 is missing (found: case_1_0000.nii.gz)" in dataset.mismatches[2].found


def test_nnunet_declared_channels_count(tmp_path: Path) -> None:
    root = nnunet(tmp_path, channel_names={"0": "a", "1": "b", "2": "c"})
    dataset = opened(root)
    assert dataset.channels == ("a", "b", "c")
    assert {item.kind for item in dataset.mismatches} == {"missing-channel"}
    assert len(dataset.mismatches) == 3


def test_nnunet_file_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = tmp_path / "elsewhere"
    put(elsewhere / "a.nii.gz")
    monkeypatch.setenv("SCANS", str(elsewhere))
    root = tmp_path / "set"
    put(root / "sub" / "b.nii.gz")
    table = {
        "one": {"images": ["$SCANS/a.nii.gz", "sub/b.nii.gz"], "label": "${SCANS}/a.nii.gz"},
        "two": {"images": ["sub/b.nii.gz", "sub/b.nii.gz"]},
    }
    (root / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "x": 1}, "dataset": table}))
    dataset = opened(root)
    assert dataset.cases[0].images == (elsewhere / "a.nii.gz", root / "sub" / "b.nii.gz")
    assert dataset.cases[0].label == elsewhere / "a.nii.gz"
    assert [(item.case, item.kind) for item in dataset.mismatches] == [("two", "image-without-label")]
    assert dataset.layout == "nnU-Net v2 with a file table"


def test_nnunet_splits_and_groups(tmp_path: Path) -> None:
    root = nnunet(tmp_path, groups={"anna": ["case_0", "case_1"], "ben": ["case_2"]})
    (root / "splits_final.json").write_text(json.dumps([{"train": ["case_0"], "val": ["case_1", "case_2"]}]))
    dataset = opened(root)
    assert dataset.splits is not None
    assert dataset.splits.folds == (Fold(train=("case_0",), validation=("case_1", "case_2")),)
    assert [case.group for case in dataset.cases] == ["anna", "anna", "ben"]
    assert any("groups both in train and in validation: anna" in note for note in dataset.notes)
    (root / "splits_final.json").write_text(json.dumps([{"train": ["case_0"], "val": ["case_9"]}]))
    with pytest.raises(DatasetError, match=r"splits_final.json: fold 0 names case_9"):
        opened(root)


def test_nnunet_without_its_folders(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"a": 1}}))
    with pytest.raises(DatasetError, match=r"no folder imagesTr and no labelsTr \(it holds dataset.json\)"):
        opened(tmp_path)


def test_old_nnunet_list_with_channels_in_the_names(tmp_path: Path) -> None:
    pairs = [{"image": f"./imagesTr/case_{n}.nii.gz", "label": f"./labelsTr/case_{n}.nii.gz"} for n in range(3)]
    dataset = opened(nnunet(tmp_path, training=pairs))
    assert (dataset.layout, len(dataset.cases), len(dataset.cases[0].images)) == ("nnU-Net v2", 3, 2)


# ------------------------------------------------------------------------------------------- Decathlon


def test_decathlon(tmp_path: Path) -> None:
    pairs = []
    for number in range(3):
        put(tmp_path / "imagesTr" / f"BRATS_{number}.nii.gz", (2, 3, 4, 5))
        put(tmp_path / "labelsTr" / f"BRATS_{number}.nii.gz", (3, 4, 5))
        pairs.append({"image": f"./imagesTr/BRATS_{number}.nii.gz", "label": f"./labelsTr/BRATS_{number}.nii.gz"})
    put(tmp_path / "imagesTr" / "._BRATS_0.nii.gz")
    put(tmp_path / "imagesTs" / "BRATS_9.nii.gz", (2, 3, 4, 5))
    content = {
        "modality": {"0": "FLAIR", "1": "T1w"},
        "labels": {"0": "background", "1": "edema", "2": "tumour"},
        "training": pairs,
        "test": ["./imagesTs/BRATS_9.nii.gz", "./imagesTs/BRATS_10.nii.gz"],
    }
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    dataset = opened(tmp_path)
    assert (dataset.layout, dataset.channels) == ("Medical Segmentation Decathlon", ("FLAIR", "T1w"))
    assert ids(dataset) == ["BRATS_0", "BRATS_1", "BRATS_2"]
    assert [case.id for case in dataset.test_cases] == ["BRATS_9"]
    assert "1 test images of dataset.json do not exist: BRATS_10" in dataset.notes
    assert dataset.labels is not None
    assert dataset.labels.names == ("background", "edema", "tumour")
    assert read_case(dataset.cases[0])[0].num_channels == 2


# ------------------------------------------------------------------------------------------- plain folders


@pytest.mark.parametrize(
    ("images", "labels", "test"),
    [("images", "labels", "test"), ("train/image", "train/label", "test"), ("imagesTr", "labelsTr", "imagesTs")],
)
def test_plain_folders_are_found(tmp_path: Path, images: str, labels: str, test: str) -> None:
    for number in range(12):
        flat(tmp_path / images / f"{number}.png")
        flat(tmp_path / labels / f"{number}.tif")
    flat(tmp_path / test / "0.png")
    dataset = opened(tmp_path)
    assert (len(dataset.cases), len(dataset.test_cases), dataset.labels, dataset.channels) == (12, 1, None, ("image",))
    assert dataset.file_ending == ".png"
    explicit = DatasetSource(images=tmp_path / images, labels=tmp_path / labels, test=tmp_path / test)
    assert open_dataset(explicit).cases == dataset.cases
    assert open_dataset(explicit).name == tmp_path.name


def plain(root: Path, images: list[str], labels: list[str]) -> Dataset:
    for name in images:
        flat(root / "images" / name)
    for name in labels:
        flat(root / "labels" / name)
    return opened(root)


def test_numbers_at_the_end_are_no_channels_when_labels_have_them(tmp_path: Path) -> None:
    dataset = plain(tmp_path, ["scan_0001.png", "scan_0002.png"], ["scan_0001.png", "scan_0002.png"])
    assert ids(dataset) == ["scan_0001", "scan_0002"]
    assert {len(case.images) for case in dataset.cases} == {1}


def test_channels_by_number(tmp_path: Path) -> None:
    dataset = plain(tmp_path, ["a_0000.png", "a_0001.png", "b_0000.png", "b_0001.png"], ["a.png", "b.png"])
    assert dataset.channels == ("channel_0", "channel_1")
    assert [path.name for path in dataset.cases[1].images] == ["b_0000.png", "b_0001.png"]


@pytest.mark.parametrize("label", ["{}.png", "{}_seg.png"])
def test_channels_by_name(tmp_path: Path, label: str) -> None:
    images = [f"p{number}_{channel}.png" for number in (1, 2, 10) for channel in ("t1", "flair")]
    flat(tmp_path / "test" / "q_t1.png")
    flat(tmp_path / "test" / "q_flair.png")
    dataset = plain(tmp_path, images, [label.format(f"p{number}") for number in (1, 2, 10)])
    assert dataset.channels == ("flair", "t1")
    assert ids(dataset) == ["p1", "p10", "p2"]
    assert [path.name for path in dataset.cases[0].images] == ["p1_flair.png", "p1_t1.png"]
    assert [path.name for path in dataset.test_cases[0].images] == ["q_flair.png", "q_t1.png"]
    assert "channels by the end of the name: flair, t1" in dataset.notes


def test_declared_order_of_named_channels(tmp_path: Path) -> None:
    content = {"channel_names": {"0": "T1", "1": "FLAIR"}, "labels": {"x": 1}}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    dataset = plain(tmp_path, [f"p{n}_{name}.png" for n in (1, 2) for name in ("t1", "flair")], ["p1.png", "p2.png"])
    assert dataset.channels == ("T1", "FLAIR")
    assert [path.name for path in dataset.cases[0].images] == ["p1_t1.png", "p1_flair.png"]
    explicit = open_dataset(DatasetSource(images=tmp_path / "images", labels=tmp_path / "labels"))
    assert explicit == dataset
    content["channel_names"] = {"0": "first", "1": "second"}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    assert "the files end in flair, t1, dataset.json names them first, second" in opened(tmp_path).notes


def test_a_case_without_one_named_channel(tmp_path: Path) -> None:
    images = [f"p{number}_{channel}.png" for number in range(3) for channel in ("t1", "t2")]
    dataset = plain(tmp_path, images[:-1], [f"p{number}.png" for number in range(3)])
    assert [(item.case, item.kind) for item in dataset.mismatches] == [("p2", "missing-channel")]
    assert ids(dataset) == ["p0", "p1"]


def test_matched_by_leading_number(tmp_path: Path) -> None:
    images = [f"{number}_training.tif" for number in (21, 22, 3)]
    dataset = plain(tmp_path, images, [f"{number}_manual1.gif" for number in (21, 22, 3)])
    assert [(case.id, case.label.name if case.label else "") for case in dataset.cases] == [
        ("21_training", "21_manual1.gif"),
        ("22_training", "22_manual1.gif"),
        ("3_training", "3_manual1.gif"),
    ]
    assert "labels matched to images by number, such as 21_training.tif ↔ 21_manual1.gif" in dataset.notes


def test_matched_by_several_differing_numbers(tmp_path: Path) -> None:
    names = [(1, 1), (1, 2), (2, 1)]
    dataset = plain(
        tmp_path, [f"pat{a}_sl{b}_v2.png" for a, b in names], [f"gt_{a:02d}_{b:02d}_v7.png" for a, b in names]
    )
    assert [case.label.name if case.label else "" for case in dataset.cases] == [
        "gt_01_01_v7.png",
        "gt_01_02_v7.png",
        "gt_02_01_v7.png",
    ]


def test_matched_without_common_words(tmp_path: Path) -> None:
    dataset = plain(tmp_path, ["img_anna.png", "img_ben.png"], ["mask_anna_v.png", "mask_ben_v.png"])
    assert [(case.id, case.label.name if case.label else "") for case in dataset.cases] == [
        ("anna", "mask_anna_v.png"),
        ("ben", "mask_ben_v.png"),
    ]


def test_numbers_do_not_match_what_they_should_not(tmp_path: Path) -> None:
    """One image too many: nothing is guessed, the closest name is said."""
    dataset = plain(
        tmp_path, ["liver_1.png", "liver_2.png", "liver_33.png"], ["liver_1.png", "liver_2.png", "liver_3.png"]
    )
    assert ids(dataset) == ["liver_1", "liver_2"]
    assert [item.kind for item in dataset.mismatches] == ["label-without-image", "image-without-label"]
    assert "closest: liver_33.png" in dataset.mismatches[0].found


def test_nothing_goes_together(tmp_path: Path) -> None:
    with pytest.raises(
        DatasetError, match=r"no image goes with any label: .*images holds anna.png; .*labels holds ben"
    ):
        plain(tmp_path, ["anna.png"], ["ben.png"])


def test_two_files_of_one_name_and_surplus_files(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "Thumbs.db").write_text("")
    (tmp_path / "images" / "readme.txt").write_text("")
    (tmp_path / "images" / ".DS_Store").write_text("")
    dataset = plain(tmp_path, ["a.png", "b.png"], ["a.png", "b.png"])
    assert dataset.notes == (f"1 files of unknown format in {tmp_path / 'images'} passed over: Thumbs.db",)
    flat(tmp_path / "images" / "a.tif")
    with pytest.raises(DatasetError, match="have the same name but for the ending"):
        opened(tmp_path)


def test_colours_are_named(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "images").mkdir(exist_ok=True)
        Pillow.fromarray(np.zeros((3, 4, 3), np.uint8)).save(tmp_path / "images" / f"{name}.png")
        flat(tmp_path / "labels" / f"{name}.png")
    assert opened(tmp_path).channels == ("red", "green", "blue")


def test_dicom_folders_are_cases(tmp_path: Path) -> None:
    for case in ("anna", "ben"):
        image = sitk.GetImageFromArray(np.zeros((1, 3, 4), np.int16))
        image.SetMetaData("0008|0060", "CT")
        (tmp_path / "images" / case / "series").mkdir(parents=True)
        sitk.WriteImage(image, str(tmp_path / "images" / case / "series" / "1.dcm"))
        put(tmp_path / "labels" / f"{case}.nii.gz", (1, 3, 4))
    (tmp_path / "images" / "notes").mkdir()
    dataset = opened(tmp_path)
    assert (ids(dataset), dataset.channels, dataset.file_ending) == (["anna", "ben"], ("CT",), ".dcm")
    assert read_case(dataset.cases[0])[0].shape == (1, 3, 4)


def test_dataset_json_beside_plain_folders(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"cell": 255}, "groups": {"a": "x", "z": "x"}}))
    dataset = plain(tmp_path, ["a.png", "b.png"], ["a.png", "b.png"])
    assert dataset.labels is not None
    assert dataset.labels.values == (0, 255)
    assert [case.group for case in dataset.cases] == ["x", None]
    assert "groups name 1 cases that the dataset does not have: z" in dataset.notes


# ------------------------------------------------------------------------------------------- nothing recognised


def test_nothing_recognised_says_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    message = r"Looked for dataset.json .* images/ and labels/, and one CSV table; found pictures/. Give --images DIR"
    with pytest.raises(DatasetError, match=message):
        opened(tmp_path)
    with pytest.raises(DatasetError, match="does not exist"):
        opened(tmp_path / "gone")
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(DatasetError, match="is a file, but no table"):
        opened(tmp_path / "a.txt")
    with pytest.raises(DatasetError, match="no dataset is named"):
        open_dataset(DatasetSource())
    with pytest.raises(DatasetError, match="is given for both images and labels"):
        open_dataset(DatasetSource(images=tmp_path, labels=tmp_path))
    with pytest.raises(DatasetError, match="is no folder"):
        open_dataset(DatasetSource(images=tmp_path / "gone", labels=tmp_path))
    with pytest.raises(DatasetError, match="holds no images"):
        open_dataset(DatasetSource(images=tmp_path / "pictures", labels=tmp_path))


# ------------------------------------------------------------------------------------------- real folders


@pytest.mark.data
def test_real_folders(data_folder: Path) -> None:
    hippocampus = opened(data_folder / "hippocampus")
    assert (len(hippocampus.cases), len(hippocampus.test_cases), hippocampus.channels) == (208, 6, ("MRI",))
    assert not hippocampus.mismatches
    drive = data_folder / "drive_retina" / "training"
    retina = open_dataset(DatasetSource(images=drive / "images", labels=drive / "1st_manual"))
    assert (retina.name, retina.channels, len(retina.cases)) == ("drive_retina", ("red", "green", "blue"), 20)
    assert all(case.label is not None and case.label.name[:2] == case.id[:2] for case in retina.cases)
    membranes = data_folder / "isbi2012_em"
    given = DatasetSource(
        images=membranes / "train" / "image", labels=membranes / "train" / "label", test=membranes / "test"
    )
    assert open_dataset(given).cases == opened(membranes).cases
    assert (open_dataset(given).name, len(open_dataset(given).test_cases)) == ("isbi2012_em", 30)
    assert len(opened(data_folder / "dsb2018_nuclei").cases) == 244
