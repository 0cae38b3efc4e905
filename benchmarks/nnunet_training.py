"""Is training cheaper here than in nnU-Net: a step, a whole training, loading with augmentation?

    python benchmarks/nnunet_training.py step DATASET [--setup] [--rounds 5] [--steps 3]
    python benchmarks/nnunet_training.py load DATASET [--rounds 5] [--batches 8]
    python benchmarks/nnunet_training.py whole DATASET [--steps 60] [--seeds 1]
    python benchmarks/nnunet_training.py whole DATASET --steps 500 --seeds 3

DATASET is in nnU-Net's layout (``imagesTr``, ``labelsTr``, ``dataset.json``), such as the hippocampus of the Medical
Segmentation Decathlon. nnU-Net v2.8.1 plans and preprocesses it first (``3d_fullres``), and autoseg does; the plans
must be equal in patch and network, and autoseg takes nnU-Net's batch. All that is kept in ``--folder`` for the next
time. The ways have as many threads as there are cores:

* ``nnunet``: its trainer class, started directly; float32.
* ``nnunet-bf16``: with torch's bfloat16 autocast where it has one on a GPU (``step`` alone).
* ``autoseg``: its trainer, computing as the probe chooses.

``step``: forward, loss with deep supervision, backward, clipping, SGD on one batch in memory, from the same weights; a
round is some steps. ``load``: from the preprocessed cases to an augmented batch with labels for every output, in one
process on one thread. They take turns (A B A B …) in processes that stay loaded; a first round does not count.
``whole``: fold 0 from the start of the process to the scores of the cases it has not seen, validation of every epoch
included; nnU-Net reads and exports with as many processes as there are cores. Seed by seed, in turn. Each follows its
own recipe for so many steps: autoseg's takes less momentum where there are few.

The guards: the first losses of a step agree to 0.002; after whole trainings with several seeds, the difference of the
mean Dice is above −0.003, or its 95 % interval includes 0. One seed says nothing about that, which is then said.
"""

import argparse
import json
import shutil
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import results
from nnunet_training_worker import CONFIGURATION, DATASET, PLANS, VALIDATION_PART
from processes import Server, autoseg_command, run_once
from results import Guard, Judged, Question
from scipy import stats
from segmentations import mean_dice
from turns import Row, Rows, take_turns

from autoseg.data.splits import Splits, make_splits
from autoseg.interop.nnunet_plan import read_plan
from autoseg.run_folder import RunFolder
from planners.plan import Configuration, Plan

WORKER = str(Path(__file__).with_name("nnunet_training_worker.py"))
FOLDER = Path.home() / ".cache" / "autoseg-benchmarks" / "training"
STEP_WAYS, WAYS = ("nnunet", "nnunet-bf16", "autoseg"), ("nnunet", "autoseg")
EPOCHS = 10  # of a whole training, where there are steps enough; each has then the same number of them
LEAST_STEPS = 10  # of an epoch
USUAL = 1000, 250  # epochs, and steps of each, of nnU-Net's recipe
LOSS, DICE = 0.002, -0.003
NO_AMX = "This processor has no AMX: the musts were set for processors that have it, where bf16 is fast."


# -------------------------------------------------------------------------------------------------- made beforehand


def prepare(options: argparse.Namespace) -> None:
    """Have both plan and preprocess the dataset, unless that was done in the folder before; compare the plans."""
    base = options.folder / "preprocessed" / DATASET
    raw = options.folder / "raw" / DATASET
    raw.parent.mkdir(parents=True, exist_ok=True)
    if not raw.exists():
        raw.symlink_to(options.dataset.resolve(), target_is_directory=True)
    elif raw.resolve() != options.dataset.resolve():
        sys.exit(f"{options.folder} was made for {raw.resolve()}; give another --folder, or delete it")
    if not (base / "gt_segmentations").exists():  # the last that is made
        run_once(there("plan", options, splits=[split_of(options.dataset)]), options.folder / "plan.log")
    if not run_of(options).plan_file.exists():
        preprocess(options, run_of(options), *USUAL, 0)  # a short training would take less momentum


def split_of(dataset: Path) -> dict[str, list[str]]:
    ending = json.loads((dataset / "dataset.json").read_text())["file_ending"]
    fold = make_splits(sorted(file.name.removesuffix(ending) for file in (dataset / "labelsTr").glob(f"[!.]*{ending}")))
    return {"train": list(fold.folds[0].train), "val": list(fold.folds[0].validation)}


