"""How much disk a store takes, told and compared with what is free before the first case is written."""

import math
from collections.abc import Collection

from autoseg import room
from autoseg.data.check_problem import count
from autoseg.preprocessing.locations import LOCATION_FRACTION, MIN_LOCATIONS
from autoseg.preprocessing.preprocess import label_dtype
from autoseg.preprocessing.store import Store
from autoseg.progress import say
from planners.decision import byte_size
from planners.fingerprint import Fingerprint
from planners.host_memory import grids
from planners.plan import Configuration, Plan

IMAGE_BYTES, ID_BYTES = 4, 4  # float32; ids of objects and the classes beside them are int32
LOCATION_BYTES = 3 * 2  # z, y, x
RECORD = 1536  # of a case, with the heads of its arrays


def store_bytes(
    plan: Plan, configuration: Configuration, fingerprint: Fingerprint, cases: Collection[str] | None = None
) -> int:
    """Predict the bytes of preprocessed cases on disk; a test compares it with what is written.

    Args:
        plan, configuration: how they are preprocessed.
        fingerprint: gives their shapes; a case that was not measured counts as the mean of the others.
        cases: their names; None: all of the dataset.
    """
    label = 2 * ID_BYTES if plan.labels.instance_classes else label_dtype(plan.labels).itemsize
    shapes = grids(configuration, plan, fingerprint)
    each = []
    for (shape, grid), classes in zip(shapes, fingerprint.class_voxels or [()] * len(shapes), strict=True):
        voxels = math.prod(grid)
        found = [round((number or 0) * voxels / math.prod(shape)) for number in classes[1:]] or [voxels]
        kept = sum(min(number, max(MIN_LOCATIONS, round(LOCATION_FRACTION * number))) for number in found)
        each.append(RECORD + voxels * (IMAGE_BYTES * len(plan.channels) + label) + LOCATION_BYTES * kept)
    by_case = dict(zip(fingerprint.case_ids, each, strict=False))
    mean = sum(each) // len(each)
    if cases is None:
        return sum(each) + mean * (fingerprint.num_cases - len(each))
    return sum(by_case.get(case_id, mean) for case_id in cases)


def check_room(
    plan: Plan, configuration: Configuration, fingerprint: Fingerprint, cases: Collection[str], store: Store
) -> None:
    """Say how much disk the cases take that are not in a store yet, and refuse where that is surely not free.

    Raises:
        RoomError: less is free; nothing was written.
    """
    missing = [case_id for case_id in cases if store.record(case_id) is None]
    if not missing:
        return
    needed = store_bytes(plan, configuration, fingerprint, missing)
    room.check_disk(store.folder, needed, f"preprocessing {configuration.name}")
    free = room.free_disk(store.folder / "any")
    there = "" if free is None else f", of which {byte_size(free)} are free"
    say(
        f"  {configuration.name}: {count(len(missing), 'case')} to preprocess, about {byte_size(needed)} of disk{there}"
    )
