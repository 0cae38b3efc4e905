"""Voxels of NIfTI files, read here because ITK takes a truncated or damaged file without a word.

ITK reads the header, with one exception: a direction that is not orthonormal, which it refuses. Noise in it is taken
out here and noted; a sheared grid is an error.

Source: nifti1.h and nifti2.h of the NIfTI data format working group (places of the header's fields).
"""

import gzip
import itertools
import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from autoseg.data.image import Box, Geometry, Image, crop
from autoseg.data.io_guard import LARGEST_MM, SHEAR_TOLERANCE, check_memory, no_memory
from autoseg.data.io_headers import faulty, truncated
from autoseg.data.io_sitk import SitkImage, SkewedAxesError
from autoseg.errors import ImageError
from planners.fingerprint import Shape

DTYPES = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8",
}  # fmt: skip
"""Data type codes of numbers; colours and complex numbers are left to ITK."""

FIRST = {
    "dim": (40, "8h"), "type": (70, "h"), "steps": (80, "7f"), "offset": (108, "f"), "scale": (112, "2f"),
    "qform": (252, "h"), "sform": (254, "h"), "quaternion": (256, "6f"), "rows": (280, "12f"),
}  # fmt: skip
SECOND = {
    "dim": (16, "8q"), "type": (12, "h"), "steps": (112, "7d"), "offset": (168, "q"), "scale": (176, "2d"),
    "qform": (344, "i"), "sform": (348, "i"), "quaternion": (352, "6d"), "rows": (400, "12d"),
}  # fmt: skip
"""Byte and form of the fields of NIfTI-1 and NIfTI-2 headers."""

LEFT_TO_ITK = {32, 128, 1792, 2304}
"""Codes of complex numbers and colours."""

MOST_OFFSET = 2**28
"""Bytes before the voxels: a header and its extensions. Assumption; they hold text."""

DEFLATE = 1032
"""How many times smaller gzip makes zeros, at most (zlib's technical details)."""

SURPLUS_BYTES = 2**26
"""What may stand behind the voxels of a compressed file; it is inflated for the check sum, and thrown away."""

MAGIC_GZIP = b"\x1f\x8b"
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class NiftiHeader:
    """What a NIfTI header says of the voxels' place in the file, and of the grid if its sform is set."""

    shape: tuple[int, ...]  # x first, as in the file
    dtype: np.dtype | None  # None for types that are left to ITK
    offset: int
    slope: float
    intercept: float
    sform: np.ndarray | None  # 3×4, millimetres, right-anterior-superior

    @property
    def num_values(self) -> int:
        """Number of all values; one that lies may be beyond 64 bits."""
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        """Bytes of all voxels."""
        return 0 if self.dtype is None else self.num_values * self.dtype.itemsize

    @property
    def scaled(self) -> bool:
        """Whether the stored numbers are to be multiplied and shifted; a slope of 0 means that they are not."""
        finite = np.isfinite(self.slope) and np.isfinite(self.intercept)
        return bool(finite and self.slope != 0 and (self.slope != 1 or self.intercept != 0))


def read_header(path: Path) -> NiftiHeader:
    """Read the header of a NIfTI-1 or NIfTI-2 file, compressed or not.

    Raises:
        ImageError: it is none.
    """
    try:
        with _open(path) as file:
            raw = file.read(540)
    except (OSError, EOFError, zlib.error) as fault:
        raise ImageError(f"{path} cannot be read: {_reason(fault)}. Copy or export the file again") from fault
    for order in "<>":
        size = struct.unpack_from(order + "i", raw)[0] if len(raw) >= 348 else 0
        if size == 348:
            return _parse(path, raw, order, FIRST)
        if size == 540 and len(raw) == 540:
            return _parse(path, raw, order, SECOND)
    raise ImageError(f"{path} is no NIfTI file, or it is truncated. Copy or export the file again")


def _check(path: Path, dim: Sequence[int], code: int, fields: dict[str, Any]) -> None:
    """Refuse numbers that are none before ITK's own reader prints or misunderstands them.

    Raises:
        ImageError: the field that is wrong.
    """
    used = dim[1 : 1 + max(dim[0], 0)]
    if not 1 <= dim[0] <= 7 or min(used) < 1 or math.prod(used) >= 2**63:
        raise faulty(path, f"its header says {dim[0]} axes of the lengths {', '.join(map(str, used)) or 'none'}")
    if code not in DTYPES and code not in LEFT_TO_ITK:
        raise faulty(path, f"its header says voxels of the type {code}, which is none that can be read")
    if not 0 <= fields["offset"][0] <= MOST_OFFSET:
        raise faulty(path, f"its header says voxels from byte {fields['offset'][0]:g} on")
    numbers = {"voxel sizes": fields["steps"][: dim[0]]}
    if fields["qform"][0] > 0:
        numbers["a qform"] = fields["quaternion"]
    if fields["sform"][0] > 0:
        numbers["an sform"] = fields["rows"]
    for name, values in numbers.items():
        if not np.isfinite(values).all() or np.abs(values).max() > LARGEST_MM:
            raise faulty(path, f"its header says {name} of {', '.join(f'{value:g}' for value in values)}")


