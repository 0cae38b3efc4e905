"""Which image belongs to which label, and which channel of it: told from file names alone.

Several ways to read the names are tried; the one that leaves the fewest files over is taken. Labels are what gives a
case its name: they tell a channel's suffix (``pat7_t1`` beside the label ``pat7``) from a case's own number
(``scan_0001``).
"""

import difflib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from autoseg.data.cases import Mismatch
from autoseg.data.io import image_stem

CHANNEL_NUMBER = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")
SEPARATORS = "-_. "  # the minus first, so that it stands for itself in a character class
ONLY_CHANNEL = ""


@dataclass(frozen=True)
class Matching:
    """Files sorted into cases.

    Attributes:
        how: in words, for the notes; empty for names that are simply equal.
        images: case → channel → file.
        labels: case → file.
    """

    how: str
    images: dict[str, dict[str, Path]]
    labels: dict[str, Path]
    channels: tuple[str, ...]

    @property
    def left_over(self) -> int:
        """Number of files without partner, and of cases whose channels are not those of most cases."""
        alone = set(self.images) ^ set(self.labels)
        odd = [case for case, files in self.images.items() if tuple(sorted(files)) != self.channels]
        return len(alone) + len(odd)


def match(images: Mapping[str, Path], labels: Mapping[str, Path], *, strict: bool = False) -> Matching | None:
    """Sort files into cases.

    Args:
        images: name without ending → file (or DICOM folder).
        labels: the same of the labels.
        strict: take only equal names, with or without the number of a channel, as nnU-Net has them.

    Returns:
        The reading of the names that leaves the fewest files over; None where no image goes with any label.
    """
    ways: list[Callable[[Mapping[str, Path], Mapping[str, Path]], Matching | None]] = [_equal_names, _numbered_channels]
    if not strict:
        ways += [_named_channels, _without_common_words, _by_number]
    best: Matching | None = None
    for way in ways:
        found = way(images, labels)
        if found is None or not set(found.images) & set(found.labels):
            continue
        if best is None or found.left_over < best.left_over:
            best = found
        if best.left_over == 0:
            break
    return best


def mismatches(matching: Matching) -> list[Mismatch]:
    """List the files that do not go together, each with the closest name on the other side."""
    found = []
    for case, files in sorted(matching.images.items()):
        first = next(iter(files.values()))
        if case not in matching.labels:
            near = _closest(case, set(matching.labels) - set(matching.images), matching.labels)
            found.append(Mismatch(case=case, kind="image-without-label", found=f"{first} has no label{near}"))
            continue
        missing = [channel for channel in matching.channels if channel not in files]
        surplus = [channel for channel in files if channel not in matching.channels]
        if missing:
            text = f"channel {', '.join(missing)} is missing (found: {_names(files.values())})"
            found.append(Mismatch(case=case, kind="missing-channel", found=text))
        if surplus:
            text = f"channel {', '.join(surplus)} is one that most cases do not have ({files[surplus[0]]})"
            found.append(Mismatch(case=case, kind="extra-channel", found=text))
    for case, path in sorted(matching.labels.items()):
        if case not in matching.images:
            files = {name: next(iter(channels.values())) for name, channels in matching.images.items()}
            near = _closest(case, set(matching.images) - set(matching.labels), files)
            found.append(Mismatch(case=case, kind="label-without-image", found=f"{path} has no image{near}"))
    return found


def complete_cases(matching: Matching) -> dict[str, tuple[Path, ...]]:
    """Give case → files in channel order, of the cases whose files go together."""
    return {
        case: tuple(files[channel] for channel in matching.channels)
        for case, files in sorted(matching.images.items())
        if case in matching.labels and set(files) == set(matching.channels)
    }


def group_channels(images: Mapping[str, Path], channels: Sequence[str]) -> dict[str, dict[str, Path]]:
    """Sort images without labels (test images) into cases, by the channel names that the training images have."""
    if tuple(channels) == (ONLY_CHANNEL,):
        return {name: {ONLY_CHANNEL: path} for name, path in images.items()}
    cases: dict[str, dict[str, Path]] = {}
    for name, path in images.items():
        fitting = [channel for channel in channels if re.fullmatch(rf".+[{SEPARATORS}]{re.escape(channel)}", name)]
        channel = max(fitting, key=len, default=ONLY_CHANNEL)
        case = name[: len(name) - len(channel) - 1] if channel else name
        cases.setdefault(case, {})[channel] = path
    return cases


def _usual_channels(images: Mapping[str, Mapping[str, Path]], known: Iterable[str]) -> tuple[str, ...]:
    """Give the channels that most of the labelled cases have, sorted."""
    counts = Counter(tuple(sorted(images[case])) for case in known if case in images)
    return max(counts, key=lambda channels: (counts[channels], len(channels)), default=(ONLY_CHANNEL,))


def _equal_names(images: Mapping[str, Path], labels: Mapping[str, Path]) -> Matching:
    cases = {name: {ONLY_CHANNEL: path} for name, path in images.items()}
    return Matching("", cases, dict(labels), (ONLY_CHANNEL,))


