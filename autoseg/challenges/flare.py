"""FLARE 2022 and 2023, abdominal CT: 13 organs from 50 labelled scans; 13 organs and tumours, partly labelled.

Layout of 2022 (``FLARE22Train.zip`` holds the two folders of the labelled scans alone)::

    FLARE2022/
    ├── Training/FLARE22_LabeledCase50/   images/FLARE22_Tr_0001_0000.nii.gz …   labels/FLARE22_Tr_0001.nii.gz …
    ├── Training/FLARE22_UnlabeledCase…/  Case_00001_0000.nii.gz …               2000 scans, left out
    ├── Tuning/                           images/FLARETs_0001_0000.nii.gz …      labels/FLARETs_0001.nii.gz …
    └── Testing/                          FLARETs_0001_0000.nii.gz …             other scans under the same names

Layout of 2023::

    imagesTr2200/FLARE23_0001_0000.nii.gz …   labelsTr2200/FLARE23_0001.nii.gz …
    validation/FLARE23Ts_0001_0000.nii.gz …   unlabeledTr1800/FLARE23_2201.nii.gz …

In 2023 a scan is annotated for some organs, for tumours, or for both; what a file does not hold may be there and not
annotated. So a case counts as annotated for the classes its label file holds, and for no others (``labels_present``).

Source: github.com/JunMa11/FLARE: ``README.md`` (organs, numbers), ``FLARE22/Evaluation/FLARE22_DSC_NSD_Eval.py`` and
    ``FLARE23/FLARE23_DSC_NSD_Eval.py`` (values of the labels, tolerances, predictions are named like the labels);
    flare22.grand-challenge.org/Dataset and /Rules; layouts: the dataset pages of github.com/openmedlab and readers of
    participants; zenodo.org/records/7860267 (FLARE22Train); Ma et al. 2024 (arXiv 2408.12534).
Unknown: which classes were looked for and not found in a scan of 2023 is not published with the data. That in tumour
    scans not every tumour is marked is said on the dataset page, but not in which. The ranking counts run time and
    memory, too, which are not measured here. FLARE22's licence is not stated beyond its rules.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from autoseg.challenges.base import Challenge, File, Official, OfficialCase, Submission
from autoseg.challenges.official_folders import files_matching, pair, subfolders

ORGANS = {
    "liver": 1,
    "right kidney": 2,
    "spleen": 3,
    "pancreas": 4,
    "aorta": 5,
    "inferior vena cava": 6,
    "right adrenal gland": 7,
    "left adrenal gland": 8,
    "gallbladder": 9,
    "esophagus": 10,
    "stomach": 11,
    "duodenum": 12,
    "left kidney": 13,
}
"""Value of each organ. Source: order of the organs in the organisers' evaluation script, counted from 1."""

TUMOR = {"tumor": 14}

IMAGE_2022, LABEL_2022 = r"(FLARE22_Tr_\d{4})_0000\.nii\.gz", r"(FLARE22_Tr_\d{4})\.nii\.gz"
TUNING_IMAGE, TUNING_LABEL = r"(FLARETs_\d{4})_0000\.nii\.gz", r"(FLARETs_\d{4})\.nii\.gz"
IMAGES_2023, LABELS_2023, TESTS_2023 = "imagesTr2200", "labelsTr2200", "validation"
IMAGE_2023, LABEL_2023 = r"(FLARE23_\d{4})(?:_0000)?\.nii\.gz", r"(FLARE23_\d{4})\.nii\.gz"
TEST_2023 = r"(FLARE23Ts_\d{4})(?:_0000)?\.nii\.gz"


def recognise_2022(folder: Path) -> bool:
    """Say whether a folder holds the labelled scans of FLARE22, itself or under ``Training``."""
    return any(files_matching(place / "images", IMAGE_2022) for place in _labelled_places(folder)) or bool(
        files_matching(folder / "Tuning" / "images", TUNING_IMAGE)
    )


