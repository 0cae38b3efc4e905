"""The processes that ``nnunet_training.py`` measures, nnU-Net's and autoseg's. Not a script.

Runs in nnU-Net's environment or in autoseg's own, so packages are imported where needed. nnU-Net's trainer class is
used directly; a subclass says how many steps there are, nothing else.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from work_loop import Work, serve

DATASET, CONFIGURATION, PLANS = "Dataset900_Training", "3d_fullres", "nnUNetPlans"
FOLDERS = {"nnUNet_raw": "raw", "nnUNet_preprocessed": "preprocessed", "nnUNet_results": "results"}
VALIDATION_PART = 5  # of its steps an epoch makes a fifth as many for validation (nnU-Net: 50 of 250)


def cores() -> int:
    return len(os.sched_getaffinity(0))


def timed(work: Callable[[], Any], count: float) -> dict[str, float]:
    """Give wall and processor seconds of this process, per one of ``count`` things that are done."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return {"wall": (time.perf_counter() - wall) / count, "cpu": (time.process_time() - cpu) / count}


def random_batch(batch_size: int, channels: int, patch: Any, classes: int) -> tuple[Any, Any]:
    """Make an image and a label, the same in every process."""
    import torch

    generator = torch.Generator().manual_seed(0)
    image = torch.randn((batch_size, channels, *patch), generator=generator)
    return image, torch.randint(classes, (batch_size, 1, *patch), generator=generator, dtype=torch.int16)


# ---------------------------------------------------------------------------------------------------------- nnU-Net


def plan_and_preprocess(folder: Path, splits: list[dict[str, list[str]]]) -> None:
    """Let nnU-Net measure, plan and preprocess the raw dataset; it finds the given split in its place."""
    import shutil

    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import (  # noqa: TID251 (own venv)
        DatasetFingerprintExtractor,
    )
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import (  # noqa: TID251
        ExperimentPlanner,
    )
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor  # noqa: TID251

    DatasetFingerprintExtractor(DATASET, num_processes=cores()).run(overwrite_existing=False)
    ExperimentPlanner(DATASET).plan_experiment()
    DefaultPreprocessor(verbose=False).run(DATASET, CONFIGURATION, PLANS, num_processes=cores())
    base = folder / "preprocessed" / DATASET
    (base / "splits_final.json").write_text(json.dumps(splits))
    shutil.copytree(folder / "raw" / DATASET / "labelsTr", base / "gt_segmentations", dirs_exist_ok=True)


