"""The process that ``nnunet_resampling.py`` measures: resamples one array again and again. Not a script.

Runs in nnU-Net's environment or in autoseg's own, so packages are imported where needed.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from work_loop import Work, serve

SPACING = (1.0, 1.0, 1.0)
LEAST = 0.2  # seconds that a round takes at least: short work is repeated and divided
Resample = Callable[[np.ndarray, list[int]], Any]  # channels first


def prepare_nnunet(way: str, kind: str) -> Resample:
    import torch

    torch.set_num_threads(1)
    if way == "nnunet-torch":
        from nnunetv2.preprocessing.resampling.resample_torch import resample_torch_fornnunet  # noqa: TID251

        return lambda array, shape: resample_torch_fornnunet(
            array, shape, SPACING, SPACING, is_seg=kind == "label", num_threads=1, force_separate_z=False
        )
    from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape  # noqa: TID251

    order = {"image": 3, "label": 1}[kind]
    return lambda array, shape: resample_data_or_seg_to_shape(
        array, shape, SPACING, SPACING, is_seg=kind == "label", order=order, order_z=0, force_separate_z=None
    )


def prepare_autoseg(kind: str) -> Resample:
    from autoseg.preprocessing.label_resampling import resample_label
    from autoseg.preprocessing.resampling import resample_image
    from planners.plan import Resampling

    if kind == "image":
        return lambda array, shape: resample_image(array, shape, SPACING, SPACING, Resampling())
    return lambda array, shape: resample_label(array[0], shape, SPACING, SPACING, Resampling())[None]


def prepare(way: str, kind: str, folder: Path, new_shape: list[int]) -> Work:
    resample = prepare_autoseg(kind) if way == "autoseg" else prepare_nnunet(way, kind)
    array = np.load(folder / "given.npy")
    np.save(folder / f"{way}.npy", resample(array.copy(), new_shape))

    def work(_: Any) -> dict[str, float]:
        wall, cpu, count = time.perf_counter(), time.process_time(), 0
        while not count or time.perf_counter() - wall < LEAST:
            resample(array, new_shape)
            count += 1
        return {"wall": (time.perf_counter() - wall) / count, "cpu": (time.process_time() - cpu) / count}

    return work


if __name__ == "__main__":
    way, kind, folder, *edges = sys.argv[1:]
    serve(lambda: prepare(way, kind, Path(folder), [int(edge) for edge in edges]))
