"""Is the way from logits to the segmentation faster here than in nnU-Net, and in how much memory?

    python benchmarks/nnunet_export.py --setup
    python benchmarks/nnunet_export.py [--classes 15,60,105] [--rounds 5] [--many-rounds 2] [--scale 1]

Made logits of one case are resampled to the image's grid and decoded: 15 classes from 96×128×128 to 160×256×256
voxels, 60 and 105 classes from 150×150×200 to 300×300×400. The ways: ``nnunet`` is nnU-Net v2.8.1's
``convert_predicted_logits_to_segmentation_with_correct_shape`` with the resampling that its plans name,
``nnunet-torch`` the same with ``resample_torch_fornnunet``, which is faster; ``autoseg`` is
``autoseg.inference.export.segment``. All may use as many threads as there are cores. Every measurement is a process of
its own that holds the logits as its own sliding window leaves them (nnU-Net's in float16, ours in float32, of equal
values); they take turns (A B C A B C …). Memory is the peak of that process, with the logits and all packages; another
column is what is above the level before.

A way that would not fit into the memory that is free is left out; where nnU-Net's own does not fit, fewer classes are
taken. Each process may take no more than what was free. The guard: 99.9 % of the voxels agree with nnU-Net's.
"""

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import results
from made_arrays import make_logits, text
from processes import Server
from results import Guard, Judged, Question
from turns import Row, take_turns

WORKER = str(Path(__file__).with_name("export_worker.py"))
WAYS = ("nnunet", "nnunet-torch", "autoseg")
Shape = tuple[int, ...]
SMALL: tuple[Shape, Shape] = ((96, 128, 128), (160, 256, 256))
LARGE: tuple[Shape, Shape] = ((150, 150, 200), (300, 300, 400))
MANY = 50  # classes from which the large grid is taken, and fewer rounds
FEWER = (105, 60, 30)  # classes that are tried until nnU-Net's way fits
SPARE = 2**30  # bytes that are left to everything else
AGREE = 0.999


def needed(way: str, num_classes: int, shapes: tuple[Shape, Shape]) -> int:
    """Estimate the bytes of a way at its peak.

    nnU-Net: logits in float16 and again in float64, the result in float16. With torch: logits in float16 and float32,
    the result in float32. Both twice, since numpy copies to find the largest along the first axis. Ours: logits in
    float32.
    """
    before, after = (num_classes * int(np.prod(shape)) for shape in shapes)
    of = {"nnunet": 10 * before + 4 * after, "nnunet-torch": 6 * before + 8 * after, "autoseg": 4 * before}
    return of[way] + 24 * after // num_classes + SPARE // 2


def free_bytes() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))


def choose(asked: int, shapes: tuple[Shape, Shape]) -> tuple[int, list[str], str]:
    """Say with how many classes, and which ways; and in words what was left out."""
    free = free_bytes() - SPARE
    counts = [asked, *(count for count in FEWER if count < asked)]
    count = next((count for count in counts if needed("nnunet", count, shapes) <= free), counts[-1])
    ways = [way for way in WAYS if needed(way, count, shapes) <= free]
    missing = [f"{way} (about {needed(way, count, shapes) / 2**30:.0f} GiB)" for way in WAYS if way not in ways]
    notes = [f"{count} classes instead of {asked}"] if count < asked else []
    notes += [f"without {', '.join(missing)}"] if missing else []
    if "nnunet" not in ways:
        sys.exit(f"not even {count} classes fit into the {free / 2**30:.1f} GiB that are free")
    return count, ways, f"{' and '.join(notes)}: more than the {free / 2**30:.1f} GiB free" if notes else ""


def ask(options: argparse.Namespace) -> Iterator[Question]:
    for asked in options.classes:
        small, large = (
            tuple(round(edge * options.scale) for edge in shape) for shape in (LARGE if asked >= MANY else SMALL)
        )
        yield compare(asked, (small, large), options)


def compare(asked: int, shapes: tuple[Shape, Shape], options: argparse.Namespace) -> Question:
    count, ways, note = choose(asked, shapes)
    many = asked >= MANY
    with TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "logits.npy", make_logits(count, shapes[0]))
        runs = {way: lambda _, way=way: measure(way, folder, shapes[1], options) for way in ways}
        rows = take_turns(runs, options.many_rounds if many else options.rounds, warm=not many)
        guards = [guard(way, folder) for way in ways[1:]]
    title = f"export: {count} classes, {text(shapes[0])} → {text(shapes[1])}"
    judged = asked_of(count, *((10.0, 30.0) if many else (4.0, 10.0)), memory=many)
    note = " ".join([note, *(f"{item.what}: {item.found}." for item in guards[:-1])]).strip()
    return results.make_question(title, rows, judged, guards[-1:], note)


def asked_of(count: int, must: float, aim: float, *, memory: bool) -> Iterator[Judged]:
    """Time against both ways of nnU-Net; of many classes, memory against its own."""
    for against in WAYS[:-1]:
        yield Judged(title=f"export, {count} classes", figure="wall", against=against, must=must, aim=aim)
    if memory:
        yield Judged(title=f"export, {count} classes", figure="memory", against="nnunet", must=4.0, aim=20.0)


def measure(way: str, folder: Path, shape: Shape, options: argparse.Namespace) -> Row:
    python = sys.executable if way == "autoseg" else str(options.venv / "bin" / "python")
    threads, limit = len(os.sched_getaffinity(0)), free_bytes() - SPARE // 2
    command = [python, WORKER, way, str(folder), str(threads), str(limit), *map(str, shape)]
    server = Server(command, folder / f"{way}.log")
    before = server.tree.memory()
    try:
        row = server.ask(None)
    finally:
        server.close()
    return {**row, "above": row["memory"] - before}


def guard(way: str, folder: Path) -> Guard:
    agree = float((np.load(folder / f"{way}.npy") == np.load(folder / "nnunet.npy")).mean())
    return Guard(what=f"{way}: at least 99.9 % of the voxels agree", found=f"{agree:.4%}", holds=agree >= AGREE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    results.add_options(parser)
    parser.add_argument("--many-rounds", type=int, default=2, help=f"of {MANY} classes and more (%(default)s)")
    counts = lambda words: [int(word) for word in words.split(",")]  # noqa: E731
    parser.add_argument("--classes", type=counts, default=[15, 60, 105], help="15,60,105")
    parser.add_argument("--scale", type=float, default=1.0, help="of the edges, to try it out (%(default)s)")
    options = parser.parse_args()
    results.prepare_environment(options)
    results.run("nnunet_export", options, lambda: ask(options))


if __name__ == "__main__":
    main()
