"""Measure the out-of-fold predictions of objects: all metrics of the default protocol, and what became of each object.

Predictions are read from the run folder, labels as training reads them; so what is written can be made again at any
time, without logits.
"""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from autoseg.data.io import open_label
from autoseg.data.parallel import MemoryGate, for_each_case
from autoseg.evaluation.contingency import Contingency, object_classes
from autoseg.evaluation.instance_errors import find_errors
from autoseg.evaluation.instance_folders import compare_images
from autoseg.evaluation.instance_metrics import find_instance_protocol, parse_instance_metrics
from autoseg.evaluation.instance_pairs import InstanceRules, MeasuredImage, score_groups
from autoseg.evaluation.instance_results import CaseObjectFacts, InstanceResults
from autoseg.evaluation.labelled_objects import LabelledObjects, read_objects, read_prediction
from autoseg.preprocessing.instance_stats import object_diameters
from autoseg.run_folder import CaseFiles
from planners.plan import Plan

MEASURING_BYTES = 60
"""Bytes per voxel of a case while it is measured: two maps as read and as layers, and their table. Assumption."""


def measure_predictions(plan: Plan, places: Mapping[str, tuple[Path, CaseFiles]]) -> InstanceResults:
    """Compare predicted objects with labelled ones, several cases side by side.

    Args:
        plan: gives the classes.
        places: per case its prediction (ids; classes beside it where there are several), and its files.

    Raises:
        DatasetError: some cases cannot be read; the message lists them.
    """
    protocol = find_instance_protocol("default")
    rules = InstanceRules(
        protocol=protocol,
        measures=parse_instance_metrics(protocol.metrics),
        ignore=plan.labels.ignore_index,
        class_names=dict(enumerate(plan.labels.names)),
    )

    def work(item: tuple[Path, CaseFiles], gate: MemoryGate) -> tuple[MeasuredImage, CaseObjectFacts]:
        path, files = item
        with gate.hold(MEASURING_BYTES * math.prod(open_label(path).shape)):
            return _measure(rules, plan, path, files)

    rows = for_each_case(work, places.items(), "measuring out-of-fold objects")
    comparison = compare_images(rules, [image for image, _ in rows.values()])
    facts = {item.case: item for _, item in rows.values()}
    return InstanceResults(comparison=comparison, objects=tuple(facts[row.case] for row in comparison.cases))


def _measure(rules: InstanceRules, plan: Plan, path: Path, files: CaseFiles) -> tuple[MeasuredImage, CaseObjectFacts]:
    label = read_objects(files, plan.labels)
    ids, classes = read_prediction(path, plan.labels)
    table = label.compare(ids, classes)
    of_objects = None
    if plan.labels.num_classes > 2:
        of_objects = object_classes(label.ids, label.classes, table.label_ids), classes[table.prediction_ids]
    image = MeasuredImage(case=files.id, groups=score_groups(rules, table, of_objects), num_deleted=(0, 0), hint="")
    return image, _facts(files.id, label, ids, table)


def _facts(case: str, label: LabelledObjects, ids: np.ndarray, table: Contingency) -> CaseObjectFacts:
    errors = find_errors(table)
    labelled, predicted = (
        object_diameters(item, label.spacing_mm).astype(float)[wanted - 1].tolist()
        for item, wanted in ((label.numbered, table.label_ids), (ids, table.prediction_ids))
    )
    return CaseObjectFacts(
        case=case,
        label_diameters=tuple(labelled),
        label_iou=tuple(errors.label_iou.tolist()),
        label_errors=tuple(errors.label.tolist()),
        prediction_diameters=tuple(predicted),
        prediction_errors=tuple(errors.prediction.tolist()),
        surplus=int(errors.surplus.sum()),
    )
