"""The process that ``nnunet_export.py`` measures: holds logits and makes the segmentation. Not a script.

Runs in nnU-Net's environment or in autoseg's own, so packages are imported where needed.
"""

import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from work_loop import Work, serve

Shape = tuple[int, int, int]
RESAMPLING: dict[str, tuple[str, dict[str, Any]]] = {
    "nnunet": ("resample_data_or_seg_to_shape", {"order": 1, "order_z": 0, "force_separate_z": None}),
    "nnunet-torch": ("resample_torch_fornnunet", {"force_separate_z": False, "memefficient_seg_resampling": False}),
}


def prepare_nnunet(way: str, logits: np.ndarray, shape: Shape, threads: int) -> Callable[[], np.ndarray]:
    import torch
    from nnunetv2.inference import export_prediction  # noqa: TID251 (from outside, in its own environment)
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager  # noqa: TID251

    name, settings = RESAMPLING[way]
    settings = {**settings, "is_seg": False, **({"num_threads": threads} if way == "nnunet-torch" else {})}
    configuration = {
        "spacing": [1.0, 1.0, 1.0],
        "architecture": {},
        "resampling_fn_probabilities": name,
        "resampling_fn_probabilities_kwargs": settings,
    }
    plans = PlansManager(
        {
            "dataset_name": "Dataset001_Made",
            "plans_name": "nnUNetPlans",
            "transpose_forward": [0, 1, 2],
            "transpose_backward": [0, 1, 2],
            "label_manager": "LabelManager",
            "configurations": {"3d_fullres": configuration},
        }
    )
    labels = {"background": 0} | {str(value): value for value in range(1, len(logits))}
    manager = plans.get_label_manager({"labels": labels, "file_ending": ".nii.gz"})
    properties = {
        "spacing": [old / new for old, new in zip(logits.shape[1:], shape, strict=True)],
        "shape_before_cropping": shape,
        "shape_after_cropping_and_before_resampling": shape,
        "bbox_used_for_cropping": [[0, edge] for edge in shape],
    }
    given = torch.from_numpy(logits)  # as its sliding window leaves them
    return lambda: export_prediction.convert_predicted_logits_to_segmentation_with_correct_shape(
        given, plans, plans.get_configuration("3d_fullres"), manager, properties, num_threads_torch=threads
    )


def prepare_autoseg(logits: np.ndarray, shape: Shape, threads: int) -> Callable[[], np.ndarray]:
    from made_plans import make_configuration, make_part, make_plan

    from autoseg.inference.export import segment
    from autoseg.targets import make_target

    configuration = make_configuration((64, 64, 64), 16, 4, len(logits))
    plan = make_plan(configuration)
    part = make_part(logits, shape)
    target = make_target(configuration.target, plan.labels, configuration.training)
    return lambda: segment([part], target, plan, threads=threads)


def read(file: Path, kind: type) -> np.ndarray:
    """Read logits class by class into a type, so that nothing else is ever held."""
    stored = np.load(file, mmap_mode="r")
    logits = np.empty(stored.shape, dtype=kind)
    for place in range(len(logits)):
        logits[place] = np.load(file, mmap_mode="r")[place]
    return logits


def prepare(way: str, folder: Path, shape: Shape, threads: int, limit: int) -> Work:
    """Read the logits in the type in which this way's sliding window leaves them: nnU-Net's float16, ours float32."""
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))  # rather an error here than a machine without memory
    logits = read(folder / "logits.npy", np.float32 if way == "autoseg" else np.float16)
    if way == "autoseg":
        export = prepare_autoseg(logits, shape, threads)
    else:
        export = prepare_nnunet(way, logits, shape, threads)

    def work(_: Any) -> dict[str, float]:
        wall, cpu = time.perf_counter(), time.process_time()
        segmentation = export()
        spent = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        np.save(folder / f"{way}.npy", segmentation.astype(np.uint8))
        return spent

    return work


if __name__ == "__main__":
    way, folder, threads, limit, *edges = sys.argv[1:]
    z, y, x = map(int, edges)
    serve(lambda: prepare(way, Path(folder), (z, y, x), int(threads), int(limit)))
