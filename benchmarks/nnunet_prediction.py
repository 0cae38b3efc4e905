"""Is a model that nnU-Net v2 trained cheaper to predict with here than with nnU-Net itself, and is the answer the same?

    python benchmarks/nnunet_prediction.py --setup
    python benchmarks/nnunet_prediction.py [NAME=]MODEL ... --dataset DATASET [--cases 20] [--rounds 5] [--ways A,B]

MODEL is a model folder of nnU-Net v2; DATASET has ``imagesTs``, ``imagesTr`` and ``labelsTr`` (or ``--images`` and
``--labels`` name folders). Same weights, same images, mirroring, as many threads as this process may use cores, file
to file. The ways:

* ``nnunet``: nnU-Net v2.8.1 in one process (its ``-npp 0 -nps 0``), float32; reads, computes and writes in turn.
* ``nnunet-bf16``: the same with torch's bfloat16 autocast around the network, which is a line that users add.
* ``nnunet-workers``: as nnU-Net does it unasked, with three processes that read and three that write.
* ``autoseg``: what ``autoseg.predict_folder`` does with an opened ``Predictor``, settings as the probe chooses them.

Each way has a process that keeps its network loaded; one case that is not counted warms it, then they take turns
(A B A B …), a round being all cases, figures per case. Printed are medians and, in brackets, the order statistics that
hold the median with at least 93 % confidence (of five rounds the lowest and the highest); ratios are of nnU-Net's round
to the other's of the same turn. Processor time and memory are of the whole process tree; memory is resident memory
sampled every 20 ms, shared pages counted once. The cold start is measured by ``startup.py``.

The guard: segmentations agree with nnU-Net's in at least 99.9 % of the voxels, and with the labels of the cases that
have any in mean Dice to 0.001. Those cases are such that the model's first fold did not see.
"""

import argparse
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import prediction_ways as ways
import results
from processes import Server
from results import Guard, Judged, Question
from turns import Row, Rows, take_turns

AGREE, DICE = 0.999, 0.001


def ask(options: argparse.Namespace) -> Iterator[Question]:
    for name, model in options.models:
        with TemporaryDirectory() as folder:
            yield compare(name, model, Path(folder), options)


def compare(name: str, model: Path, folder: Path, options: argparse.Namespace) -> Question:
    folders, labels = ways.image_folders(options)
    cases = ways.choose_cases(model, folders, labels, options.cases)
    every = ways.copy_cases(model, folders, cases, folder / "images")
    one = ways.copy_cases(model, folders, cases[:1], folder / "image")
    servers = {
        way: Server(ways.worker_command(way, model, options.venv), folder / f"{way}.log") for way in options.ways
    }

    def predict(way: str, turn: int) -> Row:
        output = folder / f"round {turn}" / way
        output.mkdir(parents=True)
        row = servers[way].ask([str(one if turn < 0 else every), str(output)])
        return {**row, "wall": row["wall"] / len(cases), "cpu": row["cpu"] / len(cases)}

    rows: Rows = take_turns({way: partial(predict, way) for way in servers}, options.rounds)
    for server in servers.values():
        server.close()
    judged = [Judged(title=f"predict, {name}", figure="wall", against="nnunet", must=2.5, aim=4.0)]
    judged.append(Judged(title=f"predict, {name}", figure="wall", against="nnunet-bf16", must=2.5, aim=4.0))
    judged.append(Judged(title=f"predict, {name}", figure="wall", against="nnunet-workers", must=2.5, aim=4.0))
    judged.append(Judged(title=f"predict, {name}", figure="memory", against="nnunet"))
    known = [case for case in cases if labels and (labels / f"{case}{ending(model)}").exists()]
    guards = {way: guard(way, folder / "round 0", model, labels, (cases, known)) for way in options.ways[1:]}
    others = " ".join(f"{way}: {item.found}." for way, item in guards.items() if way != "autoseg")
    title = f"prediction with {name}, network loaded, per case of {len(cases)}"
    return results.make_question(title, rows, judged, [guards["autoseg"]], others)


def ending(model: Path) -> str:
    return ways.dataset_json(model)["file_ending"]


def guard(way: str, folder: Path, model: Path, labels: Path | None, cases: tuple[list[str], list[str]]) -> Guard:
    """Compare a way's segmentations with nnU-Net's, and both with labels."""
    from segmentations import agreement, mean_dice

    agree, worst = agreement(folder / way, folder / "nnunet", cases[0], ending(model))
    found, off = f"{agree:.4%}, in the worst case {worst:.4%}", 0.0
    if labels is not None and cases[1]:
        scores = [mean_dice(folder / name, labels, cases[1], ways.dataset_json(model)) for name in (way, "nnunet")]
        found += f"; mean Dice {scores[0]:.5f}, nnU-Net {scores[1]:.5f} ({len(cases[1])} labelled cases)"
        off = abs(scores[0] - scores[1])
    what = "at least 99.9 % of the voxels agree, mean Dice to 0.001"
    return Guard(what=what, found=found, holds=agree >= AGREE and off <= DICE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "models", type=ways.named, nargs="*", metavar="[NAME=]MODEL", help="model folders of nnU-Net v2"
    )
    results.add_options(parser)
    ways.add_cases(parser, 20)
    parser.add_argument("--ways", type=lambda text: text.split(","), default=list(ways.WAYS))
    options = parser.parse_args()
    if not {"nnunet", "autoseg"} <= set(options.ways) <= set(ways.WAYS) or options.ways[0] != "nnunet":
        parser.error(f"--ways are of {', '.join(ways.WAYS)}, nnunet first, autoseg among them")
    if not options.models and not options.setup:
        parser.error("give a model folder of nnU-Net v2, or --setup")
    results.prepare_environment(options)
    if options.models:
        results.run("nnunet_prediction", options, lambda: ask(options))


if __name__ == "__main__":
    main()
