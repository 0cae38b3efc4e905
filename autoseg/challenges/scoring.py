"""Score predictions by a challenge's protocol, against the labels of its dataset or of its official folder."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from autoseg.challenges.base import Challenge, Official, OfficialCase
from autoseg.challenges.official_folders import find_root
from autoseg.challenges.preparing import RECORD, lay_out
from autoseg.data.dataset_json import labels_of
from autoseg.data.io import image_stem
from autoseg.errors import DatasetError

if TYPE_CHECKING:
    from autoseg.evaluation.folders import FolderComparison

LABEL_FOLDERS = ("labelsTr", "labelsTs")


def score_challenge(challenge: Challenge, predictions: Path, labels: Path) -> "FolderComparison":
    """Score predictions by the official protocol; see ``autoseg.challenges.score``.

    Raises:
        DatasetError: nothing can be compared; the message lists all problems.
    """
    if not predictions.is_dir():
        raise DatasetError(f"{predictions} is no folder. Give the folder with one segmentation per case")
    prepared = any((folder / RECORD).is_file() for folder in (labels, labels.parent))
    root = None if prepared else find_root(challenge, labels)
    official = challenge.read(root) if root is not None else None
    if official is None or not any(case.label for case in (*official.cases, *official.tests)):
        # no official folder, or one that looks like the test images: labels may be named as those are
        return _compare(challenge, predictions, _label_folder(predictions, labels))
    with tempfile.TemporaryDirectory(prefix="autoseg-labels-") as folder:
        lay_out(_labels_alone(official), Path(folder))
        return _compare(challenge, predictions, _label_folder(predictions, Path(folder)))


def _compare(challenge: Challenge, predictions: Path, labels: Path) -> "FolderComparison":
    from autoseg.evaluation.folders import evaluate_folders

    declared = labels_of({"labels": challenge.declared_labels, **challenge.extra}, labels / "dataset.json")
    return evaluate_folders(predictions, labels, declared, protocol=challenge.protocol, metrics=challenge.metrics)


def _labels_alone(official: Official) -> Official:
    """Leave the images out: scoring needs none."""

    def without_images(case: OfficialCase) -> OfficialCase:
        return OfficialCase(id=case.id, images=(), label=case.label)

    return Official(cases=tuple(map(without_images, official.cases)), tests=tuple(map(without_images, official.tests)))


def _label_folder(predictions: Path, labels: Path) -> Path:
    """Choose, of a dataset's folders of labels, the one that holds most of the predicted cases."""
    folders = [labels / name for name in LABEL_FOLDERS if (labels / name).is_dir()]
    if not folders:
        return labels
    predicted = {image_stem(path) for path in predictions.iterdir()}
    return max(folders, key=lambda folder: len(predicted & {image_stem(path) for path in folder.iterdir()}))