def run_of(options: argparse.Namespace) -> RunFolder:
    return RunFolder(options.folder / "autoseg")


def preprocess(options: argparse.Namespace, run: RunFolder, epochs: int, steps: int, seed: int) -> list[str]:
    """Plan and preprocess a run folder; give the command that then trains fold 0."""
    theirs = their_configuration(options)
    command = autoseg_command("run", str(options.dataset), "--out", str(run.root), "--configurations", CONFIGURATION)
    command += ["--folds", "0", "--device", "cpu", "--epochs", str(epochs), "--steps-per-epoch", str(steps)]
    command += ["--seed", str(seed), "--set", f"{CONFIGURATION}.batch_size={theirs.batch_size}"]
    command += ["--set", f"{CONFIGURATION}.training.validation_steps={max(steps // VALIDATION_PART, 1)}"]
    run_once([*command, "--until", "preprocess"], options.folder / "preprocess.log")
    check_equal(run.read(Plan, run.plan_file).configuration(CONFIGURATION), theirs)
    found = run.read(Splits, run.splits_file).folds[0]
    if split_of(options.dataset) != {"train": list(found.train), "val": list(found.validation)}:
        sys.exit(f"{run.splits_file} splits the cases in another way than nnU-Net is told to")
    return [*command, "--until", "train"]


def their_configuration(options: argparse.Namespace) -> Configuration:
    base = options.folder / "preprocessed" / DATASET
    plans, dataset = (json.loads((base / name).read_text()) for name in (f"{PLANS}.json", "dataset.json"))
    return read_plan(plans, dataset, CONFIGURATION, base).configuration(CONFIGURATION)


def check_equal(ours: Configuration, theirs: Configuration) -> None:
    """Stop where the comparison would not be of the same training."""
    for name in ("patch_size", "batch_size", "spacing_mm", "architecture"):
        if getattr(ours, name) != getattr(theirs, name):
            sys.exit(
                f"the plans differ in {name}: nnU-Net's is {getattr(theirs, name)}, autoseg's {getattr(ours, name)}"
            )


def there(task: str, options: argparse.Namespace, way: str = "nnunet", **given: Any) -> list[str]:
    python = options.venv / "bin" / "python"
    return [str(python), WORKER, task, way, str(options.folder), json.dumps(given)]


# ------------------------------------------------------------------------------------------------- step and loading


def ask_servers(options: argparse.Namespace, ways: Sequence[str], count: int) -> tuple[Rows, str]:
    """Let processes that stay loaded take turns, each with ``count`` steps or batches at a time.

    Returns:
        What each took, and what autoseg's process said of how it computes.
    """
    with TemporaryDirectory() as name:
        servers = {}
        for way in ways:  # one after the other: the first leaves its weights for the others
            command = there(options.question, options, way, run=str(run_of(options).root))
            command[0] = sys.executable if way == "autoseg" else command[0]
            servers[way] = Server(command, Path(name) / f"{way}.log")
        rows = take_turns(
            {way: lambda _, server=server: server.ask(count) for way, server in servers.items()}, options.rounds
        )
        for server in servers.values():
            server.close()
        return rows, Path(name, "autoseg.log").read_text().strip()


def ask_step(options: argparse.Namespace) -> Iterator[Question]:
    rows, said = ask_servers(options, STEP_WAYS, options.steps)
    aims = {"nnunet": (2.8, 4.0), "nnunet-bf16": (1.2, 1.6)}
    judged = [
        Judged(title=f"training step against {way}", figure=figure, against=way, must=must, aim=aim)
        for way, (must, aim) in aims.items()
        for figure in ("wall", "cpu")
    ]
    first = {way: rows[way][0]["loss"] for way in WAYS}
    apart = abs(first["nnunet"] - first["autoseg"])
    found = f"{first['nnunet']:.5f} and {first['autoseg']:.5f}"
    guard = Guard(what=f"losses of the first counted step agree to {LOSS}", found=found, holds=apart <= LOSS)
    note = f"autoseg computes so: {said}" + ("" if results.machine().amx else f"\n{NO_AMX}")
    yield results.make_question("training step", rows, judged, [guard], note)


