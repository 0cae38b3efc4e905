"""Is our resampling faster than what nnU-Net v2 uses, and equal to it?

    python benchmarks/resampling.py [--rounds 3] [--quick]

Both ways run in turns (A B A B …) in one process, on one thread, on the same arrays; a row gives the medians of the
processor time, their ratio, and how far the results differ. Images and logits against ``skimage.transform.resize`` in
float64, labels against batchgenerators' ``resize_segmentation``, the crop's mask against scipy's ``binary_fill_holes``.
"""

import argparse
import itertools
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from batchgenerators.augmentations.utils import resize_segmentation
from made_arrays import make_image, make_label, text
from scipy import ndimage
from skimage.transform import resize

from autoseg.preprocessing.cropping import nonzero_mask
from autoseg.preprocessing.label_resampling import resample_label
from autoseg.preprocessing.resampling import LogitsResampler, resample_image
from planners.plan import Resampling

SPACING = (1.0, 1.0, 1.0)
SLAB = 8  # slices of the result that are computed together
Way = Callable[[], np.ndarray]


@dataclass(frozen=True)
class Question:
    """One comparison: what, ours, theirs, and how to say in which way the results differ."""

    name: str
    ours: Way
    theirs: Way
    differ: Callable[[np.ndarray, np.ndarray], str]


def in_turns(ours: Way, theirs: Way, rounds: int) -> tuple[float, float]:
    """Give the medians of the seconds of processor time, after one round to warm up."""
    spent: dict[int, list[float]] = {0: [], 1: []}
    for turn in range(rounds + 1):
        for index, way in enumerate((ours, theirs)):
            start = time.process_time()
            way()
            if turn:
                spent[index].append(time.process_time() - start)
    return statistics.median(spent[0]), statistics.median(spent[1])


def of_range(ours: np.ndarray, theirs: np.ndarray) -> str:
    return f"at most {np.abs(ours - theirs).max() / np.ptp(theirs):.1e} of the range"


def voxels(ours: np.ndarray, theirs: np.ndarray) -> str:
    return f"{int((ours != theirs).sum())} of {theirs.size} voxels"


def image_question(shape: Sequence[int], new_shape: Sequence[int]) -> Question:
    image = make_image(shape)
    return Question(
        f"image, order 3, {text(shape)} → {text(new_shape)}",
        lambda: resample_image(image, new_shape, SPACING, SPACING, Resampling())[0],
        lambda: resize(image[0].astype(float), new_shape, 3, mode="edge", anti_aliasing=False),
        of_range,
    )


def label_question(num_labels: int, shape: Sequence[int], new_shape: Sequence[int]) -> Question:
    label = make_label(num_labels, shape)
    return Question(
        f"label, {num_labels} values, {text(shape)} → {text(new_shape)}",
        lambda: resample_label(label, new_shape, SPACING, SPACING, Resampling()),
        lambda: resize_segmentation(label, new_shape, 1),
        voxels,
    )


def logits_question(num_outputs: int, shape: Sequence[int], new_shape: Sequence[int]) -> Question:
    rng = np.random.default_rng(2)
    logits = np.stack(
        [ndimage.gaussian_filter(rng.normal(size=shape).astype(np.float32), 3) for _ in range(num_outputs)]
    )

    def ours() -> np.ndarray:
        resampler = LogitsResampler(logits, new_shape, SPACING, SPACING, Resampling())
        bounds = itertools.pairwise([*range(0, new_shape[0], SLAB), new_shape[0]])
        return np.concatenate([resampler.slab(*part).argmax(axis=0) for part in bounds])

    def theirs() -> np.ndarray:
        whole = [resize(item.astype(float), new_shape, 1, mode="edge", anti_aliasing=False) for item in logits]
        return np.stack(whole).astype(np.float32).argmax(axis=0)

    return Question(f"logits + argmax, {num_outputs} outputs, {text(shape)} → {text(new_shape)}", ours, theirs, voxels)


def mask_question(shape: Sequence[int]) -> Question:
    middle = np.array(shape)[:, None, None, None] / 2
    distance = np.abs((np.indices(shape, dtype=np.float32) - middle) / middle).max(axis=0)
    image = np.where((distance < 0.7) & (distance > 0.1), 1, 0).astype(np.float32)[None]
    return Question(
        f"nonzero mask with a hole, {text(shape)}",
        lambda: nonzero_mask(image),
        lambda: ndimage.binary_fill_holes(image[0] != 0),
        voxels,
    )


def questions(quick: bool) -> list[Question]:
    chosen = [
        image_question((36, 50, 35), (45, 40, 39)),
        label_question(3, (36, 50, 35), (45, 40, 39)),
        label_question(2, (64, 128, 128), (80, 160, 160)),
        label_question(14, (64, 128, 128), (80, 160, 160)),
        mask_question((64, 128, 128)),
    ]
    if not quick:
        chosen += [
            image_question((128, 160, 160), (174, 128, 128)),
            image_question((128, 512, 512), (160, 390, 390)),
            image_question((1, 2000, 2000), (1, 1500, 2400)),
            logits_question(15, (48, 128, 128), (60, 256, 256)),
        ]
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="small arrays only")
    options = parser.parse_args()
    print(f"{platform.machine()}, numpy {np.__version__}, one thread, {options.rounds} rounds\n")
    print("| what | ours, CPU ms | theirs, CPU ms | ratio | difference |\n|---|---|---|---|---|")
    for question in questions(options.quick):
        difference = question.differ(question.ours(), question.theirs())
        ours, theirs = in_turns(question.ours, question.theirs, options.rounds)
        row = f"{ours * 1000:.1f} | {theirs * 1000:.0f} | {theirs / ours:.1f}"
        print(f"| {question.name} | {row} | {difference} |", flush=True)


if __name__ == "__main__":
    main()
