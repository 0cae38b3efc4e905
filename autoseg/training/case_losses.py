"""After training: the loss of every case, so that those with the highest and the lowest can be looked at."""

import dataclasses
import math
from collections.abc import Iterator

import torch

from autoseg import compute as computing
from autoseg.evaluation.case_losses import CaseLoss, CaseLosses
from autoseg.progress import say, track
from autoseg.training.sampling import BatchSource
from autoseg.training.trainer import FoldJob
from autoseg.training.validation import trained_network

PATCHES_PER_CASE = 2
"""One drawn anywhere, one around the foreground: what training sees of a case. More would cost as much as an epoch."""
NAMED = 3  # cases named on the terminal at either end; the file has all


def measure_case_losses(job: "FoldJob") -> CaseLosses:
    """Give the loss of every training and validation case, with the fold's last weights; write ``case_losses.json``.

    A training case with a loss far above the others is often one with a wrong label, another contrast, or a label that
    lies elsewhere than the image.
    """
    cases = tuple(sorted(_losses(job), key=lambda item: (-item.loss, item.case)))
    found = CaseLosses(cases=cases, patches_per_case=PATCHES_PER_CASE)
    job.run.write(found, job.folder.case_losses)
    trained = [item for item in cases if item.part == "train"]
    if len(trained) > 2 * NAMED:
        say(f"  {job.name}: loss highest in {_named(trained[:NAMED])}; lowest in {_named(trained[: -NAMED - 1 : -1])}")
    return found


def _losses(job: "FoldJob") -> Iterator[CaseLoss]:
    from autoseg.targets import make_target

    network = trained_network(job)
    configuration = dataclasses.replace(job.configuration, batch_size=PATCHES_PER_CASE)
    target = make_target(configuration.target, job.plan.labels, configuration.training)
    strides = [output.stride for output in configuration.architecture.outputs[:1]]
    parts = [("train", case) for case in job.train_cases]
    known = {case.id for case in job.train_cases}
    parts += [("validation", case) for case in job.validation_cases if case.id not in known]
    num_classes = job.plan.labels.num_classes
    with torch.inference_mode():
        for part, case in track(parts, len(parts), f"{job.name}, loss of every case"):
            source = BatchSource(
                [case], configuration, seed=configuration.training.seed, augment=False, num_classes=num_classes
            )
            batch = source.batch(0, 0, job.compute.device)
            maps, weights = target.encode(batch.label, strides)
            with computing.autocast(job.compute):
                outputs = network(computing.place(batch.image, job.compute))
            loss = float(target.loss(outputs[:1], maps, weights, [1.0], batch.annotated))
            if math.isfinite(loss):
                yield CaseLoss(case=case.id, loss=loss, part="train" if part == "train" else "validation")


def _named(cases: list[CaseLoss]) -> str:
    return ", ".join(f"{item.case} {item.loss:.3f}" for item in cases)
