"""What is drawn has nnU-Net's probabilities and ranges; applying it changes what the parameters say, nothing else."""

import collections
import dataclasses
import math

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.intensity.contrast import BGContrast
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.nnunet_masking import MaskImageTransform
from scipy import stats

from autoseg.training.augmentation import SampleParameters, apply, apply_to_previous, draw_parameters
from autoseg.training.morphology import OPERATIONS, ShapeChange
from autoseg.training.sampling import sample_generator
from planners.plan import Augmentation, Input

NUM_DRAWN = 6000


@pytest.fixture(scope="module")
def drawn(make_configuration):
    """Many parameters of a 3D configuration with two channels."""
    configuration = make_configuration((16, 16, 16), num_channels=2)
    return [draw_parameters(sample_generator(7, 0, 0, 0, index), configuration) for index in range(NUM_DRAWN)]


def assert_fraction(found, total, expected):
    deviation = math.sqrt(expected * (1 - expected) / total)
    assert abs(found / total - expected) < 4 * deviation, f"{found} of {total}, expected {expected:.0%}"


def assert_same_distribution(values, reference):
    assert stats.ks_2samp(np.asarray(values), np.asarray(reference)).pvalue > 1e-3


@pytest.mark.parametrize(
    ("happens", "probability"),
    [
        (lambda item: bool(item.angles), 0.2),
        (lambda item: item.scale != 1, 0.2),
        (lambda item: bool(item.angles) and item.scale != 1, 0.04),
        (lambda item: item.noise_sigma is not None, 0.1),
        (lambda item: bool(item.blur_sigmas), 0.2),
        (lambda item: bool(item.brightness), 0.15),
        (lambda item: bool(item.contrast), 0.15),
        (lambda item: bool(item.brightness) and bool(item.contrast), 0.15**2),
        (lambda item: bool(item.zooms), 0.25),
        (lambda item: bool(item.inverted_gamma), 0.1),
        (lambda item: bool(item.gamma), 0.3),
        (lambda item: 0 in item.mirror, 0.5),
        (lambda item: 2 in item.mirror, 0.5),
        (lambda item: item.mirror == (0, 1, 2), 0.125),
    ],
)
def test_probabilities(drawn, happens, probability):
    assert_fraction(sum(happens(item) for item in drawn), len(drawn), probability)


@pytest.mark.parametrize("field", ["blur_sigmas", "zooms"])
def test_half_of_the_channels_take_part(drawn, field):
    channels = [value for item in drawn for value in getattr(item, field)]
    assert_fraction(sum(value is not None for value in channels), len(channels), 0.5)


def test_spatial_parameters_are_distributed_as_in_batchgenerators(drawn):
    np.random.seed(0)
    transform = SpatialTransform(
        (4, 4, 4),
        0,
        random_crop=False,
        p_rotation=1,
        rotation=(-math.pi / 6, math.pi / 6),
        p_scaling=1,
        scaling=(0.7, 1.4),
        p_synchronize_scaling_across_axes=1,
    )
    affine = [transform.get_parameters(image=torch.empty(1, 4, 4, 4))["affine"] for _ in range(1000)]
    scales = [np.cbrt(np.linalg.det(matrix)) for matrix in affine]
    assert_same_distribution([item.scale for item in drawn if item.scale != 1], scales)
    angles = np.array([item.angles for item in drawn if item.angles])
    assert angles.shape[1] == 3
    assert abs(np.corrcoef(angles.T) - np.eye(3)).max() < 0.1
    mine = [SampleParameters(angles=tuple(row)).matrix(planar=False)[0, 1] for row in angles]
    assert_same_distribution(mine, [matrix[0, 1] / scale for matrix, scale in zip(affine, scales, strict=True)])


def test_blur_sigmas_are_distributed_as_in_batchgenerators(drawn):
    np.random.seed(0)
    transform = GaussianBlurTransform((0.5, 1.0), False, False, p_per_channel=1)
    reference = [transform.get_parameters(image=torch.empty(1, 4, 4, 4))["sigmas"][0] for _ in range(1000)]
    mine = np.array([row for item in drawn for row in item.blur_sigmas if row is not None])
    assert_same_distribution(mine.flatten(), np.array(reference).flatten())
    assert abs(np.corrcoef(mine.T) - np.eye(3)).max() < 0.1
    both = np.array(
        [[row[0] for row in item.blur_sigmas] for item in drawn if item.blur_sigmas and None not in item.blur_sigmas]
    )
    assert abs(np.corrcoef(both.T)[0, 1]) < 0.2


