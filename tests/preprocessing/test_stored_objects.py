"""Ids of objects on their way into the store: resampled by the same vote, cropped, kept in a type that holds them."""

import dataclasses
import json
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK

from autoseg.data.dataset import Case, Dataset
from autoseg.data.io import image_from_array
from autoseg.data.label_layers import read_layers
from autoseg.errors import DatasetError
from autoseg.preprocessing import label_resampling, populate, preprocess
from autoseg.preprocessing.label_resampling import resample_label
from autoseg.preprocessing.locations import sample_locations
from autoseg.preprocessing.populate import estimate_bytes, populate_store, preprocessing_choices, store_name
from autoseg.preprocessing.preprocess import OUTSIDE, preprocess_case
from autoseg.preprocessing.store import Store
from planners import records
from planners.labels import LabelClass, Labels
from planners.plan import Configuration, Plan, Resampling, SizeScaling, Target

PlanMaker = Callable[..., tuple[Plan, Configuration]]
Shapes = Callable[..., np.ndarray]

ONE_KIND = Labels(
    classes=(LabelClass(name="background", value=0), LabelClass(name="cell", value=1)), instance_classes=("cell",)
)
TWO_KINDS = Labels(
    classes=tuple(
        LabelClass(name=name, value=value) for name, value in (("background", 0), ("cell", 10), ("vessel", 20))
    ),
    instance_classes=("cell",),
)


