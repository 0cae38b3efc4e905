"""Object views: a slice of objects with an outline of each by its fate, whole and enlarged where most is wrong."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from autoseg.evaluation.instance_errors import INVENTED, MISSED, RIGHT
from autoseg.report.object_facts import KINDS, LABEL_KINDS, errors_text
from autoseg.report.opened_objects import OpenedObjects
from autoseg.report.outlines import area, outline
from autoseg.report.slices import Slice, encode_pixels, thin, upright, window
from autoseg.report.views import View, place_text, plane_name

WHOLE_SIDE = 512  # pixels of a whole slice, at most: it fills two thirds of the page
ENLARGED_SIDE = 192  # pixels of an enlarged part, at most
DIAMETERS = 5.0  # of the median object, along the side of an enlarged part
LEAST_SIDE = 48  # pixels of an enlarged part
ENLARGING = 1.5  # parts that show less than so many times more of the detail are left out
MAX_ERRORS = 2000  # objects of a slice among which the place of most errors is sought; of more, evenly chosen ones
LABELLED = "labelled"
"""Style of the outlines of all labelled objects."""

WRONG = tuple(place for place, kind in enumerate(KINDS) if kind != RIGHT)
MISSED_PLACE, INVENTED_PLACE = KINDS.index(MISSED), KINDS.index(INVENTED)


@dataclass(frozen=True)
class Fate:
    """What became of each object, per id (0 first).

    Attributes:
        label, prediction: as its place in ``KINDS``.
        surplus: of predicted ones, whether it is a piece of a labelled object that is right.
    """

    label: np.ndarray
    prediction: np.ndarray
    surplus: np.ndarray

    @property
    def wrong(self) -> np.ndarray:
        """Per labelled id whether something is wrong with it."""
        return np.isin(self.label, WRONG)

    @property
    def beside(self) -> np.ndarray:
        """Per predicted id whether it is wrong and no labelled object says so: invented, or a surplus piece."""
        return (self.prediction == INVENTED_PLACE) | self.surplus


def object_views(case: OpenedObjects, axis: int, *, by_error: bool, enlarged: int) -> tuple[View, ...]:
    """Draw the slice with most objects, and enlarged the parts of it where most is wrong.

    Args:
        case: the case.
        axis: slices are taken along this one; of a 2D image along the only one possible.
        by_error: take the slice with most objects that are not right, where there are any.
        enlarged: parts to draw at most.
    """
    shape = case.label.shape
    axis = axis if min(shape) > 1 else int(np.argmin(shape))
    fate = Fate(case.label_kinds, case.prediction_kinds, case.surplus)
    index, why = choose_slice(case, fate, axis, by_error=by_error)
    cut = _cut(case, axis, index)
    places = enlarged_parts(cut, fate, enlarged)
    where = f"{place_text(index, shape[axis], axis)}, {why}" if shape[axis] > 1 else ""
    whole = _view(cut, fate, WHOLE_SIDE, where, plane_name(case.image.geometry, shape, axis))
    parts = []
    for number, (rows, columns) in enumerate(places, start=1):
        part = cut.part(rows, columns)
        parts.append(_view(part, fate, ENLARGED_SIDE, f"part {number}: {errors_within(part, fate)}", ""))
    if parts:  # beside enlarged ones the outlines of the label would only be in the way
        whole = replace(whole, objects=tuple(item for item in whole.objects if item[0] != LABELLED))
    return replace(whole, place=_frames(places, cut, whole)), *parts


def choose_slice(case: OpenedObjects, fate: Fate, axis: int, *, by_error: bool) -> tuple[int, str]:
    """Choose the slice to show: the one with most wrong objects, or with most objects; and the reason in words."""
    if by_error:
        wrong = objects_per_slice(case.label, fate.wrong, axis)
        wrong += objects_per_slice(case.prediction, fate.beside, axis)
        if wrong.any():
            return int(wrong.argmax()), "most wrong objects"
    known = np.arange(int(case.label.max(initial=0)) + 1) > 0
    return int(objects_per_slice(case.label, known, axis).argmax()), "most objects"


def objects_per_slice(ids_ZYX: np.ndarray, wanted: np.ndarray, axis: int) -> np.ndarray:
    """Count the objects in each slice across an axis.

    Args:
        ids_ZYX: numbers of objects, none above the length of ``wanted``.
        wanted: per id, whether it counts.
        axis: across which to slice.
    """
    counts = np.zeros(ids_ZYX.shape[axis], dtype=np.int64)
    for index in range(len(counts)):
        seen = np.zeros(len(wanted), dtype=bool)
        seen[ids_ZYX.take(index, axis=axis).reshape(-1)] = True
        counts[index] = (seen & wanted).sum()
    return counts


def _cut(case: OpenedObjects, axis: int, index: int) -> Slice:
    """Cut a slice out of a case, upright, its image as 8-bit pixels."""
    z, y, x = ((index, index + 1) if other == axis else (0, size) for other, size in enumerate(case.label.shape))
    row_mm, column_mm = (value for other, value in enumerate(case.image.geometry.spacing_mm) if other != axis)
    label_YX = case.label.take(index, axis=axis)
    cut = Slice(
        image_CYX=pixels_of(case.image.read((z, y, x)).squeeze(axis + 1)),
        label_YX=label_YX,
        prediction_YX=case.prediction.take(index, axis=axis),
        ignored_YX=np.zeros(label_YX.shape, dtype=bool),
        spacing_yx=(row_mm, column_mm),
    )
    return upright(cut, case.image.geometry, axis)


def pixels_of(image_CYX: np.ndarray) -> np.ndarray:
    """Make 8-bit pixels that use the whole range: three channels of whole numbers as colours, else the first in grey.

    Colours keep their hue: one window holds for the three. Larger numbers than a byte's are no colours but channels of
    a microscope, each with a window of its own.
    """
    if image_CYX.shape[0] != 3 or image_CYX.dtype.kind != "u":
        return window(image_CYX[:1].astype(np.float64))
    if image_CYX.dtype == np.uint8:
        return window(image_CYX.astype(np.float64))
    return np.stack([window(channel.astype(np.float64)) for channel in image_CYX])


def _view(cut: Slice, fate: Fate, max_side: int, caption: str, plane: str) -> View:
    thinned, factor = thin(cut, max_side, lambda part: [path for _, path in object_paths(part, fate)] or [""])
    height, width = thinned.label_YX.shape
    image = thinned.image_CYX
    notes = [caption] if caption else []
    if factor > 1:
        notes.append(f"one of {factor} × {factor} voxels shown")
    return View(
        plane=plane,
        caption="; ".join(notes),
        width=width,
        height=height,
        aspect=round(width * thinned.spacing_yx[1] / (height * thinned.spacing_yx[0]), 4),
        image=encode_pixels(np.ascontiguousarray(np.moveaxis(image, 0, -1) if len(image) == 3 else image[0])),
        objects=object_paths(thinned, fate),
    )


def object_paths(cut: Slice, fate: Fate) -> tuple[tuple[str, str], ...]:
    """Draw the outline of every object: style and SVG path.

    Predicted objects have the style of their kind; of the label there are all outlines together, and those that were
    missed, which are filled as well.
    """
    label_kinds, kinds = fate.label[cut.label_YX], fate.prediction[cut.prediction_YX]
    missed = np.where(label_kinds == MISSED_PLACE, cut.label_YX, 0)
    paths = [("area missed", area(missed > 0)), (LABELLED, outline(cut.label_YX))]
    for place, kind in enumerate(KINDS):
        drawn = missed if place == MISSED_PLACE else np.where(kinds == place, cut.prediction_YX, 0)
        paths.append((f"object {kind}", outline(drawn)))
    return tuple((style, path) for style, path in paths if path)


def enlarged_parts(cut: Slice, fate: Fate, wanted: int) -> tuple[tuple[slice, slice], ...]:
    """Find the squares that hold most wrong objects; none holds the middle of another."""
    places = np.concatenate(
        [
            centres(np.where(fate.wrong[cut.label_YX], cut.label_YX, 0)),
            centres(np.where(fate.beside[cut.prediction_YX], cut.prediction_YX, 0)),
        ]
    )
    side = max(LEAST_SIDE, round(DIAMETERS * _median_diameter(cut)))
    if side * ENLARGING > max(cut.label_YX.shape):
        return ()
    places = places[:: max(len(places) // MAX_ERRORS, 1)]
    found: list[tuple[slice, slice]] = []
    while len(places) and len(found) < wanted:
        apart = np.abs(places[:, None] - places[None]).max(axis=2)
        middle = places[(apart < side / 2).sum(axis=1).argmax()]
        found.append(_square(middle, side, cut.label_YX.shape))
        places = places[np.abs(places - middle).max(axis=1) >= side]
    return tuple(found)


def _square(middle: np.ndarray, side: int, shape: Sequence[int]) -> tuple[slice, slice]:
    sides = []
    for place, size in zip(middle, shape, strict=True):
        start = min(max(round(float(place) - side / 2), 0), max(size - side, 0))
        sides.append(slice(start, min(start + side, size)))
    return sides[0], sides[1]


def centres(ids_YX: np.ndarray) -> np.ndarray:
    """Give the centre of mass (y, x) of every object of a map of ids, 0 left out; any order."""
    rows, columns = np.nonzero(ids_YX)
    _, members, counts = np.unique(ids_YX[rows, columns], return_inverse=True, return_counts=True)
    sums = [np.bincount(members, weights=values, minlength=len(counts)) for values in (rows, columns)]
    return np.stack(sums, axis=1) / np.maximum(counts, 1)[:, None]


def _median_diameter(cut: Slice) -> float:
    sizes = np.unique(cut.label_YX[cut.label_YX > 0], return_counts=True)[1]
    return float(2 * np.sqrt(np.median(sizes) / np.pi)) if sizes.size else 0.0


def errors_within(cut: Slice, fate: Fate) -> str:
    """Count the wrong objects of a part in words: those of the label, and what was predicted beside them."""

    def number(ids: np.ndarray, wanted: np.ndarray) -> int:
        return len(np.unique(ids[wanted[ids] & (ids > 0)]))

    counts = [(kind, number(cut.label_YX, fate.label == KINDS.index(kind))) for kind in LABEL_KINDS[1:]]
    counts.append((INVENTED, number(cut.prediction_YX, fate.prediction == INVENTED_PLACE)))
    return errors_text(counts, number(cut.prediction_YX, fate.surplus))


def _frames(places: Sequence[tuple[slice, slice]], cut: Slice, whole: View) -> str:
    """Frame the enlarged parts in the whole slice, in its own units."""
    scale_y, scale_x = whole.height / cut.label_YX.shape[0], whole.width / cut.label_YX.shape[1]
    frames = []
    for rows, columns in places:
        y, x = rows.start * scale_y, columns.start * scale_x
        tall, wide = (rows.stop - rows.start) * scale_y, (columns.stop - columns.start) * scale_x
        frames.append(f"M{x:.1f} {y:.1f}h{wide:.1f}v{tall:.1f}h{-wide:.1f}z")
    return "".join(frames)
