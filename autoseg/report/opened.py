"""Opened: a case's image, label and out-of-fold prediction, read from the files that the run names."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from autoseg.data.instance_labels import CLASSES
from autoseg.errors import AutosegError
from autoseg.evaluation.postprocessing import apply, voxel_mm3
from autoseg.report.material import Material
from autoseg.run_folder import CaseFiles
from planners.labels import Labels

if TYPE_CHECKING:
    from autoseg.data.image import Geometry, Image


@dataclass(frozen=True, eq=False)
class OpenedCase:
    """An opened case: image, label and prediction (inner indices, z, y, x), ignored voxels, whose prediction it is.

    Without a prediction its map is empty and ``configurations`` too.
    """

    image: "Image"
    label: np.ndarray
    prediction: np.ndarray
    ignored: np.ndarray
    configurations: tuple[str, ...]

    @property
    def wrong(self) -> np.ndarray:
        """Voxels whose class is not that of the label; none where there is no prediction."""
        if not self.configurations:
            return np.zeros(self.label.shape, dtype=bool)
        return (self.label != self.prediction) & ~self.ignored


def open_case(material: Material, case: str, *, needs_prediction: bool = True) -> OpenedCase:
    """Read a case.

    Raises:
        AutosegError: a file is not there, cannot be read, or does not fit the others.
        PlanError: a label value is not declared.
    """
    from autoseg.data.io import open_image, open_label
    from autoseg.data.label_layers import as_predicted

    files, found, labels = find_case(material, case, needs_prediction=needs_prediction)
    label = read_label(labels, Path(files.label or ""), None if files.classes is None else Path(files.classes))[0]
    if found is None:
        prediction = np.zeros_like(label)
    else:
        prediction = read_label(as_predicted(labels), found[1])[0]
        if prediction.shape != label.shape:
            raise AutosegError(f"{found[1].name} has another shape than the label.")
        prediction = _postprocessed(material, prediction, open_label(Path(files.label or "")).geometry)
    ignored = np.zeros(label.shape, dtype=bool) if labels.ignore_index is None else label == labels.ignore_index
    image = open_image([Path(name) for name in files.images])
    return OpenedCase(image, np.where(ignored, 0, label), prediction, ignored, found[0] if found is not None else ())


def find_case(
    material: Material, case: str, *, needs_prediction: bool
) -> tuple[CaseFiles, tuple[tuple[str, ...], Path] | None, Labels]:
    """Find what a case is opened from: its files, its prediction (see ``find_prediction``), and the plan's labels.

    Raises:
        AutosegError: there is no plan, or no prediction where one is needed.
    """
    files, found = case_files(material, case), find_prediction(material, case)
    if material.plan is None or (found is None and needs_prediction):
        raise AutosegError("its prediction is not in the run folder.")
    return files, found, material.plan.labels


def case_files(material: Material, case: str) -> CaseFiles:
    """Find the files of a labelled case.

    Raises:
        AutosegError: the run does not name them.
    """
    files = next((item for item in material.record.cases if item.id == case), None) if material.record else None
    if files is None or files.label is None:
        raise AutosegError(f"{material.run.run_file.name} does not say where this case's files are.")
    return files


def read_label(labels: Labels, path: Path, classes: Path | None = None) -> np.ndarray:
    """Read a label or a prediction as layers (``read_layers``).

    Args:
        labels: as declared.
        path: the file.
        classes: the map of classes beside it; None: looked for in the folder ``classes`` beside it, where ids alone do
            not tell the class.

    Raises:
        AutosegError: a file cannot be read, or does not fit.
        PlanError: a class value is not declared.
    """
    from autoseg.data.io import image_stem, open_label
    from autoseg.data.label_layers import read_layers

    if classes is None and labels.instance_classes and labels.num_classes > 2:
        classes = next(iter(_images_named(image_stem(path), path.parent / CLASSES)), None)
    return read_layers(open_label(path), None if classes is None else open_label(classes), labels)


def _postprocessed(material: Material, prediction: np.ndarray, geometry: "Geometry") -> np.ndarray:
    rules = material.choice.postprocessing if material.choice is not None else ()
    return apply(prediction, rules, voxel_mm3(prediction.shape, geometry.spacing_mm)) if rules else prediction


def find_prediction(material: Material, case: str) -> tuple[tuple[str, ...], Path] | None:
    """Find the out-of-fold prediction of a case: of what was chosen, else of one configuration, the best first.

    Objects in ``out_of_fold`` are those of the choice only where they were made for it, with its settings.

    Returns:
        The configurations that made it and the file, or None.
    """
    choice = material.choice
    if choice is not None and (_is_of_choice(material) if material.finds_objects else len(choice.configurations) > 1):
        for path in _images_named(case, material.run.out_of_fold):
            return choice.configurations, path
    means = {item.name: item.score or item.mean_dice or 0.0 for item in choice.candidates} if choice is not None else {}
    chosen = sorted(choice.configurations if choice is not None else (), key=lambda name: -means.get(name, 0.0))
    for name in (*chosen, *material.configurations):
        for fold in material.folds:
            if fold.configuration == name:
                for path in _images_named(case, fold.folder.validation):
                    return (name,), path
    return None


def _is_of_choice(material: Material) -> bool:
    """Tell whether what lies in ``out_of_fold`` was made for the choice as it stands."""
    made_from = material.record.made_from if material.record is not None else {}
    digest = material.choice.predictions_digest if material.choice is not None else None
    return made_from.get(material.run.out_of_fold.name) == digest


def _images_named(case: str, folder: Path) -> list[Path]:
    from autoseg.data.io import READERS, image_ending, image_stem

    found = [path for path in folder.glob("*") if image_stem(path) == case and image_ending(path) in READERS]
    return sorted(found)
