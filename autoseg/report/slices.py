"""Slices: cut one out of a case, turn it upright, cut it to what matters, make it small enough for a page."""

import base64
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from autoseg.report.outlines import area, outline

if TYPE_CHECKING:
    from autoseg.data.image import Geometry

MAX_SIDE = 320  # pixels of a picture; wider ones are thinned, so that the page stays under 3 MB
MAX_PATH_CHARACTERS = 40_000  # of one outline; noisy maps are thinned until they fit
MARGIN_FRACTION = 0.35  # of the structure's extent, shown around it
MIN_SIDE = 32  # voxels; smaller structures are shown with more around them
WINDOW_PERCENTILES = (0.5, 99.5)  # of the slice, black and white
PNG_LIMIT_BYTES = 60_000  # a picture above this is stored as JPEG
JPEG_QUALITY = 85


@dataclass(frozen=True)
class Slice:
    """One slice: image (C, y, x), class indices (y, x) of label and prediction, ignored voxels, pixel sizes in mm.

    ``place_yx`` is a pixel to be marked, in pixels of this slice; it goes where the pixels go.
    """

    image_CYX: np.ndarray
    label_YX: np.ndarray
    prediction_YX: np.ndarray
    ignored_YX: np.ndarray
    spacing_yx: tuple[float, float]
    place_yx: tuple[float, float] | None = None

    @property
    def wrong_YX(self) -> np.ndarray:
        """Voxels whose class is not that of the label; ignored ones are not wrong."""
        return (self.label_YX != self.prediction_YX) & ~self.ignored_YX

    def part(self, rows: slice, columns: slice) -> "Slice":
        """Cut out, mirror or thin."""
        y, x = (spacing * abs(side.step or 1) for spacing, side in zip(self.spacing_yx, (rows, columns), strict=True))
        return Slice(
            image_CYX=self.image_CYX[:, rows, columns],
            label_YX=self.label_YX[rows, columns],
            prediction_YX=self.prediction_YX[rows, columns],
            ignored_YX=self.ignored_YX[rows, columns],
            spacing_yx=(y, x),
            place_yx=self._moved(rows, columns),
        )

    def _moved(self, rows: slice, columns: slice) -> tuple[float, float] | None:
        if self.place_yx is None:
            return None
        kept = [range(size)[side] for size, side in zip(self.label_YX.shape, (rows, columns), strict=True)]
        y, x = ((value - side.start) / side.step for value, side in zip(self.place_yx, kept, strict=True))
        return y, x


def upright(cut: Slice, geometry: "Geometry", axis: int) -> Slice:
    """Mirror a slice so that the patient's left is at the right, front and head are up, where the file says so."""
    if not geometry.known or geometry.dimensions < 3:
        return cut
    matrix = geometry.matrix[:, ::-1]  # columns: steps along z, y, x; rows: left, back, head (LPS)
    steps = []
    for array_axis, across in zip([other for other in range(3) if other != axis], (False, True), strict=True):
        world = int(np.abs(matrix[:, array_axis]).argmax())
        forward = matrix[world, array_axis] > 0
        up_is_positive = world == 2 and not across  # heads are at the top, everything else grows to the right and down
        steps.append(slice(None, None, 1 if forward != up_is_positive else -1))
    return cut.part(*steps)


def crop(cut: Slice) -> Slice:
    """Cut to the structures with a margin, about square in millimetres."""
    rows, columns = np.nonzero((cut.label_YX > 0) | (cut.prediction_YX > 0))
    if not rows.size:
        return cut
    ends = [(int(places.min()), int(places.max()) + 1) for places in (rows, columns)]
    extents_mm = [(stop - start) * spacing for (start, stop), spacing in zip(ends, cut.spacing_yx, strict=True)]
    side_mm = max(max(extents_mm) * (1 + 2 * MARGIN_FRACTION), MIN_SIDE * min(cut.spacing_yx))
    sides = []
    for (start, stop), spacing, size in zip(ends, cut.spacing_yx, cut.label_YX.shape, strict=True):
        wanted = min(max(math.ceil(side_mm / spacing), stop - start), size)
        first = min(max((start + stop - wanted) // 2, 0), size - wanted)
        sides.append(slice(first, first + wanted))
    return cut.part(*sides)


def class_paths(cut: Slice) -> tuple[str, ...]:
    """Draw all that is laid over a slice of classes."""
    return outline(cut.label_YX), outline(cut.prediction_YX), area(cut.wrong_YX)


def thin(
    cut: Slice, max_side: int = MAX_SIDE, paths_of: Callable[[Slice], Sequence[str]] = class_paths
) -> tuple[Slice, int]:
    """Make a slice small enough: the maps keep every n-th voxel, the image the mean of each block; give n too.

    Args:
        cut: the slice.
        max_side: pixels of its longer side, at most.
        paths_of: gives the paths that are laid over it; none may be longer than ``MAX_PATH_CHARACTERS``.
    """
    factor = max(1, math.ceil(max(cut.label_YX.shape) / max_side))
    while True:
        thinned = cut.part(slice(None, None, factor), slice(None, None, factor))
        if max(map(len, paths_of(thinned))) <= MAX_PATH_CHARACTERS or min(thinned.label_YX.shape) < 2:
            return replace(thinned, image_CYX=_block_means(cut.image_CYX, factor)), factor
        factor += 1


def _block_means(image_CYX: np.ndarray, factor: int) -> np.ndarray:
    if factor == 1:
        return image_CYX
    channels, rows, columns = image_CYX.shape
    padded = np.pad(image_CYX, ((0, 0), (0, -rows % factor), (0, -columns % factor)), mode="edge")
    blocks = padded.reshape(channels, padded.shape[1] // factor, factor, padded.shape[2] // factor, factor)
    return blocks.mean(axis=(2, 4)).astype(image_CYX.dtype)


def encode_image(image_CYX: np.ndarray) -> str:
    """Make a data URI of a slice: three 8-bit channels as colours, else the first channel in grey.

    Args:
        image_CYX: (channel, y, x), any numbers; the window is set by percentiles.
    """
    if image_CYX.shape[0] == 3 and image_CYX.dtype == np.uint8:
        return encode_pixels(np.ascontiguousarray(np.moveaxis(image_CYX, 0, -1)))
    return encode_pixels(window(image_CYX[0].astype(np.float64)))


def encode_pixels(pixels: np.ndarray) -> str:
    """Make a data URI of 8-bit pixels: (y, x) grey, (y, x, 3) colours."""
    from PIL import Image

    picture = Image.fromarray(pixels)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    kind = "png"
    if buffer.tell() > PNG_LIMIT_BYTES:
        buffer, kind = io.BytesIO(), "jpeg"
        picture.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def window(values: np.ndarray) -> np.ndarray:
    """Map values to 0 … 255, uint8, between two percentiles of all of them; any shape."""
    finite = values[np.isfinite(values)]
    low, high = np.percentile(finite, WINDOW_PERCENTILES) if finite.size else (0.0, 1.0)
    scaled = (np.nan_to_num(values, nan=low, posinf=high, neginf=low) - low) / max(high - low, 1e-9)
    return np.round(np.clip(scaled, 0, 1) * 255).astype(np.uint8)
