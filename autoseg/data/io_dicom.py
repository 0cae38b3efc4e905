"""A DICOM series, one case per folder: slices sorted by their place, gaps found, then read as one volume.

Source: DICOM PS3.3 C.7.6.2 (image plane: position, orientation, pixel spacing), PS3.4 B.5 (storage classes).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autoseg.data.image import Box, Geometry, Image, crop, shape_text
from autoseg.data.io_sitk import SitkImage
from autoseg.errors import ImageError

POSITION, SERIES, DESCRIPTION, NUMBER = "0020|0032", "0020|000e", "0008|103e", "0020|0013"
STEP_TOLERANCE = (
    0.1  # of the usual step: positions are often rounded to 0.1 mm; a missing slice changes it by 1 (assumption)
)
TILT_TOLERANCE = 0.5  # voxels between the first and the last slice; half a voxel is invisible (assumption)
SAME_PLACE_MM = 1e-3
CLASS_TAG = b"\x02\x00\x02\x00UI"  # (0002,0002) media storage SOP class, always explicit and little-endian
NOT_IMAGES = (
    "1.2.840.10008.1.3.10",  # DICOMDIR
    "1.2.840.10008.5.1.4.1.1.11.",  # presentation states
    "1.2.840.10008.5.1.4.1.1.66",  # registrations, segmentations, surfaces
    "1.2.840.10008.5.1.4.1.1.88.",  # reports, key objects
    "1.2.840.10008.5.1.4.1.1.104.",  # encapsulated documents
    "1.2.840.10008.5.1.4.1.1.481.",  # radiotherapy
)
"""Storage classes of files that lie beside images but are none to segment: beginnings of their identifiers."""


@dataclass(frozen=True)
class Slice:
    """One readable file of a series."""

    image: SitkImage
    series: str
    description: str
    number: str
    position: tuple[float, ...] | None

    @property
    def name(self) -> str:
        """File name, and the slice's own number where it has one."""
        file = self.image.paths[0].name
        return f"{file} (slice {self.number})" if self.number else file


def open_series(folder: Path) -> Image:
    """Open the only image series of a folder.

    Files that are no images (reports, segmentations, DICOMDIR) are passed over, and so are series of one slice beside
    a longer one (scouts), with a note.

    Raises:
        ImageError: there is no series, or several; a slice is damaged, missing, doubled, or of another size or
            orientation.
    """
    series, notes = _choose(folder, _slices(folder))
    if len(series) == 1:
        image = series[0].image
        image.notes = (*image.notes, *notes)
        return image
    return SeriesImage(folder, series, notes)


class SeriesImage(Image):
    """Slices of one series as a volume; z runs along the slices' normal."""

    def __init__(self, folder: Path, slices: Sequence[Slice], notes: tuple[str, ...]) -> None:
        first = slices[0].image
        for item in slices:
            if item.image.shape != first.shape or item.image.num_channels != first.num_channels:
                raise ImageError(
                    f"{folder}: {item.name} has {shape_text(item.image.shape[1:])} pixels, {slices[0].name} has "
                    f"{shape_text(first.shape[1:])}. Keep one series of one size in the folder"
                )
        ordered, step = _order(folder, slices)
        first = ordered[0].image
        self.paths = (folder,)
        self.slices = tuple(item.image for item in ordered)
        self.shape = (len(ordered), *first.shape[1:])
        self.dtype = np.result_type(*(image.dtype for image in self.slices))
        self.num_channels, self.modality = first.num_channels, first.modality
        y, x = first.geometry.spacing_mm[1:]
        self.geometry = Geometry(
            spacing_mm=(step, y, x), origin=first.geometry.origin, direction=first.geometry.direction
        )
        self.notes = tuple(dict.fromkeys((*first.notes, *notes)))

    def read(self, box: Box | None = None) -> np.ndarray:
        """Read the slices, or those that the box needs."""
        start, stop = box[0] if box is not None else (0, self.shape[0])
        inside = ((0, 1), *box[1:]) if box is not None else None
        planes = [crop(image.read(), inside) for image in self.slices[start:stop]]
        return np.concatenate(planes, axis=1, dtype=self.dtype)


def _slices(folder: Path) -> list[Slice]:
    """Open every file of a folder that is an image; go down where there is nothing but one folder."""
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    folders = [entry for entry in entries if entry.is_dir()]
    if len(folders) == 1 and len(entries) == 1:
        return _slices(folders[0])
    slices = []
    for path in (entry for entry in entries if entry.is_file()):
        with path.open("rb") as file:
            head = file.read(1024)
        if head[128:132] != b"DICM" or _storage_class(head).startswith(NOT_IMAGES):
            continue
        slices.append(_open_slice(path))
    if not slices:
        some = ", ".join(entry.name for entry in entries[:3]) + (" …" if len(entries) > 3 else "")
        raise ImageError(
            f"{folder} is a folder without DICOM images (it holds {some or 'nothing'}). "
            "Put the slices of one series there, or name a file"
        )
    return slices


