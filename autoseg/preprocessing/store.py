"""Preprocessed cases on disk, of which training reads boxes without loading a case.

    store/CONFIGURATION/
    ├── CASE.image.npy       float32, channels × z × y × x
    ├── CASE.labels.npy      smallest integer type, layers × z × y × x: classes, and ids of objects where they have any
    ├── CASE.locations.npy   voxels to draw patches around, n × (z, y, x), grouped by class
    └── CASE.json            StoredRecord: what it was made from, its grid, sizes of the files

The arrays are plain, so that a patch is a read of just its rows through the system's file cache (benchmarks/
store_formats.py compares other ways). The record is written last: without it, or with files of other sizes than it
says, the case does not exist and is made again; so is one whose checksums are wrong, as after a power cut.
"""

import contextlib
import json
import math
import os
import tempfile
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from autoseg import room
from autoseg.errors import RunFolderError
from autoseg.locks import mark_in_use
from autoseg.preprocessing.locations import ANNOTATED
from autoseg.preprocessing.preprocess import OUTSIDE, CaseGrid, PreprocessedCase
from autoseg.preprocessing.previous import StoredPrevious, remove_previous
from autoseg.preprocessing.stamps import FileStamp
from autoseg.run_folder import remove_leftovers, write_atomic
from planners import records

FORMAT = 1
"""Version of the store's files; part of every digest, so that a change of meaning rebuilds the store."""


@dataclass(frozen=True, kw_only=True)
class StoredRecord:
    """What stands in CASE.json.

    Attributes:
        format: version of the files.
        digest: of the source files' contents and of every choice that shaped the arrays.
        grid: the way back to the image.
        image_shape, labels_shape: of the arrays.
        labels_dtype, locations_dtype: their types.
        locations: per key, first row and row after the last in CASE.locations.npy.
        num_bytes: size of each array file.
        files: the source files as they were read.
        annotated_classes: inner indices of the classes that were annotated, background included; None: all.
        crc32: checksum of each array's values; empty in stores of before.
    """

    format: int = FORMAT
    digest: str
    grid: CaseGrid
    image_shape: tuple[int, int, int, int]
    labels_shape: tuple[int, int, int, int]
    labels_dtype: str
    locations_dtype: str
    locations: dict[str, tuple[int, int]]
    num_bytes: dict[str, int]
    files: tuple[FileStamp, ...] = ()
    annotated_classes: tuple[int, ...] | None = None
    crc32: dict[str, int] = field(default_factory=dict)