def read_2022(folder: Path) -> Official:
    """List the labelled scans for training and those of ``Tuning`` for testing."""
    images: dict[str, Path] = {}
    labels: dict[str, Path] = {}
    for place in _labelled_places(folder):
        images |= files_matching(place / "images", IMAGE_2022)
        labels |= files_matching(place / "labels", LABEL_2022)
    cases, problems = pair(images, labels)
    tuning = folder / "Tuning"
    known = files_matching(tuning / "labels", TUNING_LABEL)
    tests = [
        OfficialCase(id=name, images=(path,), label=known.get(name))
        for name, path in files_matching(tuning / "images", TUNING_IMAGE).items()
    ]
    notes = [f"the scans of {folder / 'Testing'} are left out: they have the names of those of Tuning"]
    return Official(
        cases=tuple(cases),
        tests=tuple(tests),
        problems=tuple(problems),
        notes=tuple(notes if (folder / "Testing").is_dir() else ()),
    )


def recognise_2023(folder: Path) -> bool:
    """Say whether a folder holds the partly labelled scans of FLARE23, or those of its validation."""
    return bool(files_matching(folder / IMAGES_2023, IMAGE_2023) or files_matching(folder / TESTS_2023, TEST_2023))


def read_2023(folder: Path) -> Official:
    """List the partly labelled scans for training and those of ``validation`` for testing."""
    cases, problems = pair(
        files_matching(folder / IMAGES_2023, IMAGE_2023), files_matching(folder / LABELS_2023, LABEL_2023)
    )
    tests = [
        OfficialCase(id=name, images=(path,)) for name, path in files_matching(folder / TESTS_2023, TEST_2023).items()
    ]
    notes = ("scans are annotated for some classes only: labels_present lists those that each label file holds",)
    return Official(cases=tuple(cases), tests=tuple(tests), problems=tuple(problems), notes=notes)


def annotated_2023(cases: Sequence[OfficialCase]) -> Mapping[str, Sequence[str]]:
    """Say for which classes each scan was annotated: those that its label file holds.

    Every label file is read, several at a time.

    Raises:
        DatasetError: label files cannot be read, or hold values that are no labels; all are listed.
    """
    from autoseg.data.parallel import for_each_case

    files = [(case.id, case.label) for case in cases if case.label is not None]
    return for_each_case(lambda label, _: _classes_in(label), files, "reading labels")


def _labelled_places(folder: Path) -> list[Path]:
    """Give the folders that may hold ``images`` and ``labels`` of the labelled scans."""
    training = folder / "Training"
    return [folder, *(subfolders(training) if training.is_dir() else [])]


def _classes_in(label: File) -> list[str]:
    from autoseg.data.io import open_label

    assert isinstance(label, Path)
    values = np.unique(open_label(label).read())
    return [name for name, value in (ORGANS | TUMOR).items() if value in values]


FLARE22 = Challenge(
    name="flare22",
    title="FLARE22",
    source="https://flare22.grand-challenge.org/",
    licence="not stated; rules at flare22.grand-challenge.org/Rules",
    protocol="flare22",
    expects="images/FLARE22_Tr_0001_0000.nii.gz and labels/FLARE22_Tr_0001.nii.gz, below "
    "Training/FLARE22_LabeledCase50 or alone; and Tuning/images/FLARETs_0001_0000.nii.gz",
    channels=("CT",),
    labels={"background": 0, **ORGANS},
    recognise=recognise_2022,
    read=read_2022,
    submission=Submission(
        name=lambda case: f"{case}.nii.gz",
        where="the organisers ran containers, which wrote these files (the challenge is over); the labels of Tuning "
        "are published: autoseg challenge score",
    ),
    num_cases=50,
    num_tests=50,
)

FLARE23 = Challenge(
    name="flare23",
    title="FLARE23",
    source="https://codalab.lisn.upsaclay.fr/competitions/12239",
    licence="not stated on the pages we could read; given out after registration",
    protocol="flare23",
    expects=f"{IMAGES_2023}/FLARE23_0001_0000.nii.gz, {LABELS_2023}/FLARE23_0001.nii.gz and "
    f"{TESTS_2023}/FLARE23Ts_0001_0000.nii.gz",
    channels=("CT",),
    labels={"background": 0, **ORGANS, **TUMOR},
    recognise=recognise_2023,
    read=read_2023,
    annotated=annotated_2023,
    submission=Submission(
        name=lambda case: f"{case}.nii.gz",
        where="codalab.lisn.upsaclay.fr/competitions/12239: segmentations of the validation scans; the test phase ran "
        "containers (the challenge is over)",
    ),
    num_cases=2200,
    num_tests=100,
)