def _storage_class(head: bytes) -> str:
    place = head.find(CLASS_TAG, 132)
    if place < 0:
        return ""
    length = int.from_bytes(head[place + 6 : place + 8], "little")
    return head[place + 8 : place + 8 + length].decode("ascii", "replace").rstrip("\0 ")


def _open_slice(path: Path) -> Slice:
    image = SitkImage(path, "GDCMImageIO")
    tags = {tag: image.tags.get(tag, "").strip() for tag in (SERIES, DESCRIPTION, NUMBER, POSITION)}
    numbers = re.findall(r"[-+0-9.eE]+", tags[POSITION])
    position = tuple(float(value) for value in numbers) if len(numbers) == 3 else None
    return Slice(image, tags[SERIES], tags[DESCRIPTION], tags[NUMBER], position)


def _choose(folder: Path, slices: list[Slice]) -> tuple[list[Slice], tuple[str, ...]]:
    """Give the slices of the one series that is meant, and what was passed over."""
    series: dict[str, list[Slice]] = {}
    for item in slices:
        series.setdefault(item.series, []).append(item)
    depths = {key: sum(item.image.shape[0] for item in items) for key, items in series.items()}
    long = [key for key, depth in depths.items() if depth > 1]
    if len(series) == 1 or len(long) == 1:
        chosen = long[0] if len(long) == 1 else next(iter(series))
        notes = tuple(f"series of one slice passed over: {_title(series[key])}" for key in series if key != chosen)
        items = series[chosen]
        if len(items) > 1 and any(item.image.shape[0] > 1 for item in items):
            raise ImageError(f"{folder}: {items[0].name} and {items[1].name} are several volumes. Keep one per folder")
        return items, notes
    listed = "; ".join(_title(items) for items in series.values())
    raise ImageError(f"{folder} holds {len(series)} series: {listed}. Keep one of them in the folder")


def _title(items: Sequence[Slice]) -> str:
    count = sum(item.image.shape[0] for item in items)
    name = items[0].description or items[0].series or "without name"
    return f"{name} ({count} slice{'s' * (count != 1)}, {items[0].image.paths[0].name} …)"


def _order(folder: Path, slices: Sequence[Slice]) -> tuple[list[Slice], float]:
    """Sort slices along their normal; give them and the step between them in millimetres."""
    direction = np.array(slices[0].image.geometry.direction).reshape(3, 3)
    places = []
    for item in slices:
        if item.position is None:
            raise ImageError(f"{folder}: {item.name} has no image position (tag 0020,0032). Export the series again")
        turned = np.abs(np.array(item.image.geometry.direction).reshape(3, 3) - direction).max()
        if turned > 1e-3:  # a milliradian: half a voxel over 500 voxels
            raise ImageError(
                f"{folder}: {item.name} and {slices[0].name} are oriented differently. "
                "Keep one series of one orientation"
            )
        places.append(np.array(item.position) @ direction)
    along = [float(place[2]) for place in places]
    order = sorted(range(len(slices)), key=lambda index: along[index])
    ordered = [slices[index] for index in order]
    steps = np.diff([along[index] for index in order])
    _check_steps(folder, ordered, steps)
    drift = np.abs(places[order[-1]] - places[order[0]])[:2].max() / min(ordered[0].image.geometry.spacing_mm[1:])
    if drift > TILT_TOLERANCE:
        raise ImageError(
            f"{folder}: the slices are shifted against each other by {drift:.1f} pixels in all (gantry tilt). "
            "Resample the series to a straight volume"
        )
    return ordered, float(steps.mean())


def _check_steps(folder: Path, ordered: Sequence[Slice], steps: np.ndarray) -> None:
    for index in np.flatnonzero(steps < SAME_PLACE_MM)[:1].tolist():
        raise ImageError(
            f"{folder}: {ordered[index].name} and {ordered[index + 1].name} lie at the same place (several times, "
            "echoes or copies). Keep one of each slice"
        )
    usual = float(np.median(steps))
    faults = []
    for index in np.flatnonzero(np.abs(steps - usual) > STEP_TOLERANCE * usual).tolist():
        missing = round(float(steps[index]) / usual) - 1
        what = (
            f"{missing} missing" if missing > 0 and abs(steps[index] / usual - missing - 1) < STEP_TOLERANCE else "gap"
        )
        between = f"slices {index + 1} and {index + 2} of {len(ordered)}"
        names = f"{ordered[index].image.paths[0].name}, {ordered[index + 1].image.paths[0].name}"
        faults.append(f"{what} between {between} ({names}: {steps[index]:.2f} mm, usually {usual:.2f})")
    if faults:
        shown = "; ".join(faults[:3]) + (f"; and {len(faults) - 3} more" if len(faults) > 3 else "")
        raise ImageError(
            f"{folder}: slices are not evenly spaced: {shown}. Add the missing slices, or resample the series"
        )
