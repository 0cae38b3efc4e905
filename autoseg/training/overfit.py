"""Can the network learn two cases by heart? If not, something between files and loss is wrong, and no long run helps.

Two training cases are trained on without augmentation and then segmented whole, as new images are; so this passes
through normalization, sampling, loss, optimizer and sliding window.

Source: Karpathy 2019, "A Recipe for Training Neural Networks" (overfit a single batch).
"""

import dataclasses
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autoseg import compute as computing
from autoseg.compute import Compute
from autoseg.data.splits import Splits
from autoseg.errors import RunFolderError
from autoseg.evaluation.contingency import contingency
from autoseg.evaluation.matching import UNIQUE_IOU, f1
from autoseg.evaluation.overlap import CasePrediction, score_cases
from autoseg.preprocessing.populate import store_name
from autoseg.preprocessing.store import StoredCase
from autoseg.progress import duration, say
from autoseg.run_folder import RunFolder, RunRecord
from autoseg.targets import Target, make_target
from autoseg.training.cascade import open_cases
from autoseg.training.folds import find_fold
from autoseg.training.trainer import FoldJob, FoldTrainer
from autoseg.training.validation import case_logits
from planners import records
from planners.plan import Plan

WANTED_DICE = 0.95
WANTED_F1 = 0.9
"""Of objects. Less than of voxels: some labels hold objects that no map can show, such as rims around others."""

STEPS_PER_ROUND = 25
MOST_ROUNDS = 40
"""Assumption: a thousand steps; two cases are learnt within a few hundred where nothing is wrong."""
NUM_CASES = 2
VOXELS, OBJECTS = "Dice", "F1 of objects at an IoU of 0.5"


@dataclass(frozen=True, kw_only=True)
class Overfit:
    """What came of it.

    Attributes:
        configuration: its name.
        cases: ids.
        score: of the cases segmented whole, from 0 to 1: mean Dice over classes and cases or, of a target that finds
            objects, mean F1 over cases at an IoU of 0.5.
        criterion: what the score is, in words.
        wanted: above this the cases were learnt.
        steps: that were made.
        seconds: that they took.
    """

    configuration: str
    cases: tuple[str, ...]
    score: float
    criterion: str
    wanted: float
    steps: int
    seconds: float

    @property
    def is_learnt(self) -> bool:
        """Whether the cases were learnt by heart."""
        return self.score > self.wanted

    def text(self) -> str:
        """Word it, with what to do where it failed."""
        what = f"{self.configuration}: {self.criterion} {self.score:.3f} on {' and '.join(self.cases)}"
        what += f" after {self.steps} steps, {duration(self.seconds)}"
        if self.is_learnt:
            return f"{what}. Learnt by heart: data, loss, network and prediction work together"
        return (
            f"{what}; above {self.wanted} was expected. Look at these cases in a viewer: does the label lie on the "
            "image, and is each class visible in it? Then at the normalization in plan.json"
        )


def overfit(run: RunFolder, name: str | None = None, most_rounds: int = MOST_ROUNDS) -> Overfit:
    """Train a configuration on the two cases with the most foreground until it knows them by heart.

    Nothing is written into the run folder.

    Args:
        run: planned and preprocessed.
        name: of the configuration; None: the first that is stored.
        most_rounds: of ``STEPS_PER_ROUND`` steps.

    Raises:
        RunFolderError: nothing is preprocessed there yet.
    """
    plan = run.read(Plan, run.plan_file)
    with tempfile.TemporaryDirectory() as folder:
        job = _job(run, plan, name, RunFolder(Path(folder)))
        computing.prepare(job.compute)
        trainer = FoldTrainer(job)
        trainer.check_first_loss()
        criterion, wanted = (OBJECTS, WANTED_F1) if trainer.target.finds_objects else (VOXELS, WANTED_DICE)
        source, steps, score = trainer.source(job.train_cases, augment=False), 0, 0.0
        started = time.monotonic()
        say(f"  {job.configuration.name}: learning {' and '.join(case.id for case in job.train_cases)} by heart")
        for number in range(most_rounds):
            for batch in trainer.batches(source, number, range(STEPS_PER_ROUND)):
                loss = trainer.step(batch)
                if loss is None:  # in half precision the loss scale is too high at first
                    trainer.counters.loss_scale = max(trainer.counters.loss_scale / 2, 1.0)
            steps += STEPS_PER_ROUND
            score = _score(job, trainer)
            shown = "not finite" if loss is None else f"{loss:.3f}"
            say(f"  {steps:5d} steps  loss {shown}  {criterion} {score:.3f}")
            if score > wanted:
                break
    return Overfit(
        configuration=job.configuration.name,
        cases=tuple(case.id for case in job.train_cases),
        score=score,
        criterion=criterion,
        wanted=wanted,
        steps=steps,
        seconds=time.monotonic() - started,
    )


