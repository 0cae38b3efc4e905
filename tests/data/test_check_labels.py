"""A label file is measured as it is: values, fractions, and whether it looks like an image or like object numbers."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.data import check_labels
from autoseg.data.check_labels import measure_label
from autoseg.data.io import open_image, open_label


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    dtype=st.sampled_from(["u1", "i2", "i4", "f4", "f8"]),
    low=st.integers(0, 100),
    spread=st.sampled_from([1, 5, 15]),
)
def test_values_are_counted(seed: int, dtype: str, low: int, spread: int) -> None:
    label = np.random.default_rng(seed).integers(low, low + spread, size=(3, 4, 5)).astype(dtype)
    values, counts = np.unique(label, return_counts=True)
    facts = measure_label(label)
    assert facts.values == tuple(zip(values.astype(int).tolist(), counts.tolist(), strict=True))
    assert facts.fractional_voxels == 0
    assert facts.num_values == len(values)


def test_values_far_apart_are_counted() -> None:
    label = np.array([-5, 2**40, 2**40, 0]).reshape(1, 2, 2)
    assert measure_label(label).values == ((-5, 1), (0, 1), (2**40, 2))


def test_counting_in_parts_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    label = np.random.default_rng(0).integers(0, 9, size=(5, 6, 7))
    whole = measure_label(label)
    monkeypatch.setattr(check_labels, "PART_VOXELS", 11)
    assert measure_label(label) == whole


def test_fractions_and_non_finite_values() -> None:
    label = np.array([0, 1, 1, 0.25, np.nan, np.inf, 0.25, 2]).reshape(1, 2, 4)
    facts = measure_label(label)
    assert facts.values == ((0, 1), (1, 2), (2, 1))
    assert facts.fractional_voxels == 4
    assert facts.fractional_examples == ("0.25", "inf", "nan")


@pytest.mark.data
def test_kinds_of_real_files(data_folder: Path) -> None:
    maps = [
        "stardist_mini/mask2d.tif", "stardist_mini/mask3d.tif", "totalseg_ct_pseudo/example_seg.nii.gz",
        "totalseg_ct_pseudo/example_seg_fast_force_split.nii.gz", "totalseg_ct_pseudo/example_seg_mr.nii.gz",
        "brats2015_deepmedic/train/brats_2013_pat0005_1/OTMultiClass.nii.gz",
        "drive_retina/training/1st_manual/21_manual1.gif",
    ]  # fmt: skip
    maps += [str(path) for path in sorted((data_folder / "dsb2018_nuclei" / "labels").glob("*"))[::12]]
    instances = [
        path for path in maps[:2] if measure_label(open_label(data_folder / path).read()[0]).looks_like_instances
    ]
    assert instances == maps[:2]
    for path in maps:
        facts = measure_label(open_label(data_folder / path).read()[0])
        assert not facts.looks_like_image, path
        assert not facts.looks_like_instances or path in instances or "dsb2018" in path, path
    images = [
        "hippocampus/imagesTr/hippocampus_001_0000.nii.gz", "hippocampus/imagesTr/hippocampus_058_0000.nii.gz",
        "isbi2012_em/train/image/1.png", "stardist_mini/img2d.tif", "stardist_mini/img3d.tif",
        "totalseg_ct_pseudo/example_ct_sm.nii.gz", "totalseg_ct_pseudo/example_mr_sm.nii.gz",
        "pyradiomics_cases/brain1_image.nrrd", "sct_cord_mri/t2s/t2s_uncropped.nii.gz",
        "brats2015_deepmedic/train/brats_2013_pat0005_1/Flair_subtrMeanDivStd.nii.gz",
    ]  # fmt: skip
    images += [str(path) for path in sorted((data_folder / "dsb2018_nuclei" / "images").glob("*"))[::24]]
    for path in images:
        assert measure_label(open_image([data_folder / path]).read()[0]).looks_like_image, path
