"""Views: three planes through the largest error, named and proportioned as the file says."""

from typing import Any

import numpy as np
import pytest

from autoseg.data.image import ArrayImage, Geometry, flat_geometry
from autoseg.report.opened import OpenedCase
from autoseg.report.views import plane_name, single_view, three_planes


def make_case(shape: tuple[int, int, int] = (10, 40, 60), **fields: Any) -> OpenedCase:
    geometry = fields.get("geometry") or Geometry(spacing_mm=(4.0, 1.0, 0.5))
    label = np.zeros(shape, dtype=np.int16)
    label[tuple(slice(size // 4, size // 4 + max(size // 2, 1)) for size in shape)] = 1
    prediction = label.copy()
    y, x = (round(0.6 * size) for size in shape[1:])
    prediction[shape[0] // 2, y : y + 7, x : x + 9] = 0
    image = ArrayImage(np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32), geometry)
    return OpenedCase(image, label, prediction, np.zeros(shape, dtype=bool), ("2d",))


def test_three_planes_meet_in_the_largest_error() -> None:
    case = make_case()
    axial, coronal, sagittal = three_planes(case)
    assert [view.plane for view in (axial, coronal, sagittal)] == ["axial", "coronal", "sagittal"]
    assert axial.caption.startswith("slice 6 of 10 along z")
    for view, size, axis in ((coronal, 40, "y"), (sagittal, 60, "x")):
        assert f"of {size} along {axis}" in view.caption
        index = int(view.caption.split()[1]) - 1
        assert case.wrong[(5, index) if axis == "y" else (5, slice(None), index)].any()
        assert view.wrong
        assert view.place.count("M") == 4


def test_planes_have_the_proportions_of_their_millimetres() -> None:
    for view, (across, down) in zip(three_planes(make_case()), ((0.5, 1.0), (0.5, 4.0), (1.0, 4.0)), strict=True):
        assert view.aspect == pytest.approx(view.width * across / (view.height * down), rel=1e-3)


def test_marks_lie_where_the_error_is_after_turning_cropping_and_thinning() -> None:
    case = make_case(shape=(4, 700, 700), geometry=Geometry(spacing_mm=(1.0, 1.0, 1.0)))
    axial = three_planes(case)[0]
    assert axial.width <= 224
    assert "one of 3 × 3 voxels shown" in axial.caption
    x = float(axial.place.split("M")[1].split()[0])
    y = float(axial.place.split("M")[3].split()[1].split("h")[0])
    rows = [part.split("h")[0].split() for part in axial.wrong.split("M")[1:]]
    assert min(abs(float(column) - x) + abs(float(row) - y) for column, row in rows) < 4


def test_of_a_2d_image_there_is_one_plane_without_a_name() -> None:
    case = make_case(shape=(1, 40, 60), geometry=flat_geometry((1.0, 1.0)))
    views = three_planes(case)
    assert [view.plane for view in views] == [""]
    assert "along" not in views[0].caption
    assert views[0].place == ""


def test_planes_are_named_by_the_body_not_by_the_array() -> None:
    sagittal_first = Geometry(spacing_mm=(3.0, 1.0, 1.0), direction=(0, 0, 1, 1, 0, 0, 0, 1, 0))
    case = make_case(geometry=sagittal_first)
    assert [plane_name(case.image.geometry, case.label.shape, axis) for axis in range(3)] == [
        "sagittal",
        "axial",
        "coronal",
    ]
    assert [view.plane for view in three_planes(case)] == ["axial", "coronal", "sagittal"]
    unknown = make_case(geometry=Geometry(spacing_mm=(1.0, 1.0, 1.0), known=False))
    assert [view.plane for view in three_planes(unknown)] == ["across z", "across y", "across x"]


def test_a_case_without_errors_is_shown_where_it_has_most_foreground() -> None:
    case = make_case()
    right = OpenedCase(case.image, case.label, case.label, case.ignored, ("2d",))
    for view in three_planes(right):
        assert view.label.startswith("M")
        assert view.wrong == ""
    assert "most foreground" in single_view(right, 0, by_error=True).caption
