"""A whole dataset into the store of one configuration: side by side, within memory, only what is missing or changed."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autoseg.data.check_problem import count
from autoseg.data.dataset import Case, Dataset, read_case
from autoseg.data.folders import some
from autoseg.data.io import Image, open_label
from autoseg.data.label_layers import read_layers
from autoseg.data.parallel import MemoryGate, for_each_case
from autoseg.errors import DatasetError
from autoseg.preprocessing import size_features
from autoseg.preprocessing.locations import sample_locations
from autoseg.preprocessing.normalization import USES_INTENSITIES
from autoseg.preprocessing.operators import one_blas_thread
from autoseg.preprocessing.preprocess import label_dtype, preprocess_case
from autoseg.preprocessing.resampling import resampled_shape
from autoseg.preprocessing.stamps import FileStamp, contents, stamp_files
from autoseg.preprocessing.store import FORMAT, Store, StoredRecord
from autoseg.progress import say, warn
from planners import records
from planners.plan import Configuration, Plan
from planners.records import PlanError

ID_BYTES = 4
"""Of an id, where the type is not known yet: those of int32."""

NUMBERING_BYTES = 2 * ID_BYTES + ID_BYTES + 8
"""Per voxel beside the file's own array: both layers, the numbers on their way into one, whole numbers of floats."""

CHANGED, DAMAGED = "the files have changed", "what was kept is damaged"
NEWLY_SET = "the plan or the program preprocesses otherwise now"
"""Why a case is made again, for people."""

SCORING_BYTES = 32 * 2**20
"""Working arrays whose size does not depend on the case: one chunk of voxels whose labels are scored."""


def populate_store(
    dataset: Dataset,
    plan: Plan,
    configuration: Configuration,
    folder: Path,
    *,
    threads: int | None = None,
    host_bytes: int | None = None,
    verify: bool = False,
) -> Store:
    """Preprocess every labelled case of a dataset that is not in the store yet, or has changed since.

    Args:
        dataset: where the cases are.
        plan, configuration: how to preprocess them.
        folder: the store's; made where it is missing.
        threads: cases at a time; default: the processors this process may use.
        host_bytes: memory for all of them together; default: most of what is free.
        verify: read what is kept, too, and compare it with its checksums; a case that is damaged is made again.

    Raises:
        RoomError: the disk is full.
        DatasetError: some cases cannot be preprocessed; the message lists them all. The others are done.
    """
    store = Store(folder)
    store.remove_leftovers()
    choices = preprocessing_choices(plan, configuration)
    keep = functools.partial(_is_kept, store, verify=verify)
    work = functools.partial(_bring_up_to_date, store, plan, configuration, choices, keep)
    cases = [(case.id, case) for case in dataset.cases if case.label is not None]
    if removed := store.keep_only({case_id for case_id, _ in cases}):
        say(f"  {count(len(removed), 'case')} no longer in the dataset removed from {folder}")
    with one_blas_thread():
        made = for_each_case(work, cases, f"preprocessing {configuration.name}", threads, host_bytes)
    for why in (CHANGED, DAMAGED, NEWLY_SET):
        names = [case_id for case_id, reason in made.items() if reason == why]
        if names:
            warn(f"  {count(len(names), 'case')} preprocessed anew ({why}): {some(names)}")
    return store


def _is_kept(store: Store, case_id: str, record: StoredRecord, *, verify: bool) -> bool:
    return store.is_whole(case_id, record) and (not verify or store.is_intact(case_id, record))


def preprocessing_choices(plan: Plan, configuration: Configuration) -> dict[str, Any]:
    """Name everything in a plan that shapes a preprocessed case; equal choices give equal arrays.

    Training parameters, the patch, the network are not among them, nor are intensities that no normalization uses.
    """
    resampling = {key: value for key, value in vars(configuration.resampling).items() if key != "logits_order"}
    intensities = [
        records.to_json(channel.intensities) if name in USES_INTENSITIES else None
        for channel, name in zip(plan.channels, configuration.normalization, strict=True)
    ]
    return {
        "format": FORMAT,
        "axis_order": plan.axis_order,
        "labels": {"values": plan.labels.values, "regions": [region.values for region in plan.labels.regions]},
        "ignore": "is no content" if plan.labels.ignore is not None else False,
        "spacing_mm": configuration.spacing_mm,
        "normalization": configuration.normalization,
        "use_mask_for_norm": configuration.use_mask_for_norm,
        "intensities": intensities,
        "resampling": resampling,
        **_later_choices(plan, configuration),
    }


def _later_choices(plan: Plan, configuration: Configuration) -> dict[str, Any]:
    """Name what older programs knew nothing of, only where there is any: stores without it keep their digests."""
    choices: dict[str, Any] = {}
    if plan.labels.instance_classes:
        choices["instances"] = plan.labels.instance_classes
    if configuration.scaling is not None:
        choices["scaling"] = [configuration.scaling, size_features.VERSION]
    return choices


