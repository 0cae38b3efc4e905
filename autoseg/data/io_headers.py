"""Headers that crash ITK's readers, or that they believe: looked at here before a reader sees them.

Seen with SimpleITK 2.5 in files made on purpose: a MetaImage of 100 axes or with ``%n`` in the name of its data ends
the process, and so does an NRRD field of 1,000 letters; an NRRD whose data is ``-`` waits for the keyboard; a
compressed MetaImage that is damaged gives whatever was in memory; a DICOM file of 1 KB takes seconds.

Source: MetaIO's documentation of MetaImage; teem's definition of the NRRD format; DICOM PS3.5.
"""

import math
import os
import re
import zlib
from pathlib import Path
from typing import BinaryIO

from autoseg.errors import ImageError
from planners.records import shown

HEAD_BYTES = 1 << 20
LONGEST_FIELD = 400
"""Letters of a field of an NRRD header; teem writes those that it does not understand into a buffer of about 1,000."""

LONGEST_LINE = 4000
FREE_FIELDS = ("#", "content:")
"""Beginnings of lines that may be long; so may those that hold ``:=``."""

META_TYPES = {
    "MET_CHAR": 1, "MET_UCHAR": 1, "MET_SHORT": 2, "MET_USHORT": 2, "MET_INT": 4, "MET_UINT": 4, "MET_LONG": 4,
    "MET_ULONG": 4, "MET_LONG_LONG": 8, "MET_ULONG_LONG": 8, "MET_FLOAT": 4, "MET_DOUBLE": 8,
}  # fmt: skip
"""Bytes of one value of MetaImage's types."""

LONG_KINDS = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
"""DICOM's kinds of values (PS3.5, 7.1.2) whose length is written in four bytes, after two that are empty."""


SYNTAX = b"\x02\x00\x10\x00"
"""DICOM's element that tells how the others are written."""

FIRST_ELEMENT = 132
IMPLICIT = b"1.2.840.10008.1.2"
OTHER_ORDERS = (b"1.2.840.10008.1.2.2", b"1.2.840.10008.1.2.1.99", b"1.2.840.113619.5.2")
"""Big-endian, deflated, and General Electric's own way: none to walk along here."""


def check_header(path: Path, reader_name: str) -> None:
    """Refuse a file whose header would crash or mislead one of ITK's readers.

    Raises:
        ImageError: what is wrong with it, and where.
    """
    if reader_name == "MetaImageIO":
        MetaHeader(path)
    elif reader_name == "NrrdImageIO":
        _check_nrrd(path)
    elif reader_name == "GDCMImageIO":
        _check_dicom(path)


