"""Surface distances equal those of independent packages, and the known ones of simple shapes."""

import math
import random
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from autoseg.evaluation import nearest
from autoseg.evaluation.metric_options import MetricOptions
from autoseg.evaluation.overlap import Structure
from autoseg.evaluation.pairs import Pair, make_pair, make_pairs
from autoseg.evaluation.surface import DirectedDistances, assd, hd, hd95, measure_surfaces, nsd
from autoseg.evaluation.surface_elements import element_areas, neighbour_codes, on_surface
from autoseg.evaluation.voxel_borders import border_assd, border_distances_mm, border_hd, border_hd95

SPACINGS = [(1.0, 1.0, 1.0), (5.0, 0.7, 0.7), (0.3, 2.0, 1.1), (1.7, 0.2, 3.3)]
TOLERANCES_MM = (0.0, 0.7, 1.0, 2.0)
DEFAULT = MetricOptions()


def blob(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """A random mask, from single voxels to smooth lumps, that may lie at the border of the image."""
    noise = ndimage.gaussian_filter(rng.normal(size=shape), rng.choice([0.0, 1.0, 2.0, 3.0]))
    return noise > rng.choice([0.0, 0.5, 1.0, 1.5]) * noise.std()


def other_mask(rng: np.random.Generator, mask: np.ndarray) -> np.ndarray:
    """A mask to compare with: another one, the same moved, a part of it, a thin plate, a voxel, or what is left."""
    kind = int(rng.integers(6))
    if kind == 0:
        return np.roll(mask, int(rng.integers(1, 4)), int(rng.integers(mask.ndim)))
    if kind == 1:
        return ndimage.binary_erosion(mask)
    if kind == 2:
        plate = np.zeros_like(mask)
        plate[(slice(None),) * int(rng.integers(mask.ndim)) + (int(rng.integers(min(mask.shape))),)] = True
        return plate
    if kind == 3:
        voxel = np.zeros_like(mask)
        voxel[tuple(int(rng.integers(size)) for size in mask.shape)] = True
        return voxel
    return ~mask if kind == 4 else blob(rng, mask.shape)


def random_pairs(count: int) -> Iterator[tuple[int, np.ndarray, np.ndarray, tuple[float, ...]]]:
    """Pairs of masks that both hold a voxel, every third in 2D, every second of odd spacing."""
    made, seed = 0, 0
    while made < count:
        rng = np.random.default_rng(seed)
        dims = 2 if seed % 3 == 0 else 3
        shape = tuple(int(size) for size in rng.integers(1 if seed % 5 == 0 else 4, 30 if dims == 2 else 16, dims))
        mask = blob(rng, shape)
        other = other_mask(rng, mask)
        spacing = rng.uniform(0.3, 4, dims) if seed % 2 else rng.choice([0.5, 1, 2, 3, 5], dims)
        seed += 1
        if mask.any() and other.any():
            made += 1
            yield seed, mask, other, tuple(spacing.tolist())


def ours(pair: Pair) -> np.ndarray:
    values = [hd(pair, DEFAULT), hd95(pair, DEFAULT), assd(pair, DEFAULT)]
    values += [nsd(pair, MetricOptions(tolerance_mm=tolerance)) for tolerance in TOLERANCES_MM]
    return np.array(values, dtype=float)


def deepmind(label: np.ndarray, prediction: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    import surface_distance

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it calls scipy by an old name
        found = surface_distance.compute_surface_distances(label, prediction, spacing)
    values = [surface_distance.compute_robust_hausdorff(found, percent) for percent in (100, 95)]
    values += [np.mean(surface_distance.compute_average_surface_distance(found))]
    values += [surface_distance.compute_surface_dice_at_tolerance(found, tolerance) for tolerance in TOLERANCES_MM]
    return np.array(values, dtype=float)


def check_equal(label: np.ndarray, prediction: np.ndarray, spacing: tuple[float, ...]) -> None:
    expected = deepmind(label, prediction, spacing)
    np.testing.assert_allclose(ours(make_pair(label, prediction, spacing)), expected, rtol=1e-9, atol=1e-12)


def test_random_masks_equal_deepmind() -> None:
    for _, label, prediction, spacing in random_pairs(200):
        check_equal(label, prediction, spacing)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_areas_of_all_codes_equal_deepmind(spacing: tuple[float, ...]) -> None:
    from surface_distance import lookup_tables

    codes = np.arange(256)
    backwards = sum((codes >> bit & 1) << (7 - bit) for bit in range(8))  # the package counts its corners backwards
    table = lookup_tables.create_table_neighbour_code_to_surface_area(spacing)
    np.testing.assert_allclose(element_areas(spacing), table[backwards], rtol=1e-12)
    lengths = lookup_tables.create_table_neighbour_code_to_contour_length(spacing[1:])
    backwards = sum((codes[:16] >> bit & 1) << (3 - bit) for bit in range(4))
    np.testing.assert_allclose(element_areas(spacing[1:]), lengths[backwards], rtol=1e-12)


@pytest.mark.parametrize("shape", [(5, 4, 6), (7, 9), (1, 1, 1), (1, 5)])
def test_codes_equal_their_definition(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    mask = np.random.default_rng(0).random(shape) > 0.5
    framed = np.pad(mask, 1)
    expected = np.zeros([size + 1 for size in shape], dtype=np.uint8)
    for bit, corner in enumerate(np.ndindex((2,) * len(shape))):
        part = framed[tuple(slice(first, first + size + 1) for first, size in zip(corner, shape, strict=True))]
        expected |= part.astype(np.uint8) << bit
    for slab in (1, 1 << 20):
        monkeypatch.setattr("autoseg.evaluation.surface_elements.SLAB_BYTES", slab)
        codes = neighbour_codes(mask, (2,) * len(shape))
        np.testing.assert_array_equal(codes, np.pad(expected, 2))
    np.testing.assert_array_equal(on_surface(expected), (expected > 0) & (expected < 2**2 ** len(shape) - 1))


@pytest.mark.parametrize("steps", [1, 30, 5000])
def test_window_and_tree_equal_distance_transform(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """All by the tree, some by each, all by the window: the same as scipy's transform."""
    monkeypatch.setattr(nearest, "WINDOW_STEPS", steps)
    nearest.window.cache_clear()
    for seed, label, prediction, spacing in random_pairs(12):
        reach = nearest.window(spacing, steps).reach
        grids = [np.pad(mask, [(size, size) for size in reach]) for mask in (label, prediction)]
        points = [np.flatnonzero(grid) for grid in grids]
        order, distances = nearest.nearest_mm(points[0], grids[1], points[1], spacing)
        expected = ndimage.distance_transform_edt(~grids[1], sampling=spacing).ravel()[points[0]]
        np.testing.assert_allclose(distances, expected[order], rtol=1e-12, err_msg=str(seed))
        np.testing.assert_array_equal(np.sort(order), np.arange(points[0].size))
        assert (np.diff(distances) >= -1e-12).all()


def test_moved_cube() -> None:
    """Moved along an axis by more than its side, the far face alone is that far from the other cube."""
    label = np.zeros((8, 10, 40), dtype=bool)
    label[2:6, 3:7, 2:6] = True
    prediction = np.roll(label, 20, axis=2)
    pair = make_pair(label, prediction, (3.0, 2.0, 0.5))
    assert hd(pair, DEFAULT) == hd95(pair, DEFAULT) == 20 * 0.5
    surfaces = pair.surfaces
    assert surfaces.from_label.distances_mm[0] == 16 * 0.5
    np.testing.assert_allclose(surfaces.from_label.mean_mm(), (8 + 10) / 2)
    # moved by one voxel: one face lies a step off as a whole, of the other what the moved cube's sides do not hold
    near = make_pair(label, np.roll(label, 1, axis=2), (1.0, 1.0, 1.0))
    assert hd(near, DEFAULT) == 1.0
    assert nsd(near, MetricOptions(tolerance_mm=1.0)) == 1.0
    face = 3 * 3 + 4 * 3 * math.sqrt(0.5) + 4 * math.sqrt(3) / 8  # its middle, its edges and its corners
    moved = near.surfaces.from_label
    assert moved.areas.size == 5**3 - 3**3
    assert math.isclose(moved.area - moved.area_within(0.5), face + 3 * 3, rel_tol=1e-9)


def test_spheres_have_the_known_area_and_distance() -> None:
    grid = np.indices((62, 62, 62)) - 30.5
    radius = np.sqrt((grid**2).sum(axis=0))
    pair = make_pair(radius < 20, radius < 26, (1.0, 1.0, 1.0))
    assert math.isclose(pair.surfaces.from_label.area, 4 * math.pi * 20**2, rel_tol=0.1)  # marching cubes on bits
    # the elements are up to half a voxel's diagonal before and behind the sphere; the nearest is before it
    assert math.isclose(hd(pair, DEFAULT) or 0, 6, abs_tol=0.9)
    assert 5.1 < (assd(pair, DEFAULT) or 0) < 6
    assert nsd(pair, MetricOptions(tolerance_mm=4.2)) == 0
    assert nsd(pair, MetricOptions(tolerance_mm=7.0)) == 1


def test_one_square_in_2d() -> None:
    label, prediction = np.zeros((2, 9, 9), dtype=bool)
    label[4, 4] = prediction[4, 7] = True
    pair = make_pair(label, prediction, (2.0, 1.0))
    assert pair.surfaces.from_label.areas.tolist() == [math.hypot(2, 1) / 2] * 4
    assert pair.surfaces.from_label.distances_mm.tolist() == [2.0, 2.0, 3.0, 3.0]
    assert (hd(pair, DEFAULT), assd(pair, DEFAULT), nsd(pair, MetricOptions(tolerance_mm=2.0))) == (3.0, 2.5, 0.5)


def test_symmetric_and_scales_with_spacing() -> None:
    for _, label, prediction, spacing in random_pairs(20):
        forth, back = (ours(make_pair(*masks, spacing)) for masks in ((label, prediction), (prediction, label)))
        np.testing.assert_allclose(forth, back, rtol=1e-12)
        large = make_pair(label, prediction, tuple(4 * value for value in spacing))
        np.testing.assert_allclose(ours(large)[:3], 4 * forth[:3], rtol=1e-12)
        flipped = make_pair(label[::-1, ::-1], prediction[::-1, ::-1], spacing)
        np.testing.assert_allclose(ours(flipped), forth, rtol=1e-9)


def test_empty_masks() -> None:
    empty, full = np.zeros((4, 5, 6), dtype=bool), np.ones((4, 5, 6), dtype=bool)
    for label, prediction, surface_dice in ((empty, full, 0.0), (full, empty, 0.0), (empty, empty, None)):
        pair = make_pair(label, prediction, (1.0, 1.0, 1.0))
        distances = [metric(pair, DEFAULT) for metric in (hd, hd95, assd, border_hd, border_hd95, border_assd)]
        assert distances == [None] * 6
        assert nsd(pair, DEFAULT) == surface_dice
        assert not pair.surfaces.measured
    assert measure_surfaces(make_pair(empty, full, (1.0, 1.0, 1.0))).from_prediction.area > 0
    whole = make_pair(full, full, (1.0, 1.0, 1.0))
    assert [metric(whole, DEFAULT) for metric in (hd, hd95, assd, nsd)] == [0, 0, 0, 1]


def test_percentile_takes_the_distance_that_exactly_reaches_it() -> None:
    directed = DirectedDistances(distances_mm=np.arange(1.0, 21.0), areas=np.full(20, 0.1))
    assert directed.percentile_mm(95) == 19
    assert directed.percentile_mm(100) == 20


def test_border_voxels_equal_their_definition() -> None:
    for seed, label, prediction, spacing in random_pairs(40):
        pair = make_pair(label, prediction, spacing)
        label_border, border = (mask ^ ndimage.binary_erosion(mask) for mask in (label, prediction))
        forth = ndimage.distance_transform_edt(~border, sampling=spacing)[label_border]
        back = ndimage.distance_transform_edt(~label_border, sampling=spacing)[border]
        expected = [
            max(forth.max(), back.max()),
            max(np.percentile(forth, 95), np.percentile(back, 95)),
            np.concatenate((forth, back)).mean(),
        ]
        values = [metric(pair, DEFAULT) for metric in (border_hd, border_hd95, border_assd)]
        np.testing.assert_allclose(values, expected, rtol=1e-9, atol=1e-12, err_msg=str(seed))
        distances = border_distances_mm(pair)
        assert distances is not None
        np.testing.assert_allclose(distances[0], np.sort(forth), rtol=1e-9)


@pytest.mark.slow  # imports torch and MONAI
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_border_voxels_equal_monai() -> None:
    import torch
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance

    for seed, label, prediction, spacing in random_pairs(40):
        pair = make_pair(label, prediction, spacing)
        one, other = (torch.from_numpy(mask)[None, None] for mask in (prediction, label))
        expected = [
            float(compute_hausdorff_distance(one, other, True, spacing=spacing)),
            float(compute_hausdorff_distance(one, other, True, percentile=95, spacing=spacing)),
            float(compute_average_surface_distance(one, other, True, symmetric=True, spacing=spacing)),
        ]
        values = [metric(pair, DEFAULT) for metric in (border_hd, border_hd95, border_assd)]
        np.testing.assert_allclose(values, expected, rtol=1e-5, err_msg=str(seed))  # it computes in single precision


@pytest.mark.parametrize("ignore", [None, 4])
def test_pairs_of_a_map_equal_pairs_of_masks(ignore: int | None) -> None:
    structures = [Structure(name=str(classes), classes=classes) for classes in ((1,), (2, 3), (0, 1), (9,), (3,))]
    for seed in range(12):
        rng = np.random.default_rng(seed)
        shape = (9, 14) if seed % 2 else (6, 9, 11)
        label, prediction = (np.where(blob(rng, shape), rng.integers(0, 4, shape), 0) for _ in range(2))
        label[rng.random(shape) > 0.9] = 0 if ignore is None else ignore
        spacing = (1.0, 2.0, 3.0)[: len(shape)]
        pairs = list(make_pairs(label.astype(np.uint8), prediction.astype(np.int16), structures, spacing, ignore))
        for structure, pair in zip(structures, pairs, strict=True):
            known = np.ones(shape, dtype=bool) if ignore is None else label != ignore
            expected = make_pair(
                np.isin(label, structure.classes) & known, np.isin(prediction, structure.classes) & known, spacing
            )
            np.testing.assert_array_equal(pair.label, expected.label)
            np.testing.assert_array_equal(pair.prediction, expected.prediction)
            assert (pair.origin, pair.shape, pair.spacing_mm) == (expected.origin, shape, spacing)


def test_pairs_of_maps_of_unequal_shape_are_refused() -> None:
    maps = np.zeros((3, 4), dtype=np.uint8), np.zeros((4, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match=r"label has shape \(3, 4\), prediction has \(4, 3\)"):
        list(make_pairs(*maps, [], (1.0, 1.0)))


def read(path: Path) -> np.ndarray:
    import SimpleITK as sitk

    return sitk.GetArrayFromImage(sitk.ReadImage(str(path))).astype(np.int16)


def changed(masks: list[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Each mask against itself moved, against its erosion, and against the next one, cropped to a common shape."""
    for mask, following in zip(masks, masks[1:] + masks[:1], strict=True):
        yield mask, np.roll(mask, (1, 2), (0, 2))
        yield mask, ndimage.binary_erosion(mask)
        common = tuple(slice(min(sizes)) for sizes in zip(mask.shape, following.shape, strict=True))
        yield mask[common], following[common]


@pytest.mark.data
def test_hippocampus_equals_deepmind(data_folder: Path) -> None:
    files = random.Random(0).sample(sorted((data_folder / "hippocampus" / "labelsTr").glob("*.nii.gz")), 3)
    masks = [read(path) == value for path in files for value in (1, 2)]
    compared = [pair for pair in changed(masks) if all(mask.any() for mask in pair)]
    assert len(compared) == 18
    for label, prediction in compared:
        check_equal(label, prediction, (1.0, 1.0, 1.0))


@pytest.mark.data
def test_brats_equals_deepmind(data_folder: Path) -> None:
    cut = (slice(50, 100), slice(80, 170), slice(60, 150))  # the package takes half a minute for the whole images
    labels = [read(path)[cut] for path in sorted((data_folder / "brats2015_deepmedic").rglob("OTMultiClass.nii.gz"))]
    masks = [label > 0 for label in labels[:2]] + [label == 4 for label in labels[:1]]
    compared = [pair for pair in changed(masks) if all(mask.any() for mask in pair)]
    assert len(compared) >= 6
    for label, prediction in compared[:6]:
        check_equal(label, prediction, (2.5, 1.0, 1.0))
