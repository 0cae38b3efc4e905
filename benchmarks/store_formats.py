"""How should preprocessed images lie on the disk: plain, halved, or compressed?

    python benchmarks/store_formats.py RUN/store/CONFIGURATION [--patch 128,128,128] [--cases 4] [--rounds 5]

The images of a store are written again in each way into a temporary folder, then boxes of a patch's size are read from
random places, as training does. The ways:

* ``float32``: a plain ``.npy``, memory-mapped; what autoseg does.
* ``float16``: the same with half the bytes, brought back to float32 where it is read. It is not exact.
* ``blosc2``: compressed in chunks of a patch and blocks that fit the cache, read with one thread (nnU-Net v2 keeps its
  cases so; blosc2 comes with acvl-utils).

They take turns; a first round does not count. Files are in the system's cache, as where memory holds the store. Printed
are the bytes, the processor time to write a megabyte of voxels (float32), and to read a patch.
"""

import argparse
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import blosc2
import numpy as np
from turns import Row, Rows, decimals, show, take_turns

BLOCK = 32  # voxels along each edge of a block: 128 kB, within a second-level cache
PATCHES = 10  # of each case in a round


def write_plain(path: Path, image: np.ndarray, kind: type) -> int:
    np.save(path, image.astype(kind))
    return path.with_suffix(".npy").stat().st_size


def read_plain(path: Path, box: tuple[slice, ...]) -> np.ndarray:
    return np.asarray(np.load(path.with_suffix(".npy"), mmap_mode="r")[box], dtype=np.float32)


def write_blosc2(path: Path, image: np.ndarray, patch: Sequence[int]) -> int:
    file = path.with_suffix(".b2nd")
    file.unlink(missing_ok=True)
    chunks = tuple(min(size, edge) for size, edge in zip(image.shape, (1, *patch), strict=True))
    blocks = tuple(min(size, BLOCK) for size in chunks)
    settings = {"codec": blosc2.Codec.ZSTD, "clevel": 5, "nthreads": 1}
    blosc2.asarray(np.ascontiguousarray(image), chunks=chunks, blocks=blocks, urlpath=str(file), cparams=settings)
    return file.stat().st_size


def read_blosc2(path: Path, box: tuple[slice, ...]) -> np.ndarray:
    opened = blosc2.open(str(path.with_suffix(".b2nd")), mode="r", dparams={"nthreads": 1}, mmap_mode="r")
    return np.asarray(opened[box])


def boxes(shape: Sequence[int], patch: Sequence[int], rng: np.random.Generator) -> Iterator[tuple[slice, ...]]:
    for _ in range(PATCHES):
        starts = [int(rng.integers(max(size - edge, 0) + 1)) for size, edge in zip(shape[1:], patch, strict=True)]
        yield (slice(None), *(slice(start, start + edge) for start, edge in zip(starts, patch, strict=True)))


def measure(
    images: Sequence[Path],
    folder: Path,
    patch: Sequence[int],
    write: Callable[[Path, np.ndarray], int],
    read: Callable[[Path, tuple[slice, ...]], np.ndarray],
    turn: int,
) -> Row:
    written = read_s = 0.0
    num_bytes = voxels = 0
    rng = np.random.default_rng(max(turn, 0))
    for file in images:
        image = np.load(file)
        path = folder / file.name.removesuffix(".image.npy")
        began = time.process_time()
        num_bytes += write(path, image)
        written += time.process_time() - began
        voxels += image.size
        began = time.process_time()
        for box in boxes(image.shape, patch, rng):
            read(path, box).sum()
        read_s += time.process_time() - began
    mb = 4 * voxels / 1e6
    return {"write ms/MB": 1e3 * written / mb, "read ms": 1e3 * read_s / len(images) / PATCHES, "MB": num_bytes / 1e6}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--patch", default="128,128,128", help="z,y,x (%(default)s)")
    parser.add_argument("--cases", type=int, default=4, help="the first so many (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    patch = [int(edge) for edge in options.patch.split(",")]
    images = sorted(options.store.glob("*.image.npy"))[: options.cases]
    if not images:
        parser.error(f"{options.store} holds no *.image.npy; make it with `autoseg run DATASET --until preprocess`")
    plain = {kind.__name__: kind for kind in (np.float32, np.float16)}
    with TemporaryDirectory() as name:
        folders = {way: Path(name) / way for way in (*plain, "blosc2")}
        for folder in folders.values():
            folder.mkdir()
        ways: dict[str, Callable[[int], Row]] = {
            way: lambda turn, way=way, kind=kind: measure(
                images, folders[way], patch, lambda path, image: write_plain(path, image, kind), read_plain, turn
            )
            for way, kind in plain.items()
        }
        ways["blosc2"] = lambda turn: measure(
            images, folders["blosc2"], patch, lambda path, image: write_blosc2(path, image, patch), read_blosc2, turn
        )
        rows: Rows = take_turns(ways, options.rounds)
    mb = sum(math.prod(np.load(file, mmap_mode="r").shape) for file in images) * 4 / 1e6
    print(f"{len(images)} cases, {mb:.0f} MB as float32, patch {options.patch}; medians [at least 93 % confidence]")
    figures = list(rows["float32"][0])
    print(f"\n| | {' | '.join(figures)} |\n{'|---' * (len(figures) + 1)}|")
    for way, found in rows.items():
        columns = ([row[figure] for row in found] for figure in figures)
        print(f"| {way} | {' | '.join(show(values, decimals(max(values))) for values in columns)} |")


if __name__ == "__main__":
    main()
