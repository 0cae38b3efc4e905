"""Find the images to segment: one file, one DICOM series, or a folder of them, several channels per case or one."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from autoseg.data.cases import Case
from autoseg.data.folders import is_series, list_images
from autoseg.data.io import image_stem
from autoseg.data.matching import ONLY_CHANNEL, group_channels
from autoseg.errors import ImageError

FIRST_CHANNEL = "0000"


def find_cases(images: Path, channel_names: Sequence[str]) -> tuple[list[Case], dict[str, str], list[str]]:
    """Sort image files into cases.

    Files whose names end with the number of a channel (``CASE_0000``, ``CASE_0001``) or, where the model has several
    channels, with its name (``CASE_t1``) are channels of one case, if all files of the folder are like that; else every
    file is a case and holds all channels.

    Args:
        images: an image file, a folder of image files, a DICOM series, or a folder of DICOM series.
        channel_names: of the model, in its order.

    Returns:
        The cases, sorted by id; the cases whose channels are not complete, each with what is missing; and notes on what
        was passed over.

    Raises:
        ImageError: there is no such file or folder.
        DatasetError: the folder holds no image.
    """
    if not images.exists():
        raise ImageError(f"{images} does not exist. Correct the name")
    if images.is_file():
        return _one_file(images, channel_names)
    if is_series(images) and not any(entry.is_dir() for entry in images.iterdir()):
        return [Case(id=images.resolve().name, images=(images,))], {}, []
    files, notes = list_images(images)
    cases, incomplete = _group(files, channel_names)
    return cases, incomplete, notes


def _one_file(image: Path, channel_names: Sequence[str]) -> tuple[list[Case], dict[str, str], list[str]]:
    """Take one file as a case; the first channel's file stands for its siblings too."""
    name = image_stem(image)
    case_id = name.removesuffix(f"_{FIRST_CHANNEL}")
    if case_id == name or not case_id:
        return [Case(id=name, images=(image,))], {}, []
    ending = image.name[len(name) :]
    files = [image.with_name(f"{case_id}_{number:04d}{ending}") for number in range(len(channel_names))]
    present = [file for file in files if file.exists()]
    if len(present) == 1 and len(files) > 1:
        present = files[:1]  # the file may hold all channels; if it does not, the model says so
    return [Case(id=case_id, images=tuple(present))], {}, []


def _group(files: Mapping[str, Path], channel_names: Sequence[str]) -> tuple[list[Case], dict[str, str]]:
    numbers = tuple(f"{number:04d}" for number in range(len(channel_names)))
    for suffixes in (numbers, tuple(channel_names) if len(channel_names) > 1 else ()):
        grouped = group_channels(files, suffixes) if suffixes else {}
        if not grouped or any(ONLY_CHANNEL in channels for channels in grouped.values()):
            continue
        if len(suffixes) > 1 and not any(len(channels) > 1 for channels in grouped.values()):
            continue  # one file for each name: numbers of cases, not of channels
        return _complete(grouped, suffixes)
    return [Case(id=name, images=(path,)) for name, path in sorted(files.items())], {}


def _complete(grouped: Mapping[str, Mapping[str, Path]], suffixes: Sequence[str]) -> tuple[list[Case], dict[str, str]]:
    cases, incomplete = [], {}
    for case_id, channels in sorted(grouped.items()):
        missing = [suffix for suffix in suffixes if suffix not in channels]
        if missing:
            found = ", ".join(path.name for path in channels.values())
            incomplete[case_id] = f"channel {', '.join(missing)} is missing (found: {found}). Add its file"
        else:
            cases.append(Case(id=case_id, images=tuple(channels[suffix] for suffix in suffixes)))
    return cases, incomplete
