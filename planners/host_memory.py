"""What a run holds in main memory, by arithmetic: the training's loader, a prediction, and preprocessing.

Of each the part that one case or one batch needs at its worst; the program keeps several cases apart by itself. Files
that are mapped do not count: the system gives their pages back when memory is short. What training takes on a CPU is a
figure of its own, for a plan does not know on what it will be trained: there the network is in main memory too, in
single precision, and the program with its libraries beside it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from planners.decision import byte_size, times
from planners.fingerprint import Fingerprint
from planners.instance_plan import enlarge
from planners.memory import configuration_bytes
from planners.network_size import FAMILIES, num_parameters
from planners.plan import Configuration, Plan, Reason

RULE = "host-bytes"

SINGLE, SHORT = 4, 2
"""Bytes of a number in fp32, of a class in a batch (int16)."""

LAYERS_WITH_IDS = 2 * SINGLE
"""Bytes per voxel of a label whose second layer holds ids of objects, both int32."""

NUMBERING = LAYERS_WITH_IDS + SINGLE + 8
"""Bytes per voxel while ids are numbered, beside the file's own array (``preprocessing.populate``)."""

BATCHES = 4
"""Batches alive at once: two ready, one in the making, one in the network (``training.sampling.AHEAD``)."""

CHANGING = 3
"""Copies of one sample's image while its intensities are changed (blur, lower resolution). Assumption."""

ROOM_FOR_SCALING, MARGIN = 0.85, 3
"""A patch is made from a box larger by 1 / this, padded by so many voxels per axis (``training.spatial``)."""

LOGITS_ALIVE = 3.5
"""Maps of logits alive at once in a prediction: one case's sums, and one and a half for the check that they are finite
(absolute values, truth values twice); those of the case before, which another thread writes. A test measures it."""

IMAGES_ALIVE = 3
"""Images alive at once: read ahead, preprocessed, padded."""

WRITING = 12
"""Bytes per voxel of the image on the way to its file: class, the user's label value, the file's image. Assumption."""

PROGRAM = 350 * 10**6
"""The program with its libraries while it trains on a CPU, without tensors."""

FRAGMENTS = 1.25
"""What the allocator holds of main memory for each byte of tensors in training: it keeps what was freed. Measured
2026-11: 1.16 after three steps of a 2D plan of seven stages (256 × 320, batch 3, 2 threads); the rest is margin."""

SAVED_COPIES = 2
"""Copies of weights and momentum while they are saved: as they are, and as the bytes of the file."""

SCORING_BYTES = 32 * 2**20
"""Working arrays of preprocessing whose size does not depend on the case (``preprocessing.populate``)."""


@dataclass(frozen=True, kw_only=True)
class HostBytes:
    """Main memory of one configuration, in bytes.

    Attributes:
        loading: batches ready and in the making while training.
        training: the whole process that trains on a CPU: program, loading, network.
        prediction: the largest case, from its image to its segmentation.
        median_prediction: a case of median size.
        preprocessing: reading and resampling the largest case.
        largest: shape of that case at the target spacing, z, y, x in the plan's axis order.
    """

    loading: int
    training: int
    prediction: int
    median_prediction: int
    preprocessing: int
    largest: tuple[int, ...]

    @property
    def total(self) -> int:
        """What is needed at once where a GPU trains: these come one after the other."""
        return max(self.loading, self.prediction, self.preprocessing)

    def wording(self) -> str:
        """Say what the total is made of."""
        return (
            f"predicting the largest case, {times(self.largest)}: {byte_size(self.prediction)} (a median one "
            f"{byte_size(self.median_prediction)}); preprocessing it {byte_size(self.preprocessing)}; "
            f"loading {byte_size(self.loading)}. Where it trains on a CPU: {byte_size(self.training)}"
        )


