"""How long until something happens? Help, import, and the first segmentation of a cold start, beside nnU-Net's.

    python benchmarks/startup.py --setup
    python benchmarks/startup.py [[NAME=]MODEL --dataset DATASET] [--rounds 9] [--cold-rounds 5]

Every measurement is a process from its start to its end; ways take turns (A B A B …), one round before them warms the
system's file cache. Printed are medians with the order statistics that hold them with at least 93 % confidence.

* help: ``autoseg --help`` and ``autoseg predict --help`` against ``nnUNetv2_predict -h``. Processor seconds count.
* import: ``import autoseg`` against ``import nnunetv2.inference.predict_from_raw_data``, the module that users import.
* cold start, with a MODEL folder of nnU-Net v2 and images as for ``nnunet_prediction.py``: ``autoseg predict`` against
  nnU-Net's predictor in one process, until the last byte of the segmentation of one case. nnU-Net's search for its
  trainer's class is left out, because that needs torchvision.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import prediction_ways as ways
import results
from processes import autoseg_command, run_once
from results import Judged, Question
from turns import take_turns

COLD_WAYS = ("nnunet", "autoseg")
HELP_SECONDS = 0.15  # of processor time that `autoseg --help` may take at most


def ask(options: argparse.Namespace) -> Iterator[Question]:
    nnunet = options.venv / "bin"
    with TemporaryDirectory() as name:
        folder = Path(name)
        yield compare(
            "help",
            {
                "nnunet": [str(nnunet / "nnUNetv2_predict"), "-h"],
                "autoseg": autoseg_command("--help"),
                "autoseg predict": autoseg_command("predict", "--help"),
            },
            [Judged(title="show the help", figure="cpu", against="nnunet", most=HELP_SECONDS)],
            folder,
            options.rounds,
        )
        module = "nnunetv2.inference.predict_from_raw_data"
        yield compare(
            "import",
            {
                "nnunet": [str(nnunet / "python"), "-c", f"import {module}"],
                "autoseg": [sys.executable, "-c", "import autoseg"],
            },
            [Judged(title="import", figure="cpu", against="nnunet")],
            folder,
            options.rounds,
        )
        if options.model is not None:
            yield cold(options, folder)


def compare(what: str, commands: dict[str, list[str]], judged: list[Judged], folder: Path, rounds: int) -> Question:
    runs = {
        way: lambda _, command=command, way=way: run_once(command, folder / f"{what} {way}.log")
        for way, command in commands.items()
    }
    return results.make_question(f"start: {what}, whole process", take_turns(runs, rounds), judged)


def cold(options: argparse.Namespace, folder: Path) -> Question:
    name, model = options.model
    folders, labels = ways.image_folders(options)
    cases = ways.choose_cases(model, folders, labels, 1)
    images = ways.copy_cases(model, folders, cases, folder / "image")
    runs = {
        way: lambda turn, way=way: ways.cold_start(way, model, images, folder / f"cold {turn}" / way, options.venv)
        for way in COLD_WAYS
    }
    judged = [Judged(title="cold start to first segmentation", figure="wall", against="nnunet", must=2.0, aim=4.0)]
    judged.append(Judged(title="cold start to first segmentation", figure="memory", against="nnunet"))
    return results.make_question(f"cold start with {name}, first case", take_turns(runs, options.cold_rounds), judged)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "model", type=ways.named, nargs="?", metavar="[NAME=]MODEL", help="of nnU-Net v2, for the cold start"
    )
    results.add_options(parser, rounds=9)
    parser.add_argument("--cold-rounds", type=int, default=5, help="of the cold start (%(default)s)")
    ways.add_cases(parser, 1)
    options = parser.parse_args()
    results.prepare_environment(options)
    results.run("startup", options, lambda: ask(options))


if __name__ == "__main__":
    main()
