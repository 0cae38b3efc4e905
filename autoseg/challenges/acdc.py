"""ACDC: heart in cine MRI. Two frames of each patient, end of diastole and end of systole, are annotated.

    ACDC/database/
    ├── training/patient001/  Info.cfg  patient001_4d.nii.gz  patient001_frame01.nii.gz  patient001_frame01_gt.nii.gz …
    └── testing/patient101/   the same; ``_gt`` files since 2023, before that they were kept back

``Info.cfg`` says which frame is which (``ED: 1``, ``ES: 12``); the earlier frame need not be the diastole. A case is a
frame, named ``patient001_ED`` as in a submission; the patient is its group.

Source: https://www.creatis.insa-lyon.fr/Challenge/acdc/databases.html; Bernard et al., Deep learning techniques for
automatic MRI cardiac multi-structures segmentation and diagnosis: is the problem solved?, IEEE TMI 37 (2018). Names in
a submission: nnU-Net v1, ``dataset_conversion/Task027_AutomaticCardiacDetectionChallenge.py``. Folds: nnU-Net v2,
``dataset_conversion/Dataset027_ACDC.py``; the organisers have none.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from autoseg.challenges.base import Challenge, Official, OfficialCase, Submission
from autoseg.challenges.official_folders import files_matching, subfolders

PHASES = ("ED", "ES")
NUM_FOLDS, SEED = 5, 1234  # nnU-Net's, for ACDC alone


def _recognise(folder: Path) -> bool:
    patients = subfolders(folder / "training") if (folder / "training").is_dir() else []
    return any(re.fullmatch(r"patient\d{3}", path.name) and _frames(path) for path in patients)


def _frames(patient: Path) -> dict[str, Path]:
    return files_matching(patient, rf"{patient.name}_frame(\d+)\.nii(?:\.gz)?")


def _read(root: Path) -> Official:
    cases, problems = _patients(root / "training", labelled=True)
    tests, more = _patients(root / "testing", labelled=False)
    notes = ("folds as nnU-Net's for ACDC (by patient); the organisers have none",)
    return Official(
        cases=tuple(cases),
        tests=tuple(tests),
        problems=(*problems, *more),
        notes=notes,
        splits=tuple(_splits(cases)),
    )


def _patients(folder: Path, *, labelled: bool) -> tuple[list[OfficialCase], list[str]]:
    """List both frames of every patient; what is not whole becomes a line."""
    cases: list[OfficialCase] = []
    problems: list[str] = []
    patients = subfolders(folder) if folder.is_dir() else []
    for patient in patients:
        if not re.fullmatch(r"patient\d{3}", patient.name):
            continue
        info = patient / "Info.cfg"
        numbers = _frame_numbers(info)
        if set(numbers) != set(PHASES):
            problems.append(f"case {patient.name}: {info} does not say which frames are ED and ES")
            continue
        frames, labels = _frames(patient), files_matching(patient, rf"{patient.name}_frame(\d+)_gt\.nii(?:\.gz)?")
        for phase in PHASES:
            number = numbers[phase]
            image, label = frames.get(number), labels.get(number)
            name = f"{patient.name}_{phase}"
            if image is None:
                problems.append(f"case {name}: {patient}/{patient.name}_frame{number}.nii.gz missing")
            elif label is None and labelled:
                problems.append(f"case {name}: {patient}/{patient.name}_frame{number}_gt.nii.gz missing")
            else:
                cases.append(OfficialCase(id=name, images=(image,), label=label, group=patient.name))
    return cases, problems


def _frame_numbers(info: Path) -> dict[str, str]:
    """Read phase → number of its frame, two digits as in the files' names."""
    text = info.read_text(encoding="utf-8", errors="replace") if info.is_file() else ""
    return {phase: f"{int(number):02d}" for phase, number in re.findall(r"^(ED|ES)\s*:\s*(\d+)", text, re.MULTILINE)}


def _splits(cases: Sequence[OfficialCase]) -> list[tuple[list[str], list[str]]]:
    """Make nnU-Net's folds: patients shuffled with a fixed seed, every fifth one validates; none of under five."""
    patients = np.unique([case.group for case in cases]) if cases else np.array([])
    if len(patients) < NUM_FOLDS:
        return []
    np.random.RandomState(SEED).shuffle(patients)
    splits = []
    for fold in range(NUM_FOLDS):
        held_out = set(patients[fold::NUM_FOLDS].tolist())
        train = [case.id for case in cases if case.group not in held_out]
        splits.append((train, [case.id for case in cases if case.group in held_out]))
    return splits


ACDC = Challenge(
    name="acdc",
    title="ACDC",
    source="https://www.creatis.insa-lyon.fr/Challenge/acdc/",
    licence="research use, with citation (the organisers' terms on the download page)",
    protocol="acdc",
    expects="folders training/ and testing/ with patient001/Info.cfg and patient001/patient001_frame01.nii.gz",
    channels=("cineMRI",),
    labels={"background": 0, "right ventricle": 1, "myocardium": 2, "left ventricle": 3},
    recognise=_recognise,
    read=_read,
    submission=Submission(
        name=lambda case: f"{case}.nii.gz",
        where="Upload it at https://humanheart-project.creatis.insa-lyon.fr (whether results are still scored there is "
        "not known; the test labels are part of the download since 2023: challenge score)",
    ),
    num_cases=200,
    num_tests=100,
)
