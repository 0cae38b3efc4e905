"""Many ensembles of the same few networks, judged on one case in one pass.

Every configuration's logits are resampled once, slab by slab, whatever the number of ensembles. Where all of them
decode to the same class, so does any weighted average (``Target.is_unanimous``); only the other voxels, mostly a few
per cent along the borders, are averaged and decoded per ensemble. What comes out is one joint histogram per ensemble,
the same as from segmenting and counting each by itself.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from autoseg.evaluation.overlap import joint_histogram
from autoseg.inference.export import LogitsPart, average, cut_slabs, segment
from autoseg.preprocessing.preprocess import cropped_view
from autoseg.targets import Target
from planners.plan import Plan


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """Some of the parts of a case, and their weights.

    Attributes:
        members: positions of at least two parts.
        weights: of their probabilities; only their ratio counts.
    """

    members: tuple[int, ...]
    weights: tuple[float, ...]


def count_ensembles(
    parts: Sequence[LogitsPart], ensembles: Sequence[Ensemble], target: Target, plan: Plan, label: np.ndarray
) -> list[np.ndarray]:
    """Count how every ensemble's segmentation of a case lies on its label.

    Args:
        parts: what each configuration says, of equal targets.
        ensembles: what to judge.
        target: decodes.
        plan: gives the order of axes and the classes.
        label: inner class indices (z, y, x) of the image as read.

    Returns:
        Per ensemble, the joint histogram of label (rows) and segmentation, as of ``overlap.joint_histogram``.
    """
    num_classes, ignore = plan.labels.num_classes, plan.labels.ignore_index
    if not target.pointwise:
        decoded = (segment(_members(parts, item), target, plan) for item in ensembles)
        return [joint_histogram(label, segmentation, num_classes, ignore) for segmentation in decoded]
    grid = parts[0].grid
    inside = cropped_view(label, grid, plan.axis_order)
    zeros = np.zeros((1, 1, 1), dtype=np.uint8)
    # Outside the crop everything is background: the whole label against background, less the part inside.
    shared = joint_histogram(label, np.broadcast_to(zeros, label.shape), num_classes, ignore)
    shared -= joint_histogram(inside, np.broadcast_to(zeros, inside.shape), num_classes, ignore)
    totals = [shared] + [np.zeros_like(shared) for _ in ensembles]
    resamplers = [part.onto(grid.shape_after_crop, grid.spacing_before_mm) for part in parts]
    for start, stop in cut_slabs(grid.shape_after_crop, len(parts[0].logits_KZYX)):
        logits = [item.slab(start, stop) for item in resamplers]
        alike, disputed, first = _split(logits, target)
        under = inside[start:stop]
        totals[0] += joint_histogram(under[alike], first[alike], num_classes, ignore)
        rest = under[disputed]
        if not rest.size:
            continue
        maps = [target.probabilities(item[:, disputed].reshape(len(item), 1, 1, -1)) for item in logits]
        for total, ensemble in zip(totals[1:], ensembles, strict=True):
            mean = average((maps[member].copy() for member in ensemble.members), ensemble.weights)
            total += joint_histogram(rest, target.decode_probabilities(mean).reshape(-1), num_classes, ignore)
    return [totals[0] + total for total in totals[1:]]


def _members(parts: Sequence[LogitsPart], ensemble: Ensemble) -> list[LogitsPart]:
    pairs = zip(ensemble.members, ensemble.weights, strict=True)
    return [replace(parts[member], weight=weight) for member, weight in pairs]


def _split(logits: Sequence[np.ndarray], target: Target) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tell the voxels (z, y, x) in which all parts decode alike from the others; give the first one's decoding too."""
    if not target.is_unanimous:
        shape = logits[0].shape[1:]
        return np.zeros(shape, dtype=bool), np.ones(shape, dtype=bool), np.zeros(shape, dtype=np.uint8)
    decoded = [target.decode(item) for item in logits]
    disputed = np.zeros(decoded[0].shape, dtype=bool)
    for one, other in itertools.pairwise(decoded):
        disputed |= one != other
    return ~disputed, disputed, decoded[0]
