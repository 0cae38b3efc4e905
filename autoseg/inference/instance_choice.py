"""Choosing where objects are told apart: settings of decoders are fitted on the logits of the folds, then compared.

Logits are read once for every setting of the decoder that is fitted; the settings in question are decoded from the same
maps. What was chosen is decoded once more, every image with the settings that were fitted on the others, and these
predictions are written to ``out_of_fold``: what is measured of them is what the choice went by.
"""

import math
import shutil
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np

from autoseg.data.io import open_image
from autoseg.data.parallel import MemoryGate, for_each_case
from autoseg.errors import RunFolderError
from autoseg.evaluation.contingency import Contingency
from autoseg.evaluation.decode_fitting import AS_PLANNED, FittedDecoding, Setting, Values, fit_decoding
from autoseg.evaluation.instance_selection import THRESHOLD, JudgedObjects, choose_objects, with_dice
from autoseg.evaluation.labelled_objects import LabelledObjects, read_objects
from autoseg.evaluation.matching import f1
from autoseg.evaluation.overlap import CaseScore, Scores, collect, score_case, structures_of
from autoseg.evaluation.selection import Choice, candidates_of
from autoseg.evaluation.weights import Names
from autoseg.inference.comparison import Comparison, out_of_fold_file
from autoseg.inference.instances import (
    class_map,
    components_of_maps,
    ids_of_maps,
    keep_object_maps,
    mean_maps,
    segment_objects,
)
from autoseg.inference.logits_part import LogitsPart
from autoseg.preprocessing.instance_stats import find_touching
from autoseg.targets.instance_target import InstanceTarget

LABEL_BYTES, DECODING_BYTES = 40, 120
"""Bytes per voxel held while a case is judged: on the image's grid label, ids and the table of their overlaps
(assumption); on the preprocessed grid what decoding needs beside the maps (measured 2026-11 on 2048×2048 pixels with
10,000 objects: ``boundary`` 23, ``affinity`` 35, ``flow`` 82)."""

NOTHING_WRONG = 1.0
"""F1 of an image without objects in label and prediction, while candidates and settings are judged: inventing one there
gives 0, and if such an image then counted and a right one did not, who invents more would be judged by fewer."""

Result = TypeVar("Result")


def finds_objects(comparison: Comparison) -> bool:
    """Tell whether the run's configurations find objects.

    Raises:
        RunFolderError: some do and some do not; they cannot be compared.
    """
    names = comparison.record.configurations
    kinds = {name: comparison.target(name).finds_objects for name in names}
    if len(set(kinds.values())) > 1:
        listed = [", ".join(name for name in names if kinds[name] is kind) for kind in (True, False)]
        raise RunFolderError(
            f"{comparison.run.root}: {listed[0]} find objects, {listed[1]} do not, and they cannot be compared. Train "
            "one kind at a time (--configurations)"
        )
    return all(kinds.values()) and bool(kinds)


def choose_instances(comparison: Comparison) -> tuple[Choice, Scores]:
    """Judge every candidate, choose, and write the out-of-fold predictions of what was chosen.

    Returns:
        The choice, and the Dice of the classes of what was chosen.
    """
    record = comparison.record
    names = [item for item in candidates_of(record.configurations) if comparison.can_be_averaged(item)]
    seen = _Seen()
    judged = [_Judge(comparison, item, seen).judge() for item in names]
    structures = [item.name for item in structures_of(comparison.plan.labels)]
    choice = choose_objects(judged, seen.touching, structures, record.folds)
    scores = write_chosen(comparison, choice)
    return with_dice(choice, scores), scores


def write_chosen(comparison: Comparison, choice: Choice) -> Scores:
    """Decode what was chosen, write its objects to ``out_of_fold``, and give the Dice of their classes.

    Every image is decoded with the settings that were fitted on the other parts: those fitted on all images have seen
    its label, and their numbers would be better than those of new images.
    """
    shutil.rmtree(comparison.run.out_of_fold, ignore_errors=True)  # of an earlier choice
    plan, parts_by_case = comparison.plan, parts_of(comparison)

    def work(item: tuple[int | str, str], gate: MemoryGate) -> CaseScore:
        fold, case_id = item
        files, part = comparison.files[case_id], str(parts_by_case.get(case_id))
        target = comparison.target(choice.configurations[0], choice.decode_by_part.get(part, choice.decode))
        assert isinstance(target, InstanceTarget)
        parts = comparison.parts(choice.configurations, fold, case_id)
        with gate.hold(needed_bytes(parts)):
            objects = segment_objects(parts, target, plan)
            geometry = open_image([Path(path) for path in files.images]).geometry
            keep_object_maps(out_of_fold_file(comparison.run, files), objects, plan.labels, geometry)
            classes = read_objects(files, plan.labels).classes
            return score_case(case_id, classes, class_map(objects, plan.labels), plan.labels, files.annotated_classes)

    rows = for_each_case(work, _pairs(comparison), "out-of-fold objects").values() if comparison.cases() else ()
    return collect(rows, [item.name for item in structures_of(plan.labels)])


def needed_bytes(parts: Sequence[LogitsPart]) -> int:
    """Estimate what decoding a case and comparing it with its label takes."""
    grid = parts[0].grid
    maps = sum(4 * len(part.logits_KZYX) * math.prod(part.grid.shape) for part in parts)
    mean = 8 * len(parts[0].logits_KZYX) * math.prod(grid.shape)
    return maps + mean + DECODING_BYTES * math.prod(grid.shape) + LABEL_BYTES * math.prod(grid.shape_before_crop)


