"""Predicting with one model that nnU-Net v2 trained, there and here: cases, commands, cold starts. Not a script."""

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from processes import ProcessError, autoseg_command, run_once
from turns import Row

from autoseg.data.splits import make_splits

WAYS = ("nnunet", "nnunet-bf16", "nnunet-workers", "autoseg")
WORKER = str(Path(__file__).with_name("nnunet_worker.py"))


def named(text: str) -> tuple[str, Path]:
    """Take a model's name from ``NAME=FOLDER``, or from the end of the folder's name."""
    name, _, path = ("", "", text) if Path(text).is_dir() else text.rpartition("=")
    return name or Path(path).name.rpartition("__")[2], Path(path)


def dataset_json(model: Path) -> dict[str, Any]:
    return json.loads((model / "dataset.json").read_text())


def worker_command(way: str, model: Path, venv: Path) -> list[str]:
    python = sys.executable if way == "autoseg" else str(venv / "bin" / "python")
    return [python, WORKER, way, str(model)]


def add_cases(parser: argparse.ArgumentParser, count: int) -> None:
    """Add the options that say which cases."""
    parser.add_argument("--images", type=Path, action="append", help="folder of images; may be repeated")
    parser.add_argument("--labels", type=Path, help="folder of labels, for those images that have one")
    parser.add_argument("--dataset", type=Path, help="instead of both: a folder with imagesTs, imagesTr, labelsTr")
    parser.add_argument("--cases", type=int, default=count, help="at most (%(default)s)")


def image_folders(options: argparse.Namespace) -> tuple[list[Path], Path | None]:
    """Give the folders of images, and that of labels."""
    folders, labels = list(options.images or ()), options.labels
    if options.dataset is not None:
        folders += [options.dataset / "imagesTs", options.dataset / "imagesTr"]
        labels = labels or options.dataset / "labelsTr"
    if not folders:
        sys.exit("give --dataset DATASET, or --images FOLDER and --labels FOLDER")
    return folders, labels


def choose_cases(model: Path, folders: Sequence[Path], labels: Path | None, count: int) -> list[str]:
    """Choose cases that the model was not trained on: up to half without labels, and of the labelled its fold's own.

    Those are the validation cases of its first fold, of nnU-Net's default folds of all labelled cases.
    """
    ending = dataset_json(model)["file_ending"]
    cases = sorted(
        {file.name.removesuffix(ending)[:-5] for folder in folders for file in folder.glob(f"*_????{ending}")}
    )
    labelled = {file.name.removesuffix(ending) for file in labels.glob(f"[!.]*{ending}")} if labels else set()
    known, new = [case for case in cases if case in labelled], [case for case in cases if case not in labelled]
    fold = min(item.name.removeprefix("fold_") for item in model.glob("fold_*"))
    held = make_splits(labelled).folds[int(fold)].validation if fold.isdigit() and len(labelled) > 1 else tuple(known)
    known = [case for case in known if case in held]
    new = new[: max(count // 2, count - len(known))]
    return [*new, *known[: count - len(new)]]


def copy_cases(model: Path, folders: Sequence[Path], cases: Sequence[str], target: Path) -> Path:
    """Copy the images of some cases into one new folder."""
    ending = dataset_json(model)["file_ending"]
    target.mkdir(parents=True)
    for file in [file for folder in folders for case in cases for file in folder.glob(f"{case}_????{ending}")]:
        shutil.copy(file, target)
    return target


def cold_start(way: str, model: Path, images: Path, output: Path, venv: Path) -> Row:
    """Predict one case in a process of its own; ``wall`` ends with the last byte of the segmentation."""
    output.mkdir(parents=True)
    log = output.parent / f"{output.name}.log"
    command, line = worker_command(way, model, venv), json.dumps([str(images), str(output)])
    if way == "autoseg":
        command, line = autoseg_command("predict", str(model), str(images), str(output), "--device", "cpu"), ""
    start = time.time()
    row = run_once(command, log, line=line)
    written = list(output.glob("*" + dataset_json(model)["file_ending"]))
    if len(written) != 1:
        raise ProcessError(f"{way} wrote {len(written)} segmentations of one case:\n{log.read_text()[-3000:]}")
    return {**row, "wall": os.stat(written[0]).st_mtime - start}
