"""Look at one case: can its files be read, do they lie on one grid, what do they hold?

What is found is kept as ``CaseFacts``: problems that can be told from the case alone, and the numbers from which
``check_across`` tells the problems that show only beside the declared labels and the other cases.
"""

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autoseg.data.cases import Case
from autoseg.data.check_geometry import NOISE_VOXELS, SAME_VOXELS, misfit, orientation
from autoseg.data.check_labels import LabelFacts, measure_label
from autoseg.data.check_objects import ObjectFacts
from autoseg.data.check_problem import Problem, count, problem
from autoseg.data.instance_labels import needs_class_map
from autoseg.data.io import READERS, Image, StackedImage, as_ids, image_ending, open_image, open_label, shape_text
from autoseg.errors import ImageError
from planners.fingerprint import Shape, Spacing
from planners.labels import Labels

SLAB_VOXELS = 1 << 22
"""Voxels looked at in one go: a few tens of MB of temporary arrays, whatever the size of the image."""

OBJECT_BYTES = 24
"""Per voxel of a map of ids, beside what any label takes: numbers, class values, masks, and runs of its objects."""


@dataclass(frozen=True, kw_only=True)
class ImageFacts:
    """What one image holds.

    Attributes:
        non_finite: voxels that are NaN or infinite, per channel.
        constant: the only value, per channel; None where there are several.
        content_voxels: voxels of the box around everything that is not zero (of the whole image where all is).
        digest: of all voxels as 32-bit floats; equal for equal pixels, whatever format or type they are stored in.
    """

    non_finite: tuple[int, ...]
    constant: tuple[float | None, ...]
    content_voxels: int
    digest: str


@dataclass(frozen=True, kw_only=True)
class CaseFacts:
    """What one case holds, and what is wrong with it.

    Attributes:
        id: of the case.
        group: of the case, if any.
        test: whether it is an image to predict, without a label.
        shape, spacing_mm: z, y, x; None where the image cannot be opened.
        dimensions: 2 or 3, as the file says; None where the image cannot be opened.
        orientation: three letters, see ``check_geometry.orientation``; None where the files do not say.
        num_channels: of the image; None where it is not known.
        image, label: what was measured; None where it could not be read. Of a label that holds ids, ``label`` is what
            its map of classes holds.
        objects: what a map of ids holds; None where the label holds none.
        label_file, id_file: of the class values and of the ids, for messages.
        problems: those that can be told from this case alone.
        notes: what the reader did to the files.
    """

    id: str
    group: str | None = None
    test: bool = False
    shape: Shape | None = None
    spacing_mm: Spacing | None = None
    dimensions: int | None = None
    orientation: str | None = None
    num_channels: int | None = None
    image: ImageFacts | None = None
    label: LabelFacts | None = None
    objects: ObjectFacts | None = None
    label_file: str = ""
    id_file: str = ""
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class OpenedCase:
    """The opened files of a case.

    Attributes:
        id: of the case.
        num_files: files of its image.
        channels: those that can be opened.
        label: None where there is none, or it cannot be opened.
        classes: the map of classes beside a label that holds ids; None where there is none, or it cannot be opened.
        has_ids: whether the label holds ids of objects.
        problems: why something cannot be opened, or is missing.
    """

    id: str
    num_files: int
    channels: tuple[Image, ...]
    label: Image | None
    classes: Image | None = None
    has_ids: bool = False
    problems: tuple[Problem, ...]

    @property
    def image(self) -> Image | None:
        """All channels as one image; None where one cannot be opened or has another shape than the first."""
        if self.num_files != len(self.channels) or len({channel.shape for channel in self.channels}) != 1:
            return None
        return self.channels[0] if len(self.channels) == 1 else StackedImage(self.channels)

    @property
    def num_bytes(self) -> int:
        """Main memory that reading and measuring the case takes, counted by the arrays that live at the same time.

        A voxel is there as it is stored (twice while channels are stacked) and as a 32-bit float; with masks and, for
        a label, the numbers of its pieces or objects.
        """
        sizes = [(image.num_channels * (2 * image.dtype.itemsize + 4) + 2, image.shape) for image in self.channels]
        if self.label is not None:
            sizes.append((3 * self.label.dtype.itemsize + 6 + OBJECT_BYTES * self.has_ids, self.label.shape))
        if self.classes is not None:
            sizes.append((3 * self.classes.dtype.itemsize, self.classes.shape))
        return sum(each * int(np.prod(shape)) for each, shape in sizes)


