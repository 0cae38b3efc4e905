"""Write label maps as files: whole or not at all, in the smallest integer type, with the geometry they came with."""

import contextlib
import dataclasses
import errno
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from autoseg import room
from autoseg.data.image import Geometry, shape_text
from autoseg.data.io_sitk import ONE_AT_A_TIME, simpleitk, sitk_from_label
from autoseg.errors import AutosegError, ImageError

NIFTI_HEADER = 352
"""Bytes before the voxels in what ITK writes: the header's 348, and four that say that no extension follows."""

INTEGERS = ("uint8", "uint16", "int16", "int32", "int64")
"""Candidate types; the first that holds all values is taken."""

WRITERS: dict[str, tuple[str, tuple[str, ...]]] = {
    ".nii.gz": ("NiftiImageIO", INTEGERS),
    ".nii": ("NiftiImageIO", INTEGERS),
    ".nrrd": ("NrrdImageIO", INTEGERS),
    ".mha": ("MetaImageIO", INTEGERS),
    ".tif": ("TIFFImageIO", INTEGERS[:4]),
    ".tiff": ("TIFFImageIO", INTEGERS[:4]),
    ".png": ("PNGImageIO", INTEGERS[:2]),
}
"""Per ending: ITK's writer, and the types that the format holds."""


def write_label(path: Path, ending: str, label_ZYX: np.ndarray, geometry: Geometry) -> None:
    """Write a label map; ``io.write_segmentation`` is the door to this.

    Raises:
        ImageError: the ending is not written, the format cannot hold the values or a third axis, or the disk fails.
    """
    if ending not in WRITERS:
        raise ImageError(f"{path}: no label can be written with this ending. Choose one of {' '.join(WRITERS)}")
    writer_name, types = WRITERS[ending]
    if geometry.dimensions == 3 and ending == ".png":
        shape = shape_text(label_ZYX.shape)
        raise ImageError(f"{path}: a volume of shape {shape} cannot be written as PNG. Choose .nii.gz or .tif")
    image = sitk_from_label(label_ZYX.astype(_smallest_type(path, label_ZYX, types), copy=False), geometry)

    def write(temporary: Path) -> None:
        with ONE_AT_A_TIME:
            writer = simpleitk().ImageFileWriter()
            writer.SetImageIO(writer_name)
            writer.SetFileName(str(temporary))
            writer.SetUseCompression(True)
            writer.Execute(image)
        if writer_name == "NiftiImageIO":
            _check_nifti(temporary, label_ZYX.size * image.GetSizeOfPixelComponent())

    replace_whole(path, ending, write, NIFTI_HEADER + label_ZYX.size * image.GetSizeOfPixelComponent())
    if ending in (".tif", ".tiff") and geometry.dimensions == 3 and geometry.known:
        # TIFF has no place for the spacing along z; nnU-Net v2 keeps it in such a file, and so do we.
        text = json.dumps({"spacing": list(geometry.spacing_mm)}) + "\n"
        sidecar = path.with_name(path.name[: -len(ending)] + ".json")
        replace_whole(sidecar, ".json", lambda temporary: write_text(temporary, text))


def _check_nifti(path: Path, voxel_bytes: int) -> None:
    """Refuse a file that the disk did not take whole: ITK's writer of NIfTI does not notice.

    A compressed file ends with the number of bytes in it, which one that was cut off does not have there.

    Raises:
        OSError: it is too short.
    """
    wanted = NIFTI_HEADER + voxel_bytes
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - 4, 0))
        found = int.from_bytes(file.read(4), "little") if packed else size
    if (found != wanted % 2**32) if packed else (found < wanted):
        raise OSError(errno.EIO if room.largest_file() is None else errno.EFBIG, "the disk did not take it whole")


