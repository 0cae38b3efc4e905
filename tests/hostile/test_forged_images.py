"""Images that lie on purpose: each is refused in one line that says what is wrong, or taken as what it is."""

import contextlib
import gzip
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hostile_driver import Ending, Worker
from hostile_seeds import nifti

IDENTITY = ((1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0))
NAN, INF = float("nan"), float("inf")
Open = Callable[..., Ending]


@pytest.fixture
def opened(worker: Worker, given: Path) -> Open:
    """Give a function that lays a file and has it opened and read."""

    def run(name: str, content: bytes, job: str = "image") -> Ending:
        (given / name).write_bytes(content)
        ending = worker.do(job, str(given / name))
        assert not ending.complaint, ending.complaint
        assert ending.seconds < 5
        return ending

    return run


NIFTIS = {
    "truncated": (nifti()[:-1], "has 471 bytes, its header promises 472"),
    "header alone": (nifti()[:348], "has 348 bytes, its header promises"),
    "half a header": (nifti()[:200], "no NIfTI file, or it is truncated"),
    "empty": (b"", "no NIfTI file, or it is truncated"),
    "a million by a million": (nifti((30000, 30000, 30000)), "promises 54000000000352"),
    "a million by a million, NIfTI-2": (nifti((10**6, 10**6, 1), version=2), "promises 2000000000544"),
    "beyond 64 bits": (nifti((2**40, 2**40), version=2), "its header says 2 axes of the lengths"),
    "negative size": (nifti((5, -4, 3)), "3 axes of the lengths 5, -4, 3"),
    "zero size": (nifti((5, 0, 3)), "3 axes of the lengths 5, 0, 3"),
    "no axes": (nifti(dims=0), "0 axes"),
    "99 axes": (nifti(dims=99), "99 axes"),
    "billions of channels": (nifti((5, 4, 3, 1, 3 * 10**9), version=2), "promises 360000000544"),
    "NaN spacing": (nifti(spacing=(1, NAN, 1)), "voxel sizes of 1, nan, 1"),
    "infinite spacing": (nifti(spacing=(INF, 1, 1)), "voxel sizes of inf"),
    "huge spacing": (nifti(spacing=(1e30, 1, 1)), "voxel sizes of 1e"),
    "tiny spacing": (nifti(spacing=(1e-30, 1, 1)), "voxels of 1e-30"),
    "sheared": (nifti(affine=((1, 0.5, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0))), "not at right angles"),
    "zero direction": (nifti(affine=((0, 0, 0, 0),) * 3), "sform with an empty or non-finite axis"),
    "NaN direction": (nifti(affine=((NAN, 0, 0, 0), *IDENTITY[1:])), "an sform of nan"),
    "infinite origin": (nifti(affine=((1, 0, 0, INF), *IDENTITY[1:])), "an sform of"),
    "NaN quaternion": (nifti(quaternion=(NAN, 0, 0)), "a qform of nan"),
    "no type": (nifti(code=0), "voxels of the type 0"),
    "unknown type": (nifti(code=31000), "voxels of the type 31000"),
    "complex numbers": (nifti(code=32), "kind that cannot be read"),
    "data far away": (nifti(offset=1e20), "voxels from byte 1e+20"),
    "data at no place": (nifti(offset=NAN), "voxels from byte nan"),
    "scaled away": (nifti(slope=(1e-30, 0.0)), "multiplied by 1e-30"),
}


@pytest.mark.parametrize("name", NIFTIS)
@pytest.mark.parametrize("compressed", [False, True], ids=["nii", "nii.gz"])
def test_nifti_is_refused_from_its_header(opened: Open, name: str, compressed: bool) -> None:
    content, says = NIFTIS[name]
    if compressed:
        content, says = gzip.compress(content), says.replace("has 471 bytes", "").replace("has 348 bytes", "")
        says = "" if "promises" in says and len(says) < 40 else says
    ending = opened("case.nii.gz" if compressed else "case.nii", content)
    assert ending.end == "refused"
    assert ending.kind == "ImageError"
    assert says in ending.says
    assert "case.nii" in ending.says


