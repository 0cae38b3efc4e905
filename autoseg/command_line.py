"""What the command ``autoseg`` accepts: its verbs, their options, and help made of worked examples."""

import argparse
from pathlib import Path
from typing import Any

EXAMPLES = """\
examples:
  autoseg demo                                        a small dataset made here, and the whole job on it
  autoseg run my_dataset                              everything: check, plan, train five folds, choose, report
  autoseg run my_dataset --configurations 3d_fullres --folds 0 --epochs 100
  autoseg predict runs/my_dataset new_scans results   segment new images with what was trained
  autoseg evaluate results labels                     compare predictions with labels

Run the same command again and it goes on where it stopped. `autoseg VERB --help` explains a verb.
"""

VERB_EXAMPLES = {
    "demo": "examples:\n  autoseg demo\n  autoseg demo --out /data/demo --epochs 20\n",
    "run": (
        "examples:\n"
        "  autoseg run my_dataset\n"
        "  autoseg run my_dataset --budget 4GB --epochs 200 --out runs/small\n"
        "  autoseg run --images scans --labels masks --test new_scans\n"
        "  autoseg run my_dataset --configurations 3d_fullres --folds 0,1 --device cpu\n"
        "  autoseg run my_dataset --set 3d_fullres.batch_size=4\n"
        "  autoseg run my_dataset --time-budget 6h --patience 100\n"
        "  autoseg run my_dataset --task instance\n"
        "  autoseg run my_dataset --like runs/other_dataset\n"
        "  autoseg run my_dataset --init runs/other_dataset --freeze encoder --epochs 200\n"
    ),
    "check": (
        "examples:\n"
        "  autoseg check my_dataset\n"
        "  autoseg check --images scans --labels masks\n"
        "  autoseg check my_dataset --task instance\n"
    ),
    "plan": (
        "examples:\n"
        "  autoseg plan my_dataset\n"
        "  autoseg plan my_dataset --budget 4GB --set 2d.batch_size=8\n"
        "  autoseg plan my_dataset --set 3d_large.inherits=3d_fullres --set 3d_large.batch_size=4\n"
        "  autoseg plan my_dataset --like runs/other_dataset\n"
        "  autoseg plan my_dataset --measure\n"
        "  autoseg plan dataset_a dataset_b --out runs/common\n"
        "  autoseg plan --fingerprint runs/my_dataset/fingerprint.json --budget 8GB --json\n"
    ),
    "train": "examples:\n  autoseg train runs/my_dataset 3d_fullres 0\n",
    "predict": (
        "examples:\n"
        "  autoseg predict runs/my_dataset new_scans results\n"
        "  autoseg predict runs/my_dataset scan.nii.gz results --save-probabilities\n"
        "  autoseg predict runs/my_dataset new_scans results --uncertainty\n"
        "  autoseg predict runs/my_dataset new_scans results --speed fast\n"
        "  autoseg predict runs/my_dataset large.nii results --max-ram 6GB\n"
        "  autoseg predict my_dataset.autoseg new_scans results\n"
        "  autoseg predict nnUNetTrainer__nnUNetPlans__3d_fullres new_scans results\n"
    ),
    "export": (
        "examples:\n"
        "  autoseg export runs/my_dataset my_dataset.autoseg\n"
        "  autoseg export runs/my_dataset for_nnunet --format nnunet\n"
    ),
    "evaluate": (
        "examples:\n"
        "  autoseg evaluate results labels\n"
        "  autoseg evaluate results labels --metrics dice,hd95,nsd@2\n"
        "  autoseg evaluate results labels --protocol brats2023 --out scores\n"
        "  autoseg evaluate results labels --against other_results --margin 0.02\n"
        "  autoseg evaluate results labels --task instance --protocol neurips22\n"
        "  autoseg evaluate results labels --json\n"
    ),
    "report": (
        "examples:\n  autoseg report runs/my_dataset\n  autoseg report runs/small runs/large --out comparison.html\n"
    ),
    "challenge": (
        "examples:\n"
        "  autoseg challenge list\n"
        "  autoseg challenge prepare acdc downloads/ACDC acdc_dataset\n"
        "  autoseg challenge score acdc results labels\n"
        "  autoseg challenge pack acdc results submission.zip --images downloads/ACDC/testing\n"
    ),
    "doctor": (
        "examples:\n  autoseg doctor\n  autoseg doctor runs/my_dataset\n  autoseg doctor runs/my_dataset --overfit\n"
    ),
}

