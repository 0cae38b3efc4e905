"""Which target finds more objects, all else equal: boundary, flow or the plain foreground?

    python benchmarks/instance_targets.py [DATASET] [--steps 400] [--batch-size N] [--folds 0] [--seed 0] [--out DIR]
        [--targets boundary,flow,foreground] [--set PATH=VALUE …]

Plans DATASET as ``autoseg run`` does (pictures made in code where none is given), then makes of the first planned
configuration one per target: network, patch, batch, split, seed and number of steps are equal, the target and what its
outputs need differ. The changed plan goes through ``autoseg run --plan``, so what is measured is what users get.

Printed over the validation images of the folds: F1 and AP at an IoU of 0.5, over all images and over those whose
objects touch, decoded as planned; then what the choice makes of them (decoder fitted out of fold), and the seconds of
training and validation.
"""

import argparse
import dataclasses
import tempfile
from pathlib import Path

from instance_scores import fold_seconds, score_fold, table

import autoseg
from autoseg.data.demo_objects import PICTURES, make_object_dataset
from autoseg.evaluation.selection import Choice
from autoseg.run_folder import RunFolder, RunRecord, write_atomic
from autoseg.targets import TARGETS
from planners import records
from planners.labels import Labels
from planners.plan import Configuration, Plan, Target

EPOCHS = 8  # that the steps are divided into: the learning rate falls with the epochs
SHARED_OPTIONS = ("dimensions", "spacing", "diameter")


def with_targets(plan: Plan, names: list[str]) -> Plan:
    """Make of a plan's first configuration one per target; targets that are planned already are taken as planned."""
    first = plan.configurations[0]
    base = first.name.removesuffix(f"_{first.target.name}")
    planned = {item.target.name: item.target for item in reversed(plan.configurations)}
    made: list[Configuration] = []
    for name in names:
        target = planned.get(name) or plain_target(name, first, plan.labels)
        made.append(dataclasses.replace(first, name=f"{base}_{name}", target=target))
    return dataclasses.replace(plan, configurations=tuple(made))


def plain_target(name: str, like: Configuration, labels: Labels) -> Target:
    """Make a target with what all targets know, and its defaults for the rest."""
    options = {key: value for key, value in like.target.options.items() if key in SHARED_OPTIONS}
    options.setdefault("dimensions", like.dimensions)
    smallest = like.target.options.get("decode", {}).get("smallest")
    if smallest is not None:
        options["decode"] = {"smallest": smallest}  # every decoder drops what is smaller
    return Target(name=name, num_outputs=TARGETS[name].num_outputs(labels, options), options=options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", nargs="?", type=Path)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--folds", default="0")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--targets", default="boundary,flow,foreground")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    out = options.out or Path(tempfile.mkdtemp(prefix="instance_targets_"))
    dataset = options.dataset or make_object_dataset(out / "pictures", scene=PICTURES, num_cases=30, num_tests=0)
    settings = list(options.set)
    if options.batch_size is not None:
        settings.append(f"*.batch_size={options.batch_size}")
    planned = autoseg.run(dataset, out=out / "planned", until="plan", set=settings)
    plan = with_targets(RunFolder(planned).read(Plan, RunFolder(planned).plan_file), options.targets.split(","))
    write_atomic(out / "plan.json", records.dumps(plan))
    given = {"folds": options.folds, "seed": options.seed, "device": options.device, "until": "choose"}
    lengths = {"epochs": EPOCHS, "steps_per_epoch": max(options.steps // EPOCHS, 1)}
    run = RunFolder(autoseg.run(dataset, out=out / "run", plan=out / "plan.json", **lengths, **given))
    show(run)


def show(run: RunFolder) -> None:
    """Print the table of a finished run."""
    plan, record = run.read(Plan, run.plan_file), run.read(RunRecord, run.run_file)
    rows, more = {}, {}
    for name in record.configurations:
        item, folds = plan.configuration(name), [int(fold) for fold in record.folds]
        rows[name] = [row for fold in folds for row in score_fold(run, name, fold)]
        seconds = [fold_seconds(run, name, fold) for fold in folds]
        trained, validated = (sum(part) for part in zip(*seconds, strict=True))
        more[name] = f"{trained:.0f} s + {validated:.0f} s"
        training = item.training
        print(
            f"{name}: {training.epochs} × {training.steps_per_epoch} steps of {item.batch_size} × {item.patch_size}, "
            f"seed {training.seed}, target {item.target.options}"
        )
    print(f"\ndecoded as planned; folds {', '.join(map(str, record.folds))}\n{table(rows, more)}")
    choice = run.read(Choice, run.choice_file)
    print(f"\ndecoder fitted out of fold: {choice.criterion}")
    for candidate in choice.candidates:
        scored = "–" if candidate.score is None else f"{candidate.score:.4f}"
        chosen = "  chosen" if candidate.configurations == choice.configurations else ""
        print(f"  {candidate.name:34} {scored}  {candidate.decode or 'as planned'}{chosen}")


if __name__ == "__main__":
    main()