def ask_load(options: argparse.Namespace) -> Iterator[Question]:
    rows, _ = ask_servers(options, WAYS, options.batches)
    judged = [Judged(title="load and augment", figure="cpu", against="nnunet", must=3.0, aim=5.0)]
    yield results.make_question("load and augment, per 100 samples", rows, judged)


# ------------------------------------------------------------------------------------------------- whole trainings


def ask_whole(options: argparse.Namespace) -> Iterator[Question]:
    epochs = max(min(EPOCHS, options.steps // LEAST_STEPS), 1)
    steps = options.steps // epochs
    scores: dict[str, list[float]] = {way: [] for way in WAYS}

    def train(way: str, seed: int) -> Row:
        row, dice = (train_there if way == "nnunet" else train_here)(options, epochs, steps, seed)
        scores[way].append(dice)
        print(f"{way}, seed {seed}: mean Dice {dice:.4f}, {row['wall']:.0f} s", flush=True)
        return row

    ways = {way: lambda turn, way=way: train(way, turn + 1) for way in WAYS}
    rows = take_turns(ways, options.seeds, warm=False)
    judged = [
        Judged(title="whole training", figure="wall", against="nnunet", must=2.5, aim=4.0),
        Judged(title="whole training", figure="cpu", against="nnunet"),
        Judged(title="whole training", figure="memory", against="nnunet"),
    ]
    listed = "; ".join(f"{way} {', '.join(f'{value:.4f}' for value in found)}" for way, found in scores.items())
    note = f"mean Dice of the cases that were not seen, seed by seed: {listed}"
    guards = [compare(scores)] if options.seeds > 1 else []
    note += "" if guards else ". One seed: nothing is said about their difference"
    title = f"whole training, {epochs} × {steps} steps"
    yield results.make_question(title, rows, judged, guards, note)


def compare(scores: dict[str, list[float]]) -> Guard:
    """Judge the difference of two means over seeds (Welch's interval: the seeds of the two are no pairs)."""
    ours, theirs = scores["autoseg"], scores["nnunet"]
    difference = statistics.mean(ours) - statistics.mean(theirs)
    low, high = stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval(0.95)
    found = f"{difference:+.4f}, 95 % interval {low:+.4f} to {high:+.4f}, {len(ours)} seeds each"
    what = f"mean Dice, autoseg − nnU-Net, above {DICE} or not to be told from 0"
    return Guard(what=what, found=found, holds=bool(difference > DICE or low <= 0 <= high))


def train_there(options: argparse.Namespace, epochs: int, steps: int, seed: int) -> tuple[Row, float]:
    results_of = options.folder / "results"
    shutil.rmtree(results_of, ignore_errors=True)
    given = {"epochs": epochs, "steps_per_epoch": steps, "seed": seed}
    row = run_once(there("whole", options, **given), options.folder / "whole nnunet.log")
    (found,) = (path.parent for path in results_of.rglob("summary.json"))
    return row, score(options, found)


def train_here(options: argparse.Namespace, epochs: int, steps: int, seed: int) -> tuple[Row, float]:
    run = RunFolder(options.folder / "whole autoseg")
    shutil.rmtree(run.root, ignore_errors=True)
    command = preprocess(options, run, epochs, steps, seed)
    row = run_once(command, options.folder / "whole autoseg.log")
    return row, score(options, run.fold(CONFIGURATION, 0).validation)


def score(options: argparse.Namespace, found: Path) -> float:
    dataset = json.loads((options.dataset / "dataset.json").read_text())
    return mean_dice(found, options.dataset / "labelsTr", split_of(options.dataset)["val"], dataset)


QUESTIONS = {"step": ask_step, "load": ask_load, "whole": ask_whole}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("question", choices=QUESTIONS)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="what is made beforehand (%(default)s)")
    parser.add_argument("--steps", type=int, help="of a round (3), or of a whole training (60)")
    parser.add_argument("--seeds", type=int, default=1, help="whole trainings of each (%(default)s)")
    parser.add_argument("--batches", type=int, default=8, help="of a round of loading (%(default)s)")
    results.add_options(parser)
    options = parser.parse_args()
    options.steps = options.steps or (60 if options.question == "whole" else 3)
    return options


def main() -> None:
    options = parse()
    results.prepare_environment(options)
    prepare(options)
    results.run(f"nnunet_training_{options.question}", options, lambda: QUESTIONS[options.question](options))


if __name__ == "__main__":
    main()
