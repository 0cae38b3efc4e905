"""Files that Pillow reads: JPEG, BMP and GIF, and what ITK refuses (grey with alpha) or explains away (palettes).

Pillow complains of a truncated JPEG or BMP, which ITK does not. None of these formats says how large a pixel is.
"""

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from autoseg.data.image import Box, Image, crop, flat_geometry
from autoseg.data.io_guard import check_memory, claimed_bytes
from autoseg.data.io_sitk import ALPHA_NOTE
from autoseg.errors import ImageError

TARGET_MODES = {
    "1": "L", "L": "L", "LA": "L", "La": "L", "P": "RGB", "PA": "RGB", "RGB": "RGB", "RGBA": "RGB", "RGBa": "RGB",
    "RGBX": "RGB", "CMYK": "RGB", "YCbCr": "RGB", "I": "I", "I;16": "I;16", "I;16B": "I;16B", "F": "F",
}  # fmt: skip
"""Pillow's mode as stored -> as read here."""

DTYPES = {"L": "u1", "RGB": "u1", "I": "i4", "I;16": "u2", "I;16B": "u2", "F": "f4"}


class PillowImage(Image):
    """A 2D image read by Pillow.

    Args:
        path: the file.
        as_label: give the indices of a colour palette, not the colours.
    """

    def __init__(self, path: Path, *, as_label: bool = False) -> None:
        self.paths = (path,)
        self.as_label = as_label
        try:
            with self._open() as picture:
                self.mode = self._target_mode(picture)
                width, height = picture.size
                frames = picture.n_frames if picture.format in ("GIF", "PNG") else 1
                alpha = "A" in picture.getbands()
                indices = self.mode == "P"
        except (OSError, SyntaxError, ValueError) as fault:
            raise _error(path, fault) from fault
        if frames > 1:
            raise ImageError(f"{path} is an animation of {frames} pictures. Save the one that is meant as PNG or TIFF")
        self.shape = (1, height, width)
        self.num_channels = 3 if self.mode == "RGB" else 1
        self.dtype = np.dtype("u1" if indices else DTYPES[self.mode])
        self.geometry = flat_geometry(known=False)
        reduced = self.mode == "L" and _bit_depth(path) == 16
        notes = {ALPHA_NOTE: alpha, "palette indices taken as labels": indices, "16 bits read as 8": reduced}
        self.notes = tuple(note for note, holds in notes.items() if holds)

    def read(self, box: Box | None = None) -> np.ndarray:
        """Decode the file; the box is cut out of the whole."""
        check_memory(self.paths[0], 2 * claimed_bytes(self))
        try:
            with self._open() as picture:
                picture.load()
                array = np.asarray(picture if picture.mode == self.mode else picture.convert(self.mode))
        except (OSError, SyntaxError, ValueError) as fault:
            raise _error(self.paths[0], fault) from fault
        array = array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0)
        return np.array(crop(array[:, None], box), dtype=self.dtype, order="C")

    def _open(self) -> Any:
        from PIL import Image as Pillow

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Pillow.DecompressionBombWarning)  # ``io_guard`` compares the sizes
                return Pillow.open(self.paths[0])
        except (OSError, SyntaxError, ValueError, Pillow.DecompressionBombError) as fault:
            raise _error(self.paths[0], fault) from fault

    def _target_mode(self, picture: Any) -> str:
        if picture.mode == "P" and self.as_label and not _grey_palette(picture):
            return "P"
        if picture.mode == "P" and _grey_palette(picture):
            return "L"
        if picture.mode not in TARGET_MODES:
            raise ImageError(
                f"{self.paths[0]} has pixels of a kind that cannot be read ({picture.mode}). Save it as grey or RGB"
            )
        return TARGET_MODES[picture.mode]


def has_palette(path: Path) -> bool:
    """Say whether a PNG stores palette indices (colour type 3 in its header chunk)."""
    head = _png_head(path)
    return head is not None and head[25] == 3


def _bit_depth(path: Path) -> int:
    """Give the bits per value of a PNG, 0 for other formats."""
    head = _png_head(path)
    return 0 if head is None else head[24]


def _png_head(path: Path) -> bytes | None:
    with path.open("rb") as file:
        head = file.read(26)
    return head if len(head) == 26 and head[12:16] == b"IHDR" else None


def _grey_palette(picture: Any) -> bool:
    colours = np.array(picture.getpalette() or [], dtype=int).reshape(-1, 3)
    return bool((colours == colours[:, :1]).all())


def _error(path: Path, fault: Exception) -> ImageError:
    from PIL import UnidentifiedImageError

    if not path.exists():
        return ImageError(f"{path} does not exist. Correct the name, or put the file there")
    cause = "its content is not what its ending says" if isinstance(fault, UnidentifiedImageError) else str(fault)
    return ImageError(f"{path} cannot be read: {cause.splitlines()[0].rstrip('.')}. Copy or export the file again")
