"""The compiled operators equal torch's own, forward and backward, against float64; also as built for a plain CPU."""

import ctypes
import itertools
import platform
import shutil

import pytest
import torch
from torch.autograd import grad
from torch.nn import functional

from autoseg import native
from autoseg.networks import fused

pytestmark = pytest.mark.usefixtures("compiled")

# Rounding of float32, in units of the deviation of what is compared (Winograd with tiles of 4: largest seen 2e-5).
EXACT = 1e-4


def compare(fast, slow, tensors, tolerance=EXACT):
    """Results and gradients of both functions of the same tensors; the slow one sees float64."""
    answers = []
    for function, dtype in ((fast, None), (slow, torch.float64)):
        inputs = [item.to(dtype or item.dtype).detach().requires_grad_() for item in tensors]
        result = function(*inputs)
        torch.manual_seed(7)
        direction = torch.randn(result.shape)
        answers.append((result, *grad((result * direction.to(result.dtype)).sum(), inputs)))
    for found, exact in zip(*answers, strict=True):
        assert found.shape == exact.shape
        error = (found.double() - exact).abs().max() / exact.std().clamp_min(1e-3)
        assert error < tolerance


def draw(*shape):
    return torch.randn(*shape)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize("tiles", [*itertools.product((2, 4), repeat=3), (1, 4, 2), (2, 1, 4), (1, 1, 2)])
