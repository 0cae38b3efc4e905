"""The fingerprint is nnU-Net's; it is measured in one reading with the check, and bounded in memory."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from organ_cases import NUM_CASES, make_organs, measured, opened

from autoseg.data import check as check_module
from autoseg.data.check import check_dataset
from autoseg.errors import DatasetError
from autoseg.preprocessing import fingerprinting
from autoseg.preprocessing.cropping import nonzero_box
from autoseg.preprocessing.fingerprinting import (
    CaseMeasure,
    check_and_measure,
    fingerprint_dataset,
    intensities,
    measure_case,
)
from planners import records
from planners.fingerprint import Fingerprint
from planners.labels import LabelClass, Labels


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four cases of one channel in a frame of zeros, with a label of two classes and an ignored corner."""
    return make_organs(tmp_path)


# ------------------------------------------------------------------------------------------------------------- facts


def test_what_is_measured(root: Path) -> None:
    fingerprint = measured(root)
    assert fingerprint.dataset == "organs"
    assert fingerprint.case_ids == ("c0", "c1", "c2", "c3")
    assert fingerprint.num_cases == NUM_CASES
    assert fingerprint.spacings_mm[1] == pytest.approx((3.0, 0.6, 0.5))
    assert fingerprint.shapes == tuple((7, 8 + case, 9) for case in range(NUM_CASES))
    fractions = [7 * (8 + case) * 9 / (8 * (10 + case) * 12) for case in range(NUM_CASES)]
    assert fingerprint.cropped_fraction == pytest.approx(np.median(fractions))
    assert fingerprint.class_voxels[0] == (8 * 10 * 12 - 100 - 3, 97, 3)
    image = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(root / "imagesTr/c2_0000.nii.gz")))
    ((percentiles,),) = fingerprint.image_percentiles[2:3]
    np.testing.assert_allclose(percentiles, np.percentile(image[image != 0], (5, 25, 50, 75, 95)), rtol=1e-4)
    (channel,) = fingerprint.channels
    assert channel.name == "CT"
    assert records.from_json(Fingerprint, json.loads(records.dumps(fingerprint))) == fingerprint


def test_intensities_are_of_the_foreground_without_ignored_voxels(root: Path) -> None:
    values = []
    for case in range(NUM_CASES):
        image = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(root / f"imagesTr/c{case}_0000.nii.gz")))
        label = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(root / f"labelsTr/c{case}.nii.gz")))
        values.append(image[(label == 3) | (label == 7)])
    statistics = measured(root).channels[0].intensities
    assert statistics is not None
    together = np.concatenate(values)  # every case has 100 foreground voxels, so the weights are equal
    assert statistics.mean == pytest.approx(together.mean())
    assert statistics.std == pytest.approx(together.std())
    assert (statistics.minimum, statistics.maximum) == (together.min(), together.max())
    assert statistics.median == pytest.approx(np.median(together), rel=0.01)
    assert statistics.percentile_99_5 == pytest.approx(np.percentile(together, 99.5), rel=0.01)


def test_labels_that_are_not_declared_are_measured_too(root: Path) -> None:
    declared = measured(root)
    (root / "dataset.json").write_text(json.dumps({"channel_names": {"0": "CT"}}))
    fingerprint = measured(root)
    assert fingerprint.labels.values == (0, 3, 7, 9)
    assert fingerprint.shapes == declared.shapes
    assert fingerprint.class_voxels[0] == (*declared.class_voxels[0], 3)


