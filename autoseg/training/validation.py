"""After training: predict the fold's validation cases whole, as new images would be, and score them."""

import functools
import io
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import nn

from autoseg import compute as computing
from autoseg.data.io import open_image, write_segmentation
from autoseg.evaluation.overlap import CaseScore, Scores, collect, score_case, structures_of
from autoseg.inference.export import LogitsPart, segment
from autoseg.inference.out_of_fold import logits_file, prediction_file, read_label
from autoseg.inference.sliding_window import predict_logits
from autoseg.networks import build_network, load_weights
from autoseg.preprocessing.store import StoredCase
from autoseg.progress import say, track
from autoseg.run_folder import CaseFiles, RunRecord, write_atomic
from autoseg.targets import make_target
from autoseg.training.trainer import FoldJob


def validate_fold(job: FoldJob, *, keep_logits: bool) -> Scores:
    """Predict and score every validation case of a trained fold, with its last weights.

    Args:
        job: the fold.
        keep_logits: leave the logits beside the predictions, for judging ensembles.

    Returns:
        The scores; they are written to ``scores.json`` of the fold, the predictions to ``validation/``.
    """
    files = {item.id: item for item in job.run.read(RunRecord, job.run.run_file).cases}
    network = trained_network(job)
    scores: list[CaseScore] = []
    pending: Future[CaseScore] | None = None
    with ThreadPoolExecutor(1) as writer:
        for case in track(job.validation_cases, len(job.validation_cases), f"{job.name}, validation"):
            image = torch.from_numpy(np.array(case.image))
            logits = predict_logits([network], image, job.configuration, job.compute).numpy()
            if pending is not None:
                scores.append(pending.result())
            work = functools.partial(_write_and_score, job, case, files[case.id], logits, keep_logits)
            pending = writer.submit(work)
        if pending is not None:
            scores.append(pending.result())
    result = collect(scores, [item.name for item in structures_of(job.plan.labels)])
    job.run.write(result, job.folder.scores)
    dice = ", ".join(
        f"{name} {'absent' if value is None else f'{value:.4f}'}"
        for name, value in zip(result.structures, result.dice, strict=True)
    )
    mean = "absent" if result.mean_dice is None else f"{result.mean_dice:.4f}"
    say(f"  {job.name}: mean Dice {mean} over {len(scores)} cases ({dice})")
    return result


def trained_network(job: FoldJob) -> nn.Module:
    """Build the fold's network with its last weights, on its device."""
    configuration = job.configuration
    network = build_network(
        configuration.architecture, configuration.num_input_channels, configuration.target.num_outputs
    )
    weights, _ = load_weights(job.folder.weights_last)
    network.load_state_dict(weights)
    return computing.place(network, job.compute).eval()


def _write_and_score(
    job: FoldJob, case: StoredCase, files: CaseFiles, logits_KZYX: np.ndarray, keep_logits: bool
) -> CaseScore:
    labels = job.plan.labels
    target = make_target(job.configuration.target, labels, job.configuration.training)
    part = LogitsPart(logits_KZYX=logits_KZYX, grid=case.grid, resampling=job.configuration.resampling)
    segmentation = segment([part], target, job.plan)
    job.folder.validation.mkdir(parents=True, exist_ok=True)
    if keep_logits:
        buffer = io.BytesIO()
        np.save(buffer, logits_KZYX.astype(np.float16))
        write_atomic(logits_file(job.folder, case.id), buffer.getvalue())
    geometry = open_image([Path(path) for path in files.images]).geometry
    write_segmentation(prediction_file(job.folder, files), labels.decode(segmentation), geometry)
    return score_case(case.id, read_label(files, job.plan), segmentation, labels)
