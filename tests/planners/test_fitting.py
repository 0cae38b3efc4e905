import dataclasses
import math
from itertools import pairwise

import pytest

from planners import low_resolution
from planners.fitting import Limits, MisfitError, candidates, choose_batch_size, explain_patch, fit_patch, most_voxels
from planners.low_resolution import find_low_resolution
from planners.plan import MemoryBudget
from planners.presets import DEFAULT, PRESETS, Preset

EIGHT = Limits(preset=DEFAULT, budget=MemoryBudget(), num_labels=3)


def limits(gigabytes: float) -> Limits:
    return dataclasses.replace(EIGHT, budget=MemoryBudget(device_bytes=int(gigabytes * 1e9)))


# Spacing, median shape, cases, label values; patch and batch in 3D, patch and batch in 2D: reference runs.
CHECKED = [
    ((1, 1, 1), (36, 50, 35), 260, 3, (40, 56, 40), 9, (56, 40), 366),
    ((1, 1, 1), (138, 170, 138), 484, 4, (128, 128, 128), 2, (192, 160), 105),
    ((1, 0.7676, 0.7676), (482, 512, 512), 131, 3, (128, 128, 128), 2, (512, 512), 12),
    ((3.6, 0.625, 0.625), (20, 320, 319), 32, 3, (20, 320, 256), 2, (320, 320), 32),
    ((5, 1.5625, 1.5625), (18, 237, 208), 200, 4, (20, 256, 224), 4, (256, 224), 56),
    ((1.245, 0.785, 0.785), (252, 512, 512), 63, 2, (80, 192, 160), 2, (512, 512), 12),
]


@pytest.mark.parametrize(("spacing", "shape", "cases", "labels", "patch", "batch", "patch_2d", "batch_2d"), CHECKED)
def test_checked_patches_and_batches(spacing, shape, cases, labels, patch, batch, patch_2d, batch_2d) -> None:  # type: ignore[no-untyped-def]
    given, voxels = dataclasses.replace(EIGHT, num_labels=labels), math.prod(shape) * cases
    fit = fit_patch(given, spacing, shape)
    assert (fit.patch_size, choose_batch_size(fit, given, voxels).value) == (patch, batch)
    fit = fit_patch(given, spacing[1:], shape[1:])
    assert (fit.patch_size, choose_batch_size(fit, given, voxels).value) == (patch_2d, batch_2d)


def test_checked_low_resolution() -> None:
    spacing, shape = (1, 0.7676, 0.7676), (482, 512, 512)
    found = find_low_resolution(fit_patch(EIGHT, spacing, shape), EIGHT, spacing, shape)
    assert found.rule == "patch-sees-too-little"
    assert found.value is not None
    assert found.value.spacing_mm == pytest.approx((2.5001, 1.9191, 1.9191), abs=1e-4)
    assert found.value.median_shape == (193, 205, 205)
    assert found.value.fit.patch_size == (128, 128, 128)
    assert found.because.startswith("a patch sees 2 % of the median case (< 25 %)")


def test_the_axis_longest_against_the_median_shape_gives_way_the_last_of_equals() -> None:
    spacing, shape = (1.0, 1.0, 1.0), (170.0, 170.0, 170.0)
    steps = list(candidates(EIGHT, spacing, shape))
    assert steps[1].shrunk == (2,)
    for before, after in pairwise(steps[:12]):
        ratios = [size / median for size, median in zip(before.patch_size, shape, strict=True)]
        assert ratios[after.shrunk[-1]] == max(ratios)


def test_search_stops_at_the_first_patch_that_fits() -> None:
    steps = list(candidates(EIGHT, (1.0, 1.0, 1.0), (200, 200, 200)))
    for gigabytes in (1, 2, 8, 24):
        given = limits(gigabytes)
        fit = fit_patch(given, (1.0, 1.0, 1.0), (200, 200, 200))
        index = [step.patch_size for step in steps].index(fit.patch_size)
        assert given.needed(fit.elements, 3) <= given.allowed(3)
        assert all(given.needed(step.elements, 3) > given.allowed(3) for step in steps[:index])


