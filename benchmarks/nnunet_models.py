"""Do models of every kind that nnU-Net v2 trained segment here as they do in nnU-Net itself?

    python benchmarks/nnunet_models.py DATASET FOLDER [--kinds 2d,resenc] [--cases 60] [--steps 300] [--venv VENV]

DATASET is a folder with ``imagesTr`` and ``labelsTr`` of one-channel NIfTI images with the values 0, 1, 2, such as the
hippocampus of the Medical Segmentation Decathlon. nnU-Net v2.8.1 (its environment is made by ``nnunet_prediction.py
--setup``) trains a tiny model of each kind in FOLDER, which is kept: the plain U-Net in 2D and 3D, the residual
encoder, regions, a cascade, and one of many small windows. Then both predict the cases that it was not trained on, from
the same checkpoint, with mirroring. Printed are the voxels that agree, the mean Dice of each against labels, and how
much of the difference is nnU-Net's own rounding: it sums logits in float16, and predicts a second time with float32.
A cascade's second stage is given nnU-Net's own first stage in nnU-Net, and ours here.

The guard: at least 99.9 % of the voxels agree, and the mean Dice to 0.001, of models that have learnt something.
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

from nnunet_tiny import KINDS, SUMS, make_dataset, model_of
from nnunet_worker import VENV
from segmentations import agreement, mean_dice

from autoseg.data.splits import make_splits
from autoseg.inference.predictor import predict_folder

WORKER = Path(__file__).with_name("nnunet_tiny.py")
AGREE, DICE = 0.999, 0.001
LEARNT = 0.2  # mean Dice below which a model has learnt too little to be compared: what finds nothing agrees with all
ENDING = ".nii.gz"


def lay_out(dataset: Path, folder: Path, count: int) -> list[dict[str, list[str]]]:
    """Copy the first cases as nnU-Net names them; give the one split, of which the validation cases are predicted."""
    cases = sorted(file.name.removesuffix(ENDING) for file in (dataset / "labelsTr").glob(f"[!.]*{ENDING}"))[:count]
    fold = make_splits(cases).folds[0]
    for case in cases:
        image = next(dataset.joinpath("imagesTr").glob(f"{case}*{ENDING}"))
        for place, source in ((f"raw/imagesTr/{case}_0000", image), (f"raw/labelsTr/{case}", None)):
            target = folder / f"{place}{ENDING}"
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                shutil.copy(source or dataset / "labelsTr" / f"{case}{ENDING}", target)
    for case in fold.validation:
        name = f"{case}_0000{ENDING}"
        (folder / "images").mkdir(exist_ok=True)
        shutil.copy(folder / "raw" / "imagesTr" / name, folder / "images" / name)
    return [{"train": list(fold.train), "val": list(fold.validation)}]


def segment_there(options: argparse.Namespace) -> None:
    """Train and predict in nnU-Net's environment."""
    log = options.folder / "nnunet.log"
    given = json.dumps({"kinds": options.kinds, "steps": options.steps, "splits": options.splits})
    command = [str(options.venv / "bin" / "python"), str(WORKER), str(options.folder), given]
    with log.open("w") as file:
        if subprocess.run(command, stdout=file, stderr=file, check=False).returncode:
            sys.exit(f"nnU-Net has failed:\n{log.read_text()[-3000:]}")


def segment_here(options: argparse.Namespace, kind: str) -> dict[str, Path]:
    """Predict with one kind here; give the folders of segmentations of each way."""
    stage, place = KINDS[kind]["stages"][-1], options.folder / "segmentations" / kind
    found = {sums: place / f"{stage} {sums}" for sums in SUMS} | {"autoseg": place / "autoseg"}
    model = options.folder / model_of(kind, stage)
    predict_folder(model, options.folder / "images", found["autoseg"], overwrite=True, device="cpu")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kinds", type=lambda text: text.split(","), default=list(KINDS))
    parser.add_argument("--cases", type=int, default=60, help="taken of the dataset; a fifth is predicted")
    parser.add_argument("--steps", type=int, default=300, help="of each training")
    parser.add_argument("--venv", type=Path, default=VENV, help="nnU-Net's environment (%(default)s)")
    options = parser.parse_args()
    options.folder = options.folder.resolve()
    options.folder.mkdir(parents=True, exist_ok=True)
    options.splits = lay_out(options.dataset, options.folder, options.cases)
    options.cases = options.splits[0]["val"]
    segment_there(options)
    rows, holds = [], True
    for kind in options.kinds:
        found = segment_here(options, kind)
        agree, worst = agreement(found["autoseg"], found["float16"], options.cases, ENDING)
        exact = agreement(found["autoseg"], found["float32"], options.cases, ENDING)[0]
        rounding = agreement(found["float32"], found["float16"], options.cases, ENDING)[0]
        labels, dataset = options.folder / "raw" / "labelsTr", make_dataset(kind, 1)
        scores = [mean_dice(found[way], labels, options.cases, dataset) for way in found]
        fits = agree >= AGREE and abs(scores[0] - scores[2]) <= DICE and scores[0] > LEARNT
        cells = [f"{agree:.4%}", f"{worst:.4%}", f"{exact:.4%}", f"{rounding:.4%}"]
        cells += [f"{scores[0]:.5f}", f"{scores[2]:.5f}", "holds" if fits else "DOES NOT HOLD"]
        rows.append(f"| {kind} | {' | '.join(cells)} |")
        holds &= fits
    print(f"\n{len(options.cases)} cases each")
    print(
        "| model | voxels that agree | worst case | with float32 sums in nnU-Net | nnU-Net float16, float32 |", end=""
    )
    print(" Dice, nnU-Net | Dice, autoseg | guard |\n|---|---|---|---|---|---|---|---|")
    print("\n".join(rows))
    if not holds:
        sys.exit(1)


if __name__ == "__main__":
    main()
