"""How good new predictions are thought to be: ``quality.json`` beside them, and a few lines on the terminal.

Two things are told of every image: the Dice that is predicted for it (see ``evaluation.confidence``) and where it lies
outside what the networks were trained on (see ``familiarity``). The first is blind to much of the second: networks may
be sure of themselves where they have no reason to be.
"""

import contextlib
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from autoseg.data.io import Geometry
from autoseg.errors import RunFolderError
from autoseg.evaluation.confidence import CaseQuality, Confidence, Quality, StructureQuality
from autoseg.evaluation.dice_calibration import MEAN
from autoseg.evaluation.overlap import mean_of, structures_of
from autoseg.inference.confidence import WatchedCase
from autoseg.inference.familiarity import Familiarity
from autoseg.inference.model import Selection
from autoseg.preprocessing.looking import Looked
from autoseg.progress import say
from autoseg.run_folder import RunFolder, records_from, write_atomic
from planners import records
from planners.fingerprint import Fingerprint
from planners.plan import Configuration, Plan

FILE = "quality.json"
WRITE_EVERY_S = 2.0  # the file grows with the cases; all of it is written each time
NUM_LOWEST, NUM_WARNED = 3, 5  # assumption: as many as one looks at; all are in the file

MEANING = (
    "Dice that each prediction is thought to have, worked out from the probabilities alone; no label was seen. The "
    "numbers were calibrated on single networks and cases they had not seen; averaged networks are usually a little "
    "better than that. They hold for images like the training's; see the warnings."
)
UNCALIBRATED = (
    "What the networks expect of themselves, which is usually too much: this model has no calibration on out-of-fold "
    "cases. See the warnings for images unlike the training's."
)
NO_DICE = (
    "No Dice is predicted where objects are told apart: their targets have no probability per class and voxel. What is "
    "unlike the training's images is in the warnings."
)


class Judge:
    """Judges new predictions of one model."""

    def __init__(self, run: RunFolder, plan: Plan, selection: Selection) -> None:
        """Open what the run knows: its fingerprint and its confidence, where it has kept them for this selection."""
        self.run, self.plan = run, plan
        self.confidence = _confidence_of(run, selection)
        configurations = [configuration for configuration, _ in selection.folds]
        self.familiarity = _familiarity_of(run, plan, [*configurations, *(item for item, _ in selection.previous)])

    def look_at(self, image_CZYX: np.ndarray, geometry: Geometry) -> tuple[str, ...]:
        """Say what is unfamiliar about an image as read; nothing where the model has no fingerprint."""
        return () if self.familiarity is None else self.familiarity.judge(image_CZYX, geometry)

    def look_at_seen(self, looked: Looked, geometry: Geometry) -> tuple[str, ...]:
        """Say the same of an image that was looked at slab by slab."""
        return () if self.familiarity is None else self.familiarity.judge_seen(looked, geometry)

    def rate(self, case: str, watched: WatchedCase | None, warnings: tuple[str, ...]) -> CaseQuality:
        """Predict the Dice of a case from what was watched of it; None where its target shows no probabilities."""
        if watched is None:
            return CaseQuality(case=case, mean=StructureQuality(name=MEAN), warnings=warnings)
        names = [item.name for item in structures_of(self.plan.labels)]
        structures = tuple(
            self._rate_one(index, name, expected, expected)
            for index, (name, expected) in enumerate(zip(names, watched.expected_dice, strict=True))
        )
        told = mean_of(
            item.expected_dice if item.predicted_dice is None else item.predicted_dice for item in structures
        )
        mean = self._rate_one(-1, MEAN, mean_of(watched.expected_dice), told)
        return CaseQuality(case=case, mean=mean, structures=structures, warnings=warnings)

    def _rate_one(self, index: int, name: str, expected: float | None, told: float | None) -> StructureQuality:
        if told is None or self.confidence is None or self.confidence.calibrations[index].rule == "none":
            return StructureQuality(name=name, expected_dice=expected)
        found = self.confidence.calibrations[index].predict(told)
        return StructureQuality(
            name=name, expected_dice=expected, predicted_dice=found.dice, low=found.low, high=found.high
        )


