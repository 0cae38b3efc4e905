"""Runs of objects in a map: voxels of one object side by side along x, of which there are far fewer than voxels."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

PART_VOXELS = 1 << 20
"""Voxels looked at in one go: some tens of MB of temporary arrays."""


@dataclass(frozen=True)
class Runs:
    """Voxels of one object side by side: its number, place along z and y, first and last along x; all n."""

    number: np.ndarray
    z: np.ndarray
    y: np.ndarray
    first: np.ndarray
    last: np.ndarray

    def __getitem__(self, some: np.ndarray) -> "Runs":
        return Runs(self.number[some], self.z[some], self.y[some], self.first[some], self.last[some])


def runs_of(ids_ZYX: np.ndarray) -> Iterator[Runs]:
    """Give all runs of objects of a map (integers, 0 where there is none), a part of the map at a time."""
    _, num_y, num_x = ids_ZYX.shape
    rows = ids_ZYX.reshape(-1, num_x)
    step = max(1, PART_VOXELS // num_x)
    for start in range(0, len(rows), step):
        part = np.ascontiguousarray(rows[start : start + step]).reshape(-1)
        begins = np.empty(len(part), dtype=bool)
        np.not_equal(part[1:], part[:-1], out=begins[1:])
        begins[::num_x] = True
        places = np.flatnonzero(begins)
        ends = np.append(places[1:], len(part)) - 1
        some = part[places] > 0
        places, ends = places[some], ends[some]
        row = start + places // num_x
        yield Runs(part[places], row // num_y, row % num_y, places % num_x, ends % num_x)
