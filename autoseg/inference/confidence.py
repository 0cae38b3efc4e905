"""Watch a case being decoded and note what the network expects of it; and keep that for what a run has chosen.

``ConfidenceWatcher`` is shown the probabilities slab by slab (``export.segment(..., watch=)``), so it costs no memory
worth speaking of. Targets that do not decode voxel by voxel show no probabilities: for them there is no confidence.
"""

import dataclasses
import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from autoseg.errors import RunFolderError
from autoseg.evaluation.calibration import bin_structure, expected_calibration_error
from autoseg.evaluation.confidence import NUM_BINS, Bin, CaseConfidence, Confidence, add_bins
from autoseg.evaluation.dice_calibration import calibrate
from autoseg.evaluation.overlap import Scores, structures_of
from autoseg.evaluation.selection import Choice
from autoseg.inference.export import Slab
from autoseg.options import ALL_DATA
from autoseg.progress import say
from autoseg.run_folder import RunFolder
from autoseg.targets import Target
from planners.labels import Labels
from planners.plan import Plan


@dataclass(frozen=True, kw_only=True)
class WatchedCase:
    """What was seen of one case.

    Attributes:
        expected_dice: per structure; None where none of it was predicted.
        bins: per structure, its calibration curve; all empty where there was no label.
    """

    expected_dice: tuple[float | None, ...]
    bins: tuple[tuple[Bin, ...], ...]


class ConfidenceWatcher:
    """Sums up the probabilities of one case. May be shown slabs from several threads; their order changes nothing."""

    def __init__(
        self,
        target: Target,
        labels: Labels,
        label_ZYX: np.ndarray | None = None,
        annotated: Sequence[int] | None = None,
    ) -> None:
        """Begin a case.

        Args:
            target: pointwise.
            labels: the classes of the dataset.
            label_ZYX: inner class indices on the image's grid as read, where they are known: for the calibration curve.
            annotated: the classes the case has been annotated for; None: all.
        """
        self.structures, self.outputs = structures_of(labels), target.structure_outputs()
        self.label, self.ignore = label_ZYX, labels.ignore_index
        self.counted = [
            annotated is None or (0 not in item.classes and set(item.classes) <= {*annotated})
            for item in self.structures
        ]
        self._sums: dict[int, np.ndarray] = {}  # by the first slice of the slab, so that threads add up to the same
        self._bins = np.zeros((len(self.structures), NUM_BINS, 3))
        self._waiting: dict[int, tuple[int, np.ndarray]] = {}  # bins of slabs that came before those in front of them
        self._next = 0
        self._lock = threading.Lock()

    def __call__(self, slab: Slab) -> None:
        """Add a slab."""
        sums = np.zeros((len(self.structures), 3))
        bins = np.zeros_like(self._bins)
        label = None if self.label is None else slab.look_at(self.label)
        annotated = None if label is None or self.ignore is None else label != self.ignore
        for index, (structure, outputs) in enumerate(zip(self.structures, self.outputs, strict=True)):
            probability = _add(slab.probabilities_KZYX, outputs)
            predicted = _is_one_of(slab.segmentation_ZYX, structure.classes)
            inside = probability[predicted]
            sums[index] = probability.sum(dtype=np.float64), inside.sum(dtype=np.float64), inside.size
            if label is not None and self.counted[index]:
                found = bin_structure(probability, _is_one_of(label, structure.classes), annotated)
                bins[index] = [(item.count, item.confidence, item.correct) for item in found]
        with self._lock:
            self._sums[slab.start], self._waiting[slab.start] = sums, (slab.stop, bins)
            while self._next in self._waiting:  # in the order of the slabs, so that threads add up to the same
                self._next, bins = self._waiting.pop(self._next)
                self._bins += bins

    def result(self) -> WatchedCase:
        """Sum up all slabs."""
        assert not self._waiting, "a slab was never shown"
        order = sorted(self._sums)
        rows = zip(*(self._sums[start].tolist() for start in order), strict=True)
        sums = [[math.fsum(values) for values in zip(*row, strict=True)] for row in rows]
        return WatchedCase(
            expected_dice=tuple(2 * inside / (total + count) if count else None for total, inside, count in sums),
            bins=tuple(
                tuple(
                    Bin(count=int(count), confidence=confidence, correct=int(right)) for count, confidence, right in row
                )
                for row in self._bins.tolist()
            ),
        )


