"""Are our surface metrics faster than those people use now, and equal to them?

    python benchmarks/surface_metrics.py [--rounds 1] [--threads 1] [--only NAME …] [--quick]

HD95 and NSD (tolerance 2 mm) of 13 organ-like classes in a volume of 512 × 512 × 300 voxels, 0.8 × 0.8 × 1.5 mm, made
in code; the prediction has the same organs with a border that wanders by some voxels, one of them half missing, and one
piece where nothing is. Everything counts, from the two label maps to the numbers:

* ``ours``: one pass finds the classes' boxes, then class by class.
* ``surface-distance`` (DeepMind): a mask per class of the whole volume; the package crops by itself.
* ``monai``: ``compute_hausdorff_distance`` and ``compute_surface_dice(use_subvoxels=True)``, class by class (all
  classes one-hot at once would need gigabytes more); it crops by itself as well.

Every measurement has a process of its own, so that peaks of memory do not mix; they take turns (A B C A B C …). Printed
are medians of wall time, of processor time, of the peak of memory above the level with both maps loaded, ratios to
ours, and how far the numbers differ. MONAI measures HD95 between border voxels, so its HD95 differs by definition.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

SHAPE, QUICK_SHAPE = (300, 512, 512), (75, 128, 128)
SPACING_MM = (1.5, 0.8, 0.8)
TOLERANCE_MM = 2.0
# middle and radius of each organ as parts of the volume (z, y, x): about where and how large they are in an abdomen
ORGANS = (
    ((0.62, 0.45, 0.30), (0.20, 0.21, 0.19)),  # liver
    ((0.62, 0.58, 0.75), (0.10, 0.09, 0.07)),  # spleen
    ((0.45, 0.62, 0.33), (0.11, 0.06, 0.06)),  # right kidney
    ((0.45, 0.62, 0.67), (0.11, 0.06, 0.06)),  # left kidney
    ((0.60, 0.38, 0.60), (0.13, 0.10, 0.12)),  # stomach
    ((0.50, 0.40, 0.40), (0.05, 0.04, 0.03)),  # gallbladder
    ((0.52, 0.48, 0.53), (0.04, 0.04, 0.12)),  # pancreas
    ((0.50, 0.56, 0.52), (0.48, 0.03, 0.03)),  # aorta
    ((0.50, 0.54, 0.45), (0.40, 0.03, 0.03)),  # vena cava
    ((0.80, 0.55, 0.50), (0.15, 0.02, 0.02)),  # oesophagus
    ((0.57, 0.57, 0.42), (0.03, 0.02, 0.02)),  # right adrenal
    ((0.57, 0.57, 0.60), (0.03, 0.02, 0.02)),  # left adrenal
    ((0.42, 0.45, 0.45), (0.08, 0.05, 0.06)),  # duodenum
)
CLASSES = tuple(range(1, len(ORGANS) + 1))
Scores = list[tuple[float, float]]


def wandering(rng: np.random.Generator, shape: Sequence[int], grain: int) -> np.ndarray:
    """Smooth random numbers, about normal, that change over ``grain`` voxels."""
    from scipy import ndimage

    small = rng.normal(size=[size // grain + 2 for size in shape]).astype(np.float32)
    zoomed = ndimage.zoom(small, grain, order=1)
    return zoomed[tuple(slice(size) for size in shape)]


def make_maps(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Make label and prediction, uint8."""
    rng = np.random.default_rng(0)
    label, prediction = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    for index, (middle, radius) in zip(CLASSES, ORGANS, strict=True):
        centre, size = np.array(middle) * shape, np.array(radius) * shape
        low = np.maximum(np.floor(centre - 1.5 * size - 3), 0).astype(int)
        high = np.minimum(np.ceil(centre + 1.5 * size + 3), shape).astype(int)
        axes = np.ogrid[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
        depth = 1 - np.sqrt(sum(((axis - c) / s) ** 2 for axis, c, s in zip(axes, centre, size, strict=True)))
        depth = depth.astype(np.float32) + 0.1 * wandering(rng, depth.shape, 24)
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        label[box][depth > 0] = index
        voxels = wandering(rng, depth.shape, 12) * 2.5  # how far the border wanders
        prediction[box][depth + voxels / size.mean() > 0] = index
    torn = prediction[: shape[0] // 2] == CLASSES[3]  # the lower part of one organ is missing …
    prediction[: shape[0] // 2][torn] = 0
    prediction[5 : shape[0] // 20 + 5, 5 : shape[1] // 20 + 5, 5:30] = CLASSES[1]  # … and another has a piece far off
    return label, prediction


def ours(label: np.ndarray, prediction: np.ndarray, threads: int) -> Scores:
    from concurrent.futures import ThreadPoolExecutor

    from autoseg.evaluation.metric_options import MetricOptions
    from autoseg.evaluation.overlap import Structure
    from autoseg.evaluation.pairs import Pair, make_pairs
    from autoseg.evaluation.surface import hd95, nsd

    options = MetricOptions(tolerance_mm=TOLERANCE_MM)
    structures = [Structure(name=str(index), classes=(index,)) for index in CLASSES]

    def measure(pair: Pair) -> tuple[float, float]:
        return float(hd95(pair, options) or 0), float(nsd(pair, options) or 0)

    pairs = make_pairs(label, prediction, structures, SPACING_MM)
    if threads == 1:
        return [measure(pair) for pair in pairs]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(measure, pairs))


def deepmind(label: np.ndarray, prediction: np.ndarray, threads: int) -> Scores:
    import surface_distance

    del threads  # it has one
    scores = []
    for index in CLASSES:
        found = surface_distance.compute_surface_distances(label == index, prediction == index, SPACING_MM)
        scores.append(
            (
                float(surface_distance.compute_robust_hausdorff(found, 95)),
                float(surface_distance.compute_surface_dice_at_tolerance(found, TOLERANCE_MM)),
            )
        )
    return scores


def monai(label: np.ndarray, prediction: np.ndarray, threads: int) -> Scores:
    import torch
    from monai.metrics import compute_hausdorff_distance, compute_surface_dice

    torch.set_num_threads(threads)
    scores = []
    for index in CLASSES:
        one, other = (torch.from_numpy(item == index)[None, None] for item in (prediction, label))
        hausdorff = compute_hausdorff_distance(one, other, True, percentile=95, spacing=SPACING_MM)
        dice = compute_surface_dice(one, other, [TOLERANCE_MM], True, spacing=SPACING_MM, use_subvoxels=True)
        scores.append((float(hausdorff), float(dice)))
    return scores


WAYS: dict[str, Callable[[np.ndarray, np.ndarray, int], Scores]] = {
    "ours": ours,
    "surface-distance": deepmind,
    "monai": monai,
}


def peak_bytes(*, forget: bool) -> int:
    """Give the most memory this process ever held, or forget it and give what it holds (Linux)."""
    if forget:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def measure_here(way: str, folder: Path, threads: int) -> None:
    """Measure once, in this process, and print it as JSON."""
    label, prediction = (np.load(folder / f"{name}.npy") for name in ("label", "prediction"))
    small = np.resize(np.arange(len(CLASSES) + 1, dtype=np.uint8), (6, 6, 6))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        WAYS[way](small, small, threads)  # imports, tables
        before, wall, cpu = peak_bytes(forget=True), time.perf_counter(), time.process_time()
        scores = WAYS[way](label, prediction, threads)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = peak_bytes(forget=False) - before
    print(json.dumps({"wall": wall, "cpu": cpu, "mib": peak / 2**20, "scores": scores}))


def measure_apart(way: str, folder: Path, threads: int) -> dict:
    """Measure once, in a process of its own."""
    command = [sys.executable, __file__, "--measure", way, "--folder", str(folder), "--threads", str(threads)]
    limited = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | limited)
    return json.loads(done.stdout.splitlines()[-1])


def compare(rounds: int, threads: int, names: Sequence[str], shape: tuple[int, ...]) -> None:
    with TemporaryDirectory() as place:
        folder = Path(place)
        for name, array in zip(("label", "prediction"), make_maps(shape), strict=True):
            np.save(folder / f"{name}.npy", array)
        measured: dict[str, list[dict]] = {name: [] for name in names}
        for _ in range(rounds):
            for name in names:
                measured[name].append(measure_apart(name, folder, threads))
    medians = {
        name: {key: statistics.median(item[key] for item in items) for key in ("wall", "cpu", "mib")}
        for name, items in measured.items()
    }
    print("| way | wall s | CPU s | peak MiB | wall / ours | CPU / ours | HD95 differs by | NSD differs by |")
    print("|---|---|---|---|---|---|---|---|")
    own, own_scores = medians["ours"], np.array(measured["ours"][0]["scores"])
    for name, row in medians.items():
        apart = np.abs(np.array(measured[name][0]["scores"]) - own_scores).max(axis=0)
        ratios = f"{row['wall'] / own['wall']:.1f} | {row['cpu'] / own['cpu']:.1f}"
        numbers = f"{row['wall']:.2f} | {row['cpu']:.2f} | {row['mib']:.0f} | {ratios}"
        print(f"| {name} | {numbers} | {apart[0]:.1e} mm | {apart[1]:.1e} |", flush=True)
    print("\nclass: HD95 mm, NSD of ours: ", end="")
    print(", ".join(f"{i}: {a:.2f} {b:.3f}" for i, (a, b) in zip(CLASSES, own_scores, strict=True)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=tuple(WAYS), default=list(WAYS), help="beside ours")
    parser.add_argument("--quick", action="store_true", help="a volume of a sixty-fourth")
    parser.add_argument("--measure", choices=tuple(WAYS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure_here(options.measure, options.folder, options.threads)
        return
    shape = QUICK_SHAPE if options.quick else SHAPE
    text = "×".join(map(str, shape))
    print(f"{platform.machine()}, numpy {np.__version__}, {text}, {options.threads} threads, {options.rounds} rounds\n")
    compare(options.rounds, options.threads, list(dict.fromkeys(["ours", *options.only])), shape)


if __name__ == "__main__":
    main()