def test_winograd_equals_convolution(tiles):
    kernel = [1 if tile == 1 else 3 for tile in tiles]
    x, weight, bias = draw(2, 32, 5, 9, 6), draw(48, 32, *kernel), draw(48)
    compare(
        lambda *t: fused._Winograd.apply(*t, tiles),
        lambda *t: functional.conv3d(*t, padding=[size // 2 for size in kernel]),
        (x, weight, bias),
    )


@pytest.mark.parametrize(
    ("shape", "kernel", "stride", "channels"),
    [
        ((8, 12, 10), (3, 3, 3), (1, 1, 1), (16, 32)),
        ((8, 12, 10), (3, 3, 3), (2, 2, 2), (16, 32)),
        ((8, 12, 10), (1, 3, 3), (1, 2, 2), (32, 16)),
        ((8, 12, 10), (3, 3, 3), (1, 1, 1), (2, 24)),
        ((2, 2, 2), (3, 3, 3), (1, 1, 1), (64, 64)),
        ((14, 11), (3, 3), (1, 1), (16, 16)),
        ((14, 11), (3, 3), (2, 2), (3, 16)),
    ],
)
def test_convolve_equals_convolution(shape, kernel, stride, channels):
    tensors = draw(2, channels[0], *shape), draw(channels[1], channels[0], *kernel), draw(channels[1])
    slow = functional.conv3d if len(shape) == 3 else functional.conv2d
    compare(
        lambda *t: fused.convolve(*t, stride, {}),
        lambda *t: slow(*t, stride=stride, padding=[size // 2 for size in kernel]),
        tensors,
    )


@pytest.mark.parametrize(
    ("shape", "kernel", "stride", "channels"),
    [
        ((6, 7, 9), (3, 3, 3), (2, 2, 2), (16, 32)),
        ((6, 7, 9), (1, 3, 3), (1, 2, 2), (32, 48)),
        ((5, 7, 9), (3, 3, 3), (1, 1, 1), (1, 32)),
        ((5, 7, 9), (3, 3, 3), (3, 2, 1), (3, 16)),
        ((4, 3, 5), (3, 3, 3), (1, 1, 1), (64, 64)),
        ((5, 6, 7), (5, 5, 5), (1, 1, 1), (16, 16)),
        ((2, 2, 2), (5, 3, 7), (1, 2, 2), (2, 16)),
        ((5, 3, 6), (2, 2, 4), (2, 1, 2), (20, 16)),
        ((14, 11), (7, 7), (2, 2), (3, 16)),
        ((40, 37), (3, 3), (2, 1), (24, 16)),
    ],
)
def test_the_plain_sum_of_prediction_equals_convolution(shape, kernel, stride, channels):
    x, weight, bias = draw(2, channels[0], *shape), draw(channels[1], channels[0], *kernel), draw(channels[1])
    slow = functional.conv3d if len(shape) == 3 else functional.conv2d
    padding = [(size - 1) // 2 for size in kernel]
    exact = slow(x.double(), weight.double(), bias.double(), stride=stride, padding=padding)
    with torch.no_grad():
        spread = fused._spread(weight, 1, 0)
        found = fused._direct(fused._last(x), fused._pack(spread), weight, bias, stride)
        kept = {}
        chosen = fused.convolve(x, weight, bias, stride, kept)
    for result in (found, chosen):
        assert result.shape == exact.shape
        assert (result.double() - exact).abs().max() < EXACT * exact.std()
    assert len(kept) == 1, "one form of the weights is kept"


def test_tiles_fit_the_shape():
    assert fused.choose_tiles((7, 40, 56, 40), (3, 3, 3), 32, 32) == (4, 4, 4)
    assert fused.choose_tiles((7, 1, 56, 40), (1, 3, 3), 32, 32) == (1, 4, 4)
    assert fused.choose_tiles((7, 2, 56, 40), (3, 3, 3), 32, 32) == (2, 4, 4)
    assert fused.choose_tiles((1, 2, 2, 2), (3, 3, 3), 256, 256) is None, "transforming the weights costs more"
    assert fused.choose_tiles((7, 40, 56, 40), (1, 1, 1), 32, 32) is None
    assert fused.choose_tiles((7, 40, 56, 40), (5, 5, 5), 32, 32) is None


def test_kept_weights_follow_the_weights():
    x, weight, bias, kept = draw(1, 16, 8, 8, 8), draw(16, 16, 3, 3, 3), draw(16), {}
    with torch.no_grad():
        first = fused.convolve(x, weight, bias, (1, 1, 1), kept)
        assert torch.equal(fused.convolve(x, weight, bias, (1, 1, 1), kept), first)
        weight *= 2
        second = fused.convolve(x, weight, torch.zeros(16), (1, 1, 1), kept)
    torch.testing.assert_close(second, 2 * (first - bias.view(1, -1, 1, 1, 1)), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("stride", [(2, 2, 2), (1, 2, 2), (4, 1, 2), (2, 2)])
def test_upsample_join_equals_transposed_convolution_and_concatenation(stride):
    coarse_shape = (3, 4, 5)[: len(stride)]
    fine_shape = [size * step for size, step in zip(coarse_shape, stride, strict=True)]
    coarse, weight, bias, skip = draw(2, 32, *coarse_shape), draw(32, 16, *stride), draw(16), draw(2, 48, *fine_shape)
    transposed = functional.conv_transpose3d if len(stride) == 3 else functional.conv_transpose2d
    compare(
        fused.upsample_join,
        lambda c, w, b, s: torch.cat((transposed(c, w, b, stride=stride), s), 1),
        (coarse, weight, bias, skip),
    )


def slow_norm(x, weight, bias):
    return functional.leaky_relu(functional.instance_norm(x, weight=weight, bias=bias, eps=1e-5), 0.01)


@pytest.mark.parametrize("shape", [(2, 32, 5, 7, 6), (3, 16, 20, 24, 11), (2, 48, 19, 3)])
def test_norm_act_equals_norm_then_activation(shape):
    far = 100 * draw(shape[0], shape[1], *(1,) * (len(shape) - 2))
    tensors = draw(*shape) + far, draw(shape[1]), draw(shape[1])
    compare(lambda *t: fused.norm_act(*t, 1e-5, 0.01), slow_norm, tensors)


def test_norm_act_in_bfloat16_rounds_only_what_it_reads_and_writes():
    x, weight, bias = draw(2, 32, 6, 7, 8).bfloat16(), draw(32), draw(32)
    result = fused.norm_act(x.requires_grad_(), weight, bias, 1e-5, 0.01)
    exact = slow_norm(x.double(), weight.double(), bias.double())
    assert result.dtype == torch.bfloat16
    half_step = 2.0**-8
    assert ((result.double() - exact).abs() <= half_step * exact.abs() * 1.01 + 1e-5).all()
    direction = torch.randn(result.shape).bfloat16()
    (found,) = grad((result * direction).sum(), x)
    (wanted,) = grad((exact * direction.double()).sum(), x)
    assert (found.double() - wanted).abs().max() / wanted.std() < 0.1  # the activation's bend is met from both sides


def test_bfloat16_keeps_nan_and_infinity():
    x = torch.full((1, 16, 2, 2, 2), 3.0).bfloat16()
    x[0, 0, 0, 0, 0] = float("nan")
    with torch.no_grad():
        result = fused.norm_act(x, torch.ones(16), torch.zeros(16), 1e-5, 0.01)
    assert result[0, 0].isnan().all()
    assert (result[0, 1:] == 0).all(), "a constant channel becomes its shift"


def test_gradient_of_a_joined_tensor_needs_no_copy():
    joined = draw(2, 48, 4, 5, 6).contiguous(memory_format=torch.channels_last_3d)
    rows, pitch = fused._rows(joined[:, 16:])
    assert pitch == 48
    assert rows.data_ptr() == joined[:, 16:].data_ptr()
    rows, pitch = fused._rows(draw(2, 48, 4, 5, 6))
    assert pitch == 48
    assert rows.is_contiguous(memory_format=torch.channels_last_3d)


def test_the_number_of_threads_does_not_matter():
    for threads in (2, 3):
        torch.set_num_threads(threads)
        test_winograd_equals_convolution((4, 4, 4))
        test_norm_act_equals_norm_then_activation((3, 16, 20, 24, 11))
        test_upsample_join_equals_transposed_convolution_and_concatenation((2, 2, 2))


def test_many_threads_share_their_sums(monkeypatch):
    torch.set_num_threads(2)
    monkeypatch.setattr(fused, "MOST_SUMS", 1)
    test_winograd_equals_convolution((4, 4, 4))


def test_steps_are_equal_bit_for_bit():
    torch.set_num_threads(2)
    x, weight, bias = draw(2, 32, 9, 8, 7), draw(32, 32, 3, 3, 3).requires_grad_(), draw(32).requires_grad_()

    def once():
        result = fused.norm_act(fused._Winograd.apply(x, weight, bias, (4, 4, 4)), bias, bias, 1e-5, 0.01)
        return (result.detach(), *grad((result**2).sum(), (weight, bias)))

    first = once()
    for _ in range(3):
        assert all(torch.equal(a, b) for a, b in zip(first, once(), strict=True))


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="flags of another processor")
def test_a_plain_processor_gets_the_same_numbers(monkeypatch, tmp_path):
    """Without AVX-512 the inner loop has another shape."""
    flags = tuple(flag for flag in native.FLAGS if flag != "-march=native")
    library = native._declare(ctypes.CDLL(str(native.build(shutil.which("cc") or "gcc", tmp_path, flags))))
    monkeypatch.setattr(native, "kernels", lambda: native.Kernels(library, "for the test"))
    test_winograd_equals_convolution((4, 2, 4))
    test_upsample_join_equals_transposed_convolution_and_concatenation((2, 2, 2))
    test_norm_act_equals_norm_then_activation((2, 32, 5, 7, 6))