def store_name(plan: Plan, configuration: str) -> str:
    """Name the store that a configuration reads: the first of the plan with equal preprocessing choices has it.

    So a cascade reads the cases of the full resolution, and no array is made or kept twice.

    Raises:
        PlanError: the plan has no such configuration.
    """
    choices = preprocessing_choices(plan, plan.configuration(configuration))
    equal = (item.name for item in plan.configurations if preprocessing_choices(plan, item) == choices)
    return next(equal)


def estimate_bytes(image: Image, label: Image | None, plan: Plan, configuration: Configuration) -> int:
    """Estimate the peak of memory while a case is read and preprocessed, from its header alone.

    Counts the arrays that live at the same time in each step, for a label in which every voxel is scored. Cropping only
    makes it smaller, and so does enlarging an image less than the configuration's scaling allows. A test compares it
    with what numpy allocates.
    """
    spacing = [image.geometry.spacing_mm[axis] for axis in plan.axis_order]
    shape = [image.shape[axis] for axis in plan.axis_order]
    finest = 1.0 if configuration.scaling is None else configuration.scaling.most
    target = (*spacing[: 3 - configuration.dimensions], *(value / finest for value in configuration.spacing_mm))
    new_shape = resampled_shape(shape, spacing, target)
    before, after = math.prod(shape), math.prod(new_shape)
    between = math.prod(map(max, shape, new_shape))
    image_bytes, result_bytes = 4 * image.num_channels * before, 4 * image.num_channels * after
    reading = 2 * image.num_channels * image.dtype.itemsize * before  # decoded bytes, and the array made of them
    encoding, as_read, cropped = _label_bytes(label, plan)
    kept = image_bytes + (as_read + cropped) * before
    masks = 8 * before
    resampling = result_bytes + 12 * before + 8 * between + 4 * after
    voting = result_bytes + 4 * before + 4 * between + 10 * after
    locating = result_bytes + 26 * after
    if plan.labels.instance_classes:  # of wider numbers; and one layer, then both, are there already
        voting += 2 * ID_BYTES * (after + between)
        locating += 2 * ID_BYTES * after
    encoding *= before
    return SCORING_BYTES + max(image_bytes + max(reading, encoding), kept + max(masks, resampling, voting), locating)


def _label_bytes(label: Image | None, plan: Plan) -> tuple[int, int, int]:
    """Give bytes per voxel of a label: while it is read, its layers as read, and cropped in the store's type."""
    if label is None:
        return 0, 0, 0
    if not plan.labels.instance_classes:
        return 2 * label.dtype.itemsize + 2, 2, label_dtype(plan.labels).itemsize
    return 2 * label.dtype.itemsize + NUMBERING_BYTES, 2 * ID_BYTES, 2 * ID_BYTES


def _bring_up_to_date(
    store: Store,
    plan: Plan,
    configuration: Configuration,
    choices: dict[str, Any],
    keep: Callable[[str, StoredRecord], bool],
    case: Case,
    gate: MemoryGate,
) -> str:
    """Make a case where it is not there as it should be; give why what was there is made again, or nothing."""
    assert case.label is not None
    kept = store.record(case.id)
    classes = () if case.classes is None else (case.classes,)
    paths = (*case.images, case.label, *classes)
    stamps = stamp_files(paths, () if kept is None else kept.files)
    partly = [] if case.annotated_classes is None else [case.annotated_classes]
    digest = records.digest([choices, contents(stamps), *partly])
    why = _why(store, case.id, kept, stamps, digest)
    if not why and kept is not None and not keep(case.id, kept):
        why = DAMAGED
    if not why and kept is not None:
        if kept.files != stamps:
            store.write_record(case.id, dataclasses.replace(kept, files=stamps))
        return ""
    image, label = read_case(case)
    with gate.hold(estimate_bytes(image, label, plan, configuration)):
        preprocessed = preprocess_case(
            image.read().astype(np.float32, copy=False),
            image.geometry.spacing_mm,
            plan,
            configuration,
            _read_layers(label, case, plan),
        )
        assert preprocessed.labels_LZYX is not None
        locations = sample_locations(preprocessed.labels_LZYX[0], plan.labels)
        if contents(stamp_files(paths, stamps)) != contents(stamps):
            raise DatasetError("its files have changed while they were read. Run the same command again")
        store.write(case.id, preprocessed, digest, locations, stamps, case.annotated_classes)
    return why


def _why(store: Store, case_id: str, kept: StoredRecord | None, stamps: Sequence[FileStamp], digest: str) -> str:
    """Say why a case is made again; empty where it is kept, and where it was never there."""
    if kept is None:
        return DAMAGED if store.is_damaged(case_id) else ""
    if kept.digest == digest:
        return ""
    return CHANGED if contents(kept.files) != contents(stamps) else NEWLY_SET


def _read_layers(label: Image | None, case: Case, plan: Plan) -> np.ndarray:
    if label is None:
        raise DatasetError("the case has no label file. Add it, or move its images to the test folder")
    try:
        return read_layers(label, None if case.classes is None else open_label(case.classes), plan.labels)
    except (PlanError, DatasetError) as fault:
        raise DatasetError(f"{fault} ({case.label})") from fault