def test_background_of_another_value(root: Path, tmp_path: Path) -> None:
    """Without declared labels and without a 0, the smallest value is the background; that is known at the end only."""
    for case in range(NUM_CASES):
        path = root / f"labelsTr/c{case}.nii.gz"
        image = SimpleITK.ReadImage(str(path))
        label = SimpleITK.GetImageFromArray(np.where(SimpleITK.GetArrayFromImage(image) == 3, 5, 2).astype(np.uint8))
        label.CopyInformation(image)
        SimpleITK.WriteImage(label, str(path))
    declared = {"background": 2, "organ": 5}
    (root / "dataset.json").write_text(json.dumps({"channel_names": {"0": "CT"}}))
    found = measured(root, tmp_path / "kept")
    assert found.labels.values == (2, 5)
    labels = Labels(classes=tuple(LabelClass(name=name, value=value) for name, value in declared.items()))
    again = fingerprint_dataset(opened(root), labels)
    assert again.channels[0].intensities == found.channels[0].intensities
    assert again.class_voxels == found.class_voxels


def test_a_problem_that_stops_gives_no_fingerprint(root: Path) -> None:
    (root / "labelsTr/c1.nii.gz").write_bytes(b"")
    result, fingerprint = check_and_measure(opened(root), None)
    assert fingerprint is None
    assert [(item.kind, item.case) for item in result.problems] == [("unreadable-file", "c1")]
    with pytest.raises(DatasetError, match="case c1: "):
        fingerprint_dataset(opened(root), measured_labels())


def measured_labels() -> Labels:
    return Labels(classes=(LabelClass(name="background", value=0), LabelClass(name="organ", value=3)))


def test_the_check_says_the_same_with_and_without_measuring(root: Path) -> None:
    image = SimpleITK.ReadImage(str(root / "imagesTr/c2_0000.nii.gz"))
    SimpleITK.WriteImage(image * 0 + 5, str(root / "imagesTr/c2_0000.nii.gz"))
    result, fingerprint = check_and_measure(opened(root), None, threads=1)
    assert fingerprint is not None
    assert result == check_dataset(opened(root), threads=1)
    assert [item.kind for item in result.problems] == ["constant-image"]


def test_places_of_classes_and_axes(root: Path) -> None:
    fingerprint = measured(root)
    label = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(root / "labelsTr/c2.nii.gz")))
    assert fingerprint.orientations == ("SPL",) * NUM_CASES
    background, organ, vessel = fingerprint.class_centers[2]
    assert background is None
    for value, center in ((3, organ), (7, vessel)):
        expected = (np.argwhere(label == value).mean(axis=0) + 0.5) / label.shape
        assert center == pytest.approx(expected, abs=1e-4)


def test_places_are_counted_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    label = np.random.default_rng(0).choice([-3, 0, 2, 9], size=(5, 6, 7))
    whole, _ = measure_case(np.ones((1, 5, 6, 7)), label, (0, 9), (1.0, 1.0, 1.0))
    monkeypatch.setattr(fingerprinting, "PART_VOXELS", 10)
    parts, _ = measure_case(np.ones((1, 5, 6, 7)), label.transpose(0, 1, 2), (0, 9), (1.0, 1.0, 1.0))
    assert parts == whole
    assert [value for value, _ in whole.centers] == [-3, 2]
    for value, center in whole.centers:
        assert center == pytest.approx((np.argwhere(label == value).mean(axis=0) + 0.5) / label.shape, abs=1e-4)


def test_values_spread_too_wide_have_no_places() -> None:
    label = np.zeros((2, 2, 2), dtype=np.int64)
    label[0, 0] = 1, 10**9
    assert measure_case(np.ones((1, 2, 2, 2)), label, (0,), (1.0, 1.0, 1.0))[0].centers == ()


