"""Warn where a new image lies outside what the networks were trained on: spacing, extent, orientation, intensities.

A network answers any image, and is often sure of itself where it has no reason to be. What it was trained on stands in
the run's ``fingerprint.json``. Each number of the image is compared with the range that the training cases span, with
room on either side; a model without fingerprint (a foreign one) says nothing.

Intensities are judged as the network sees them. A channel whose scale means something (``ABSOLUTE``, such as CT) is
compared by its values. One that is normalized image by image (z-score) is compared by the shape of its distribution
alone, which tells little: MRI whose scale differs ten-thousandfold between cases is familiar, and so may an inverted
one be. docs/uncertainty.md tells what was measured.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from autoseg.data.check_geometry import orientation
from autoseg.data.image import FLAT_SPACING_FACTOR
from autoseg.data.io import Geometry
from autoseg.inference.intensity_slips import is_flat, leans_otherwise, slip
from autoseg.preprocessing.cropping import bounding_box, box_shape, full_box
from autoseg.preprocessing.image_percentiles import PERCENTILES, image_percentiles
from autoseg.preprocessing.looking import Looked
from planners.fingerprint import BODY_AXES, Fingerprint
from planners.plan import Configuration, Plan

ABSOLUTE = ("ct", "none", "rgb-0-1")
"""Normalizations that leave a scale on which every image stands alike."""

FACTOR = 2.0
"""Spacing and extent may lie so far beyond the training's. Assumption: augmentation scales by 0.7 to 1.4, and cases of
one dataset often differ by this much."""

ROOM = 1.0
"""Room on either side of the training's intensities, in widths of their range; see docs/uncertainty.md."""
ROOM_OF_FEW = 5.0  # divided by the number of cases, and added: the range of few cases is too narrow
LEAST_WIDTH = 0.5
"""Of the range: in deviations of the foreground for a scale that means something, else in quartile distances."""

AXES = ("z", "y", "x")


