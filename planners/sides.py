"""Left and right: which classes are the two sides of one thing, and what mirroring may do with them.

A mirrored body has its left kidney where the right one was. A network that learns both sides from mirrored patches
must therefore exchange the two classes, or not see such patches. The sides are found by name *and* by place: the names
say which classes belong together, the images along which axis they lie apart, and whether that is the body's own.

Source: our own rule. nnU-Net v2.8.1 mirrors along every axis and leaves the classes as they are.
"""

import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from planners.decision import Decision, axis_names, percent
from planners.fingerprint import Fingerprint
from planners.labels import Labels
from planners.regions import membership

SIDE_WORDS = (
    ("left", "right"),
    ("lh", "rh"),
    ("lt", "rt"),
    ("sin", "dex"),
    ("sinister", "dexter"),
    ("sinistra", "dextra"),
    ("sinistrum", "dextrum"),
    ("links", "rechts"),
    ("linke", "rechte"),
    ("gauche", "droite"),
)
"""Words that name the two sides, wherever they stand in a name."""

SIDE_LETTERS = ("l", "r")
"""Letters that do so as the first or the last word alone."""

UNLIKE_WORDS = frozenset(
    {"heart", "cardiac", "ventricle", "ventricular", "atrium", "atrial", "auricle", "appendage", "cavity"}
    | {"coronary", "artery", "arteries", "hepatic", "liver", "lobe", "bronchus", "main"}
    | {"blood", "pool", "chamber", "wall", "myocardium", "myocardial", "endocardium", "epicardium"}
)
"""A pair named by these words alone differs from side to side: a mirrored left heart or bronchus is no right one."""

SAME_SIGN_FRACTION = 0.95
"""Cases in which a pair must lie the same way round (assumption: a case in twenty may have a stray voxel)."""

POSSIBLE_FRACTION = 0.25
"""An axis along which pairs lie this far apart, against the axis where they do most, may be the left–right one
(assumption: tilted heads stay below it)."""

Pairs = tuple[tuple[int, int], ...]
"""Left and right of each pair, by position."""


@dataclass(frozen=True, kw_only=True)
class Sides:
    """What is known of a dataset's left and right.

    Attributes:
        names: of each pair, left and right.
        swaps: classes that change places when mirrored (inner indices); None where that cannot be told.
        axes: the array axes, as read, that may run from left to right.
        certain: whether the only one of ``axes`` is that axis in every case.
        because: the numbers behind ``certain``.
    """

    names: tuple[tuple[str, str], ...]
    swaps: Pairs | None
    axes: tuple[int, ...]
    certain: bool
    because: str


def find_pairs(names: Sequence[str]) -> Pairs:
    """Find the names that differ in one word alone, which says left in the first and right in the second.

    Args:
        names: of classes or regions; ``Left kidney``, ``kidney_l``, ``LeftKidney`` and ``lh-kidney`` are all read.
    """
    sides: dict[Hashable, tuple[list[int], list[int]]] = {}
    for index, name in enumerate(names):
        words = _words(name)
        for place, word in enumerate(words):
            for kind, side in _sides_of(word, at_end=place in (0, len(words) - 1)):
                rest = (*words[:place], None, *words[place + 1 :])
                sides.setdefault((kind, rest), ([], []))[side].append(index)
    used: set[int] = set()
    pairs = []
    for left, right in sides.values():
        if len(left) == len(right) == 1 and not used & {*left, *right}:
            pairs.append((left[0], right[0]))
            used |= {*left, *right}
    return tuple(sorted(pairs))


def mirror_all(dimensions: int) -> Decision[tuple[int, ...]]:
    """Mirror along every axis of a patch."""
    return Decision(value=tuple(range(dimensions)), rule="mirror-all-axes", because="along every axis of the patch")