@pytest.mark.parametrize(
    ("fields", "shape"),
    [
        ({}, (1, 1, 1)),
        ({}, (10, 10, 1)),
        ({}, (10, 10)),
        ({}, (1, 4, 1)),
        ({"affine": ((-1, 0, 0, 5), (0, -2, 0, 0), (0, 0, -3, 0))}, (5, 4, 3)),
        ({"affine": ((0, 1, 0, 5), (1, 0, 0, 0), (0, 0, 1, 0))}, (5, 4, 3)),
        ({"spacing": (1e5, 1e-5, 1)}, (5, 4, 3)),
        ({"slope": (0.0, 7.0)}, (5, 4, 3)),
    ],
    ids=["a voxel", "10×10×1", "10×10", "a row", "negative", "exchanged", "long voxels", "slope 0"],
)
def test_odd_but_honest_nifti_is_taken(opened: Open, shape: tuple[int, ...], fields: dict) -> None:
    ending = opened("case.nii", nifti(shape, data=bytes(200), **fields))
    assert ending.end == "taken", ending.says


def test_gzip_that_inflates_beyond_its_header_is_not_followed(opened: Open) -> None:
    bomb = gzip.compress(nifti() + bytes(300_000_000), compresslevel=9)
    assert len(bomb) < 400_000
    assert "stand behind the voxels of its header" in opened("case.nii.gz", bomb).says


def test_gzip_whose_header_claims_more_than_gzip_can_hold(opened: Open) -> None:
    assert "bytes of gzip, its header promises" in opened("case.nii.gz", gzip.compress(nifti((20000, 20000, 9)))).says


def test_image_beyond_main_memory_says_what_it_needs_and_what_is_free(worker: Worker, given: Path) -> None:
    with (given / "case.nii").open("wb") as file:  # honest but huge: a file that is a hole
        file.write(nifti((32000, 32000, 500), code=16, data=b""))
        file.truncate(352 + 4 * 32000 * 32000 * 500)
    ending = worker.do("image", str(given / "case.nii"))
    (given / "case.nii").unlink()
    assert re.search(r"needs 4096.0 GB of main memory to be read, of which \d+.\d GB are free", ending.says)


GZIP = gzip.compress(nifti())


