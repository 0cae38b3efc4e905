"""Public challenges: from the official folder to a dataset, and from predictions to scores and a submission."""

from pathlib import Path
from typing import TYPE_CHECKING

from autoseg.challenges import acdc, amos22, brats, btcv, flare, isbi2012, kits23, lits, msd, promise12
from autoseg.challenges.base import Challenge, File, Made, Official, OfficialCase, Submission
from autoseg.extensions import find

if TYPE_CHECKING:
    from autoseg.evaluation.folders import FolderComparison

__all__ = [
    "CHALLENGES",
    "Challenge",
    "File",
    "Made",
    "Official",
    "OfficialCase",
    "Submission",
    "find_challenge",
    "list_text",
    "pack",
    "prepare",
    "score",
]

CHALLENGES: dict[str, Challenge] = {
    "msd01": msd.BRAIN_TUMOUR,
    "msd02": msd.HEART,
    "msd03": msd.LIVER,
    "msd04": msd.HIPPOCAMPUS,
    "msd05": msd.PROSTATE,
    "msd06": msd.LUNG,
    "msd07": msd.PANCREAS,
    "msd08": msd.HEPATIC_VESSEL,
    "msd09": msd.SPLEEN,
    "msd10": msd.COLON,
    "acdc": acdc.ACDC,
    "amos22": amos22.AMOS22,
    "amos22-ct": amos22.AMOS22_CT,
    "brats2021": brats.BRATS2021,
    "brats2023": brats.BRATS2023,
    "kits23": kits23.KITS23,
    "lits": lits.LITS,
    "btcv": btcv.BTCV,
    "flare22": flare.FLARE22,
    "flare23": flare.FLARE23,
    "promise12": promise12.PROMISE12,
    "isbi2012": isbi2012.ISBI2012,
}
"""Challenge of each name on the command line."""


def find_challenge(name: str) -> Challenge:
    """Find a challenge by name.

    Raises:
        OptionError: nothing has that name; the message lists the names there are.
    """
    return find(CHALLENGES, "challenge", name)


def list_text() -> str:
    """List the challenges for the terminal: name, title, protocol, where the data comes from."""
    rows = [(name, item.title, item.protocol, item.source) for name, item in CHALLENGES.items()]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    cells = (
        "  ".join((*(text.ljust(width) for text, width in zip(row[:3], widths, strict=True)), row[3])) for row in rows
    )
    return "\n".join(cells)


def prepare(name: str, raw: Path, out: Path) -> Path:
    """Lay the official folder of a challenge out as a dataset that ``autoseg run`` takes.

    Args:
        name: of the challenge.
        raw: the official folder as downloaded and unpacked; nothing in it is changed.
        out: the dataset's folder. What is there from an earlier call is kept, what a user wrote there too.

    Returns:
        ``out``.

    Raises:
        OptionError: no challenge has that name.
        DatasetError: ``raw`` is not the official folder, cases are not whole, or ``out`` holds something else.
    """
    from autoseg.challenges.preparing import prepare_challenge

    return prepare_challenge(find_challenge(name), Path(raw), Path(out))


def score(name: str, predictions: Path, labels: Path) -> "FolderComparison":
    """Score predictions by the official protocol.

    Args:
        name: of the challenge.
        predictions: folder with one segmentation per case, named by case, values as in the prepared dataset.
        labels: the prepared dataset, one of its folders of labels, or the official folder.

    Raises:
        OptionError: no challenge has that name.
        DatasetError: the dataset was prepared for another challenge, or nothing can be compared; all are listed.
    """
    from autoseg.challenges.scoring import score_challenge

    return score_challenge(find_challenge(name), Path(predictions), Path(labels))


def pack(name: str, predictions: Path, out: Path, images: Path) -> Path:
    """Pack the predictions of the official test images as the organisers want them.

    Args:
        name: of the challenge.
        predictions: folder with one segmentation per test case, named by case.
        out: the archive to write (``.zip``), or a folder for ``NAME.zip``; an older one is replaced.
        images: the official folder, or the prepared dataset: its test images say which cases there must be, and where
            their voxels lie.

    Returns:
        The archive. Equal predictions give equal bytes.

    Raises:
        OptionError: no challenge has that name, or it takes no submissions.
        DatasetError: a case is missing, has another shape or place, or holds values that are no labels; all are listed.
    """
    from autoseg.challenges.packing import pack_challenge

    return pack_challenge(find_challenge(name), Path(predictions), Path(out), Path(images))