def _parse(path: Path, raw: bytes, order: str, places: dict[str, tuple[int, str]]) -> NiftiHeader:
    fields: dict[str, Any] = {
        name: struct.unpack_from(order + form, raw, start) for name, (start, form) in places.items()
    }
    dim, code = fields["dim"], fields["type"][0]
    _check(path, dim, code, fields)
    return NiftiHeader(
        shape=tuple(max(size, 1) for size in dim[1 : 1 + min(max(dim[0], 0), 7)]),
        dtype=np.dtype(order + DTYPES[code]) if code in DTYPES else None,
        offset=max(int(fields["offset"][0]), 348 if places["dim"][0] == 40 else 540),  # as ITK takes it
        slope=fields["scale"][0],
        intercept=fields["scale"][1],
        sform=np.array(fields["rows"]).reshape(3, 4) if fields["sform"][0] > 0 else None,
    )


def open_nifti(path: Path) -> Image:
    """Open a NIfTI file.

    Raises:
        ImageError: it is unreadable, truncated or on a sheared grid.
    """
    header = read_header(path)
    _check_length(path, header)
    notes: tuple[str, ...] = ()
    try:
        opened = SitkImage(path, "NiftiImageIO")
    except SkewedAxesError:
        geometry, note = sform_geometry(path, header)
        opened, notes = None, (note,)
    if header.dtype is None or (opened is not None and not _same_grid(header, opened)):
        if opened is None:
            raise ImageError(f"{path} holds voxels of a kind that cannot be read. Convert them to integers or floats")
        return opened
    if opened is not None:
        return NiftiVoxels(path, header, opened.shape, opened.dtype, opened.geometry)
    x, y, z = header.shape[:3]
    stored = np.dtype(header.dtype.str[1:])
    dtype = stored if not header.scaled or stored == np.float64 else np.dtype(np.float32)
    return NiftiVoxels(path, header, (z, y, x), dtype, geometry, notes)


def _same_grid(header: NiftiHeader, opened: Image) -> bool:
    """Say whether the voxels lie in the file as ITK's header says; vectors and the like are left to ITK."""
    inner = [size for size in header.shape if size > 1]
    return inner == [size for size in (*reversed(opened.shape), opened.num_channels) if size > 1]


class NiftiVoxels(Image):
    """A NIfTI file whose voxels are read here."""

    def __init__(
        self,
        path: Path,
        header: NiftiHeader,
        shape: Shape,
        dtype: np.dtype,
        geometry: Geometry,
        notes: tuple[str, ...] = (),
    ) -> None:
        self.paths, self.header, self.shape, self.dtype = (path,), header, shape, dtype
        self.geometry, self.notes = geometry, notes
        self.num_channels = header.num_values // math.prod(shape)
        if header.scaled and dtype.kind != "f":
            raise faulty(path, f"its header says that its whole numbers are to be multiplied by {header.slope:g}")

    def read(self, box: Box | None = None) -> np.ndarray:
        """Read the file, or the part inside the box; scaled as its header says."""
        path = self.paths[0]
        with path.open("rb") as file:
            compressed = file.read(2) == MAGIC_GZIP
        check_memory(path, self._needed(compressed or box is None))
        try:
            return self._values(self._decompress(path) if compressed else self._load(path, whole=box is None), box)
        except MemoryError as fault:
            raise no_memory(path, self._needed(compressed or box is None)) from fault

    def _needed(self, whole: bool) -> int:
        """Bytes of the stored numbers and of what is made of them; a part of a file is mapped, not read."""
        return (self.header.num_bytes + self.header.num_values * self.dtype.itemsize) if whole else 0

    def _values(self, stored: np.ndarray, box: Box | None) -> np.ndarray:
        raw = crop(stored.reshape(self.num_channels, *self.shape), box)
        if self.header.scaled:
            with np.errstate(over="ignore", invalid="ignore"):  # the check counts what is not finite
                return (raw.astype(np.float64) * self.header.slope + self.header.intercept).astype(self.dtype)
        own = stored.flags.writeable  # what is only mapped must be copied out of the file
        return np.ascontiguousarray(raw, dtype=self.dtype) if own else np.array(raw, dtype=self.dtype)

    def _load(self, path: Path, *, whole: bool) -> np.ndarray:
        """Read an uncompressed file, or map it where only a part is wanted."""
        count, dtype, offset = self.header.num_values, self.header.dtype, self.header.offset
        assert dtype is not None
        _check_length(path, self.header)
        if whole:
            return np.fromfile(path, dtype=dtype, count=count, offset=offset)
        return np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=(count,))

    def _decompress(self, path: Path) -> np.ndarray:
        content = np.empty(self.header.num_bytes, dtype=np.uint8)
        try:
            with gzip.open(path) as file:
                file.read(self.header.offset)
                found = _fill(file, content.data)
                surplus = 0
                while part := file.read(CHUNK_BYTES):  # the check sum stands at the end, and is compared there
                    surplus += len(part)
                    if surplus > SURPLUS_BYTES:
                        raise truncated(path, f"more than {surplus} bytes stand behind the voxels of its header")
        except (OSError, EOFError, zlib.error) as fault:
            raise truncated(path, _reason(fault)) from fault
        if found < len(content):
            raise truncated(path, f"it holds {found} of {len(content)} bytes of voxels")
        dtype = self.header.dtype
        assert dtype is not None
        return content.view(dtype)


