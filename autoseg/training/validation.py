"""After training: predict the fold's validation cases whole, as new images would be, and score them."""

import functools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import nn

from autoseg import compute as computing
from autoseg.data.check_problem import count
from autoseg.data.io import open_image, write_segmentation
from autoseg.errors import DatasetError
from autoseg.evaluation.overlap import CaseScore, Scores, collect, score_case, structures_of
from autoseg.inference.confidence import ConfidenceWatcher, WatchedCase, collect_confidence
from autoseg.inference.export import LogitsPart, segment
from autoseg.inference.instances import class_map, keep_object_maps, segment_objects
from autoseg.inference.kept_logits import keep_logits as keep_logits_of
from autoseg.inference.out_of_fold import logits_file, prediction_file, read_label
from autoseg.inference.sliding_window import WindowOptions, predict_logits
from autoseg.networks import build_network, load_weights
from autoseg.preprocessing.stamps import stamp_files
from autoseg.preprocessing.store import StoredCase
from autoseg.progress import say, track
from autoseg.run_folder import CaseFiles, RunRecord
from autoseg.targets import make_target
from autoseg.targets.instance_target import InstanceTarget
from autoseg.training.cascade import NextStages
from autoseg.training.trainer import FoldJob
from autoseg.training.validated_cases import ValidatedCases
from planners.decision import cases as count_cases

Validated = tuple[CaseScore, WatchedCase | None]
"""The score of a case, and what the network expects of it."""


def validate_fold(job: FoldJob, *, keep_logits: bool) -> Scores:
    """Predict and score every validation case of a trained fold, with its last weights.

    Args:
        job: the fold.
        keep_logits: leave the logits beside the predictions, for judging ensembles and for fitting decoders.

    Raises:
        DatasetError: a case has changed since it was preprocessed.

    Returns:
        The scores; they are written to ``scores.json`` of the fold, the predictions to ``validation/``, and what the
        network expects of them to ``confidence.json``.
    """
    files = {item.id: item for item in job.run.read(RunRecord, job.run.run_file).cases}
    check_unchanged(job.validation_cases, files)
    following = NextStages(job)
    network = trained_network(job)
    cases, further = job.validation_cases, following.further_cases
    if further:
        names = ", ".join(item.name for item in following.fed)
        say(f"  {job.name}: segments {len(further)} cases for {names} that no fold validates, though it may know them")
    kept = ValidatedCases(job, keep_logits=keep_logits)
    validated: list[Validated] = []
    pending: Future[Validated | None] | None = None
    with ThreadPoolExecutor(1) as writer:
        for case in track([*cases, *further], len(cases) + len(further), f"{job.name}, validation"):
            before = kept.find(case, files[case.id]) if following.has(case) else None
            if before is not None:
                _collect(pending, validated)
                validated.append(before)
                pending = None
                continue
            logits = case_logits(job, network, case)
            _collect(pending, validated)
            write = functools.partial(_write_and_score, job, case, files[case.id], logits, keep_logits)
            pending = writer.submit(_finish, following, case, logits, None if case in further else write, kept)
        _collect(pending, validated)
    result = collect((score for score, _ in validated), [item.name for item in structures_of(job.plan.labels)])
    _keep_confidence(job, validated)
    job.run.write(result, job.folder.scores)
    kept.remove()
    dice = ", ".join(
        f"{name} {'absent' if value is None else f'{value:.4f}'}"
        for name, value in zip(result.structures, result.dice, strict=True)
    )
    mean = "absent" if result.mean_dice is None else f"{result.mean_dice:.4f}"
    say(f"  {job.name}: mean Dice {mean} over {count_cases(len(validated))} ({dice})")
    return result


