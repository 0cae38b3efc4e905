import numpy as np
import pytest

from planners.geometry import axis_order, first_patch, median_resampled_shape, reorder, target_spacing


def test_spacing_is_the_median_per_axis() -> None:
    found = target_spacing([(1, 2, 3), (1, 2, 5), (3, 2, 9)], [(100, 100, 100)] * 3)
    assert found.value == (1, 2, 5)
    assert found.rule == "median-spacing"
    assert found.because == "median of 3 cases, per axis"


def test_through_plane_axis_takes_its_tenth_percentile() -> None:
    spacings = [(float(z), 1.0, 1.0) for z in range(2, 13)]
    found = target_spacing(spacings, [(20, 300, 300)] * 11)
    assert found.value == (3.0, 1.0, 1.0)
    assert found.rule == "through-plane-percentile"
    assert "7.0 > 3 times coarser, 20 < 300 / 3 slices" in found.because


def test_through_plane_axis_stays_the_coarsest() -> None:
    spacings = [(0.5, 1.0, 1.0)] * 2 + [(6.0, 1.0, 1.0)] * 5
    found = target_spacing(spacings, [(20, 300, 300)] * 7)
    assert found.value == (1.0 + 1e-5, 1.0, 1.0)


@pytest.mark.parametrize(
    ("spacing", "shape"),
    [
        ((3.0, 1.0, 1.0), (20, 300, 300)),  # three times, not more
        ((5.0, 1.0, 1.0), (100, 300, 300)),  # a third of the slices, not fewer
        ((5.0, 5.0, 1.0), (20, 300, 300)),  # two coarse axes: none is far from the others
    ],
)
def test_anisotropy_is_strict(spacing: tuple[float, float, float], shape: tuple[int, int, int]) -> None:
    assert target_spacing([spacing, spacing], [shape, shape]).rule == "median-spacing"


@pytest.mark.parametrize(
    ("spacing", "order"),
    [((1, 1, 1), (0, 1, 2)), ((1, 2, 2), (1, 0, 2)), ((1, 1, 3), (2, 0, 1)), ((3, 1, 3), (0, 1, 2))],
)
def test_largest_spacing_comes_first(spacing: tuple[float, float, float], order: tuple[int, int, int]) -> None:
    assert axis_order(spacing).value == order
    assert reorder(spacing, order)[0] == max(spacing)


def test_reason_names_the_axis_as_read() -> None:
    assert axis_order((1.0, 1.0, 2.5)).because == "x as read has the largest spacing (2.5 mm), so it comes first"


def test_median_shape_rounds_each_case_half_to_even_then_takes_the_median() -> None:
    shapes, spacings = [(5, 10, 10), (7, 20, 10)], [(0.5, 1.0, 1.0), (0.5, 1.0, 2.0)]
    assert median_resampled_shape(spacings, shapes, (1.0, 1.0, 1.0)) == (3.0, 15.0, 15.0)  # 2.5 -> 2 and 3.5 -> 4


def test_first_patch_is_a_cube_in_millimetres() -> None:
    assert first_patch((1.0, 1.0, 1.0), (900, 900, 900)) == (256, 256, 256)
    assert first_patch((1.0, 1.0), (9000, 9000)) == (2048, 2048)
    patch = np.array(first_patch((4.0, 1.0, 1.0), (900, 900, 900)))
    assert tuple(patch) == (102, 406, 406)
    assert np.ptp(patch * (4.0, 1.0, 1.0)) <= 4


def test_first_patch_is_clipped_to_the_median_shape_and_keeps_halves() -> None:
    assert first_patch((1.0, 1.0, 1.0), (35.5, 900, 20)) == (35.5, 256, 20)
