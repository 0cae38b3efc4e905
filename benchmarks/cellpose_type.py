"""A network of Cellpose's type beside the automatic choice: the same images, the same fold, as many training crops.

    python benchmarks/cellpose_type.py [DATASET] [--run RUN] [--fold 0] [--epochs 4] [--steps-per-epoch 50]
        [--steps N] [--optimizer adamw|sgd] [--precision fp32|bf16] [--diameter estimate|mean|label] [--mirrored]

Runs ``autoseg run DATASET`` on one fold (pictures made in code where no dataset is given), or takes the finished RUN as
it is. Then trains a network of Cellpose's type, written by us after the paper, on that fold's training images with its
own recipe (``cellpose_recipe.py``): 30 pixels per object, crops of 224², batches of 8, AdamW as in cellpose 3 (``sgd``:
as in the paper), the schedule in proportion. It gets as many crops as *all* trained configurations of the run together
saw on that fold, unless ``--steps`` says otherwise; both numbers are printed, in pixels too. 2D only.

Printed, by our evaluation over the fold's validation images: the automatic choice with its fitted decoder, each of its
configurations with the decoder as planned, and the network of Cellpose's type. Its settings of decoding are Cellpose's
defaults. The diameter in prediction is estimated as Cellpose does (style, then what was found), or the mean of the
training images, or (no fair comparison, an upper bound) the label's own.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from cellpose_recipe import (
    BATCH,
    CROP,
    Example,
    estimate_diameter,
    fit_size,
    make_example,
    mean_diameter,
    segment,
    train,
)
from instance_scores import (
    ImageScore,
    case_files,
    fold_seconds,
    read_ids,
    run_cases,
    score,
    score_fold,
    table,
    touching_share,
)

import autoseg
from autoseg.data.demo_objects import PICTURES, make_object_dataset
from autoseg.data.io import open_image, write_segmentation
from autoseg.evaluation.instance_records import ALL_OBJECTS
from autoseg.evaluation.instance_results import InstanceResults
from autoseg.evaluation.selection import Choice
from autoseg.run_folder import RunFolder, RunRecord
from planners.plan import Plan


def automatic(options: argparse.Namespace, out: Path) -> RunFolder:
    """Run the automatic choice, or take a run as it is."""
    if options.run is not None:
        return RunFolder(options.run)
    dataset = options.dataset or make_object_dataset(out / "pictures", scene=PICTURES, num_cases=30, num_tests=0)
    given = {name: getattr(options, name) for name in ("epochs", "steps_per_epoch", "seed", "set") if name in options}
    return RunFolder(autoseg.run(dataset, out=out / "run", folds=[options.fold], until="choose", **given))


def examples_of(run: RunFolder, cases: tuple[str, ...]) -> list[Example]:
    """Read images and labels."""
    files, labels = case_files(run), run.read(Plan, run.plan_file).labels
    examples = []
    for case in cases:
        image = open_image([Path(item) for item in files[case].images]).read()
        if image.shape[1] > 1:
            raise SystemExit(f"{case} is a volume; a network of Cellpose's type is trained on single pictures")
        examples.append(make_example(case, image[:, 0], read_ids(files[case], labels)[0]))
    return examples


def work_of(run: RunFolder, fold: int) -> tuple[int, int]:
    """Count the patches that the run's configurations were trained on in a fold, and their pixels."""
    patches = pixels = 0
    plan = run.read(Plan, run.plan_file)
    for name in run.read(RunRecord, run.run_file).configurations:
        item = plan.configuration(name)
        epochs = len(run.fold(name, fold).progress.read_text().splitlines())
        seen = epochs * item.training.steps_per_epoch * item.batch_size
        print(f"{name}: {epochs} × {item.training.steps_per_epoch} steps of {item.batch_size} × {item.patch_size}")
        patches, pixels = patches + seen, pixels + seen * int(np.prod(item.patch_size))
    return patches, pixels


def chosen_scores(run: RunFolder, fold: int) -> list[ImageScore]:
    """Read what the choice's own out-of-fold evaluation gives for a fold: decoded with the fitted settings."""
    comparison = run.read(InstanceResults, run.instances_file).comparison
    wanted, labels, files = set(run_cases(run, fold)[1]), run.read(Plan, run.plan_file).labels, case_files(run)
    place, ap, f1 = (
        comparison.groups.index(ALL_OBJECTS),
        comparison.metrics.index("ap@0.5"),
        comparison.metrics.index("f1@0.5"),
    )
    scores = []
    for item in (item for item in comparison.cases if item.case in wanted):
        values, ids = item.scores[place].values, read_ids(files[item.case], labels)
        scores.append(ImageScore(case=item.case, ap=values[ap], f1=values[f1], touching=touching_share(ids)))
    return scores


