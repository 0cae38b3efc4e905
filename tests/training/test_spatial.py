"""The fast way to rotate, scale and mirror equals ``grid_sample`` and batchgeneratorsv2."""

import itertools
import math

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.spatial.spatial import (
    SpatialTransform,
    create_affine_matrix_2d,
    create_affine_matrix_3d,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import grid_sample, pad

from autoseg.training import spatial
from autoseg.training.augmentation import SampleParameters
from autoseg.training.sampling import BatchSource, Sample
from autoseg.training.spatial import MARGIN, PaddedBox, PatchFrame, affine_matrix, loader_shape, needed_box, resample
from planners.plan import Augmentation


@pytest.mark.parametrize(
    ("patch", "degrees", "planar", "expected"),
    [
        ((128, 128, 128), 30, False, (205, 205, 205)),
        ((64, 160, 192), 30, False, (159, 275, 233)),
        ((16, 320, 256), 180, True, (16, 376, 376)),
        ((1, 512, 512), 180, True, (1, 602, 602)),
        ((1, 320, 192), 15, True, (1, 422, 225)),
    ],
)
def test_loader_shape_is_that_of_nnunet(patch, degrees, planar, expected):
    assert loader_shape(patch, math.radians(degrees), planar) == expected


def test_matrix_equals_that_of_batchgenerators():
    angles = (0.3, -0.2, 0.5)
    np.testing.assert_allclose(affine_matrix(angles, 1.3), create_affine_matrix_3d(angles, [1.3] * 3), atol=1e-12)
    np.testing.assert_allclose(affine_matrix((0.7,), 0.8), create_affine_matrix_2d(0.7, [0.8] * 2), atol=1e-12)


def reference(case, sample, frame, dimensions):
    """The loader patch read whole, then batchgeneratorsv2's transform with the same angles and scale, then flipped."""
    stop = [first + size for first, size in zip(sample.corner, frame.loader, strict=True)]
    image, label = (torch.from_numpy(array) for array in case.read(sample.corner, stop))
    parameters = sample.parameters
    patch = frame.patch[frame.first_axis :]
    transform = SpatialTransform(
        patch,
        patch_center_dist_from_border=0,
        random_crop=False,
        p_rotation=1,
        rotation=lambda image, dim: (parameters.angles or (0, 0, 0))[dim if len(patch) == 3 else 0],
        p_scaling=1,
        scaling=lambda image, dim: parameters.scale,
        p_synchronize_scaling_across_axes=1,
        border_mode_seg="constant",
        padding_value_seg=-1,
    )
    if frame.planar:  # slices as channels, as nnU-Net does
        made = transform(image=image.flatten(0, 1), segmentation=label.flatten(0, 1))
        image, label = made["image"].unflatten(0, image.shape[:2]), made["segmentation"].unflatten(0, label.shape[:2])
    else:
        made = transform(image=image, segmentation=label)
        image, label = made["image"], made["segmentation"]
    axes = [axis + 1 for axis in parameters.mirror]
    return image.flip(axes), label.flip(axes)


CASES = {
    "3d": ((16, 18, 13), (40, 33, 37), Augmentation(rotation_radians=math.pi / 6)),
    "3d, case smaller than the patch": ((16, 20, 16), (11, 25, 9), Augmentation(rotation_radians=math.pi / 6)),
    "in plane": ((4, 20, 17), (7, 31, 40), Augmentation(rotation_radians=math.pi, in_plane=True)),
    "2d": ((20, 22), (5, 30, 24), Augmentation(rotation_radians=math.pi)),
}


@pytest.mark.parametrize("name", CASES)
def test_equals_batchgenerators(name, make_case, make_configuration):
    patch, shape, augmentation = CASES[name]
    configuration = make_configuration(patch, num_channels=2, augmentation=augmentation)
    case = make_case(shape, num_channels=2, num_classes=4)
    source = BatchSource([case], configuration, seed=3, augment=True)
    rng = np.random.default_rng(5)
    different = total = 0
    for step in range(6):
        angles = tuple(rng.uniform(-1, 1, 1 if source.frame.planar else 3) * augmentation.rotation_radians)
        drawn = source.samples(0, step)[step % 2]
        mirror = tuple(axis for axis in drawn.parameters.mirror)
        parameters = SampleParameters(angles=angles if step else (), scale=rng.uniform(0.7, 1.4), mirror=mirror)
        sample = Sample(case=case, corner=drawn.corner, parameters=parameters)
        image, label = reference(case, sample, source.frame, len(patch))
        source.samples = lambda epoch, step, sample=sample: (sample,)
        gathered = source.gather(0, 0)
        assert set(gathered.boxes) == {0}
        box = gathered.boxes[0]
        resample(box, gathered.image[0], gathered.label[0])
        del source.samples
        torch.testing.assert_close(gathered.image[0], image, atol=2e-4, rtol=0)
        different += int((gathered.label[0] != label).sum())
        total += label.numel()
    assert different <= 1e-4 * total  # places within rounding of an even vote


def padded(image, label, dimensions):
    widths = [width for axis in range(3) for width in (MARGIN if axis < dimensions else (0, 0))]
    return pad(image, widths), pad(label, widths, value=-1)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), flat=st.booleans())
