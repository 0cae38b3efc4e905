"""Images unlike the training's are named, and those like them are not."""

import dataclasses

import numpy as np
import pytest

from autoseg.data.check_geometry import orientation
from autoseg.data.image import Geometry, flat_geometry
from autoseg.data.io import open_image
from autoseg.inference.familiarity import Familiarity
from autoseg.inference.intensity_slips import SLIPS, is_flat, leans_otherwise, slip
from autoseg.preprocessing.cropping import bounding_box, box_shape
from autoseg.preprocessing.image_percentiles import MOST_VOXELS, PERCENTILES, image_percentiles
from planners.fingerprint import Channel, Fingerprint, Intensities
from planners.labels import LabelClass, Labels
from planners.plan import MemoryBudget, Plan

LABELS = Labels(classes=(LabelClass(name="air", value=0), LabelClass(name="liver", value=1)))
LIVER = Intensities(
    mean=100.0, median=100.0, std=40.0, minimum=-300.0, maximum=400.0, percentile_00_5=-50.0, percentile_99_5=220.0
)
AXIAL = Geometry(spacing_mm=(2.0, 0.8, 0.8))


def make_ct(seed=0, shape=(12, 40, 40), air=-1000.0):
    """A body with some contrast in air."""
    random = np.random.default_rng(seed)
    image = np.full(shape, air)
    image[:, 5:35, 8:32] = random.normal(50 + 10 * (seed % 3), 40, (shape[0], 30, 24))
    image[:, 12:24, 12:22] += 60
    return image[None].astype(np.float32)


def fingerprint_of(images, geometries, channels=("CT",), intensities=LIVER):
    return Fingerprint(
        dataset="test",
        channels=tuple(Channel(name=name, intensities=intensities) for name in channels),
        labels=LABELS,
        num_cases=len(images),
        spacings_mm=tuple(geometry.spacing_mm for geometry in geometries),
        shapes=tuple(box_shape(bounding_box((image != 0).any(0))) for image in images),
        orientations=tuple(orientation(item) if item.known and item.dimensions == 3 else None for item in geometries),
        image_percentiles=tuple(image_percentiles(image) for image in images),
    )


@pytest.fixture
def familiar(make_configuration):
    """Give a function that makes a judge of some training images."""

    def make(images, geometries, *, normalization="ct", channels=("CT",), dimensions=3, order=(0, 1, 2), **training):
        fingerprint = fingerprint_of(images, geometries, channels)
        configuration = make_configuration(
            (8,) * dimensions, num_channels=len(channels), normalization=(normalization,) * len(channels), **training
        )
        plan = Plan(
            dataset="test",
            planner="default",
            budget=MemoryBudget(),
            axis_order=order,
            channels=fingerprint.channels,
            labels=LABELS,
            configurations=(configuration,),
        )
        return Familiarity(fingerprint, plan, [configuration])

    return make


@pytest.fixture
def ct_judge(familiar):
    return familiar([make_ct(seed) for seed in range(8)], [AXIAL] * 8)


def judged(judge, image, geometry=AXIAL):
    return judge.judge(image, geometry)


def test_what_was_trained_on_is_familiar(ct_judge):
    for seed in range(20, 30):
        assert judged(ct_judge, make_ct(seed)) == ()
    assert judged(ct_judge, make_ct(20, air=-3024.0)) == ()  # another scanner's air, which the network does not see


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image + 1024,
        lambda image: image - 1024,
        lambda image: np.clip((image + 160) / 400 * 255, 0, 255),
        lambda image: (image - image.min()) / (image.max() - image.min()),
        lambda image: np.where(image > 0, image + 300, image),
        lambda image: -image,
    ],
    ids=["stored without offset", "offset twice", "8 bit", "0 to 1", "another contrast", "inverted"],
)
def test_ct_on_another_scale_is_not(ct_judge, change):
    (warning,) = judged(ct_judge, change(make_ct(20)).astype(np.float32))
    assert warning.startswith("channel 0 (CT): the ")
    assert "that of the training cases" in warning
    assert "Hounsfield" in warning


def test_spacing_and_extent(ct_judge):
    image = make_ct(20)
    tenfold = dataclasses.replace(AXIAL, spacing_mm=(20.0, 8.0, 8.0))
    (warning,) = judged(ct_judge, image, tenfold)
    assert warning == (
        "its spacing is z 20, y 8, x 8 mm, that of the training cases z 2, y 0.8, x 0.8 mm. Check the header"
    )
    (warning,) = judged(ct_judge, np.repeat(image, 4, axis=1))
    assert warning.startswith("its extent is z 96 mm, that of the training cases z 24 mm. Check that")
    assert judged(ct_judge, image, dataclasses.replace(AXIAL, spacing_mm=(3.5, 0.6, 0.6))) == ()
    unknown = Geometry(spacing_mm=(1.0, 1.0, 1.0), known=False)
    trained_finely = dataclasses.replace(AXIAL, spacing_mm=(1.0, 0.2, 0.2))
    (warning,) = judged(ct_judge_at(ct_judge, trained_finely), image, unknown)
    assert "does not say it, so 1 mm is taken" in warning


