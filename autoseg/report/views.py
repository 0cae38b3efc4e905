"""Views: slices of an opened case as drawings for the page: one, or three planes through its largest error."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from autoseg.report.error_place import densest
from autoseg.report.opened import OpenedCase
from autoseg.report.outlines import area, outline
from autoseg.report.slices import MAX_SIDE, Slice, crop, encode_image, thin, upright

if TYPE_CHECKING:
    from autoseg.data.image import Geometry

MAX_PLANE_SIDE = 224  # pixels of one of three planes: they are shown smaller, and there are three times as many
PLANES = ("sagittal", "coronal", "axial")
"""Names of the planes across the world's axes to the left, to the back, to the head."""

TICK_FRACTION = 0.06  # of the picture's side: marks at the edges where the other planes lie


@dataclass(frozen=True, kw_only=True)
class View:
    """One slice, ready for the page.

    Attributes:
        plane: "axial", "coronal", "sagittal", or what it lies across where the file does not say; of a 2D image empty.
        caption: where it lies, and what was cut or thinned.
        width, height: of the drawing in its own units (pixels of the slice).
        aspect: width / height in millimetres.
        image: data URI.
        label, prediction, wrong, place: SVG paths; ``place`` marks where other views of the case lie.
        objects: of objects that are told apart, the paths by style instead.
    """

    plane: str
    caption: str
    width: int
    height: int
    aspect: float
    image: str
    label: str = ""
    prediction: str = ""
    wrong: str = ""
    place: str = ""
    objects: tuple[tuple[str, str], ...] = ()

    @property
    def paths(self) -> tuple[tuple[str, str], ...]:
        """Styles and SVG paths, from the lowest to the topmost."""
        classes = (("wrong", self.wrong), ("label", self.label), ("prediction", self.prediction))
        marks = (("place", self.place),) if self.place else ()
        return (*(self.objects or classes), *marks)


def single_view(case: OpenedCase, axis: int, *, by_error: bool) -> View:
    """Draw the slice with most wrong voxels, or with most foreground.

    Args:
        case: the case.
        axis: slices are taken along this one; of a 2D image along the only one possible.
        by_error: whether the errors decide, where there are any.
    """
    shape = case.label.shape
    axis = axis if min(shape) > 1 else int(np.argmin(shape))
    foreground = (case.label > 0) | (case.prediction > 0)
    index, why = choose_slice(foreground, case.wrong, axis, by_error=by_error)
    where = f"{place_text(index, shape[axis], axis)}, {why}" if shape[axis] > 1 else ""
    return _view(cut_slice(case, axis, index), plane_name(case.image.geometry, case.label.shape, axis), where, MAX_SIDE)


def three_planes(case: OpenedCase) -> tuple[View, ...]:
    """Draw three planes through the place where most is wrong; of a 2D image the only one.

    A case without errors is shown where it has most foreground.
    """
    shape = case.label.shape
    if min(shape) == 1:
        return (single_view(case, int(np.argmin(shape)), by_error=True),)
    spacing_mm = case.image.geometry.spacing_mm
    middle = tuple(size // 2 for size in shape)
    place = densest(case.wrong, spacing_mm) or densest((case.label > 0) | (case.prediction > 0), spacing_mm) or middle
    found = []
    for axis in range(3):
        across = tuple(value for other, value in enumerate(place) if other != axis)
        cut = cut_slice(case, axis, place[axis], (across[0], across[1]))
        where = place_text(place[axis], shape[axis], axis)
        found.append(_view(cut, plane_name(case.image.geometry, case.label.shape, axis), where, MAX_PLANE_SIDE))
    order = {name: rank for rank, name in enumerate(reversed(PLANES))}
    return tuple(sorted(found, key=lambda item: order.get(item.plane, 0)))


def place_text(index: int, size: int, axis: int) -> str:
    """Say which slice it is."""
    return f"slice {index + 1} of {size} along {'zyx'[axis]}"


def plane_name(geometry: "Geometry", shape: Sequence[int], axis: int) -> str:
    """Name the plane across an array axis as radiologists do, where the file says how it lies in the body."""
    if min(shape) == 1:
        return ""
    if not geometry.known or geometry.dimensions < 3:
        return f"across {'zyx'[axis]}"
    worlds = [int(np.abs(column).argmax()) for column in geometry.matrix[:, ::-1].T]
    return PLANES[worlds[axis]] if len(set(worlds)) == 3 else f"across {'zyx'[axis]}"


def choose_slice(foreground: np.ndarray, wrong: np.ndarray, axis: int, *, by_error: bool) -> tuple[int, str]:
    """Choose the slice to show: the one with most wrong voxels, or with most foreground.

    Args:
        foreground, wrong: masks (z, y, x).
        axis: slices are taken along this one.
        by_error: whether the errors decide, where there are any.

    Returns:
        Its index and the reason in words.
    """
    across = tuple(other for other in range(3) if other != axis)
    if by_error and wrong.any():
        return int(wrong.sum(axis=across).argmax()), "most wrong voxels"
    return int(foreground.sum(axis=across).argmax()), "most foreground"


def cut_slice(case: OpenedCase, axis: int, index: int, place_yx: tuple[int, int] | None = None) -> Slice:
    """Cut one slice across an axis, upright; ``place_yx`` is a voxel in it to be marked."""
    shape = case.label.shape
    z, y, x = ((index, index + 1) if other == axis else (0, size) for other, size in enumerate(shape))
    row_mm, column_mm = (value for other, value in enumerate(case.image.geometry.spacing_mm) if other != axis)
    label_YX = case.label.take(index, axis=axis)
    cut = Slice(
        image_CYX=case.image.read((z, y, x)).squeeze(axis + 1),
        label_YX=label_YX,
        prediction_YX=case.prediction.take(index, axis=axis) if case.configurations else label_YX,
        ignored_YX=case.ignored.take(index, axis=axis),
        spacing_yx=(row_mm, column_mm),
        place_yx=place_yx,
    )
    return upright(cut, case.image.geometry, axis)


def _view(cut: Slice, plane: str, where: str, max_side: int) -> View:
    notes = [where] if where else []
    whole = cut.label_YX.shape
    cut = crop(cut)
    if cut.label_YX.shape != whole:
        notes.append("cut to the structures")
    cut, factor = thin(cut, max_side)
    if factor > 1:
        notes.append(f"one of {factor} × {factor} voxels shown")
    height, width = cut.label_YX.shape
    return View(
        plane=plane,
        caption="; ".join(notes),
        width=width,
        height=height,
        aspect=round(width * cut.spacing_yx[1] / (height * cut.spacing_yx[0]), 4),
        image=encode_image(cut.image_CYX),
        label=outline(cut.label_YX),
        prediction=outline(cut.prediction_YX),
        wrong=area(cut.wrong_YX),
        place=_edge_marks(cut),
    )


def _edge_marks(cut: Slice) -> str:
    if cut.place_yx is None:
        return ""
    height, width = cut.label_YX.shape
    y, x = (f"{value + 0.5:.1f}" for value in cut.place_yx)
    tall, wide = round(height * TICK_FRACTION, 1), round(width * TICK_FRACTION, 1)
    return f"M{x} 0v{tall}M{x} {height}v{-tall}M0 {y}h{wide}M{width} {y}h{-wide}"