@pytest.mark.parametrize(
    "length", [0, 1, 2, 9, 10, 11, 30, len(GZIP) // 2, len(GZIP) - 9, len(GZIP) - 4, len(GZIP) - 1]
)
def test_truncated_gzip(opened: Open, length: int) -> None:
    assert opened("case.nii.gz", GZIP[:length]).end == "refused"


@pytest.mark.parametrize("place", range(len(GZIP) - 8, len(GZIP)))
def test_wrong_check_sum_of_gzip(opened: Open, place: int) -> None:
    damaged = GZIP[:place] + bytes([GZIP[place] ^ 1]) + GZIP[place + 1 :]
    assert opened("case.nii.gz", damaged).end == "refused"


# ------------------------------------------------------------------------------------------------ NRRD and MetaImage

NRRD = b"""NRRD0004
type: short
dimension: 3
sizes: 5 4 3
space: left-posterior-superior
space directions: (0.5,0,0) (0,1,0) (0,0,1)
endian: little
encoding: raw
space origin: (0,0,0)
"""
META = b"""ObjectType = Image
NDims = 3
BinaryData = True
BinaryDataByteOrderMSB = False
CompressedData = False
TransformMatrix = 1 0 0 0 1 0 0 0 1
Offset = 0 0 0
ElementSpacing = 1 1 1
DimSize = 5 4 3
ElementType = MET_SHORT
ElementDataFile = LOCAL
"""
VOXELS = bytes(120)

NRRDS = {
    "long junk": (b"encoding: raw", b"encoding: raw\n" + b"a" * 3000, "its header has the line"),
    "long type": (b"type: short", b"type: " + b"b" * 3000, "its header has the line"),
    "long sizes": (b"sizes: 5 4 3", b"sizes: " + b"9" * 3000, "its header has the line"),
    "keyboard": (b"endian: little", b"endian: little\ndata file: -", "does not lie beside it"),
    "another's file": (b"endian: little", b"endian: little\ndata file: /etc/passwd", "does not lie beside it"),
    "a device": (b"endian: little", b"endian: little\ndata file: /dev/zero", "does not lie beside it"),
    "outside": (b"endian: little", b"endian: little\ndatafile: ../outer.raw", "does not lie beside it"),
    "missing": (b"endian: little", b"endian: little\ndata file: none.raw", "the file of its voxels is missing"),
    "format": (b"endian: little", b"endian: little\ndata file: %s%n.raw 1 3 1", "names the data files"),
    "list": (b"space origin: (0,0,0)", b"data file: LIST\n/etc/passwd\n/etc/hosts", "does not lie beside it"),
    "huge": (b"sizes: 5 4 3", b"sizes: 1000000 1000000 1", "promises 1×1000000×1000000 voxels (2000.0 GB)"),
    "NaN": (b"(0.5,0,0)", b"(nan,0,0)", "cannot be read"),
    "zero": (b"(0.5,0,0)", b"(0,0,0)", "cannot be read"),
    "sheared": (b"(0,1,0)", b"(0.9,1,0)", "not at right angles"),
}
METAS = {
    "100 axes": (b"NDims = 3", b"NDims = 100", "its header says NDims"),
    "-1 axes": (b"NDims = 3", b"NDims = -1", "its header says NDims"),
    "fewer sizes": (b"DimSize = 5 4 3", b"DimSize = 5 4", "its header says DimSize"),
    "format": (b"= LOCAL", b"= %s%s%n.raw 1 3 1", "names the data files"),
    "another's file": (b"= LOCAL", b"= /etc/passwd", "does not lie beside it"),
    "list": (b"= LOCAL", b"= LIST\n/etc/passwd\n/etc/hosts\n/etc/hosts", "does not lie beside it"),
    "huge": (b"DimSize = 5 4 3", b"DimSize = 1000000 1000000 1", "its header promises 2000000000000"),
    "channels": (b"DimSize", b"ElementNumberOfChannels = 3000000000\nDimSize", "ElementNumberOfChannels"),
    "many channels": (b"DimSize", b"ElementNumberOfChannels = 300000000\nDimSize", "its header promises 36000000000"),
    "truncated": (b"DimSize = 5 4 3", b"DimSize = 5 4 4", "it has 120 bytes of voxels, its header promises 160"),
    "junk": (b"CompressedData = False", b"CompressedData = True", "truncated or damaged"),
    "packed size": (
        b"CompressedData = False", b"CompressedData = True\nCompressedDataSize = 99999999999", "its header promises",
    ),
    "no text": (b"ObjectType", b"Object\xe1\xb5Type", "its header has the line"),
    "sheared": (b"1 0 0 0 1 0 0 0 1", b"1 0.9 0 0 1 0 0 0 1", "not at right angles"),
    "type": (b"MET_SHORT", b"MET_STRING", "its voxels are of the type"),
}  # fmt: skip


@pytest.mark.parametrize("name", NRRDS)
def test_nrrd_that_would_crash_hang_or_read_elsewhere(opened: Open, name: str) -> None:
    old, new, says = NRRDS[name]
    ending = opened("case.nrrd", NRRD.replace(old, new) + b"\n" + VOXELS)
    assert ending.end == "refused"
    assert says in ending.says


@pytest.mark.parametrize("name", METAS)
def test_metaimage_that_would_crash_or_read_elsewhere(opened: Open, name: str) -> None:
    old, new, says = METAS[name]
    ending = opened("case.mha", META.replace(old, new) + VOXELS)
    assert ending.end == "refused"
    assert says in ending.says


def test_headers_without_lies_are_taken(opened: Open, given: Path) -> None:
    long = b"Segment0_Tags:=" + b"x" * 20_000 + b"\ncontent: " + b"y" * 3000 + b"\n"
    assert opened("case.nrrd", NRRD + long + b"\n" + VOXELS).end == "taken"
    assert opened("case.mha", META + VOXELS).end == "taken"
    (given / "case.raw").write_bytes(VOXELS)
    assert opened("case.mhd", META.replace(b"LOCAL", b"case.raw")).end == "taken"
    assert opened("case.nhdr", NRRD + b"data file: case.raw\n").end == "taken"


def test_damaged_compressed_metaimage_is_never_taken(opened: Open) -> None:
    packed = zlib.compress(bytes(range(120)))
    head = META.replace(b"CompressedData = False", b"CompressedData = True\nCompressedDataSize = %d" % len(packed))
    assert opened("case.mha", head + packed).end == "taken"
    for place in range(len(packed)):
        damaged = packed[:place] + bytes([packed[place] ^ 0x10]) + packed[place + 1 :]
        with contextlib.suppress(zlib.error):
            if zlib.decompress(damaged) == bytes(range(120)):
                continue  # a bit that says nothing
        assert opened("case.mha", head + damaged).end == "refused"


# ------------------------------------------------------------------------------------------------ TIFF, PNG, DICOM


def tiff(entries: list[tuple[int, int, int, int]], following: int = 0) -> bytes:
    """A TIFF file of one page directory; ``following`` is where the next is said to be."""
    raw = struct.pack("<2sHIH", b"II", 42, 8, len(entries))
    return raw + b"".join(struct.pack("<HHII", *entry) for entry in entries) + struct.pack("<I", following)


def page(width: int = 4, height: int = 4, samples: int = 1) -> list[tuple[int, int, int, int]]:
    return [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 200),
        (277, 3, 1, samples), (278, 4, 1, height), (279, 4, 1, 16),
    ]  # fmt: skip