def test_zooms_are_distributed_as_in_batchgenerators(drawn):
    np.random.seed(0)
    torch.manual_seed(0)
    transform = SimulateLowResolutionTransform((0.5, 1), False, True, ignore_axes=None, p_per_channel=1)
    reference = [float(transform.get_parameters(image=torch.empty(1, 4, 4, 4))["scales"][0, 0]) for _ in range(1000)]
    mine = [row for item in drawn for row in item.zooms if row is not None]
    assert all(row[0] == row[1] == row[2] for row in mine)
    assert_same_distribution([row[0] for row in mine], reference)


@pytest.mark.parametrize(
    ("field", "limits"),
    [("brightness", (0.75, 1.25)), ("contrast", (0.75, 1.25)), ("inverted_gamma", (0.7, 1.5)), ("gamma", (0.7, 1.5))],
)
def test_factors_are_distributed_as_in_batchgenerators(drawn, field, limits):
    np.random.seed(0)
    draw = BGContrast(limits)
    rows = np.array([getattr(item, field) for item in drawn if getattr(item, field)])
    assert rows.shape[1] == 2
    assert_same_distribution(rows.flatten(), [draw() for _ in range(2000)])
    assert abs(np.corrcoef(rows.T)[0, 1]) < 0.2


def test_noise_sigmas(drawn):
    sigmas = [item.noise_sigma for item in drawn if item.noise_sigma is not None]
    assert stats.kstest(sigmas, stats.uniform(0, 0.1).cdf).pvalue > 1e-3
    assert len({item.noise_seed for item in drawn}) == len(drawn)


def test_two_dimensions(make_configuration):
    configuration = make_configuration((16, 16))
    items = [draw_parameters(sample_generator(1, 0, 0, 0, index), configuration) for index in range(2000)]
    angles = [item.angles for item in items if item.angles]
    assert all(len(row) == 1 for row in angles)
    assert stats.kstest([row[0] for row in angles], stats.uniform(-math.pi, 2 * math.pi).cdf).pvalue > 1e-3
    mirrored = collections.Counter(axis for item in items for axis in item.mirror)
    assert set(mirrored) == {1, 2}
    assert all(row[1] == row[2] < 1 for item in items for row in item.zooms if row)


def test_in_plane_leaves_the_first_axis_alone(make_configuration):
    augmentation = Augmentation(rotation_radians=math.pi, in_plane=True)
    configuration = make_configuration((4, 16, 16), augmentation=augmentation)
    items = [draw_parameters(sample_generator(1, 0, 0, 0, index), configuration) for index in range(1000)]
    assert {len(item.angles) for item in items} == {0, 1}
    assert all(row[0] == 1 and row[1] == row[2] < 1 for item in items for row in item.zooms if row)
    assert any(0 in item.mirror for item in items)
    turned = next(item for item in items if item.angles)
    assert turned.matrix(planar=True).shape == (2, 2)


def test_mirror_axes_of_the_plan_hold(make_configuration):
    configuration = make_configuration((8, 8, 8), mirror_axes=(2,))
    items = [draw_parameters(sample_generator(1, 0, 0, 0, index), configuration) for index in range(50)]
    assert {axis for item in items for axis in item.mirror} == {2}


def test_nothing_happens_where_it_is_not_enabled(make_configuration):
    configuration = make_configuration((8, 8, 8), augmentation=Augmentation(enabled=False))
    for index in range(30):
        assert draw_parameters(sample_generator(1, 0, 0, 0, index), configuration) == SampleParameters()


def test_only_what_is_drawn_changes():
    before = torch.randn(3, 2, 5, 6, 7)
    label = torch.zeros(3, 1, 5, 6, 7, dtype=torch.int16)
    changes = {
        "noise_sigma": 0.1,
        "blur_sigmas": (None, (0.5, 0.6, 0.7)),
        "brightness": (1.1, 0.9),
        "contrast": (1.1, 0.9),
        "zooms": ((0.5, 0.5, 0.5), None),
        "inverted_gamma": (0.8, 1.2),
        "gamma": (0.8, 1.2),
    }
    untouched = {"blur_sigmas": 0, "zooms": 1}
    for field, value in changes.items():
        image = before.clone()
        apply(image, label, [SampleParameters(), SampleParameters(**{field: value}), SampleParameters()], [])
        assert torch.equal(image[0], before[0])
        assert torch.equal(image[2], before[2])
        for channel in (0, 1):
            assert torch.equal(image[1, channel], before[1, channel]) == (untouched.get(field) == channel)