class StoredCase:
    """One case of a store. Arrays are mapped when asked for and hold no file open: thousands of cases may be open."""

    def __init__(
        self, folder: Path, case_id: str, record: StoredRecord, previous: StoredPrevious | None = None
    ) -> None:
        self.folder = folder
        self.id = case_id
        self.record = record
        self.previous = previous

    def with_previous(self, previous: StoredPrevious | None) -> "StoredCase":
        """Give the same case with what a previous configuration has found in it, on the same grid."""
        return StoredCase(self.folder, self.id, self.record, previous)

    @property
    def digest(self) -> str:
        """Identity of what the case was made from."""
        return self.record.digest

    @property
    def grid(self) -> CaseGrid:
        """The way back to the image."""
        return self.record.grid

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels z, y, x of the preprocessed image."""
        return self.record.grid.shape

    @property
    def num_channels(self) -> int:
        """Channels of the image."""
        return self.record.image_shape[0]

    @property
    def annotated_classes(self) -> tuple[int, ...] | None:
        """Inner indices of the classes that were annotated, background included; None: all."""
        return self.record.annotated_classes

    @property
    def labels_dtype(self) -> np.dtype:
        """The type in which label layers are read: int16, or int32 where they hold larger numbers."""
        return np.promote_types(self.record.labels_dtype, np.int16)

    @property
    def image(self) -> np.ndarray:
        """The image, read-only: float32, channels × z × y × x."""
        return self.map("image", "float32", self.record.image_shape)

    @property
    def labels(self) -> np.ndarray:
        """The label layers, read-only: integers, layers × z × y × x.

        Layer 0 holds class indices and −1 outside; layer 1, where objects are told apart, their ids, 0 for none.
        """
        return self.map("labels", self.record.labels_dtype, self.record.labels_shape)

    @property
    def present_classes(self) -> tuple[int, ...]:
        """Keys of foreground classes (or regions) with at least one voxel, ascending."""
        keys = (int(key) for key, (start, stop) in self.record.locations.items() if stop > start)
        return tuple(sorted(key for key in keys if key != ANNOTATED))

    def num_locations(self, key: int) -> int:
        """Give how many locations are stored for a class (see ``locations``)."""
        start, stop = self.record.locations.get(str(key), (0, 0))
        return stop - start

    def locations(self, key: int) -> np.ndarray:
        """Give voxels of a class to draw patches around.

        Args:
            key: a class index from 1; with regions, the region's position counted from 1; or ``ANNOTATED``.

        Returns:
            Read-only integers, n × (z, y, x), in no particular order; n may be 0.
        """
        start, stop = self.record.locations.get(str(key), (0, 0))
        rows = max((end for _, end in self.record.locations.values()), default=0)
        if start == stop:
            return np.empty((0, 3), dtype=self.record.locations_dtype)
        return self.map("locations", self.record.locations_dtype, (rows, 3))[start:stop]

    def read(self, start: Sequence[int], stop: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Read a box; only its part of the files is touched.

        Args:
            start, stop: z, y, x of the first voxel and of the one after the last; may lie outside the image.

        Returns:
            New arrays: the image (float32, channels × z × y × x), 0 outside; the label layers (int16, or int32 where
            they are stored so; layers × z × y × x), ``OUTSIDE`` outside.
        """
        size = [max(0, end - begin) for begin, end in zip(start, stop, strict=True)]
        image = np.zeros((self.num_channels, *size), dtype=np.float32)
        labels = np.full((self.record.labels_shape[0], *size), OUTSIDE, dtype=self.labels_dtype)
        inside = [(max(0, b), min(n, e)) for b, e, n in zip(start, stop, self.shape, strict=True)]
        if all(low < high for low, high in inside):
            source = (slice(None), *(slice(low, high) for low, high in inside))
            target = (slice(None), *(slice(lo - b, hi - b) for (lo, hi), b in zip(inside, start, strict=True)))
            image[target] = self.image[source]
            labels[target] = self.labels[source]
        return image, labels

    def map(self, kind: str, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
        """Map one of the arrays, read-only.

        Raises:
            RunFolderError: its file is missing or too short.
        """
        path = array_path(self.folder, self.id, kind)
        header_bytes = self.record.num_bytes[kind] - math.prod(shape) * np.dtype(dtype).itemsize
        try:
            return np.asarray(np.memmap(path, dtype=dtype, mode="r", offset=header_bytes, shape=shape))
        except (OSError, ValueError) as fault:
            raise RunFolderError(f"{path} is missing or damaged ({fault}). `autoseg run` rebuilds it") from fault


class Store:
    """The preprocessed cases of one configuration: a cache that may be deleted and is rebuilt."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def record(self, case_id: str) -> StoredRecord | None:
        """Read a case's record, or None where there is none or it does not fit this version."""
        try:
            return records.from_json(StoredRecord, json.loads(self._record_path(case_id).read_text(encoding="utf-8")))
        except (OSError, ValueError):
            return None

    def is_damaged(self, case_id: str) -> bool:
        """Tell whether there is a record of a case that is no JSON."""
        try:
            json.loads(self._record_path(case_id).read_text(encoding="utf-8"))
        except OSError:
            return False
        except ValueError:
            return True
        return False

    def has(self, case_id: str, digest: str) -> bool:
        """Tell whether a case is there whole, made from what ``digest`` names."""
        record = self.record(case_id)
        return record is not None and record.digest == digest and self.is_whole(case_id, record)

    def is_whole(self, case_id: str, record: StoredRecord) -> bool:
        """Tell whether the arrays have the sizes that the record says."""
        try:
            found = {kind: array_path(self.folder, case_id, kind).stat().st_size for kind in record.num_bytes}
        except OSError:
            return False
        return record.format == FORMAT and found == record.num_bytes

    def is_intact(self, case_id: str, record: StoredRecord) -> bool:
        """Tell whether the arrays hold what was written; all of them are read. What has no checksum counts as intact.

        A disk, a cable or a copy may change a bit and leave size and time of the file as they were.
        """
        case = StoredCase(self.folder, case_id, record)
        rows = max((end for _, end in record.locations.values()), default=0)
        arrays = {
            "image": lambda: case.image,
            "labels": lambda: case.labels,
            "locations": lambda: case.map("locations", record.locations_dtype, (rows, 3)) if rows else np.empty(0),
        }
        try:
            return all(zlib.crc32(arrays[kind]().data) == wanted for kind, wanted in record.crc32.items())
        except RunFolderError:
            return False

    def open(self, case_id: str) -> StoredCase:
        """Open a case.

        Raises:
            RunFolderError: it is not in the store, or not whole.
        """
        record = self.record(case_id)
        if record is None or not self.is_whole(case_id, record):
            raise RunFolderError(
                f"case {case_id} is not preprocessed in {self.folder}. Run `autoseg run` again to do it"
            )
        return StoredCase(self.folder, case_id, record)

    def write(
        self,
        case_id: str,
        case: PreprocessedCase,
        digest: str,
        locations: Mapping[int, np.ndarray],
        files: Sequence[FileStamp] = (),
        annotated_classes: tuple[int, ...] | None = None,
    ) -> StoredCase:
        """Write a case, whole or not at all; what was there under its name is replaced.

        Args:
            case_id: its name.
            case: with labels.
            digest: of what it was made from.
            locations: as ``sample_locations`` gives them.
            files: stamps of the source files.
            annotated_classes: see ``StoredRecord``.
        """
        assert case.labels_LZYX is not None, "the store is for training: it holds labelled cases"
        self.folder.mkdir(parents=True, exist_ok=True)
        ranges, rows = _join(locations, case.grid.shape)
        arrays = {"image": case.image_CZYX, "labels": case.labels_LZYX, "locations": rows}
        self._record_path(case_id).unlink(missing_ok=True)  # from here to its return, the case does not exist
        num_bytes = {kind: self._write_array(case_id, kind, array) for kind, array in arrays.items()}
        c, z, y, x = case.image_CZYX.shape
        record = StoredRecord(
            digest=digest,
            grid=case.grid,
            image_shape=(c, z, y, x),
            labels_shape=(len(case.labels_LZYX), z, y, x),
            labels_dtype=case.labels_LZYX.dtype.name,
            locations_dtype=rows.dtype.name,
            locations=ranges,
            num_bytes=num_bytes,
            files=tuple(files),
            annotated_classes=annotated_classes,
            crc32={kind: zlib.crc32(np.ascontiguousarray(array).data) for kind, array in arrays.items()},
        )
        self.write_record(case_id, record)
        return StoredCase(self.folder, case_id, record)

    def write_record(self, case_id: str, record: StoredRecord) -> None:
        """Write a case's record, whole or not at all."""
        write_atomic(self._record_path(case_id), records.dumps(record), lasting=False)

    def remove_leftovers(self) -> None:
        """Delete temporary files of a process that was killed."""
        remove_leftovers(self.folder)

    def keep_only(self, case_ids: Collection[str]) -> list[str]:
        """Delete the cases of other names, with all their files; give their names.

        Call it only where no other process uses the store.
        """
        removed = []
        for path in sorted(self.folder.glob("*.json")):
            case_id = path.name.removesuffix(".json")
            if case_id in case_ids or self.record(case_id) is None:
                continue  # a record of another kind belongs to somebody else
            path.unlink(missing_ok=True)
            for kind in ("image", "labels", "locations"):
                array_path(self.folder, case_id, kind).unlink(missing_ok=True)
            remove_previous(self.folder, case_id)
            removed.append(case_id)
        return removed

    def _record_path(self, case_id: str) -> Path:
        return self.folder / f"{case_id}.json"

    def _write_array(self, case_id: str, kind: str, array: np.ndarray) -> int:
        path = array_path(self.folder, case_id, kind)
        handle, name = tempfile.mkstemp(dir=self.folder, prefix=f".{path.name}.", suffix=".tmp")
        mark_in_use(handle)
        try:
            with os.fdopen(handle, "wb") as file:
                array = np.ascontiguousarray(array)
                header = np.lib.format.header_data_from_array_1_0(array)
                np.lib.format.write_array_header_1_0(file, header)
                file.write(array.data)  # not np.save, which does not notice where the disk takes all but the end
                num_bytes = file.tell()
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException as fault:
            with contextlib.suppress(OSError):
                os.unlink(name)
            if room.is_no_disk(fault):
                raise room.no_disk(path, array.nbytes, fault) from fault
            raise
        return num_bytes


def array_path(folder: Path, case_id: str, kind: str) -> Path:
    """Give the file of one of a case's arrays: ``image``, ``labels`` or ``locations``."""
    return folder / f"{case_id}.{kind}.npy"


def _join(locations: Mapping[int, np.ndarray], shape: Sequence[int]) -> tuple[dict[str, tuple[int, int]], np.ndarray]:
    ranges, first = {}, 0
    for key, rows in locations.items():
        ranges[str(key)] = (first, first + len(rows))
        first += len(rows)
    dtype = np.uint16 if max(shape) <= np.iinfo(np.uint16).max else np.int32
    joined = [rows.astype(dtype) for rows in locations.values()]
    return ranges, np.concatenate([np.empty((0, 3), dtype), *joined])
