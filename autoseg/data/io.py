"""The door to the user's images: open any file or DICOM folder, write a segmentation back as it came.

Opening reads headers only, so that a whole dataset can be looked at in a moment; every fault is an ``ImageError`` of
one line that names the file. ``READERS`` is the table of formats.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autoseg.data.image import (
    ArrayImage,
    Box,
    Geometry,
    Image,
    StackedImage,
    crop,
    flat_geometry,
    image_from_array,
    shape_text,
    unplaced,
)
from autoseg.data.io_dicom import open_series
from autoseg.data.io_guard import after_opening
from autoseg.data.io_nifti import open_nifti
from autoseg.data.io_pillow import PillowImage, has_palette
from autoseg.data.io_sitk import SitkImage, image_from_sitk, sitk_from_label
from autoseg.data.io_tiff import apply_sidecar, open_tiff
from autoseg.data.io_write import write_label
from autoseg.errors import ImageError

__all__ = [
    "READERS",
    "ArrayImage",
    "Box",
    "Format",
    "Geometry",
    "Image",
    "StackedImage",
    "as_ids",
    "crop",
    "flat_geometry",
    "image_ending",
    "image_from_array",
    "image_from_sitk",
    "image_stem",
    "open_image",
    "open_label",
    "output_ending",
    "shape_text",
    "sitk_from_label",
    "write_segmentation",
]


@dataclass(frozen=True, kw_only=True)
class Format:
    """One file format.

    Attributes:
        name: as the user knows it.
        open: reads the header of a file and gives the image.
        output: ending of what is written for an input of this format; None for the same.
        label: whether a label may be stored in it (no lossy format).
        volume: whether it holds 3D images.
    """

    name: str
    open: Callable[[Path], Image]
    output: str | None = None
    label: bool = True
    volume: bool = True


def _open_png(path: Path) -> Image:
    """ITK reads PNG, except grey with alpha, which Pillow reads."""
    try:
        image = SitkImage(path, "PNGImageIO")
    except ImageError as fault:
        if "kind of pixels" not in str(fault):
            raise
        return apply_sidecar(PillowImage(path), path)
    if image.geometry.spacing_mm[1:] == (1.0, 1.0):  # what ITK gives where the file says nothing
        image.geometry = unplaced(image.geometry)
    return apply_sidecar(image, path)


def _open_photograph(path: Path) -> Image:
    return apply_sidecar(PillowImage(path), path)


def _open_with(reader_name: str) -> Callable[[Path], Image]:
    return lambda path: SitkImage(path, reader_name)


_NIFTI = Format(name="NIfTI", open=open_nifti)
_TIFF = Format(name="TIFF", open=open_tiff)
_JPEG = Format(name="JPEG", open=_open_photograph, output=".png", label=False, volume=False)

READERS: dict[str, Format] = {
    ".nii.gz": _NIFTI,
    ".nii": _NIFTI,
    ".nrrd": Format(name="NRRD", open=_open_with("NrrdImageIO")),
    ".nhdr": Format(name="NRRD", open=_open_with("NrrdImageIO"), output=".nrrd"),
    ".mha": Format(name="MetaImage", open=_open_with("MetaImageIO")),
    ".mhd": Format(name="MetaImage", open=_open_with("MetaImageIO"), output=".mha"),
    ".tif": _TIFF,
    ".tiff": _TIFF,
    ".png": Format(name="PNG", open=_open_png, volume=False),
    ".jpg": _JPEG,
    ".jpeg": _JPEG,
    ".bmp": Format(name="BMP", open=_open_photograph, output=".png", volume=False),
    ".gif": Format(name="GIF", open=_open_photograph, output=".png", volume=False),
    ".dcm": Format(name="DICOM file", open=_open_with("GDCMImageIO"), output=".nii.gz", label=False),
}
"""Format of each file ending, in lower case. A folder is a DICOM series."""


def image_ending(path: Path | str) -> str:
    """Give the ending that decides the format (``.nii.gz``), in lower case; the plain suffix where none is known."""
    name = Path(path).name.lower()
    known = [ending for ending in READERS if name.endswith(ending) and len(name) > len(ending)]
    return max(known, key=len, default=Path(name).suffix)


def image_stem(path: Path | str) -> str:
    """Give the name of a file without the ending that decides the format."""
    name = Path(path).name
    ending = image_ending(path)
    return name[: len(name) - len(ending)] if ending else name


def output_ending(path: Path | str) -> str:
    """Give the ending of what is written for an input: its own, or the one that can hold labels (JPEG → ``.png``)."""
    found = READERS.get(image_ending(path))
    if found is None or Path(path).is_dir():
        return ".nii.gz"
    return found.output or image_ending(path)


def write_segmentation(path: Path, label_ZYX: np.ndarray, geometry: Geometry) -> Path:
    """Write a label map so that reading it gives the same values and geometry; whole or not at all.

    Args:
        path: where to; its ending decides the format. Formats that change values, or that are two files, become one
            that does not (``.jpg`` → ``.png``, ``.mhd`` → ``.mha``).
        label_ZYX: integers, z, y, x, in the user's values; stored in the smallest type that holds them.
        geometry: as the image was read.

    Returns:
        The file that was written.

    Raises:
        ImageError: the format cannot hold the values or a third axis, or the disk does not take the file.
    """
    path = Path(path)
    ending = READERS[image_ending(path)].output or image_ending(path) if image_ending(path) in READERS else path.suffix
    target = path.with_name(image_stem(path) + ending)
    write_label(target, ending, label_ZYX, geometry)
    return target


def open_image(paths: Sequence[Path]) -> Image:
    """Open the image of one case.

    Args:
        paths: one file, one folder with a DICOM series, or several files whose channels are stacked in this order.

    Returns:
        The image; a 4D file or a file of colours gives several channels.

    Raises:
        ImageError: a file is missing, unreadable, of an unknown format, or the files' shapes differ.
    """
    if not paths:
        raise ImageError("no image file is given. Name at least one")
    opened = [_open_sound(Path(path)) for path in paths]
    return opened[0] if len(opened) == 1 else StackedImage(opened)


def open_label(path: Path) -> Image:
    """Open a label map: one channel, in the type it is stored in (integers, or floats that should be integers).

    Colours are accepted where all of them are shades of grey, and where the file holds indices of a palette; where
    they number objects, ``as_ids`` makes ids of them.

    Raises:
        ImageError: it is unreadable, of a lossy format, or holds several channels.
    """
    path = Path(path)
    if path.is_dir():
        raise ImageError(f"{path} is a folder; a label is one file. Export it as NIfTI, NRRD, MetaImage, TIFF or PNG")
    found = READERS.get(image_ending(path))
    if found is not None and not found.label:
        what = "a JPEG file changes the values of labels" if found is _JPEG else f"a {found.name} is taken for an image"
        raise ImageError(f"{path}: {what}. Export the label as PNG, TIFF, NIfTI, NRRD or MetaImage")
    if image_ending(path) in (".png", ".gif", ".bmp") and path.is_file():
        image = PillowImage(path, as_label=True) if image_ending(path) != ".png" or has_palette(path) else None
        opened = apply_sidecar(image, path) if image else _open_one(path)
    else:
        opened = _open_one(path)
    after_opening(opened)
    if opened.num_channels == 1:
        return opened
    if opened.num_channels == 3:
        return _ColourLabel(opened)
    raise ImageError(
        f"{path} has {opened.num_channels} channels; a label has one. Export one file with one value per class"
    )


def as_ids(label: Image) -> Image:
    """Take an opened label as a map of ids of objects: in colours, each colour is one object, black is none.

    Returns:
        The label itself, or of a label in colours one channel, int32: red · 2¹⁶ + green · 2⁸ + blue.
    """
    return _ColourIds(label.colours) if isinstance(label, _ColourLabel) else label


class _ColourLabel(Image):
    """A label stored as RGB; its three channels must be equal, unless it is taken as ids (``as_ids``)."""

    def __init__(self, colours: Image) -> None:
        self.colours = colours
        self.shape, self.dtype, self.geometry = colours.shape, colours.dtype, colours.geometry
        self.num_channels = 1
        self.paths = colours.paths
        self.notes = tuple(dict.fromkeys((*colours.notes, "grey label stored as RGB")))

    def read(self, box: Box | None = None) -> np.ndarray:
        """Read one channel.

        Raises:
            ImageError: the file is damaged, or holds colours.
        """
        array = self.colours.read(box)
        if not (np.array_equal(array[0], array[1]) and np.array_equal(array[0], array[2])):
            raise ImageError(
                f"{self.paths[0]} is a label in colours; which colour means which class is not known. "
                "Export one grey value per class, or give --task instance if each colour is an object"
            )
        return array[:1].copy()


class _ColourIds(Image):
    """A picture in colours whose colours are the ids of objects."""

    def __init__(self, colours: Image) -> None:
        self.colours = colours
        self.shape, self.dtype, self.geometry = colours.shape, np.dtype(np.int32), colours.geometry
        self.num_channels = 1
        self.paths = colours.paths
        self.notes = tuple(dict.fromkeys((*colours.notes, "colours taken as ids of objects")))

    def read(self, box: Box | None = None) -> np.ndarray:
        """Read the ids as one channel, int32.

        Raises:
            ImageError: the file is damaged, or its colours are not of 8 bits.
        """
        array = self.colours.read(box)
        if array.dtype != np.uint8:
            raise ImageError(
                f"{self.paths[0]} holds colours of type {array.dtype}; ids of objects are read from colours of 8 bits. "
                "Export one whole number per object"
            )
        ids: np.ndarray = array[0].astype(np.int32) << 16
        ids |= array[1].astype(np.int32) << 8
        ids |= array[2]
        return ids[None]


def _open_one(path: Path) -> Image:
    if path.is_dir():
        return open_series(path)
    ending = image_ending(path)
    if ending not in READERS:
        known = " ".join(READERS)
        raise ImageError(f"{path} has the ending {ending or 'none'}, which is not known (known: {known}). Convert it")
    if not path.is_file():
        raise ImageError(f"{path} does not exist. Correct the name, or put the file there")
    return READERS[ending].open(path)


def _open_sound(path: Path) -> Image:
    image = _open_one(path)
    after_opening(image)
    return image
