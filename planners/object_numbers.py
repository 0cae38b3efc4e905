"""Numbers of objects: from any ids to 1, 2, 3, … without gaps.

A map of objects holds integers of any shape: 0 where there is none, and one number, its id, in all voxels of an object.
"""

import numpy as np

TABLE_FACTOR = 4
"""A table of ids may be so many times larger than the map before ids are searched among the sorted ones instead."""

PART_VOXELS = 1 << 20
"""Voxels looked up at a time: some tens of MB of temporary arrays, whatever the map's size."""


def number_objects(ids: np.ndarray) -> tuple[np.ndarray, int]:
    """Number the objects of a map 1, 2, … in the order of their ids; what is below 0 counts as background.

    Returns:
        The map as int32 with 0 for background, and the number of objects.
    """
    numbered = np.zeros(ids.shape, dtype=np.int32)
    highest = int(ids.max(initial=0))
    if highest <= 0:
        return numbered, 0
    flat, result = ids.reshape(-1), numbered.reshape(-1)
    parts = [slice(start, start + PART_VOXELS) for start in range(0, flat.size, PART_VOXELS)]
    if highest < TABLE_FACTOR * flat.size + 1024:
        there = np.zeros(highest + 1, dtype=bool)
        for part in parts:
            there[_places(flat[part])] = True
        there[0] = False
        table = np.cumsum(there, dtype=np.int32) * there
        for part in parts:
            result[part] = table[_places(flat[part])]
        return numbered, int(there.sum())
    values = np.unique(np.concatenate([np.unique(flat[part]) for part in parts]))
    values = values[values > 0]
    for part in parts:
        result[part] = (np.searchsorted(values, flat[part]) + 1) * (flat[part] > 0)
    return numbered, len(values)


def _places(ids: np.ndarray) -> np.ndarray:
    return np.maximum(ids, 0).astype(np.int64, copy=False)