def _numbered_channels(images: Mapping[str, Path], labels: Mapping[str, Path]) -> Matching | None:
    cases: dict[str, dict[str, Path]] = {}
    for name, path in images.items():
        found = CHANNEL_NUMBER.fullmatch(name)
        case, channel = (found["case"], found["channel"]) if found else (name, ONLY_CHANNEL)
        cases.setdefault(case, {})[channel] = path
    return Matching("", cases, dict(labels), _usual_channels(cases, labels))


def _named_channels(images: Mapping[str, Path], labels: Mapping[str, Path]) -> Matching | None:
    """Take what follows a label's name as the channel; labels may share a last word (``pat7_seg``)."""
    ending = _common_words(list(labels), last=True)
    stems = {name[: len(name) - len(ending)]: path for name, path in labels.items()}
    cases: dict[str, dict[str, Path]] = {}
    for name, path in images.items():
        cuts = [index for index, letter in enumerate(name) if letter in SEPARATORS and name[:index] in stems]
        case, channel = (name[: cuts[-1]], name[cuts[-1] + 1 :]) if cuts else (name, ONLY_CHANNEL)
        cases.setdefault(case, {})[channel] = path
    channels = _usual_channels(cases, stems)
    if len(channels) < 2 or any(not re.search("[A-Za-z]", channel) for channel in channels):
        return None
    return Matching(f"channels by the end of the name: {', '.join(channels)}", cases, stems, channels)


def _without_common_words(images: Mapping[str, Path], labels: Mapping[str, Path]) -> Matching | None:
    """Leave out the words that all images share, and all labels (``img_ann``, ``ann_mask``)."""
    short_images, short_labels = _distinct_parts(images), _distinct_parts(labels)
    if set(short_images) != set(short_labels) or len(short_images) < 2:
        return None
    cases = {case: {ONLY_CHANNEL: path} for case, path in short_images.items()}
    return Matching(_example("by name without the common words", cases, short_labels), cases, short_labels, ("",))


def _distinct_parts(files: Mapping[str, Path]) -> dict[str, Path]:
    names = list(files)
    first, last = _common_words(names, last=False), _common_words(names, last=True)
    short = {name[len(first) : len(name) - len(last)]: files[name] for name in names}
    return short if len(short) == len(files) and "" not in short else {}


def _common_words(names: Sequence[str], *, last: bool) -> str:
    """Give the words without digits, with their separators, that all names begin (or end) with."""
    pieces = [re.findall(rf"[^{SEPARATORS}]+[{SEPARATORS}]|[{SEPARATORS}]?[^{SEPARATORS}]+$", name) for name in names]
    if last:
        pieces = [re.findall(rf"[{SEPARATORS}]?[^{SEPARATORS}]+", name)[::-1] for name in names]
    shared = []
    for column in zip(*(piece[:-1] for piece in pieces), strict=False):
        if len(set(column)) > 1 or re.search(r"\d", column[0]):
            break
        shared.append(column[0])
    return "".join(reversed(shared) if last else shared)


def _by_number(images: Mapping[str, Path], labels: Mapping[str, Path]) -> Matching | None:
    """Match ``21_training`` with ``21_manual1``: by the numbers that differ between the files of a folder."""
    for key in (_leading_number, _differing_numbers):
        image_keys, label_keys = key(list(images)), key(list(labels))
        if image_keys and label_keys and set(image_keys) == set(label_keys):
            named = {name: number for number, name in image_keys.items()}
            cases = {name: {ONLY_CHANNEL: images[name]} for name in named}
            matched = {name: labels[label_keys[number]] for name, number in named.items()}
            return Matching(_example("by number", cases, matched), cases, matched, (ONLY_CHANNEL,))
    return None


Numbers = tuple[int, ...]


def _leading_number(names: Sequence[str]) -> dict[Numbers, str]:
    found = {name: re.findall(r"\d+", name) for name in names}
    keys: dict[Numbers, str] = {(int(numbers[0]),): name for name, numbers in found.items() if numbers}
    return keys if len(keys) == len(names) else {}


def _differing_numbers(names: Sequence[str]) -> dict[Numbers, str]:
    found = {name: tuple(int(number) for number in re.findall(r"\d+", name)) for name in names}
    if len({len(numbers) for numbers in found.values()}) != 1:
        return {}
    columns = list(zip(*found.values(), strict=True))
    varying = [index for index, column in enumerate(columns) if len(set(column)) > 1]
    keys = {tuple(numbers[index] for index in varying): name for name, numbers in found.items()}
    return keys if len(keys) == len(names) and varying else {}


def _example(how: str, images: Mapping[str, Mapping[str, Path]], labels: Mapping[str, Path]) -> str:
    case = min(images, key=lambda name: (name == image_stem(labels[name]), name))  # one whose names differ
    image = next(iter(images[case].values())).name
    return f"labels matched to images {how}, such as {image} ↔ {labels[case].name}"


def _closest(name: str, others: Iterable[str], files: Mapping[str, Path]) -> str:
    near = difflib.get_close_matches(name, sorted(others), n=1)
    return f" (closest: {files[near[0]].name})" if near else ""


def _names(files: Iterable[Path]) -> str:
    return ", ".join(path.name for path in files)
