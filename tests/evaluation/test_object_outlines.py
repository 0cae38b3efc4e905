"""Outlines of objects: areas to the last pixel, holes, pieces, corners that touch; against scikit-image."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage
from skimage.measure import label as label_pieces

from autoseg.evaluation.object_outlines import Outline, trace_outlines

MAPS = st.integers(1, 3).flatmap(
    lambda most: arrays(
        np.int32, array_shapes(min_dims=2, max_dims=2, max_side=14), elements=st.integers(0, most).map(lambda v: 7 * v)
    )
)


def shoelace(ring: np.ndarray) -> float:
    x, y = ring.astype(float).T
    return float(np.dot(x, np.roll(y, -1)) - np.dot(np.roll(x, -1), y)) / 2


def area(outline: Outline) -> float:
    return sum(shoelace(ring) for rings in outline.polygons for ring in rings)


def paint(outline: Outline, shape: tuple[int, ...]) -> np.ndarray:
    """Paint an outline by counting the rings left of each pixel's middle; slow."""
    rows, columns = np.indices(shape) + 0.5
    crossings = np.zeros(shape, dtype=int)
    for ring in (ring for rings in outline.polygons for ring in rings):
        for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
            crossings += (x0 == x1) & (x0 < columns) & (min(y0, y1) < rows) & (rows < max(y0, y1))
    return crossings % 2 == 1


def check(ids: np.ndarray) -> None:
    """Assert all that is promised of the outlines of a map."""
    outlines = trace_outlines(ids)
    assert [outline.id for outline in outlines] == [value for value in np.unique(ids).tolist() if value]
    for outline in outlines:
        mask = ids == outline.id
        assert area(outline) == mask.sum()
        np.testing.assert_array_equal(paint(outline, ids.shape), mask)
        pieces = label_pieces(mask, connectivity=1)
        assert len(outline.polygons) == pieces.max()
        for outer, *holes in outline.polygons:
            assert shoelace(outer) > 0
            assert all(shoelace(hole) < 0 for hole in holes)
            inside = paint(Outline(1, ((outer, *holes),)), ids.shape)
            np.testing.assert_array_equal(inside, pieces == pieces[inside].max(), "a hole lies in its own piece")
            assert len(holes) == label_pieces(np.pad(~inside, 1, constant_values=True), connectivity=1).max() - 1
            for ring in (outer, *holes):
                steps = np.diff(ring, axis=0, append=ring[:1])
                assert ((steps == 0).sum(axis=1) == 1).all(), "along the edges of pixels"
                assert (np.roll(steps, 1, axis=0) * steps == 0).all(), "a corner at each point"
                assert len(np.unique(ring, axis=0)) == len(ring), "no corner twice"


@settings(max_examples=60, deadline=None)
@given(MAPS)
def test_drawn_maps(ids: np.ndarray) -> None:
    check(ids)


@pytest.mark.parametrize(
    ("rows", "polygons"),
    [
        (["1"], [[4]]),
        (["11", "11"], [[4]]),
        (["111", "101", "111"], [[4, 4]]),
        (["011", "101", "111"], [[6, 4]]),  # the hole touches the outside at a corner
        (["10", "01"], [[4], [4]]),
        (["11111", "10001", "10101", "10001", "11111"], [[4, 4], [4]]),
        (["1111", "1011", "1101", "1111"], [[4, 4, 4]]),  # two holes that touch each other
        (["1112", "1012", "1112", "2222"], [[4, 4]]),
    ],
)
def test_shapes(rows: list[str], polygons: list[list[int]]) -> None:
    ids = np.array([[int(value) for value in row] for row in rows])
    check(ids)
    found = [[len(ring) for ring in rings] for rings in trace_outlines(ids)[0].polygons]
    assert sorted(found) == sorted(polygons)


def test_coordinates_are_x_and_y_of_the_edges() -> None:
    ids = np.zeros((5, 9), dtype=np.uint8)
    ids[1:3, 4:8] = 1
    (outline,) = trace_outlines(ids)
    assert outline.polygons[0][0].tolist() == [[4, 1], [8, 1], [8, 3], [4, 3]]


def test_nothing() -> None:
    assert trace_outlines(np.zeros((4, 5), dtype=np.int32)) == []
    assert trace_outlines(np.zeros((0, 5), dtype=np.int32)) == []


def test_long_rings() -> None:
    """A comb, whose ring goes through most of the map."""
    ids = np.zeros((60, 61), dtype=np.int32)
    ids[:, ::2], ids[0] = 1, 1
    check(ids)


@pytest.mark.data
def test_real_nuclei(data_folder) -> None:
    from autoseg.data.io import open_label

    paths = sorted((data_folder / "dsb2018_nuclei" / "labels").iterdir())
    for path in paths[::40]:
        ids = open_label(path).read()[0, 0]
        outlines = trace_outlines(ids)
        sizes = ndimage.sum_labels(np.ones_like(ids), ids, np.arange(1, ids.max() + 1))
        assert [area(outline) for outline in outlines] == [size for size in sizes.tolist() if size]
