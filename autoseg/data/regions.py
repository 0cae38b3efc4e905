"""Images read in regions, in the type that they are stored in: what is larger than memory is never held whole.

Uncompressed NIfTI, MetaImage and NRRD files are read where they lie. A compressed NIfTI file is unpacked once, as a
stream, into a temporary file. Of other formats the stored numbers are held in memory, in their own type.

Source: the formats' definitions, see ``io_nifti`` and ``io_headers``.
"""

import gzip
import io
import math
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autoseg import room
from autoseg.data.image import ArrayImage, Box, Image, StackedImage
from autoseg.data.io_guard import claimed_bytes
from autoseg.data.io_headers import MetaHeader, truncated
from autoseg.data.io_nifti import CHUNK_BYTES, MAGIC_GZIP, SURPLUS_BYTES, NiftiVoxels
from autoseg.data.io_sitk import SitkImage

MAP_BYTES = 2**26
"""Bytes of a file that are mapped at a time: mapped pages count as the process's memory. Assumption."""

META_NUMBERS = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4",
    "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4", "MET_DOUBLE": "f8",
}  # fmt: skip
"""Types of MetaImage's voxels; MET_LONG differs between systems and is left to ITK."""


@dataclass(frozen=True)
class RegionCost:
    """What it takes to read an image in regions.

    Attributes:
        held: bytes of main memory that stay taken.
        loading: bytes of main memory while it is opened, ``held`` included.
        disk: bytes of a temporary file.
    """

    held: int
    loading: int
    disk: int