@dataclass(frozen=True)
class _Seen:
    """What has been seen of the labels while candidates were judged: cases whose objects touch, and without any."""

    touching: set[str] = field(default_factory=set)
    empty: set[str] = field(default_factory=set)
    known: set[str] = field(default_factory=set)

    def look_at(self, case_id: str, label: LabelledObjects) -> None:
        """Look at a label, once."""
        if case_id in self.known:
            return
        ids = label.numbered
        count = int(ids.max(initial=0))
        if not count:
            self.empty.add(case_id)
        elif find_touching(ids, count).any():
            self.touching.add(case_id)
        self.known.add(case_id)


class _Judge:
    """One candidate: decoded with whatever settings are asked for, and scored."""

    def __init__(self, comparison: Comparison, names: Names, seen: _Seen) -> None:
        """Begin; ``seen`` is filled with what is seen of the labels."""
        self.comparison, self.names, self.seen = comparison, names, seen
        self.parts = parts_of(comparison)
        self.targets: dict[Setting, InstanceTarget] = {}

    def judge(self) -> JudgedObjects:
        """Fit the settings of its decoder, and score it."""
        offered = self._target(AS_PLANNED).decode_choices()
        fitted = fit_decoding(offered, self.score, self.parts)
        single = len(self.names) == 1
        return JudgedObjects(
            configurations=self.names,
            fitted=fitted,
            components=self.score_components(fitted),
            scores=self.comparison.single_scores(self.names[0]) if single else None,
            empty=frozenset(self.seen.empty),
        )

    def score(self, settings: Sequence[Setting], cases: Sequence[str]) -> Mapping[Setting, Values]:
        """Give the F1 of some cases with each of some settings; logits are read once for all of them."""
        if not settings:
            return {}
        targets, plan = [self._target(setting) for setting in settings], self.comparison.plan

        def of_case(case_id: str, label: LabelledObjects, maps_KZYX: np.ndarray, part: LogitsPart) -> list[float]:
            self.seen.look_at(case_id, label)
            found = (ids_of_maps(maps_KZYX, part, target, plan) for target in targets)
            return [_f1(label.compare(item.ids, item.classes)) for item in found]

        rows = self._for_each(of_case, cases, f"{len(settings)} setting{'s' * (len(settings) > 1)} of the decoder")
        return {setting: {case: row[place] for case, row in rows.items()} for place, setting in enumerate(settings)}

    def score_components(self, fitted: FittedDecoding) -> Values:
        """Give, of the cases whose objects touch, the F1 of components of the foreground, by the fitted settings."""
        plan = self.comparison.plan
        cases = [case for case in self.parts if case in self.seen.touching]
        settings = {case: tuple(sorted(fitted.by_part.get(self.parts[case], {}).items())) for case in cases}
        targets = {case: self._target(setting) for case, setting in settings.items()}

        def of_case(case_id: str, label: LabelledObjects, maps_KZYX: np.ndarray, part: LogitsPart) -> float:
            found = components_of_maps(maps_KZYX, part, targets[case_id], plan)
            return _f1(label.compare(found.ids, found.classes))

        return self._for_each(of_case, cases, "components of the foreground")

    def _target(self, setting: Setting) -> InstanceTarget:
        if setting not in self.targets:
            made = self.comparison.target(self.names[0], dict(setting))
            assert isinstance(made, InstanceTarget)
            self.targets[setting] = made
        return self.targets[setting]

    def _for_each(
        self,
        of_case: Callable[[str, LabelledObjects, np.ndarray, LogitsPart], Result],
        cases: Sequence[str],
        what: str,
    ) -> dict[str, Result]:
        """Call a function with the label and the averaged maps of some cases, several at a time."""
        plan, first = self.comparison.plan, self._target(AS_PLANNED)

        def work(item: tuple[int | str, str], gate: MemoryGate) -> Result:
            parts = self.comparison.parts(self.names, *item)
            with gate.hold(needed_bytes(parts)):
                label = read_objects(self.comparison.files[item[1]], plan.labels)
                return of_case(item[1], label, mean_maps(parts, first), parts[0])

        wanted = set(cases)
        pairs = [pair for pair in _pairs(self.comparison) if pair[0] in wanted]
        return for_each_case(work, pairs, f"{' + '.join(self.names)}: {what}") if pairs else {}


def parts_of(comparison: Comparison) -> dict[str, Hashable]:
    """Tell for every case that can be judged its fold; where there is one fold alone its half, groups together.

    Cases whose objects nobody has annotated say nothing.
    """
    folds = {
        fold: [case for case in cases if _is_annotated(comparison, case)] for fold, cases in comparison.cases().items()
    }
    if len(folds) > 1:
        return {case: fold for fold, ids in folds.items() for case in ids}
    ids = sorted(case for cases in folds.values() for case in cases)
    groups = {case: comparison.files[case].group or case for case in ids}
    order = {group: place for place, group in enumerate(dict.fromkeys(groups.values()))}
    return {case: f"half {1 + order[groups[case]] % 2}" for case in ids}


def _is_annotated(comparison: Comparison, case_id: str) -> bool:
    """Tell whether a case has been annotated for any class whose objects are told apart."""
    annotated, labels = comparison.files[case_id].annotated_classes, comparison.plan.labels
    return annotated is None or any(labels.names[index] in labels.instance_classes for index in annotated)


def _pairs(comparison: Comparison) -> list[tuple[str, tuple[int | str, str]]]:
    return [(case, (fold, case)) for fold, cases in comparison.cases().items() for case in cases]


def _f1(table: Contingency) -> float:
    parts = f1(table, THRESHOLD)
    return parts.top / parts.bottom if parts.bottom else NOTHING_WRONG
