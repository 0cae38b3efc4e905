"""What is compared once a header is read: sizes that no file can hold, grids that are none, memory that is not there.

Also keeps what ITK's libraries print of bad files from the terminal.
"""

import contextlib
import itertools
import math
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from autoseg.data.image import Image, shape_text
from autoseg.data.io_headers import faulty, truncated
from autoseg.data.parallel import HOST_FRACTION, host_memory_bytes
from autoseg.errors import ImageError
from planners.decision import byte_size

MOST_INFLATED = 10**6
"""How many times smaller than its content a compressed file may be: bzip2 packs zeros to 1 / 100,000."""

SURELY_FITS_BYTES = 2**26
LARGEST_MM, SMALLEST_MM = 1e12, 1e-12
"""Beyond these no place and no voxel is meant: 10⁶ km, and a thousandth of an atom."""

SHEAR_TOLERANCE = 0.5
"""Voxels a corner may move when the axes are put at right angles; half a voxel is invisible."""

NUMBER = rb"(nan|-?inf|-?[0-9][-+0-9.e]*)"

LIBRARY_LINE = re.compile(
    rb"(libpng |TIFF\w*:|Fax\w*:|LZW\w*:|ZIP\w*:|PackBits\w*:|JPEG\w*:|LogLuv\w*:|_?TIFF|Meta(Image|Object|IO)|MET_"
    rb"|\*\* (ERROR|WARNING)|Uncompress|\w+ (required and not defined|defined prior)|Incomplete file record"
    rb"|(?![A-Za-z]*(Error|Warning|Exception):)[A-Z][A-Za-z0-9_]+: "
    rb"|M = \[ \.\.\.|\s*" + NUMBER + rb"(\s+" + NUMBER + rb")+\s*\]?\s*$"  # a matrix that vnl finds suspicious
    rb"|   ideal = |.*/ITK/Modules|[A-Za-z0-9_]*\.(tif|tiff|png|case): |.*: (Warning, |Using code))"
)
"""How lines begin that ITK's libraries print of files they do not like."""


def after_opening(image: Image) -> None:
    """Refuse what a header says where it cannot be: an empty grid, sizes without end, axes that are none.

    Raises:
        ImageError: what the header says.
    """
    if min(image.shape) < 1 or image.num_channels < 1:
        raise faulty(image.name, f"its header says {image.num_channels} channels of {shape_text(image.shape)} voxels")
    _check_claim(image)
    geometry = image.geometry
    if not all(SMALLEST_MM <= value <= LARGEST_MM for value in geometry.file_spacing):
        raise faulty(image.name, f"its header says voxels of {_numbers(geometry.file_spacing)} mm")
    if not all(abs(value) <= LARGEST_MM for value in geometry.origin):
        raise faulty(image.name, f"its header says an origin of {_numbers(geometry.origin)} mm")
    direction = np.array(geometry.direction).reshape(3, 3)
    if not np.isfinite(direction).all() or abs(np.linalg.det(direction)) < 1e-6:
        raise faulty(image.name, f"its header says the directions {_numbers(geometry.direction)}")
    left, _, right = np.linalg.svd(direction)
    spacing = np.array(geometry.file_spacing + (1.0,) * (3 - geometry.dimensions))
    corners = np.array(list(itertools.product(*[(0, size - 1) for size in reversed(image.shape)])), dtype=float)
    moved = np.linalg.norm(corners * spacing @ (left @ right - direction).T, axis=1).max() / spacing.min()
    if moved > SHEAR_TOLERANCE:
        raise ImageError(
            f"{image.name} has axes that are not at right angles (corners would move by {moved:.1f} voxels; gantry "
            "tilt or a sheared registration). Resample it, and its label, to a grid with right angles"
        )


def claimed_bytes(image: Image) -> int:
    """Bytes of the voxels that a header promises."""
    return math.prod(image.shape) * image.num_channels * image.dtype.itemsize


def _check_claim(image: Image) -> None:
    """Compare what a header promises with the size of its file, however well that may be compressed."""
    if len(image.paths) != 1 or not image.paths[0].is_file() or image.paths[0].suffix.lower() in (".mhd", ".nhdr"):
        return
    there, claimed = image.paths[0].stat().st_size, claimed_bytes(image)
    if claimed > MOST_INFLATED * max(there, 1):
        raise truncated(
            image.paths[0],
            f"its header promises {shape_text(image.shape)} voxels ({byte_size(claimed)}), the file has {there} bytes",
        )


def check_memory(path: Path, needed: int) -> None:
    """Refuse to read what main memory cannot hold, before anything is taken.

    Raises:
        ImageError: more is needed than is free.
    """
    if needed < SURELY_FITS_BYTES:
        return
    free = int(host_memory_bytes() / HOST_FRACTION)
    if needed > free:
        raise no_memory(path, needed, free)


def no_memory(path: Path, needed: int, free: int | None = None) -> ImageError:
    """Make the error of an image that main memory cannot hold."""
    there = "" if free is None else f", of which {byte_size(free)} are free"
    return ImageError(
        f"{path} needs {byte_size(needed)} of main memory to be read{there}. Crop it, stop other programs, or use a "
        "machine with more"
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what ITK's libraries print of a bad file from the terminal; the error that is raised says it in one line.

    They write to the process's standard error by themselves, which is led into a file meanwhile. What others wrote at
    the same time is written after all.
    """
    try:
        kept = tempfile.TemporaryFile()  # noqa: SIM115 (closed below)
        terminal = os.dup(2)
    except OSError:  # no standard error, no folder for temporary files
        yield
        return
    try:
        os.dup2(kept.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(terminal, 2)
        kept.seek(0)
        lines = [line for line in kept.read().splitlines(keepends=True) if not LIBRARY_LINE.match(line)]
        if lines:
            os.write(terminal, b"".join(lines))
    finally:
        os.close(terminal)
        kept.close()


def _numbers(values: Sequence[float]) -> str:
    return " × ".join(f"{value:.6g}" for value in values)
