"""TIFF files: ITK reads the pixels; here is what it does not tell (a truncated stack, ImageJ's channels and sizes).

Also the small JSON file beside an image that says how large its pixels are: ``{"spacing": [z, y, x]}`` in millimetres
as nnU-Net v2 keeps it for TIFF, or BIDS microscopy's ``PixelSize`` (x, y, z) with ``PixelSizeUnits``.

Source: TIFF 6.0 (Adobe, 1992) section 2, BigTIFF's wider offsets; ImageJ's TiffEncoder; BIDS 1.10, microscopy.
"""

import contextlib
import math
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from autoseg.data.image import Box, Image, crop, unplaced, with_spacing
from autoseg.data.io_headers import truncated
from autoseg.data.io_sitk import SitkImage
from autoseg.errors import ImageError
from planners.records import parse, shown

DESCRIPTION, X_RESOLUTION = 270, 282
VALUE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""Bytes of one value of each of TIFF's types."""

NEEDED = {258, 273, 279, 282, 283, 324, 325, 339}
"""Tags without which a page cannot be read rightly: bits, strips, tiles, resolutions, sample format."""

MAGIC = {b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"}
MOST_PAGES = 500_000
"""Assumption: no stack has more; walking along them takes seconds."""

PRINT_DPI = (72.0, 96.0, 150.0, 200.0, 300.0, 600.0)
"""Resolutions that programs write when they mean paper or a screen, not the object (assumption)."""

MILLIMETRES = {"nm": 1e-6, "um": 1e-3, "µm": 1e-3, "\\u00B5m": 1e-3, "micron": 1e-3, "mm": 1.0, "cm": 10.0}
"""Units of length as ImageJ and BIDS write them."""


@dataclass(frozen=True)
class Pages:
    """What the page directories of a TIFF file say."""

    count: int
    description: str
    dots_per_unit: float


def open_tiff(path: Path) -> Image:
    """Open a TIFF file; its pages are z, or channels where ImageJ says so.

    Raises:
        ImageError: it is unreadable or truncated.
    """
    pages = _read_pages(path)  # first: ITK would run along pages in a circle for ever
    image: Image = SitkImage(path, "TIFFImageIO")
    dpi = 25.4 / (image.geometry.spacing_mm[2] or math.inf)  # what is no size is refused later
    if any(math.isclose(dpi, value, rel_tol=1e-3) for value in PRINT_DPI):
        image.notes = (*image.notes, f"{dpi:.0f} dpi is a print resolution, not a pixel size: 1 mm assumed")
        image.geometry = unplaced(image.geometry)
    elif image.geometry.spacing_mm[1:] == (1.0, 1.0):
        image.geometry = unplaced(image.geometry)
    imagej = (
        dict(re.findall(r"^(\w+)=(.*)$", pages.description, re.MULTILINE)) if "ImageJ=" in pages.description else {}
    )
    channels = imagej.get("channels", "1")
    if channels.isdigit() and int(channels) > 1 and image.num_channels == 1 and image.shape[0] % int(channels) == 0:
        image = HyperStack(image, int(channels))
    scale = MILLIMETRES.get(imagej.get("unit", ""))
    if scale and pages.dots_per_unit > 0:
        depth = abs(_number(imagej.get("spacing", "1")))
        image.geometry = with_spacing(image.geometry, [scale * depth, *[scale / pages.dots_per_unit] * 2])
    return apply_sidecar(image, path)


class HyperStack(Image):
    """An ImageJ stack whose pages run through the channels first, then through z."""

    def __init__(self, pages: Image, num_channels: int) -> None:
        self.pages = pages
        self.num_channels = num_channels
        self.shape = (pages.shape[0] // num_channels, *pages.shape[1:])
        self.dtype, self.geometry, self.paths = pages.dtype, pages.geometry, pages.paths
        self.notes = (*pages.notes, f"{num_channels} channels (ImageJ)")

    def read(self, box: Box | None = None) -> np.ndarray:
        """Read the pages and sort them by channel."""
        stack = self.pages.read()[0].reshape(self.shape[0], self.num_channels, *self.shape[1:])
        return np.ascontiguousarray(crop(stack.swapaxes(0, 1), box))


def apply_sidecar(image: Image, path: Path) -> Image:
    """Take the pixel size from the JSON file beside an image, where there is one that says it.

    The file is named like the image, or like its case (without the channel's number).

    Raises:
        ImageError: it says a size that is none.
    """
    stem = path.name[: path.name.rindex(".")]
    for name in dict.fromkeys((stem, re.sub(r"_\d{4}$", "", stem))):
        sidecar = path.with_name(f"{name}.json")
        spacing = _sidecar_spacing(sidecar) if sidecar.is_file() else None
        if spacing is None:
            continue
        if len(spacing) not in (2, 3) or not all(math.isfinite(value) and value > 0 for value in spacing):
            raise ImageError(f"{sidecar}: the pixel size {shown(spacing)} is none. Give two or three positive numbers")
        full = [image.geometry.spacing_mm[0]] * (3 - len(spacing)) + spacing
        image.geometry = with_spacing(image.geometry, full)
        return image
    return image


def _sidecar_spacing(sidecar: Path) -> list[float] | None:
    try:
        content = parse(sidecar.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(content, dict):
        return None
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        if isinstance(content.get("spacing"), list):
            return [float(value) for value in content["spacing"]]
        scale = MILLIMETRES.get(content.get("PixelSizeUnits", "mm"))
        if isinstance(content.get("PixelSize"), list) and scale:
            return [scale * float(value) for value in reversed(content["PixelSize"])]
    return None


def _number(text: str) -> float:
    try:
        return float(text) or 1.0
    except ValueError:
        return 1.0


def _read_pages(path: Path) -> Pages:
    """Walk along the chain of page directories.

    Raises:
        ImageError: a directory lies beyond the end of the file. ITK would silently give the pages before it.
    """
    with path.open("rb") as file:
        head = file.read(16)
        if len(head) < 16 or head[:4] not in MAGIC:
            return Pages(0, "", 0.0)  # ITK says what it is not
        order = "<" if head[:2] == b"II" else ">"
        big = struct.unpack_from(order + "H", head, 2)[0] == 43
        offset = struct.unpack_from(order + ("Q" if big else "I"), head, 8 if big else 4)[0]
        size = path.stat().st_size
        count, description, resolution, seen = 0, "", 0.0, set()
        while offset:
            if offset in seen or count == MOST_PAGES:
                raise truncated(path, f"the chain of its pages has no end after page {count}")
            seen.add(offset)
            directory = _read_directory(file, order, offset, big=big) if offset < size else None
            if directory is None:
                raise truncated(path, f"page {count + 1} lies beyond its end")
            entries, offset = directory
            if not _inside(entries, size):
                raise truncated(path, f"the places of page {count + 1} lie beyond its end")
            if count == 0:
                description = _text(file, entries.get(DESCRIPTION), order)
                resolution = _fraction(file, entries.get(X_RESOLUTION), order)
            count += 1
    return Pages(count, description, resolution)


Entry = tuple[int, int, int, bytes]
"""Type, number of values, where they are, and the bytes that stand for that place."""


def _inside(entries: dict[int, Entry], size: int) -> bool:
    """Say whether the values of the entries that matter lie inside a file of this size."""
    for tag in NEEDED & set(entries):
        kind, number, place, inline = entries[tag]
        length = VALUE_BYTES.get(kind, 1) * number
        if length > len(inline) and place + length > size:
            return False
    return True


def _read_directory(file: BinaryIO, order: str, offset: int, *, big: bool) -> tuple[dict[int, Entry], int] | None:
    """Read one page directory; gives its entries by tag and the place of the next one, or None at the file's end."""
    count_form, entry_form, width = ("Q", "HHQQ", 8) if big else ("H", "HHII", 4)
    file.seek(offset)
    raw = file.read(struct.calcsize(order + count_form))
    if len(raw) < struct.calcsize(order + count_form):
        return None
    count, step = struct.unpack(order + count_form, raw)[0], struct.calcsize(order + entry_form)
    body = file.read(count * step + width) if count < 4096 else b""  # more entries than any writer makes
    if len(body) < count * step + width:
        return None
    entries: dict[int, Entry] = {}
    for index in range(count):
        tag, kind, number, place = struct.unpack_from(order + entry_form, body, index * step)
        entries[tag] = (kind, number, place, body[(index + 1) * step - width : (index + 1) * step])
    return entries, struct.unpack_from(order + ("Q" if big else "I"), body, count * step)[0]


def _text(file: BinaryIO, entry: Entry | None, order: str) -> str:
    if entry is None or entry[0] != 2:
        return ""
    _, number, place, inline = entry
    if number <= len(inline):
        raw = inline[:number]
    else:
        file.seek(place)
        raw = file.read(min(number, 1 << 20))
    return raw.rstrip(b"\0").decode("latin-1")


def _fraction(file: BinaryIO, entry: Entry | None, order: str) -> float:
    if entry is None or entry[0] != 5:
        return 0.0
    inline = entry[3]
    if len(inline) < 8:
        file.seek(entry[2])
        inline = file.read(8)
    above, below = struct.unpack(order + "II", inline) if len(inline) == 8 else (0, 1)
    return above / below if below else 0.0
