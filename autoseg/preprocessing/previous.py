"""The segmentations that a cascade sees beside the image, kept for its training on its own grid.

    store/CONFIGURATION/           CONFIGURATION is the one that is fed
    ├── CASE.previous.npy          smallest unsigned type, z × y × x: inner class indices
    └── CASE.previous.npy.json     PreviousRecord: which network made it, and from what

The record is written last: without it, or with a file of another size than it says, there is no segmentation.
"""

import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autoseg.errors import RunFolderError
from autoseg.run_folder import write_atomic
from planners import records


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What a previous segmentation was made from; equal origins give equal segmentations.

    Attributes:
        configuration, fold: of the network that made it, which has not been trained on the case.
        weights: digest of its weights.
        case: digest of the case as that network saw it.
        grid: digest of the grid that the segmentation lies on.
    """

    configuration: str
    fold: int
    weights: str
    case: str
    grid: str


@dataclass(frozen=True, kw_only=True)
class PreviousRecord:
    """What stands in CASE.previous.npy.json.

    Attributes:
        origin: what it was made from.
        shape, dtype: of the array.
        num_bytes: size of its file.
    """

    origin: Origin
    shape: tuple[int, int, int]
    dtype: str
    num_bytes: int


@dataclass(frozen=True, kw_only=True)
class StoredPrevious:
    """A previous segmentation on disk; mapped when asked for, so that only the needed box is read."""

    path: Path
    record: PreviousRecord

    @property
    def array(self) -> np.ndarray:
        """Inner class indices, read-only: smallest unsigned type, z × y × x.

        Raises:
            RunFolderError: the file is missing or damaged.
        """
        shape, dtype = self.record.shape, np.dtype(self.record.dtype)
        header_bytes = self.record.num_bytes - int(np.prod(shape)) * dtype.itemsize
        try:
            return np.asarray(np.memmap(self.path, dtype=dtype, mode="r", offset=header_bytes, shape=shape))
        except (OSError, ValueError) as fault:
            raise RunFolderError(f"{self.path} is missing or damaged ({fault}). `autoseg run` makes it anew") from fault


def previous_file(folder: Path, case_id: str) -> Path:
    """Give the place of a case's previous segmentation in the store folder of the configuration that is fed."""
    return folder / f"{case_id}.previous.npy"


def write_previous(folder: Path, case_id: str, segmentation_ZYX: np.ndarray, origin: Origin) -> None:
    """Write a previous segmentation, whole or not at all; an older one is replaced."""
    path = previous_file(folder, case_id)
    _record_file(path).unlink(missing_ok=True)  # from here to the end, the segmentation does not exist
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(segmentation_ZYX))
    write_atomic(path, buffer.getvalue())
    z, y, x = segmentation_ZYX.shape
    record = PreviousRecord(
        origin=origin, shape=(z, y, x), dtype=segmentation_ZYX.dtype.name, num_bytes=buffer.getbuffer().nbytes
    )
    write_atomic(_record_file(path), records.dumps(record))


def remove_previous(folder: Path, case_id: str) -> None:
    """Delete a case's previous segmentation, where there is one."""
    path = previous_file(folder, case_id)
    _record_file(path).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def find_previous(folder: Path, case_id: str) -> StoredPrevious | None:
    """Find a case's previous segmentation; None where there is none, or not whole."""
    path = previous_file(folder, case_id)
    try:
        record = records.from_json(PreviousRecord, json.loads(_record_file(path).read_text(encoding="utf-8")))
        whole = path.stat().st_size == record.num_bytes
    except (OSError, ValueError):
        return None
    return StoredPrevious(path=path, record=record) if whole else None


def _record_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")
