"""Tell whether a case's files have changed since something was made from them.

What counts is the content. Size and times of change only save reading a file again: a file that was copied or touched
keeps what was made from it, a file that was edited does not, whatever the clock said and whatever time it was given.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

READ_BYTES = 1 << 20  # hashed at a time

DETACHED_HEADERS = (".mhd", ".nhdr", ".hdr", ".img")
"""Endings of formats that keep header and voxels in two files of one stem."""


@dataclass(frozen=True, kw_only=True)
class FileStamp:
    """What one file was when it was read.

    Attributes:
        name: its name without folders, so that a dataset may move.
        num_bytes: its size.
        modified_ns: its time of change in nanoseconds since 1970.
        content: 32 hexadecimal digits of the BLAKE2b hash of its bytes.
        changed_ns: when the system last changed anything of it, which no program can set; 0 in older stamps.
    """

    name: str
    num_bytes: int
    modified_ns: int
    content: str
    changed_ns: int = 0


def stamp_files(paths: Iterable[Path], known: Sequence[FileStamp] = ()) -> tuple[FileStamp, ...]:
    """Stamp files; a folder (a DICOM series) stands for the files in it.

    Args:
        paths: the files of a case, in a fixed order.
        known: earlier stamps of these files. Where name, size and both times agree, the content is not read again.

    Raises:
        OSError: a file is missing or cannot be read.
    """
    earlier = {(stamp.name, stamp.num_bytes, stamp.modified_ns, stamp.changed_ns): stamp for stamp in known}
    stamps = []
    for path in _all_files(paths):
        stat = path.stat()
        seen = (path.name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
        if seen in earlier:
            stamps.append(earlier[seen])
            continue
        name, num_bytes, modified_ns, changed_ns = seen
        stamp = FileStamp(
            name=name, num_bytes=num_bytes, modified_ns=modified_ns, content=_hash(path), changed_ns=changed_ns
        )
        stamps.append(stamp)
    return tuple(stamps)


def contents(stamps: Sequence[FileStamp]) -> list[str]:
    """Give what a digest should contain of files: what is in them, not when they were written or where they lie."""
    return [stamp.content for stamp in stamps]


def _all_files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted(item for item in path.iterdir() if item.is_file())
        elif path.suffix.lower() in DETACHED_HEADERS:
            yield path
            yield from sorted(item for item in path.parent.glob(f"{path.stem}.*") if item != path and item.is_file())
        else:
            yield path


def _hash(path: Path) -> str:
    content = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while part := file.read(READ_BYTES):
            content.update(part)
    return content.hexdigest()
