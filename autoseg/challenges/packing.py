"""Pack predictions as the organisers want them: all test cases, official names, uint8, on the official images' grids.

Equal predictions give equal archives, byte for byte: entries are sorted and carry no time.
"""

import math
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from autoseg.challenges.base import Challenge, Made, OfficialCase
from autoseg.challenges.official_folders import find_root
from autoseg.challenges.preparing import RECORD, Prepared
from autoseg.data.check_problem import count
from autoseg.data.folders import some
from autoseg.data.io import (
    READERS,
    Image,
    image_ending,
    image_stem,
    open_image,
    open_label,
    shape_text,
    write_segmentation,
)
from autoseg.data.io_write import replace_whole, write_values
from autoseg.data.parallel import MemoryGate, for_each_case
from autoseg.errors import DatasetError, ImageError, OptionError
from autoseg.progress import say
from autoseg.run_folder import records_from

DISPLACEMENT_LIMIT = 0.1
"""Voxels that headers of image and prediction may lie apart (the same limit as between image and label in the check);
what is packed has the image's own."""

BYTES_PER_VOXEL = 12  # assumption: a prediction of 8-byte numbers, its uint8 copy and what compression needs
TABLE_VALUES = 1024  # label values up to this are counted instead of sorted (assumption: covers label maps)
TIMESTAMP = (1980, 1, 1, 0, 0, 0)  # the first one that zip knows: archives do not depend on the clock
SHOWN = 20  # cases named in a message


def pack_challenge(challenge: Challenge, predictions: Path, out: Path, images: Path) -> Path:
    """Pack a submission; see ``autoseg.challenges.pack``.

    Raises:
        OptionError: the challenge takes no submissions.
        DatasetError: a case is missing or does not fit; all are listed.
    """
    submission = challenge.submission
    if submission is None:
        raise OptionError(f"{challenge.title} takes no submissions; score its labelled cases with challenge score")
    if not predictions.is_dir():
        raise DatasetError(f"{predictions} is no folder. Give the folder with the predictions of the test images")
    cases = test_cases(challenge, images)
    packed = (submission.pack or pack_archive)(challenge, cases, predictions, out)
    _note_number(challenge, len(cases), images)
    say(f"  {packed}: {count(len(cases), 'case')}. {submission.where}")
    return packed


def _note_number(challenge: Challenge, num_cases: int, images: Path) -> None:
    """Say that a submission is incomplete, as far as the organisers' number is known: images may be missing, too."""
    expected = challenge.num_tests
    if expected is None or num_cases == expected:
        return
    if num_cases > expected:
        say(f"  note: {count(num_cases, 'test case')}; {challenge.title} hands out {expected}")
        return
    say(
        f"  note: this submission is INCOMPLETE: {num_cases} of the {expected} test cases of {challenge.title}. "
        f"{images} lacks {count(expected - num_cases, 'test image')}: download and predict what is missing, "
        "and pack again"
    )


def test_cases(challenge: Challenge, images: Path) -> tuple[OfficialCase, ...]:
    """List the test cases of an official folder or of a dataset that was prepared from it.

    Raises:
        DatasetError: it is neither, or it holds no test images.
    """
    for folder in (images, images.parent):
        if (folder / RECORD).is_file():
            return _prepared_tests(challenge, folder)
    root = find_root(challenge, images) or next((up for up in images.parents[:2] if challenge.recognise(up)), None)
    if root is None:
        raise DatasetError(
            f"{images} is neither {challenge.title} as it is handed out nor a dataset prepared from it. Expected "
            f"{challenge.expects}, or the folder that challenge prepare made"
        )
    tests = challenge.read(root).tests
    if not tests:
        raise DatasetError(f"{root} holds no test images of {challenge.title}. Download them, too")
    return tests


def _prepared_tests(challenge: Challenge, folder: Path) -> tuple[OfficialCase, ...]:
    record = records_from(Prepared, folder / RECORD)
    if record.challenge != challenge.name:
        raise DatasetError(
            f"{folder} was prepared for {record.challenge}, not for {challenge.name}. Name the right one"
        )
    if not record.tests:
        raise DatasetError(f"{folder} was prepared without test images. Download them, and prepare it again")
    files: dict[str, list[Path]] = {}
    for path in sorted((folder / "imagesTs").iterdir()):
        if image_ending(path) in READERS:
            files.setdefault(image_stem(path)[: -len("_0000")], []).append(path)
    missing = [case for case in record.tests if case not in files]
    if missing:
        raise DatasetError(f"{folder / 'imagesTs'} lacks test images: {some(missing)}. Prepare the dataset again")
    return tuple(OfficialCase(id=case, images=tuple(files[case])) for case in record.tests)


def pack_archive(challenge: Challenge, cases: Sequence[OfficialCase], predictions: Path, out: Path) -> Path:
    """Write a zip archive with one label map per test case.

    Raises:
        DatasetError: a case is missing or does not fit; all are listed, and nothing is written.
    """
    submission = challenge.submission
    assert submission is not None
    found = predicted_files(cases, predictions)
    archive = place(challenge, out, ".zip")
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=archive.parent, prefix=f".{archive.stem}.") as folder:
        targets = {case.id: Path(folder, *submission.name(case.id).split("/")) for case in cases}

        def work(case: OfficialCase, gate: MemoryGate) -> None:
            with gate.hold(BYTES_PER_VOXEL * math.prod(official_image(case).shape)):
                write_label_map(challenge, case, found[case.id], targets[case.id])

        for_each_case(work, [(case.id, case) for case in cases], f"packing {challenge.name}")
        write_zip(archive, Path(folder))
    return archive