def open_case(case: Case, *, test: bool = False, labels: Labels | None = None) -> OpenedCase:
    """Open the files of a case one by one; what cannot be opened becomes a problem.

    Args:
        case: its files.
        test: leave the label out.
        labels: as far as they are known; they tell whether the label holds ids.
    """
    has_ids = labels is not None and bool(labels.instance_classes)
    problems: list[Problem] = []
    channels: list[Image] = []
    for path in case.images:
        try:
            channels.append(open_image([path]))
        except ImageError as fault:
            problems.append(unreadable("unreadable-file", case.id, fault))
    label = None if test else _open_map(case.id, case.label, problems)
    classes = _open_map(case.id, case.classes, problems) if has_ids and not test else None
    if labels is not None and needs_class_map(labels) and label is not None and case.classes is None:
        names = ", ".join(labels.names[1:])
        found = f"no map of classes beside the ids tells {names} apart ({label.name})"
        problems.append(problem("missing-classes", case.id, found))
    return OpenedCase(
        id=case.id,
        num_files=len(case.images),
        channels=tuple(channels),
        label=as_ids(label) if has_ids and label is not None else label,
        classes=classes,
        has_ids=has_ids,
        problems=tuple(problems),
    )


def _open_map(case_id: str, path: Path | None, problems: list[Problem]) -> Image | None:
    if path is None:
        return None
    try:
        return open_label(path)
    except ImageError as fault:
        lossy = image_ending(path) in READERS and not READERS[image_ending(path)].label and path.is_file()
        problems.append(unreadable("image-as-label" if lossy else "unreadable-file", case_id, fault))
        return None


def check_grids(opened: OpenedCase) -> list[Problem]:
    """Compare shape and place of the channels with the first channel, of the label with it, of its classes with it."""
    problems: list[Problem] = []
    if not opened.channels:
        return problems
    first = opened.channels[0]
    for index, channel in enumerate(opened.channels[1:], start=1):
        problems += _compare(opened.id, "channel", f"channel {index}", first, channel)
    if opened.label is not None:
        problems += _compare(opened.id, "label", "label", first, opened.label)
    if opened.classes is not None:
        problems += _compare(opened.id, "classes", "map of classes", opened.label or first, opened.classes)
    return problems


def check_case(
    case_id: str,
    image: Image | None,
    image_CZYX: np.ndarray | None,
    label: Image | None = None,
    label_ZYX: np.ndarray | None = None,
) -> CaseFacts:
    """Check what a case holds, from its opened arrays.

    Args:
        case_id: for the problems.
        image: gives geometry and file; None where the channels do not go together.
        image_CZYX: channels, z, y, x as read; None where they cannot be read.
        label: the label's file, or None.
        label_ZYX: z, y, x as read, in the user's values; None where it cannot be read.
    """
    measured = None if image_CZYX is None else measure_image(image_CZYX)
    values = None if label_ZYX is None else measure_label(label_ZYX)
    label_file = "" if label is None else label.name
    problems = [] if image is None or measured is None else _image_problems(case_id, image, measured)
    problems += [] if values is None else _label_problems(case_id, label_file, values)
    facts = CaseFacts(
        id=case_id,
        image=measured,
        label=values,
        label_file=label_file,
        problems=tuple(problems),
        notes=_notes(image, label),
    )
    if image is None:
        return facts
    placed = image.geometry.known and image.geometry.dimensions == 3
    return dataclasses.replace(
        facts,
        shape=image.shape,
        spacing_mm=image.geometry.spacing_mm,
        dimensions=image.geometry.dimensions,
        orientation=orientation(image.geometry) if placed else None,
        num_channels=image.num_channels,
    )


def _notes(*images: Image | None) -> tuple[str, ...]:
    return tuple(dict.fromkeys(note for image in images if image is not None for note in image.notes))


