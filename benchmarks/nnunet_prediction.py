"""Is a model that nnU-Net v2 trained cheaper to predict with here than with nnU-Net itself, and is the answer the same?

    python benchmarks/nnunet_prediction.py --setup
    python benchmarks/nnunet_prediction.py MODEL_FOLDER IMAGES [LABELS] [--cases 6] [--rounds 5] [--ways A,B]

Same weights, same images, mirroring, as many threads as this process may use cores, file to file. The ways:

* ``nnunet``: nnU-Net v2.8.1 in one process (its ``-npp 0 -nps 0``), float32; reads, computes and writes in turn.
* ``nnunet-bf16``: the same with torch's bfloat16 autocast around the network, which is a line that users add.
* ``nnunet-workers``: as nnU-Net does it unasked, with three processes that read and three that write.
* ``autoseg``: what ``autoseg.predict_folder`` does with an opened ``Predictor``, settings as the probe chooses them.

Each way has a process that keeps its network loaded; one case that is not counted warms it, then they take turns
(A B A B …), a round being all cases. For the cold start every measurement is a process of its own: from its start to
the last byte of the segmentation of one case. Only nnU-Net's search for its trainer's class is left out there, because
that needs torchvision. Printed are medians and, in brackets, the order statistics that hold the median with at least
93 % confidence (of five rounds the lowest and the highest); ratios are of nnU-Net's round to the other's of the same
turn. Processor time and memory are of the whole process tree; memory is resident memory sampled every 20 ms, shared
pages counted once. The guard: segmentations agree with nnU-Net's in at least 99.9 % of the voxels, and with
labels (of the images; the cases are then those that the model's first fold did not see) in mean Dice to 0.001.
"""

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import SimpleITK as sitk
from nnunet_worker import VENV, set_up
from process_tree import Tree

from autoseg.data.splits import make_splits
from autoseg.evaluation.metrics import Counts, dice

WAYS = ("nnunet", "nnunet-bf16", "nnunet-workers", "autoseg")
COLD_WAYS = ("nnunet", "autoseg")
FIGURES = ("wall", "cpu", "memory")
WORKER = str(Path(__file__).with_name("nnunet_worker.py"))
CONFIDENCE = 0.93  # with five rounds the whole range has 0.9375
AGREE, DICE = 0.999, 0.001
Rows = dict[str, list[dict[str, float]]]


class Server:
    """A process that keeps one way's network loaded."""

    def __init__(self, way: str, options: argparse.Namespace, log: Path) -> None:
        self.log, self.channels = log, len(dataset_json(options.model)["channel_names"])
        command = [interpreter(way, options), WORKER, way, str(options.model)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log.open("w"), text=True
        )
        self.tree = Tree(self.process.pid)
        self.expect("ready")

    def expect(self, answer: str) -> None:
        assert self.process.stdout is not None
        if self.process.stdout.readline().strip() != answer:
            sys.exit(f"{self.log.stem} has failed:\n{self.log.read_text()[-3000:]}")

    def predict(self, images: Path, output: Path) -> dict[str, float]:
        output.mkdir(parents=True)
        assert self.process.stdin is not None
        spent, start = self.tree.cpu(), time.monotonic()
        with self.tree.watch():
            self.process.stdin.write(json.dumps([str(images), str(output)]) + "\n")
            self.process.stdin.flush()
            self.expect("done")
            wall = time.monotonic() - start
        count = len(list(images.iterdir())) // self.channels
        return {"wall": wall / count, "cpu": (self.tree.cpu() - spent) / count, "memory": self.tree.peak}

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def interpreter(way: str, options: argparse.Namespace) -> str:
    return sys.executable if way == "autoseg" else str(options.venv / "bin" / "python")


def cold_start(way: str, options: argparse.Namespace, images: Path, output: Path) -> dict[str, float]:
    """Predict one case in a process of its own; ``wall`` ends with the last byte of the segmentation."""
    output.mkdir(parents=True)
    if way == "autoseg":
        command = ["-m", "autoseg", "predict", str(options.model), str(images), str(output), "--device", "cpu"]
        line = ""
    else:
        command, line = [WORKER, way, str(options.model)], json.dumps([str(images), str(output)])
    start = time.time()
    with (output.parent / "log").open("w") as log:
        process = subprocess.Popen(
            [interpreter(way, options), *command], stdin=subprocess.PIPE, stdout=log, stderr=log, text=True
        )
    tree = Tree(process.pid)
    assert process.stdin is not None
    process.stdin.write(line)
    process.stdin.close()
    with tree.watch():
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    written = list(output.glob("*" + dataset_json(options.model)["file_ending"]))
    if process.returncode or len(written) != 1:
        sys.exit(f"{way} has failed:\n{(output.parent / 'log').read_text()[-3000:]}")
    wall = written[0].stat().st_mtime - start
    return {"wall": wall, "cpu": usage.ru_utime + usage.ru_stime, "memory": tree.peak}


def dataset_json(model: Path) -> dict[str, Any]:
    return json.loads((model / "dataset.json").read_text())


def choose(options: argparse.Namespace, folder: Path) -> tuple[Path, Path, list[str]]:
    """Copy the images of the chosen cases to a folder, those of the first of them to another; give their names too."""
    ending = dataset_json(options.model)["file_ending"]
    cases = sorted({file.name.removesuffix(ending)[:-5] for file in options.images.glob(f"*_????{ending}")})
    if options.labels:
        cases = [case for case in cases if (options.labels / f"{case}{ending}").exists()]
        fold = min(item.name.removeprefix("fold_") for item in options.model.glob("fold_*"))
        cases = list(make_splits(cases).folds[int(fold)].validation) if fold.isdigit() else cases
    cases = cases[: options.cases]
    every, one = folder / "images", folder / "image"
    for target, some in ((every, cases), (one, cases[:1])):
        target.mkdir()
        for file in [file for case in some for file in options.images.glob(f"{case}_????{ending}")]:
            shutil.copy(file, target)
    return every, one, cases