def mirroring(fingerprint: Fingerprint, axis_order: Sequence[int], dimensions: int) -> dict[str, Decision[Any]]:
    """Decide along which axes of the patch to mirror, and which classes change places then.

    Args:
        fingerprint: names of the classes, where they lie, how the arrays lie in the body.
        axis_order: the plan's.
        dimensions: 2 or 3, of the configuration.

    Returns:
        ``mirror_axes``, and ``mirror_swaps`` and ``mirror_swap_axis`` where classes change places.
    """
    every = tuple(range(dimensions))
    sides = find_sides(fingerprint)
    if sides is None:
        return {"mirror_axes": mirror_all(dimensions)}
    shown = _shown(sides.names)
    in_patch = [tuple(axis_order).index(axis) - (3 - dimensions) for axis in sides.axes]
    in_patch = sorted(axis for axis in in_patch if axis >= 0)
    if not in_patch:
        because = f"along every axis of the patch: {shown} lie apart across the slices, so mirroring keeps their sides"
        return {"mirror_axes": Decision(value=every, rule="mirror-all-axes", because=because)}
    named = " and ".join(axis_names(dimensions)[axis] for axis in in_patch)
    if sides.certain and sides.swaps:
        because = f"along {named} {shown} change places: {sides.because}"
        return {
            "mirror_axes": Decision(
                value=every, rule="mirror-all-axes", because=f"along every axis of the patch; {because}"
            ),
            "mirror_swaps": Decision(value=sides.swaps, rule="swap-sides", because=because),
            "mirror_swap_axis": Decision(value=in_patch[0], rule="swap-sides", because=sides.because),
        }
    rest = tuple(axis for axis in every if axis not in in_patch)
    because = f"not along {named}, where {shown} would be taken for each other: {sides.because}"
    return {"mirror_axes": Decision(value=rest, rule="keep-sides", because=because)}


def find_sides(fingerprint: Fingerprint) -> Sides | None:
    """Find the dataset's left and right; None where no two classes (or regions) are named as the sides of one thing."""
    labels = fingerprint.labels
    names, swaps = _pairs_of(labels)
    if not names:
        return None
    axes, certain, because = _left_right_axes(fingerprint, swaps or ())
    unlike = [left for left, _ in names if _is_unlike(left)]
    if unlike:
        swaps, because = None, f"{unlike[0]} has no mirror image on the other side"
    elif swaps is None:
        because = "the regions do not say which classes change places"
    return Sides(names=names, swaps=swaps, axes=axes, certain=certain, because=because)


def region_swaps(labels: Labels, swaps: Pairs) -> Pairs | None:
    """Give the pairs of regions that change places when these classes do; None where a region has no counterpart."""
    table = membership(labels)
    order = _exchanged(labels.num_classes, swaps)
    keys = [tuple(row) for row in table.tolist()]
    images = [tuple(row) for row in table[:, order].tolist()]
    return _as_pairs(_counterparts(keys, images))


def _pairs_of(labels: Labels) -> tuple[tuple[tuple[str, str], ...], Pairs | None]:
    """Give the names of the pairs, and the classes that change places (None where regions leave it open)."""
    region_names = [region.name for region in labels.regions]
    pairs = find_pairs(region_names)
    if pairs:
        names = tuple((region_names[left], region_names[right]) for left, right in pairs)
        return names, _classes_of_regions(labels, pairs)
    foreground = labels.names[1:]
    pairs = tuple((left + 1, right + 1) for left, right in find_pairs(foreground))
    names = tuple((labels.names[left], labels.names[right]) for left, right in pairs)
    fits = not labels.regions or region_swaps(labels, pairs) is not None
    return names, pairs if fits else None


def _classes_of_regions(labels: Labels, region_pairs: Pairs) -> Pairs | None:
    """Find the classes that change places when regions do: those with exchanged regions."""
    table = membership(labels)
    order = _exchanged(len(table), region_pairs)
    keys = [tuple(column) for column in table.T.tolist()]
    images = [tuple(column) for column in table[order].T.tolist()]
    swaps = _as_pairs(_counterparts(keys, images))
    if swaps is None:
        return None
    lefts = {left for left, _ in region_pairs}
    return tuple((a, b) if any(table[region, a] for region in lefts) else (b, a) for a, b in swaps)