def cellpose_type(
    run: RunFolder, options: argparse.Namespace, steps: int, out: Path
) -> tuple[dict[str, list[ImageScore]], dict[str, str]]:
    """Train and score the network of Cellpose's type; its predictions are kept in ``out``."""
    training, validation = (examples_of(run, cases) for cases in run_cases(run, options.fold))
    started = time.monotonic()
    half = options.precision == "bf16"
    lower = torch.autocast(torch.device(options.device).type, dtype=torch.bfloat16, enabled=half)
    network, loss = train(training, steps, options.seed, options.optimizer, options.device, half)
    trained_s = time.monotonic() - started
    print(f"trained in {trained_s:.0f} s, mean loss of the last tenth {loss:.3f}")
    torch.save(network.state_dict(), out / "cellpose_type.pt")
    usual, scores, off = mean_diameter(training), [], []
    files, started, size = case_files(run), time.monotonic(), None
    if options.diameter == "estimate":
        with lower:
            size = fit_size(network, training, options.seed, options.device)
    for example in validation:
        diameter = usual
        with lower:
            if size is not None:
                diameter = estimate_diameter(network, size, example, options.device)
            elif options.diameter == "label":
                diameter = example.diameter or usual
            ids = segment(network, example, diameter, mirrored=options.mirrored, device=options.device)
        if example.diameter is not None:
            off.append(abs(float(np.log2(diameter / example.diameter))))
        geometry = open_image([Path(item) for item in files[example.case].images]).geometry
        write_segmentation(out / "predictions" / f"{example.case}.tif", ids[None], geometry)
        scores.append(score(example.case, example.ids, ids))
    factor = 2 ** statistics.median(off)
    print(f"diameters ({options.diameter}) are off by a factor of {factor:.2f} in the median image")
    name = f"Cellpose type, {options.optimizer}, {options.diameter}"
    return {name: scores}, {name: f"{trained_s:.0f} s + {time.monotonic() - started:.0f} s"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", nargs="?", type=Path)
    parser.add_argument("--run", type=Path, help="a finished run, taken as it is")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--steps-per-epoch", type=int, default=50)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--steps", type=int, help="of the network of Cellpose's type; batches of 8")
    parser.add_argument("--optimizer", choices=("adamw", "sgd"), default="adamw")
    parser.add_argument("--diameter", choices=("estimate", "mean", "label"), default="estimate")
    parser.add_argument(
        "--precision", choices=("fp32", "bf16"), default="fp32", help="of the network of Cellpose's type"
    )
    parser.add_argument("--mirrored", action="store_true", help="average over mirror images in prediction")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    out = options.out or Path(tempfile.mkdtemp(prefix="cellpose_type_"))
    out.mkdir(parents=True, exist_ok=True)
    run = automatic(options, out)
    patches, pixels = work_of(run, options.fold)
    steps = options.steps or round(patches / BATCH)
    print(f"automatic: {patches:,} patches, {pixels / 1e6:.0f} million pixels; Cellpose type: ", end="")
    print(f"{steps} steps of {BATCH} × {CROP}²: {steps * BATCH:,} crops, {steps * BATCH * CROP**2 / 1e6:.0f} million")
    choice = run.read(Choice, run.choice_file)
    chosen = " + ".join(choice.configurations)
    print(f"chosen: {chosen}, decoder {choice.decode or 'as planned'} (fitted on these validation images)")
    rows = {f"automatic: {chosen}": chosen_scores(run, options.fold)}
    more = {}
    for name in run.read(RunRecord, run.run_file).configurations:
        rows[f"  {name}, decoder as planned"] = score_fold(run, name, options.fold)
        more[f"  {name}, decoder as planned"] = "{:.0f} s + {:.0f} s".format(*fold_seconds(run, name, options.fold))
    other, other_more = cellpose_type(run, options, steps, out)
    print(f"\n{table({**rows, **other}, {**more, **other_more})}")
    count = len(run_cases(run, options.fold)[1])
    print(f"\nseconds: training + prediction (with estimates of sizes) of {count} validation images; files: {out}")


if __name__ == "__main__":
    main()