def _check_length(path: Path, header: NiftiHeader) -> None:
    """Refuse a file that is too short for what its header promises; what gzip hides shows when it is read."""
    with path.open("rb") as file:
        factor = DEFLATE if file.read(2) == MAGIC_GZIP else 1
    there, needed = path.stat().st_size, header.offset + header.num_bytes
    if there * factor < needed:
        packed = " of gzip" if factor > 1 else ""
        raise truncated(path, f"it has {there} bytes{packed}, its header promises {needed}")


def sform_geometry(path: Path, header: NiftiHeader) -> tuple[Geometry, str]:
    """Make a geometry from an sform whose axes are not quite at right angles.

    Returns:
        The nearest geometry with axes at right angles, and a note that says how far corners moved.

    Raises:
        ImageError: there is no sform, or corners would move by more than half a voxel (a sheared grid).
    """
    if header.sform is None or len(header.shape) < 3:
        raise ImageError(f"{path} has no usable orientation in its header. Export it again with a valid sform")
    affine = np.diag([-1.0, -1.0, 1.0]) @ header.sform  # NIfTI: right-anterior-superior, ITK: left-posterior-superior
    spacing = np.linalg.norm(affine[:, :3], axis=0)
    if not (np.isfinite(affine).all() and (spacing > 0).all()):
        raise ImageError(f"{path} has an sform with an empty or non-finite axis. Export it again with a valid sform")
    left, _, right = np.linalg.svd(affine[:, :3] / spacing)
    direction = left @ right  # the nearest orthonormal matrix (polar decomposition)
    moved = _moved(affine, direction * spacing, header.shape[:3], spacing)
    if moved > SHEAR_TOLERANCE:
        raise ImageError(
            f"{path} has axes that are not at right angles (corners would move by {moved:.1f} voxels; gantry tilt or "
            "a sheared registration). Resample it, and its label, to a grid with right angles"
        )
    size = tuple(float(value) for value in spacing)
    geometry = Geometry(
        spacing_mm=(size[2], size[1], size[0]),
        origin=tuple(float(value) for value in affine[:, 3]),
        direction=tuple(float(value) for value in direction.ravel()),
    )
    return geometry, f"axes made orthogonal (corners moved by {moved:.2g} voxels)"


def _moved(affine: np.ndarray, matrix: np.ndarray, shape: Sequence[int], spacing: np.ndarray) -> float:
    corners = np.array(list(itertools.product(*[(0, size - 1) for size in shape])), dtype=float)
    shift = corners @ (matrix - affine[:, :3]).T
    return float((np.linalg.norm(shift, axis=1) / spacing.min()).max())


def _open(path: Path) -> BinaryIO:
    with path.open("rb") as file:
        compressed = file.read(2) == MAGIC_GZIP
    return gzip.open(path) if compressed else path.open("rb")  # type: ignore[return-value]


def _fill(file: Any, target: memoryview) -> int:
    found = 0
    while found < len(target):
        count = file.readinto(target[found : found + CHUNK_BYTES])
        if not count:
            break
        found += count
    return found


def _reason(fault: Exception) -> str:
    text = fault.strerror if isinstance(fault, OSError) and fault.strerror else str(fault)
    return " ".join(text.split()).rstrip(".") or type(fault).__name__
