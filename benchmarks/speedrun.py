"""How many seconds after its start has ``autoseg run`` on raw data a network of fold 0 with a given mean Dice?

    python benchmarks/speedrun.py HIPPOCAMPUS [--recipes default,swift] [--seeds 1,2,3] [--device auto]

The clock runs from the start of the process on the raw folder, in an empty run folder, to its end: check, fingerprint,
plan, preprocessing, training of fold 0, prediction of the 42 cases it has not seen, with their scores. A recipe is a
set of options of ``autoseg run``; any plan, schedule and batch size is allowed, cases and scorer are always the same. A
recipe has reached a Dice when every seed has; its record is the median of the seconds. The process is given as many
threads as there are cores. Printed is a row for docs/log.md per recipe and goal.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from autoseg.run_folder import RunFolder

GOALS = (0.80, 0.85)
CONFIGURATION = "3d_fullres"
COMMON = ("--configurations", CONFIGURATION, "--folds", "0", "--until", "train")


@dataclass(frozen=True)
class Recipe:
    """Options of ``autoseg run``, and why they should be fast."""

    because: str
    epochs: int
    steps: int
    settings: tuple[str, ...] = ()

    def options(self) -> list[str]:
        settings = [item for setting in self.settings for item in ("--set", f"{CONFIGURATION}.{setting}")]
        return ["--epochs", str(self.epochs), "--steps-per-epoch", str(self.steps), *settings]


def narrow(first: int, stages: int = 4) -> tuple[str, ...]:
    """Give settings that let the first stage have so many features, and every next one twice as many."""
    return tuple(f"architecture.stages[{stage}].features={first * 2**stage}" for stage in range(stages))


UNMIRRORED = ("training.mirror_axes=[]",)
FEW_CHECKS = ("training.validation_steps=2",)
RECIPES = {
    "default": Recipe("the plan as it is, 500 steps", 10, 50),
    "short": Recipe("the plan as it is, 200 steps", 5, 40, FEW_CHECKS),
    "unmirrored": Recipe(
        "no mirrored forms to learn, and one pass instead of eight to predict", 5, 40, (*UNMIRRORED, *FEW_CHECKS)
    ),
    "narrow": Recipe("half the features, a third of the time per step", 5, 60, (*narrow(16), *UNMIRRORED, *FEW_CHECKS)),
    "swift": Recipe(
        "the same, fewer steps in smaller batches", 4, 50, (*narrow(16), *UNMIRRORED, *FEW_CHECKS, "batch_size=4")
    ),
    "sprint": Recipe("as swift, 100 steps", 2, 50, (*narrow(16), *UNMIRRORED, *FEW_CHECKS, "batch_size=4")),
}


def measure(dataset: Path, recipe: Recipe, seed: int, device: str) -> tuple[float, float]:
    """Run a recipe once.

    Returns:
        Seconds from the start of the process to its end, and the mean Dice of fold 0's unseen cases.
    """
    with TemporaryDirectory() as temporary:
        run, log = RunFolder(Path(temporary) / "run"), Path(temporary) / "log.txt"
        command = [sys.executable, "-m", "autoseg", "run", str(dataset), "--out", str(run.root), *COMMON]
        command += [*recipe.options(), "--seed", str(seed), "--device", device]
        start = time.monotonic()
        with log.open("w") as file:
            code = subprocess.call(command, stdout=file, stderr=file)
        seconds = time.monotonic() - start
        if code:
            sys.exit(f"{' '.join(command)} has failed:\n{log.read_text()[-3000:]}")
        scores = json.loads(run.fold(CONFIGURATION, 0).scores.read_text())
        return seconds, scores["mean_dice"]


def rows(name: str, recipe: Recipe, measured: Sequence[tuple[float, float]]) -> list[str]:
    """Word what a recipe has reached: one row of a table per goal."""
    seconds = statistics.median(item[0] for item in measured)
    dice = [item[1] for item in measured]
    reached = [goal for goal in GOALS if min(dice) >= goal]
    text = f"{name} ({recipe.because}) | {', '.join(f'{value:.4f}' for value in dice)} | {seconds:.0f} s"
    return [f"| {goal:.2f} | {text} |" for goal in reached] or [f"| missed {GOALS[0]:.2f} | {text} |"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path, help="the raw hippocampus folder")
    parser.add_argument("--recipes", default="default", help=f"some of {', '.join(RECIPES)}")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    names = options.recipes.split(",")
    if unknown := sorted(set(names) - set(RECIPES)):
        parser.error(f"unknown: {', '.join(unknown)}; known are {', '.join(RECIPES)}")
    print("| mean Dice | recipe | of each seed | median of the command |\n|---|---|---|---|")
    for name in names:
        measured = [
            measure(options.dataset, RECIPES[name], int(seed), options.device) for seed in options.seeds.split(",")
        ]
        print("\n".join(rows(name, RECIPES[name], measured)), flush=True)


if __name__ == "__main__":
    main()
