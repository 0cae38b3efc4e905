"""After training: the loss of every case, so that those with the highest and the lowest can be looked at."""

import dataclasses
import math
import time
from collections.abc import Callable

import numpy as np
import torch

from autoseg import compute as computing
from autoseg.evaluation.case_losses import CaseLoss, CaseLosses
from autoseg.preprocessing.store import StoredCase
from autoseg.progress import say, track
from autoseg.targets import make_target
from autoseg.training.fold_state import load_counters, read_progress
from autoseg.training.sampling import BatchSource
from autoseg.training.trainer import FoldJob
from autoseg.training.validation import trained_network

PATCHES_PER_CASE = 2
"""One drawn anywhere, one around the foreground: what training sees of a case. More would cost as much as an epoch."""
NAMED = 3  # cases named on the terminal at either end; the file has all
TIME_FRACTION, LEAST_S = 0.01, 10.0
"""Most time it takes: a hundredth of the training's, so that no limit of time is missed by it, or ten seconds."""


def measure_case_losses(job: FoldJob, clock: Callable[[], float] = time.monotonic) -> CaseLosses:
    """Give the loss of the training and validation cases, with the fold's last weights; write ``case_losses.json``.

    A training case with a loss far above the others is often one with a wrong label, another contrast, or a label that
    lies elsewhere than the image. Where the time does not suffice for all, those that are measured are drawn at random.

    Args:
        job: the fold, trained.
        clock: gives seconds that only go forward.
    """
    parts = [("train", case) for case in job.train_cases]
    known = {case.id for case in job.train_cases}
    parts += [("validation", case) for case in job.validation_cases if case.id not in known]
    order = np.random.default_rng(job.configuration.training.seed).permutation(len(parts))
    trained_s = sum(row["seconds"] for row in read_progress(job.folder))
    end = clock() + max(trained_s * TIME_FRACTION, LEAST_S)
    losses = _Losses(job)
    found: list[CaseLoss] = []
    for index in track(order, len(order), f"{job.name}, loss of every case"):
        part, case = parts[index]
        loss = losses.of(case)
        if math.isfinite(loss):
            found.append(CaseLoss(case=case.id, loss=loss, part="train" if part == "train" else "validation"))
        if clock() > end:
            break
    found.sort(key=lambda item: (-item.loss, item.case))
    result = CaseLosses(cases=tuple(found), patches_per_case=PATCHES_PER_CASE, num_left_out=len(parts) - len(found))
    job.run.write(result, job.folder.case_losses)
    trained = [item for item in found if item.part == "train"]
    if len(trained) > 2 * NAMED:
        say(f"  {job.name}: loss highest in {_named(trained[:NAMED])}; lowest in {_named(trained[: -NAMED - 1 : -1])}")
    return result


class _Losses:
    """The loss of one case after the other, with the precision in which the training ended."""

    def __init__(self, job: FoldJob) -> None:
        precision = load_counters(job.folder.state).precision if job.folder.state.exists() else job.compute.precision
        self.compute = dataclasses.replace(job.compute, precision=precision)
        self.network = trained_network(dataclasses.replace(job, compute=self.compute))
        self.configuration = dataclasses.replace(job.configuration, batch_size=PATCHES_PER_CASE)
        self.num_classes = job.plan.labels.num_classes
        self.target = make_target(self.configuration.target, job.plan.labels, self.configuration.training)
        self.strides = [output.stride for output in self.configuration.architecture.outputs[:1]]

    def of(self, case: StoredCase) -> float:
        seed = self.configuration.training.seed
        source = BatchSource([case], self.configuration, seed=seed, augment=False, num_classes=self.num_classes)
        batch = source.batch(0, 0, self.compute.device)
        maps, weights = self.target.encode(batch.label, self.strides)
        with torch.inference_mode(), computing.autocast(self.compute):
            outputs = self.network(computing.place(batch.image, self.compute))
        with torch.inference_mode():
            return float(self.target.loss(outputs[:1], maps, weights, [1.0], batch.annotated))


def _named(cases: list[CaseLoss]) -> str:
    return ", ".join(f"{item.case} {item.loss:.3f}" for item in cases)
