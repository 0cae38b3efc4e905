"""Is our inference cheaper than the straightforward one, in time and in memory?

    python benchmarks/inference.py [--rounds 3] [--threads 2] [--only NAME]

Two questions, each as a network-sized job made in code:

* ``window``: a preprocessed image through a U-Net with mirroring. Straightforward, as nnU-Net v2 does it: one window at
  a time, mirrored forms one after the other, float32, torch's own operators. Ours: as ``autoseg predict`` does it, with
  the device's settings as the probe chooses them; and once more in float32.
* ``export``: logits back to an image of more voxels, and decoded. Straightforward, as nnU-Net v2 does it: every class
  at full resolution by ``skimage.transform.resize`` in float64, stacked in float16 (which makes ties), argmax. Ours:
  slab by slab.

Every measurement has a process of its own, so that peaks of memory do not mix; they take turns (A B A B …). Printed are
medians of wall time, of processor time and of the peak of memory above the level before, and in how many voxels the
segmentations differ.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from made_arrays import smooth
from made_plans import make_configuration, make_part, make_plan
from process_tree import Tree

from autoseg import compute as computing
from autoseg.inference.export import segment
from autoseg.inference.sliding_window import predict_logits
from autoseg.inference.windows import gaussian, lay_windows, mirrored_forms
from autoseg.networks import build_network
from autoseg.targets import make_target
from planners.fingerprint import Shape
from planners.plan import Configuration

# name: (patch, features of the first stage, stages, shape of the image)
WINDOWS: dict[str, tuple[tuple[int, ...], int, int, Shape]] = {
    "3d 40x56x40 (hippocampus)": ((40, 56, 40), 32, 4, (40, 56, 60)),
    "3d 64x64x64, half the features": ((64, 64, 64), 16, 4, (64, 64, 96)),
    "2d 128x128, 6 slices": ((128, 128), 32, 5, (6, 128, 192)),
}
# name: (classes, shape of the logits, shape of the image)
EXPORTS: dict[str, tuple[int, Shape, Shape]] = {
    "3 classes, 80x96x96 to 160x192x192": (3, (80, 96, 96), (160, 192, 192)),
    "15 classes, 96x128x128 to 160x256x256": (15, (96, 128, 128), (160, 256, 256)),
    "60 classes, 64x80x80 to 128x160x160": (60, (64, 80, 80), (128, 160, 160)),
}


def plain_window(
    network: torch.nn.Module, image: torch.Tensor, configuration: Configuration, threads: int
) -> torch.Tensor:
    """Window by window, mirrored form by mirrored form."""
    torch.set_num_threads(threads)
    layout = lay_windows(image.shape[1:], configuration)
    flat = configuration.dimensions == 2
    padded, weight = layout.pad(image), gaussian(layout.output)
    total = torch.zeros((configuration.target.num_outputs, *layout.extent))
    weights = torch.zeros(layout.extent)
    forms = mirrored_forms(configuration)
    with torch.inference_mode():
        for start in layout.windows:
            box = tuple(slice(low, low + edge) for low, edge in zip(start, layout.patch, strict=True))
            window = padded[(slice(None), *box)]
            window = window[None, :, 0] if flat else window[None]
            answer = torch.zeros(())
            for form in forms:
                axes = [axis + 2 for axis in form]
                answer = answer + network(window.flip(axes))[0].flip(axes)
            answer = answer[0] / len(forms)
            total[(slice(None), *box)] += (answer[:, None] if flat else answer) * weight
            weights[box] += weight
    return (total / weights)[(slice(None), *layout.crop)]


def prepare_window(name: str, way: str, threads: int) -> Callable[[], np.ndarray]:
    patch, features, num_stages, shape = WINDOWS[name]
    configuration = make_configuration(patch, features, num_stages, 3)
    image = torch.from_numpy(smooth((1, *shape), 1))
    network = build_network(configuration.architecture, 1, 3, seed=0).eval()
    if way == "plain":
        return lambda: plain_window(network, image, configuration, threads).numpy().argmax(0)
    chosen = computing.choose("cpu", "auto" if way == "ours" else "fp32")
    computing.prepare(chosen)
    torch.set_num_threads(threads)
    network = computing.place(network, chosen)
    return lambda: predict_logits([network], image, configuration, chosen).numpy().argmax(0)


def prepare_export(name: str, way: str, threads: int) -> Callable[[], np.ndarray]:
    from skimage.transform import resize

    num_outputs, small, large = EXPORTS[name]
    configuration = make_configuration((64, 64, 64), 16, 4, num_outputs)
    plan = make_plan(configuration)
    logits = smooth((num_outputs, *small), 2)
    part = make_part(logits, large)
    target = make_target(configuration.target, plan.labels, configuration.training)
    if way == "ours":
        return lambda: segment([part], target, plan, threads=threads)

    def plain() -> np.ndarray:
        full = [resize(item.astype(float), large, order=1, mode="edge", anti_aliasing=False) for item in logits]
        return np.stack(full).astype(np.float16).argmax(0)

    return plain


Prepare = Callable[[str, str, int], Callable[[], np.ndarray]]
QUESTIONS: dict[str, tuple[list[str], Prepare, tuple[str, ...]]] = {
    "window": (list(WINDOWS), prepare_window, ("plain", "ours fp32", "ours")),
    "export": (list(EXPORTS), prepare_export, ("plain", "ours")),
}


def measure(question: str, name: str, way: str, threads: int, result_file: Path) -> None:
    """Do one job in this process and print what it took as JSON."""
    job = QUESTIONS[question][1](name, way, threads)
    tree = Tree(os.getpid())
    before = tree.memory()
    with tree.watch(every=0.003):
        spent, start = os.times(), time.monotonic()
        result = job()
        wall, after = time.monotonic() - start, os.times()
    np.save(result_file, result.astype(np.uint8))
    cpu = after.user + after.system - spent.user - spent.system
    print(json.dumps({"wall": wall, "cpu": cpu, "memory": tree.peak - before}))


def compare(question: str, name: str, rounds: int, threads: int) -> None:
    ways = QUESTIONS[question][2]
    found: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    with TemporaryDirectory() as folder:
        for _, way in itertools.product(range(rounds), ways):
            file = Path(folder) / f"{way}.npy"
            command = [sys.executable, __file__, "--measure", question, name, way, str(file), "--threads", str(threads)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[way].append(json.loads(done.stdout.splitlines()[-1]))
        reference = np.load(Path(folder) / "plain.npy")
        for way in ways:
            median = {key: statistics.median(row[key] for row in found[way]) for key in ("wall", "cpu", "memory")}
            base = {key: statistics.median(row[key] for row in found["plain"]) for key in median}
            ratios = "  ".join(f"{base[key] / max(median[key], 0.01):5.1f}×" for key in median)
            other = (np.load(Path(folder) / f"{way}.npy") != reference).mean()
            print(
                f"  {question:7} {name:38} {way:10} {median['wall']:7.2f} s wall {median['cpu']:7.2f} s cpu "
                f"{median['memory']:7.0f} MB   {ratios}   differs {other:.1e}",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--only", default="", help="part of a name")
    parser.add_argument("--measure", nargs=4, metavar=("QUESTION", "NAME", "WAY", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        question, name, way, file = options.measure
        measure(question, name, way, options.threads, Path(file))
        return
    print(f"torch {torch.__version__}, {options.threads} threads, medians of {options.rounds}; ratios are plain / ours")
    for question, (names, _, _) in QUESTIONS.items():
        for name in names:
            if options.only in f"{question} {name}":
                compare(question, name, options.rounds, options.threads)


if __name__ == "__main__":
    main()
