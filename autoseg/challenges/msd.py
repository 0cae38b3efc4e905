"""Medical Segmentation Decathlon: ten tasks, each a folder ``TaskNN_Name`` with a list of its files.

    Task04_Hippocampus/
    ├── dataset.json       "training": [{"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}, …],
    │                      "test": ["./imagesTs/b.nii.gz", …]
    ├── imagesTr/  labelsTr/     NIfTI; tasks 1 and 5 hold their channels in one 4D file
    └── imagesTs/                to be submitted

The archives were packed on macOS: beside every file lies a hidden ``._file``, which is left alone. Which cases there
are, the lists themselves say; the web page counts a few more than the archives hold.

Source: Antonelli et al., The Medical Segmentation Decathlon, Nature Communications 13 (2022), tables 1 and 2;
http://medicaldecathlon.com (data, licence); the ``dataset.json`` of each task (channels, label values). That the
leaderboard wants one folder per task, and all ten: github.com/Ziyan-Huang/FLARE22, issue 2.
"""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoseg.challenges.base import Challenge, Official, OfficialCase, Submission
from autoseg.data.dataset_json import read_json
from autoseg.data.io import image_stem
from autoseg.errors import DatasetError

SOURCE = "http://medicaldecathlon.com"
LICENCE = "CC BY-SA 4.0"
WHERE = (
    "The leaderboard (https://decathlon-10.grand-challenge.org) takes all ten tasks in one archive: unpack the ten "
    "that were packed here side by side, and zip their folders"
)


def _recognise(folder: Path, *, task: str) -> bool:
    """Tell a task's folder by its name, or by the name that its dataset.json says."""
    if not ((folder / "dataset.json").is_file() and (folder / "imagesTr").is_dir()):
        return False
    if folder.name.casefold() == task.casefold():
        return True
    if folder.name.casefold().startswith("task"):
        return False
    try:
        content = read_json(folder / "dataset.json")
    except DatasetError:
        return False
    listed = isinstance(content, Mapping) and isinstance(content.get("training"), list)
    return listed and _letters(content.get("name")) in _names(task)


def _letters(name: Any) -> str:
    return "".join(letter for letter in str(name).casefold() if letter.isalpha())


def _names(task: str) -> set[str]:
    """Give the names by which dataset.json calls a task: mostly the folder's, BRATS for the first."""
    own = _letters(task.partition("_")[2])
    return {own, "brats"} if own == "braintumour" else {own}


def _read(root: Path) -> Official:
    """List the cases that dataset.json names.

    Raises:
        DatasetError: its lists cannot be understood.
    """
    path = root / "dataset.json"
    content = read_json(path)
    listed = content.get("training") if isinstance(content, Mapping) else None
    if not isinstance(listed, list):
        raise DatasetError(f"{path} has no list training. Take the file of the download")
    cases = []
    for entry in listed:
        if not isinstance(entry, Mapping) or not {"image", "label"} <= set(entry):
            raise DatasetError(f"{path}: {entry!r} under training is no pair of image and label. Take the download's")
        cases.append(_case(root, str(entry["image"]), str(entry["label"])))
    tests = content.get("test") or []
    named = [str(entry.get("image") if isinstance(entry, Mapping) else entry) for entry in tests]
    if not any((root / name).exists() for name in named):
        return Official(cases=tuple(cases), notes=("none of the listed test images is there",) if named else ())
    return Official(cases=tuple(cases), tests=tuple(_case(root, name) for name in named))


def _case(root: Path, image: str, label: str | None = None) -> OfficialCase:
    files = [root / name.removeprefix("./") for name in (image, label) if name is not None]
    return OfficialCase(id=image_stem(files[0]), images=(files[0],), label=files[1] if label is not None else None)


def _task(name: str, folder: str, protocol: str, channels: tuple[str, ...], labels: Mapping[str, int]) -> Challenge:
    return Challenge(
        name=name,
        title=f"Medical Segmentation Decathlon, {folder}",
        source=SOURCE,
        licence=LICENCE,
        protocol=protocol,
        expects=f"the folder {folder} with dataset.json, imagesTr/, labelsTr/ and imagesTs/",
        channels=channels,
        labels={"background": 0, **labels},
        recognise=functools.partial(_recognise, task=folder),
        read=_read,
        submission=Submission(name=lambda case: f"{folder}/{case}.nii.gz", where=WHERE),
    )


BRAIN_TUMOUR = _task(
    "msd01",
    "Task01_BrainTumour",
    "msd-brain",
    ("FLAIR", "T1w", "T1gd", "T2w"),
    {"edema": 1, "non-enhancing tumour": 2, "enhancing tumour": 3},
)
HEART = _task("msd02", "Task02_Heart", "msd-heart", ("MRI",), {"left atrium": 1})
LIVER = _task("msd03", "Task03_Liver", "msd-liver", ("CT",), {"liver": 1, "tumour": 2})
HIPPOCAMPUS = _task("msd04", "Task04_Hippocampus", "msd-hippocampus", ("MRI",), {"anterior": 1, "posterior": 2})
PROSTATE = _task(
    "msd05", "Task05_Prostate", "msd-prostate", ("T2", "ADC"), {"peripheral zone": 1, "transition zone": 2}
)
LUNG = _task("msd06", "Task06_Lung", "msd-lung", ("CT",), {"tumour": 1})
PANCREAS = _task("msd07", "Task07_Pancreas", "msd-pancreas", ("CT",), {"pancreas": 1, "tumour": 2})
HEPATIC_VESSEL = _task("msd08", "Task08_HepaticVessel", "msd-hepatic-vessel", ("CT",), {"vessel": 1, "tumour": 2})
SPLEEN = _task("msd09", "Task09_Spleen", "msd-spleen", ("CT",), {"spleen": 1})
COLON = _task("msd10", "Task10_Colon", "msd-colon", ("CT",), {"tumour": 1})
