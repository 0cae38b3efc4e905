"""Images as the rest of the program sees them: shape, type and place in space first, voxels only when asked for.

``Image`` is the contract of every reader. Arrays are channel, z, y, x; a 2D image has a z of length 1.
"""

import dataclasses
import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from autoseg.errors import ImageError
from planners.fingerprint import Shape, Spacing

Box = tuple[tuple[int, int], ...]
"""Start and stop (exclusive) along z, y, x."""

FLAT_SPACING_FACTOR = 999.0  # nnU-Net v2's rule: a 2D image's z spacing is 999 times its largest in-plane one
IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Where an image lies in space; enough to write a file with exactly the geometry that was read.

    Attributes:
        spacing_mm: z, y, x; of a 2D image z is 999 times the largest in-plane spacing.
        origin: of the first voxel, in ITK's order x, y, z (0 for the z of a 2D image).
        direction: 3×3 matrix, row by row, as ITK has it.
        dimensions: 2 or 3; a 3D file of one slice stays 3.
        known: False where the file says nothing of its place in space (most PNG, JPEG and TIFF files); the spacing is
            then 1 mm.
    """

    spacing_mm: Spacing
    origin: tuple[float, ...] = (0.0, 0.0, 0.0)
    direction: tuple[float, ...] = IDENTITY
    dimensions: int = 3
    known: bool = True

    @property
    def file_spacing(self) -> tuple[float, ...]:
        """Spacing as a file has it: x, y or x, y, z."""
        return tuple(reversed(self.spacing_mm))[: self.dimensions]

    @property
    def matrix(self) -> np.ndarray:
        """3×3 matrix from voxel steps (x, y, z) to millimetres."""
        return np.array(self.direction).reshape(3, 3) * np.array(self.spacing_mm)[::-1]

    def displacement(self, other: "Geometry", shape: Sequence[int]) -> float:
        """Measure how far apart two geometries put the same array.

        Args:
            other: the geometry to compare with.
            shape: voxels z, y, x of the array.

        Returns:
            The largest displacement of a corner voxel, along any axis, in voxels of this geometry; 0 where one of the
            two is not known.
        """
        if not (self.known and other.known):
            return 0.0
        ends = [(0, size - 1) for size in reversed(tuple(shape))]
        corners = np.array(list(itertools.product(*ends)), dtype=float)
        ours = corners @ self.matrix.T + np.array(self.origin)
        theirs = corners @ other.matrix.T + np.array(other.origin)
        return float(np.abs(np.linalg.solve(self.matrix, (theirs - ours).T)).max())


def flat_geometry(spacing_yx: Sequence[float] = (1.0, 1.0), **fields: Any) -> Geometry:
    """Make the geometry of a 2D image from its in-plane spacing (y, x) in millimetres."""
    y, x = (float(value) for value in spacing_yx)
    return Geometry(spacing_mm=(FLAT_SPACING_FACTOR * max(y, x), y, x), dimensions=2, **fields)


def geometry_from_itk(spacing: Sequence[float], origin: Sequence[float], direction: Sequence[float]) -> Geometry:
    """Make a geometry from what ITK says of a 2D, 3D or 4D image (the fourth axis is dropped)."""
    size = len(spacing)
    dimensions = min(size, 3)
    matrix = np.eye(3)
    matrix[:dimensions, :dimensions] = np.array(direction).reshape(size, size)[:dimensions, :dimensions]
    place: dict[str, Any] = {
        "origin": (*(float(value) for value in origin[:dimensions]), *([0.0] * (3 - dimensions))),
        "direction": tuple(float(value) for value in matrix.ravel()),
    }
    steps = [abs(float(value)) for value in spacing[:dimensions]]
    if dimensions == 2:
        return flat_geometry((steps[1], steps[0]), **place)
    return Geometry(spacing_mm=(steps[2], steps[1], steps[0]), **place)


class Image(ABC):
    """An opened image. Opening reads the header; ``read`` reads voxels and may be called from several threads.

    Attributes:
        shape: voxels z, y, x.
        dtype: type of the array that ``read`` gives.
        num_channels: length of its first axis.
        geometry: place in space.
        notes: what was done to the file's content on the way, for the user to know ("alpha channel dropped").
        paths: the files it is read from; empty for an image in memory.
        modality: DICOM's word for the device (``CT``, ``MR``), empty where the file does not say.
    """

    shape: Shape
    dtype: np.dtype
    num_channels: int
    geometry: Geometry
    notes: tuple[str, ...] = ()
    paths: tuple[Path, ...] = ()
    modality: str = ""

    @abstractmethod
    def read(self, box: Box | None = None) -> np.ndarray:
        """Read voxels.

        Args:
            box: start and stop along z, y, x; None reads all.

        Returns:
            Channel, z, y, x, contiguous, in ``dtype``.

        Raises:
            ImageError: the file is damaged; the message names it.
        """

    @property
    def name(self) -> str:
        """What messages call it: its file, or "the image"."""
        return str(self.paths[0]) if self.paths else "the image"


class ArrayImage(Image):
    """An image that is in memory already: channel, z, y, x."""

    def __init__(self, array_CZYX: np.ndarray, geometry: Geometry, notes: tuple[str, ...] = ()) -> None:
        self.array = array_CZYX
        self.num_channels = array_CZYX.shape[0]
        self.shape = array_CZYX.shape[1:]
        self.dtype = array_CZYX.dtype
        self.geometry = geometry
        self.notes = notes

    def read(self, box: Box | None = None) -> np.ndarray:
        """Give a copy of the array, or of its part inside the box."""
        return crop(self.array, box).copy()


class StackedImage(Image):
    """Channels from several files of one shape; the geometry is the first file's.

    Attributes:
        parts: one opened image per file.
    """

    def __init__(self, parts: Sequence[Image]) -> None:
        first = parts[0]
        for part in parts[1:]:
            if part.shape != first.shape:
                raise ImageError(
                    f"{part.name} has shape {shape_text(part.shape)}, {first.name} has {shape_text(first.shape)}: "
                    "the channels of a case must lie on one grid. Resample one of them to the other's grid"
                )
        self.parts = tuple(parts)
        self.shape = first.shape
        self.dtype = np.result_type(*(part.dtype for part in parts))
        self.num_channels = sum(part.num_channels for part in parts)
        known = [part.geometry for part in parts if part.geometry.known]
        self.geometry = known[0] if known else first.geometry
        self.notes = tuple(dict.fromkeys(note for part in parts for note in part.notes))
        self.paths = tuple(path for part in parts for path in part.paths)

    def read(self, box: Box | None = None) -> np.ndarray:
        """Read every file and stack the channels in order."""
        return np.concatenate([part.read(box) for part in self.parts], axis=0, dtype=self.dtype)


def crop(array_CZYX: np.ndarray, box: Box | None) -> np.ndarray:
    """Give the view of an array inside a box (z, y, x; the channel axis stays whole)."""
    if box is None:
        return array_CZYX
    return array_CZYX[(slice(None), *(slice(*sides) for sides in box))]


def shape_text(shape: Sequence[int]) -> str:
    """Write a shape for a message: 35×51×35."""
    return "×".join(str(size) for size in shape)


def image_from_array(array: np.ndarray, spacing_mm: Sequence[float]) -> Image:
    """Make an image of an array.

    Args:
        array: with three spacings (z, y, x) or (channel, z, y, x); with two (y, x) or (channel, y, x).
        spacing_mm: z, y, x of a volume, or y, x of a 2D image.

    Raises:
        ImageError: axes and spacings do not go together, or the numbers are no numbers of an image.
    """
    array = np.asarray(array)
    axes = len(spacing_mm)
    if axes not in (2, 3) or array.ndim not in (axes, axes + 1) or 0 in array.shape:
        raise ImageError(
            f"an array of shape {shape_text(array.shape)} with {axes} spacings is no image. Give (z, y, x) or "
            "(channel, z, y, x) with three spacings in millimetres, or (y, x) or (channel, y, x) with two"
        )
    if not all(np.isfinite(value) and value > 0 for value in spacing_mm):
        raise ImageError(f"spacing_mm is {tuple(spacing_mm)}; give positive millimetres")
    array = array.astype(np.uint8) if array.dtype == bool else array
    if array.dtype.kind not in "iuf":
        raise ImageError(f"an array of type {array.dtype} is no image. Convert it to integers or floats")
    if array.ndim == axes:
        array = array[None]
    if axes == 2:
        return ArrayImage(array[:, None], flat_geometry(spacing_mm))
    z, y, x = (float(value) for value in spacing_mm)
    return ArrayImage(array, Geometry(spacing_mm=(z, y, x)))


def with_spacing(geometry: Geometry, spacing: Sequence[float]) -> Geometry:
    """Replace a geometry's spacing by another (y, x or z, y, x, in millimetres) that is known from elsewhere."""
    if geometry.dimensions == 2:
        return flat_geometry(tuple(spacing)[-2:], origin=geometry.origin, direction=geometry.direction)
    z, y, x = (float(value) for value in spacing)
    return dataclasses.replace(geometry, spacing_mm=(z, y, x), known=True)


def unplaced(geometry: Geometry) -> Geometry:
    """Give the geometry of an image whose file says nothing of its place: 1 mm, not known."""
    if geometry.dimensions == 2:
        return flat_geometry(known=False)
    return Geometry(spacing_mm=(1.0, 1.0, 1.0), known=False)
