"""Is it worth starting from weights that another training has found, when only a few cases are annotated?

    python benchmarks/fine_tuning.py HIPPOCAMPUS [--many 100] [--few 5] [--seeds 0,1,2] [--out runs/fine_tuning]

One network is trained on many cases. Then, for every seed, a few other cases are drawn, and a network is trained on
these alone twice, with equal plans and equally many steps: from random weights, and from the weights of the first
training (``--init``). Both are judged on cases that no training has seen; the same for all. Every Dice is printed. The
same command goes on where it stopped.

The defaults make a small network and short trainings: about 20 minutes on two cores. ``HIPPOCAMPUS`` is a folder in
nnU-Net v2's or the Decathlon's layout.
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import autoseg
from autoseg.data.dataset import Case, DatasetSource, open_dataset
from autoseg.evaluation.overlap import Scores

NETWORK = (
    "3d_fullres.patch_size=[40,56,40]",
    "3d_fullres.batch_size=2",
    *(f"3d_fullres.architecture.stages[{stage}].features={16 * 2**stage}" for stage in range(4)),
)
"""Edits of hippocampus's plan that make a step several times as fast; its patch, so that one window sees a case."""

STARTS = ("random", "trained")


@dataclass(frozen=True)
class Parts:
    """Which cases are for what: the large training, the small ones (by seed), and the judging."""

    many: tuple[Case, ...]
    few: dict[int, tuple[Case, ...]]
    test: tuple[Case, ...]


def divide(cases: Sequence[Case], options: argparse.Namespace) -> Parts:
    """Divide cases by chance, the same for every start of the program."""
    shuffled = [cases[index] for index in np.random.default_rng(0).permutation(len(cases))]
    many, rest = shuffled[: options.many], shuffled[options.many :]
    few = {seed: tuple(rest[i * options.few : (i + 1) * options.few]) for i, seed in enumerate(options.seeds)}
    test = rest[len(options.seeds) * options.few :][: options.num_test]
    if len(test) < options.num_test:
        raise SystemExit(f"{len(cases)} cases are too few: {len(test)} of {options.num_test} are left to judge by")
    return Parts(tuple(many), few, tuple(test))


def lay_out(folder: Path, source: Path, cases: Sequence[Case], test: Sequence[Case]) -> Path:
    """Make a dataset folder of links to some cases; the images of others are to be predicted."""
    dataset = open_dataset(DatasetSource(dataset=source))
    assert dataset.labels is not None
    for name in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for images, labels, items in (("imagesTr", "labelsTr", cases), ("imagesTs", "labelsTs", test)):
        for case in items:
            for channel, path in enumerate(case.images):
                link(folder / images / f"{case.id}_{channel:04d}{dataset.file_ending}", path)
            assert case.label is not None
            link(folder / labels / f"{case.id}{dataset.file_ending}", case.label)
    content = {
        "channel_names": {str(index): name for index, name in enumerate(dataset.channels)},
        "labels": {item.name: item.value for item in dataset.labels.classes},
        "numTraining": len(cases),
        "file_ending": dataset.file_ending,
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def link(place: Path, target: Path) -> None:
    if not place.is_symlink():
        place.symlink_to(target.resolve())


def train(dataset: Path, out: Path, steps: int, options: argparse.Namespace, **more: object) -> Path:
    """Train on all cases of a dataset, and predict its test images."""
    epochs = max(steps // options.steps_per_epoch, 1)
    return autoseg.run(
        dataset,
        out=out,
        configurations="3d_fullres",
        folds="all-data",
        epochs=epochs,
        steps_per_epoch=options.steps_per_epoch,
        set=[*NETWORK, "3d_fullres.training.validation_steps=1", *options.set],
        device=options.device,
        **more,
    )


def judge(run: Path, dataset: Path) -> Scores:
    return autoseg.evaluate(run / "predictions", dataset / "labelsTs").scores


def compare(options: argparse.Namespace) -> dict[str, list[float]]:
    """Train everything and print a line per training; give the mean Dice by start, one per seed."""
    parts = divide(open_dataset(DatasetSource(dataset=options.dataset)).cases, options)
    many = lay_out(options.out / "many", options.dataset, parts.many, parts.test)
    trained = train(many, options.out / "run_many", options.many_steps, options, seed=0)
    print_row(f"{len(parts.many)} cases, {options.many_steps} steps", "", judge(trained, many))
    found: dict[str, list[float]] = {start: [] for start in STARTS}
    for seed, cases in parts.few.items():
        few = lay_out(options.out / f"few_{seed}", options.dataset, cases, parts.test)
        for start in STARTS:
            source = {"init" if start == "trained" else "like": trained}
            run = train(few, options.out / f"run_few_{seed}_{start}", options.few_steps, options, seed=seed, **source)
            scores = judge(run, few)
            print_row(f"{len(cases)} cases, seed {seed}", start, scores)
            found[start].append(scores.mean_dice or 0.0)
    return found


def print_row(what: str, start: str, scores: Scores) -> None:
    values = [scores.mean_dice, *scores.dice]
    shown = "  ".join("absent" if value is None else f"{value:.4f}" for value in values)
    print(f"{what:<24} {start:<8} {shown}   ({len(scores.cases)} cases)", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/fine_tuning"))
    parser.add_argument("--many", type=int, default=100, help="cases of the first training")
    parser.add_argument("--few", type=int, default=5, help="cases of each small training")
    parser.add_argument("--num-test", type=int, default=60, help="cases to judge by")
    parser.add_argument("--many-steps", type=int, default=1000, help="steps of the first training")
    parser.add_argument("--few-steps", type=int, default=250, help="steps of each small training")
    parser.add_argument("--steps-per-epoch", type=int, default=25)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--set", action="append", default=[], help="one more change of every plan")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    options.seeds = [int(part) for part in options.seeds.split(",")]
    found = compare(options)
    print(f"\nmean Dice over {len(options.seeds)} seeds")
    for start, values in found.items():
        print(f"{start:<8} median {statistics.median(values):.4f}   {min(values):.4f} to {max(values):.4f}")
    pairs = list(zip(found["trained"], found["random"], strict=True))
    better, gain = sum(a > b for a, b in pairs), statistics.median(a - b for a, b in pairs)
    print(f"trained weights are better in {better} of {len(pairs)} seeds; median gain {gain:+.4f}")


if __name__ == "__main__":
    main()