def _counterparts(keys: Sequence[Hashable], images: Sequence[Hashable]) -> list[int] | None:
    """Give, per thing, the one whose key is its image; equal ones in their order. None where one is missing."""
    groups: dict[Hashable, list[int]] = {}
    for index, key in enumerate(keys):
        groups.setdefault(key, []).append(index)
    result = []
    for index, image in enumerate(images):
        own, other = groups[keys[index]], groups.get(image, [])
        if len(own) != len(other):
            return None
        result.append(other[own.index(index)])
    return result


def _as_pairs(order: list[int] | None) -> Pairs | None:
    return None if order is None else tuple((index, other) for index, other in enumerate(order) if index < other)


def _exchanged(count: int, pairs: Pairs) -> list[int]:
    order = list(range(count))
    for first, second in pairs:
        order[first], order[second] = second, first
    return order


def _left_right_axes(fingerprint: Fingerprint, swaps: Pairs) -> tuple[tuple[int, ...], bool, str]:
    """Give the array axes that may run from left to right, whether one does for sure, and why."""
    apart = _distances(fingerprint, swaps)
    known = [item for item in fingerprint.orientations if item is not None]
    axes = tuple(sorted({next(axis for axis in range(3) if item[axis] in "LR") for item in known}))
    if not known:
        return _possible_axes(apart), False, "the files do not say which axis runs from left to right"
    if len(axes) > 1:
        return axes, False, "the axis from left to right is not the same in all cases"
    if not apart.size:
        return axes, False, "no case shows both sides"
    name = axis_names(3)[axes[0]]
    signs = np.sign(apart[:, :, axes[0]])
    counted = [column[np.isfinite(column)] for column in signs.T]
    same = [max(np.mean(column > 0), np.mean(column < 0)) for column in counted if column.size]
    majority = {float(np.sign(np.sum(column))) for column in counted if column.size}
    if min(same) < SAME_SIGN_FRACTION or len(majority) != 1:
        return axes, False, f"along the array's {name} they do not lie the same way round in all cases"
    silent = len(fingerprint.shapes) - len(known)
    where = "in all cases" + (f" but {silent} whose files do not say" if silent else "")
    mean = percent(abs(float(np.nanmean(apart[:, :, axes[0]]))))
    return axes, True, f"it runs from left to right {where}, and they lie {mean} of it apart, always the same way round"


def _distances(fingerprint: Fingerprint, swaps: Pairs) -> np.ndarray:
    """Give left − right per case with any pair, pair and axis as read, in fractions of the extent; nan where absent."""
    rows = []
    for centers in fingerprint.class_centers:
        both = [(centers[left], centers[right]) for left, right in swaps]
        if any(a is not None and b is not None for a, b in both):
            rows.append([[np.nan] * 3 if a is None or b is None else np.subtract(a, b) for a, b in both])
    return np.array(rows, dtype=float)


def _possible_axes(apart: np.ndarray) -> tuple[int, ...]:
    """Give the axes along which the pairs lie clearly apart; all where nothing was measured."""
    if not apart.size:
        return (0, 1, 2)
    far = np.nanmedian(np.abs(apart), axis=(0, 1))
    return tuple(int(axis) for axis in np.flatnonzero(far >= POSSIBLE_FRACTION * far.max()))


def _words(name: str) -> list[str]:
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name)
    return re.findall(r"[^\W_]+", spaced.casefold())


def _sides_of(word: str, *, at_end: bool) -> list[tuple[str, int]]:
    """Say which kind of side word this is, and which side it names (0 left, 1 right); empty for other words."""
    kinds = [*SIDE_WORDS, *([SIDE_LETTERS] if at_end else [])]
    return [(kind[0], kind.index(word)) for kind in kinds if word in kind]


def _is_unlike(name: str) -> bool:
    rest = [word for word in _words(name) if not _sides_of(word, at_end=True)]
    return bool(rest) and set(rest) <= UNLIKE_WORDS


def _shown(names: Sequence[tuple[str, str]]) -> str:
    left, right = names[0]
    more = f" and {len(names) - 1} more pairs" if len(names) > 2 else " and one more pair" if len(names) == 2 else ""
    return f"{left} and {right}{more}"
