"""KiTS23, kidneys, tumours and cysts in CT: three structures that contain each other.

Layout: ``dataset/case_00000/{imaging.nii.gz, segmentation.nii.gz, instances/}``. The organisers' repository brings the
segmentations; its command ``kits23_download_data`` fetches the images. ``instances/`` (several annotators) is not used.
Labels: 1 kidney, 2 tumour, 3 cyst. Scored, and therefore learned, are kidney with all masses (1, 2, 3), masses (2, 3)
and tumour (2); they are painted over each other with 1, 3 and 2, the organisers' own order.
Test images: one flat folder, whose names the submission repeats.

Source: github.com/neheller/kits23: ``README.md`` (layout, licence), ``kits23/configuration/labels.py`` (labels,
    regions, order, tolerances), ``kits23/evaluation/metrics.py`` and ``entry_point.py`` (predictions are
    ``case_XXXXX.nii.gz``), ``kits23/check_submission_folder.py`` (shape and affine as the test image's, values 0 to 3);
    numbers: kits-challenge.org (489 for training, 110 for testing).
Unknown: the names of the test images are not published; that they are ``case_XXXXX.nii.gz``, too, follows from the two
    scripts. KiTS19 and FLARE21 use the same names of folders and files with other labels.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from autoseg.challenges.base import Challenge, Official, OfficialCase, Submission
from autoseg.challenges.official_folders import files_matching, subfolders

CASE = r"case_\d{5}"
IMAGE, LABEL, INSTANCES = "imaging.nii.gz", "segmentation.nii.gz", "instances"


def recognise(folder: Path) -> bool:
    """Say whether a folder holds cases with their segmentations, test images, or a folder that does."""
    return any(any((case / LABEL).is_file() for case in _cases(place)) or _tests(place) for place in _places(folder))


def read(folder: Path) -> Official:
    """List the cases and the test images of a folder and of those in it."""
    cases = [case for place in _places(folder) for case in _cases(place)]
    problems = [
        f"case {case.name}: {case / IMAGE} missing; the organisers' command kits23_download_data fetches it"
        for case in cases
        if not (case / IMAGE).exists()
    ]
    notes = [f"no case has a folder {INSTANCES}/; data of KiTS19, which know no cysts, look the same otherwise"]
    tests = {name: path for place in _places(folder) for name, path in _tests(place).items()}
    return Official(
        cases=tuple(
            OfficialCase(id=case.name, images=(case / IMAGE,), label=case / LABEL)
            for case in cases
            if (case / IMAGE).exists()
        ),
        tests=tuple(OfficialCase(id=name, images=(path,)) for name, path in sorted(tests.items())),
        problems=(*problems, *_twice(cases)),
        notes=tuple(notes if cases and not any((case / INSTANCES).is_dir() for case in cases) else ()),
    )


def _places(folder: Path) -> list[Path]:
    return [folder, *(entry for entry in subfolders(folder) if not re.fullmatch(CASE, entry.name))]


def _cases(folder: Path) -> list[Path]:
    return [entry for entry in subfolders(folder) if re.fullmatch(CASE, entry.name)]


def _tests(folder: Path) -> dict[str, Path]:
    return files_matching(folder, rf"({CASE})\.nii\.gz")


def _twice(cases: Sequence[Path]) -> list[str]:
    """Say which cases are in two folders."""
    known: dict[str, Path] = {}
    return [
        f"case {case.name}: it is in {known[case.name].parent} and in {case.parent}"
        for case in cases
        if known.setdefault(case.name, case) != case
    ]


KITS23 = Challenge(
    name="kits23",
    title="KiTS23",
    source="https://kits-challenge.org/kits23/",
    licence="CC BY-NC-SA",
    protocol="kits23",
    expects=f"folders case_00000/ with {IMAGE} and {LABEL} (for pack also the test images, case_XXXXX.nii.gz)",
    channels=("CT",),
    labels={"background": 0, "kidney and mass": (1, 2, 3), "mass": (2, 3), "tumor": 2},
    extra={"regions_class_order": [1, 3, 2]},
    recognise=recognise,
    read=read,
    submission=Submission(
        name=lambda case: f"{case}.nii.gz",
        where="kits-challenge.org took one file per test image, named like it, in July 2023 (the challenge is over)",
    ),
    num_cases=489,
    num_tests=110,
)
