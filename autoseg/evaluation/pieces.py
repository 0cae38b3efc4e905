"""Pieces: all that postprocessing rules may ask about one case, so that any sequence of them is judged by counting.

A case is reduced once to its *pieces*: voxels of one class (background too) that are connected through faces. The
components of any union of classes, and of what surrounds them, before and after any rules, are sets of pieces that
touch. A rule gives pieces another class; how that changes the joint histogram follows from how each overlaps the label.

Background that reaches the border of the image can never be filled. It is no piece; those that touch it are noted.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autoseg.evaluation.overlap import CHUNK_VOXELS, joint_histogram
from autoseg.evaluation.postprocessing import (
    FILL_HOLES,
    LARGEST_COMPONENT,
    REMOVE_SMALL,
    Postprocessing,
    border_faces,
    choose_filling,
    padded_box,
)
from planners.labels import Labels


@dataclass(frozen=True)
class PieceTable:
    """The pieces of one case, P of them.

    Attributes:
        case: its id.
        annotated: the classes the case has been annotated for; None: all.
        voxel_mm3: volume of a voxel.
        num_classes: with background.
        histogram: joint histogram of label and prediction as predicted.
        classes: (P,) class of each piece as predicted.
        sizes: (P,) its voxels, ignored ones too.
        is_open: (P,) whether it reaches the border of the image, or touches a face of background that does.
        near: (E, 2) pairs of pieces that touch (26 neighbours; 8 in 2D).
        faces: (F, 2) pairs of pieces that share faces.
        num_faces: (F,) how many.
        overlap_piece, overlap_class, overlap_voxels: voxels of a piece that lie on a class of the label.
    """

    case: str
    annotated: Sequence[int] | None
    voxel_mm3: float
    num_classes: int
    histogram: np.ndarray
    classes: np.ndarray
    sizes: np.ndarray
    is_open: np.ndarray
    near: np.ndarray
    faces: np.ndarray
    num_faces: np.ndarray
    overlap_piece: np.ndarray
    overlap_class: np.ndarray
    overlap_voxels: np.ndarray

    def after(self, now: np.ndarray, rule: Postprocessing) -> np.ndarray:
        """Give the class of each piece (P,) after a rule, from those before; ``now`` itself where nothing changes."""
        if rule.rule == FILL_HOLES:
            return self._filled(now, rule)
        within, component, sizes = self._components(now, rule.classes)
        if not sizes.size:
            return now
        if rule.rule == LARGEST_COMPONENT:
            gone = sizes < sizes.max()
        else:
            assert rule.rule == REMOVE_SMALL, "every rule is judged here"
            assert rule.size_mm3 is not None
            gone = (sizes * self.voxel_mm3 < rule.size_mm3) & (sizes > 0)
        removed = within & gone[component]
        return np.where(removed, 0, now) if removed.any() else now

    def histogram_after(self, now: np.ndarray) -> np.ndarray:
        """Give the joint histogram where the pieces have the classes ``now`` (P,)."""
        changed = (now != self.classes)[self.overlap_piece]
        rows, voxels, piece = self.overlap_class[changed], self.overlap_voxels[changed], self.overlap_piece[changed]
        histogram = self.histogram.copy()
        np.subtract.at(histogram, (rows, self.classes[piece]), voxels)
        np.add.at(histogram, (rows, now[piece]), voxels)
        return histogram

    def component_sizes(self, now: np.ndarray, classes: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Measure the components of a union of classes.

        Returns:
            Their volumes in mm³, and which of them are *false*: lie on the label, but nowhere on these classes of it.
        """
        within, component, sizes = self._components(now, classes)
        if not sizes.size:
            return sizes.astype(float), np.zeros(0, dtype=bool)
        counted, right = np.zeros((2, len(sizes)), dtype=np.int64)
        inside = within[self.overlap_piece]
        place, voxels = component[self.overlap_piece[inside]], self.overlap_voxels[inside]
        np.add.at(counted, place, voxels)
        np.add.at(right, place, voxels * np.isin(self.overlap_class[inside], list(classes)))
        real = sizes > 0
        return sizes[real] * self.voxel_mm3, ((counted > 0) & (right == 0))[real]

    def _components(self, now: np.ndarray, classes: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Find the components of a union: which pieces belong to it, their component, and its voxels (0: no part)."""
        within = np.isin(now, list(classes))
        if not within.any():
            return within, np.zeros(len(within), dtype=np.int64), np.zeros(0, dtype=np.int64)
        component = _connect(len(within), self.near[within[self.near].all(axis=1)])
        return within, component, np.bincount(component, weights=self.sizes * within).astype(np.int64)

    def _filled(self, now: np.ndarray, rule: Postprocessing) -> np.ndarray:
        empty = now == 0
        if not (empty & ~self.is_open).any():
            return now
        component = _connect(len(now), self.faces[empty[self.faces].all(axis=1)])
        is_open = np.zeros(len(now), dtype=bool)
        is_open[component[empty & self.is_open]] = True
        contacts = np.zeros((len(now), self.num_classes), dtype=np.int64)
        for hole, other in (self.faces.T, self.faces.T[::-1]):
            touch = empty[hole] & ~empty[other]
            np.add.at(contacts, (component[hole[touch]], now[other[touch]]), self.num_faces[touch])
        filling = choose_filling(contacts, is_open, rule.classes)[component]
        changed = empty & (filling > 0)
        return np.where(changed, filling, now) if changed.any() else now


def _connect(count: int, pairs: np.ndarray) -> np.ndarray:
    """Number the components (count,) of a graph from 0."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(pairs), dtype=bool), tuple(pairs.T)), shape=(count, count))
    found: np.ndarray = connected_components(graph, directed=False)[1]
    return found


def piece_table(
    case: str,
    label: np.ndarray,
    prediction: np.ndarray,
    labels: Labels,
    annotated: Sequence[int] | None = None,
    voxel_mm3: float = 1.0,
) -> PieceTable:
    """Reduce one case to what the rules need; arguments as of ``overlap.score_case``, and the volume of a voxel."""
    histogram = joint_histogram(label, prediction, labels.num_classes, labels.ignore_index)
    box, image_shape = padded_box(prediction), prediction.shape
    label, prediction = label[box], prediction[box].astype(np.min_scalar_type(labels.num_classes))
    pieces, classes, is_open = _find_pieces(prediction, labels.num_classes, image_shape)
    faces, num_faces = _shared_faces(pieces, len(classes))
    at_open = (faces == 0).any(axis=1)
    is_open[faces[at_open].max(axis=1) - 1] = True
    overlap_piece, overlap_class, overlap_voxels, sizes = _overlaps(pieces, label, len(classes), labels)
    return PieceTable(
        case=case,
        annotated=annotated,
        voxel_mm3=voxel_mm3,
        num_classes=labels.num_classes,
        histogram=histogram,
        classes=classes,
        sizes=sizes,
        is_open=is_open,
        near=_near(pieces, len(classes)),
        faces=faces[~at_open] - 1,
        num_faces=num_faces[~at_open],
        overlap_piece=overlap_piece,
        overlap_class=overlap_class,
        overlap_voxels=overlap_voxels,
    )


def _find_pieces(
    prediction: np.ndarray, num_classes: int, image_shape: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Number the pieces from 1 on, 0 for open background.

    Returns:
        The map (int32), the class of each piece, and whether it lies at the border of the image.
    """
    from scipy import ndimage

    pieces = np.zeros(prediction.shape, dtype=np.int32)
    classes: list[np.ndarray] = [np.zeros(0, dtype=np.int64)]
    count = 0
    boxes = ndimage.find_objects(prediction, max_label=num_classes - 1) if prediction.size else []
    for index, box in enumerate(boxes, start=1):
        if box is None:
            continue
        mask = prediction[box] == index
        found, number = ndimage.label(mask)
        np.add(found, count, out=pieces[box], where=mask)
        classes.append(np.full(number, index, dtype=np.int64))
        count += number
    background, number = ndimage.label(prediction == 0)
    closed = np.ones(number + 1, dtype=bool)
    closed[0] = False
    for face in border_faces(background, image_shape):
        closed[face] = False
    renumbered = np.cumsum(closed, dtype=np.int32) + np.int32(count)
    renumbered[~closed] = 0
    if closed.any():
        np.add(pieces, renumbered[background], out=pieces)
    classes.append(np.zeros(int(closed.sum()), dtype=np.int64))
    everything = np.concatenate(classes)
    at_border = np.zeros(len(everything) + 1, dtype=bool)
    for face in border_faces(pieces, image_shape):  # foreground lies there only where the image ends
        at_border[face] = True
    return pieces, everything, at_border[1:]


def _overlaps(
    pieces: np.ndarray, label: np.ndarray, num_pieces: int, labels: Labels
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Count how pieces lie on the label: piece, class and voxels of each pair, and all voxels of each piece."""
    sizes = np.zeros(num_pieces, dtype=np.int64)
    keys, counts = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    for part in _planes(pieces):
        some = pieces[part]
        inside = some > 0
        piece, under = some[inside].astype(np.int64) - 1, label[part][inside].astype(np.int64)
        sizes += np.bincount(piece, minlength=num_pieces)
        if labels.ignore_index is not None:
            piece, under = piece[under != labels.ignore_index], under[under != labels.ignore_index]
        found, number = np.unique(piece * labels.num_classes + under, return_counts=True)
        keys.append(found)
        counts.append(number)
    pairs, voxels = _sum_up(keys, counts)
    return pairs // labels.num_classes, pairs % labels.num_classes, voxels, sizes


def _shared_faces(pieces: np.ndarray, num_pieces: int) -> tuple[np.ndarray, np.ndarray]:
    """List the pairs of pieces (numbered from 1; 0: open background) that share faces, and how many faces."""
    keys, counts = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    for axis in range(pieces.ndim):
        offset = tuple(int(other == axis) for other in range(pieces.ndim))
        for found in _differing(pieces, offset, num_pieces):
            some, number = np.unique(found, return_counts=True)
            keys.append(some)
            counts.append(number)
    pairs, number = _sum_up(keys, counts)
    return np.stack([pairs // (num_pieces + 1), pairs % (num_pieces + 1)], axis=1), number


def _near(pieces: np.ndarray, num_pieces: int) -> np.ndarray:
    """List the pairs (E, 2) of pieces that touch, also over edges and corners, each once, numbered from 0."""
    keys = [np.zeros(0, dtype=np.int64)]
    for offset in itertools.product((-1, 0, 1), repeat=pieces.ndim):
        if offset > (0,) * pieces.ndim:  # the opposite direction finds the same pairs
            keys += [np.unique(found) for found in _differing(pieces, offset, num_pieces, skip=0)]
    found = np.unique(np.concatenate(keys))
    return np.stack([found // (num_pieces + 1), found % (num_pieces + 1)], axis=1) - 1


def _differing(pieces: np.ndarray, offset: Sequence[int], num_pieces: int, skip: int = -1) -> list[np.ndarray]:
    """Find neighbours in one direction that belong to different pieces: the two numbers of each as one.

    Args:
        pieces: the map.
        offset: the direction.
        num_pieces: highest number in the map.
        skip: pairs with this number are left out.
    """
    here = tuple(slice(max(-step, 0), size - max(step, 0)) for step, size in zip(offset, pieces.shape, strict=True))
    there = tuple(slice(max(step, 0), size - max(-step, 0)) for step, size in zip(offset, pieces.shape, strict=True))
    first, second, found = pieces[here], pieces[there], []
    for part in _planes(first):
        one, other = first[part], second[part]
        differ = np.flatnonzero(one != other)
        if not differ.size:
            continue
        one, other = one.reshape(-1)[differ].astype(np.int64), other.reshape(-1)[differ].astype(np.int64)
        low, high = np.minimum(one, other), np.maximum(one, other)
        found.append((low * (num_pieces + 1) + high)[low != skip])
    return found


def _planes(array: np.ndarray) -> list[slice]:
    """Cut an array along its first axis into parts of about ``CHUNK_VOXELS``."""
    step = max(1, CHUNK_VOXELS // max(array[:1].size, 1))
    return [slice(start, start + step) for start in range(0, len(array), step)]


def _sum_up(keys: Sequence[np.ndarray], counts: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    found, place = np.unique(np.concatenate(keys), return_inverse=True)
    total = np.zeros(len(found), dtype=np.int64)
    np.add.at(total, place.reshape(-1), np.concatenate(counts))
    return found, total
