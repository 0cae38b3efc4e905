"""How fast a configuration is on this machine, from a few real steps; and how long all trainings will take."""

import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from autoseg import compute as computing
from autoseg.compute import Compute
from autoseg.data.splits import Splits
from autoseg.inference.export import LogitsPart, segment
from autoseg.inference.sliding_window import CPU_BATCH_VOXELS, GPU_BATCH_VOXELS, predict_logits
from autoseg.preprocessing.populate import store_name
from autoseg.preprocessing.store import Store
from autoseg.progress import duration, finish_time, say
from autoseg.run_folder import RunFolder, RunRecord
from autoseg.training.folds import find_fold
from autoseg.training.outlook import Asked, count_passes, remaining_s, trainings_at_once
from autoseg.training.time_limit import Length, Pace, fold_time
from autoseg.training.trainer import FoldJob, FoldTrainer
from planners import records
from planners.plan import Plan

DAY_S = 24 * 3600
FEW_STEPS = 2000  # assumption: so few steps never take a day (a step of 43 s would)

WARM_STEPS = 3
"""Steps that do not count: the first tunes the device's kernels, and two batches lie ready when it ends."""

TIMED_STEPS = 5  # assumption: their mean is within some per cent; training itself corrects the rest
VALIDATION_STEPS = 3
LONG_S = 60.0  # a measurement that has taken so long is not repeated: what it warms up is small against it

Clock = Callable[[], float]


def say_finish_time(run: RunFolder, asked: Sequence[Asked]) -> None:
    """Say when all trainings will be done, and which ``--epochs`` would fit a day where they take longer.

    A few steps of each configuration are timed for that. Where there are few steps in all nothing is timed or said:
    the first epoch will tell (``outlook``).

    Args:
        run: planned and preprocessed.
        asked: configuration and fold of every training that is asked for.
    """
    plan, record = run.read(Plan, run.plan_file), run.read(RunRecord, run.run_file)
    lengths = {name: Length.of(plan.configuration(name).training) for name, _ in asked}
    missing = [(name, fold) for name, fold in asked if fold_time(run, name, fold, 1).finished < lengths[name].epochs]
    if sum(lengths[name].steps for name, _ in missing) < FEW_STEPS:
        return
    first = {name: (name, fold) for name, fold in reversed(missing)}
    paces = {name: measure_pace(timing_job(run, *first[name])) for name in dict.fromkeys(name for name, _ in missing)}
    total = remaining_s(run, plan, missing, paces) / trainings_at_once(plan, record, len(missing))
    each = ", ".join(f"{name} {pace.step:.3f} s a step" for name, pace in paces.items())
    count = f"{len(missing)} training{'s' * (len(missing) > 1)}"
    say(f"  {count}, validation included: {duration(total)}, done at about {finish_time(total)} ({each})")
    if total > DAY_S:
        epochs = max(int(max(length.epochs for length in lengths.values()) * DAY_S / total), 1)
        say(
            f"  that is more than a day; --time-budget 1d would fit one (about --epochs {epochs}). "
            "Going on; Ctrl-C saves and stops"
        )


def timing_job(run: RunFolder, name: str, fold: int | str) -> FoldJob:
    """Gather a training to be timed. The second stage of a cascade is timed without its previous segmentation.

    That does not exist before the first stage is trained; it would add some input channels to the first convolution.
    """
    plan, record = run.read(Plan, run.plan_file), run.read(RunRecord, run.run_file)
    configuration = plan.configuration(name)
    inputs = tuple(item for item in configuration.inputs if item.kind != "previous")
    split, store = find_fold(run.read(Splits, run.splits_file), fold), Store(run.store(store_name(plan, name)))
    return FoldJob(
        run=run,
        plan=plan,
        configuration=dataclasses.replace(configuration, inputs=inputs, previous=None),
        fold=fold,
        train_cases=[store.open(case_id) for case_id in split.train],
        validation_cases=[store.open(case_id) for case_id in split.validation],
        compute=records.from_json(Compute, record.compute),
    )


def measure_pace(job: FoldJob, clock: Clock = time.monotonic) -> Pace:
    """Time a few steps, a validation and a window with a network that is thrown away.

    Args:
        job: of the configuration; nothing is written to its folder.
        clock: gives seconds.
    """
    computing.prepare(job.compute)
    trainer = FoldTrainer(job, clock)
    return Pace(
        step=_step_s(trainer, clock),
        validation_step=_validation_step_s(job, clock),
        window=_window_s(trainer, clock),
        voxel=_voxel_s(job, clock),
    )


def _step_s(trainer: FoldTrainer, clock: Clock) -> float:
    """Time steps as training makes them, with the next batches prepared meanwhile."""
    moments = [clock()]
    source = trainer.source(trainer.job.train_cases, augment=True)
    batches = trainer.batches(source, 0, range(WARM_STEPS + TIMED_STEPS))
    computing.keep_memory(trainer.compute, False)  # until the first step is made, as training does
    for batch in batches:
        trainer.step(batch)
        computing.keep_memory(trainer.compute)
        moments.append(clock())
        if moments[-1] - moments[0] > LONG_S and len(moments) > 2:
            break
    steps = [after - before for before, after in itertools.pairwise(moments)]
    counted = steps[WARM_STEPS:] or steps[-1:]
    return sum(counted) / len(counted)


def _validation_step_s(job: FoldJob, clock: Clock) -> float:
    if not job.validation_cases:
        return 0.0
    training = dataclasses.replace(job.configuration.training, validation_steps=VALIDATION_STEPS)
    short = dataclasses.replace(job.configuration, training=training)
    trainer = FoldTrainer(dataclasses.replace(job, configuration=short))
    return _repeated(lambda: trainer.validate(0), clock) / VALIDATION_STEPS


def _window_s(trainer: FoldTrainer, clock: Clock) -> float:
    """Time one batch of windows, in all mirrored forms, as a prediction makes them."""
    job, configuration = trainer.job, trainer.job.configuration
    shape = list(configuration.patch_shape)
    if configuration.dimensions == 2:  # many slices go through the network at once
        usual = CPU_BATCH_VOXELS if job.compute.device == "cpu" else GPU_BATCH_VOXELS
        shape[0] = math.ceil(usual / math.prod(shape) / count_passes(shape, configuration))
    image = torch.zeros((job.train_cases[0].num_channels, *shape))
    seconds = _repeated(lambda: predict_logits([trainer.network], image, configuration, job.compute), clock)
    return seconds / count_passes(shape, configuration)


def _voxel_s(job: FoldJob, clock: Clock) -> float:
    """Time the way of the smallest validation case from its logits to a segmentation on the image's grid.

    The logits are empty: where objects are found, what each of them costs shows in the first fold that is validated.
    """
    if not job.validation_cases:
        return 0.0
    configuration, case = job.configuration, min(job.validation_cases, key=lambda case: math.prod(case.shape))
    logits = np.zeros((configuration.target.num_outputs, *case.shape), dtype=np.float32)
    part = LogitsPart(logits_KZYX=logits, grid=case.grid, resampling=configuration.resampling)
    target = FoldTrainer(job).target
    return _repeated(lambda: segment([part], target, job.plan), clock) / math.prod(case.shape)


def _repeated(work: Callable[[], object], clock: Clock) -> float:
    """Give the seconds of the second time, or of the first where that was long."""
    started = clock()
    work()
    first = clock() - started
    if first > LONG_S:
        return first
    work()
    return clock() - started - first
