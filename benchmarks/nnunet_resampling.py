"""Is resampling here faster than nnU-Net's own, on one thread, and is the result the same?

    python benchmarks/nnunet_resampling.py --setup
    python benchmarks/nnunet_resampling.py [--rounds 9] [--scale 1]

An image of 128×160×160 voxels is brought to 174×128×128 by splines of order 3, and a map of 14 labels from 64×128×128
to 80×160×160. The ways: ``nnunet`` is nnU-Net v2.8.1's ``resample_data_or_seg_to_shape``, which its plans name;
``nnunet-torch`` is its ``resample_torch_fornnunet``, which some of its planners name: for labels a fair rival, for
images linear and so another result; ``autoseg`` is what ``autoseg run`` does. Each has a process of its own on one
thread, which times itself; they take turns (A B C A B C …). Medians with the order statistics that hold them with at
least 93 % confidence; ratios are of rounds of the same turn.

The guard: the image differs from nnU-Net's by at most 1e-5 of its range, the labels agree in at least 99.9 % of the
voxels.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import results
from made_arrays import make_image, make_label, text
from processes import Server
from results import Guard, Judged, Question
from turns import take_turns

WORKER = str(Path(__file__).with_name("resampling_worker.py"))
WAYS = ("nnunet", "nnunet-torch", "autoseg")
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
IMAGE = ((128, 160, 160), (174, 128, 128))
LABEL, NUM_LABELS = ((64, 128, 128), (80, 160, 160)), 14
RANGE, AGREE = 1e-5, 0.999
BUT = {"image": "of the range: it is linear, so another result", "label": "of the voxels agree"}
FIGURES = ("wall", "cpu")  # a round may be shorter than what memory is sampled at


def scaled(shapes: tuple[tuple[int, ...], ...], scale: float) -> list[tuple[int, ...]]:
    return [tuple(max(4, round(edge * scale)) for edge in shape) for shape in shapes]


def ask(options: argparse.Namespace) -> Iterator[Question]:
    for kind, shapes in (("image", IMAGE), ("label", LABEL)):
        with TemporaryDirectory() as name:
            folder = Path(name)
            shape, new_shape = scaled(shapes, options.scale)
            array = make_image(shape) if kind == "image" else make_label(NUM_LABELS, shape)[None]
            np.save(folder / "given.npy", array)
            yield compare(kind, new_shape, folder, options)


def compare(kind: str, new_shape: Sequence[int], folder: Path, options: argparse.Namespace) -> Question:
    servers = {}
    for way in WAYS:
        python = sys.executable if way == "autoseg" else str(options.venv / "bin" / "python")
        command = [python, WORKER, way, kind, str(folder), *map(str, new_shape)]
        servers[way] = Server(command, folder / f"{way}.log", ONE_THREAD)
    ways = {way: lambda turn, server=server: server.ask(turn) for way, server in servers.items()}
    rows = take_turns(ways, options.rounds)
    for server in servers.values():
        server.close()
    shape = text(np.load(folder / "given.npy", mmap_mode="r").shape[1:])
    what = "image, order 3" if kind == "image" else f"label, {NUM_LABELS} values"
    must, aim = (20, 30) if kind == "image" else (4, 8)
    judged = [
        Judged(
            title=f"resample {'an image' if kind == 'image' else 'labels'}",
            figure="wall",
            against="nnunet",
            must=must,
            aim=aim,
        )
    ]
    if kind == "label":
        judged.append(Judged(title="resample labels", figure="wall", against="nnunet-torch"))
    kept = {way: [{figure: row[figure] for figure in FIGURES} for row in found] for way, found in rows.items()}
    guards = [guard(kind, way, folder) for way in WAYS[1:]]
    title = f"resampling: {what}, {shape} → {text(new_shape)}, one thread"
    return results.make_question(title, kept, judged, guards[-1:], f"nnunet-torch: {guards[0].found}, {BUT[kind]}")


def guard(kind: str, way: str, folder: Path) -> Guard:
    """Compare with nnU-Net's own result."""
    theirs, ours = (np.load(folder / f"{name}.npy").astype(np.float32) for name in ("nnunet", way))
    if kind == "image":
        off = float(np.abs(ours - theirs).max() / np.ptp(theirs))
        return Guard(what="off by at most 1e-5 of the range", found=f"{off:.1e}", holds=off <= RANGE)
    agree = float((ours == theirs).mean())
    return Guard(what="at least 99.9 % of the voxels agree", found=f"{agree:.4%}", holds=agree >= AGREE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    results.add_options(parser, rounds=9)
    parser.add_argument("--scale", type=float, default=1.0, help="of the edges, to try it out (%(default)s)")
    options = parser.parse_args()
    results.prepare_environment(options)
    results.run("nnunet_resampling", options, lambda: ask(options))


if __name__ == "__main__":
    main()
