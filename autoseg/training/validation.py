"""After training: predict the fold's validation cases whole, as new images would be, and score them."""

import functools
import io
from collections.abc import Callable
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
from autoseg.inference.sliding_window import WindowOptions, predict_logits
from autoseg.networks import build_network, load_weights
from autoseg.preprocessing.store import StoredCase
from autoseg.progress import say, track
from autoseg.run_folder import CaseFiles, RunRecord, write_atomic
from autoseg.targets import make_target
from autoseg.training.cascade import NextStages
from autoseg.training.trainer import FoldJob
from planners.decision import cases as count_cases


def validate_fold(job: FoldJob, *, keep_logits: bool) -> Scores:
    """Predict and score every validation case of a trained fold, with its last weights.

    Args:
        job: the fold.
        keep_logits: leave the logits beside the predictions, for judging ensembles.

    Returns:
        The scores; they are written to ``scores.json`` of the fold, the predictions to ``validation/``.
    """
    files = {item.id: item for item in job.run.read(RunRecord, job.run.run_file).cases}
    following = NextStages(job)
    network = trained_network(job)
    cases, further = job.validation_cases, following.further_cases
    if further:
        names = ", ".join(item.name for item in following.fed)
        say(f"  {job.name}: segments {len(further)} cases for {names} that no fold validates, though it may know them")
    scores: list[CaseScore] = []
    pending: Future[CaseScore | None] | None = None
    with ThreadPoolExecutor(1) as writer:
        for case in track([*cases, *further], len(cases) + len(further), f"{job.name}, validation"):
            logits = case_logits(job, network, case)
            _collect(pending, scores)
            write = functools.partial(_write_and_score, job, case, files[case.id], logits, keep_logits)
            pending = writer.submit(_finish, following, case, logits, None if case in further else write)
        _collect(pending, scores)
    result = collect(scores, [item.name for item in structures_of(job.plan.labels)])
    job.run.write(result, job.folder.scores)
    dice = ", ".join(
        f"{name} {'absent' if value is None else f'{value:.4f}'}"
        for name, value in zip(result.structures, result.dice, strict=True)
    )
    mean = "absent" if result.mean_dice is None else f"{result.mean_dice:.4f}"
    say(f"  {job.name}: mean Dice {mean} over {count_cases(len(scores))} ({dice})")
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


def case_logits(job: FoldJob, network: nn.Module, case: StoredCase) -> np.ndarray:
    """Run a whole stored case through the fold's network; give its logits, float32 (K, z, y, x) on the case's grid."""
    target = make_target(job.configuration.target, job.plan.labels, job.configuration.training)
    previous = None if case.previous is None else torch.from_numpy(np.array(case.previous.array))
    image, options = torch.from_numpy(np.array(case.image)), WindowOptions(flip=target.flip)
    return predict_logits([network], image, job.configuration, job.compute, options, previous_ZYX=previous).numpy()


def _finish(
    following: NextStages, case: StoredCase, logits_KZYX: np.ndarray, write: Callable[[], CaseScore] | None
) -> CaseScore | None:
    following.write(case, logits_KZYX)
    return None if write is None else write()


def _collect(pending: "Future[CaseScore | None] | None", scores: list[CaseScore]) -> None:
    score = None if pending is None else pending.result()
    if score is not None:
        scores.append(score)


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
    return score_case(case.id, read_label(files, job.plan), segmentation, labels, case.annotated_classes)
