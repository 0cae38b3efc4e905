"""What counts of labelled and predicted objects: the ignore label, classes that were not annotated, several classes."""

from pathlib import Path

import numpy as np
import pytest

from autoseg.data.image import Geometry
from autoseg.data.io import write_segmentation
from autoseg.evaluation.labelled_objects import IGNORED, read_objects, read_prediction
from autoseg.inference.instances import SegmentedObjects, write_object_maps
from autoseg.inference.object_measures import measure_predictions
from autoseg.run_folder import CaseFiles
from planners.fingerprint import Channel
from planners.labels import LabelClass, Labels
from planners.plan import MemoryBudget, Plan

GEOMETRY = Geometry(spacing_mm=(4.0, 1.0, 0.5), dimensions=3)
LABELS = Labels(
    classes=tuple(LabelClass(name=name, value=10 * i) for i, name in enumerate(("none", "cell", "drop", "vessel"))),
    instance_classes=("cell", "drop"),
    ignore=99,
)


@pytest.fixture
def plan(make_configuration) -> Plan:
    return Plan(
        dataset="x",
        planner="default",
        budget=MemoryBudget(),
        axis_order=(0, 1, 2),
        channels=(Channel(name="light"),),
        labels=LABELS,
        configurations=(make_configuration((8, 8, 8)),),
    )


@pytest.fixture
def files(tmp_path: Path) -> CaseFiles:
    """Two cells, a drop, a vessel, and slices that are not annotated."""
    ids, classes = np.zeros((2, 6, 20, 20), dtype=np.int32)
    for number, value, rows in ((70, 10, slice(0, 4)), (71, 10, slice(4, 8)), (80, 20, slice(10, 14))):
        ids[:, rows, 2:8], classes[:, rows, 2:8] = number, value
    ids[:, 15:18, 2:8], classes[:, 15:18, 2:8] = 90, 30  # ids of classes without instances count nowhere
    classes[5] = 99
    write_segmentation(tmp_path / "a.nii.gz", ids, GEOMETRY)
    write_segmentation(tmp_path / "classes" / "a.nii.gz", classes, GEOMETRY)
    return CaseFiles(
        id="a", images=("a.nii.gz",), label=str(tmp_path / "a.nii.gz"), classes=str(tmp_path / "classes" / "a.nii.gz")
    )


def predicted(folder: Path) -> tuple[Path, SegmentedObjects]:
    """Right but for a cell called drop; one object lies where nothing is annotated."""
    ids, others = np.zeros((2, 6, 20, 20), dtype=np.int32)
    ids[:, 0:4, 2:8], ids[:, 4:8, 2:8], ids[:, 10:14, 2:8] = 1, 2, 3
    ids[5, 0:3, 12:16] = 4
    others[:, 15:18, 2:8] = 3
    objects = SegmentedObjects(
        ids=ids,
        classes=np.array([0, 1, 2, 2, 1], dtype=np.uint8),
        probabilities=np.zeros(5, dtype=np.float32),
        others=others.astype(np.uint8),
    )
    path = folder / "found" / "a.nii.gz"
    write_object_maps(path, objects, LABELS, GEOMETRY)
    return path, objects


def test_ignored_voxels_belong_to_no_object(plan: Plan, files: CaseFiles, tmp_path: Path) -> None:
    label = read_objects(files, plan.labels)
    assert np.unique(label.ids).tolist() == [0, 1, 2, 3, IGNORED]
    assert label.numbered.max() == 3
    assert label.spacing_mm == (4.0, 1.0, 0.5)
    _, objects = predicted(tmp_path)
    table = label.compare(objects.ids, objects.classes)
    assert table.label_sizes.tolist() == table.prediction_sizes.tolist() == [120, 120, 120]


def test_objects_of_classes_that_were_not_annotated_are_left_out(plan: Plan, files: CaseFiles, tmp_path: Path) -> None:
    annotated = CaseFiles(**{**vars(files), "annotated_classes": (0, 1)})
    _, objects = predicted(tmp_path)
    table = read_objects(annotated, plan.labels).compare(objects.ids, objects.classes)
    assert table.prediction_ids.tolist() == [1], "both drops may be there or not: nobody has looked"


def test_the_ignore_value_is_an_id_as_any_other_in_a_prediction(tmp_path: Path) -> None:
    """One class alone, whose label has its ignore value among the ids: the ninth object found is an object."""
    labels = Labels(classes=LABELS.classes[:2], instance_classes=("cell",), ignore=9)
    ids = np.zeros((1, 8, 40), dtype=np.int32)
    for number in range(1, 13):
        ids[0, 2:6, 3 * number : 3 * number + 2] = number
    write_segmentation(tmp_path / "a.nii.gz", ids, GEOMETRY)
    found, classes = read_prediction(tmp_path / "a.nii.gz", labels)
    np.testing.assert_array_equal(found, ids)
    assert classes.tolist() == [0] + [1] * 12


def test_classes_are_measured_by_themselves_and_sizes_in_millimetres(plan, files, tmp_path: Path) -> None:
    path, objects = predicted(tmp_path)
    ids, classes = read_prediction(path, LABELS)
    np.testing.assert_array_equal(ids, objects.ids)
    np.testing.assert_array_equal(classes, objects.classes)
    results = measure_predictions(plan, {"a": (path, files)})
    comparison = results.comparison
    assert comparison.groups == ("all objects", "cell", "drop")
    f1 = [group.metrics[comparison.metrics.index("f1@0.5")].pooled for group in comparison.totals]
    assert f1 == [1.0, pytest.approx(2 / 3), pytest.approx(2 / 3)]
    (facts,) = results.objects
    assert facts.label_errors == facts.prediction_errors == ("right",) * 3
    ball = np.cbrt(120 * 4.0 * 1.0 * 0.5 * 6 / np.pi)
    np.testing.assert_allclose(facts.label_diameters, ball, rtol=1e-6)