class Familiarity:
    """What the networks of a model know, to compare images with."""

    def __init__(self, fingerprint: Fingerprint, plan: Plan, configurations: Sequence[Configuration]) -> None:
        """Work out the ranges that the training cases span.

        Args:
            fingerprint: of the training cases.
            plan: of the model.
            configurations: those that segment new images.
        """
        self.fingerprint, self.plan, self.configurations = fingerprint, plan, configurations
        self.flat = {_is_flat(spacing) for spacing in fingerprint.spacings_mm}
        self.spacings = np.array(fingerprint.spacings_mm)
        self.extents = self.spacings * np.array(fingerprint.shapes)
        self.orientations = {item for item in fingerprint.orientations if item is not None}

    def judge(self, image_CZYX: np.ndarray, geometry: Geometry) -> tuple[str, ...]:
        """Say what is unfamiliar about an image, in one sentence each: found, where, what to do.

        Args:
            image_CZYX: as read.
            geometry: as read.
        """
        return self.judge_seen(see(image_CZYX), geometry)

    def judge_seen(self, seen: Looked, geometry: Geometry) -> tuple[str, ...]:
        """Say the same of what was seen of an image."""
        dimensions = self._dimensions(geometry)
        if dimensions:
            return (dimensions, *self._intensities(seen))
        place = self._turned(geometry) or self._spacing(geometry) or self._extent(geometry, seen)
        return (*([place] if place else ()), *self._intensities(seen))

    def _dimensions(self, geometry: Geometry) -> str | None:
        if (geometry.dimensions == 2) in self.flat:
            return None
        here, there = ("a 2D image", "volumes") if geometry.dimensions == 2 else ("a volume", "2D images")
        return f"it is {here}, the training cases are {there}. Give images of the kind that the model was trained on"

    def _turned(self, geometry: Geometry) -> str | None:
        """Tell whether the axes run otherwise than in training, in a way that no mirroring has shown the networks."""
        if not geometry.known or geometry.dimensions == 2 or len(self.orientations) == 0:
            return None
        here = orientation(geometry)
        if any(self._is_alike(here, known) for known in self.orientations):
            return None
        known = " or ".join("-".join(item) for item in sorted(self.orientations))
        return (
            f"its axes z, y, x run to {'-'.join(here)}, those of the training cases to {known}. Check the header; "
            "reorient the image if its axes are stored in another order"
        )

    def _is_alike(self, here: str, known: str) -> bool:
        """Compare two orientations; axes that every configuration was trained with in both directions may differ."""
        axes = [next(index for index, ends in enumerate(BODY_AXES) if letter in ends) for letter in here]
        if any(known[place] not in BODY_AXES[axis] for place, axis in enumerate(axes)):
            return False
        return all(
            here[place] == known[place] or all(_is_mirrored(item, self.plan, place) for item in self.configurations)
            for place in range(3)
        )

    def _spacing(self, geometry: Geometry) -> str | None:
        advice = "Check the header" if geometry.known else "The file does not say it, so 1 mm is taken: convert it"
        return self._compare("spacing", geometry.spacing_mm, self.spacings, advice)

    def _extent(self, geometry: Geometry, seen: Looked) -> str | None:
        """Compare how far the content reaches, as in the fingerprint: the box around all that is not zero."""
        extent = np.array(geometry.spacing_mm) * box_shape(seen.content)
        advice = "Check that the image shows the same part of the body"
        return self._compare("extent", extent.tolist(), self.extents, advice)

    def _compare(self, what: str, found: Sequence[float], trained: np.ndarray, advice: str) -> str | None:
        """Compare lengths in mm, axis by axis, as ratios."""
        low, high = trained.min(axis=0), trained.max(axis=0)
        axes, limit = range(1 if self.flat == {True} else 0, 3), FACTOR * (1 + 1e-3)  # headers round
        outside = [axis for axis in axes if not low[axis] / limit <= found[axis] <= high[axis] * limit]
        if not outside:
            return None
        here = ", ".join(f"{AXES[axis]} {found[axis]:.4g}" for axis in outside)
        there = ", ".join(f"{AXES[axis]} {_span(low[axis], high[axis])}" for axis in outside)
        return f"its {what} is {here} mm, that of the training cases {there} mm. {advice}"

    def _intensities(self, seen: Looked) -> Iterator[str]:
        measured = seen.percentiles
        for index, channel in enumerate(self.plan.channels):
            name = f"channel {index} ({channel.name})"
            if seen.lowest[index] == seen.highest[index]:
                yield f"{name} holds the value {seen.lowest[index]:g} alone. Check its file"
            elif self.fingerprint.image_percentiles:
                trained = np.array([case[index] for case in self.fingerprint.image_percentiles])
                absolute = {item.normalization[index] for item in self.configurations} & {*ABSOLUTE}
                judge = self._judge_values if absolute else self._judge_shape
                yield from judge(name, index, np.array(measured[index]), trained)

    def _judge_values(self, name: str, index: int, found: np.ndarray, trained: np.ndarray) -> Iterator[str]:
        known = self.plan.channels[index].intensities
        seen, spanned = found, trained
        if known is not None and any(item.normalization[index] == "ct" for item in self.configurations):
            # Air is −1000 to one scanner and −3024 to another; the network sees neither.
            seen = np.clip(found, known.percentile_00_5, known.percentile_99_5)
            spanned = np.clip(trained, known.percentile_00_5, known.percentile_99_5)
        place = _furthest_outside(seen, spanned, known.std if known is not None else 0.0)
        if place is not None:
            low, high = trained[:, place].min(), trained[:, place].max()
            yield (
                f"{name}: the {PERCENTILES[place]}th percentile of its values is {found[place]:.4g}, that of the "
                f"training cases {_span(low, high)}. Check the units (CT: Hounsfield units), and whether the contrast "
                "is the same"
            )
        elif known is not None and seen is not found:
            yield from _judge_slips(name, found, trained, seen, spanned, LEAST_WIDTH * known.std)

    def _judge_shape(self, name: str, index: int, found: np.ndarray, trained: np.ndarray) -> Iterator[str]:
        tails, known = _tails(found[None]), _tails(trained)
        if not len(tails) or not len(known):
            return
        place = _furthest_outside(tails[0], known, 1.0)
        if place is not None:
            side = ("lower", "upper")[place]
            low, high = known[:, place].min(), known[:, place].max()
            yield (
                f"{name}: the {side} tail of its values is {tails[0, place]:.3g} quartile distances long, in the "
                f"training cases {_span(low, high)}. Check that it is the same kind of image, not inverted or clipped"
            )
            return
        lean = leans_otherwise(found, trained, ROOM + ROOM_OF_FEW / len(trained))
        if lean is not None:
            yield (
                f"{name}: the distribution of its values leans to the other side (asymmetry {lean[0]:.2g}, in the "
                f"training cases {_span(lean[1], lean[2])}). Check that it is not inverted"
            )


