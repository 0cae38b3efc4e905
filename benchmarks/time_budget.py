"""Does a run take the time it was given?

    python benchmarks/time_budget.py 10m [--dataset FOLDER] [--folds 0,1] [--configurations 3d_fullres] [--out RUN]

Runs the whole job with ``--time-budget`` and compares the time asked for with the time of the training stage: all
trainings with their validation. Without a dataset the demo dataset is made. Other load on the machine while it runs is
part of the question: the number of epochs is fitted anew after every epoch.
"""

import argparse
import json
import tempfile
from pathlib import Path

import autoseg
from autoseg.data.demo import make_demo_dataset
from autoseg.options import parse_duration
from autoseg.progress import duration
from autoseg.run_folder import RunFolder
from planners.plan import Plan

TOLERANCE = 0.1  # part of the time asked for


def training_seconds(run: RunFolder) -> float:
    """Add up the time of the training stage over all starts of the run."""
    rows = [json.loads(line) for line in run.log_file.read_text().splitlines()]
    return sum(row["seconds"] for row in rows if row["event"] == "stage" and row["name"] == "train")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("time", help="such as 10m")
    parser.add_argument("--dataset", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--folds", default="0,1")
    parser.add_argument("--configurations", default="3d_fullres")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    asked = parse_duration(options.time)
    out = options.out or Path(tempfile.mkdtemp(prefix="time_budget_")) / "run"
    dataset = options.dataset or make_demo_dataset(out.parent / "demo")
    given = {name: getattr(options, name) for name in ("folds", "configurations", "set", "device")}
    run = RunFolder(autoseg.run(dataset, out=out, time_budget=options.time, until="train", **given))
    used = training_seconds(run)
    plan = run.read(Plan, run.plan_file)
    print(f"\n{'training':<28} {'epochs':>6} {'steps each':>10} {'in epochs':>12} {'validation':>12}")
    for name in options.configurations.split(","):
        training = plan.configuration(name).training
        for folder in sorted((run.root / "folds" / name).glob("fold_*")):
            rows = [json.loads(line) for line in (folder / "progress.jsonl").read_text().splitlines()]
            validation_s = json.loads((folder / "fold.json").read_text()).get("validation_s") or 0.0
            epochs_s = duration(sum(row["seconds"] for row in rows))
            where = f"{name} {folder.name}"
            print(
                f"{where:<28} {len(rows):>6} {training.steps_per_epoch:>10} {epochs_s:>12} {duration(validation_s):>12}"
            )
    verdict = "within" if abs(used / asked - 1) <= TOLERANCE else "NOT within"
    print(f"asked {duration(asked)}, used {duration(used)}: {used / asked:.1%}, {verdict} {TOLERANCE:.0%}")


if __name__ == "__main__":
    main()
