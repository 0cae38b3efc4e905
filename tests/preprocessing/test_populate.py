"""A whole dataset into the store: what is missing or changed is made, the rest is kept, faults are listed together."""

import dataclasses
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
from scipy import ndimage

from autoseg.data.dataset import Case, Dataset, DatasetSource, open_dataset
from autoseg.data.io import image_from_array
from autoseg.errors import DatasetError
from autoseg.preprocessing import label_resampling, populate
from autoseg.preprocessing.locations import sample_locations
from autoseg.preprocessing.populate import estimate_bytes, populate_store, preprocessing_choices, store_name
from autoseg.preprocessing.preprocess import preprocess_case
from planners.fingerprint import Intensities
from planners.labels import LabelClass, Labels
from planners.plan import Input, Resampling
from planners.records import PlanError

LABELS = Labels(
    classes=tuple(LabelClass(name=name, value=value) for name, value in (("background", 0), ("x", 127), ("y", 255)))
)


def write_image(path: Path, array: np.ndarray) -> None:
    image = SimpleITK.GetImageFromArray(array)
    image.SetSpacing((1.5, 1.0, 2.0))
    SimpleITK.WriteImage(image, str(path))


def make_files(folder: Path, number: int) -> Case:
    rng = np.random.default_rng(number)
    images, label = folder / f"case_{number}_0000.nii.gz", folder / f"case_{number}.nrrd"
    write_image(images, rng.integers(1, 999, size=(6, 7, 8)).astype(np.int16))
    write_image(label, rng.choice([0, 127, 255], size=(6, 7, 8)).astype(np.uint8))
    return Case(id=f"case_{number}", images=(images,), label=label)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    cases = tuple(make_files(tmp_path, number) for number in range(4))
    return Dataset(
        name="made",
        root=tmp_path,
        layout="by hand",
        channels=("image",),
        labels=LABELS,
        cases=cases,
        file_ending=".nii.gz",
    )


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the shapes of work done: one entry per case that was preprocessed."""
    calls: list[str] = []

    def counted(*arguments: Any, **named: Any) -> Any:
        calls.append("case")
        return preprocess_case(*arguments, **named)

    monkeypatch.setattr(populate, "preprocess_case", counted)
    return calls


Maker = Callable[..., Any]


def test_store_holds_what_preprocess_case_gives(dataset: Dataset, tmp_path: Path, make_plan: Maker) -> None:
    plan, configuration = make_plan((2.0, 1.0, 1.0), labels=LABELS, axis_order=(2, 0, 1))
    store = populate_store(dataset, plan, configuration, tmp_path / "store", threads=2)
    for case in dataset.cases:
        image = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(case.images[0])))[None]
        label = LABELS.encode(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(case.label))))
        expected = preprocess_case(image, (2.0, 1.0, 1.5), plan, configuration, label)
        stored = store.open(case.id)
        assert stored.grid == expected.grid
        np.testing.assert_array_equal(stored.image, expected.image_CZYX)
        np.testing.assert_array_equal(stored.labels, expected.labels_LZYX)
        assert stored.present_classes == (1, 2)


def test_second_time_does_nothing_and_a_change_rebuilds_its_case_alone(
    dataset: Dataset, tmp_path: Path, make_plan: Maker, made: list[str]
) -> None:
    plan, configuration = make_plan(labels=LABELS)
    folder = tmp_path / "store"
    before = populate_store(dataset, plan, configuration, folder)
    assert len(made) == 4
    digests = [before.open(case.id).digest for case in dataset.cases]
    assert len(set(digests)) == 4
    populate_store(dataset, plan, configuration, folder)
    assert len(made) == 4

    os.utime(dataset.cases[0].images[0], ns=(5, 5))  # touched, not changed
    touched = populate_store(dataset, plan, configuration, folder)
    assert len(made) == 4
    record = touched.record("case_0")
    assert record is not None
    assert record.files[0].modified_ns == 5, "the new time is kept, so that the file is not read a third time"

    assert dataset.cases[2].label is not None
    write_image(dataset.cases[2].label, np.full((6, 7, 8), 127, np.uint8))
    after = populate_store(dataset, plan, configuration, folder)
    assert len(made) == 5
    changed = [after.open(case.id).digest != old for case, old in zip(dataset.cases, digests, strict=True)]
    assert changed == [False, False, True, False]
    assert after.open("case_2").present_classes == (1,)


def test_damaged_entry_is_rebuilt(dataset: Dataset, tmp_path: Path, make_plan: Maker, made: list[str]) -> None:
    plan, configuration = make_plan(labels=LABELS)
    folder = tmp_path / "store"
    populate_store(dataset, plan, configuration, folder)
    (folder / "case_1.image.npy").write_bytes(b"half")
    (folder / "case_3.json").write_text("{")
    left = folder / ".case_0.image.npy.abcd_123.tmp"
    left.write_bytes(b"left by a kill")
    os.utime(left, (0, 0))  # a file that was made a moment ago may be somebody's
    store = populate_store(dataset, plan, configuration, folder)
    assert len(made) == 6
    assert all(store.open(case.id) for case in dataset.cases)
    assert not list(folder.glob(".*"))


def test_only_what_shapes_the_arrays_counts(make_plan: Maker) -> None:
    plan, configuration = make_plan()
    base = preprocessing_choices(plan, configuration)

    def differs(**fields: Any) -> bool:
        changed = dataclasses.replace(configuration, **fields)
        return preprocessing_choices(plan, changed) != base

    assert not differs(batch_size=7, patch_size=(16, 16, 16), output_size=(16, 16, 16), estimated_bytes=9)
    assert not differs(training=dataclasses.replace(configuration.training, epochs=3))
    assert not differs(resampling=Resampling(logits_order=0))
    assert differs(resampling=Resampling(image_order=1))
    assert differs(spacing_mm=(1.0, 1.0, 1.1))
    assert differs(normalization=("none",))
    assert differs(use_mask_for_norm=(True,))
    assert preprocessing_choices(dataclasses.replace(plan, axis_order=(1, 0, 2)), configuration) != base
    assert preprocessing_choices(make_plan(labels=LABELS)[0], configuration) != base


def test_intensities_count_only_where_they_are_used(make_plan: Maker) -> None:
    first, second = (
        Intensities(mean=mean, median=0.0, std=1.0, minimum=0.0, maximum=1.0, percentile_00_5=0.0, percentile_99_5=1.0)
        for mean in (0.0, 1.0)
    )
    for name, counts in (("ct", True), ("zscore", False)):
        one, two = (make_plan(intensities=(item,), normalization=(name,)) for item in (first, second))
        assert (preprocessing_choices(*one) != preprocessing_choices(*two)) is counts


def test_all_faults_are_listed_and_the_other_cases_done(dataset: Dataset, tmp_path: Path, make_plan: Maker) -> None:
    dataset.cases[0].images[0].write_bytes(b"no image")
    labels = [case.label for case in dataset.cases]
    assert labels[1] is not None
    assert labels[3] is not None
    write_image(labels[1], np.full((6, 7, 8), 9, np.uint8))
    write_image(labels[3], np.zeros((6, 7, 9), np.uint8))
    plan, configuration = make_plan(labels=LABELS)
    with pytest.raises(DatasetError) as caught:
        populate_store(dataset, plan, configuration, tmp_path / "store")
    lines = str(caught.value).splitlines()
    assert lines[0] == "preprocessing 3d_fullres: 3 of 4 cases failed, the others are done"
    assert lines[1].startswith("  case case_0: ")
    assert "label value 9 is not declared" in lines[2]
    assert "case_1.nrrd" in lines[2]
    assert "label has shape 6×7×9, image has 6×7×8" in lines[3]
    assert (tmp_path / "store" / "case_2.json").exists()
    assert not (tmp_path / "store" / "case_1.json").exists()


def test_memory_limit_smaller_than_a_case_still_finishes(dataset: Dataset, tmp_path: Path, make_plan: Maker) -> None:
    plan, configuration = make_plan(labels=LABELS)
    store = populate_store(dataset, plan, configuration, tmp_path / "store", threads=3, host_bytes=1)
    assert all(store.open(case.id) for case in dataset.cases)


@pytest.mark.parametrize("spacing", [(1.5, 1.0, 1.0), (0.7, 0.6, 0.9), (2.0, 2.0, 2.0), (0.5, 1.0)])
@pytest.mark.parametrize(("num_channels", "dtype"), [(1, "int16"), (3, "float64")])
@pytest.mark.parametrize("rough", [False, True])
def test_estimate_bounds_what_numpy_allocates(
    spacing: tuple[float, ...],
    num_channels: int,
    dtype: str,
    rough: bool,
    make_plan: Maker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # What does not depend on the case's size is made small, so that it hides nothing.
    monkeypatch.setattr(label_resampling, "CHUNK_VOXELS", label_resampling.CHUNK_VOXELS >> 6)
    monkeypatch.setattr(populate, "SCORING_BYTES", populate.SCORING_BYTES >> 6)
    shape, rng = (24, 60, 60), np.random.default_rng(0)
    array = rng.integers(0, 99, size=(num_channels, *shape)).astype(dtype)
    smooth = ndimage.gaussian_filter(rng.normal(size=shape), 4) > 0
    annotated = (rng.integers(0, 2, size=shape) if rough else smooth).astype(np.uint8) * 127
    plan, configuration = make_plan(
        spacing, labels=LABELS, intensities=(None,) * num_channels, use_mask_for_norm=(True,) * num_channels
    )
    image, label = image_from_array(array, (1.0, 1.0, 1.0)), image_from_array(annotated, (1.0, 1.0, 1.0))
    tracemalloc.start()
    case = preprocess_case(
        image.read().astype(np.float32), (1.0, 1.0, 1.0), plan, configuration, LABELS.encode(label.read()[0])
    )
    assert case.labels_LZYX is not None
    sample_locations(case.labels_LZYX[0], LABELS)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= estimate_bytes(image, label, plan, configuration) < 4 * peak


@pytest.mark.data
def test_real_cases_from_files_as_they_come(data_folder: Path, tmp_path: Path, make_plan: Maker) -> None:
    everything = open_dataset(DatasetSource(dataset=data_folder / "hippocampus"))
    dataset = dataclasses.replace(everything, cases=everything.cases[:6])
    assert dataset.labels is not None
    plan, configuration = make_plan(labels=dataset.labels)
    store = populate_store(dataset, plan, configuration, tmp_path)
    for case in dataset.cases:
        stored = store.open(case.id)
        assert stored.present_classes == (1, 2)
        assert abs(float(stored.image.mean())) < 1e-3


def test_cases_that_left_the_dataset_leave_the_store(
    dataset: Dataset, make_plan: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan, configuration = make_plan(labels=LABELS)
    store = populate_store(dataset, plan, configuration, tmp_path / "store")
    fewer = dataclasses.replace(dataset, cases=dataset.cases[1:])
    populate_store(fewer, plan, configuration, tmp_path / "store")
    assert store.record("case_0") is None
    assert len(list((tmp_path / "store").iterdir())) == 3 * 4
    assert "1 case no longer in the dataset removed" in capsys.readouterr().err


def test_what_was_annotated_is_part_of_a_case(dataset: Dataset, make_plan: Any, tmp_path: Path) -> None:
    plan, configuration = make_plan(labels=LABELS)
    store = populate_store(dataset, plan, configuration, tmp_path / "store")
    before = [store.open(case.id).digest for case in dataset.cases]
    first = dataclasses.replace(dataset.cases[0], annotated_classes=(0, 2))
    populate_store(
        dataclasses.replace(dataset, cases=(first, *dataset.cases[1:])), plan, configuration, tmp_path / "store"
    )
    after = [store.open(case.id).digest for case in dataset.cases]
    assert [a == b for a, b in zip(before, after, strict=True)] == [False, True, True, True]
    assert store.open("case_0").annotated_classes == (0, 2)


def test_configurations_that_preprocess_alike_share_a_store(make_plan: Maker) -> None:
    plan, first = make_plan(labels=LABELS)
    coarse = dataclasses.replace(first, name="coarse", spacing_mm=(9.0, 9.0, 9.0))
    inputs = (*first.inputs, Input(kind="previous", name="coarse", channels=2))
    cascade = dataclasses.replace(first, name="cascade", inputs=inputs, previous="coarse", batch_size=7)
    plan = dataclasses.replace(plan, configurations=(coarse, first, cascade))
    assert [store_name(plan, name) for name in ("coarse", first.name, "cascade")] == ["coarse", first.name, first.name]
    other = dataclasses.replace(cascade, resampling=Resampling(image_order=1))
    plan = dataclasses.replace(plan, configurations=(coarse, first, other))
    assert store_name(plan, "cascade") == "cascade"
    with pytest.raises(PlanError, match="no configuration 'nothing'"):
        store_name(plan, "nothing")