def collect_confidence(
    labels: Labels, configurations: Sequence[str], watched: Mapping[str, WatchedCase], folds: Mapping[str, int | str]
) -> Confidence:
    """Put watched cases together, not yet compared with their labels.

    Args:
        labels: the classes of the dataset.
        configurations: whose probabilities were watched.
        watched: by case id; at least one.
        folds: by case id, the fold whose network predicted it.
    """
    bins = add_bins([watched[case].bins for case in sorted(watched)])
    return Confidence(
        structures=tuple(item.name for item in structures_of(labels)),
        configurations=tuple(configurations),
        cases=tuple(
            CaseConfidence(case=case, fold=folds[case], expected_dice=watched[case].expected_dice)
            for case in sorted(watched)
        ),
        bins=bins,
        calibration_errors=_errors(bins),
    )


def keep_confidence(
    run: RunFolder, plan: Plan, choice: Choice, scores: Scores, watched: Mapping[str, WatchedCase] | None = None
) -> Confidence | None:
    """Compare what was expected of the chosen predictions with what they are worth, and write ``RUN/confidence.json``.

    Args:
        run: whose folds are validated.
        plan: its plan.
        choice: what was chosen.
        scores: of its out-of-fold predictions, with its postprocessing.
        watched: an ensemble's cases as they were watched; None where one configuration was chosen, whose folds have
            kept it.

    Returns:
        What was written; None where nothing was watched: then no Dice can be predicted.
    """
    folds = [fold for fold in choice.folds if fold != ALL_DATA]
    owner = {
        row.case: fold
        for fold in folds
        for row in run.read(Scores, run.fold(choice.configurations[0], fold).scores).cases
    }
    if watched is None:
        found = _of_folds(run, choice.configurations[0], folds) if len(choice.configurations) == 1 else None
    else:
        found = collect_confidence(plan.labels, choice.configurations, watched, owner) if watched else None
    if found is None:
        run.confidence_file.unlink(missing_ok=True)
        say("  predicted Dice: not for this run; its folds have kept no confidence of their out-of-fold predictions")
        return None
    rows = {row.case: row for row in scores.cases}
    cases = tuple(
        dataclasses.replace(item, dice=rows[item.case].dice, mean_dice=rows[item.case].mean_dice)
        for item in found.cases
        if item.case in rows
    )
    calibrations, compared = calibrate(found.structures, cases)
    kept = dataclasses.replace(
        found, cases=compared, calibrations=calibrations, weights=choice.weights, folds=choice.folds
    )
    run.write(kept, run.confidence_file)
    say(f"  predicted Dice: {calibrations[-1].text()}")
    return kept


def _of_folds(run: RunFolder, configuration: str, folds: Sequence[int | str]) -> Confidence | None:
    """Put together what the folds of one configuration have kept; None where one of them has not."""
    try:
        parts = [run.read(Confidence, run.fold(configuration, fold).confidence) for fold in folds]
    except RunFolderError:
        return None
    if not parts:
        return None
    cases = sorted((case for part in parts for case in part.cases), key=lambda case: case.case)
    bins = add_bins([part.bins for part in parts])
    return dataclasses.replace(parts[0], cases=tuple(cases), bins=bins, calibration_errors=_errors(bins))


def _errors(bins: Sequence[Sequence[Bin]]) -> tuple[float | None, ...]:
    return tuple(expected_calibration_error(item) for item in bins)


def _add(probabilities_KZYX: np.ndarray, outputs: Sequence[int]) -> np.ndarray:
    """Add the probabilities of some outputs; rounding may not lift the sum above 1."""
    if len(outputs) == 1:
        single: np.ndarray = probabilities_KZYX[outputs[0]]
        return single
    total = probabilities_KZYX[outputs[0]].copy()
    for output in outputs[1:]:
        total += probabilities_KZYX[output]
    return np.minimum(total, 1, out=total)


def _is_one_of(classes_map: np.ndarray, classes: Sequence[int]) -> np.ndarray:
    found: np.ndarray = classes_map == classes[0]
    for index in classes[1:]:
        found |= classes_map == index
    return found
