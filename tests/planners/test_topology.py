import math

import pytest

from planners.topology import topology

# Input and result of reference runs of nnU-Net v2.8.1's own topology function.
CHECKED = [
    ((1, 1, 1), (40, 56, 40), (40, 56, 40), ["2,2,2"] * 3),
    ((1, 1, 1), (128, 128, 128), (128, 128, 128), ["2,2,2"] * 5),
    ((3.6, 0.625, 0.625), (20, 320, 256), (20, 320, 256), ["1,2,2"] * 2 + ["2,2,2"] * 2 + ["1,2,2"] * 2),
    ((5, 1.5625, 1.5625), (18, 237, 208), (20, 256, 224), ["1,2,2", "2,2,2", "2,2,2", "1,2,2", "1,2,2"]),
    ((1.245, 0.785, 0.785), (80, 192, 160), (80, 192, 160), ["2,2,2"] * 4 + ["1,2,2"]),
    ((1, 1), (512, 512), (512, 512), ["2,2"] * 7),
]


@pytest.mark.parametrize(("spacing", "size", "patch", "strides"), CHECKED)
def test_checked_strides(
    spacing: tuple[float, ...], size: tuple[int, ...], patch: tuple[int, ...], strides: list[str]
) -> None:
    found = topology(spacing, size)
    assert [",".join(map(str, stride)) for stride in found.strides[1:]] == strides
    assert set(found.strides[0]) == {1}
    assert found.patch_size == patch
    assert found.divisor == tuple(math.prod(stride[axis] for stride in found.strides) for axis in range(len(size)))


def test_kernels_are_flat_until_spacings_are_alike() -> None:
    found = topology((3.6, 0.625, 0.625), (20, 320, 256))
    assert found.kernels == ((1, 3, 3),) * 2 + ((3, 3, 3),) * 5
    assert topology((5, 1.5625, 1.5625), (18, 237, 208)).kernels == ((1, 3, 3),) + ((3, 3, 3),) * 5


def test_a_spacing_of_exactly_twice_the_smallest_waits() -> None:
    found = topology((2.0, 1.0, 1.0), (64, 64, 64))
    assert found.strides[1] == (1, 2, 2)
    assert found.kernels[0] == (1, 3, 3)
    assert topology((1.99, 1.0, 1.0), (64, 64, 64)).strides[1] == (2, 2, 2)


def test_one_axis_alone_is_halved_from_twelve_voxels_on() -> None:
    assert len(topology((1, 1, 1), (11, 4, 4)).strides) == 1
    assert topology((1, 1, 1), (12, 4, 4)).strides == ((1, 1, 1), (2, 1, 1))
    assert topology((1, 1), (8, 8)).strides == ((1, 1), (2, 2))
    assert topology((1, 1), (7, 7)).strides == ((1, 1),)


def test_an_axis_too_short_to_halve_does_not_hold_others_back() -> None:
    """The smallest spacing counts among the axes that can still be halved; for kernels among all."""
    found = topology((4.0, 4.0, 1.0), (64, 64, 6))
    assert found.strides[1] == (2, 2, 1)
    assert found.kernels[0] == (1, 1, 3)


def test_halves_of_a_median_shape_are_rounded_up() -> None:
    assert topology((1, 1, 1), (35.5, 50, 33)).patch_size == (40, 56, 40)
    assert topology((1, 1, 1), (3.5, 64, 64)).patch_size[0] == 4


def test_deepest_kernel_is_three_everywhere() -> None:
    assert topology((50.0, 1.0, 1.0), (8, 16, 16)).kernels[-1] == (3, 3, 3)