def made_image(ids: np.ndarray, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(100, 5, ids.shape)
    return (noise + 50 * (ids > 0)).astype(np.float32)[None]


@pytest.mark.parametrize("above", [0, 40_000])
@pytest.mark.parametrize(("spacing", "order"), [((0.8, 0.5), (0, 1, 2)), ((2.0, 1.0, 1.5), (2, 0, 1))])
def test_ids_are_resampled_like_any_label(
    above: int, spacing: tuple[float, ...], order: tuple[int, int, int], make_plan: PlanMaker, ellipses: Shapes
) -> None:
    ids = ellipses((10, 24, 28), 12, 5.0)
    ids = np.where(ids > 0, ids + above, 0)
    classes = (ids > 0).astype(np.int16)
    image = made_image(ids)
    image[:, :, :3] = 0  # cropped away, objects and all
    image[:, 4:6, 10:14, 20:] = 0  # a hole of zeros in the content, with background in it
    plan, configuration = make_plan(spacing, labels=ONE_KIND, axis_order=order, use_mask_for_norm=(True,))
    case = preprocess_case(image, (1.0, 1.0, 1.0), plan, configuration, np.stack([classes, ids]))
    plain = preprocess_case(image, (1.0, 1.0, 1.0), plan, configuration, classes)
    assert case.grid == plain.grid
    np.testing.assert_array_equal(case.image_CZYX, plain.image_CZYX)
    assert case.labels_LZYX is not None
    assert plain.labels_LZYX is not None
    np.testing.assert_array_equal(case.labels_LZYX[0], plain.labels_LZYX[0])
    assert plain.labels_LZYX.dtype == np.int8
    assert case.labels_LZYX.dtype == (np.int32 if above else np.int16)
    box = tuple(slice(*sides) for sides in case.grid.crop_box)
    part = ids.transpose(order)[box].astype(np.int32)
    grid = case.grid
    wanted = resample_label(part, grid.shape, grid.spacing_before_mm, grid.spacing_mm, configuration.resampling)
    np.testing.assert_array_equal(case.labels_LZYX[1], wanted)
    assert (case.labels_LZYX[0] == OUTSIDE).any()
    assert case.labels_LZYX[1].min() == 0


def test_ids_of_a_whole_image_are_resampled_within_the_time_of_classes(ellipses: Shapes) -> None:
    """Ten thousand ids and ten thousand disks of one class: only corners vote, whatever the number of ids."""
    grid = np.indices((400, 400)) // 4
    ids = np.where((np.indices((400, 400)) % 4 > 0).all(0), grid[0] * 100 + grid[1] + 1, 0)[None].astype(np.int32)
    assert len(np.unique(ids)) == 10_001
    times, peaks = [], []
    for label in (ids, (ids > 0).astype(np.int32)):
        tracemalloc.start()
        started = time.process_time()
        found = resample_label(label, (1, 510, 490), (1.0, 1.0, 1.0), (1.0, 0.8, 0.8), Resampling())
        times.append(time.process_time() - started)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        if label is ids:
            assert set(np.unique(found)) == set(np.unique(ids))
    assert peaks[0] < 1.3 * peaks[1]
    assert times[0] < 5 * times[1] + 0.2


def test_an_image_is_brought_to_the_common_size(
    make_plan: PlanMaker, ellipses: Shapes, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def scale(image: np.ndarray, spacing: tuple[float, ...], configuration: Configuration) -> float:
        asked.append((image.shape, spacing))
        return 1.0 if configuration.scaling is None else 2.0

    monkeypatch.setattr(preprocess, "image_scale", scale)
    ids = ellipses((3, 20, 24), 6, 4.0)
    label = np.stack([ids > 0, ids])
    for spacing, shape, finer in (
        ((1.0, 1.0), (3, 40, 48), (3.0, 0.5, 0.5)),
        ((3.0, 1.0, 1.0), (6, 40, 48), (1.5, 0.5, 0.5)),
    ):
        plan, configuration = make_plan(spacing, labels=ONE_KIND)
        plain = preprocess_case(made_image(ids), (3.0, 1.0, 1.0), plan, configuration, label)
        assert plain.grid.shape == ids.shape
        assert plain.grid.spacing_mm == (3.0, 1.0, 1.0)
        scaled = dataclasses.replace(configuration, scaling=SizeScaling(diameter_mm=9.0, weights=(1.0,)))
        case = preprocess_case(made_image(ids), (3.0, 1.0, 1.0), plan, scaled, label)
        assert case.grid.shape == shape == case.image_CZYX.shape[1:]
        assert case.grid.spacing_mm == finer
        assert preprocessing_choices(plan, scaled) != preprocessing_choices(plan, configuration)
        assert estimate_bytes(
            image_from_array(made_image(ids), (3.0, 1.0, 1.0)), None, plan, scaled
        ) > 4 * estimate_bytes(image_from_array(made_image(ids), (3.0, 1.0, 1.0)), None, plan, configuration) - 4 * (
            populate.SCORING_BYTES
        )
    assert asked[0] == ((1, *ids.shape), (3.0, 1.0, 1.0))


def test_stores_of_classes_keep_the_digest_of_older_programs(make_plan: PlanMaker) -> None:
    labels = Labels(classes=ONE_KIND.classes)
    plan, configuration = make_plan((2.0, 1.0, 1.0), labels=labels)
    old = preprocessing_choices(plan, configuration)
    assert records.digest(old) == "f1dbc2949803be28"
    objects = preprocessing_choices(dataclasses.replace(plan, labels=ONE_KIND), configuration)
    assert objects == {**old, "instances": ("cell",)}


def test_targets_of_one_plan_share_a_store(make_plan: PlanMaker) -> None:
    plan, first = make_plan(labels=ONE_KIND)
    flow = Target(name="flow", num_outputs=4, options={"dimensions": 3})
    second = dataclasses.replace(first, name="other", target=flow)
    third = dataclasses.replace(first, name="scaled", scaling=SizeScaling(diameter_mm=9.0, weights=(1.0,)))
    plan = dataclasses.replace(plan, configurations=(first, second, third))
    assert [store_name(plan, name) for name in (first.name, "other", "scaled")] == [first.name, first.name, "scaled"]


def test_other_size_features_make_rescaled_cases_anew(make_plan: PlanMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, plain = make_plan(labels=ONE_KIND)
    scaled = dataclasses.replace(plain, scaling=SizeScaling(diameter_mm=9.0, weights=(1.0,)))
    before = [preprocessing_choices(plan, item) for item in (plain, scaled)]
    monkeypatch.setattr(populate.size_features, "VERSION", 99)
    after = [preprocessing_choices(plan, item) for item in (plain, scaled)]
    assert before[0] == after[0]
    assert before[1] != after[1]


def write(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(exist_ok=True)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array), str(path))
    return path


@pytest.fixture
def dataset(tmp_path: Path, ellipses: Shapes) -> Dataset:
    """Three cases with ids far apart, and a map of classes in which the lowest object is a vessel."""
    cases = []
    for number in range(3):
        ids = ellipses((8, 18, 20), 7, 5.0, number)
        classes = np.where(ids == ids[ids > 0].min(), 20, np.where(ids > 0, 10, 0)).astype(np.uint8)
        name = f"case_{number}.nii.gz"
        cases.append(
            Case(
                id=f"case_{number}",
                images=(write(tmp_path / "images" / name, made_image(ids, number)[0]),),
                label=write(tmp_path / "labels" / name, (ids * 100_000).astype(np.int32)),
                classes=write(tmp_path / "labels_classes" / name, classes),
            )
        )
    return Dataset(
        name="made",
        root=tmp_path,
        layout="by hand",
        channels=("image",),
        labels=TWO_KINDS,
        cases=tuple(cases),
        file_ending=".nii.gz",
    )


def test_a_store_holds_classes_and_ids(dataset: Dataset, tmp_path: Path, make_plan: PlanMaker) -> None:
    plan, configuration = make_plan((1.0, 0.8, 0.8), labels=TWO_KINDS)
    store = populate_store(dataset, plan, configuration, tmp_path / "store", threads=1)
    for case in dataset.cases:
        assert case.label is not None
        ids = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(case.label)))
        classes = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(case.classes))) // 10
        stored = store.open(case.id)
        numbers = np.searchsorted(np.unique(ids[classes == 1]), ids) + 1
        layers = np.stack([classes, np.where(classes == 1, numbers, 0)])
        image = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(case.images[0])))[None]
        expected = preprocess_case(image, (1.0, 1.0, 1.0), plan, configuration, layers)
        np.testing.assert_array_equal(stored.labels, expected.labels_LZYX)
        assert stored.labels.dtype == np.int16
        assert stored.present_classes == (1, 2)
        image, labels = stored.read((-1, 2, 3), (5, 9, 40))
        assert labels.dtype == np.int16
        np.testing.assert_array_equal(labels[:, 1:, :, :10], stored.labels[:, :5, 2:9, 3:13])
        assert (labels[:, 0] == OUTSIDE).all()


