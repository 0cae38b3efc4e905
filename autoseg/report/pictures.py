"""Pictures: one slice of the best, the median and the worst cases, with label and prediction as outlines."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from autoseg.errors import AutosegError
from autoseg.evaluation.overlap import ABSENT, CaseScore
from autoseg.evaluation.postprocessing import apply
from autoseg.evaluation.selection import candidate_name
from autoseg.report.material import Material
from autoseg.report.outlines import area, outline
from autoseg.report.slices import Slice, crop, encode_image, thin, upright
from planners.records import PlanError

if TYPE_CHECKING:
    from autoseg.data.image import Image
    from autoseg.run_folder import CaseFiles

WORSE = ("second", "third", "fourth")
"""With the best, the median and the worst case two rows of three: failures teach more than successes."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One slice of one case, ready for the page.

    Attributes:
        rank: "best", "median", "worst", …
        case: its id.
        caption: where the slice lies, and what was cut or thinned.
        scores: (structure, Dice) as text, of the whole case.
        mean_dice: of the whole case, as text.
        width, height: of the drawing in its own units (pixels of the slice).
        aspect: width / height in millimetres.
        image: data URI.
        label, prediction, wrong: SVG paths.
        alt: what a reader who does not see it needs to know.
        problem: why there is no picture, or empty.
    """

    rank: str
    case: str
    caption: str = ""
    scores: tuple[tuple[str, str], ...] = ()
    mean_dice: str = ""
    width: int = 1
    height: int = 1
    aspect: float = 1.0
    image: str = ""
    label: str = ""
    prediction: str = ""
    wrong: str = ""
    alt: str = ""
    problem: str = ""


def draw_pictures(material: Material) -> tuple[Picture, ...]:
    """Draw the best, the median and the worst cases by mean Dice; a case that cannot be read says why."""
    if material.scores is None or material.record is None or material.plan is None:
        return ()
    files = {case.id: case for case in material.record.cases}
    pictures = []
    for rank, row in choose_cases(material.scores.cases):
        try:
            pictures.append(_draw(material, rank, row, files.get(row.case)))
        except (AutosegError, PlanError, OSError, ValueError) as fault:
            pictures.append(Picture(rank=rank, case=row.case, problem=f"{fault}"))
    return tuple(pictures)


def choose_cases(rows: Sequence[CaseScore]) -> list[tuple[str, CaseScore]]:
    """Choose the best case, the median one, and the worst ones; every case at most once."""
    ranked = sorted(
        (row for row in rows if row.mean_dice is not None), key=lambda row: (-(row.mean_dice or 0.0), row.case)
    )
    if not ranked:
        return []
    wanted = [("best", 0), ("median", (len(ranked) - 1) // 2), ("worst", len(ranked) - 1)]
    wanted += [(f"{rank} worst", len(ranked) - number) for number, rank in enumerate(WORSE, start=2)]
    chosen: dict[int, str] = {}
    for rank, index in wanted:
        if index >= 0:
            chosen.setdefault(index, rank)
    return [(rank, ranked[index]) for index, rank in chosen.items()]


def find_prediction(material: Material, case: str) -> tuple[tuple[str, ...], Path] | None:
    """Find the out-of-fold prediction of a case: of what was chosen, else of one configuration, the best first.

    Returns:
        The configurations that made it and the file, or None.
    """
    choice = material.choice
    if choice is not None and len(choice.configurations) > 1:
        for path in _images_named(case, material.run.out_of_fold):
            return choice.configurations, path
    means = {item.name: item.mean_dice or 0.0 for item in choice.candidates} if choice is not None else {}
    chosen = sorted(choice.configurations if choice is not None else (), key=lambda name: -means.get(name, 0.0))
    for name in (*chosen, *material.configurations):
        for fold in material.folds:
            if fold.configuration == name:
                for path in _images_named(case, fold.folder.validation):
                    return (name,), path
    return None


def _images_named(case: str, folder: Path) -> list[Path]:
    from autoseg.data.io import READERS, image_ending, image_stem

    found = [path for path in folder.glob("*") if image_stem(path) == case and image_ending(path) in READERS]
    return sorted(found)


@dataclass(frozen=True)
class _Case:
    """An opened case: image, label and prediction (inner indices, z, y, x), ignored voxels, whose prediction it is."""

    image: "Image"
    label: np.ndarray
    prediction: np.ndarray
    ignored: np.ndarray
    configurations: tuple[str, ...]


def _open(material: Material, case: str, files: "CaseFiles | None") -> _Case:
    from autoseg.data.io import open_image, open_label

    found = find_prediction(material, case)
    if files is None or files.label is None:
        raise AutosegError(f"{material.run.run_file.name} does not say where this case's files are.")
    if found is None or material.plan is None:
        raise AutosegError("its prediction is not in the run folder.")
    labels = material.plan.labels
    label = labels.encode(open_label(Path(files.label)).read()[0])
    prediction = labels.encode(open_label(found[1]).read()[0])
    if prediction.shape != label.shape:
        raise AutosegError(f"{found[1].name} has another shape than the label.")
    if material.choice is not None:
        prediction = apply(prediction, material.choice.postprocessing)
    ignored = np.zeros(label.shape, dtype=bool) if labels.ignore_index is None else label == labels.ignore_index
    image = open_image([Path(name) for name in files.images])
    return _Case(image, np.where(ignored, 0, label), prediction, ignored, found[0])


def _draw(material: Material, rank: str, row: CaseScore, files: "CaseFiles | None") -> Picture:
    case = _open(material, row.case, files)
    cut, notes = _cut(case, material.plan.axis_order[0] if material.plan is not None else 0, rank)
    choice = material.choice
    if choice is not None and choice.configurations != case.configurations:
        notes.append(f"drawn is the prediction of {candidate_name(case.configurations)} alone")
    whole = cut.label_YX.shape
    cut = crop(cut)
    if cut.label_YX.shape != whole:
        notes.append("cut to the structures")
    cut, factor = thin(cut)
    if factor > 1:
        notes.append(f"one of {factor} × {factor} voxels shown")
    height, width = cut.label_YX.shape
    names = material.scores.structures if material.scores is not None else ()
    caption = "; ".join(notes)
    return Picture(
        rank=rank,
        case=row.case,
        caption=caption,
        scores=tuple(zip(names, map(_text, row.dice), strict=True)),
        mean_dice=_text(row.mean_dice),
        width=width,
        height=height,
        aspect=round(width * cut.spacing_yx[1] / (height * cut.spacing_yx[0]), 4),
        image=encode_image(cut.image_CYX),
        label=outline(cut.label_YX),
        prediction=outline(cut.prediction_YX),
        wrong=area(cut.wrong_YX),
        alt=f"{rank} case {row.case}, mean Dice {_text(row.mean_dice)}: {caption}",
    )


def _cut(case: _Case, axis: int, rank: str) -> tuple[Slice, list[str]]:
    """Cut the slice to show, upright; give what the caption should say of it."""
    shape = case.label.shape
    axis = axis if min(shape) > 1 else int(np.argmin(shape))
    wrong = (case.label != case.prediction) & ~case.ignored
    index, why = choose_slice((case.label > 0) | (case.prediction > 0), wrong, axis, rank)
    z, y, x = ((index, index + 1) if other == axis else (0, size) for other, size in enumerate(shape))
    row_mm, column_mm = (value for other, value in enumerate(case.image.geometry.spacing_mm) if other != axis)
    cut = Slice(
        image_CYX=case.image.read((z, y, x)).squeeze(axis + 1),
        label_YX=case.label.take(index, axis=axis),
        prediction_YX=case.prediction.take(index, axis=axis),
        ignored_YX=case.ignored.take(index, axis=axis),
        spacing_yx=(row_mm, column_mm),
    )
    notes = [f"slice {index + 1} of {shape[axis]} along {'zyx'[axis]}, {why}"] if shape[axis] > 1 else []
    return upright(cut, case.image.geometry, axis), notes


def choose_slice(foreground: np.ndarray, wrong: np.ndarray, axis: int, rank: str) -> tuple[int, str]:
    """Choose the slice to show: the one with most wrong voxels of a bad case, with most foreground of others.

    Args:
        foreground, wrong: masks (z, y, x).
        axis: slices are taken along this one.
        rank: as in ``Picture``.

    Returns:
        Its index and the reason in words.
    """
    across = tuple(other for other in range(3) if other != axis)
    if "worst" in rank and wrong.any():
        return int(wrong.sum(axis=across).argmax()), "most wrong voxels"
    return int(foreground.sum(axis=across).argmax()), "most foreground"


def _text(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.3f}"
