"""Write a label map region by region, so that it never has to be held whole; whole or not at all, as all files.

The voxels go into a temporary file beside the place of the result. NIfTI, MetaImage and NRRD have them as they are,
behind a header that ITK writes for an image of one voxel and that then gets the true size; ``.nii.gz`` is packed from
them at the end, as a stream.
"""

import gzip
import math
import os
import re
import shutil
import struct
import tempfile
from pathlib import Path
from types import TracebackType

import numpy as np

from autoseg import room
from autoseg.data.image import Box, Geometry
from autoseg.data.io_nifti import CHUNK_BYTES
from autoseg.data.io_sitk import ONE_AT_A_TIME, simpleitk, sitk_from_label
from autoseg.data.regions import MAP_BYTES
from autoseg.errors import AutosegError, ImageError

WRITERS = {".nii": "NiftiImageIO", ".nii.gz": "NiftiImageIO", ".mha": "MetaImageIO", ".nrrd": "NrrdImageIO"}
"""By ending: which of ITK's writers makes the header."""

LEVEL = 1
"""Of gzip: label maps are packed to about the same size by all, and by this several times faster. Assumption."""

LONGEST_AXIS = 2**15 - 1  # of NIfTI-1


class RegionWriter:
    """A label map that is being written. As a context it is finished at the end, or removed where something failed."""

    def __init__(self, path: Path, ending: str, shape: tuple[int, ...], geometry: Geometry, dtype: np.dtype) -> None:
        """Make the temporary file; all voxels are 0.

        Args:
            path: the file to make or to replace.
            ending: one of ``WRITERS``.
            shape: z, y, x.
            geometry: of the image.
            dtype: of the user's values.

        Raises:
            ImageError: the format holds no axis as long.
            RoomError: the disk does not hold it.
        """
        self.path, self.ending, self.shape, self.dtype = path, ending, shape, np.dtype(dtype).newbyteorder("<")
        if max(shape) > LONGEST_AXIS and WRITERS[ending] == "NiftiImageIO":
            raise ImageError(f"{path}: NIfTI-1 has no axis of {max(shape)} voxels. Give the image as .nrrd or .mha")
        path.parent.mkdir(parents=True, exist_ok=True)
        needed = math.prod(shape) * self.dtype.itemsize
        room.check_disk(path.parent, disk_bytes(ending, needed), f"writing {path} in regions")
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[: -len(ending)]}.", suffix=".raw")
        os.close(handle)
        self.temporary = Path(name)
        try:
            header = _header(ending, shape, geometry, self.dtype)
            self.offset = len(header)
            with self.temporary.open("wb") as file:
                file.write(header)
                file.truncate(len(header) + needed)
        except BaseException:
            self.abandon()
            raise

    def put(self, box: Box, values_ZYX: np.ndarray) -> None:
        """Write a region.

        Raises:
            ImageError: the disk does not take it.
        """
        (first, last), *sides = box
        plane = math.prod(self.shape[1:]) * self.dtype.itemsize
        try:
            if all(side == (0, size) for side, size in zip(sides, self.shape[1:], strict=True)):
                with self.temporary.open("r+b") as file:
                    file.seek(self.offset + first * plane)
                    file.write(np.ascontiguousarray(values_ZYX, dtype=self.dtype).data)
                return
            depth, rows, columns = max(MAP_BYTES // plane, 1), slice(*sides[0]), slice(*sides[1])
            with self.temporary.open("r+b") as file:  # not mapped: a full disk would end the process
                for start in range(first, last, depth):
                    stop = min(start + depth, last)
                    file.seek(self.offset + start * plane)
                    part = np.frombuffer(bytearray(file.read((stop - start) * plane)), dtype=self.dtype)
                    part = part.reshape(stop - start, *self.shape[1:])
                    part[:, rows, columns] = values_ZYX[start - first : stop - first]
                    file.seek(self.offset + start * plane)
                    file.write(part.data)
        except OSError as fault:
            raise _unwritten(self.path, fault) from fault

    def finish(self) -> None:
        """Give the file its name.

        Raises:
            ImageError: the disk does not take it.
        """
        try:
            if self.ending == ".nii.gz":
                self._pack()
            with self.temporary.open("rb+") as file:
                os.fsync(file.fileno())
            self.temporary.chmod(0o644)
            self.temporary.replace(self.path)
        except OSError as fault:
            raise _unwritten(self.path, fault) from fault
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Remove what was written; nothing happens once it has its name."""
        self.temporary.unlink(missing_ok=True)

    def __enter__(self) -> "RegionWriter":
        """Begin to write."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish, or remove what was written."""
        if kind is None:
            self.finish()
        else:
            self.abandon()

    def _pack(self) -> None:
        packed = self.temporary.with_suffix(".gz")
        try:
            with self.temporary.open("rb") as source, packed.open("wb") as file, gzip.GzipFile(
                "", "wb", compresslevel=LEVEL, fileobj=file, mtime=0
            ) as target:  # fmt: skip
                shutil.copyfileobj(source, target, CHUNK_BYTES)
            packed.replace(self.temporary)
        finally:
            packed.unlink(missing_ok=True)


def disk_bytes(ending: str, num_bytes: int) -> int:
    """Tell what the disk must hold while a map of so many bytes is written, by the ending of its file."""
    return num_bytes * (2 if ending == ".nii.gz" else 1)


def _header(ending: str, shape: tuple[int, ...], geometry: Geometry, dtype: np.dtype) -> bytes:
    """Have ITK write an image of one voxel, and put the true size in its header."""
    plain = ".nii" if ending == ".nii.gz" else ending
    one = sitk_from_label(np.zeros((1, 1, 1), dtype=dtype.newbyteorder("=")), geometry)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"one{plain}"
        with ONE_AT_A_TIME:
            writer = simpleitk().ImageFileWriter()
            writer.SetImageIO(WRITERS[ending])
            writer.SetFileName(str(path))
            writer.SetUseCompression(False)
            writer.Execute(one)
        header = path.read_bytes()[: -dtype.itemsize]
    if plain == ".nii":
        return header[:42] + struct.pack("<3h", *reversed(shape)) + header[48:]
    text = " ".join(str(size) for size in reversed(shape)).encode()
    found = re.subn(rb"(?m)^(DimSize =|sizes:) 1 1 1$", lambda match: match[1] + b" " + text, header)
    assert found[1] == 1, "one line tells the size"
    return found[0]


def _unwritten(path: Path, fault: OSError) -> AutosegError:
    if room.is_no_disk(fault):
        return room.no_disk(path, None, fault)
    return ImageError(f"{path} cannot be written: {fault.strerror}. Free space, or choose another folder")
