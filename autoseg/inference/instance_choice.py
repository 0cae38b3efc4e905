"""Choosing where objects are told apart: settings of decoders are fitted on the logits of the folds, then compared.

Logits are read once for every setting of the decoder that is fitted; the settings in question are decoded from the same
maps. What was chosen is decoded once more, with its settings, and its predictions are written to ``out_of_fold``.
"""

import math
import shutil
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path

import numpy as np

from autoseg.data.io import open_image, output_ending
from autoseg.data.parallel import MemoryGate, for_each_case
from autoseg.errors import RunFolderError
from autoseg.evaluation.contingency import Contingency
from autoseg.evaluation.decode_fitting import AS_PLANNED, Setting, Values, fit_decoding
from autoseg.evaluation.instance_selection import THRESHOLD, JudgedObjects, choose_objects, with_dice
from autoseg.evaluation.matching import f1
from autoseg.evaluation.overlap import CaseScore, Scores, collect, score_case, structures_of
from autoseg.evaluation.selection import Choice, candidates_of
from autoseg.evaluation.weights import Names
from autoseg.inference.comparison import Comparison
from autoseg.inference.instances import (
    class_map,
    components_of_maps,
    mean_maps,
    objects_of_maps,
    segment_objects,
    write_object_maps,
)
from autoseg.inference.labelled_objects import LabelledObjects, read_objects
from autoseg.inference.logits_part import LogitsPart
from autoseg.preprocessing.instance_stats import measure_objects
from autoseg.run_folder import CaseFiles, RunFolder
from autoseg.targets.instance_target import InstanceTarget

LABEL_BYTES, DECODING_BYTES = 40, 120
"""Bytes per voxel held while a case is judged: on the image's grid label, ids and the table of their overlaps
(assumption); on the preprocessed grid what decoding needs beside the maps (measured 2026-11 on 2048×2048 pixels with
10,000 objects: ``boundary`` 23, ``affinity`` 35, ``flow`` 82)."""


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
            "one kind at a time (--configuration)"
        )
    return all(kinds.values()) and bool(kinds)


def choose_instances(comparison: Comparison) -> tuple[Choice, Scores]:
    """Judge every candidate, choose, and write the out-of-fold predictions of what was chosen.

    Returns:
        The choice, and the Dice of the classes of what was chosen.
    """
    record = comparison.record
    names = [item for item in candidates_of(record.configurations) if comparison.can_be_averaged(item)]
    touching: dict[str, bool] = {}
    judged = [_Judge(comparison, item, touching).judge() for item in names]
    structures = [item.name for item in structures_of(comparison.plan.labels)]
    choice = choose_objects(judged, {case for case, found in touching.items() if found}, structures, record.folds)
    scores = write_chosen(comparison, choice)
    return with_dice(choice, scores), scores


def write_chosen(comparison: Comparison, choice: Choice) -> Scores:
    """Decode what was chosen, write its objects to ``out_of_fold``, and give the Dice of their classes."""
    shutil.rmtree(comparison.run.out_of_fold, ignore_errors=True)  # of an earlier choice
    target, plan = comparison.target(choice.configurations[0], choice.decode), comparison.plan
    assert isinstance(target, InstanceTarget)

    def work(item: tuple[int | str, str], gate: MemoryGate) -> CaseScore:
        fold, case_id = item
        files = comparison.files[case_id]
        parts = comparison.parts(choice.configurations, fold, case_id)
        with gate.hold(needed_bytes(parts)):
            objects = segment_objects(parts, target, plan)
            geometry = open_image([Path(path) for path in files.images]).geometry
            write_object_maps(out_of_fold_file(comparison.run, files), objects, plan.labels, geometry)
            classes = read_objects(files, plan).classes
            return score_case(case_id, classes, class_map(objects, plan.labels), plan.labels, files.annotated_classes)

    rows = for_each_case(work, _pairs(comparison), "out-of-fold objects").values() if comparison.cases() else ()
    return collect(rows, [item.name for item in structures_of(plan.labels)])


def out_of_fold_file(run: RunFolder, files: CaseFiles) -> Path:
    """Give the place of a case's chosen prediction."""
    return run.out_of_fold / f"{files.id}{output_ending(files.images[0])}"


