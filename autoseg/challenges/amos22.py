"""AMOS22: 15 abdominal organs in CT (task 1), in CT and MRI (task 2).

    amos22/
    ├── dataset.json                    lists training, validation and test
    ├── imagesTr/amos_0001.nii.gz …     labelsTr/amos_0001.nii.gz …      200 CT, 40 MRI
    ├── imagesVa/amos_0008.nii.gz …     labelsVa/amos_0008.nii.gz …      100 CT, 20 MRI; labelled after the challenge
    └── imagesTs/amos_0002.nii.gz …                                      200 CT, 40 MRI

Scans up to number 500 are CT, those above are MRI. Training and validation cases become the dataset; the organisers'
division is its one fold. nnU-Net leaves that division and cross-validates over all of them: take ``splits_final.json``
away to do the same.

Source: https://amos22.grand-challenge.org (Dataset, Evaluation); Ji et al., AMOS: A large-scale abdominal multi-organ
benchmark, NeurIPS 2022; data and licence: https://zenodo.org/records/7262581.
"""

from pathlib import Path

from autoseg.challenges.base import Challenge, Official, OfficialCase, Submission
from autoseg.challenges.official_folders import files_matching, pair

LAST_CT = 500
NAME = r"amos_(\d{4})\.nii\.gz"


def _recognise(folder: Path) -> bool:
    return bool(files_matching(folder / "imagesTr", NAME)) and (folder / "imagesVa").is_dir()


def _case_id(number: str) -> str:
    return f"amos_{number}"


def _read(root: Path, *, ct_only: bool = False) -> Official:
    cases: list[OfficialCase] = []
    problems: list[str] = []
    sides: list[list[str]] = []
    for part in ("Tr", "Va"):
        images, labels = (_numbered(root / f"{kind}{part}", ct_only=ct_only) for kind in ("images", "labels"))
        whole, faults = pair(images, labels, _case_id)
        cases += whole
        problems += faults
        sides.append([case.id for case in whole])
    tests = _numbered(root / "imagesTs", ct_only=ct_only)
    return Official(
        cases=tuple(cases),
        tests=tuple(OfficialCase(id=_case_id(number), images=(path,)) for number, path in tests.items()),
        problems=tuple(problems),
        notes=("the one fold is the organisers' training and validation set",) if all(sides) else (),
        splits=((sides[0], sides[1]),) if all(sides) else (),
    )


def _read_ct(root: Path) -> Official:
    return _read(root, ct_only=True)


def _numbered(folder: Path, *, ct_only: bool) -> dict[str, Path]:
    found = files_matching(folder, NAME)
    return {number: path for number, path in found.items() if not ct_only or int(number) <= LAST_CT}


def _challenge(name: str, title: str, channel: str, num_cases: int, num_tests: int, *, ct_only: bool) -> Challenge:
    return Challenge(
        name=name,
        title=title,
        source="https://amos22.grand-challenge.org",
        licence="CC BY 4.0",
        protocol="amos",
        expects="a folder amos22 with imagesTr/amos_0001.nii.gz, labelsTr/, imagesVa/, labelsVa/ and imagesTs/",
        channels=(channel,),
        labels={
            "background": 0,
            "spleen": 1,
            "right kidney": 2,
            "left kidney": 3,
            "gallbladder": 4,
            "esophagus": 5,
            "liver": 6,
            "stomach": 7,
            "aorta": 8,
            "postcava": 9,
            "pancreas": 10,
            "right adrenal gland": 11,
            "left adrenal gland": 12,
            "duodenum": 13,
            "bladder": 14,
            "prostate/uterus": 15,
        },
        recognise=_recognise,
        read=_read_ct if ct_only else _read,
        submission=Submission(
            name=lambda case: f"results/{case}.nii.gz",
            where="Upload it at https://amos22.grand-challenge.org (the layout is that of the validation phase; the "
            "test phase took containers)",
        ),
        num_cases=num_cases,
        num_tests=num_tests,
    )


AMOS22 = _challenge("amos22", "AMOS22, task 2 (CT and MRI)", "CT or MRI", 360, 240, ct_only=False)
AMOS22_CT = _challenge("amos22-ct", "AMOS22, task 1 (CT)", "CT", 300, 200, ct_only=True)
