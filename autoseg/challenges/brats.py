"""BraTS, brain tumours in MRI: 2021 (Dice and HD95 of three regions) and 2023, adult glioma (lesion-wise).

Layout: one folder per scan, which holds its four images and, for training, the label::

    BraTS2021_00000/  BraTS2021_00000_{t1,t1ce,t2,flair,seg}.nii.gz                             2021
    BraTS-GLI-00000-000/  BraTS-GLI-00000-000-{t1n,t1c,t2w,t2f,seg}.nii.gz                      2023

Training and validation come as two archives, each a folder of such folders; the validation scans have no label.
Labels: 1 necrotic core, 2 oedema, 4 (2021) or 3 (2023) enhancing tumour. What is scored are three regions that lie in
each other, and they are what is learned: whole tumour, tumour core (1 and enhancing), enhancing tumour. Label values
stay the organisers' own, so nothing has to be mapped back in a submission.

Source, 2021: the organisers' repositories in github.com/Sage-Bionetworks-Challenges: labels and regions in
    ``brats-dream-challenge-website/wiki/610872-ChallengeQuestion.md``, a submission in
    ``…/612082-SubmissionProcessValidationPhase.md`` and ``brats-dream-challenge-infra/Docker/validate.py``
    (``ID.nii.gz``, all in one zip or tarball); file names and the order of the channels: nnU-Net's
    ``Dataset137_BraTS21.py``; 1251 scans for training, 219 for validation: Baid et al. 2021 (arXiv 2107.02314).
Source, 2023: ``evaluation/lesionwise/validate.py`` in github.com/Sage-Bionetworks-Challenges/brats2023 (a submission's
    names end in ``ID-timepoint.nii.gz``, 240×240×155 voxels with the images' own header); labels, regions and metric:
    synapse.org/Synapse:syn51156910/discussion/threadId=10357 and github.com/rachitsaluja/BraTS-2023-Metrics.
Unknown: the licence is not stated on the pages above; the data are given out on Synapse after registration. The
    numbers of 2023 are not checked, since no page we read states them. Of 2024, which has a fourth label, time points
    count from 100 in the copies we know of; such scans are not taken for those of 2023.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from autoseg.challenges.base import Challenge, Official, OfficialCase, Submission
from autoseg.challenges.official_folders import subfolders


@dataclass(frozen=True, kw_only=True)
class Naming:
    """How a year names its files.

    Attributes:
        case: the whole name of a scan's folder, as a regular expression.
        separator: between the scan's name and what a file holds.
        channels: what the files of the channels are called, in order.
        patient: scan → patient, where a patient may have been scanned several times.
    """

    case: str
    separator: str
    channels: tuple[str, ...]
    patient: Callable[[str], str] | None = None

    def file(self, folder: Path, what: str) -> Path:
        """Give the place of one file of a scan."""
        return folder / f"{folder.name}{self.separator}{what}.nii.gz"

    def scans(self, folder: Path) -> list[Path]:
        """List the folders of scans that lie directly in a folder."""
        return [entry for entry in subfolders(folder) if re.fullmatch(self.case, entry.name)]


NAMES_2021 = Naming(case=r"BraTS2021_\d{5}", separator="_", channels=("t1", "t1ce", "t2", "flair"))
NAMES_2023 = Naming(
    case=r"BraTS-GLI-\d{5}-0\d\d",
    separator="-",
    channels=("t1n", "t1c", "t2w", "t2f"),
    patient=lambda scan: scan.rpartition("-")[0],
)


def recognise_2021(folder: Path) -> bool:
    """Say whether a folder holds scans of BraTS 2021, or folders that do."""
    return _recognise(folder, NAMES_2021)


def recognise_2023(folder: Path) -> bool:
    """Say whether a folder holds adult gliomas of BraTS 2023, or folders that do."""
    return _recognise(folder, NAMES_2023)


def read_2021(folder: Path) -> Official:
    """List the scans of BraTS 2021; those of an archive without any label are the test scans."""
    return _read(folder, NAMES_2021)


def read_2023(folder: Path) -> Official:
    """List the scans of BraTS 2023; scans of one patient are one group."""
    return _read(folder, NAMES_2023)


def _recognise(folder: Path, names: Naming) -> bool:
    return any(names.scans(place) for place in (folder, *subfolders(folder)))


def _read(folder: Path, names: Naming) -> Official:
    cases: list[OfficialCase] = []
    tests: list[OfficialCase] = []
    problems, places = [], dict[str, Path]()
    for place in (folder, *subfolders(folder)):
        scans = names.scans(place)
        training = any(names.file(scan, "seg").exists() for scan in scans)
        for scan in scans:
            if scan.name in places:
                problems.append(f"case {scan.name}: it is in {places[scan.name]} and in {place}")
                continue
            places[scan.name] = place
            (cases if training else tests).append(_case(scan, names, training))
    return Official(cases=tuple(cases), tests=tuple(tests), problems=tuple(problems))


def _case(scan: Path, names: Naming, training: bool) -> OfficialCase:
    return OfficialCase(
        id=scan.name,
        images=tuple(names.file(scan, channel) for channel in names.channels),
        label=names.file(scan, "seg") if training else None,
        group=names.patient(scan.name) if names.patient else None,
    )


BRATS2021 = Challenge(
    name="brats2021",
    title="BraTS 2021",
    source="https://www.synapse.org/#!Synapse:syn25829067/wiki/610863",
    licence="not stated; given out on Synapse after registration",
    protocol="brats2021",
    expects="folders BraTS2021_00000/ with BraTS2021_00000_t1.nii.gz, _t1ce, _t2, _flair and, for training, _seg",
    channels=("T1", "T1ce", "T2", "FLAIR"),
    labels={"background": 0, "whole tumor": (1, 2, 4), "tumor core": (1, 4), "enhancing tumor": 4},
    extra={"regions_class_order": [2, 1, 4]},
    recognise=recognise_2021,
    read=read_2021,
    submission=Submission(
        name=lambda case: f"{case}.nii.gz",
        where="Synapse, project syn25829067: one archive with ID.nii.gz per scan (the challenge is over)",
    ),
    num_cases=1251,
    num_tests=219,
)

BRATS2023 = Challenge(
    name="brats2023",
    title="BraTS 2023, adult glioma",
    source="https://www.synapse.org/Synapse:syn51156910/wiki/627000",
    licence="not stated; given out on Synapse after registration",
    protocol="brats2023",
    expects="folders BraTS-GLI-00000-000/ with BraTS-GLI-00000-000-t1n.nii.gz, -t1c, -t2w, -t2f, and -seg for training",
    channels=("T1", "T1ce", "T2", "FLAIR"),
    labels={"background": 0, "whole tumor": (1, 2, 3), "tumor core": (1, 3), "enhancing tumor": 3},
    extra={"regions_class_order": [2, 1, 3]},
    recognise=recognise_2023,
    read=read_2023,
    submission=Submission(
        name=lambda case: f"{case}.nii.gz",
        where="Synapse, project syn51156910: one archive with a file per scan, named like it (the challenge is over)",
    ),
)
