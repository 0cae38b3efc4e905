"""What do the presets of ``--speed`` save, and what do they cost in Dice?

    python benchmarks/speed_presets.py MODEL IMAGES LABELS [--fold 0] [--cases 20] [--rounds 2] [--ways A,B]

MODEL is any model that ``autoseg predict`` takes, IMAGES a folder of its images, LABELS one of labels with the same
names. It must not have seen the cases: with ``--fold`` only those are taken that this fold validates when all labelled
cases are split as nnU-Net does. The ways are presets, or MIRROR/STEP/FOLDS such as ``none/0.75/1`` and
``all/1/all``, to choose presets by. Every case is segmented in each way in turn (A B C A B C …), from its file to an
array in memory. The table holds medians of seconds per case, the mean of processor seconds, the mean over cases of the
mean Dice of the classes (or regions), and its difference to the first way, paired by case, with a 95 % interval.

Where images are hardly larger than the patch there is no overlap to save. ``--patch 16,16,16`` looks through smaller
windows than the network was trained with: not what anybody does, but overlap then matters more than it ever should.
"""

import argparse
import os
import statistics
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from autoseg.data.io import image_stem, open_image
from autoseg.data.splits import make_splits
from autoseg.evaluation.metrics import Counts, dice
from autoseg.evaluation.statistics import paired_difference
from autoseg.inference.cases import find_cases
from autoseg.inference.folder import list_segmentations
from autoseg.inference.predictor import Predictor
from autoseg.inference.speed import SPEEDS, Speed
from planners.labels import Labels


def way_of(text: str) -> str:
    """Give the name of a preset; one that is written out is put into the table first."""
    if "/" in text:
        mirror, step, folds = text.split("/")
        SPEEDS[text] = Speed(
            name=text,
            mirror={"all": True, "none": False}[mirror],
            step=float(step),
            max_folds=None if folds == "all" else int(folds),
            because="to be measured",
        )
    return text


def mean_dice(found: np.ndarray, label: np.ndarray, labels: Labels) -> float | None:
    """Average over classes, or regions where there are any; one that neither has does not count."""
    if labels.regions:
        structures = [region.values for region in labels.regions]
    else:
        structures = [(item.value,) for item in labels.classes[1:]]
    scores = []
    for values in structures:
        ours, theirs = np.isin(found, values), np.isin(label, values)
        scores.append(dice(Counts(int((ours & theirs).sum()), int(ours.sum()), int(theirs.sum()), 1.0)))
    present = [score for score in scores if score is not None]
    return statistics.mean(present) if present else None


def look_through(predictor: Predictor, patch: tuple[int, ...]) -> None:
    """Give the networks of an opened model smaller windows."""
    for step in predictor.chain.steps:
        small = [(replace(own, patch_size=patch, output_size=patch), networks) for own, networks in step.groups]
        step.groups[:] = small


def measure(options: argparse.Namespace) -> None:
    predictors = {way: Predictor(options.model, device=options.device, speed=way) for way in options.ways}
    for predictor in predictors.values():
        if options.patch:
            look_through(predictor, options.patch)
    plan = predictors[options.ways[0]].plan
    labels = {image_stem(path): path for path in list_segmentations(options.labels)}
    found, _, _ = find_cases(options.images, [channel.name for channel in plan.channels])
    cases = {case.id: case for case in found if case.id in labels}
    if options.fold is not None:
        cases = {name: cases[name] for name in make_splits(sorted(cases)).folds[options.fold].validation}
    cases = dict(list(cases.items())[: options.cases])
    print(f"{len(cases)} cases, {options.rounds} rounds, {len(os.sched_getaffinity(0))} cores, ", end="")
    print(f"load {os.getloadavg()[0]:.1f}", flush=True)
    wall: dict[str, list[float]] = {way: [] for way in options.ways}
    cpu: dict[str, list[float]] = {way: [] for way in options.ways}
    scores: dict[str, list[float | None]] = {way: [] for way in options.ways}
    for turn in range(-1, options.rounds):
        for name in list(cases)[: 1 if turn < 0 else None]:  # the first only warms up
            label = open_image([labels[name]]).read()[0]
            for way, predictor in predictors.items():
                start, spent = time.perf_counter(), time.process_time()
                segmentation = predictor.predict(open_image(cases[name].images))
                if turn >= 0:
                    wall[way].append(time.perf_counter() - start)
                    cpu[way].append(time.process_time() - spent)
                if turn == 0:
                    scores[way].append(mean_dice(segmentation, label, plan.labels))
    first = options.ways[0]
    print("| way | s per case | CPU s | CPU × | mean Dice | difference, 95 % |\n|---|---|---|---|---|---|")
    for way in options.ways:
        ratio = statistics.mean(cpu[first]) / statistics.mean(cpu[way])
        gap = paired_difference(scores[way], scores[first])
        told = "" if way == first or gap is None else f"{gap.mean:+.5f} ({gap.low:+.5f} to {gap.high:+.5f})"
        mean = statistics.mean(score for score in scores[way] if score is not None)
        figures = f"{statistics.median(wall[way]):.3f} | {statistics.mean(cpu[way]):.3f} | {ratio:.2f}"
        print(f"| {SPEEDS[way].text} | {figures} | {mean:.5f} | {told} |")
    print(f"load at the end {os.getloadavg()[0]:.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("labels", type=Path)
    parser.add_argument("--fold", type=int, help="take only the cases that this fold validates")
    parser.add_argument("--cases", type=int, help="take as many (default: all)")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--ways", type=lambda text: text.split(","), default=list(SPEEDS))
    parser.add_argument("--patch", type=lambda text: tuple(map(int, text.split(","))), help="smaller windows: z,y,x")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    options.ways = [way_of(text) for text in options.ways]
    measure(options)


if __name__ == "__main__":
    main()
