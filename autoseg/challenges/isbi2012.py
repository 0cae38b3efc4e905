"""ISBI 2012: membranes of neurons in serial-section electron microscopy (the semantic part of the challenge).

    train-volume.tif   train-labels.tif      30 slices of 512 × 512 pixels; labels: black membrane, white cells
    test-volume.tif                          30 slices of the same tissue

A case is a slice: there is one stack to learn from, and one case cannot be cross-validated. Its neighbours resemble it,
so that scores of folds made at random are a little better than those of the test stack. The class that is looked for is
the membrane (value 0 in the files); cells (255) are the background. Pixels are 4 × 4 nm, slices 50 nm; the slices are
written as PNG without a size, so distances count pixels.

A submission is one stack of 32-bit floats, from 0 (surely membrane) to 1 (surely not): it is made from the
probabilities that ``autoseg predict --save-probabilities`` writes. The organisers' ranking used Rand and warping errors
of the neurons that the membranes enclose, which are not computed here: a protocol of the pixels stands in for them.

Source: https://imagej.net/events/isbi-2012-segmentation-challenge (data, format of results, metrics); Arganda-Carreras
et al., Crowdsourcing the creation of image segmentation algorithms for connectomics, Frontiers in Neuroanatomy 9
(2015).
"""

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from autoseg.challenges.base import Challenge, Made, Official, OfficialCase, Submission
from autoseg.challenges.packing import place, refuse_missing
from autoseg.data.image import Image, flat_geometry
from autoseg.data.io import open_image, open_label, shape_text, write_segmentation
from autoseg.data.io_write import write_values
from autoseg.errors import DatasetError, ImageError

IMAGES, LABELS, TESTS = "train-volume.tif", "train-labels.tif", "test-volume.tif"
PROBABILITIES = ".probabilities.npy"
"""Ending of what predict writes: (class, z, y, x); the background, here the cells, is class 0."""

SUM_TOLERANCE = 0.02
"""How far probabilities of float16 may add up from 1: a few of its steps of 2**-11 below 1."""


def _recognise(folder: Path) -> bool:
    return (folder / IMAGES).is_file() or (folder / TESTS).is_file()


def _read(root: Path) -> Official:
    """List the slices.

    Raises:
        DatasetError: a stack is missing or unreadable, or the two of the training data differ in size.
    """
    missing = [name for name in (IMAGES, LABELS) if not (root / name).is_file()]
    if missing and not (root / TESTS).is_file():
        raise DatasetError(f"{root} lacks {' and '.join(missing)}. Unpack the whole archive")
    cases: tuple[OfficialCase, ...] = ()
    problems = tuple(f"case {name}: {root / name} missing" for name in missing)
    if not missing:
        stacks = [_stack(root / name, label=name == LABELS) for name in (IMAGES, LABELS)]
        if stacks[0].shape != stacks[1].shape:
            shapes = [shape_text(stack.shape) for stack in stacks]
            raise DatasetError(f"{root}: {IMAGES} is {shapes[0]}, {LABELS} {shapes[1]}. Take both of one download")
        cases = tuple(
            OfficialCase(
                id=_name("train", number),
                images=(_slice(root / IMAGES, number),),
                label=_slice(root / LABELS, number, label=True),
            )
            for number in range(stacks[0].shape[0])
        )
    tests: tuple[OfficialCase, ...] = ()
    if (root / TESTS).is_file():
        depth = _stack(root / TESTS).shape[0]
        tests = tuple(OfficialCase(id=_name("test", n), images=(_slice(root / TESTS, n),)) for n in range(depth))
    return Official(cases=cases, tests=tests, problems=problems)


def _name(part: str, number: int) -> str:
    return f"{part}-{number:02d}"


def _stack(path: Path, *, label: bool = False) -> Image:
    try:
        return open_label(path) if label else open_image([path])
    except ImageError as fault:
        raise DatasetError(str(fault)) from fault


def _slice(path: Path, number: int, *, label: bool = False) -> Made:
    return Made(source=path, ending=".png", write=functools.partial(_write_slice, path, number, label))


def _write_slice(path: Path, number: int, label: bool, target: Path) -> None:
    """Write one page of a stack as a picture of its own; labels other than 0 and 255 are refused."""
    stack = open_label(path) if label else open_image([path])
    page = stack.read(((number, number + 1), (0, stack.shape[1]), (0, stack.shape[2])))[0]
    if label and not np.isin(page, (0, 255)).all():
        strange = sorted(set(np.unique(page).tolist()) - {0, 255})
        raise ImageError(
            f"{path}: page {number} holds the value {strange[0]:g}; labels are 0 and 255. Download it again"
        )
    write_segmentation(target, np.round(page).astype(np.uint8), flat_geometry(known=False))


def _pack(challenge: Challenge, cases: Sequence[OfficialCase], predictions: Path, out: Path) -> Path:
    """Write one TIFF stack of the probability that a pixel is no membrane.

    Raises:
        DatasetError: slices are missing, or are no probabilities on the slice's grid; all are listed.
    """
    files = {case.id: predictions / f"{case.id}{PROBABILITIES}" for case in cases}
    refuse_missing(
        [f"{case}{PROBABILITIES}" for case, file in files.items() if not file.is_file()], len(cases), predictions
    )
    pages, faults = [], []
    for case in cases:
        try:
            pages.append(_cell_probability(files[case.id], case))
        except (ImageError, OSError, ValueError) as fault:
            faults.append(f"  case {case.id}: {fault}")
    if not faults and len({page.shape for page in pages}) > 1:
        faults = [f"  the slices differ in size: {sorted({shape_text(page.shape) for page in pages})}"]
    if faults:
        raise DatasetError(
            f"packing {challenge.name}: {len(faults)} of {len(cases)} cases failed\n" + "\n".join(faults)
        )
    target = place(challenge, out, ".tif")
    write_values(target, np.stack(pages), flat_geometry(known=False))
    return target


def _cell_probability(file: Path, case: OfficialCase) -> np.ndarray:
    """Give the probability of the background (cells) of one slice, (y, x) float32.

    Raises:
        ImageError: the file holds something else.
    """
    values = np.load(file, mmap_mode="r")
    source = case.images[0]
    shape = open_image([source.source if isinstance(source, Made) else source]).shape[1:]
    if values.shape != (2, 1, *shape):
        raise ImageError(
            f"{file} has shape {shape_text(values.shape)}, two classes on its slice are {shape_text((2, 1, *shape))}. "
            "Predict it with --save-probabilities on the official slice"
        )
    both = np.asarray(values[:, 0], dtype=np.float32)
    if not (np.isfinite(both).all() and np.abs(both.sum(axis=0) - 1).max() <= SUM_TOLERANCE and both.min() >= 0):
        raise ImageError(f"{file} holds values that are no probabilities of two classes. Predict it again")
    return np.clip(both[0], 0, 1)


ISBI2012 = Challenge(
    name="isbi2012",
    title="ISBI 2012 EM segmentation",
    source="https://imagej.net/events/isbi-2012-segmentation-challenge",
    licence="not stated on the page that is left of the challenge; cite Cardona et al., PLoS Biology 8 (2010)",
    protocol="isbi2012",
    expects=f"{IMAGES}, {LABELS} and {TESTS}",
    channels=("EM",),
    labels={"background": 255, "membrane": 0},
    recognise=_recognise,
    read=_read,
    submission=Submission(
        name=lambda case: f"{case}.tif",
        where="The challenge's server is closed; the stack has the format that it took",
        pack=_pack,
    ),
    num_cases=30,
    num_tests=30,
)