def test_equals_grid_sample_and_a_vote_by_every_label(seed, flat):
    rng = np.random.default_rng(seed)
    dimensions = 2 if flat else 3
    size = (3 if flat else int(rng.integers(2, 9)), int(rng.integers(2, 9)), int(rng.integers(2, 9)))
    shape = (size[0] if flat else 6, 7, 5)
    image = torch.from_numpy(rng.standard_normal((2, *size))).float()
    label = torch.from_numpy(rng.integers(-1, 4, (1, *size))).to(torch.int8)
    matrix = rng.uniform(-1, 1, (dimensions, dimensions))
    center = tuple(float(value) for value in rng.uniform(0, 5, dimensions))
    wide_image, wide_label = padded(image, label, dimensions)
    before = tuple(value + MARGIN[0] for value in center)
    box = PaddedBox(image_CZYX=wide_image, label_LZYX=wide_label, matrix=matrix, center=before)
    out = torch.empty(2, *shape), torch.empty(1, *shape, dtype=torch.int16)
    resample(box, *out)

    offsets = [np.arange(n) - (n - 1) / 2 for n in shape[-dimensions:]]
    grid = np.stack(np.meshgrid(*offsets, indexing="ij"), -1) @ matrix.T + center
    normalized = torch.from_numpy((2 * grid + 1) / np.array(size[-dimensions:]) - 1).flip(-1)[None]
    as_channels = image.reshape(1, -1, *size[-dimensions:]).double()
    expected = grid_sample(as_channels, normalized, align_corners=False).reshape(out[0].shape)
    torch.testing.assert_close(out[0].double(), expected, atol=1e-4, rtol=0)

    flat_label = label.reshape(1, -1, *size[-dimensions:]).double()
    shares = []
    for value in range(-1, 4):  # −1 is padded by sampling its share less 1 and adding 1 afterwards
        padding = int(value == -1)
        one_hot = (flat_label == value).double() - padding
        shares.append(grid_sample(one_hot, normalized, align_corners=False) + padding)
    shares = torch.stack(shares).reshape(5, *out[1].shape)
    best = shares.sort(0).values
    clear = best[-1] - best[-2] > 1e-3
    assert torch.equal(out[1][clear], (shares.argmax(0) - 1).to(torch.int16)[clear])
    mine = shares.gather(0, out[1].long()[None] + 1)[0]
    assert torch.all(mine > best[-1] - 1e-3)


def test_even_votes_go_to_the_nearest_voxel():
    label = torch.tensor([0, 2, 2, 1], dtype=torch.int8).reshape(1, 1, 1, 4)
    image = torch.zeros(1, 1, 1, 4)
    wide = padded(image, label, 2)
    # places 0.5 ± tiny: the shares are even in half precision, the nearest voxel is not
    for shift, expected in ((-1e-5, [0, 2, 2]), (1e-5, [2, 2, 1])):
        matrix = np.eye(2)
        box = PaddedBox(image_CZYX=wide[0], label_LZYX=wide[1], matrix=matrix, center=(1.0, 2.5 + shift))
        out = torch.empty(1, 1, 1, 3), torch.empty(1, 1, 1, 3, dtype=torch.int16)
        resample(box, *out)
        assert out[1].flatten().tolist() == expected


def test_even_votes_without_the_nearest_voxel_go_to_the_lowest_label():
    ways = [torch.tensor([0.45])] * 3
    #                  nearest  x  y  xy  z  xz  yz  xyz: labels 7 and 3 have two voxels each, at equal distances
    values = torch.tensor([[5], [7], [3], [7], [6], [3], [8], [9]], dtype=torch.int8)
    assert spatial._vote_of_several(values, values[0], ways).tolist() == [3]


def test_result_does_not_depend_on_chunks(monkeypatch):
    torch.manual_seed(0)
    image, label = torch.randn(1, 12, 13, 14), torch.randint(-1, 3, (1, 12, 13, 14), dtype=torch.int8)
    wide = padded(image, label, 3)
    box = PaddedBox(
        image_CZYX=wide[0], label_LZYX=wide[1], matrix=affine_matrix((0.2, 0.4, 0.1), 1.1), center=(7.0,) * 3
    )
    results = []
    for chunk in (1, 200, 10**6):
        monkeypatch.setattr(spatial, "CHUNK", chunk)
        out = torch.empty(1, 10, 11, 9), torch.empty(1, 10, 11, 9, dtype=torch.int16)
        resample(box, *out)
        results.append(out)
    for out in results[1:]:
        assert torch.equal(out[0], results[0][0])
        assert torch.equal(out[1], results[0][1])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), planar=st.booleans())
def test_needed_box_holds_every_neighbour_within_the_loader_patch(seed, planar):
    rng = np.random.default_rng(seed)
    z, y, x = (int(value) for value in rng.integers(4, 30, 3))
    loader = loader_shape((z, y, x), math.pi / 6, planar)
    frame = PatchFrame(patch=(z, y, x), loader=loader, planar=planar)
    angles = rng.uniform(-math.pi / 6, math.pi / 6, 1 if planar else 3)
    matrix = affine_matrix(tuple(angles), rng.uniform(0.7, 1.4))
    box = needed_box(matrix, frame)
    first = frame.first_axis
    corners = np.array(list(itertools.product(*((-(n - 1) / 2, (n - 1) / 2) for n in frame.patch[first:]))))
    places = corners @ matrix.T + (np.array(frame.loader[first:]) - 1) / 2
    for axis, (start, stop) in enumerate(box[first:]):
        assert 0 <= start < stop <= frame.loader[axis + first]
        assert start <= max(0, math.floor(places[:, axis].min()))
        assert stop >= min(frame.loader[axis + first], math.floor(places[:, axis].max()) + 2)
    if planar:
        assert box[0] == (0, z)


def test_cut_out_patch_lies_in_the_middle_of_the_loader_patch():
    frame = PatchFrame(patch=(10, 11, 6), loader=(17, 18, 6), planar=True)
    assert needed_box(None, frame) == ((3, 13), (4, 15), (0, 6))