def check_unchanged(cases: Sequence[StoredCase], files: Mapping[str, CaseFiles], *, missing: bool = True) -> None:
    """Refuse to go on where a case is not what the store was made from: two versions of it would be mixed.

    Args:
        cases: of the store.
        files: of each on the user's disk.
        missing: refuse files that are not there, too.

    Raises:
        DatasetError: some have changed since they were preprocessed; the message names them.
    """
    changed = []
    for case in (case for case in cases if case.id in files):
        own, known = files[case.id], case.record.files
        named = (*own.images, *(path for path in (own.label, own.classes) if path is not None))
        try:
            found = stamp_files(map(Path, named), known)
        except OSError as fault:
            changed += [f"{case.id}: {fault.filename} cannot be read ({fault.strerror})"] if missing else []
            continue
        other = [now.name for now, before in zip(found, known, strict=False) if now.content != before.content]
        if known and (other or len(found) != len(known)):
            changed.append(f"{case.id}: {', '.join(other) or 'other files than before'}")
    if changed:
        raise DatasetError(
            f"{count(len(changed), 'case')} changed after being preprocessed, so training and labels do not go "
            f"together any more:\n  " + "\n  ".join(changed) + "\nPut the files back and run the same command again; "
            "or keep the change and run in a new folder (--out)"
        )


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
    following: NextStages,
    case: StoredCase,
    logits_KZYX: np.ndarray,
    write: Callable[[], Validated] | None,
    kept: ValidatedCases,
) -> Validated | None:
    following.write(case, logits_KZYX)
    if write is None:
        return None
    score, watched = write()
    kept.keep(case, score, watched)
    return score, watched


def _collect(pending: "Future[Validated | None] | None", validated: list[Validated]) -> None:
    found = None if pending is None else pending.result()
    if found is not None:
        validated.append(found)


def _keep_confidence(job: FoldJob, validated: Sequence[Validated]) -> None:
    """Write what the network expects of its predictions; nothing where its target has no probability per voxel."""
    watched = {score.case: seen for score, seen in validated if seen is not None}
    if watched:
        folds = dict.fromkeys(watched, job.fold)
        job.run.write(
            collect_confidence(job.plan.labels, [job.configuration.name], watched, folds), job.folder.confidence
        )
    else:
        job.folder.confidence.unlink(missing_ok=True)


def _write_and_score(
    job: FoldJob, case: StoredCase, files: CaseFiles, logits_KZYX: np.ndarray, keep_logits: bool
) -> Validated:
    labels = job.plan.labels
    target = make_target(job.configuration.target, labels, job.configuration.training)
    part = LogitsPart(logits_KZYX=logits_KZYX, grid=case.grid, resampling=job.configuration.resampling)
    job.folder.validation.mkdir(parents=True, exist_ok=True)
    if keep_logits:
        keep_logits_of(logits_file(job.folder, case.id), logits_KZYX, relative=target.relative)
    if isinstance(target, InstanceTarget):
        return _write_and_score_objects(job, case, files, part, target)
    check_unchanged([case], {case.id: files})
    label = read_label(files, job.plan)
    watcher = ConfidenceWatcher(target, labels, label, case.annotated_classes) if target.pointwise else None
    segmentation = segment([part], target, job.plan, watch=watcher)
    geometry = open_image([Path(path) for path in files.images]).geometry
    write_segmentation(prediction_file(job.folder, files), labels.decode(segmentation), geometry)
    score = score_case(case.id, label, segmentation, labels, case.annotated_classes)
    return score, None if watcher is None else watcher.result()


def _write_and_score_objects(
    job: FoldJob, case: StoredCase, files: CaseFiles, part: LogitsPart, target: InstanceTarget
) -> Validated:
    """Write ids, and classes where there are several; score the classes: which objects are right is judged later.

    The logits are gone then: they are used last here, and become the maps.
    """
    objects = segment_objects([part], target, job.plan, consume=True)
    geometry = open_image([Path(path) for path in files.images]).geometry
    keep_object_maps(prediction_file(job.folder, files), objects, job.plan.labels, geometry)
    found = class_map(objects, job.plan.labels)
    return score_case(case.id, read_label(files, job.plan), found, job.plan.labels, case.annotated_classes), None
