"""LiTS: liver and its tumours in CT.

    Training Batch 1/  volume-0.nii  segmentation-0.nii …     0 to 27
    Training Batch 2/  volume-28.nii  segmentation-28.nii …   to 130
    LITS-Challenge-Test-Data/  test-volume-0.nii …            0 to 69

The folders have had several names; the files are looked for in the folder that is named and below it, and those of the
test set are told by theirs. Some headers lie elsewhere than their image's: what ``autoseg check`` says of them holds.

Source: Bilic et al., The Liver Tumor Segmentation Benchmark (LiTS), Medical Image Analysis 84 (2023), arXiv 1901.04056;
https://competitions.codalab.org/competitions/17094. Archive without folders: github.com/PatrickChrist/LITS-CHALLENGE,
issue 6.
"""

from collections.abc import Iterator
from pathlib import Path

from autoseg.challenges.base import Challenge, Official, OfficialCase, Submission
from autoseg.challenges.official_folders import files_matching, pair, subfolders
from autoseg.errors import DatasetError

VOLUME, SEGMENTATION = r"volume-(\d+)\.nii(?:\.gz)?", r"segmentation-(\d+)\.nii(?:\.gz)?"
TEST = r"test-volume-(\d+)\.nii(?:\.gz)?"
DEPTH = 2
"""Folders below the named one in which the batches lie."""


def _folders(root: Path) -> Iterator[Path]:
    level = [root]
    for _ in range(DEPTH + 1):
        yield from level
        level = [entry for folder in level for entry in subfolders(folder)]


def _recognise(folder: Path) -> bool:
    places = list(_folders(folder))
    has_volume = any(files_matching(place, VOLUME) for place in places)
    return has_volume and any(files_matching(place, SEGMENTATION) or files_matching(place, TEST) for place in places)


def _gather(root: Path, pattern: str) -> dict[str, Path]:
    """Join the batches.

    Raises:
        DatasetError: two of them hold the same number.
    """
    found: dict[str, Path] = {}
    for folder in _folders(root):
        for number, path in files_matching(folder, pattern).items():
            if number in found:
                raise DatasetError(f"{found[number]} and {path} have the same name. Keep one of them")
            found[number] = path
    return found


def _read(root: Path) -> Official:
    cases, problems = pair(_gather(root, VOLUME), _gather(root, SEGMENTATION), lambda number: f"volume-{number}")
    tests = [OfficialCase(id=f"test-volume-{number}", images=(path,)) for number, path in _gather(root, TEST).items()]
    return Official(cases=tuple(cases), tests=tuple(tests), problems=tuple(problems))


LITS = Challenge(
    name="lits",
    title="LiTS",
    source="https://competitions.codalab.org/competitions/17094",
    licence="CC BY-NC-ND 4.0, as lists of datasets have it; the organisers' page was not at hand",
    protocol="lits",
    expects="volume-0.nii and segmentation-0.nii (Training Batch 1 and 2), and test-volume-0.nii",
    channels=("CT",),
    labels={"background": 0, "liver": 1, "tumour": 2},
    recognise=_recognise,
    read=_read,
    submission=Submission(
        name=lambda case: f"{case.replace('test-volume', 'test-segmentation')}.nii",
        where="The files lie in the archive without a folder, as the scoring program wants it. Whether it still runs "
        "somewhere is not known: the Codalab server that ran it takes no submissions any more",
    ),
    num_cases=131,
    num_tests=70,
)