def show(values: Sequence[float], digits: int) -> str:
    """Median and the innermost order statistics that hold it with at least ``CONFIDENCE`` (else the range)."""
    ordered, count = sorted(values), len(values)
    outside, low = 2 * 0.5**count, 0
    while outside + 2 * math.comb(count, low + 1) * 0.5**count <= 1 - CONFIDENCE:
        low += 1
        outside += 2 * math.comb(count, low) * 0.5**count
    return f"{statistics.median(ordered):.{digits}f} [{ordered[low]:.{digits}f}–{ordered[-1 - low]:.{digits}f}]"


def print_table(title: str, rows: Rows) -> None:
    print(f"\n| {title} | wall, s | CPU, s | peak MB | wall × | CPU × | memory × |\n|---|---|---|---|---|---|---|")
    for way, found in rows.items():
        cells = [show([row[key] for row in found], 0 if key == "memory" else 2) for key in FIGURES]
        for key in FIGURES:
            pairs = zip(rows[WAYS[0]], found, strict=True)
            cells.append("" if way == WAYS[0] else show([first[key] / row[key] for first, row in pairs], 2))
        print(f"| {way} | {' | '.join(cells)} |", flush=True)


def read(folder: Path, case: str, ending: str) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(folder / f"{case}{ending}")))


def mean_dice(found: Path, options: argparse.Namespace, cases: Sequence[str]) -> float:
    """Mean over cases and classes (or regions); a class that neither has does not count."""
    dataset, scores = dataset_json(options.model), []
    for case in cases:
        ending = dataset["file_ending"]
        pair = read(found, case, ending), read(options.labels, case, ending)
        for name, value in dataset["labels"].items():
            if name in ("background", "ignore"):
                continue
            ours, label = (np.isin(array, value) for array in pair)
            scores.append(dice(Counts(int((ours & label).sum()), int(ours.sum()), int(label.sum()), 1.0)))
    return statistics.mean(score for score in scores if score is not None)


def guard(options: argparse.Namespace, folder: Path, cases: Sequence[str]) -> bool:
    """Compare every way's segmentations with nnU-Net's; only autoseg's must agree."""
    ending, holds = dataset_json(options.model)["file_ending"], True
    print("\n| guard | voxels that agree | in the worst case | mean Dice |\n|---|---|---|---|")
    for way in options.ways:
        same = [read(folder / way, case, ending) == read(folder / WAYS[0], case, ending) for case in cases]
        agree = sum(item.sum() for item in same) / sum(item.size for item in same)
        worst = min(item.mean() for item in same)
        scores = [mean_dice(folder / name, options, cases) for name in (way, WAYS[0])] if options.labels else [0.0, 0.0]
        score = f"{scores[0]:.5f}" if options.labels else "no labels"
        print(f"| {way} | {agree:.4%} | {worst:.4%} | {score} |")
        holds &= way != "autoseg" or (agree >= AGREE and abs(scores[0] - scores[1]) <= DICE)
    print(f"the guard {'holds' if holds else 'DOES NOT HOLD'}")
    return holds


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setup", action="store_true", help="make nnU-Net's environment (once)")
    parser.add_argument("--venv", type=Path, default=VENV, help="where that is (%(default)s)")
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("images", type=Path, nargs="?")
    parser.add_argument("labels", type=Path, nargs="?")
    parser.add_argument("--cases", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ways", type=lambda text: text.split(","), default=list(WAYS))
    options = parser.parse_args()
    if not options.setup and options.images is None:
        parser.error("give a model folder and a folder of images, or --setup")
    if WAYS[0] not in options.ways or not set(options.ways) <= set(WAYS):
        parser.error(f"--ways are of {', '.join(WAYS)}, and {WAYS[0]} must be one of them")
    return options


def main() -> None:
    options = parse()
    if options.setup:
        set_up(options.venv)
    if options.images is None:
        return
    with TemporaryDirectory() as name:
        folder = Path(name)
        every, one, cases = choose(options, folder)
        load = os.getloadavg()[0]
        print(f"{len(os.sched_getaffinity(0))} threads, {options.rounds} rounds of {len(cases)} cases, load {load:.1f}")
        servers = {way: Server(way, options, folder / f"{way}.log") for way in options.ways}
        rows: Rows = {way: [] for way in options.ways}
        for turn in range(-1, options.rounds):  # the first warms up
            for way, server in servers.items():
                output = folder / f"round {turn}" / way
                found = server.predict(one if turn < 0 else every, output)
                rows[way] += [found] if turn >= 0 else []
        for server in servers.values():
            server.close()
        print_table("per case, network loaded", rows)
        cold: Rows = {way: [] for way in COLD_WAYS if way in options.ways}
        for turn in range(-1, options.rounds):
            for way, measured in cold.items():
                found = cold_start(way, options, one, folder / f"cold {turn}" / way)
                measured += [found] if turn >= 0 else []
        print_table("cold start, first case", cold)
        print(f"load at the end {os.getloadavg()[0]:.1f}")
        if not guard(options, folder / "round 0", cases):
            sys.exit(1)


if __name__ == "__main__":
    main()
