"""The sliding window equals a slow one that is easy to read, whatever the batches."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch import nn

from autoseg.compute import Compute
from autoseg.errors import DeviceError, ModelError, OptionError
from autoseg.inference import each_memory
from autoseg.inference.previous import one_hot
from autoseg.inference.sliding_window import WindowOptions, flip_maps, predict_each, predict_logits
from autoseg.inference.windows import gaussian, lay_windows, mirrored_forms, window_positions
from planners.plan import Input

CPU = Compute(device="cpu", precision="fp32", channels_last=False, threads=1, reasons=())


class SmallNet(nn.Module):
    """A convolution that is not symmetric, so that a wrong mirror or window shows."""

    def __init__(self, dimensions: int, seed: int = 0, padding: int = 1) -> None:
        super().__init__()
        torch.manual_seed(seed)
        convolution = nn.Conv2d if dimensions == 2 else nn.Conv3d
        self.first = convolution(1, 4, 3, padding=padding)
        self.second = convolution(4, 3, 1)
        self.batches: list[int] = []

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        self.batches.append(len(image))
        return [self.second(torch.tanh(self.first(image)))]


def slow_logits(networks, image_CZYX, configuration, forms, step=0.5):
    """Window by window, mirrored form by mirrored form, in float64."""
    patch = configuration.patch_shape
    lows, pads = [], []
    for size, edge in zip(image_CZYX.shape[1:], patch, strict=True):
        missing = max(edge - size, 0)
        lows.append(missing // 2)
        pads.append((missing // 2, missing - missing // 2))
    padded = np.pad(image_CZYX.numpy(), [(0, 0), *pads])
    impulse = np.zeros(patch)
    impulse[tuple(edge // 2 for edge in patch)] = 1
    weight = ndimage.gaussian_filter(impulse, [edge / 8 for edge in patch], mode="constant")
    flat = configuration.dimensions == 2
    starts = [
        range(padded.shape[1]) if flat and axis == 0 else window_positions(padded.shape[axis + 1], patch[axis], step)
        for axis in range(3)
    ]
    total, weights = np.zeros((3, *padded.shape[1:])), np.zeros(padded.shape[1:])
    for start in itertools.product(*starts):
        box = tuple(slice(low, low + edge) for low, edge in zip(start, patch, strict=True))
        for form in forms:
            axes = [axis + (2 if flat else 1) for axis in form]
            window = np.flip(padded[(slice(None), *box)], axes).copy()
            for network in networks:
                given_window = torch.from_numpy(window).double()[None]
                logits = network.double()(given_window[:, :, 0] if flat else given_window)[0][0]
                network.float()
                answer = logits.detach().numpy()
                answer = answer[:, None] if flat else answer
                total[(slice(None), *box)] += np.flip(answer, axes) * weight
                weights[box] += weight
    inside = tuple(slice(low, low + size) for low, size in zip(lows, image_CZYX.shape[1:], strict=True))
    return (total / weights)[(slice(None), *inside)]


@pytest.mark.parametrize(
    ("size", "window", "expected"),
    [
        (64, 64, (0,)),
        (40, 64, (0,)),
        (65, 64, (0, 1)),
        (110, 64, (0, 23, 46)),
        (128, 64, (0, 32, 64)),
        (5, 2, (0, 1, 2, 3)),
    ],
)
def test_positions(size, window, expected):
    assert window_positions(size, window) == expected


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 300), st.integers(1, 100), st.floats(0.1, 1.0))
def test_positions_cover_evenly(size, window, step):
    positions = window_positions(size, window, step)
    assert positions[0] == 0
    assert positions[-1] == max(size - window, 0)
    gaps = np.diff(positions)
    assert (gaps >= 0).all()
    if len(gaps):
        assert gaps.max() <= np.ceil(window * step)
        assert gaps.max() - gaps.min() <= 1


@pytest.mark.parametrize("size", [(40, 56, 40), (7, 9, 16), (5, 4)])
def test_gaussian_is_the_filtered_impulse(size):
    impulse = np.zeros(size)
    impulse[tuple(edge // 2 for edge in size)] = 1
    expected = ndimage.gaussian_filter(impulse, [edge / 8 for edge in size], mode="constant", truncate=8)
    weights = gaussian(size)
    assert weights.dtype == torch.float32
    assert weights.max() == 1 == weights[tuple(edge // 2 for edge in size)]
    assert weights.min() > 1e-11
    np.testing.assert_allclose(weights, expected / expected.max(), rtol=1e-5)


@pytest.mark.parametrize(
    ("patch", "shape", "mirror_axes"),
    [
        ((8, 6, 10), (13, 6, 21), (0, 1, 2)),
        ((8, 6, 10), (5, 9, 7), (0, 2)),
        ((7, 5, 6), (8, 11, 3), ()),
        ((6, 8), (3, 13, 8), (0, 1)),
        ((6, 8), (2, 4, 17), (1,)),
    ],
)
def test_equals_the_slow_way(make_configuration, patch, shape, mirror_axes):
    configuration = make_configuration(patch, mirror_axes=mirror_axes)
    image = torch.randn(1, *shape, generator=torch.Generator().manual_seed(1))
    networks = [SmallNet(len(patch), seed) for seed in range(2)]
    forms = [f for n in range(4) for f in itertools.combinations(mirror_axes, n)]
    expected = slow_logits(networks, image, configuration, forms)
    logits = predict_logits(networks, image, configuration, CPU)
    assert logits.dtype == torch.float32
    assert logits.is_contiguous()
    np.testing.assert_allclose(logits, expected, atol=2e-6)
    plain = predict_logits(networks, image, configuration, CPU, WindowOptions(mirror=False))
    np.testing.assert_allclose(plain, slow_logits(networks, image, configuration, [()]), atol=2e-6)


@settings(max_examples=15, deadline=None)
@given(st.integers(2, 3), st.lists(st.integers(1, 17), min_size=3, max_size=3), st.integers(1, 40))
def test_batches_do_not_change_the_result(make_configuration, dimensions, shape, windows_at_once):
    configuration = make_configuration((6, 8, 4)[:dimensions])
    image = torch.randn(1, *shape, generator=torch.Generator().manual_seed(2))
    network = SmallNet(dimensions)
    single = predict_logits([network], image, configuration, CPU, WindowOptions(batch_voxels=1))
    assert set(network.batches) == {1}
    voxels = windows_at_once * int(np.prod(configuration.patch_size))
    batched = predict_logits([network], image, configuration, CPU, WindowOptions(batch_voxels=voxels))
    assert max(network.batches) <= windows_at_once
    np.testing.assert_allclose(batched, single, atol=1e-6)


def test_every_voxel_keeps_its_value_up_to_the_corners(make_configuration):
    """Half-precision sums round a lone window's corners to whole numbers; ours must not."""
    configuration = make_configuration((32, 32, 32))
    image = torch.randn(1, 40, 32, 50, generator=torch.Generator().manual_seed(3))

    class Pointwise(nn.Module):
        def forward(self, window):
            return [torch.cat([window, window * 2.3, 0.4 - window], dim=1)]

    logits = predict_logits([Pointwise()], image, configuration, CPU)
    np.testing.assert_allclose(logits, Pointwise()(image[None])[0][0], rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("patch", [(8, 6, 8), (10, 8)])
def test_a_network_without_padding_needs_its_context(make_configuration, patch):
    """Only ``output_size`` is assumed: windows of a network that answers for less than it sees still fit together."""
    configuration = make_configuration(patch, output_size=tuple(size - 2 for size in patch))
    image = torch.randn(1, 9, 11, 7, generator=torch.Generator().manual_seed(4))
    network = SmallNet(len(patch), padding=0)
    whole = SmallNet(len(patch), padding=1)  # same weights; on the whole image it sees zeros beyond the border
    logits = predict_logits([network], image, configuration, CPU, WindowOptions(mirror=False))
    with torch.no_grad():
        expected = whole(image.transpose(0, 1))[0].transpose(0, 1) if len(patch) == 2 else whole(image[None])[0][0]
    np.testing.assert_allclose(logits, expected, atol=2e-6)


def test_networks_are_averaged_as_logits(make_configuration):
    configuration = make_configuration((6, 6, 6))
    image = torch.randn(1, 8, 8, 8)
    networks = [SmallNet(3, seed) for seed in range(3)]
    single = torch.stack([predict_logits([network], image, configuration, CPU) for network in networks])
    torch.testing.assert_close(predict_logits(networks, image, configuration, CPU), single.mean(0), atol=1e-6, rtol=0)


def test_a_target_may_bring_its_own_flip(make_configuration):
    """Vectors change sign with the axis they point along: the network's plain answer is already mirror-consistent."""
    configuration = make_configuration((6, 6, 6))
    image = torch.randn(1, 9, 8, 7)

    class Gradient(nn.Module):
        def forward(self, window):
            return [torch.cat([torch.gradient(window[:, 0], dim=axis)[0][:, None] for axis in (1, 2, 3)], dim=1)]

    def flip_vectors(maps, axes):
        signs = torch.tensor([-1.0 if axis in axes else 1.0 for axis in range(3)])
        return flip_maps(maps, axes) * signs[:, None, None, None]

    plain = predict_logits([Gradient()], image, configuration, CPU, WindowOptions(mirror=False))
    mirrored = predict_logits([Gradient()], image, configuration, CPU, WindowOptions(flip=flip_vectors))
    torch.testing.assert_close(mirrored, plain, atol=1e-5, rtol=0)
    wrong = predict_logits([Gradient()], image, configuration, CPU)
    assert (wrong - plain).abs().max() > 0.1


def test_mirrored_forms_are_all_subsets(make_configuration):
    assert mirrored_forms(make_configuration((4, 4, 4), mirror_axes=(0, 2))) == [(), (0,), (2,), (0, 2)]
    assert mirrored_forms(make_configuration((4, 4, 4)), mirror=False) == [()]


@pytest.mark.parametrize("step", [0.0, -0.5, 1.5])
def test_a_step_that_leaves_gaps_is_refused(make_configuration, step):
    with pytest.raises(OptionError, match="step is"):
        lay_windows((8, 8, 8), make_configuration((4, 4, 4)), step)


def test_memory_runs_out(make_configuration):
    """Fewer windows at once where the device is full; a message where not even one fits."""
    configuration = make_configuration((6, 6, 6))
    image = torch.randn(1, 8, 9, 10)

    class Hungry(SmallNet):
        limit = 3

        def forward(self, window):
            if len(window) > self.limit:
                raise torch.OutOfMemoryError("full")
            return super().forward(window)

    network = Hungry(3)
    logits = predict_logits([network], image, configuration, CPU)
    assert max(network.batches) <= 3
    torch.testing.assert_close(logits, predict_logits([SmallNet(3)], image, configuration, CPU), atol=1e-6, rtol=0)
    network.limit = 0
    with pytest.raises(DeviceError, match=r"not enough free memory for one window of 6 × 6 × 6"):
        predict_logits([network], image, configuration, CPU)


def test_logits_that_are_not_finite(make_configuration, capsys):
    configuration = make_configuration((6, 6, 6))
    image = torch.randn(1, 8, 8, 8)

    class Overflowing(SmallNet):
        def forward(self, window):
            low_precision = torch.is_autocast_enabled("cpu")
            return [logits / (0 if low_precision or self.broken else 1) for logits in super().forward(window)]

    network = Overflowing(3)
    network.broken = False
    logits = predict_logits([network], image, configuration, Compute(**{**vars(CPU), "precision": "bf16"}))
    assert torch.isfinite(logits).all()
    assert "again in fp32" in capsys.readouterr().err
    network.broken = True
    with pytest.raises(ModelError, match="not finite"):
        predict_logits([network], image, configuration, CPU)


def cascade(make_configuration, patch, **fields):
    inputs = (Input(channels=1), Input(kind="previous", name="first", channels=3))
    return make_configuration(patch, inputs=inputs, previous="first", **fields)


class WideNet(nn.Module):
    """As ``SmallNet``, for one image channel and three of a previous segmentation."""

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        torch.manual_seed(1)
        convolution = nn.Conv2d if dimensions == 2 else nn.Conv3d
        self.first, self.second = convolution(4, 4, 3, padding=1), convolution(4, 4, 1)

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        return [self.second(torch.tanh(self.first(image)))]


def image_and_previous(seed, shape):
    rng = np.random.default_rng(seed)
    image = torch.from_numpy(rng.normal(size=(1, *shape)).astype(np.float32))
    return image, torch.from_numpy(rng.integers(0, 4, shape).astype(np.uint8))


@pytest.mark.parametrize("patch", [(8, 8, 8), (8, 8)])
def test_a_previous_segmentation_is_seen_as_channels(make_configuration, patch):
    """The slow way: all channels of the whole image beside it, as an image of four channels."""
    image, previous = image_and_previous(0, (6, 13, 11))
    network = WideNet(len(patch))
    together = torch.cat([image, torch.from_numpy(one_hot(previous.numpy(), 4))])
    expected = predict_logits([network], together, make_configuration(patch, num_channels=4, num_outputs=4), CPU)
    configuration = cascade(make_configuration, patch, num_outputs=4)
    found = predict_logits([network], image, configuration, CPU, previous_ZYX=previous)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    wide = torch.from_numpy(previous.numpy().astype(np.uint16))
    assert torch.equal(predict_logits([network], image, configuration, CPU, previous_ZYX=wide), found)
    assert not torch.equal(
        predict_logits([network], image, configuration, CPU, previous_ZYX=torch.zeros_like(previous)), found
    )


@pytest.mark.parametrize(("patch", "axis"), [((8, 8, 8), 2), ((8, 8), 0)])
def test_left_and_right_of_the_previous_segmentation_change_places(make_configuration, patch, axis):
    """A mirrored image, with left and right exchanged in what was found before, gives mirrored logits, exchanged."""

    def flip(maps, axes):
        turned = maps.flip([one + 1 for one in axes]) if axes else maps
        return turned[[0, 3, 2, 1]] if axis in axes else turned

    fields = {"num_outputs": 4, "mirror_swaps": ((1, 3),), "mirror_swap_axis": axis}
    configuration = cascade(make_configuration, patch, **fields)
    options, network = WindowOptions(flip=flip), WideNet(len(patch))
    along = axis + 3 - len(patch)
    shape = [8 if one == along else 12 for one in range(3)]  # one window along that axis: its weights are not symmetric
    image, previous = image_and_previous(1, shape)
    logits = predict_logits([network], image, configuration, CPU, options, previous_ZYX=previous)
    swapped = torch.tensor([0, 3, 2, 1], dtype=torch.uint8)[previous.long()].flip(along)
    mirrored = predict_logits([network], image.flip(along + 1), configuration, CPU, options, previous_ZYX=swapped)
    torch.testing.assert_close(mirrored, logits.flip(along + 1)[[0, 3, 2, 1]], rtol=0, atol=1e-5)
    plain = predict_logits([network], image.flip(along + 1), configuration, CPU, options, previous_ZYX=previous)
    assert not torch.allclose(plain, mirrored, atol=1e-3)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_every_network_alone(make_configuration, dimensions):
    """What is kept of each equals a run of its own, and asking for it changes no bit of the mean."""
    configuration = make_configuration((8,) * dimensions)
    networks = [SmallNet(dimensions, seed) for seed in range(3)]
    image = torch.randn(1, 5, 13, 11, generator=torch.Generator().manual_seed(0))
    mean, none = predict_each(networks, image, configuration, CPU)
    with_each, alone = predict_each(networks, image, configuration, CPU, WindowOptions(each=True))
    assert torch.equal(mean, with_each)
    assert torch.equal(mean, predict_logits(networks, image, configuration, CPU))
    assert not none
    for network, own in zip(networks, alone, strict=True):
        assert own.dtype == torch.float16
        np.testing.assert_allclose(own, predict_logits([network], image, configuration, CPU), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("patch", [(8, 8), (8, 8, 8)])
def test_networks_one_after_the_other_where_memory_is_short(make_configuration, monkeypatch, capsys, patch):
    """The same bits, from one float32 map at a time; the mean is not computed in another way either."""
    configuration = make_configuration(patch)
    networks = [SmallNet(len(patch), seed) for seed in range(3)]
    image = torch.randn(1, 5, 13, 11, generator=torch.Generator().manual_seed(0))
    options = WindowOptions(each=True)
    mean, alone = predict_each(networks, image, configuration, CPU, options)
    assert "one after the other" not in capsys.readouterr().err
    extent = math.prod(lay_windows((5, 13, 11), configuration).extent)
    needed = 3 * extent * (4 * 4 + 2)
    monkeypatch.setattr(each_memory, "host_memory_bytes", lambda: needed)
    predict_each(networks, image, configuration, CPU, options)
    assert "one after the other" not in capsys.readouterr().err
    monkeypatch.setattr(each_memory, "host_memory_bytes", lambda: needed - 1)
    for network in networks:
        network.batches.clear()
    found, single = predict_each(networks, image, configuration, CPU, options)
    assert "tiny: memory holds no sums of 3 networks at once; one after" in capsys.readouterr().err
    assert torch.equal(found, mean)
    assert len(single) == 3
    assert all(torch.equal(one, other) for one, other in zip(single, alone, strict=True))
    windows = len(lay_windows((5, 13, 11), configuration).windows) * 2 ** len(patch)
    assert [sum(network.batches) for network in networks] == [2 * windows] * 3, "once for the mean, once alone"


def test_logits_beyond_float16_stay_finite(make_configuration):
    class Huge(nn.Module):
        def forward(self, image):
            return [torch.cat([image, -image, image], 1) * 1e6]

    configuration = make_configuration((8, 8, 8))
    image = torch.ones(1, 8, 8, 8)
    _, (alone,) = predict_each([Huge()], image, configuration, CPU, WindowOptions(each=True))
    assert bool(torch.isfinite(alone).all())
    assert alone[0].min() == 65504