def test_an_axis_of_one_voxel_is_passed_over() -> None:
    last = list(candidates(EIGHT, (8.0, 1.0, 1.0), (2, 300, 300)))[-1]
    assert last.patch_size[0] == 1
    assert max(last.patch_size) < 24


@pytest.mark.parametrize(
    ("voxels", "rule", "expected"),
    [(1e4, "minimum-batch", 2), (1e7, "dataset-fraction", 6), (1e12, "fill-budget", 58)],
)
def test_batch_rules(voxels: float, rule: str, expected: int) -> None:
    fit = fit_patch(EIGHT, (1, 1, 1), (36, 50, 35))
    found = choose_batch_size(fit, EIGHT, voxels)
    assert (found.rule, found.value) == (rule, expected)


def test_batch_reasons_hold_the_numbers() -> None:
    fit = fit_patch(EIGHT, (1, 1, 1), (36, 50, 35))
    assert choose_batch_size(fit, EIGHT, 1e7).because == "5 % of the dataset's 10.0 M voxels; memory holds 58"
    assert choose_batch_size(fit, EIGHT, 1e12).because == "memory: 560 M elements / 19.2 M per patch × 2"
    assert choose_batch_size(fit, limits(0.1), 1e12).because == "the minimum; memory holds 1"


def test_patch_reasons_hold_the_numbers() -> None:
    small, large = fit_patch(EIGHT, (1, 1, 1), (36, 50, 35)), fit_patch(EIGHT, (1, 1, 1), (138, 170, 138))
    found = explain_patch(small, EIGHT)
    assert found.rule == "first-patch-fits"
    assert found.because == "36 × 50 × 35, up to multiples of 8 × 8 × 8; 2 patches: 19.2 M of 560 M elements"
    found = explain_patch(large, EIGHT)
    assert found.rule == "shorten-longest-axis"
    assert "shortened z 1×, y 2×, x 1×, always the axis longest against the median shape" in found.because
    assert found.because.endswith("453 M of 560 M elements")


def test_too_small_images_need_no_budget_but_voxels() -> None:
    with pytest.raises(MisfitError, match="the median shape 7 × 7 × 11 is too small") as fault:
        fit_patch(EIGHT, (1, 1, 1), (7, 7, 11))
    assert fault.value.least_bytes is None


def test_low_resolution_reasons() -> None:
    def decide(shape: tuple[int, int, int]) -> tuple[str, str]:
        found = find_low_resolution(fit_patch(EIGHT, (1, 1, 1), shape), EIGHT, (1, 1, 1), shape)
        return found.rule, found.because

    assert decide((36, 50, 35)) == ("patch-sees-enough", "a patch sees 100 % of the median case (≥ 25 %)")
    rule, because = decide((220, 220, 220))
    assert rule == "too-little-gain"
    assert because.startswith("a patch sees 20 % of the median case (< 25 %), but on the grid that it sees")


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.name)
@pytest.mark.parametrize("gigabytes", [0.5, 8, 80])
def test_no_patch_that_fits_has_more_voxels_than_the_bound(preset: Preset, gigabytes: float) -> None:
    given = dataclasses.replace(limits(gigabytes), preset=preset)
    for spacing, shape in [((1.0, 1.0, 1.0), (500, 500, 500)), ((5.0, 1.0, 1.0), (60, 900, 900)), ((1, 1), (4e3, 4e3))]:
        for fit in candidates(given, spacing, shape):
            fits = given.needed(fit.elements, len(spacing)) <= given.allowed(len(spacing))
            assert not fits or math.prod(fit.patch_size) < most_voxels(given, len(spacing))


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.name)
def test_passing_over_hopeless_grids_changes_nothing(preset: Preset, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [((1, 0.7676, 0.7676), (482, 512, 512)), ((5.0, 0.8, 0.8), (90, 512, 512)), ((1, 1, 1), (220, 220, 220))]
    given = dataclasses.replace(limits(4), preset=preset)

    def search() -> list[object]:
        return [find_low_resolution(fit_patch(given, *case), given, *case) for case in cases]

    fast = search()
    monkeypatch.setattr(low_resolution, "most_voxels", lambda limits, dimensions: math.inf)
    assert search() == fast