def write_values(path: Path, values_ZYX: np.ndarray, geometry: Geometry) -> None:
    """Write an array in its own type where ``write_label`` chooses type and format itself; uncompressed.

    Args:
        path: ends in ``.tif`` (a stack, floats too) or ``.mhd`` (MetaImage: header, and voxels beside it in ``.raw``).
        values_ZYX: z, y, x.
        geometry: as the image was read; of a TIFF only the size of the pixels is kept.

    Raises:
        ImageError: the ending is another, or the disk fails.
    """
    writers = {".tif": "TIFFImageIO", ".mhd": "MetaImageIO"}
    if path.suffix not in writers:
        raise ImageError(f"{path}: arrays are written as {' or '.join(writers)}. Choose one of these endings")
    image = sitk_from_label(values_ZYX, dataclasses.replace(geometry, dimensions=3))

    def write(target: Path) -> None:
        with ONE_AT_A_TIME:
            writer = simpleitk().ImageFileWriter()
            writer.SetImageIO(writers[path.suffix])
            writer.SetFileName(str(target))
            writer.Execute(image)

    if path.suffix == ".mhd":  # two files, of which one names the other: no temporary name would do
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path)
    else:
        replace_whole(path, path.suffix, write, NIFTI_HEADER + values_ZYX.nbytes)


def _smallest_type(path: Path, label: np.ndarray, types: tuple[str, ...]) -> np.dtype:
    if label.dtype.kind not in "iub":
        raise ImageError(f"{path}: a label map of type {label.dtype} cannot be written. Round it to integers first")
    low, high = (int(label.min()), int(label.max())) if label.size else (0, 0)
    for name in types:
        limits = np.iinfo(name)
        if limits.min <= low and high <= limits.max:
            return np.dtype(name)
    limits = np.iinfo(types[-1])
    raise ImageError(
        f"{path}: label values from {low} to {high} do not fit this format ({limits.min} … {limits.max}). "
        "Choose .nii.gz, .nrrd or .mha, or smaller values"
    )


def check_ids_fit(path: Path, num_objects: int) -> None:
    """Refuse to number more objects than a file of a format can hold.

    Raises:
        ImageError: there are more; the message says what to do.
    """
    ending, most = _most_ids(path)
    if num_objects > most:
        raise ImageError(
            f"{path}: {num_objects:,} objects were found, and {ending} files hold numbers up to {most:,}. Give the "
            "image as TIFF or NIfTI (.tif, .nii.gz): a segmentation is written in the format of its image"
        )


def ids_fit(path: Path, num_objects: int) -> bool:
    """Tell whether a file of this format can number so many objects."""
    return num_objects <= _most_ids(path)[1]


def _most_ids(path: Path) -> tuple[str, int]:
    """Give the ending of a file, and the largest number that its format holds."""
    ending = next((item for item in WRITERS if path.name.lower().endswith(item)), "")
    types = WRITERS[ending][1] if ending else INTEGERS
    return ending, int(np.iinfo(types[-1]).max)


def replace_whole(path: Path, ending: str, write: Callable[[Path], None], most_bytes: int | None = None) -> None:
    """Write a file beside its place, flush it to the disk, and rename it: a kill leaves the old file or the new.

    Args:
        path: the file to make or to replace.
        ending: of the temporary name; writers choose their format by it.
        write: writes the temporary file.
        most_bytes: what it may need, for the message of a full disk; None where that is not known.

    Raises:
        RoomError: the disk, or main memory, does not suffice.
        ImageError: it cannot be written for another reason.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[: -len(ending)]}.", suffix=ending)
        temporary = Path(name)
        os.close(handle)
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except (RuntimeError, OSError) as fault:
        if temporary is not None:  # what it holds counts as free
            temporary.unlink(missing_ok=True)
        raise _unwritten(path, fault, most_bytes) from fault
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()


def _unwritten(path: Path, fault: Exception, most_bytes: int | None) -> AutosegError:
    """Make the error of a file that could not be written; ITK tells a full disk in many words, or none."""
    if room.is_no_memory(fault):
        return room.no_memory(fault, f"writing {path}")
    if room.is_no_disk(fault) or (most_bytes is not None and room.is_short(path, most_bytes)):
        return room.no_disk(path, most_bytes, fault)
    cause = fault.strerror if isinstance(fault, OSError) else str(fault).strip().splitlines()[-1].strip().rstrip(".")
    return ImageError(f"{path} cannot be written: {cause}. Free space, or choose another folder")


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8."""
    path.write_text(text, encoding="utf-8")