def needed_bytes(parts: Sequence[LogitsPart]) -> int:
    """Estimate what decoding a case and comparing it with its label takes."""
    grid = parts[0].grid
    maps = sum(4 * len(part.logits_KZYX) * math.prod(part.grid.shape) for part in parts)
    mean = 8 * len(parts[0].logits_KZYX) * math.prod(grid.shape)
    return maps + mean + DECODING_BYTES * math.prod(grid.shape) + LABEL_BYTES * math.prod(grid.shape_before_crop)


class _Judge:
    """One candidate: decoded with whatever settings are asked for, and scored."""

    def __init__(self, comparison: Comparison, names: Names, touching: dict[str, bool]) -> None:
        """Begin; ``touching`` is filled with what is seen of the labels."""
        self.comparison, self.names, self.touching = comparison, names, touching
        self.components: dict[str, float | None] = {}
        self.targets: dict[Setting, InstanceTarget] = {}

    def judge(self) -> JudgedObjects:
        """Fit the settings of its decoder, and score it."""
        offered = self._target(AS_PLANNED).decode_choices()
        fitted = fit_decoding(offered, self.score, parts_of(self.comparison))
        single = len(self.names) == 1
        return JudgedObjects(
            configurations=self.names,
            fitted=fitted,
            components=self.components,
            scores=self.comparison.single_scores(self.names[0]) if single else None,
        )

    def score(self, settings: Sequence[Setting], cases: Sequence[str]) -> Mapping[Setting, Values]:
        """Give the F1 of some cases with each of some settings; logits are read once for all of them."""
        if not settings:
            return {}
        for setting in settings:
            self._target(setting)

        def work(item: tuple[int | str, str], gate: MemoryGate) -> list[float | None]:
            return self._score_case(settings, *item, gate)

        what = f"{' + '.join(self.names)}: {len(settings)} setting{'s' * (len(settings) > 1)} of the decoder"
        chosen = set(cases)
        pairs = [pair for pair in _pairs(self.comparison) if pair[0] in chosen]
        rows = for_each_case(work, pairs, what) if pairs else {}
        return {setting: {case: row[place] for case, row in rows.items()} for place, setting in enumerate(settings)}

    def _target(self, setting: Setting) -> InstanceTarget:
        if setting not in self.targets:
            made = self.comparison.target(self.names[0], dict(setting))
            assert isinstance(made, InstanceTarget)
            self.targets[setting] = made
        return self.targets[setting]

    def _score_case(
        self, settings: Sequence[Setting], fold: int | str, case_id: str, gate: MemoryGate
    ) -> list[float | None]:
        plan, first = self.comparison.plan, self._target(AS_PLANNED)
        parts = self.comparison.parts(self.names, fold, case_id)
        with gate.hold(needed_bytes(parts)):
            label = read_objects(self.comparison.files[case_id], plan)
            maps = mean_maps(parts, first)
            if AS_PLANNED in settings:
                self._look_at(case_id, label, maps, parts[0])
            values = []
            for setting in settings:
                found = objects_of_maps(maps, parts[0], self._target(setting), plan)
                values.append(_f1(label.compare(found.ids, found.classes)))
        return values

    def _look_at(self, case_id: str, label: LabelledObjects, maps_KZYX: np.ndarray, part: LogitsPart) -> None:
        """Note once per case whether labelled objects touch, and what the components of the foreground are worth."""
        if case_id not in self.touching:
            self.touching[case_id] = bool(measure_objects(label.numbered, label.spacing_mm, 0).touching.any())
        found = components_of_maps(maps_KZYX, part, self._target(AS_PLANNED), self.comparison.plan)
        self.components[case_id] = _f1(label.compare(found.ids, found.classes))


def parts_of(comparison: Comparison) -> dict[str, Hashable]:
    """Tell for every case its fold; where there is one fold alone its half, such that groups stay together."""
    cases = comparison.cases()
    if len(cases) > 1:
        return {case: fold for fold, ids in cases.items() for case in ids}
    ids = sorted(case for fold in cases.values() for case in fold)
    groups = {case: comparison.files[case].group or case for case in ids}
    order = {group: place for place, group in enumerate(dict.fromkeys(groups.values()))}
    return {case: order[groups[case]] % 2 for case in ids}


def _pairs(comparison: Comparison) -> list[tuple[str, tuple[int | str, str]]]:
    return [(case, (fold, case)) for fold, cases in comparison.cases().items() for case in cases]


def _f1(table: Contingency) -> float | None:
    parts = f1(table, THRESHOLD)
    return parts.top / parts.bottom if parts.bottom else None
