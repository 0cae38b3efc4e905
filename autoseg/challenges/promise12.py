"""PROMISE12: the prostate in T2-weighted MRI of several centres.

    TrainingData_Part1/ … Part3/   Case00.mhd  Case00.raw  Case00_segmentation.mhd  Case00_segmentation.raw …  00 to 49
    TestData/                      Case00.mhd  Case00.raw …                                                   00 to 29

Test cases carry the same names as training cases: they are told by their folder, whose name has ``test`` in it.

Source: https://promise12.grand-challenge.org/Details/; Litjens et al., Evaluation of prostate segmentation algorithms
for MRI: the PROMISE12 challenge, Medical Image Analysis 18 (2014). That a submission is MetaImage with its voxels in a
file of their own: nnU-Net v1, ``dataset_conversion/Task024_Promise2012.py``. How its files are called is not known to
us: they are named here as the labels of the training data are.
"""

from pathlib import Path

from autoseg.challenges.base import Challenge, Official, OfficialCase, Submission
from autoseg.challenges.official_folders import files_matching, pair, subfolders
from autoseg.errors import DatasetError

IMAGE, LABEL = r"(Case\d{2})\.mhd", r"(Case\d{2})_segmentation\.mhd"


def _folders(root: Path) -> list[Path]:
    return [root, *subfolders(root), *(below for folder in subfolders(root) for below in subfolders(folder))]


def _is_test(folder: Path, root: Path) -> bool:
    return any("test" in part.casefold() for part in folder.relative_to(root).parts)


def _recognise(folder: Path) -> bool:
    return any(files_matching(place, LABEL) for place in _folders(folder))


def _read(root: Path) -> Official:
    images: dict[str, Path] = {}
    labels: dict[str, Path] = {}
    tests: dict[str, Path] = {}
    for folder in _folders(root):
        _join(tests if _is_test(folder, root) else images, files_matching(folder, IMAGE))
        _join({} if _is_test(folder, root) else labels, files_matching(folder, LABEL))
    cases, problems = pair(images, labels)
    return Official(
        cases=tuple(cases),
        tests=tuple(OfficialCase(id=name, images=(path,)) for name, path in sorted(tests.items())),
        problems=tuple(problems),
    )


def _join(known: dict[str, Path], found: dict[str, Path]) -> None:
    twice = sorted(set(known) & set(found))
    if twice:
        raise DatasetError(f"{known[twice[0]]} and {found[twice[0]]} are the same case. Keep one of them")
    known |= found


PROMISE12 = Challenge(
    name="promise12",
    title="PROMISE12",
    source="https://promise12.grand-challenge.org",
    licence="not stated; registration at the challenge",
    protocol="promise12",
    expects="Case00.mhd, Case00.raw, Case00_segmentation.mhd and Case00_segmentation.raw (TrainingData_Part1 to 3), "
    "and a folder TestData with Case00.mhd",
    channels=("T2",),
    labels={"background": 0, "prostate": 1},
    recognise=_recognise,
    read=_read,
    submission=Submission(
        name=lambda case: f"{case}_segmentation.mhd",
        where="Upload it at https://promise12.grand-challenge.org (names as in the training data; the organisers' own "
        "page on them was not at hand)",
    ),
    num_cases=50,
    num_tests=30,
)