def _job(run: RunFolder, plan: Plan, name: str | None, scratch: RunFolder) -> FoldJob:
    """Take fold 0's training cases, and of them the two with the most foreground per voxel."""
    names = [name] if name is not None else [item.name for item in plan.configurations if item.previous is None]
    stored = [item for item in names if any(run.store(store_name(plan, item)).glob("*.json"))]
    if not stored or not run.splits_file.exists():
        raise RunFolderError(
            f"{run.root} holds no preprocessed cases of {', '.join(names) or 'any configuration'}. "
            "Run `autoseg run DATASET --until preprocess` first"
        )
    configuration = plan.configuration(stored[0])
    split = find_fold(run.read(Splits, run.splits_file), 0)
    cases = open_cases(run, plan, configuration.name, split.train)
    ignored = plan.labels.ignore_index
    chosen = sorted(cases, key=lambda case: (-_foreground_fraction(case, ignored), case.id))[:NUM_CASES]
    training = dataclasses.replace(
        configuration.training,
        initial_weights="",
        frozen=(),
        schedule="constant",
        warm_up=0,
        mirror_axes=(),  # what is learnt by heart is not mirrored; prediction must not mirror either
        mirror_swaps=(),
        mirror_swap_axis=None,
    )
    recorded = run.read(RunRecord, run.run_file).compute
    return FoldJob(
        run=scratch,
        plan=plan,
        configuration=dataclasses.replace(configuration, training=training),
        fold=0,
        train_cases=chosen,
        validation_cases=chosen,
        compute=computing.choose("auto", "auto") if recorded is None else records.from_json(Compute, recorded),
    )


def _foreground_fraction(case: StoredCase, ignored: int | None) -> float:
    """Give the part of a case that is annotated foreground, slice by slice."""
    count = sum(int(np.count_nonzero((plane > 0) & (plane != ignored))) for plane in case.labels[0])
    return count / max(case.labels[0].size, 1)


def _score(job: FoldJob, trainer: FoldTrainer) -> float:
    """Segment the cases whole on their preprocessed grid and score them there."""
    target = make_target(job.configuration.target, job.plan.labels, job.configuration.training)
    trainer.network.eval()
    found = [(case, target.decode(case_logits(job, trainer.network, case))) for case in job.train_cases]
    if target.finds_objects:
        values = [score_objects(case, ids, target) for case, ids in found]
        return float(np.mean([value for value in values if value is not None] or [0.0]))
    cases = [
        CasePrediction(case.id, np.maximum(np.array(case.labels[0]), 0), segmentation, case.annotated_classes)
        for case, segmentation in found
    ]
    return score_cases(cases, job.plan.labels).mean_dice or 0.0


def score_objects(case: StoredCase, ids_ZYX: np.ndarray, target: Target) -> float | None:
    """Give F1 of objects at an IoU of 0.5 on the preprocessed grid; None where there are none and none were found.

    Args:
        case: its stored ids are what is right; voxels to be ignored belong to no object.
        ids_ZYX: what the target found.
        target: tells the ignore index.
    """
    classes, wanted = np.array(case.labels[0]), np.array(case.labels[1], dtype=np.int32)
    if target.labels.ignore_index is not None:
        ids_ZYX = np.where(classes == target.labels.ignore_index, 0, ids_ZYX)
    top, bottom = f1(contingency(np.maximum(wanted, 0), ids_ZYX), UNIQUE_IOU)
    return top / bottom if bottom else None