def test_batch_equals_samples_one_by_one(make_configuration):
    configuration = make_configuration((9, 10, 11), num_channels=2)
    image = torch.randn(12, 2, 9, 10, 11)
    label = torch.zeros(12, 1, 9, 10, 11, dtype=torch.int16)
    items = [draw_parameters(sample_generator(2, 0, 0, 0, index), configuration) for index in range(12)]
    together, alone = image.clone(), image.clone()
    apply(together, label, items, [])
    for index, item in enumerate(items):
        apply(alone[index : index + 1], label[index : index + 1], [item], [])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    assert not torch.equal(together, image)


def test_masking_equals_batchgenerators():
    image = torch.randn(2, 3, 4, 5, 6)
    label = torch.randint(-1, 3, (2, 1, 4, 5, 6), dtype=torch.int16)
    expected = image.clone()
    for sample, segmentation in zip(expected, label, strict=True):
        MaskImageTransform([0, 2])(image=sample, segmentation=segmentation)
    apply(image, label, [SampleParameters()] * 2, [0, 2])
    assert torch.equal(image, expected)


def test_masking_comes_last():
    image, label = torch.ones(1, 1, 4, 4, 4), torch.full((1, 1, 4, 4, 4), -1, dtype=torch.int16)
    apply(image, label, [SampleParameters(noise_sigma=0.1, noise_seed=3, gamma=(0.8,))], [0])
    assert not image.any()


def test_parameters_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        SampleParameters().scale = 2.0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_equals_cpu(make_configuration):
    configuration = make_configuration((9, 10, 11), num_channels=2)
    image = torch.randn(12, 2, 9, 10, 11)
    label = torch.randint(-1, 2, (12, 1, 9, 10, 11), dtype=torch.int16)
    items = [draw_parameters(sample_generator(2, 0, 0, 0, index), configuration) for index in range(12)]
    items = [dataclasses.replace(item, noise_sigma=None) for item in items]  # another device draws another field
    there = image.cuda()
    apply(there, label.cuda(), items, [1])
    apply(image, label, items, [1])
    torch.testing.assert_close(there.cpu(), image, atol=1e-4, rtol=1e-4)


def cascade(make_configuration, num_labels=3):
    inputs = (Input(channels=2), Input(kind="previous", name="first", channels=num_labels))
    return make_configuration((16, 16, 16), num_channels=2, inputs=inputs, previous="first")


def test_a_cascade_draws_more_and_nothing_else(make_configuration):
    plain = make_configuration((16, 16, 16), num_channels=2)
    for index in range(200):
        first, second = (
            draw_parameters(sample_generator(3, 0, 0, 0, index), configuration)
            for configuration in (plain, cascade(make_configuration))
        )
        assert (first.shape_changes, first.lost_components) == ((), ())
        assert dataclasses.replace(second, shape_changes=(), lost_components=()) == first


def test_changes_of_the_previous_segmentation_have_their_probabilities(make_configuration):
    configuration = cascade(make_configuration)
    items = [draw_parameters(sample_generator(5, 0, 0, 0, index), configuration) for index in range(NUM_DRAWN)]
    some = 1 - 0.5**3  # of three labels at least one
    assert_fraction(sum(bool(item.shape_changes) for item in items), len(items), 0.4 * some)
    assert_fraction(sum(bool(item.lost_components) for item in items), len(items), 0.2 * some)
    changes = [change for item in items for change in item.shape_changes]
    for label in (1, 2, 3):
        assert_fraction(sum(change.label == label for change in changes), len(changes), 1 / 3)
        assert_fraction(sum(label in dict(item.lost_components) for item in items), len(items), 0.2 * 0.5)
    for operation in OPERATIONS:
        assert_fraction(sum(change.operation == operation for change in changes), len(changes), 1 / 4)
    assert stats.kstest([change.radius for change in changes], stats.uniform(1, 7).cdf).pvalue > 1e-3
    pairs = [item.shape_changes for item in items if len(item.shape_changes) == 2]
    assert_fraction(sum(first.label < second.label for first, second in pairs), len(pairs), 0.5)


def test_the_previous_segmentations_of_a_batch_are_changed_by_their_own_parameters():
    layers = torch.zeros(3, 9, 9, 9, dtype=torch.int16)
    layers[:, 4, 4, 4] = 1
    parameters = [
        SampleParameters(),
        SampleParameters(shape_changes=(ShapeChange(label=1, operation="dilation", radius=1.0),)),
        SampleParameters(lost_components=((1, 0.2),)),
    ]
    apply_to_previous(layers, parameters, planar=False)
    assert [int((layer == 1).sum()) for layer in layers] == [1, 7, 0]
    layers[0, 4, 4, 4] = 1
    apply_to_previous(layers[:1], parameters[1:2], planar=True)
    assert int((layers[0] == 1).sum()) == 5
