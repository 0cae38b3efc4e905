"""Outlines of the objects of a 2D image as ``CASE.geojson``, which QuPath opens and napari with its plugin.

One feature per object: a polygon with its holes, or several where the object has several pieces. Coordinates are x and
y in pixels from the upper left corner of the image, along the edges of pixels, as QuPath counts them: an area in pixels
is exact. napari counts from the middle of the first pixel; its layer is to be moved by half a pixel.

What the programs read (2026-11):

* QuPath makes a detection of a feature whose ``objectType`` says so, else an annotation; takes ``name``, the class from
  ``classification.name``, and numbers from ``measurements``, be that an object or a list of names and values. It passes
  over an ``id`` that is no UUID. Its newer versions refuse rings that cross themselves.
* napari-geojson takes ``measurements`` as such a list only (of anything else it fails), and knows ``Polygon`` but no
  ``MultiPolygon``: a file with an object in several pieces it cannot open. Holes become part of the outline.

So measurements are a list, and an object is a ``MultiPolygon`` only where it must be.

Source: RFC 7946; QuPath, ``qupath.lib.io.QuPathTypeAdapters`` and "Exporting annotations" in its documentation;
napari-geojson, ``_reader.py`` of version 0.1.4 and after.
"""

import json
from collections.abc import Iterator

import numpy as np

from autoseg.evaluation.object_outlines import Outline, Ring, trace_outlines
from autoseg.inference.instances import SegmentedObjects
from autoseg.inference.object_table import ObjectPlaces
from planners.labels import Labels

AREA, PROBABILITY = "Area px^2", "Mean probability"
"""Names of the measurements; the first as QuPath itself names it where the size of pixels is not known."""


def geojson_text(objects: SegmentedObjects, places: ObjectPlaces, labels: Labels) -> str:
    """Write a feature collection of an image's objects, one feature a line, ascending by id.

    Args:
        objects: of a 2D image (z of length 1).
        places: of its objects.
        labels: give the names of the classes.
    """
    features = ",\n".join(_features(objects, places, labels))
    return f'{{"type":"FeatureCollection","features":[\n{features}\n]}}\n'


def _features(objects: SegmentedObjects, places: ObjectPlaces, labels: Labels) -> Iterator[str]:
    areas = places.voxels.tolist()
    probabilities = np.round(objects.probabilities.astype(np.float64), 4).tolist()
    for outline in trace_outlines(objects.ids[0]):
        number = outline.id
        yield json.dumps(
            {
                "type": "Feature",
                "id": number,
                "geometry": _geometry(outline),
                "properties": {
                    "objectType": "detection",
                    "name": str(number),
                    "classification": {"name": labels.names[objects.classes[number]]},
                    "measurements": [
                        {"name": AREA, "value": areas[number - 1]},
                        {"name": PROBABILITY, "value": probabilities[number]},
                    ],
                },
            },
            ensure_ascii=False,
            separators=(",", ":"),
        )


def _geometry(outline: Outline) -> dict[str, object]:
    polygons = [[_closed(ring) for ring in rings] for rings in outline.polygons]
    if len(polygons) == 1:
        return {"type": "Polygon", "coordinates": polygons[0]}
    return {"type": "MultiPolygon", "coordinates": polygons}


def _closed(ring: Ring) -> list[list[int]]:
    points: list[list[int]] = ring.tolist()
    return [*points, points[0]]