def predicted_files(cases: Sequence[OfficialCase], predictions: Path) -> dict[str, Path]:
    """Find the prediction of every test case; others that lie there are passed over, with a note.

    Raises:
        DatasetError: some are missing, or there twice; all are named.
    """
    files: dict[str, list[Path]] = {}
    for path in sorted(predictions.iterdir()):
        if path.is_file() and image_ending(path) in READERS and not path.name.startswith("."):
            files.setdefault(image_stem(path), []).append(path)
    ids = [case.id for case in cases]
    refuse_missing([case for case in ids if case not in files], len(ids), predictions)
    twice = [case for case in ids if len(files[case]) > 1]
    if twice:
        raise DatasetError(f"{predictions} holds two predictions of the same case: {some(twice)}. Keep one of each")
    surplus = sorted(set(files) - set(ids))
    if surplus:
        say(f"  note: {count(len(surplus), 'prediction')} of no test case left out: {some(surplus)}")
    return {case: files[case][0] for case in ids}


def refuse_missing(missing: Sequence[str], total: int, predictions: Path) -> None:
    """Refuse an incomplete submission.

    Raises:
        DatasetError: ``missing`` names any case.
    """
    if missing:
        names = ", ".join(missing[:SHOWN]) + (f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else "")
        raise DatasetError(
            f"{predictions} lacks {count(len(missing), 'prediction')} of {total} test cases: {names}. "
            "Predict them: an incomplete submission is not packed"
        )


def write_label_map(challenge: Challenge, case: OfficialCase, prediction: Path, target: Path) -> None:
    """Write one prediction on the grid of its official image, in the organisers' values and format, as uint8.

    Raises:
        ImageError: it has another shape or place, or holds values that are no labels of the challenge.
    """
    image, opened = official_image(case), open_label(prediction)
    if opened.shape != image.shape:
        raise ImageError(
            f"{prediction} has shape {shape_text(opened.shape)}, its image has {shape_text(image.shape)} "
            f"({image.name}). Predict it on the official image"
        )
    apart = image.geometry.displacement(opened.geometry, image.shape)
    if apart > DISPLACEMENT_LIMIT:
        raise ImageError(
            f"{prediction} lies {apart:.1f} voxels away from its image ({image.name}). Predict it on the official image"
        )
    submission = challenge.submission
    values = None if submission is None else submission.values
    label_ZYX = official_values(challenge, opened.read()[0], prediction, values)
    (write_values if target.suffix == ".mhd" else write_segmentation)(target, label_ZYX, image.geometry)


def official_image(case: OfficialCase) -> Image:
    """Open the official image of a test case.

    Raises:
        ImageError: it cannot be opened.
    """
    return open_image([file.source if isinstance(file, Made) else file for file in case.images])


def official_values(
    challenge: Challenge, label_ZYX: np.ndarray, prediction: Path, values: Mapping[int, int] | None
) -> np.ndarray:
    """Give a prediction in the organisers' label values, uint8.

    Raises:
        ImageError: it holds values that are no labels of the challenge.
    """
    strange = sorted(values_of(label_ZYX) - {*challenge.values})
    if strange:
        shown = ", ".join(f"{value:g}" for value in strange[:5]) + (" …" if len(strange) > 5 else "")
        known = ", ".join(map(str, challenge.values))
        raise ImageError(f"{prediction} holds the value {shown}; {challenge.title} has {known}. Predict it again")
    table = np.arange(256, dtype=np.uint8)
    for ours, theirs in (values or {}).items():
        table[ours] = theirs
    return table[label_ZYX.astype(np.uint8)]


def values_of(label_ZYX: np.ndarray) -> set[float]:
    """List the values of a label map slice by slice: sorting a whole CT would take longer than writing it."""
    found: set[float] = set()
    for label_YX in label_ZYX:
        if label_YX.dtype.kind in "iu" and label_YX.size and label_YX.min() >= 0 and label_YX.max() < TABLE_VALUES:
            found.update(np.flatnonzero(np.bincount(label_YX.reshape(-1))).tolist())
        else:
            found.update(np.unique(label_YX).tolist())
    return found


def place(challenge: Challenge, out: Path, ending: str) -> Path:
    """Say where the submission goes: the file that ``out`` names, or ``NAME.zip`` in the folder that it names.

    Raises:
        DatasetError: it has another ending.
    """
    if out.is_dir() or not out.suffix:
        return out / f"{challenge.name}{ending}"
    if out.suffix.lower() != ending:
        raise DatasetError(f"{out}: what {challenge.title} takes is a {ending} file. Name it so, or name a folder")
    return out


def write_zip(archive: Path, folder: Path) -> None:
    """Pack a folder's files into an archive whose bytes depend on names and contents alone; whole or not at all."""

    def write(target: Path) -> None:
        with zipfile.ZipFile(target, "w") as file:
            for path in sorted(path for path in folder.rglob("*") if path.is_file()):
                entry = zipfile.ZipInfo(path.relative_to(folder).as_posix(), TIMESTAMP)
                entry.external_attr = 0o644 << 16  # ordinary file permissions
                entry.compress_type = zipfile.ZIP_STORED if path.suffix == ".gz" else zipfile.ZIP_DEFLATED
                with path.open("rb") as source, file.open(entry, "w", force_zip64=True) as packed:
                    while block := source.read(1 << 20):
                        packed.write(block)

    replace_whole(archive, ".zip", write)