@pytest.mark.parametrize("following", [8, 6, 2, 190])
def test_tiff_whose_pages_run_in_circles(opened: Open, following: int) -> None:
    assert opened("case.tif", tiff(page(), following).ljust(200, b"\0") + bytes(100)).end in ("taken", "refused")


@pytest.mark.parametrize(
    ("width", "height", "samples"), [(10**6, 10**6, 1), (2**32 - 1, 2**32 - 1, 1), (4, 4, 65535), (0, 0, 1), (4, 4, 0)]
)
def test_tiff_that_claims_what_it_does_not_hold(opened: Open, width: int, height: int, samples: int) -> None:
    content = tiff(page(width, height, samples)).ljust(200, b"\0") + bytes(16)
    assert opened("case.tif", content).end == "refused"


def png(width: int, height: int, depth: int = 8, data: bytes = b"") -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("width", "height"), [(10**6, 10**6), (2**31 - 1, 2**31 - 1), (0, 5), (100, 100)])
@pytest.mark.parametrize("job", ["image", "label"])
def test_png_that_claims_what_it_does_not_hold(opened: Open, width: int, height: int, job: str) -> None:
    assert opened("case.png", png(width, height), job).end == "refused"


def test_dicom_whose_elements_are_longer_than_the_file(opened: Open) -> None:
    meta = b"\x02\x00\x10\x00UI\x12\x001.2.840.10008.1.2\0"
    for element in (b"\x02\x00\x01\x00OB\0\0\xf0\xff\xff\xff", b"\x08\x00\x16\x00\xf0\xff\xff\xff"):
        ending = opened("case.dcm", bytes(128) + b"DICM" + meta + element + b"1.2")
        assert re.search(r"element at byte \d+ promises 4294967280 bytes, beyond its end", ending.says)