def ct_judge_at(judge, geometry):
    fingerprint = fingerprint_of([make_ct(seed) for seed in range(8)], [geometry] * 8)
    return Familiarity(fingerprint, judge.plan, judge.configurations)


def test_axes_stored_in_another_order_or_direction(familiar):
    images = [make_ct(seed) for seed in range(8)]
    image = make_ct(20)
    flipped = dataclasses.replace(AXIAL, direction=(-1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0))
    turned = dataclasses.replace(AXIAL, direction=(0, 0, 1.0, 0, 1.0, 0, 1.0, 0, 0))
    mirrored = familiar(images, [AXIAL] * 8)
    assert judged(mirrored, image, flipped) == ()  # patches were mirrored along x
    (warning,) = judged(mirrored, image, turned)
    assert warning.startswith("its axes z, y, x run to ")
    plain = familiar(images, [AXIAL] * 8, mirror_axes=(0, 1))
    assert "run to S-P-R" in judged(plain, image, flipped)[0]
    assert "training cases to S-P-L" in judged(plain, image, flipped)[0]
    transposed = familiar(images, [AXIAL] * 8, mirror_axes=(0, 1), order=(2, 0, 1))
    assert judged(transposed, image, flipped) == ()  # x is the patch's first axis
    with_sides = familiar(images, [AXIAL] * 8, mirror_swaps=((0, 1),), mirror_swap_axis=2)
    assert judged(with_sides, image, flipped) != ()  # left and right would change places
    unknown = dataclasses.replace(turned, known=False)
    assert judged(mirrored, image, unknown) == ()
    slices = familiar(images, [AXIAL] * 8, dimensions=2, mirror_axes=(0, 1))
    assert judged(slices, image, flipped) == ()
    upside_down = dataclasses.replace(AXIAL, direction=(1.0, 0, 0, 0, 1.0, 0, 0, 0, -1.0))
    assert judged(slices, image, upside_down) != ()  # a 2D network was not mirrored through its slices


def test_a_volume_is_no_2d_image(familiar, ct_judge):
    flat = flat_geometry((0.8, 0.8))
    picture = make_ct(3)[:, :1]
    (warning,) = judged(ct_judge, picture, flat)
    assert warning.startswith("it is a 2D image, the training cases are volumes")
    judge = familiar([picture] * 4, [flat] * 4, dimensions=2)
    assert judged(judge, picture, flat) == ()
    assert judged(judge, make_ct(3))[0].startswith("it is a volume, the training cases are 2D images")


def test_the_scale_of_mri_means_nothing(familiar):
    """Scales that differ a millionfold are familiar; a channel of one value is not, nor another shape of the tails."""
    random = np.random.default_rng(0)
    images = [random.gamma(4, 10.0**scale, (1, 10, 12, 12)).astype(np.float32) for scale in (0, 1, 3, 6, 2, 0, 4, 5)]
    judge = familiar(images, [AXIAL] * 8, normalization="zscore", channels=("MRI",))
    assert judged(judge, random.gamma(4, 1e-3, (1, 10, 12, 12)).astype(np.float32)) == ()
    (warning,) = judged(judge, np.full((1, 10, 12, 12), 7.0, np.float32))
    assert warning == "channel 0 (MRI) holds the value 7 alone. Check its file"
    (warning,) = judged(judge, images[0] ** 8)
    assert "upper tail" in warning
    assert "quartile distances" in warning
    half = images[0].copy()
    half[:, :, :8] = 5  # more than half of it has one value: no quartile distance
    assert judged(judge, half) == ()


def test_few_cases_leave_more_room(familiar):
    images = [make_ct(seed) for seed in range(3)]
    judge = familiar(images, [AXIAL] * 3)
    for seed in range(20, 26):
        assert judged(judge, make_ct(seed)) == ()
    assert judged(judge, make_ct(20) + 1024) != ()
    assert judged(familiar(images[:1], [AXIAL]), make_ct(21)) == ()


def test_percentiles_of_what_is_not_zero():
    image = np.zeros((2, 10, 10, 10))
    image[0, :, :5] = np.arange(500).reshape(10, 5, 10) + 1
    image[0, 0, 0, 0] = np.nan
    first, second = image_percentiles(image)
    np.testing.assert_allclose(first, np.percentile(np.arange(2, 501), PERCENTILES), rtol=1e-5)
    assert second == (0,) * len(PERCENTILES)
    large = np.random.default_rng(0).normal(size=(1, 50, 100, 100)).astype(np.float32)
    assert large[0].size > MOST_VOXELS
    np.testing.assert_allclose(image_percentiles(large)[0], np.percentile(large, PERCENTILES), atol=0.03)
    assert image_percentiles(large) == image_percentiles(large)


