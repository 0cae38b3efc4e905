"""What was measured of each case, kept on disk: a case whose files are as they were is not read again."""

import dataclasses
import io
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from autoseg.data.cases import Case
from autoseg.data.check_case import CaseFacts
from autoseg.errors import RunFolderError
from autoseg.preprocessing.instance_stats import MeasuredObjects
from autoseg.preprocessing.stamps import FileStamp, contents, stamp_files
from autoseg.run_folder import records_from, write_atomic
from planners import records
from planners.fingerprint import Center, Shape, Spacing

FORMAT = 4
"""Version of the kept measurements; another one is measured anew."""


@dataclass(frozen=True, kw_only=True)
class CaseMeasure:
    """What a fingerprint needs to know of one case.

    Attributes:
        spacing_mm: z, y, x as read.
        shape_before_crop, shape: voxels before and after cropping to nonzero.
        foreground_voxels: neither background nor ignored.
        centers: mean position of each value of the foreground, ascending.
        percentiles: per channel, of the whole image.
        size_features: what the diameter of its objects is estimated from; empty where no objects are told apart.
        has_objects: whether its objects were measured.
    """

    spacing_mm: Spacing
    shape_before_crop: Shape
    shape: Shape
    foreground_voxels: int
    centers: tuple[tuple[int, Center], ...] = ()
    percentiles: tuple[tuple[float, ...], ...] = ()
    size_features: tuple[float, ...] = ()
    has_objects: bool = False

    @property
    def cropped_fraction(self) -> float:
        """Voxels after cropping / before."""
        return float(np.prod(self.shape) / np.prod(self.shape_before_crop))


@dataclass(frozen=True, kw_only=True)
class KeptCase:
    """What is kept on disk of one case, beside its sample.

    Attributes:
        format: see FORMAT.
        key: digest of the files' contents and of all else that the measurement depends on.
        facts: of the check.
        measure: of the fingerprint; None where the case has no sound label.
        files: as they were read.
        crc32: of the sample and of the objects, where there are any; files of older programs lack it.
    """

    format: int = FORMAT
    key: str
    facts: CaseFacts
    measure: CaseMeasure | None
    files: tuple[FileStamp, ...]
    crc32: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Measured:
    """One case, measured now or kept.

    Attributes:
        facts: of the check.
        measure: of the fingerprint; None where the case has no sound label.
        sample_CN: intensities of the foreground, float32, channels × n; None likewise.
        objects: None where none are told apart.
    """

    facts: CaseFacts
    measure: CaseMeasure | None = None
    sample_CN: np.ndarray | None = None
    objects: MeasuredObjects | None = None


class KeptMeasure:
    """The files that keep one case's measurement.

    ``CASE.json`` is written last; ``CASE.npy`` holds the sample, ``CASE.objects.npy`` what was measured of objects.
    """

    def __init__(self, folder: Path, case: Case, *, test: bool) -> None:
        self.record_file = folder / f"{'test' if test else 'train'}_{case.id}.json"
        self.sample_file = self.record_file.with_suffix(".npy")
        self.objects_file = self.record_file.with_suffix(".objects.npy")
        maps = () if test else (case.label, case.classes)
        self.paths = (*case.images, *(path for path in maps if path is not None))
        self.group = case.group

    def find(self, key: str) -> Measured | None:
        """Give what is kept, if it was made from these files in this way."""
        try:
            record = records_from(KeptCase, self.record_file)
            files = stamp_files(self.paths, record.files)
            if record.key != key or contents(files) != contents(record.files):
                return None
            if files != record.files:  # the same content at another time: it need not be read again
                write_atomic(self.record_file, records.dumps(dataclasses.replace(record, files=files)))
            sample = None if record.measure is None else _read_array(self.sample_file, record.crc32.get("sample"))
            objects = None
            if record.measure is not None and record.measure.has_objects:
                objects = MeasuredObjects.from_array(_read_array(self.objects_file, record.crc32.get("objects")))
        except (RunFolderError, OSError, EOFError, ValueError):
            return None
        return Measured(dataclasses.replace(record.facts, group=self.group), record.measure, sample, objects)

    def stamp(self) -> tuple[FileStamp, ...] | None:
        """Stamp the case's files; None where one is missing: such a case is not kept."""
        try:
            return stamp_files(self.paths)
        except OSError:
            return None

    def keep(self, key: str, case: Measured, files: tuple[FileStamp, ...]) -> None:
        """Write all files. None of them is waited for: what a power cut damages is noticed by ``find``."""
        crc32 = {}
        if case.sample_CN is not None:
            crc32["sample"] = _write_array(self.sample_file, case.sample_CN)
        if case.objects is not None:
            crc32["objects"] = _write_array(self.objects_file, case.objects.to_array())
        record = KeptCase(key=key, facts=case.facts, measure=case.measure, files=files, crc32=crc32)
        write_atomic(self.record_file, records.dumps(record), lasting=False)


def _write_array(path: Path, array: np.ndarray) -> int:
    """Write an array; give the checksum of the file."""
    content = io.BytesIO()
    np.save(content, array)
    write_atomic(path, content.getvalue(), lasting=False)
    return zlib.crc32(content.getbuffer())


def _read_array(path: Path, crc32: int | None) -> np.ndarray:
    """Read an array.

    Raises:
        ValueError: it is not what was written.
    """
    content = path.read_bytes()
    if crc32 is not None and zlib.crc32(content) != crc32:
        raise ValueError(f"{path} is damaged")
    array: np.ndarray = np.load(io.BytesIO(content))
    return array