STAGES = ("check", "plan", "preprocess", "train", "choose")


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of all verbs; what it accepts is frozen by a test."""
    parser = _parser_type("autoseg", "Self-configuring biomedical image segmentation.", EXAMPLES)
    parser.add_argument("--version", action="version", version=_version())
    verbs = parser.add_subparsers(dest="verb", metavar="VERB")
    _add_demo(_verb(verbs, "demo", "make a small 3D dataset and run the whole job on it"))
    _add_run(_verb(verbs, "run", "the whole job, from a dataset folder to predictions and a report; resumable"))
    _add_source(_verb(verbs, "check", "list every problem of a dataset folder"))
    _add_plan(_verb(verbs, "plan", "show what would be trained, value and reason side by side"))
    _add_train(_verb(verbs, "train", "train one fold of a run; what launchers call"))
    _add_predict(_verb(verbs, "predict", "segment new images with a trained run"))
    _add_export(_verb(verbs, "export", "write a trained model for others: one file, or model folders for nnU-Net v2"))
    _add_evaluate(_verb(verbs, "evaluate", "compare predictions with labels"))
    _add_report(_verb(verbs, "report", "write a run's HTML page again, or one that compares several runs"))
    _add_challenge(_verb(verbs, "challenge", "public challenges: lay out their data, score, pack a submission"))
    _add_doctor(_verb(verbs, "doctor", "look for what is wrong with this machine, or with a run"))
    return parser


def _version() -> str:
    from autoseg import __version__

    return f"autoseg {__version__}"


def _parser_type(name: str, description: str, examples: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=name, description=description, epilog=examples, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def _verb(verbs: Any, name: str, description: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(
        name,
        help=description,
        description=f"{description[0].upper()}{description[1:]}.\n\n{VERB_EXAMPLES[name]}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _add_source(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    source = parser.add_argument_group("the data")
    meaning = "dataset folder, or a CSV table" + ("; several get one common plan" if several else "")
    source.add_argument("dataset", metavar="DATASET", type=Path, nargs="*" if several else "?", help=meaning)
    source.add_argument("--images", metavar="DIR", type=Path, help="folder of images, instead of DATASET")
    source.add_argument("--labels", metavar="DIR", type=Path, help="folder of labels, matched by name")
    source.add_argument("--test", metavar="DIR", type=Path, help="folder of images to predict in the end")
    source.add_argument("--group-by", metavar="REGEX", help="cases whose ids match alike stay in one fold")
    source.add_argument(
        "--task",
        choices=("auto", "semantic", "instance"),
        help="labels hold classes, or ids of objects (default: auto)",
    )


def _add_planning(parser: argparse.ArgumentParser) -> None:
    planning = parser.add_argument_group("the plan")
    planning.add_argument("--budget", metavar="8GB", help="memory of one device (default: the GPU's, 8GB without one)")
    planning.add_argument("--planner", metavar="NAME", default="default", help="which rules decide (default: default)")
    planning.add_argument("--like", metavar="RUN", type=Path, help="carry the plan of this run (or plan.json) over")
    planning.add_argument(
        "--set", metavar="A.B=V", action="append", default=[], help="change one value of the plan; may be repeated"
    )


def _add_training(parser: argparse.ArgumentParser) -> None:
    training = parser.add_argument_group("training")
    training.add_argument("--configurations", metavar="A,B", help="train these only (default: all of the plan)")
    training.add_argument("--folds", metavar="0,1", help="train these only, or all-data (default: all folds)")
    training.add_argument("--epochs", metavar="N", type=_count, help="epochs per fold (default: 1000)")
    training.add_argument("--steps-per-epoch", metavar="N", type=_count, help="steps per epoch (default: 250)")
    training.add_argument("--seed", metavar="N", type=int, help="seed of all randomness (default: 0)")
    training.add_argument("--device", metavar="NAME", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    training.add_argument("--precision", choices=("auto", "fp32", "bf16", "fp16"), default="auto")
    training.add_argument("--deterministic", action="store_true", help="equal weights from equal starts on a GPU too")


def _add_demo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", metavar="DIR", type=Path, default=Path("demo"), help="folder to work in")
    _add_training(parser)


def _add_run(parser: argparse.ArgumentParser) -> None:
    _add_source(parser)
    parser.add_argument("--out", metavar="RUN", type=Path, help="run folder (default: runs/NAME)")
    parser.add_argument("--until", choices=STAGES, help="stop after this stage")
    parser.add_argument("--plan", metavar="P.json", type=Path, help="use this plan instead of making one")
    parser.add_argument("--wait", action="store_true", help="wait for another run that works on the same folds")
    _add_planning(parser)
    _add_training(parser)
    length = parser.add_argument_group("how long")
    length.add_argument("--time-budget", metavar="6h", help="wall time for all trainings; decides the epochs")
    length.add_argument("--patience", metavar="N", type=_count, help="epochs without gain until the final anneal")
    length.add_argument("--logger", metavar="A,B", help="also log to tensorboard, wandb or mlflow")
    start = parser.add_argument_group("starting from trained weights")
    start.add_argument("--init", metavar="MODEL", type=Path, help="run folder, nnU-Net v2 model folder or checkpoint")
    start.add_argument("--freeze", metavar="A,B", help="leave these parts as they are, such as encoder")


def _add_plan(parser: argparse.ArgumentParser) -> None:
    _add_source(parser, several=True)
    parser.add_argument("--fingerprint", metavar="F.json", type=Path, help="plan from this record, without a dataset")
    parser.add_argument("--out", metavar="RUN", type=Path, help="keep fingerprint and plan in this run folder")
    parser.add_argument("--json", action="store_true", help="print the plan record")
    parser.add_argument("--measure", action="store_true", help="run real training steps and compare their memory")
    _add_planning(parser)


def _add_train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", type=Path, help="run folder with a plan and preprocessed cases")
    parser.add_argument("configuration", metavar="CONFIGURATION", help="such as 3d_fullres")
    parser.add_argument("fold", metavar="FOLD", help="number of the fold, or all-data")
    parser.add_argument("--wait", action="store_true", help="wait for another process that trains it")


def _add_predict(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", type=Path, help="run folder, MODEL.autoseg, nnU-Net v2 model")
    parser.add_argument("images", metavar="IMAGES", type=Path, help="folder of images, or one image")
    parser.add_argument("output", metavar="OUTPUT", type=Path, help="folder for the segmentations")
    parser.add_argument("--overwrite", action="store_true", help="predict again what is there already")
    parser.add_argument("--save-probabilities", action="store_true", help="keep the class probabilities too")
    parser.add_argument("--uncertainty", action="store_true", help="write maps of entropy and of disagreement too")
    parser.add_argument(
        "--speed",
        choices=("best", "balanced", "fast"),
        default="best",
        help="fewer mirrored forms and folds (default: best)",
    )
    parser.add_argument("--max-ram", metavar="6GB", help="main memory that may be used (default: what is free)")
    parser.add_argument("--max-vram", metavar="4GB", help="memory of the GPU that may be used (default: what is free)")
    parser.add_argument("--device", metavar="NAME", default="auto", help="auto, cpu, cuda, cuda:1, mps")


def _add_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", type=Path, help="run folder (or another model that predicts)")
    parser.add_argument("out", metavar="OUT", type=Path, help="file to write; for nnunet a folder")
    parser.add_argument("--format", choices=("autoseg", "nnunet"), default="autoseg", help="default: autoseg")


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("predictions", metavar="PREDICTIONS", type=Path, help="folder of segmentations")
    parser.add_argument("labels", metavar="LABELS", type=Path, help="folder of labels with the same names")
    parser.add_argument(
        "--task", choices=("semantic", "instance"), default="semantic", help="classes, or ids of objects"
    )
    parser.add_argument("--protocol", metavar="NAME", help="rules of a challenge, such as brats2023 (default: default)")
    parser.add_argument("--metrics", metavar="A,B", help="measure these only, such as dice,hd95,nsd@2")
    parser.add_argument("--against", metavar="OTHER", type=Path, help="compare with these predictions, case by case")
    parser.add_argument("--margin", metavar="D", type=float, help="how much worse is still as good (default: 0.01)")
    parser.add_argument("--out", metavar="DIR", type=Path, help="write the scores there as JSON and CSV")
    parser.add_argument("--json", action="store_true", help="print the scores record")


def _add_report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", metavar="RUN", type=Path, nargs="+", help="run folder; several are compared")
    parser.add_argument("--out", metavar="FILE", type=Path, help="the page (default: RUN/report.html, comparison.html)")


def _add_challenge(parser: argparse.ArgumentParser) -> None:
    steps = parser.add_subparsers(dest="step", metavar="STEP", required=True)
    steps.add_parser("list", help="name the challenges that are known")
    prepare = steps.add_parser("prepare", help="lay the official folder out as a dataset")
    score = steps.add_parser("score", help="score predictions by the official rules")
    pack = steps.add_parser("pack", help="pack predictions as a submission")
    score.add_argument("--json", action="store_true", help="print the scores record")
    for step in (prepare, score, pack):
        step.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        step.add_argument("name", metavar="NAME", help="of the challenge; see `autoseg challenge list`")
    prepare.add_argument("raw", metavar="RAW", type=Path, help="official folder as downloaded")
    prepare.add_argument("out", metavar="DATASET", type=Path, help="dataset folder to make")
    for step in (score, pack):
        step.add_argument("predictions", metavar="PREDICTIONS", type=Path, help="folder of segmentations")
    score.add_argument("labels", metavar="LABELS", type=Path, help="folder of labels")
    pack.add_argument("out", metavar="FILE", type=Path, help="submission to write")
    pack.add_argument("--images", metavar="DIR", type=Path, required=True, help="official test images, or DATASET")


def _add_doctor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", type=Path, nargs="?", help="run folder")
    parser.add_argument("--overfit", action="store_true", help="train on two cases of the run until they are learnt")


def _count(text: str) -> int:
    value = int(text) if text.isdigit() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above zero")
    return value
