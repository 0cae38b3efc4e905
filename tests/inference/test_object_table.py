"""The table of objects and their outlines hold what the map of ids holds."""

import csv
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from skimage.measure import regionprops

from autoseg.data.image import Geometry, flat_geometry
from autoseg.inference.geojson import geojson_text
from autoseg.inference.instances import SegmentedObjects
from autoseg.inference.object_table import find_places, table_text
from autoseg.preprocessing import instance_stats
from planners.labels import LabelClass, Labels
from planners.object_numbers import number_objects

LABELS = Labels(
    classes=(LabelClass(name="no", value=0), LabelClass(name='a "b", c', value=4), LabelClass(name="Zelle µ", value=2))
)
MAPS = arrays(np.int32, array_shapes(min_dims=3, max_dims=3, max_side=7), elements=st.integers(0, 5))
IMAGES = arrays(
    np.int32, array_shapes(min_dims=2, max_dims=2, max_side=12).map(lambda s: (1, *s)), elements=st.integers(0, 2)
)


def objects_of(ids: np.ndarray) -> SegmentedObjects:
    ids, count = number_objects(ids)
    rng = np.random.default_rng(count)
    probabilities = np.r_[0, rng.uniform(0.5, 1, count)].astype(np.float32)
    return SegmentedObjects(ids=ids, classes=np.r_[0, rng.integers(1, 3, count)], probabilities=probabilities)


@settings(max_examples=60, deadline=None)
@given(MAPS)
def test_places_are_those_of_scikit_image(ids: np.ndarray) -> None:
    ids, count = number_objects(ids)
    places = find_places(ids, count)
    regions = regionprops(ids)
    assert len(regions) == len(places.voxels) == count
    for index, region in enumerate(regions):
        assert places.voxels[index] == region.num_pixels
        np.testing.assert_allclose(places.centroids[index], region.centroid, atol=1e-9)
        assert tuple(places.first[index]) == region.bbox[:3]
        assert tuple(places.last[index] + 1) == region.bbox[3:]


def test_parts_of_a_map_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    ids, count = number_objects(np.random.default_rng(1).integers(0, 9, (5, 6, 7)))
    whole = find_places(ids, count)
    monkeypatch.setattr(instance_stats, "PART_VOXELS", 14)
    for one, other in zip(vars(whole).values(), vars(find_places(ids, count)).values(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_table_reads_back(tmp_path) -> None:
    objects = objects_of(np.random.default_rng(2).integers(0, 4, (3, 4, 5)))
    places = find_places(objects.ids, len(objects))
    (tmp_path / "a.csv").write_text(table_text(objects, places, LABELS, Geometry(spacing_mm=(2.0, 0.5, 0.25))))
    with (tmp_path / "a.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["id"]) for row in rows] == [1, 2, 3]
    assert [row["class"] for row in rows] == [LABELS.names[index] for index in objects.classes[1:]]
    assert [float(row["volume_mm3"]) for row in rows] == (places.voxels * 0.25).tolist()
    assert [float(row["mean_probability"]) for row in rows] == pytest.approx(
        objects.probabilities[1:].tolist(), abs=1e-4
    )
    flat = objects_of(np.eye(4, dtype=np.int32)[None])
    header = table_text(flat, find_places(flat.ids, 1), LABELS, flat_geometry((0.5, 0.25))).splitlines()[0]
    assert "area_mm2" in header
    assert "_z" not in header


def shoelace(ring: list[list[int]]) -> float:
    x, y = np.array(ring, dtype=float).T
    return float(np.dot(x[:-1], y[1:]) - np.dot(x[1:], y[:-1])) / 2


@settings(max_examples=60, deadline=None)
@given(IMAGES)
def test_geojson_is_valid_and_exact(ids: np.ndarray) -> None:
    objects = objects_of(ids)
    places = find_places(objects.ids, len(objects))
    collection = json.loads(geojson_text(objects, places, LABELS))
    assert collection["type"] == "FeatureCollection"
    assert [feature["id"] for feature in collection["features"]] == list(range(1, len(objects) + 1))
    for number, feature in enumerate(collection["features"], 1):
        assert feature["type"] == "Feature"
        geometry, properties = feature["geometry"], feature["properties"]
        polygons = geometry["coordinates"] if geometry["type"] == "MultiPolygon" else [geometry["coordinates"]]
        assert (geometry["type"] == "Polygon") == (len(polygons) == 1)
        for outer, *holes in polygons:
            assert all(ring[0] == ring[-1] and len(ring) >= 5 for ring in (outer, *holes)), "rings are closed"
            assert shoelace(outer) > 0
            assert all(shoelace(hole) < 0 for hole in holes)
        area = sum(shoelace(ring) for rings in polygons for ring in rings)
        measured = {item["name"]: item["value"] for item in properties["measurements"]}
        assert area == measured["Area px^2"] == places.voxels[number - 1] == (objects.ids == number).sum()
        assert measured["Mean probability"] == pytest.approx(objects.probabilities[number], abs=1e-4)
        assert properties["objectType"] == "detection"
        assert properties["name"] == str(number)
        assert properties["classification"] == {"name": LABELS.names[objects.classes[number]]}