def make_trainer(folder: Path, epochs: int = 1, steps_per_epoch: int = 1) -> Any:
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer  # noqa: TID251

    class nnUNetTrainerSteps(nnUNetTrainer):  # noqa: N801 (their way of naming; it names the folder of results)
        def __init__(self, plans: Any, configuration: Any, fold: Any, dataset_json: Any, device: Any = None) -> None:
            super().__init__(plans, configuration, fold, dataset_json, device)
            self.num_epochs, self.num_iterations_per_epoch = epochs, steps_per_epoch
            self.num_val_iterations_per_epoch = max(steps_per_epoch // VALIDATION_PART, 1)

        def plot_network_architecture(self) -> None:
            pass

    torch.set_num_threads(cores())  # as its command line does on a CPU
    base = folder / "preprocessed" / DATASET
    plans = json.loads((base / f"{PLANS}.json").read_text()) | {"continue_training": False}
    dataset = json.loads((base / "dataset.json").read_text())
    return nnUNetTrainerSteps(plans, CONFIGURATION, 0, dataset, torch.device("cpu"))


def step_there(folder: Path, way: str) -> Work:
    """nnU-Net's own training step on a batch in memory; its first weights are left for the others to start from."""
    import torch
    from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as module  # noqa: TID251

    if way == "nnunet-bf16":  # what it does on a GPU, for a CPU
        module.dummy_context = lambda: torch.autocast("cpu", torch.bfloat16)
    torch.manual_seed(0)
    trainer = make_trainer(folder)
    trainer.initialize()
    weights = folder / "first_weights.pth"
    if weights.exists():
        trainer.network.load_state_dict(torch.load(weights, weights_only=True))
    else:
        torch.save(trainer.network.state_dict(), weights)
    trainer.set_deep_supervision_enabled(True)
    trainer.network.train()
    item = trainer.configuration_manager
    heads = trainer.label_manager.num_segmentation_heads
    image, label = random_batch(item.batch_size, trainer.num_input_channels, item.patch_size, heads)
    scales = trainer._get_deep_supervision_scales()
    steps = [[round(1 / part) for part in scale] for scale in scales]
    target = [label[(..., *(slice(step // 2, None, step) for step in stride))].contiguous() for stride in steps]
    batch = {"data": image, "target": target}

    def work(count: int) -> dict[str, float]:
        losses: list[float] = []
        found = timed(lambda: losses.extend(float(trainer.train_step(batch)["loss"]) for _ in range(count)), count)
        return {**found, "loss": losses[0]}

    return work


def load_there(folder: Path) -> Work:
    """nnU-Net's own loader with its transforms, in this process and on one thread, on what it has preprocessed."""
    import numpy as np
    import torch

    trainer = make_trainer(folder)
    torch.set_num_threads(1)
    np.random.seed(0)
    torch.manual_seed(0)
    trainer.initialize()
    batches, _ = trainer.get_dataloaders()
    size = trainer.configuration_manager.batch_size
    return lambda count: timed(lambda: [next(batches) for _ in range(count)], count * size / 100)


def train_there(folder: Path, epochs: int, steps_per_epoch: int, seed: int) -> None:
    """Train fold 0 from the start, predict and score the cases that it has not seen."""
    import numpy as np
    import torch

    np.random.seed(seed)
    torch.manual_seed(seed)
    trainer = make_trainer(folder, epochs, steps_per_epoch)
    trainer.run_training()
    trainer.perform_actual_validation()


# ---------------------------------------------------------------------------------------------------------- autoseg


def trainer_here(run: Path) -> Any:
    """Autoseg's trainer of a run that is preprocessed, computing as the probe chooses."""
    from autoseg import compute as computing
    from autoseg.data.splits import Splits
    from autoseg.preprocessing.store import Store
    from autoseg.run_folder import RunFolder
    from autoseg.training.trainer import FoldJob, FoldTrainer
    from planners.plan import Plan

    folder, compute = RunFolder(run), computing.choose("cpu")
    print("; ".join(compute.reasons), file=sys.stderr)
    computing.prepare(compute)
    plan, store = folder.read(Plan, folder.plan_file), Store(folder.store(CONFIGURATION))
    job = FoldJob(
        run=folder,
        plan=plan,
        configuration=plan.configuration(CONFIGURATION),
        fold=0,
        train_cases=[store.open(case) for case in folder.read(Splits, folder.splits_file).folds[0].train],
        validation_cases=(),
        compute=compute,
    )
    return FoldTrainer(job)


def step_here(folder: Path, run: Path) -> Work:
    """Autoseg's own training step, labels encoded in it, from nnU-Net's first weights."""
    import torch

    from autoseg.interop.nnunet_network import rename
    from autoseg.training.sampling import Batch

    trainer = trainer_here(run)
    item = trainer.job.configuration
    theirs = folder / "first_weights.pth"
    trainer.network.load_state_dict(rename(torch.load(theirs, weights_only=True), item, theirs))
    channels, classes = item.num_input_channels, item.target.num_outputs
    image, label = random_batch(item.batch_size, channels, item.patch_size, classes)
    batch = Batch(image=image, label=label, case_ids=("random",) * item.batch_size)

    def work(count: int) -> dict[str, float]:
        losses: list[float] = []
        found = timed(lambda: losses.extend(trainer.step(batch) for _ in range(count)), count)
        return {**found, "loss": losses[0]}

    return work


def load_here(run: Path) -> Work:
    """Autoseg's loader on one thread, labels encoded for every output as nnU-Net's transforms do."""
    import itertools

    import torch

    trainer = trainer_here(run)
    torch.set_num_threads(1)
    source, steps = trainer.source(trainer.job.train_cases, augment=True), itertools.count()
    size = trainer.job.configuration.batch_size

    def make(count: int) -> None:
        for step in itertools.islice(steps, count):
            trainer.target.encode(source.batch(0, step).label, trainer.strides)

    return lambda count: timed(lambda: make(count), count * size / 100)


def main() -> None:
    task, way, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    given = json.loads(sys.argv[4]) if len(sys.argv) > 4 else {}
    if task == "plan":
        plan_and_preprocess(folder, **given)
    elif task == "whole":
        train_there(folder, **given)
    elif way == "autoseg":
        run = Path(given["run"])
        serve(lambda: step_here(folder, run) if task == "step" else load_here(run))
    else:
        serve(lambda: step_there(folder, way) if task == "step" else load_there(folder))


if __name__ == "__main__":
    if sys.argv[2] != "autoseg":
        place = Path(sys.argv[3])
        os.environ |= {name: str(place / sub) for name, sub in FOLDERS.items() if name not in os.environ}
        os.environ.setdefault("nnUNet_def_n_proc", str(cores()))
        if sys.argv[1] == "load":
            os.environ |= {"nnUNet_n_proc_DA": "0"}
    main()