class QualityFile:
    """``quality.json`` of an output folder while it is being filled. Cases may be added from any thread."""

    def __init__(self, output: Path, judge: Judge, *, tells_dice: bool = True) -> None:
        """Take up what an earlier start has left.

        Args:
            output: the folder.
            judge: of the model.
            tells_dice: whether the model's target shows probabilities, from which a Dice is predicted.

        Attributes:
            existed: whether there was a file; without one, older predictions are no reason to predict again.
        """
        self.path, self.judge, self.tells_dice = output / FILE, judge, tells_dice
        self._cases: dict[str, CaseQuality] = {}
        self._added: list[str] = []
        self._num_warned = 0
        self._written = time.monotonic()
        self._lock = threading.Lock()
        with contextlib.suppress(RunFolderError):
            self._cases = {item.case: item for item in records_from(Quality, self.path).cases}
        self.existed = self.path.exists()

    def __contains__(self, case: str) -> bool:
        return case in self._cases

    def forget(self) -> None:
        """Drop what another model has said."""
        self._cases.clear()

    def begin(self, kept: Iterable[str]) -> None:
        """Write the file; predictions that were there already and of which it says nothing are noted as not judged."""
        for case in kept:
            self._cases.setdefault(case, CaseQuality(case=case, mean=StructureQuality(name=MEAN)))
        self._write()

    def warn(self, case: str, warnings: Sequence[str]) -> None:
        """Say at once what is unfamiliar about a case, and log it; of many cases the first few are said."""
        if not warnings:
            return
        self._num_warned += 1
        if self._num_warned <= NUM_WARNED:
            say(f"  unlike the training cases: {case}: {'; '.join(warnings)}")
        with contextlib.suppress(OSError):  # a model that others share may not be writable
            for warning in warnings:
                self.judge.run.log("warning", what="unlike the training cases", case=case, found=warning)

    def add(self, case: CaseQuality) -> None:
        """Note a case; the file follows within ``WRITE_EVERY_S`` as long as cases come, and at the end."""
        with self._lock:
            self._cases[case.case] = case
            self._added.append(case.case)
            if time.monotonic() - self._written >= WRITE_EVERY_S:
                self._write()

    def _write(self) -> None:
        confidence = self.judge.confidence
        known = None if confidence is None else confidence.of_mean
        meaning = UNCALIBRATED if known is None or known.rule == "none" else MEANING
        quality = Quality(
            meaning=meaning if self.tells_dice else NO_DICE,
            error=None if known is None else known.error,
            cases=tuple(self._cases[case] for case in sorted(self._cases)),
        )
        write_atomic(self.path, records.dumps(quality))
        self._written = time.monotonic()

    def finish(self) -> tuple[str, ...]:
        """Write the file a last time, and give the lines for the terminal on the cases that were added."""
        with self._lock:
            self._write()
            added = [self._cases[case] for case in self._added]
        unsaid = self._num_warned - NUM_WARNED
        more = [f"{unsaid} more images are unlike the training cases; see {self.path}"] if unsaid > 0 else []
        return (*self._predicted(added), *more)

    def _predicted(self, added: Sequence[CaseQuality]) -> Iterable[str]:
        rated = sorted(
            ((item.mean.predicted_dice, item) for item in added if item.mean.predicted_dice is not None),
            key=lambda pair: (pair[0], pair[1].case),
        )
        found = None if self.judge.confidence is None else self.judge.confidence.of_mean
        if not rated or found is None:
            return
        lowest = ", ".join(f"{item.case} {_text(item.mean)}" for _, item in rated[:NUM_LOWEST])
        middle = sorted(dice for dice, _ in rated)[len(rated) // 2]
        yield (
            f"predicted Dice: {lowest}"
            if len(rated) <= NUM_LOWEST
            else (f"predicted Dice: median {middle:.2f} over {len(rated)} images; lowest {lowest}")
        )
        yield f"  an estimate, no label was seen; {found.text()}, by single networks; all in {self.path}"


def _text(quality: StructureQuality) -> str:
    text = f"{quality.predicted_dice:.2f}"
    return text if quality.low is None else f"{text} ({quality.low:.2f} to {quality.high:.2f})"


def _confidence_of(run: RunFolder, selection: Selection) -> Confidence | None:
    """Open what the run has kept, if it was of what segments now."""
    try:
        found = records_from(Confidence, run.confidence_file)
    except RunFolderError as fault:
        if run.confidence_file.exists():
            say(f"  no Dice is predicted: {fault}")
        return None
    names = [configuration.name for configuration, _ in selection.folds]
    folds = [{fold.root.name.removeprefix("fold_") for fold in trained} for _, trained in selection.folds]
    if not all(found.is_of(names, item, selection.weights) for item in folds):
        say(
            f"  no Dice is predicted: {run.confidence_file.name} was learnt from other configurations, folds or "
            "weights than those that segment now (choice.json was changed since)"
        )
        return None
    return found if found.calibrations else None


def _familiarity_of(run: RunFolder, plan: Plan, configurations: Sequence[Configuration]) -> Familiarity | None:
    """Open the run's fingerprint, if it has one and it is of the plan's channels."""
    try:
        fingerprint = records_from(Fingerprint, run.fingerprint_file)
    except RunFolderError as fault:
        if run.fingerprint_file.exists():
            say(f"  new images are not compared with the training's: {fault}")
        return None
    if len(fingerprint.channels) != len(plan.channels):
        return None
    return Familiarity(fingerprint, plan, configurations)
