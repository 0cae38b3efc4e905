"""What is odd but stops nothing is found by its kind and case, alone; what only looks odd is not."""

import dataclasses
import shutil
from typing import Any

import numpy as np
import pytest

from autoseg.data import check as check_module
from autoseg.data.check import check_dataset
from autoseg.data.dataset import DatasetSource, Mismatch, open_dataset

FLIP_X = np.diag([-1.0, 1.0, 1.0]).ravel().tolist()


def test_geometry_noise(spoiled) -> None:
    spoiled.write(spoiled.label(1), spoiled.make_case(1)[1], origin=(5.0, -7.0, 11.0 + 0.02))
    assert "up to 0.01 voxels" in spoiled.only("geometry-noise", 1)


def test_rounding_of_headers_is_no_problem(spoiled) -> None:
    spoiled.write(spoiled.label(1), spoiled.make_case(1)[1], origin=(5.0, -7.0, 11.0 + 2e-5))
    assert spoiled.check().problems == ()


def test_constant_image(spoiled) -> None:
    spoiled.write(spoiled.image(1, 1), np.full(spoiled.shape, 7, dtype=np.int16))
    assert "channel 1" in spoiled.only("constant-image", 1)


def test_extreme_spacing(spoiled) -> None:
    image, label = spoiled.make_case(4)
    for channel in range(2):
        spoiled.write(spoiled.image(4, channel), image[channel], spacing=(10.0, 12.0, 20.0))
    spoiled.write(spoiled.label(4), label, spacing=(10.0, 12.0, 20.0))
    assert "voxels of 20 × 12 × 10 mm, median 2 × 1.2 × 1 mm" in spoiled.only("extreme-spacing", 4)


@pytest.mark.parametrize("repeats", [(3, 3, 3), (1, 1, 11)])
def test_extreme_size(spoiled, repeats: tuple[int, int, int]) -> None:
    image, label = spoiled.make_case(4)
    for channel in range(2):
        spoiled.write(spoiled.image(4, channel), np.tile(image[channel], repeats))
    spoiled.write(spoiled.label(4), np.tile(label, repeats))
    assert "median 12×14×16" in spoiled.only("extreme-size", 4)


def test_sizes_that_all_differ_are_no_outliers(spoiled) -> None:
    for case in range(spoiled.num_cases):
        image, label = spoiled.make_case(case)
        for channel in range(2):
            spoiled.write(spoiled.image(case, channel), np.tile(image[channel], (1, 1, 2**case)))
        spoiled.write(spoiled.label(case), np.tile(label, (1, 1, 2**case)))
    assert spoiled.check().problems == ()


def test_mixed_orientations(spoiled) -> None:
    image, label = spoiled.make_case(4)
    for path, array in ((spoiled.image(4, 0), image[0]), (spoiled.image(4, 1), image[1])):
        spoiled.write(path, array, direction=FLIP_X)
    spoiled.write(spoiled.label(4), label, direction=FLIP_X)
    assert "run to S-P-R, those of 6 of 7 cases to S-P-L" in spoiled.only("mixed-orientations", 4)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_same_image_under_two_names(spoiled, dtype: Any) -> None:
    for channel in range(2):
        spoiled.write(spoiled.image(4, channel), spoiled.make_case(2)[0][channel].astype(dtype))
    assert "same image as case case_02" in spoiled.only("duplicate-image", 4)


def test_test_image_that_was_trained_on(spoiled) -> None:
    for channel in range(2):
        shutil.copy(spoiled.image(2, channel), spoiled.image(90, channel, "imagesTs"))
    assert "same image as case case_02" in spoiled.only("duplicate-image", 90)


def test_same_image_in_two_groups(spoiled) -> None:
    for channel in range(2):
        shutil.copy(spoiled.image(2, channel), spoiled.image(4, channel))
    spoiled.declare(groups={"anna": ["case_02", "case_03"], "ben": ["case_04", "case_05"]})
    assert "case_02 (group anna), group ben" in spoiled.only("duplicate-across-groups", 4)


def test_case_in_two_groups(spoiled) -> None:
    dataset = open_dataset(DatasetSource(dataset=spoiled.root))
    twice = Mismatch(case="case_02", kind="case-in-two-groups", found="groups name it under anna and ben")
    result = check_dataset(dataclasses.replace(dataset, mismatches=(twice,)))
    assert spoiled.found(result) == {("case-in-two-groups", "case_02")}
    assert not result.stops
    assert result.num_fine == result.num_cases == spoiled.num_cases


def test_class_that_most_cases_lack(spoiled) -> None:
    for case in range(4):
        spoiled.write(spoiled.label(case), np.minimum(spoiled.make_case(case)[1], 1))
    assert "inner (in 2)" in spoiled.only("rare-class", None)


def test_instance_numbers_of_their_own_in_every_case(spoiled) -> None:
    spoiled.declare(labels=None)
    for case in range(spoiled.num_cases):
        label = spoiled.make_case(case)[1].astype(np.uint16)
        spoiled.write(spoiled.label(case), np.where(label > 0, label + 2 * case, 0).astype(np.uint16))
    found = spoiled.only("instance-like-labels", None, task="semantic")
    assert "12 label values, 2 a case, 12 of them in one case only" in found
    assert spoiled.check().problems == (), "unless somebody says that they are classes, they are ids"


def test_instance_numbers_that_begin_anew_in_every_case(spoiled) -> None:
    spoiled.declare(labels=None)
    for case in range(spoiled.num_cases):
        label = np.zeros(spoiled.shape, dtype=np.uint16)
        places = [(z, y, x) for z in (1, 5, 9) for y in (1, 6, 11) for x in (1, 6, 11)]
        for number, (z, y, x) in enumerate(places[: 12 + 3 * case], start=1):
            label[z : z + 2, y : y + 3, x : x + 3] = number
        spoiled.write(spoiled.label(case), label)
    assert "27 label values, 12 to 27 a case" in spoiled.only("instance-like-labels", None, task="semantic")
    (note,) = spoiled.check().notes
    assert "27 label values, 12 to 27 a case" in note
    assert "are taken as ids of one class, object" in note


def test_many_classes_are_not_instances(spoiled) -> None:
    """Organs: the same values in all cases, of very different sizes."""
    spoiled.declare(labels=None)
    label = np.zeros(spoiled.shape, dtype=np.uint8)
    for number in range(1, 13):
        label[number - 1, : 1 + number, : 2 + number] = number
    for case in range(spoiled.num_cases):
        spoiled.write(spoiled.label(case), np.roll(label, case, axis=2))
    assert spoiled.check().problems == ()


def test_non_finite_voxels(spoiled) -> None:
    image = spoiled.make_case(1)[0][0]
    image[0, 0, :3] = (np.nan, np.inf, -np.inf)
    spoiled.write(spoiled.image(1, 0), image)
    assert "holds NaN or infinity in 3 voxels of 2,688" in spoiled.only("non-finite-voxels", 1)


def test_long_preprocessing(spoiled, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_module, "PREPROCESSED_VOXELS_PER_S", 2.0)
    assert "about 4 h" in spoiled.only("long-preprocessing", None)