class MetaHeader:
    """The header of a MetaImage file, as far as it must be right before MetaIO reads it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
        self.fields: dict[str, str] = {}
        self.start = 0
        for line in head.splitlines(keepends=True):
            self.start += len(line)
            name, mark, value = line.partition(b"=")
            if not mark:
                name, mark, value = line.partition(b":")
            key = name.strip().decode("ascii", "replace")
            if len(line) > LONGEST_LINE or not mark or not key.isascii() or not key.isprintable():
                raise faulty(path, f"its header has the line {shown(line[:50].decode('latin-1').rstrip())}")
            self.fields[key] = value.strip().decode("latin-1")
            if key == "ElementDataFile":
                break
        self._check()

    @property
    def local(self) -> bool:
        """Whether the voxels stand in the same file, after the header."""
        return self.fields["ElementDataFile"].upper() == "LOCAL"

    @property
    def compressed(self) -> bool:
        """Whether they are compressed."""
        return self.fields.get("CompressedData", "").strip().upper()[:1] in ("T", "1")

    @property
    def num_bytes(self) -> int:
        """Bytes of all voxels, not compressed."""
        channels = int(self.fields.get("ElementNumberOfChannels", "1"))
        return math.prod(self._sizes()) * channels * META_TYPES[self.fields["ElementType"]]

    def check_content(self) -> None:
        """Inflate the voxels once and see that they are whole; MetaIO would not say so.

        Raises:
            ImageError: they are damaged, or fewer or more than the header promises.
        """
        if not (self.compressed and self.local):
            return
        inflater, found = zlib.decompressobj(zlib.MAX_WBITS | 32), 0
        try:
            with self.path.open("rb") as file:
                file.seek(self.start)
                while not inflater.eof and found <= self.num_bytes and (part := file.read(1 << 16)):
                    while part and found <= self.num_bytes:
                        found += len(inflater.decompress(part, HEAD_BYTES))
                        part = inflater.unconsumed_tail
        except zlib.error as fault:
            raise truncated(self.path, " ".join(str(fault).split())) from fault
        if found != self.num_bytes or not inflater.eof:
            least = "more than " if found > self.num_bytes else ""
            raise truncated(self.path, f"it holds {least}{found} bytes of voxels, its header promises {self.num_bytes}")

    def _sizes(self) -> list[int]:
        return [int(size) for size in self.fields["DimSize"].split()]

    def _check(self) -> None:
        for key in ("NDims", "DimSize", "ElementType", "ElementDataFile"):
            if key not in self.fields:
                raise faulty(self.path, f"its header does not say {key}")
        if next(iter(self.fields)) not in ("ObjectType", "Comment", "NDims") or self.fields["NDims"] not in "1234":
            raise faulty(self.path, f"its header says NDims = {shown(self.fields['NDims'])}; 2, 3 or 4 is possible")
        numbers = {"DimSize": self.fields["DimSize"].split(), "ElementNumberOfChannels": [self.fields.get(
            "ElementNumberOfChannels", "1")], "NDims": [self.fields["NDims"]]}  # fmt: skip
        for key, words in numbers.items():
            good = all(re.fullmatch("[0-9]{1,9}", word) and int(word) for word in words)
            if not good or (key == "DimSize" and len(words) != int(self.fields["NDims"])):
                raise faulty(self.path, f"its header says {key} = {shown(' '.join(words))}")
        if self.fields["ElementType"] not in META_TYPES:
            raise faulty(self.path, f"its voxels are of the type {shown(self.fields['ElementType'])}")
        if self.local:
            self._check_length()
        else:
            _check_beside(self.path, self.fields["ElementDataFile"])

    def _check_length(self) -> None:
        there = self.path.stat().st_size - self.start
        if not self.compressed and self.fields.get("BinaryData", "True").upper()[:1] == "T" and there < self.num_bytes:
            raise truncated(self.path, f"it has {there} bytes of voxels, its header promises {self.num_bytes}")
        packed = self.fields.get("CompressedDataSize", "0")
        if self.compressed and not (packed.isdecimal() and len(packed) < 19 and int(packed) <= there):
            raise truncated(self.path, f"it has {there} bytes of voxels, its header promises {shown(packed)}")


def _check_nrrd(path: Path) -> None:
    """Look at the lines of an NRRD header."""
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if not head.startswith(b"NRRD000"):
        raise faulty(path, "its content is not what its ending says")
    for line in head.split(b"\n")[1:]:
        text = line.rstrip(b"\r").decode("latin-1")
        if not text:
            return
        if ":=" in text or text.startswith(FREE_FIELDS):
            continue
        key, mark, value = text.partition(":")
        if not mark or len(text) > LONGEST_FIELD or not text.isprintable():
            raise faulty(path, f"its header has the line {shown(text[:50])}")
        if key.replace(" ", "").lower() == "datafile":
            _check_beside(path, value.strip())
            return  # the header may end with the file, and a list of files may follow


def _check_dicom(path: Path) -> None:
    """Walk along the elements of the file's own part, and of the image as far as they are of explicit length.

    GDCM makes room for what an element claims before it looks whether the file holds as much.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(132)[128:] != b"DICM":
            return  # older files begin at once; GDCM knows them
        syntax = b""
        while len(head := file.read(8)) == 8:
            place, own = file.tell() - 8, head[:2] == b"\x02\x00"
            if not own and place == FIRST_ELEMENT:
                raise truncated(path, "it does not begin with the elements that tell how it is written")
            if not own and syntax in OTHER_ORDERS:
                return
            length = _dicom_length(head, file, path, implicit=not own and syntax == IMPLICIT)
            if length == 0xFFFFFFFF:
                return  # a sequence, or compressed pixels
            if file.tell() + length > size:
                raise truncated(path, f"the element at byte {file.tell()} promises {length} bytes, beyond its end")
            if head[:4] == SYNTAX:
                syntax = file.read(length).rstrip(b"\0 ")
            else:
                file.seek(length, os.SEEK_CUR)


def _dicom_length(head: bytes, file: BinaryIO, path: Path, *, implicit: bool) -> int:
    """Give the bytes of an element's value, of whose 8 or 12 bytes in front the first 8 are read."""
    if implicit:
        return int.from_bytes(head[4:8], "little")
    if not re.fullmatch(rb"[A-Z]{2}", head[4:6]):
        raise truncated(path, f"the element at byte {file.tell() - 8} is none")
    return int.from_bytes(file.read(4) if head[4:6] in LONG_KINDS else head[6:8], "little")


def _check_beside(path: Path, name: str) -> None:
    """Refuse data files that are none, or that lie elsewhere: a header from others must not name what is to be read."""
    first = name.split(" ")[0]
    if first.upper().startswith("LIST"):
        lines = path.read_bytes()[:HEAD_BYTES].decode("latin-1").splitlines()
        start = next(index for index, line in enumerate(lines) if line.rstrip().endswith(name))
        names = [line.strip() for line in lines[start + 1 :] if line.strip()]
    elif "%" in name:
        if not re.fullmatch(r"[^%]*%0?[0-9]{0,2}[dui][^%]*", name):
            raise faulty(path, f"its header names the data files {shown(name)}")
        names = [name.split("%")[0]]
        _check_place(path, names[0])
        return
    else:
        names = [name]
    for item in names:
        _check_place(path, item)
        if not (path.parent / item).is_file():
            raise faulty(path, f"the file of its voxels is missing ({shown(item)})")


def _check_place(path: Path, name: str) -> None:
    if name in ("", "-") or Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name:
        raise faulty(path, f"its header names the data {shown(name)}, which does not lie beside it")


def faulty(path: Path | str, what: str) -> ImageError:
    """Make the error of a file whose content cannot be."""
    return ImageError(f"{path} cannot be read: {what}. Copy or export the file again")


def truncated(path: Path, how: str) -> ImageError:
    """Make the error of a file that is shorter than it should be, or damaged."""
    return ImageError(f"{path} is truncated or damaged: {how}. Copy or export the file again")