def test_ignored_voxels_and_their_value_change_nothing(root: Path) -> None:
    """Neither the image below them, nor the value that marks them, nor whatever label lay there before.

    All but the percentiles of the whole image: new images, which are compared with them, have no ignored voxels.
    """
    before = measured(root)
    for case in range(NUM_CASES):
        for path in (root / f"imagesTr/c{case}_0000.nii.gz", root / f"labelsTr/c{case}.nii.gz"):
            image = SimpleITK.ReadImage(str(path))
            array = SimpleITK.GetArrayFromImage(image).astype(np.int16)
            array[7, 8, 9:] = 3000 if "images" in path.parent.name else -5
            changed = SimpleITK.GetImageFromArray(array)
            changed.CopyInformation(image)
            SimpleITK.WriteImage(changed, str(path))
    labels = {"background": 0, "organ": 3, "vessel": 7, "ignore": -5}
    (root / "dataset.json").write_text(json.dumps({"channel_names": {"0": "CT"}, "labels": labels}))
    after = measured(root)
    assert after.labels.ignore == -5
    assert after.image_percentiles != before.image_percentiles
    same = {"labels": before.labels, "image_percentiles": before.image_percentiles}
    assert dataclasses.replace(after, **same) == before


def test_what_was_not_annotated_is_not_counted_as_absent(root: Path) -> None:
    for case in (0, 1):
        image = SimpleITK.ReadImage(str(root / f"labelsTr/c{case}.nii.gz"))
        array = SimpleITK.GetArrayFromImage(image)
        array[array == 7] = 0
        changed = SimpleITK.GetImageFromArray(array)
        changed.CopyInformation(image)
        SimpleITK.WriteImage(changed, str(root / f"labelsTr/c{case}.nii.gz"))
    content = json.loads((root / "dataset.json").read_text())
    (root / "dataset.json").write_text(json.dumps({**content, "labels_present": {"c0": ["organ"]}}))
    fingerprint = measured(root)
    assert fingerprint.class_voxels[0][1:] == (97, None)
    assert fingerprint.class_voxels[1][1:] == (97, 0)
    assert records.from_json(Fingerprint, json.loads(records.dumps(fingerprint))) == fingerprint


# ------------------------------------------------------------------------------------------------------------ bounds


def test_the_sample_is_bounded_and_drawn_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.arange(2 * 20**3, dtype=np.float32).reshape(2, 20, 20, 20) + 1
    foreground = np.ones((20, 20, 20), dtype=bool)
    measure, sample = measure_case(image, foreground, (0,), (1.0, 1.0, 1.0), max_samples=1000)
    assert sample.shape == (2, 1000)
    assert sample.dtype == np.float32
    assert measure.foreground_voxels == 8000
    assert len(np.unique(sample[0])) == 1000
    np.testing.assert_array_equal(sample[1] - sample[0], 8000)
    assert sample[0].mean() == pytest.approx(4000, rel=0.05)
    np.testing.assert_array_equal(measure_case(image, foreground, (0,), (1.0, 1.0, 1.0), max_samples=1000)[1], sample)


def test_the_sample_per_case_follows_the_number_of_cases(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fingerprinting, "SAMPLES_PER_CHANNEL", 40 * NUM_CASES)
    fingerprint = measured(root, tmp_path / "kept")
    assert {np.load(path).shape for path in (tmp_path / "kept").glob("*.npy")} == {(1, 40)}
    assert fingerprint.class_voxels[0][1:] == (97, 3)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    shape=st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 6)),
    num_channels=st.integers(1, 2),
    density=st.floats(0, 1),
)
def test_shape_after_cropping_is_that_of_preprocessing(
    seed: int, shape: tuple[int, int, int], num_channels: int, density: float
) -> None:
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(num_channels, *shape)) * (rng.random((num_channels, *shape)) < density)
    measure, _ = measure_case(image, np.zeros(shape, dtype=bool), (0,), (1.0, 1.0, 1.0))
    assert measure.shape == nonzero_box(image)[1].shape
    facts = check_module.check_case("a", None, image)
    assert facts.image is not None
    assert facts.image.content_voxels == np.prod(measure.shape)


def test_non_finite_voxels_count_as_the_minimum() -> None:
    image = np.arange(1.0, 28.0).reshape(1, 3, 3, 3)
    image[0, 0, 0, :3] = np.nan, np.inf, -np.inf
    _, sample = measure_case(image, np.ones((3, 3, 3), dtype=bool), (0,), (1.0, 1.0, 1.0))
    assert sample.min() == 4
    assert sample.max() == 27