def measure_image(image_CZYX: np.ndarray) -> ImageFacts:
    """Go once over an image (channels, z, y, x; any number type), slab by slab."""
    hasher = hashlib.blake2b(str(image_CZYX.shape).encode(), digest_size=16)
    shape = image_CZYX.shape[1:]
    step = max(1, SLAB_VOXELS // max(1, shape[1] * shape[2]))
    content = [np.zeros(size, dtype=bool) for size in shape]
    non_finite, constant = [], []
    for channel in image_CZYX:
        bad, extremes = 0, []
        for start in range(0, shape[0], step):
            with np.errstate(over="ignore"):
                slab = np.ascontiguousarray(channel[start : start + step], dtype=np.float32)
            hasher.update(slab.data)
            good = np.isfinite(slab)
            if not good.all():
                bad += int(good.size - np.count_nonzero(good))
            values = slab if good.all() else slab[good]
            if values.size:
                extremes += [float(values.min()), float(values.max())]
            _mark_content(content, slab != 0, start)
        non_finite.append(bad)
        constant.append(extremes[0] if extremes and min(extremes) == max(extremes) else None)
    spans = [np.flatnonzero(found) for found in content]
    inside = [int(span[-1] - span[0] + 1) if len(span) else size for span, size in zip(spans, shape, strict=True)]
    return ImageFacts(
        non_finite=tuple(non_finite),
        constant=tuple(constant),
        content_voxels=int(np.prod(inside)),
        digest=hasher.hexdigest(),
    )


def _mark_content(content: list[np.ndarray], mask: np.ndarray, start: int) -> None:
    plane: np.ndarray = np.any(mask, axis=0)
    content[0][start : start + len(mask)] |= np.any(mask, axis=(1, 2))
    content[1] |= np.any(plane, axis=1)
    content[2] |= np.any(plane, axis=0)


def _image_problems(case_id: str, image: Image, facts: ImageFacts) -> list[Problem]:
    problems = []
    total = int(np.prod(image.shape))
    for index, (bad, constant) in enumerate(zip(facts.non_finite, facts.constant, strict=True)):
        where = image.name if image.num_channels == 1 else f"channel {index} of {image.name}"
        if bad:
            found = f"{where} holds NaN or infinity in {count(bad, 'voxel')} of {total:,}"
            problems.append(problem("non-finite-voxels", case_id, found))
        if constant is not None or bad == total:
            found = f"{where} is {'not finite' if constant is None else format(constant, 'g')} everywhere"
            problems.append(problem("constant-image", case_id, found))
    return problems


def _label_problems(case_id: str, file: str, facts: LabelFacts) -> list[Problem]:
    if facts.looks_like_image:
        found = f"{file} holds {facts.num_values:,} different values, scattered like those of an image"
        return [problem("image-as-label", case_id, found)]
    if facts.fractional_voxels:
        shown = ", ".join(facts.fractional_examples)
        found = f"{file} holds fractions in {count(facts.fractional_voxels, 'voxel')}, such as {shown}"
        return [problem("fractional-label", case_id, found)]
    return []


def _compare(case_id: str, what: str, name: str, first: Image, other: Image) -> list[Problem]:
    base = "label" if what == "classes" else "image"
    if first.shape != other.shape:
        found = f"{name} has shape {shape_text(other.shape)}, {base} has {shape_text(first.shape)} ({other.name})"
        return [problem(f"{what}-shape", case_id, found)]
    apart = misfit(first.geometry, other.geometry, first.shape)
    if apart.voxels < SAME_VOXELS:
        return []
    if apart.voxels <= NOISE_VOXELS:
        found = f"the {name}'s corners lie up to {apart.voxels:.2g} voxels from the {base}'s ({other.name})"
        return [problem("geometry-noise", case_id, found)]
    found = f"{name} is {apart.how} against the {base}: corners up to {apart.voxels:.3g} voxels apart ({other.name})"
    return [problem(f"{what}-geometry", case_id, found)]


def unreadable(kind: str, case_id: str, fault: ImageError) -> Problem:
    """Make a problem of an error: what was found, then what to do."""
    found, _, fix = str(fault).partition(". ")
    return problem(kind, case_id, found.rstrip("."), fix.rstrip("."))