def predict_host(item: Configuration, plan: Plan, fingerprint: Fingerprint) -> HostBytes:
    """Predict the main memory that a configuration needs.

    Args:
        item: one of the plan's.
        plan: gives the order of axes.
        fingerprint: gives the cases' shapes and spacings.
    """
    cases, with_ids = [], bool(plan.labels.instance_classes)
    for shape, grid in grids(item, plan, fingerprint):
        before = round(math.prod(shape) / fingerprint.cropped_fraction)
        needed = preprocessing_bytes(item, before, grid, shape, with_ids=with_ids)
        cases.append((prediction_bytes(item, grid, before), needed, grid))
    by_size = sorted(cases, key=lambda case: case[0])
    return HostBytes(
        loading=loading_bytes(item, with_ids=with_ids),
        training=training_bytes(item, with_ids=with_ids),
        prediction=by_size[-1][0],
        median_prediction=by_size[len(cases) // 2][0],
        preprocessing=max(case[1] for case in cases),
        largest=by_size[-1][2],
    )


def grids(item: Configuration, plan: Plan, fingerprint: Fingerprint) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Give, per measured case, its shape as read and as preprocessed at most, z, y, x in the plan's order of axes."""
    found, seen = [], enlarge(fingerprint, item.scaling)
    for as_read, spacing_as_read in zip(seen.shapes, seen.spacings_mm, strict=True):
        shape = tuple(as_read[axis] for axis in plan.axis_order)
        spacing = [spacing_as_read[axis] for axis in plan.axis_order]
        target = (*spacing[: 3 - item.dimensions], *item.spacing_mm)
        grid = tuple(max(1, round(s / t * n)) for s, t, n in zip(spacing, target, shape, strict=True))
        found.append((shape, grid))
    return found


def loading_bytes(item: Configuration, *, with_ids: bool = False) -> int:
    """Predict the batches that training keeps ready, and what one in the making takes.

    ``with_ids``: labels have a second layer, of ids of objects, and maps and weights are made of them ahead.
    """
    voxels, channels = math.prod(item.patch_size), item.num_input_channels
    each = SINGLE * channels + (LAYERS_WITH_IDS if with_ids else SHORT)
    sample = voxels * (each + (SINGLE * (item.target.num_outputs + 1) if with_ids else 0))
    box = math.prod(edge + MARGIN for edge in loader_size(item)) * each
    boxes = item.batch_size * (BATCHES - 1) if item.training.augmentation.enabled else 0
    return BATCHES * item.batch_size * sample + boxes * box + CHANGING * voxels * SINGLE * channels


def training_bytes(item: Configuration, *, with_ids: bool = False, half: bool = False) -> int:
    """Predict what the process takes that trains a configuration on a CPU.

    Args:
        item: the configuration; ``estimated_bytes`` of a network that we do not know are a step in half precision.
        with_ids: as of ``loading_bytes``.
        half: convolutions compute in bfloat16.
    """
    if item.architecture.family in FAMILIES:
        step = configuration_bytes(item, half=half, scratch=False).total
        state = (
            SAVED_COPIES
            * 2
            * SINGLE
            * num_parameters(item.architecture, item.num_input_channels, item.target.num_outputs)
        )
    else:
        step, state = (1 if half else 2) * item.estimated_bytes, 0
    return PROGRAM + loading_bytes(item, with_ids=with_ids) + state + round(FRAGMENTS * step)


def loader_size(item: Configuration) -> tuple[int, ...]:
    """Give the size of the box that a rotated and scaled patch may need, z, y, x (a test: equal to the loader's)."""
    augmentation, patch = item.training.augmentation, item.patch_shape
    angle = min(math.pi / 2, abs(augmentation.rotation_radians))
    cosine, sine = math.cos(angle), math.sin(angle)
    turned = [float(edge) for edge in patch]
    planar = item.dimensions == 2 or augmentation.in_plane
    for first, second in ((1, 2),) if planar else ((1, 2), (2, 0), (0, 1)):
        turned[first] = max(turned[first], abs(cosine * patch[first] + sine * patch[second]))
        turned[second] = max(turned[second], abs(cosine * patch[second] - sine * patch[first]))
    enlarged = [int(edge / ROOM_FOR_SCALING) for edge in turned]
    return (patch[0] if planar else enlarged[0], enlarged[1], enlarged[2])


def prediction_bytes(item: Configuration, grid: Sequence[int], voxels_as_read: int) -> int:
    """Predict what a case takes from its preprocessed image to its written segmentation.

    Args:
        item: the configuration.
        grid: of the preprocessed image, z, y, x.
        voxels_as_read: of the image on the disk.
    """
    covered = [max(size, edge) for size, edge in zip(grid, item.patch_shape, strict=True)]
    maps = LOGITS_ALIVE * item.target.num_outputs + IMAGES_ALIVE * item.num_input_channels + 1
    return round(SINGLE * math.prod(covered) * maps) + WRITING * voxels_as_read


def preprocessing_bytes(
    item: Configuration, voxels_as_read: int, grid: Sequence[int], shape: Sequence[int], *, with_ids: bool = False
) -> int:
    """Predict what reading and resampling a labelled case takes; stored numbers of four bytes are assumed.

    The sums are those of ``preprocessing.populate.estimate_bytes``, which knows the file's own type.

    Args:
        item: the configuration.
        voxels_as_read: of the image on the disk.
        grid: of the preprocessed image.
        shape: after cropping, before resampling.
        with_ids: labels have a second layer, of ids of objects.
    """
    channels = item.num_input_channels - sum(part.channels for part in item.inputs if part.kind == "previous")
    label = 2 if item.target.num_outputs > 127 else 1  # int8 holds 127 classes and what lies outside
    before, after, between = voxels_as_read, math.prod(grid), math.prod(map(max, shape, grid))
    image, result = SINGLE * channels * before, SINGLE * channels * after
    encoding, layers = 2 * label + 2, 2 + label
    if with_ids:
        encoding, layers = 2 * SINGLE + NUMBERING, 2 * LAYERS_WITH_IDS
    reading = max(2 * channels * SINGLE * before, encoding * before)
    kept = image + layers * before
    resampling = result + 12 * before + 8 * between + 4 * after
    voting = result + 4 * before + 4 * between + 10 * after
    locating = result + 26 * after
    if with_ids:
        voting += LAYERS_WITH_IDS * (after + between)
        locating += LAYERS_WITH_IDS * after
    return SCORING_BYTES + max(image + reading, kept + max(8 * before, resampling, voting), locating)


def promise_host_memory(plan: Plan, fingerprint: Fingerprint) -> Plan:
    """Give the plan with a reason of rule ``host-bytes`` per configuration, in place of earlier ones.

    The reason begins with the bytes; where they are above ``budget.host_bytes`` it says so.
    """
    reasons = []
    for item in plan.configurations:
        found = predict_host(item, plan, fingerprint)
        because = f"{byte_size(found.total)}: {found.wording()}"
        if plan.budget.host_bytes is not None and found.total > plan.budget.host_bytes:
            because += f"; above the {byte_size(plan.budget.host_bytes)} that there are"
        reasons.append(Reason(about=f"{item.name}.host_bytes", rule="host-bytes", because=because))
    kept = tuple(reason for reason in plan.reasons if reason.rule != RULE)
    return replace(plan, reasons=(*reasons, *kept))  # first: changes append, and the same plan again is the same file