def test_a_measure_is_a_record() -> None:
    measure, _ = measure_case(np.ones((1, 2, 3, 4)), np.ones((2, 3, 4), dtype=bool), (0,), (1.0, 2.0, 3.0))
    assert records.from_json(CaseMeasure, json.loads(records.dumps(measure))) == measure
    assert measure.cropped_fraction == 1


# -------------------------------------------------------------------------------------------------------- statistics


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), sizes=st.lists(st.integers(0, 400), min_size=1, max_size=5))
def test_statistics_equal_those_of_equally_large_draws(seed: int, sizes: list[int]) -> None:
    """As nnU-Net draws: the same number of every case, with replacement; here every value repeated often enough."""
    rng = np.random.default_rng(seed)
    samples = [rng.normal(rng.normal(), 1, size=size).astype(np.float32) for size in sizes]
    filled = [sample for sample in samples if len(sample)]
    statistics = intensities(samples)
    if not filled:
        assert statistics is None
        return
    assert statistics is not None
    drawn = np.concatenate([np.quantile(sample, np.linspace(0, 1, 4000), method="inverted_cdf") for sample in filled])
    spread = float(drawn.std()) + 1e-3
    assert statistics.mean == pytest.approx(drawn.mean(), abs=0.01 * spread)
    assert statistics.std == pytest.approx(drawn.std(), rel=0.02, abs=1e-3)
    assert (statistics.minimum, statistics.maximum) == (np.float32(drawn.min()), np.float32(drawn.max()))
    for value, level in (
        (statistics.percentile_00_5, 0.5),
        (statistics.median, 50),
        (statistics.percentile_99_5, 99.5),
    ):
        below, above = np.mean(drawn < value - 1e-6), np.mean(drawn <= value + 1e-6)
        slack = 1 / min(len(sample) for sample in filled)  # percentiles between two values of the smallest case
        assert below - slack <= level / 100 <= above + slack


@pytest.mark.data
def test_agrees_with_nnunet_on_hippocampus(data_folder: Path, golden_folder: Path) -> None:
    """Spacings and shapes exactly; intensities within five standard errors of nnU-Net's random drawing.

    nnU-Net drew 208 × 480,769 intensities with replacement; here every foreground voxel counts with the same
    expectation. So only its drawing's error remains: std / sqrt(10⁸) = 6e-5 std for the mean, a relative 6e-4 for the
    standard deviation at a kurtosis below 100, and the same ranks to within 1e-4 for median and percentiles.
    """
    golden = json.loads((golden_folder / "nnunet_hippocampus/model/dataset_fingerprint.json").read_text())
    _, fingerprint = check_and_measure(opened(data_folder / "hippocampus"), None)
    assert fingerprint is not None
    assert [list(shape) for shape in fingerprint.shapes] == golden["shapes_after_crop"]
    np.testing.assert_allclose(fingerprint.spacings_mm, golden["spacings"], rtol=1e-6)
    assert fingerprint.cropped_fraction == golden["median_relative_size_after_cropping"]
    expected, found = golden["foreground_intensity_properties_per_channel"]["0"], fingerprint.channels[0].intensities
    assert found is not None
    assert found.mean == pytest.approx(expected["mean"], abs=5 * expected["std"] / 1e4)
    assert found.std == pytest.approx(expected["std"], rel=5 * 6e-4)
    assert found.median == pytest.approx(expected["median"], rel=1e-3)
    assert (found.minimum, found.maximum) == (expected["min"], expected["max"])
    assert found.percentile_00_5 == pytest.approx(expected["percentile_00_5"], rel=1e-3)
    assert found.percentile_99_5 == pytest.approx(expected["percentile_99_5"], rel=1e-3)