def _judge_slips(
    name: str, found: np.ndarray, trained: np.ndarray, seen: np.ndarray, spanned: np.ndarray, unit: float
) -> Iterator[str]:
    """Tell mistakes with Hounsfield units that lie within the room, for few training cases leave a wide one."""
    words = slip(found, trained, unit)
    if words is not None:
        yield f"{name}: its values seem to be {words}. Check the units (CT: Hounsfield units)"
    elif is_flat(seen, spanned):
        yield (
            f"{name}: within the range that the network sees ({spanned.min():.4g} to {spanned.max():.4g}), nearly all "
            f"its values are {seen[0]:.4g}. Check the units (CT: Hounsfield units)"
        )


def see(image_CZYX: np.ndarray) -> Looked:
    """Look at an image that is in memory."""
    content = image_CZYX[0] != 0
    for channel in image_CZYX[1:]:
        content |= channel != 0
    return Looked(
        lowest=tuple(float(channel.min()) for channel in image_CZYX),
        highest=tuple(float(channel.max()) for channel in image_CZYX),
        fill=(None,) * len(image_CZYX),
        content=bounding_box(content) or full_box(content.shape),
        percentiles=image_percentiles(image_CZYX),
    )


def _tails(percentiles: np.ndarray) -> np.ndarray:
    """Give the distances of the 5th and the 95th percentile from the median, in quartile distances.

    Cases more than half of whose voxels have one value have no quartile distance; they are left out.
    """
    low, first, middle, third, high = percentiles.T
    width = third - first
    sound = width > 0
    tails: np.ndarray = np.stack([middle - low, high - middle], axis=1)[sound] / width[sound, None]
    return tails


def _furthest_outside(found: np.ndarray, trained: np.ndarray, unit: float) -> int | None:
    """Find which of some numbers lies furthest beyond the training's range and its room; None where all are inside."""
    low, high = trained.min(axis=0), trained.max(axis=0)
    room = (ROOM + ROOM_OF_FEW / len(trained)) * np.maximum(high - low, LEAST_WIDTH * unit)
    beyond = np.maximum(low - room - found, found - high - room)
    place = int(np.argmax(beyond))
    return place if beyond[place] > 0 else None


def _is_mirrored(configuration: Configuration, plan: Plan, axis: int) -> bool:
    """Tell whether a configuration was trained with patches mirrored along an axis of the image as read.

    Where left and right are classes they change places with the patch: then the direction matters.
    """
    place = plan.axis_order.index(axis) - (3 - configuration.dimensions)
    training = configuration.training
    return place in training.mirror_axes and place != training.mirror_swap_axis


def _is_flat(spacing_mm: Sequence[float]) -> bool:
    """Recognise a 2D image by its z spacing, as ``data.image`` sets it."""
    return math.isclose(spacing_mm[0], FLAT_SPACING_FACTOR * max(spacing_mm[1:]), rel_tol=1e-3)


def _span(low: float, high: float) -> str:
    return f"{low:.4g}" if math.isclose(low, high, rel_tol=1e-3) else f"{low:.4g} to {high:.4g}"
