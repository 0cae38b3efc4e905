"""Real labels → maps → labels: what each target can hold at best."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from autoseg.targets.decode_affinity import decode_affinity
from autoseg.targets.decode_flow import decode_flow
from autoseg.targets.decode_watershed import decode_boundary, decode_components
from autoseg.targets.flow_encoding import encode_flow, encode_flow_slowly
from autoseg.targets.instance_encoding import BOUNDARY, INNER, boundary_width, encode_affinity, encode_boundary
from autoseg.targets.object_maps import number_objects


def read(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path))).astype(np.int32)


def width_of(ids: np.ndarray) -> int:
    numbers, count = number_objects(ids)
    sizes = np.bincount(numbers.ravel(), minlength=count + 1)[1:]
    diameters = 2 * np.sqrt(sizes / np.pi) if ids.ndim == 2 else np.cbrt(6 * sizes / np.pi)
    return boundary_width(np.median(diameters), np.percentile(diameters, 5))


def through_boundary(ids: np.ndarray) -> np.ndarray:
    maps = encode_boundary(ids, width_of(ids))
    return decode_boundary((maps == INNER) * np.float32(1), (maps == BOUNDARY) * np.float32(1))


def through_flow(ids: np.ndarray) -> np.ndarray:
    return decode_flow(encode_flow(ids), (ids > 0) * np.float32(1))


def through_affinity(ids: np.ndarray) -> np.ndarray:
    offsets = [tuple(far * (axis == k) for k in range(ids.ndim)) for far in (1, 4) for axis in range(ids.ndim)]
    return decode_affinity(encode_affinity(ids, offsets)[0].astype(np.float32), (ids > 0) * np.float32(1), offsets)


def check(images: list[np.ndarray], precision: Callable[..., Any]) -> None:
    def mean(decoded: list[np.ndarray], threshold: float, kind: int) -> float:
        values = [precision(ids, item, threshold)[kind] for ids, item in zip(images, decoded, strict=True)]
        return float(np.mean(values))

    flow, boundary, affinity = (
        [way(ids) for ids in images] for way in (through_flow, through_boundary, through_affinity)
    )
    assert mean(flow, 0.5, 0) >= 0.99
    assert mean(flow, 0.9, 0) >= 0.95
    # Not 1: a few objects are in pieces that touch at corners, or a rim one pixel thick around another's nucleus.
    assert mean(boundary, 0.5, 1) >= 0.999
    assert mean(boundary, 0.9, 0) >= 0.95
    assert mean(affinity, 0.5, 1) >= 0.995
    assert (
        mean([decode_components((ids > 0) * np.float32(1)) for ids in images], 0.5, 1) < mean(boundary, 0.5, 1) - 0.01
    )


@pytest.mark.data
def test_round_trip_of_some_nuclei(data_folder: Path, precision: Callable[..., Any], one_thread: None) -> None:
    check([read(path) for path in sorted((data_folder / "dsb2018_nuclei/labels").iterdir())[::12]], precision)


@pytest.mark.data
@pytest.mark.slow
def test_round_trip_of_all_nuclei(data_folder: Path, precision: Callable[..., Any]) -> None:
    images = [read(path) for path in sorted((data_folder / "dsb2018_nuclei/labels").iterdir())]
    assert len(images) == 244
    check(images, precision)


@pytest.mark.data
def test_round_trip_in_three_dimensions(data_folder: Path, precision: Callable[..., Any], one_thread: None) -> None:
    ids = read(data_folder / "stardist_mini/mask3d.tif")
    assert precision(ids, through_flow(ids), 0.5)[0] >= 0.99
    assert precision(ids, through_flow(ids), 0.9)[0] >= 0.95
    assert precision(ids, through_boundary(ids), 0.5)[1] == 1
    assert precision(ids, through_affinity(ids), 0.5)[1] == 1


@pytest.mark.data
def test_the_fast_flow_of_real_nuclei_is_about_the_slow_one(data_folder: Path, one_thread: None) -> None:
    ids = read(sorted((data_folder / "dsb2018_nuclei/labels").iterdir())[60])[:160, :160]
    fast, slow = encode_flow(ids), encode_flow_slowly(ids)
    cosine = (fast * slow).sum(0)[np.linalg.norm(slow, axis=0) > 0.5]
    assert len(cosine) > 500
    assert np.median(cosine) > 0.999
    assert np.mean(cosine > np.cos(np.radians(10))) > 0.97
