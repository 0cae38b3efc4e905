"""One case to the network's grid and back: against nnU-Net's own results, and against itself."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.errors import ImageError, OptionError
from autoseg.preprocessing.preprocess import (
    OUTSIDE,
    CaseGrid,
    PreprocessedCase,
    cropped_view,
    finite,
    label_dtype,
    preprocess_case,
    shape_as_read,
    uncrop_and_untranspose,
)
from planners import records
from planners.fingerprint import Intensities
from planners.labels import LabelClass, Labels
from planners.records import PlanError

NORMALIZATION = {"ZScoreNormalization": "zscore", "CTNormalization": "ct", "RescaleTo01Normalization": "rescale-0-1"}
GOLDEN = [
    "isotropic_down",
    "isotropic_up",
    "transposed",
    "separate_z",
    "separate_z_2d",
    "extreme_anisotropy",
    "ct_many_labels",
    "nonzero_mask_two_channels",
    "rescale_0_1",
]


def labels_of(case: PreprocessedCase) -> np.ndarray:
    assert case.labels_LZYX is not None
    return case.labels_LZYX


def read(path: Path) -> np.ndarray:
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))


def golden_case(name: str, data: Path, spec: dict[str, Any], make_plan: Any) -> Any:
    image = np.stack([read(data / file).astype(np.float32) for file in spec["images"]])
    if spec["multiplied_by"]:
        image = image * (read(data / spec["multiplied_by"]) != 0)
    intensities = tuple(
        item
        and Intensities(
            mean=item["mean"],
            median=item["median"],
            std=item["std"],
            minimum=item["min"],
            maximum=item["max"],
            percentile_00_5=item["percentile_00_5"],
            percentile_99_5=item["percentile_99_5"],
        )
        for item in spec["intensity"] or [None] * len(image)
    )
    labels = Labels(classes=tuple(LabelClass(name=str(value), value=value) for value in range(118)))
    plan, configuration = make_plan(
        tuple(spec["spacing_mm"]),
        axis_order=tuple(spec["transpose_forward"]),
        intensities=intensities,
        labels=labels,
        normalization=tuple(NORMALIZATION[item] for item in spec["normalization"]),
        use_mask_for_norm=tuple(spec["use_mask_for_norm"]),
    )
    label = read(data / spec["label"]).astype(np.int16)
    return preprocess_case(image, spec["original_spacing_mm"], plan, configuration, label)


@pytest.mark.data
@pytest.mark.parametrize("name", GOLDEN)
def test_agrees_with_nnunet(name: str, data_folder: Path, golden_folder: Path, make_plan: Any) -> None:
    with np.load(golden_folder / "preprocessing.npz") as kept:
        spec = json.loads(str(kept["spec"]))[name]
        index, image, label = (kept[f"{name}.{part}"] for part in ("index", "image", "label"))
    case = golden_case(name, data_folder, spec, make_plan)

    assert list(case.image_CZYX.shape) == spec["shape"]
    assert [list(sides) for sides in case.grid.crop_box] == spec["crop"]
    extremes = [[float(channel.min()), float(channel.max())] for channel in case.image_CZYX]
    np.testing.assert_allclose(extremes, spec["image_min_max"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(case.image_CZYX.reshape(len(image), -1)[:, index], image, rtol=0, atol=1e-4)
    # Not one voxel differs, ties included: shares are added in the order in which scipy adds them.
    np.testing.assert_array_equal(labels_of(case).reshape(-1)[index], label.reshape(-1))
    values, counts = np.unique(labels_of(case), return_counts=True)
    assert {str(value): count for value, count in zip(values, counts, strict=True)} == spec["label_values"]


def test_order_of_operations_on_a_case_worked_by_hand(make_plan: Any) -> None:
    image = np.zeros((1, 4, 6, 8), dtype=np.float32)
    image[0, 1:3, 2:6, 1:7] = np.random.default_rng(0).uniform(1, 9, size=(2, 4, 6))
    label = np.zeros((4, 6, 8), dtype=np.int16)
    label[1, 3, 2] = 2
    label[0, 0, 0] = 3  # outside the content: cropped away
    plan, configuration = make_plan((3.0, 2.0, 2.0), axis_order=(2, 0, 1))
    case = preprocess_case(image, (2.0, 2.0, 3.0), plan, configuration, label)

    assert case.grid == CaseGrid(
        shape_before_crop=(8, 4, 6),
        crop_box=((1, 7), (1, 3), (2, 6)),
        shape_after_crop=(6, 2, 4),
        spacing_before_mm=(3.0, 2.0, 2.0),
        shape=(6, 2, 4),
        spacing_mm=(3.0, 2.0, 2.0),
    )
    content = image[0].transpose(2, 0, 1)[1:7, 1:3, 2:6]
    np.testing.assert_allclose(case.image_CZYX[0], (content - content.mean()) / content.std(), atol=1e-5)
    assert labels_of(case).shape == (1, 6, 2, 4)
    assert labels_of(case)[0, 1, 0, 1] == 2
    assert labels_of(case).sum() == 2


def test_label_outside_the_mask_is_marked_and_annotations_there_are_kept(make_plan: Any) -> None:
    image = np.zeros((1, 3, 3, 5), dtype=np.float32)
    image[0, :, :, 0] = image[0, :, :, 4] = [[1, 2, 3]] * 3
    label = np.zeros((3, 3, 5), dtype=np.int16)
    label[1, 1, 2] = 1  # annotated where the image is zero
    plan, configuration = make_plan(use_mask_for_norm=(True,))
    case = preprocess_case(image, (1.0, 1.0, 1.0), plan, configuration, label)
    np.testing.assert_array_equal(labels_of(case)[0, :, :, 1], OUTSIDE)
    assert labels_of(case)[0, 1, 1, 2] == 1
    inside = np.append(image[image != 0], 0)  # the annotated zero counts as inside, as in nnU-Net
    assert case.image_CZYX[0, 0, 0, 0] == pytest.approx((1 - inside.mean()) / inside.std(), abs=1e-5)
    np.testing.assert_array_equal(case.image_CZYX[0, :, :, 1], 0)


def test_image_of_zeros_keeps_its_extent(make_plan: Any) -> None:
    plan, configuration = make_plan(use_mask_for_norm=(True,))
    case = preprocess_case(np.zeros((1, 3, 4, 5)), (1.0, 1.0, 1.0), plan, configuration, np.zeros((3, 4, 5), int))
    assert case.grid.shape == case.grid.shape_before_crop == (3, 4, 5)
    np.testing.assert_array_equal(case.image_CZYX, 0)
    np.testing.assert_array_equal(labels_of(case), OUTSIDE)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 7, 9), (2, 3, 2)])
def test_tiny_images_and_two_dimensions(shape: tuple[int, int, int], make_plan: Any) -> None:
    plan, configuration = make_plan((0.5, 2.0), normalization=("rescale-0-1",))
    image = np.random.default_rng(0).integers(1, 200, size=(1, *shape)).astype(np.uint8)
    label = (image[0] > 100).astype(np.int16)
    case = preprocess_case(image, (999.0, 1.0, 1.0), plan, configuration, label)
    expected = (shape[0], shape[1] * 2, max(1, round(shape[2] / 2)))
    assert case.grid.shape == expected == case.image_CZYX.shape[1:] == labels_of(case).shape[1:]
    assert case.grid.spacing_mm == (999.0, 0.5, 2.0)
    assert np.isfinite(case.image_CZYX).all()


def test_without_label_there_are_no_label_layers(make_plan: Any) -> None:
    plan, configuration = make_plan((2.0, 1.0, 1.0))
    image = np.random.default_rng(0).normal(size=(1, 4, 5, 6)).astype(np.float32)
    kept = image.copy()
    case = preprocess_case(image, (1.0, 1.0, 1.0), plan, configuration)
    assert case.labels_LZYX is None
    assert case.image_CZYX.shape == (1, 2, 5, 6)
    np.testing.assert_array_equal(image, kept)


def test_non_finite_voxels_take_the_finite_minimum(make_plan: Any) -> None:
    image = np.ones((2, 2, 2, 2), dtype=np.float64)
    image[0, 0, 0] = [np.nan, -5]
    image[0, 1, 1] = [np.inf, -np.inf]
    image[1] = np.nan
    clean = finite(image)
    assert clean.dtype == np.float32
    np.testing.assert_array_equal(clean[0, 0, 0], [-5, -5])
    np.testing.assert_array_equal(clean[0, 1, 1], [-5, -5])
    np.testing.assert_array_equal(clean[1], 0)
    assert np.isnan(image).any(), "the caller's array is left alone"
    healthy = np.ones((1, 2, 2, 2), dtype=np.float32)
    assert finite(healthy) is healthy


def test_label_type_is_the_smallest_that_holds_all_classes() -> None:
    def labels(count: int, ignore: int | None = None) -> Labels:
        classes = tuple(LabelClass(name=str(i), value=i) for i in range(count))
        return Labels(classes=classes, ignore=ignore)

    assert label_dtype(labels(128)) == np.int8
    assert label_dtype(labels(128, ignore=500)) == np.int16
    assert label_dtype(labels(129)) == np.int16


axis_orders = st.permutations([0, 1, 2])


@given(st.tuples(*[st.integers(1, 9)] * 3), axis_orders, st.data())
@settings(max_examples=100, deadline=None)
def test_way_back_is_exact(shape: tuple[int, int, int], axis_order: list[int], data: st.DataObject) -> None:
    segmentation = np.random.default_rng(0).integers(1, 9, size=shape).astype(np.int16)
    box = []
    for axis in axis_order:
        start = data.draw(st.integers(0, shape[axis] - 1))
        box.append((start, data.draw(st.integers(start + 1, shape[axis]))))
    transposed = segmentation.transpose(axis_order)
    cropped = transposed[tuple(slice(*sides) for sides in box)]
    grid = CaseGrid(
        shape_before_crop=transposed.shape,
        crop_box=(box[0], box[1], box[2]),
        shape_after_crop=cropped.shape,
        spacing_before_mm=(1.0, 1.0, 1.0),
        shape=(1, 1, 1),
        spacing_mm=(1.0, 1.0, 1.0),
    )
    assert shape_as_read(grid, axis_order) == shape
    restored = uncrop_and_untranspose(cropped, grid, axis_order, fill=7)
    expected = np.full(shape, 7, dtype=np.int16)
    inside = np.zeros(shape, dtype=bool)
    inside.transpose(axis_order)[tuple(slice(*sides) for sides in box)] = True
    expected[inside] = segmentation[inside]
    np.testing.assert_array_equal(restored, expected)
    np.testing.assert_array_equal(cropped_view(restored, grid, axis_order), cropped)
    assert restored.dtype == segmentation.dtype
    assert records.from_json(CaseGrid, json.loads(records.dumps(grid))) == grid


def test_whole_way_there_and_back_without_resampling(make_plan: Any) -> None:
    image = np.zeros((1, 6, 7, 8), dtype=np.float32)
    image[0, 1:5, 2:6, 3:] = 1
    label = np.random.default_rng(0).integers(0, 4, size=(6, 7, 8)) * (image[0] > 0)
    plan, configuration = make_plan(axis_order=(1, 2, 0))
    case = preprocess_case(image, (1.0, 1.0, 1.0), plan, configuration, label)
    back = uncrop_and_untranspose(np.maximum(labels_of(case)[0], 0), case.grid, plan.axis_order)
    np.testing.assert_array_equal(back, label)


def test_messages_say_what_does_not_fit(make_plan: Any) -> None:
    plan, configuration = make_plan()
    ones = np.ones((1, 2, 3, 4), dtype=np.float32)
    spacing = (1.0, 1.0, 1.0)
    with pytest.raises(ImageError, match=r"image has 2 channels; the plan needs 1 \(c0\)"):
        preprocess_case(np.ones((2, 2, 2, 2)), spacing, plan, configuration)
    with pytest.raises(ImageError, match="label has shape 2×3×5, image has 2×3×4"):
        preprocess_case(ones, spacing, plan, configuration, np.zeros((2, 3, 5), np.int16))
    with pytest.raises(ImageError, match="holds no voxels"):
        preprocess_case(np.ones((1, 0, 3, 4)), spacing, plan, configuration)
    plan, configuration = make_plan(normalization=("zscor",))
    with pytest.raises(OptionError, match="did you mean 'zscore'"):
        preprocess_case(ones, spacing, plan, configuration)
    plan, configuration = make_plan(normalization=("ct",))
    with pytest.raises(PlanError, match="plan holds none"):
        preprocess_case(ones, spacing, plan, configuration)
    plan, configuration = make_plan(normalization=("rgb-0-1",))
    with pytest.raises(ImageError, match=r"channel 0 \(c0\): values from -300"):
        preprocess_case(ones * -300, spacing, plan, configuration)


def test_ignored_air_changes_nothing(make_plan: Any) -> None:
    """Whether the zeros around the content are background or to be ignored: the network sees the same image."""
    rng = np.random.default_rng(0)
    image = np.zeros((1, 8, 9, 10), dtype=np.float32)
    image[:, 1:7, 1:8, 1:9] = rng.normal(100, 20, size=(1, 6, 7, 8))
    image[:, 1:4, 1:4, 1:4] = 0  # zeros within the box
    label = np.zeros(image.shape[1:], dtype=np.int16)
    label[4:6, 4:6, 4:6] = 1
    classes = tuple(LabelClass(name=f"class {value}", value=value) for value in range(2))
    labels = Labels(classes=classes, ignore=255)
    plan, configuration = make_plan(labels=labels, use_mask_for_norm=(True,))
    plain = preprocess_case(image, (1.0, 1.0, 1.0), plan, configuration, label)
    ignored = np.where((image[0] == 0) & (label == 0), labels.ignore_index, label)
    masked = preprocess_case(image, (1.0, 1.0, 1.0), plan, configuration, ignored)
    np.testing.assert_array_equal(masked.image_CZYX, plain.image_CZYX)
    new = preprocess_case(image, (1.0, 1.0, 1.0), plan, configuration)
    np.testing.assert_array_equal(masked.image_CZYX, new.image_CZYX)
    assert (labels_of(masked)[0][labels_of(plain)[0] == OUTSIDE] == labels.ignore_index).all()
