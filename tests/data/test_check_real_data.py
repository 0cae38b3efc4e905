"""Of real datasets only what is truly remarkable is said."""

from pathlib import Path

import pytest
import SimpleITK

from autoseg.data.check import check_dataset
from autoseg.data.dataset import DatasetSource, open_dataset


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
    "stardist_mini": ([("cells", "img2d.tif", "mask2d.tif")], set()),
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
    result = check_dataset(open_dataset(DatasetSource(dataset=tmp_path)))
    assert {(item.kind, item.case) for item in result.problems} == expected, result.text()
    assert not result.stops
