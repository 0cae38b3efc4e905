"""Score predictions by a challenge's protocol, against the labels of its dataset or of its official folder."""

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from autoseg.challenges.base import Challenge, Official, OfficialCase
from autoseg.challenges.official_folders import DEPTH, find_root
from autoseg.challenges.preparing import DESCRIPTION, RECORD, Prepared, lay_out
from autoseg.data.dataset_json import labels_of
from autoseg.data.io import image_stem
from autoseg.errors import DatasetError
from autoseg.run_folder import records_from, write_atomic

if TYPE_CHECKING:
    from autoseg.evaluation.folders import FolderComparison

LABEL_FOLDERS = ("labelsTr", "labelsTs")


def score_challenge(challenge: Challenge, predictions: Path, labels: Path) -> "FolderComparison":
    """Score predictions by the official protocol; see ``autoseg.challenges.score``.

    Raises:
        DatasetError: the dataset is another challenge's, or nothing can be compared; the message lists all problems.
    """
    if not predictions.is_dir():
        raise DatasetError(f"{predictions} is no folder. Give the folder with one segmentation per case")
    official = None if _is_prepared(challenge, labels) else _read_official(challenge, labels)
    if official is None:
        return _compare(challenge, predictions, _label_folder(predictions, labels))
    with tempfile.TemporaryDirectory(prefix="autoseg-labels-") as folder:
        lay_out(_labels_alone(official), Path(folder))
        _describe(challenge, official, predictions, Path(folder))
        return _compare(challenge, predictions, _label_folder(predictions, Path(folder)))


def _is_prepared(challenge: Challenge, labels: Path) -> bool:
    """Say whether the labels are those of a prepared dataset.

    Raises:
        DatasetError: it was prepared for a challenge whose labels or rules are others.
    """
    from autoseg.challenges import CHALLENGES

    place = labels.absolute()
    folder = next((folder for folder in (place, place.parent) if (folder / RECORD).is_file()), None)
    if folder is None:
        return False
    name = records_from(Prepared, folder / RECORD).challenge
    other = CHALLENGES.get(name)
    # the tasks of one challenge, such as CT alone, may share labels and rules
    if other is None or (other.protocol, other.labels) != (challenge.protocol, challenge.labels):
        raise DatasetError(
            f"{folder} was prepared for {name}, not for {challenge.name}. Score it as {name}, or name the right dataset"
        )
    return True


def _read_official(challenge: Challenge, labels: Path) -> Official | None:
    """Read the official folder that is at or below a place; None where there is none, or none with labels.

    A folder without labels may be one of labels that are named like the test images. One of an official folder's own
    folders of labels is read with it where only that tells which classes were annotated.
    """
    root = find_root(challenge, labels)
    if root is not None:
        official = challenge.read(root)
        return official if any(case.label for case in (*official.cases, *official.tests)) else None
    place = labels.resolve()
    root = next((up for up in place.parents[:DEPTH] if challenge.annotated and challenge.recognise(up)), None)
    if root is None:
        return None
    cases = challenge.read(root).cases
    within = tuple(case for case in cases if isinstance(case.label, Path) and case.label.parent == place)
    return Official(cases=within) if within else None


def _describe(challenge: Challenge, official: Official, predictions: Path, folder: Path) -> None:
    """Write down which classes the predicted cases were annotated for, where a challenge has partly annotated ones."""
    predicted = _predicted(predictions)
    cases = [case for case in official.cases if case.id in predicted]
    if challenge.annotated is None or not cases:
        return
    content = {"labels": challenge.declared_labels, **challenge.extra}
    write_atomic(folder / DESCRIPTION, json.dumps({**content, "labels_present": dict(challenge.annotated(cases))}))


def _compare(challenge: Challenge, predictions: Path, labels: Path) -> "FolderComparison":
    from autoseg.evaluation.folders import evaluate_folders

    declared = labels_of({"labels": challenge.declared_labels, **challenge.extra}, labels / DESCRIPTION)
    return evaluate_folders(predictions, labels, declared, protocol=challenge.protocol, metrics=challenge.metrics)


def _labels_alone(official: Official) -> Official:
    """Leave the images out: scoring needs none."""

    def without_images(case: OfficialCase) -> OfficialCase:
        return OfficialCase(id=case.id, images=(), label=case.label)

    return Official(cases=tuple(map(without_images, official.cases)), tests=tuple(map(without_images, official.tests)))


def _predicted(predictions: Path) -> set[str]:
    return {image_stem(path) for path in predictions.iterdir()}


def _label_folder(predictions: Path, labels: Path) -> Path:
    """Choose, of a dataset's folders of labels, the one that holds most of the predicted cases."""
    folders = [labels / name for name in LABEL_FOLDERS if (labels / name).is_dir()]
    if not folders:
        return labels
    predicted = _predicted(predictions)
    return max(folders, key=lambda folder: len(predicted & {image_stem(path) for path in folder.iterdir()}))
