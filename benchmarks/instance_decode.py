"""How long does decoding take, and does it find the objects, beside Cellpose's own?

    python benchmarks/instance_decode.py [--side 2048] [--objects 5000] [--rounds 3] [--threads 2] [--only NAME …]

One image of touching discs and ellipses made in code; its flow and boundary maps with noise on them, as a network's
have. Everything counts, from the maps to the ids:

* ``boundary``: ours, seeds and flood. ``affinity``: ours, with long-range offsets.
* ``flow``: ours, ways that meet go on as one. ``flow, no merging``: ours, every way followed to its end (the oracle).
* ``cellpose``: ``cellpose.dynamics.compute_masks`` of version 3 on the CPU, where the package is there: same flow, same
  steps, same thresholds. Left out, with a line that says so, where it is not.

They take turns (A B C A B C …) in one process. Printed are the least and the median of the seconds, the least of the
processor's seconds over all threads (on a busy machine the fairer number), how many of the objects are found with an
overlap (IoU) above 0.5, and how many there are. Objects of less than 15 pixels are dropped by all.
"""

import argparse
import importlib.metadata
import platform
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch

from autoseg.targets.decode_affinity import AffinityOptions, decode_affinity
from autoseg.targets.decode_flow import FlowOptions, decode_flow, gather, track
from autoseg.targets.decode_watershed import WatershedOptions, decode_boundary
from autoseg.targets.flow_encoding import encode_flow, flow_errors
from autoseg.targets.instance_encoding import encode_affinity, encode_boundary
from autoseg.targets.object_maps import drop_small, fill_holes, keep_objects, number_objects

NOISE = 0.2  # standard deviation on vectors of length 1 and on probabilities
OFFSETS = ((1, 0), (0, 1), (5, 0), (0, 5))


def make_objects(side: int, count: int, seed: int = 0) -> np.ndarray:
    """Lay ellipses on a shifted grid, so dense that most touch others."""
    generator = np.random.default_rng(seed)
    per_row = int(np.ceil(np.sqrt(count)))
    step = side / per_row
    ids = np.zeros((side, side), dtype=np.int32)
    for index in range(count):
        middle = (np.array(divmod(index, per_row)) + 0.5) * step + generator.uniform(-0.12, 0.12, 2) * step
        radii = generator.uniform(0.38, 0.56, 2) * step
        low = np.maximum((middle - radii.max() - 1).astype(int), 0)
        high = np.minimum((middle + radii.max() + 2).astype(int), side)
        y, x = np.mgrid[low[0] : high[0], low[1] : high[1]]
        inside = ((y - middle[0]) / radii[0]) ** 2 + ((x - middle[1]) / radii[1]) ** 2 < 1
        part = ids[low[0] : high[0], low[1] : high[1]]
        part[inside & (part == 0)] = index + 1
    return ids


def found(wanted: np.ndarray, ids: np.ndarray) -> float:
    """Share of the objects that overlap one of the others by an IoU above 0.5."""
    first, count = number_objects(wanted)
    second, other = number_objects(ids)
    pairs, shared = np.unique(first.ravel().astype(np.int64) * (other + 1) + second.ravel(), return_counts=True)
    a, b = pairs // (other + 1), pairs % (other + 1)
    union = np.bincount(first.ravel())[a] + np.bincount(second.ravel())[b] - shared
    return float(((shared / union > 0.5) & (a > 0) & (b > 0)).sum() / count)


def without_merging(flow: np.ndarray, foreground: np.ndarray) -> np.ndarray:
    options, mask = FlowOptions(), foreground > 0.5
    ids = np.zeros(mask.shape, dtype=np.int32)
    ids[mask] = gather(track(flow, mask, options.steps, merge=False), mask.shape, options.least_points)
    ids = keep_objects(ids, np.bincount(ids.ravel()) > 0)
    errors = flow_errors(ids, int(ids.max()), flow)
    return drop_small(fill_holes(keep_objects(ids, np.append(False, errors <= 0.4))), options.smallest)


def of_cellpose(flow: np.ndarray, foreground: np.ndarray) -> Callable[[], np.ndarray] | None:
    try:
        from cellpose.dynamics import compute_masks
    except ImportError as fault:
        print(f"cellpose is left out: {fault}", file=sys.stderr)
        return None
    logit = np.where(foreground > 0.5, 3.0, -3.0).astype(np.float32)

    def decode() -> np.ndarray:
        masks = compute_masks(5 * flow, logit, niter=200, device=torch.device("cpu"))
        return np.asarray(masks[0] if isinstance(masks, tuple) else masks)

    return decode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=2048)
    parser.add_argument("--objects", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="*", default=[])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    generator = np.random.default_rng(1)

    def noisy(values: np.ndarray) -> np.ndarray:
        return (values + generator.normal(0, NOISE, values.shape)).astype(np.float32)

    ids = make_objects(options.side, options.objects)
    foreground = (ids > 0).astype(np.float32)
    flow = noisy(encode_flow(ids))
    boundary = encode_boundary(ids)
    inner, rim = noisy(boundary == 1).clip(0, 1), noisy(boundary == 2).clip(0, 1)
    affinity = noisy(encode_affinity(ids, OFFSETS)[0]).clip(0, 1)
    ways: dict[str, Callable[[], np.ndarray] | None] = {
        "boundary": lambda: decode_boundary(inner, rim, WatershedOptions(smallest=15)),
        "affinity": lambda: decode_affinity(affinity, foreground, OFFSETS, AffinityOptions(smallest=15)),
        "flow": lambda: decode_flow(flow, foreground),
        "flow, no merging": lambda: without_merging(flow, foreground),
        "cellpose": of_cellpose(flow, foreground),
    }
    chosen = {name: way for name, way in ways.items() if way and (not options.only or name in options.only)}
    print(f"{options.side}² pixels, {len(np.unique(ids)) - 1} objects, {foreground.mean():.0%} foreground; ", end="")
    print(
        f"{options.threads} threads, {platform.processor() or platform.machine()}, torch {torch.__version__}, ", end=""
    )
    print(f"numpy {importlib.metadata.version('numpy')}, scipy {importlib.metadata.version('scipy')}")
    seconds: dict[str, list[float]] = {name: [] for name in chosen}
    processor: dict[str, list[float]] = {name: [] for name in chosen}
    share = {}
    for _ in range(options.rounds):
        for name, way in chosen.items():
            started, spent = time.perf_counter(), time.process_time()
            result = way()
            seconds[name].append(time.perf_counter() - started)
            processor[name].append(time.process_time() - spent)
            share[name] = f"{found(ids, result):8.4f} {int(result.max()):8d}"
    print(f"{'':18} {'least s':>8} {'median s':>8} {'cpu s':>8} {'found':>8} {'objects':>8}")
    for name, values in seconds.items():
        print(
            f"{name:18} {min(values):8.2f} {statistics.median(values):8.2f} {min(processor[name]):8.2f} {share[name]}"
        )


if __name__ == "__main__":
    main()
