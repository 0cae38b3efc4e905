"""Shapes of labels change as with scipy and a footprint, on the whole patch and with one-hot channels: the slow way."""

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.nnunet import random_binary_operator
from scipy import ndimage
from skimage.morphology import ball, disk

from autoseg.training.morphology import LARGEST_REMOVED, OPERATIONS, ShapeChange, change_shapes, remove_components

SHAPE = (14, 19, 17)


def footprint(radius, planar=False):
    reach = int(radius)
    offsets = np.indices((2 * reach + 1,) * 3) - reach
    found = (offsets**2).sum(0) <= radius**2
    return found[reach : reach + 1] if planar else found


def slow(operation, mask, structure):
    """Nothing grows in from beyond the edge, and nothing is eroded from there."""
    if operation == "dilation":
        return ndimage.binary_dilation(mask, structure)
    if operation == "erosion":
        return ndimage.binary_erosion(mask, structure, border_value=1)
    first, second = ("dilation", "erosion") if operation == "closing" else ("erosion", "dilation")
    return slow(second, slow(first, mask, structure), structure)


def random_layer(seed, shape=SHAPE, num_classes=4):
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.standard_normal(shape), 1.5)
    edges = np.quantile(smooth, np.linspace(0.4, 1, num_classes)[:-1])
    return np.digitize(smooth, edges).astype(np.int16)


@pytest.mark.parametrize("radius", [1.0, 1.5, 2.0, 3.7, 8.0])
@pytest.mark.parametrize("operation", list(OPERATIONS))
@pytest.mark.parametrize("planar", [False, True])
def test_operations_equal_a_footprint(operation, radius, planar):
    mask = random_layer(3) > 1
    assert mask[0].any(), "the mask touches the edge"
    found = OPERATIONS[operation](torch.from_numpy(mask), radius, planar).numpy()
    expected = slow(operation, mask, footprint(radius, planar))
    np.testing.assert_array_equal(found, expected)
    assert radius > 3 or (found != mask).any()


@pytest.mark.parametrize("radius", [1, 2, 5])
def test_the_footprint_is_the_usual_ball_and_disk(radius):
    np.testing.assert_array_equal(footprint(radius), ball(radius))
    np.testing.assert_array_equal(footprint(radius, planar=True)[0], disk(radius))


def slow_changes(layer, changes, planar):
    """As on one-hot channels: what a channel gains, the others lose."""
    channels = {label: layer == label for label in range(1, 4)}
    for change in changes:
        before = channels[change.label]
        after = slow(change.operation, before, footprint(change.radius, planar))
        for label in channels:
            channels[label] = after if label == change.label else channels[label] & ~(after & ~before)
    return sum(label * mask for label, mask in channels.items())


@pytest.mark.parametrize("shape", [SHAPE, (1, 30, 25)])
@pytest.mark.parametrize("seed", range(4))
def test_changes_of_several_labels_equal_the_slow_way(shape, seed):
    rng = np.random.default_rng(seed)
    changes = [
        ShapeChange(label=int(label), operation=list(OPERATIONS)[rng.integers(4)], radius=rng.uniform(1, 4))
        for label in rng.permutation(3) + 1
    ]
    planar = shape[0] == 1
    layer = random_layer(seed, shape)
    layer[:, :, :3] = 0
    found = torch.from_numpy(layer.copy())
    change_shapes(found, changes, planar=planar)
    expected = slow_changes(layer, changes, planar)
    np.testing.assert_array_equal(found.numpy(), expected)
    assert (expected != layer).any()


def test_an_absent_label_changes_nothing():
    layer = torch.zeros(5, 6, 7, dtype=torch.int16)
    layer[2, 2, 2] = 1
    before = layer.clone()
    change_shapes(layer, [ShapeChange(label=2, operation="dilation", radius=3.0)], planar=False)
    remove_components(layer, [(2, 0.5)])
    assert torch.equal(layer, before)


def test_one_small_component_vanishes():
    layer = np.zeros((10, 12, 11), dtype=np.int16)
    layer[0, 0, 0] = layer[1, 1, 1] = 1  # touch over a corner
    layer[5, 5, 5] = 1
    layer[8:, 8:, 8:] = 2
    layer[9, 2, 2] = 1
    vanished = set()
    for pick in (0.0, 0.4, 0.99):
        found = torch.from_numpy(layer.copy())
        remove_components(found, [(1, pick)])
        gone = np.argwhere(found.numpy() != layer)
        assert (found.numpy()[tuple(gone.T)] == 0).all()
        vanished.add(tuple(map(tuple, gone)))
    assert vanished == {((0, 0, 0), (1, 1, 1)), ((5, 5, 5),), ((9, 2, 2),)}


@pytest.mark.parametrize("layers", [14, 15])
def test_a_large_component_stays(layers):
    layer = torch.zeros(100, 4, 4, dtype=torch.int16)
    layer[:layers] = 1
    remove_components(layer, [(1, 0.3)])
    assert bool(layer.any()) == (layers / 100 >= LARGEST_REMOVED)


@pytest.mark.parametrize("name", list(OPERATIONS))
@pytest.mark.parametrize("radius", [1, 3])
def test_changes_are_those_of_batchgenerators(name, radius):
    """There a whole number of voxels makes the usual ball; between whole numbers its ball is another."""
    operation = getattr(random_binary_operator, f"binary_{name}_torch")
    layer = random_layer(8)
    channels = torch.from_numpy(np.stack([layer == label for label in (1, 2, 3)]).astype(np.float32))
    transform = random_binary_operator.ApplyRandomBinaryOperatorTransform(channel_idx=(0, 1, 2))
    parameters = {"apply_to_channels": [1, 0], "operators": [operation] * 2, "strel_size": [radius] * 2}
    expected = transform._apply_to_image(channels, **parameters)
    found = torch.from_numpy(layer.copy())
    changes = [ShapeChange(label=label, operation=name, radius=float(radius)) for label in (2, 1)]
    change_shapes(found, changes, planar=False)
    np.testing.assert_array_equal(found.numpy(), sum(label * expected[label - 1].numpy() for label in (1, 2, 3)))