def test_a_changed_map_of_classes_rebuilds_its_case_alone(
    dataset: Dataset, tmp_path: Path, make_plan: PlanMaker
) -> None:
    plan, configuration = make_plan(labels=TWO_KINDS)
    store = populate_store(dataset, plan, configuration, tmp_path / "store", threads=1)
    before = [store.open(case.id).digest for case in dataset.cases]
    changed = dataset.cases[1].classes
    assert changed is not None
    write(changed, np.full((8, 18, 20), 10, np.uint8))
    populate_store(dataset, plan, configuration, tmp_path / "store", threads=1)
    after = [store.open(case.id).digest for case in dataset.cases]
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, True]
    assert store.open("case_1").present_classes == (1,)


def test_a_missing_map_of_classes_is_named(dataset: Dataset, tmp_path: Path, make_plan: PlanMaker) -> None:
    first = dataclasses.replace(dataset.cases[0], classes=None)
    plan, configuration = make_plan(labels=TWO_KINDS)
    broken = dataclasses.replace(dataset, cases=(first, *dataset.cases[1:]))
    with pytest.raises(DatasetError, match=r"map of classes is missing.*case_0\.nii\.gz"):
        populate_store(broken, plan, configuration, tmp_path / "store", threads=1)


def test_a_case_of_large_ids_is_read_as_such(tmp_path: Path, make_plan: PlanMaker, ellipses: Shapes) -> None:
    ids = ellipses((4, 12, 12), 4, 4.0)
    plan, configuration = make_plan(labels=ONE_KIND)
    case = preprocess_case(made_image(ids), (1.0, 1.0, 1.0), plan, configuration, np.stack([ids > 0, ids * 70_000]))
    assert case.labels_LZYX is not None
    stored = Store(tmp_path).write("case", case, "digest", sample_locations(case.labels_LZYX[0], ONE_KIND))
    _, labels = stored.read((0, 0, 0), (4, 12, 12))
    assert labels.dtype == stored.labels_dtype == np.int32
    np.testing.assert_array_equal(labels[1], ids * 70_000)
    assert json.loads((tmp_path / "case.json").read_text())["labels_dtype"] == "int32"


@pytest.mark.parametrize("spacing", [(1.5, 1.0, 1.0), (0.7, 0.6, 0.9), (0.5, 1.0)])
@pytest.mark.parametrize("dtype", ["uint16", "int32", "float32"])
@pytest.mark.parametrize("rough", [False, True])
def test_estimate_bounds_what_numpy_allocates(
    spacing: tuple[float, ...],
    dtype: str,
    rough: bool,
    make_plan: PlanMaker,
    ellipses: Shapes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(label_resampling, "CHUNK_VOXELS", label_resampling.CHUNK_VOXELS >> 6)
    monkeypatch.setattr(populate, "SCORING_BYTES", populate.SCORING_BYTES >> 6)
    shape = (24, 50, 50)
    ids = np.random.default_rng(0).integers(0, 40_000, shape) if rough else ellipses(shape, 12, 8.0)
    plan, configuration = make_plan(spacing, labels=ONE_KIND, use_mask_for_norm=(True,))
    image, label = (image_from_array(array, (1.0, 1.0, 1.0)) for array in (made_image(ids), ids.astype(dtype)[None]))
    tracemalloc.start()
    array = image.read().astype(np.float32)
    case = preprocess_case(array, (1.0, 1.0, 1.0), plan, configuration, read_layers(label, None, ONE_KIND))
    assert case.labels_LZYX is not None
    sample_locations(case.labels_LZYX[0], ONE_KIND)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    estimate = estimate_bytes(image, label, plan, configuration)
    assert peak <= estimate < 4 * peak


@pytest.mark.data
def test_nuclei_keep_their_objects(data_folder: Path, make_plan: PlanMaker) -> None:
    labels = sorted((data_folder / "dsb2018_nuclei/labels").iterdir())[::60]
    plan, configuration = make_plan((0.75, 0.75), labels=ONE_KIND)
    for path in labels:
        ids = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path))).astype(np.int32)[None]
        case: Any = preprocess_case(
            made_image(ids), (999.0, 1.0, 1.0), plan, configuration, np.stack([ids > 0, ids])
        ).labels_LZYX
        before, after = np.bincount(ids.ravel())[1:], np.bincount(case[1].ravel(), minlength=ids.max() + 1)[1:]
        large = before > 30
        np.testing.assert_allclose(after[large] / before[large] * 0.75**2, 1, atol=0.15)
