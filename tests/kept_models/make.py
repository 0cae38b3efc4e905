"""Make the kept models of the version that is installed: done once per released format, never again for an old one.

    python tests/kept_models/make.py

A tiny training of each kind of model, its run folder cut down to what prediction reads, the bundle made from it, an
image that it has not seen, and what was predicted then. ``test_kept_models.py`` opens all that lies here.
"""

import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

import autoseg
from autoseg.cli import main
from autoseg.data.demo import make_demo_case
from autoseg.data.demo_objects import PICTURES, ObjectScene, make_object_dataset
from autoseg.data.image import Geometry
from autoseg.data.io import write_segmentation
from autoseg.data.io_write import write_text
from autoseg.inference.bundle import RECORDS

HERE = Path(__file__).parent
KEPT = (*RECORDS, "run.json", "splits.json")
KEPT_OF_FOLD = ("weights_last.safetensors", "configuration.json", "fold.json", "scores.json")
COMMON = ["--folds", "0,1", "--budget", "1GB", "--device", "cpu", "--precision", "fp32", "--set", "*.batch_size=2"]
SCENE = ObjectScene(shape=(1, 64, 64), spacing_mm=PICTURES.spacing_mm, radii_mm=(5.0, 7.5), count=12)


@dataclass(frozen=True)
class Kind:
    """A kind of model: the steps of its training, each configuration's number of stages, and patches."""

    name: str
    steps: int
    stages: Mapping[str, int]
    patches: Mapping[str, str] = field(default_factory=dict)


CLASSES = Kind("classes", 8, {"3d_fullres": 3, "2d": 3}, {"3d_fullres": "[16,16,16]"})
OBJECTS = Kind("objects", 10, {"2d_boundary": 5, "2d_flow": 5})


def options(kind: Kind) -> list[str]:
    """Give the options of its training; all stages are narrow, so that the weights are small."""
    places = [(name, stage) for name, count in kind.stages.items() for stage in range(count)]
    settings = [item for name, stage in places for item in ("--set", f"{name}.architecture.stages[{stage}].features=8")]
    settings += [item for name, patch in kind.patches.items() for item in ("--set", f"{name}.patch_size={patch}")]
    return ["--epochs", "5", "--steps-per-epoch", str(kind.steps), *COMMON, *settings]


def small_demo_dataset(folder: Path, num_cases: int = 6) -> Path:
    """Write cases of the demo, every other voxel of them, so that the kept image is small."""
    for number in range(num_cases + 1):
        image_CZYX, label_ZYX, geometry = make_demo_case(np.random.default_rng([5, number]))
        spacing = tuple(2 * value for value in geometry.spacing_mm)
        halved = Geometry(spacing_mm=(spacing[0], spacing[1], spacing[2]))
        test = number == num_cases
        for channel, image_ZYX in enumerate(image_CZYX[:, ::2, ::2, ::2]):
            place = folder / ("imagesTs" if test else "imagesTr") / f"case_{number}_{channel:04d}.nii.gz"
            write_segmentation(place, image_ZYX, halved)
        if not test:
            write_segmentation(folder / "labelsTr" / f"case_{number}.nii.gz", label_ZYX[::2, ::2, ::2], halved)
    channels, labels = '{"0": "T1", "1": "T2"}', '{"background": 0, "organ": 1, "core": 2}'
    text = f'{{"channel_names": {channels}, "labels": {labels}, "numTraining": {num_cases}, "file_ending": ".nii.gz"}}'
    write_text(folder / "dataset.json", text)
    return folder


def keep(run: Path, kind: Kind, dataset: Path, place: Path) -> None:
    """Copy what prediction reads; places of the machine it was made on are taken out of the records."""
    kept = place / "run"
    fold_files = [path for name in KEPT_OF_FOLD for path in run.glob(f"folds/*/fold_*/{name}")]
    for path in [run / name for name in KEPT if (run / name).exists()] + fold_files:
        target = kept / path.relative_to(run)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".json":
            write_text(target, path.read_text().replace(str(dataset.parent), "/data"))
        else:
            shutil.copyfile(path, target)
    shutil.copytree(dataset / "imagesTs", place / "images")
    assert main(["export", str(kept), str(place / f"{kind.name}.autoseg")]) == 0
    assert main(["predict", str(kept), str(place / "images"), str(place / "segmentations"), "--device", "cpu"]) == 0
    for path in (place / "segmentations").glob("*.json"):
        path.unlink()


def make(kind: Kind, dataset: Path, place: Path) -> None:
    run = dataset.parent / "run"
    arguments = ["run", str(dataset), "--out", str(run), *options(kind)]
    if main(arguments) != 0:
        sys.exit("the training has failed")
    keep(run, kind, dataset, place)


if __name__ == "__main__":
    goal = HERE / autoseg.__version__
    if goal.exists():
        sys.exit(f"{goal} is there already, and is kept as it is")
    for kind in (CLASSES, OBJECTS):
        with TemporaryDirectory() as temporary:
            folder = Path(temporary) / "dataset"
            if kind is CLASSES:
                small_demo_dataset(folder)
            else:
                make_object_dataset(folder, scene=SCENE, num_cases=6, num_tests=1)
            make(kind, folder, goal / kind.name)