class RawVoxels(Image):
    """Voxels that lie uncompressed in a file, channel slowest and x fastest."""

    def __init__(
        self, file: Path, offset: int, stored: np.dtype, like: Image, scale: tuple[float, float] | None = None
    ):
        """Point at voxels.

        Args:
            file: where they lie, from byte ``offset`` on.
            offset: of the first.
            stored: their type, with its byte order.
            like: gives shape, channels, geometry and the type that is read.
            scale: factor and summand, where the stored numbers are to be multiplied and shifted.
        """
        self.file, self.offset, self.stored, self.scale = file, offset, stored, scale
        self.shape, self.dtype, self.num_channels = like.shape, like.dtype, like.num_channels
        self.geometry, self.notes, self.paths, self.modality = like.geometry, like.notes, like.paths, like.modality

    def read(self, box: Box | None = None) -> np.ndarray:
        """Read the part inside the box.

        Raises:
            ImageError: the file has become shorter.
        """
        box = box or tuple((0, size) for size in self.shape)
        found = np.empty((self.num_channels, *(stop - start for start, stop in box)), dtype=self.stored)
        for channel, part in enumerate(found):
            self._read_channel(channel, box, part)
        if self.scale is None:
            return found.astype(self.dtype, copy=False)
        with np.errstate(over="ignore", invalid="ignore"):
            return (found.astype(np.float64) * self.scale[0] + self.scale[1]).astype(self.dtype)

    def _read_channel(self, channel: int, box: Box, part: np.ndarray) -> None:
        """Copy planes out of a mapping that is given up at once, some at a time."""
        (first, last), *sides = box
        height, length = self.shape[1:]
        plane = height * length * self.stored.itemsize
        begin = self.offset + channel * self.shape[0] * plane
        if self.file.stat().st_size < begin + last * plane:
            raise truncated(self.file, "it has become shorter while it was read")
        if all(side == (0, size) for side, size in zip(sides, self.shape[1:], strict=True)):
            with self.file.open("rb", buffering=0) as file:
                file.seek(begin + first * plane)
                _fill_all(file, part, self.file)
            return
        depth = max(MAP_BYTES // plane, 1)
        rows, columns = (slice(*side) for side in sides)
        for start in range(first, last, depth):
            stop = min(start + depth, last)
            shape, place = (stop - start, height, length), begin + start * plane
            mapped = np.memmap(self.file, dtype=self.stored, mode="r", offset=place, shape=shape)
            part[start - first : stop - first] = mapped[:, rows, columns]
            del mapped


def region_cost(image: Image) -> RegionCost:
    """Tell what it takes to read an image in regions, from its header alone."""
    if isinstance(image, StackedImage):
        costs = [region_cost(part) for part in image.parts]
        held, loading = sum(item.held for item in costs), max(item.loading - item.held for item in costs)
        return RegionCost(held, held + loading, sum(item.disk for item in costs))
    if isinstance(image, ArrayImage):
        return RegionCost(0, 0, 0)  # it is there already
    if _find_raw(image) is not None:
        return RegionCost(0, 0, 0)
    if isinstance(image, NiftiVoxels):
        return RegionCost(0, 2 * CHUNK_BYTES, image.header.num_bytes)
    held = claimed_bytes(image)
    return RegionCost(held, 2 * held, 0)  # ITK's image, and the array made of it


def in_regions(image: Image, scratch: Path) -> Image:
    """Give an image whose ``read(box)`` takes no more memory than the box, as far as its format allows.

    Args:
        image: as opened.
        scratch: an existing folder for temporary files; whoever made it removes it.

    Raises:
        ImageError: it is damaged.
        RoomError: the disk does not hold it.
    """
    if isinstance(image, StackedImage):
        return StackedImage([in_regions(part, scratch) for part in image.parts])
    if isinstance(image, ArrayImage):
        return image
    raw = _find_raw(image)
    if raw is not None:
        return raw
    if isinstance(image, NiftiVoxels):
        return _unpacked(image, scratch)
    held = ArrayImage(image.read(), image.geometry, image.notes)
    held.paths, held.modality = image.paths, image.modality
    return held


def _find_raw(image: Image) -> RawVoxels | None:
    """Find the voxels of an uncompressed file; None where they are packed, or their place is not plain."""
    if isinstance(image, RawVoxels):
        return image
    if isinstance(image, NiftiVoxels):
        header = image.header
        assert header.dtype is not None
        scale = (header.slope, header.intercept) if header.scaled else None
        packed = _is_packed(image.paths[0])
        return None if packed else RawVoxels(image.paths[0], header.offset, header.dtype, image, scale)
    if not isinstance(image, SitkImage) or image.components != 1 or len(image.size) != 3:
        return None
    if image.reader_name == "MetaImageIO":
        return _find_meta(image)
    return _find_nrrd(image) if image.reader_name == "NrrdImageIO" else None


def _find_meta(image: SitkImage) -> RawVoxels | None:
    path = image.paths[0]
    header = MetaHeader(path)
    fields, number = header.fields, META_NUMBERS.get(header.fields["ElementType"])
    plain = fields.get("BinaryData", "True").upper()[:1] == "T" and "HeaderSize" not in fields and not header.compressed
    if not plain or number is None:
        return None
    file = path if header.local else path.parent / fields["ElementDataFile"]
    if not file.is_file() or np.dtype(number) != image.dtype:
        return None
    big = any(fields.get(key, "F").upper()[:1] == "T" for key in ("BinaryDataByteOrderMSB", "ElementByteOrderMSB"))
    stored = np.dtype((">" if big else "<") + number)
    return RawVoxels(file, header.start if header.local else 0, stored, image)


def _find_nrrd(image: SitkImage) -> RawVoxels | None:
    path = image.paths[0]
    with path.open("rb") as file:
        head, end, _ = file.read(2**20).partition(b"\n\n")
    fields = dict(re.findall(r"^([a-z ]+): *(.*?)\r?$", head.decode("latin-1"), re.MULTILINE))
    attached = bool(end) and not {"data file", "datafile", "line skip", "lineskip", "byte skip", "byteskip"} & {*fields}
    if not attached or fields.get("encoding") != "raw" or b"\r\n" in head:
        return None
    stored, offset = (
        np.dtype((">" if fields.get("endian") == "big" else "<") + image.dtype.str[1:]),
        len(head) + len(end),
    )
    whole = offset + math.prod(image.shape) * stored.itemsize == path.stat().st_size
    return RawVoxels(path, offset, stored, image) if whole else None


def _is_packed(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == MAGIC_GZIP


def _unpacked(image: NiftiVoxels, scratch: Path) -> RawVoxels:
    """Unpack a compressed NIfTI file into a temporary file, a piece at a time, and see that it is whole.

    Raises:
        ImageError: it is damaged.
        RoomError: the disk is too small.
    """
    path, needed = image.paths[0], image.header.num_bytes
    room.check_disk(scratch, needed, f"unpacking {path}, to read it in regions,")
    target = scratch / f"{len(list(scratch.iterdir()))}.raw"
    try:
        with gzip.open(path) as packed, target.open("wb") as file:
            packed.read(image.header.offset)
            found = 0
            while part := packed.read(min(CHUNK_BYTES, needed + SURPLUS_BYTES + 1 - found)):
                file.write(part[: max(needed - found, 0)])
                found += len(part)
                if found > needed + SURPLUS_BYTES:
                    raise truncated(path, f"more than {SURPLUS_BYTES} bytes stand behind the voxels of its header")
    except (EOFError, zlib.error, gzip.BadGzipFile) as fault:
        raise truncated(path, " ".join(str(fault).split()).rstrip(".")) from fault
    if found < needed:
        raise truncated(path, f"it holds {found} of {needed} bytes of voxels")
    header = image.header
    assert header.dtype is not None
    return RawVoxels(target, 0, header.dtype, image, (header.slope, header.intercept) if header.scaled else None)


def _fill_all(file: io.RawIOBase, part: np.ndarray, path: Path) -> None:
    target, found = memoryview(part.reshape(-1).view(np.uint8)), 0  # type: ignore[arg-type]
    while found < len(target):
        count = file.readinto(target[found : found + MAP_BYTES])
        if not count:
            raise truncated(path, "it has become shorter while it was read")
        found += count
