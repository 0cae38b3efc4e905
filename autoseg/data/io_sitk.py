"""Files that SimpleITK reads: NIfTI headers, NRRD, MetaImage, TIFF, PNG, single DICOM files."""

import contextlib
import functools
import math
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from autoseg.data.image import ArrayImage, Box, Geometry, Image, geometry_from_itk
from autoseg.data.io_guard import check_memory, claimed_bytes, no_memory, quiet
from autoseg.data.io_headers import MetaHeader, check_header
from autoseg.errors import ImageError

MODALITY = "0008|0060"  # DICOM tag
ALPHA_NOTE = "alpha channel dropped"
PHOTOGRAPHS = {"PNGImageIO", "TIFFImageIO"}
"""Readers of formats where a fourth channel is transparency."""

CAUSES = {
    "Unable to determine ImageIO": "its content is not what its ending says",
    "not recognized as a NIFTI": "its content is damaged, or not what its ending says",
    "Unknown PixelType": "its kind of pixels is not supported",
    "bytes but received": "it holds fewer voxels than its header promises (truncated)",
    "fread got only": "it holds fewer voxels than its header promises (truncated)",
    "MetaImageIO": "it holds fewer voxels than its header promises (truncated), or its data file is missing",
    "doesn't exist": "it does not exist",
    "bad_alloc": "main memory does not hold it",
    "allocate memory": "main memory does not hold it",
    "ImportImageContainer": "main memory does not hold it",
}
"""What to tell of ITK's own words: the first that is found in them."""


ONE_AT_A_TIME = threading.RLock()
"""Held while ITK reads or writes. SimpleITK lets other threads run meanwhile, but its readers and writers share global
data without a lock (seen 2026-11 with valgrind's helgrind, SimpleITK 2.5.7): under load a process died now and then of
"double free or corruption", at its end or before. NIfTI and TIFF voxels are read by code of our own, without it."""


class SkewedAxesError(ImageError):
    """A NIfTI header whose axes are not at right angles; ITK refuses it."""


@functools.cache
def simpleitk() -> Any:
    """Import SimpleITK when it is first needed, with its warnings to stderr off (the check says what matters)."""
    import SimpleITK

    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    return SimpleITK


class SitkImage(Image):
    """A file read by one of ITK's readers; the header at once, voxels on demand."""

    def __init__(self, path: Path, reader_name: str) -> None:
        self.paths = (path,)
        self.reader_name = reader_name
        check_header(path, reader_name)
        with ONE_AT_A_TIME, quiet():
            self._read_header(path)

    def _read_header(self, path: Path) -> None:
        reader, reader_name = self._reader(), self.reader_name
        self._guard(reader.ReadImageInformation)
        self.size = tuple(reader.GetSize())
        components = int(reader.GetNumberOfComponents())
        place = reader.GetSpacing(), reader.GetOrigin(), reader.GetDirection()
        self._check_axes(components)
        self.dtype = _dtype(path, reader.GetPixelIDValue())
        self.geometry = geometry_from_itk(*place)
        shape = (*((1,) if len(self.size) == 2 else ()), *reversed(self.size[:3]))
        self.shape = (shape[0], shape[1], shape[2])
        self.has_alpha = reader_name in PHOTOGRAPHS and components == 4
        self.num_channels = 3 if self.has_alpha else components * (self.size[3] if len(self.size) == 4 else 1)
        self.notes = (ALPHA_NOTE,) if self.has_alpha else ()
        self.components = components
        is_nifti = reader_name == "NiftiImageIO"
        self.tags = {} if is_nifti else dict(_tags(reader))  # those of NIfTI are its header once more
        self.modality = self.tags.get(MODALITY, "").strip()

    def read(self, box: Box | None = None) -> np.ndarray:
        """Read the file, or the part inside the box (ITK's readers of MetaImage and others read only that part)."""
        if self.reader_name == "MetaImageIO":
            MetaHeader(self.paths[0]).check_content()
        part = 1.0 if box is None else math.prod((b - a) / n for (a, b), n in zip(box, self.shape, strict=True))
        check_memory(self.paths[0], int(2 * part * claimed_bytes(self)))  # ITK's image, and the array made of it
        with ONE_AT_A_TIME, quiet():
            reader = self._reader()
            if box is not None:
                sides = box[3 - min(len(self.size), 3) :]
                start, stop = ([side[end] for side in reversed(sides)] for end in (0, 1))
                rest = list(self.size[3:])
                reader.SetExtractIndex(start + [0] * len(rest))
                reader.SetExtractSize([b - a for a, b in zip(start, stop, strict=True)] + rest)
            array = simpleitk().GetArrayFromImage(self._guard(reader.Execute))
        if self.components > 1:
            array = np.moveaxis(array, -1, 0)[: 3 if self.has_alpha else None]
        elif len(self.size) < 4:
            array = array[None]
        if len(self.size) == 2:
            array = array[:, None]
        return np.ascontiguousarray(array)

    def _reader(self) -> Any:
        reader = simpleitk().ImageFileReader()
        reader.SetImageIO(self.reader_name)
        reader.SetFileName(str(self.paths[0]))
        return reader

    def _guard(self, step: Any) -> Any:
        try:
            return step()
        except RuntimeError as fault:
            raise image_error(self.paths[0], fault) from fault
        except MemoryError as fault:
            raise no_memory(self.paths[0], 2 * claimed_bytes(self)) from fault

    def _check_axes(self, components: int) -> None:
        if len(self.size) not in (2, 3, 4) or (len(self.size) == 4 and components > 1) or 0 in self.size:
            axes = f"{len(self.size)} axes" + (f" and {components} values per voxel" if components > 1 else "")
            raise ImageError(
                f"{self.paths[0]} has {axes}; an image has 2, 3, or 4 (the fourth for channels). Split it into one "
                "file per channel"
            )