@pytest.mark.data
def test_no_hippocampus_is_unlike_the_others(familiar, data_folder):
    """Every case judged by the other four fifths; their scales differ ten-thousandfold."""
    files = sorted((data_folder / "hippocampus" / "imagesTr").glob("*.nii.gz"))[::2]
    opened = [open_image([file]) for file in files]
    images, geometries = [item.read() for item in opened], [item.geometry for item in opened]
    flagged = []
    for fold in range(5):
        kept = [index for index in range(len(files)) if index % 5 != fold]
        judge = familiar(
            [images[index] for index in kept],
            [geometries[index] for index in kept],
            normalization="zscore",
            channels=("MRI",),
        )
        flagged += [index for index in range(fold, len(files), 5) if judged(judge, images[index], geometries[index])]
    assert len(flagged) < 0.02 * len(files)


@pytest.mark.data
def test_a_real_ct_shifted_by_1024_is_unlike_itself(familiar, data_folder):
    files = [data_folder / "totalseg_ct_pseudo" / name for name in ("example_ct.nii.gz", "example_ct_sm.nii.gz")]
    opened = [open_image([file]) for file in [*files, data_folder / "chaos_ct_liver" / "DICOM_anon"]]
    images, geometries = [item.read() for item in opened], [item.geometry for item in opened]
    judge = familiar(images, geometries)
    for image, geometry in zip(images, geometries, strict=True):
        assert judged(judge, image, geometry) == ()
        assert any("percentile" in item for item in judged(judge, image.astype(np.float32) + 1024, geometry))
    mri = open_image([data_folder / "totalseg_ct_pseudo" / "example_mr_sm.nii.gz"])
    assert any("percentile" in item for item in judged(judge, mri.read(), mri.geometry))


@pytest.fixture
def judge_of_three(familiar):
    """A judge of three CTs that differ much, around which the room is wide."""
    return familiar([make_ct(0), make_ct(1), make_ct(2) + np.float32(30) * (make_ct(2) > -500)], [AXIAL] * 3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda image: image - 1024, "1024 too low, as if their offset was taken off twice"),
        (lambda image: image * 2, "doubled"),
        (lambda image: image / 2, "halved"),
        (lambda image: image - 1000, "1000 too low"),
    ],
    ids=["offset twice", "doubled", "halved", "1000 too low"],
)
def test_few_training_cases_hide_no_usual_mistake(judge_of_three, change, words):
    found = judged(judge_of_three, change(make_ct(20)).astype(np.float32))
    assert len(found) == 1
    assert words in found[0] or "percentile" in found[0]
    assert judged(judge_of_three, make_ct(20)) == ()
    assert judged(judge_of_three, make_ct(20, air=-3024.0)) == ()


def test_slips_are_told_by_all_percentiles():
    trained = np.array([[-1000, -900, -100, 40, 160], [-1003, -960, -100, 6, 68], [-1003, -957, -93, 22, 61.0]])
    for row in trained:
        assert slip(row, trained, 20.0) is None
        for factor, summand, words in SLIPS:
            made = row * factor + summand
            assert slip(made if factor > 0 else made[::-1], trained, 20.0) == words
    other_scanner = np.array([-3024, -1000, -100, 30, 120.0])  # pads with another value: no mistake fits all
    assert slip(other_scanner, trained, 20.0) is None


def test_an_image_that_is_flat_to_the_network():
    spanned = np.array([[-50.0, -50, 40, 80, 150], [-50, -50, -50, 20, 60]])
    assert is_flat(np.array([-50.0, -50, -50, -50, -45]), spanned)
    assert not is_flat(np.array([-50.0, -50, -50, 10, 60]), spanned)


def test_an_inverted_image_leans_to_the_other_side(familiar):
    def skewed(seed):
        return np.random.default_rng(seed).gamma(2.0, 30.0, (1, 8, 40, 40)).astype(np.float32) + 1

    judge = familiar([skewed(seed) for seed in range(10)], [AXIAL] * 10, normalization="zscore")
    image = skewed(20)
    assert judged(judge, image) == ()
    assert judged(judge, image * 40 + 7) == ()  # scale and offset mean nothing
    (warning,) = judged(judge, image.max() + 1 - image)
    assert "inverted" in warning
    percentiles = np.percentile(image, (5, 25, 50, 75, 95))
    assert leans_otherwise(percentiles, percentiles[None], 1.0) is None
    value, low, high = leans_otherwise(-percentiles[::-1], percentiles[None], 1.0)
    assert value < 0 < low == high
    assert leans_otherwise(np.zeros(5), percentiles[None], 1.0) is None