def _tags(reader: Any) -> Iterator[tuple[str, str]]:
    """Give the text beside an image, but for what is no text."""
    for key in reader.GetMetaDataKeys():
        with contextlib.suppress(TypeError, UnicodeError):
            yield key, reader.GetMetaData(key)


def _dtype(path: Path, pixel_id: int) -> np.dtype:
    sitk = simpleitk()
    names = {
        "UInt8": "u1", "Int8": "i1", "UInt16": "u2", "Int16": "i2", "UInt32": "u4", "Int32": "i4", "UInt64": "u8",
        "Int64": "i8", "Float32": "f4", "Float64": "f8",
    }  # fmt: skip
    for name, code in names.items():
        if pixel_id in (getattr(sitk, f"sitk{name}"), getattr(sitk, f"sitkVector{name}")):
            return np.dtype(code)
    kind = sitk.GetPixelIDValueAsString(pixel_id)
    raise ImageError(f"{path} holds voxels of a kind that cannot be read ({kind}). Convert them to integers or floats")


def image_error(path: Path, fault: Exception) -> ImageError:
    """Turn ITK's words about a file into one line with the file, the cause, and what to do."""
    text = str(fault)
    if not path.exists():
        return ImageError(f"{path} does not exist. Correct the name, or put the file there")
    if "orthonormal" in text:
        return SkewedAxesError(f"{path} has axes that are not at right angles. Resample it to an orthogonal grid")
    cause = next((cause for words, cause in CAUSES.items() if words in text), None)
    if cause is None:
        line = re.split(r"ERROR:\s*", text)[-1].strip().splitlines()
        cause = re.sub(r"^\w+\(0x[0-9a-f]+\):\s*", "", line[0] if line else "unknown cause").rstrip(".")
    return ImageError(f"{path} cannot be read: {cause}. Copy or export the file again")


def image_from_sitk(image: Any) -> Image:
    """Take over a ``SimpleITK.Image`` (2D, 3D, or 4D with the fourth axis as channels; vectors become channels)."""
    sitk = simpleitk()
    size = image.GetDimension()
    if size not in (2, 3, 4):
        raise ImageError(f"a SimpleITK image with {size} axes is no image here; give 2, 3, or 4 (channels last)")
    array = sitk.GetArrayFromImage(image)
    if image.GetNumberOfComponentsPerPixel() > 1:
        array = np.moveaxis(array, -1, 0)
    elif size < 4:
        array = array[None]
    if size == 2:
        array = array[:, None]
    if array.ndim != 4 or array.dtype.kind not in "iuf":
        raise ImageError("a SimpleITK image of complex numbers or with vectors over time cannot be segmented")
    geometry = geometry_from_itk(image.GetSpacing(), image.GetOrigin(), image.GetDirection())
    return ArrayImage(np.ascontiguousarray(array), geometry)


def sitk_from_label(label_ZYX: np.ndarray, geometry: Geometry) -> Any:
    """Make a ``SimpleITK.Image`` of a label map (z, y, x) with a geometry; 2D where the geometry is 2D."""
    array = label_ZYX[0] if geometry.dimensions == 2 else label_ZYX
    image = simpleitk().GetImageFromArray(np.ascontiguousarray(array))
    size = geometry.dimensions
    image.SetSpacing(geometry.file_spacing)
    image.SetOrigin(geometry.origin[:size])
    image.SetDirection(np.array(geometry.direction).reshape(3, 3)[:size, :size].ravel().tolist())
    return image
